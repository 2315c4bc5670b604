use isthmus_api::decode;
use isthmus_routing::Transport;
use isthmus_translate::RequestedAddress;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod followed;

/// A cluster with Gateways, each with its Service.
#[derive(Debug, Clone, Default)]
struct World {
    infrastructure: BTreeMap<GatewayKey, Infrastructure>,
    objects: Objects,
    nodes: Nodes,
    before: Assignment,
}

fn key(name: &str) -> GatewayKey {
    GatewayKey { namespace: "shop".into(), name: name.into() }
}

fn requested(values: &[&str]) -> Vec<RequestedAddress> {
    let value = |value: &&str| Some((*value).to_owned()).filter(|value| !value.is_empty());
    values.iter().map(|text| RequestedAddress { kind: "IPAddress".into(), value: value(text) }).collect()
}

impl World {
    fn gateway(&mut self, name: &str, created: i64, parameters: Value, asks: &[&str]) -> &mut Self {
        let given = Infrastructure {
            uid: format!("uid-{name}"),
            created,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            ports: [80, 443].map(|port| (port, Transport::Tcp)).into(),
            parameters: serde_json::from_value(parameters).unwrap(),
            requested: requested(asks),
        };
        self.infrastructure.insert(key(name), given);
        self
    }

    /// The Gateway's Service as the provisioner makes it, with this on top.
    fn service(&mut self, name: &str, spec: &Value, ingress: &Value) -> &mut Self {
        let class = provision::is_pooled(&self.infrastructure[&key(name)]).then_some(provision::POOL_CLASS);
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": provision::location(&key(name)).name, "namespace": "shop", "uid": format!("s-{name}"), "resourceVersion": "5",
                "ownerReferences": [{"apiVersion": "g/v1", "kind": "Gateway", "name": name, "uid": format!("uid-{name}"), "controller": true}]},
            "spec": {"loadBalancerClass": class},
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.object(service)
    }

    fn object(&mut self, object: Value) -> &mut Self {
        self.objects.apply(decode(object).unwrap());
        self
    }

    fn node(&mut self, name: &str, addresses: &Value, ready: &str) -> &mut Self {
        let node = json!({"metadata": {"name": name}, "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]}});
        self.nodes.insert(&serde_json::from_value(node).unwrap());
        self
    }

    fn assign(&mut self) -> Assignment {
        let assignment = assign(&self.infrastructure, &self.objects, Some(&self.nodes), &self.before);
        self.before = assignment.clone();
        assignment
    }

    /// As the recorder does, and as the watch then shows.
    fn record(&mut self, assignment: &Assignment) {
        for record in &assignment.records {
            let service = self.objects.services.get_mut(&record.service).unwrap();
            let mut value = serde_json::to_value(&**service).unwrap();
            let ingress: Vec<_> = record.addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
            value["status"]["loadBalancer"] = json!({"ingress": ingress});
            *service = Arc::new(serde_json::from_value(value).unwrap());
        }
    }
}

/// `addresses; faults` of a Gateway, `-` for none yet.
fn told(assignment: &Assignment, name: &str) -> String {
    let assigned = &assignment.gateways[&key(name)];
    let addresses = assigned
        .addresses
        .as_ref()
        .map_or("-".to_owned(), |addresses| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    [&[addresses][..], &assigned.faults, &assigned.notes].concat().join("; ")
}

fn pool() -> Value {
    json!({"addressPools": ["192.0.2.0/29"]})
}

fn dual() -> Value {
    json!({"addressPools": ["192.0.2.0/29", "2001:db8::/64"]})
}

fn ips(texts: &[&str]) -> Value {
    texts.iter().map(|ip| json!({"ip": ip})).collect()
}

#[test]
fn pool_addresses() {
    let both = json!({"ipFamilies": ["IPv4", "IPv6"]});
    let v4 = json!({"ipFamilies": ["IPv4"]});
    for (what, parameters, asks, spec, recorded, expected) in [
        ("the lowest", pool(), &[][..], &v4, &[][..], "192.0.2.1"),
        ("one of each family", dual(), &[], &both, &[], "192.0.2.1 2001:db8::1"),
        ("only families of the Service", dual(), &[], &v4, &[], "192.0.2.1"),
        ("any", pool(), &[""], &v4, &[], "192.0.2.1"),
        ("asked for", pool(), &["192.0.2.5"], &v4, &[], "192.0.2.5"),
        ("asked for and any", pool(), &["192.0.2.5", ""], &v4, &[], "192.0.2.5 192.0.2.1"),
        ("recorded", pool(), &[], &v4, &["192.0.2.4"], "192.0.2.4"),
        ("recorded, another asked for", pool(), &["192.0.2.5"], &v4, &["192.0.2.4"], "192.0.2.5"),
        ("recorded, outside", pool(), &[], &v4, &["192.0.2.99"], "192.0.2.1"),
        (
            "outside",
            pool(),
            &["198.51.100.1"],
            &v4,
            &[],
            "; 198.51.100.1 is not in an address pool of the GatewayClass; ask for one that is",
        ),
        (
            "outside and inside",
            pool(),
            &["198.51.100.1", "192.0.2.3"],
            &v4,
            &[],
            "192.0.2.3; 198.51.100.1 is not in an address pool of the GatewayClass; ask for one that is",
        ),
        ("no address", pool(), &["fake"], &v4, &[], "; `fake` is no IP address"),
        ("another family", dual(), &["2001:db8::7"], &v4, &[], "; 2001:db8::7 is of an IP family that the Service does not have"),
        (
            "no pool",
            json!({"addressPools": ["192.0.2.0/99", "192.0.2.1"]}),
            &[],
            &v4,
            &[],
            "192.0.2.1; addressPools: `192.0.2.0/99` is no prefix like `192.0.2.0/28` and no range like `192.0.2.10-192.0.2.20`; correct \
             the GatewayParameters",
        ),
    ] {
        let mut world = World::default();
        world.gateway("edge", 1, parameters, asks).service("edge", spec, &ips(recorded));
        let assignment = world.assign();
        assert_eq!(told(&assignment, "edge"), expected, "{what}");
        let given: Vec<_> = expected.split(';').next().unwrap().split_whitespace().collect();
        assert_eq!(assignment.records.is_empty(), given == recorded, "{what}");
    }
}

#[test]
fn an_address_is_known_once_the_service_is_there_with_the_right_class() {
    let mut world = World::default();
    world.gateway("edge", 1, pool(), &[]);
    assert_eq!(told(&world.assign(), "edge"), "-; its Service is not there yet");
    world.service("edge", &json!({"loadBalancerClass": "a.b/c"}), &json!([]));
    assert_eq!(told(&world.assign(), "edge"), "-; its Service is not there yet");
    world.service("edge", &json!({}), &json!([]));
    assert_eq!(told(&world.assign(), "edge"), "192.0.2.1");
}

#[test]
fn who_gets_what_several_want() {
    let mut world = World::default();
    world.gateway("young", 2, pool(), &["192.0.2.3"]).service("young", &json!({}), &json!([]));
    world.gateway("old", 1, pool(), &["192.0.2.3"]).service("old", &json!({}), &json!([]));
    world.gateway("any", 0, pool(), &[]).service("any", &json!({}), &json!([]));
    let first = world.assign();
    assert_eq!(told(&first, "old"), "192.0.2.3");
    assert_eq!(told(&first, "young"), "; 192.0.2.3 is in use by Gateway shop/old; ask for another");
    assert_eq!(told(&first, "any"), "192.0.2.1");

    // An older one that comes later takes nothing away.
    world.record(&first);
    world.gateway("oldest", -1, pool(), &["192.0.2.1"]).service("oldest", &json!({}), &json!([]));
    let later = world.assign();
    assert_eq!(told(&later, "oldest"), "; 192.0.2.1 is in use by Gateway shop/any; ask for another");
    assert_eq!(told(&later, "any"), "192.0.2.1");

    // Two leaders for a moment have recorded one address twice: the older keeps it.
    world.service("any", &json!({}), &ips(&["192.0.2.3"]));
    let mended = world.assign();
    assert_eq!(told(&mended, "any"), "192.0.2.3");
    assert_eq!(told(&mended, "old"), "; 192.0.2.3 is in use by Gateway shop/any; ask for another");
}

#[test]
fn an_address_is_free_again_when_no_service_says_it_any_more() {
    let mut world = World::default();
    world.gateway("one", 1, pool(), &[]).service("one", &json!({}), &ips(&["192.0.2.1"]));
    world.gateway("two", 2, pool(), &["192.0.2.1"]).service("two", &json!({}), &json!([]));
    world.assign();
    world.gateway("one", 1, pool(), &["192.0.2.2"]);
    let leaving = world.assign();
    assert_eq!(told(&leaving, "one"), "192.0.2.2");
    assert_eq!(told(&leaving, "two"), "; 192.0.2.1 is in use by Gateway shop/one, which gives it back; ask for another");
    world.record(&leaving);
    assert_eq!(told(&world.assign(), "two"), "192.0.2.1");
}

/// Connections of the clients of a Gateway that has gone may not meet the next one.
#[test]
fn an_address_that_was_given_back_is_given_last() {
    let mut world = World::default();
    let given = |world: &mut World, name: &str| {
        world.gateway(name, 1, pool(), &[]).service(name, &json!({}), &json!([]));
        let address = told(&world.assign(), name);
        world.infrastructure.remove(&key(name));
        world.objects.services.clear();
        world.assign();
        address
    };
    let addresses: Vec<String> = (0..8).map(|turn| given(&mut world, &format!("g{turn}"))).collect();
    let expected = [1, 2, 3, 4, 5, 6, 1, 2].map(|last| format!("192.0.2.{last}"));
    assert_eq!(addresses, expected);
    world.gateway("asks", 1, pool(), &["192.0.2.2"]).service("asks", &json!({}), &json!([]));
    assert_eq!(told(&world.assign(), "asks"), "192.0.2.2", "who asks for one has it at once");
    assert_eq!(given(&mut world, "next"), "192.0.2.3");
}

#[test]
fn other_services_addresses_are_not_given() {
    let other = |name: &str, spec: Value, status: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec, "status": status});
    let mut world = World::default();
    world.object(other("a", json!({"externalIPs": ["192.0.2.1"]}), json!({})));
    world.object(other("b", json!({}), json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}})));
    world.gateway("edge", 1, pool(), &[]).service("edge", &json!({}), &json!([]));
    world.gateway("asks", 1, pool(), &["192.0.2.2"]).service("asks", &json!({}), &json!([]));
    // The Service of a Gateway that is not accepted at the moment keeps its address.
    world.gateway("invalid", 1, pool(), &[]).service("invalid", &json!({}), &ips(&["192.0.2.3"]));
    world.infrastructure.remove(&key("invalid"));
    let assignment = world.assign();
    assert_eq!(told(&assignment, "edge"), "192.0.2.4");
    assert_eq!(told(&assignment, "asks"), "; 192.0.2.2 is in use by Service shop/b; ask for another");
}

/// Whoever may make a Service in any namespace can write `externalIPs` there.
#[test]
fn an_address_that_is_in_use_cannot_be_taken_by_a_service() {
    let mut world = World::default();
    world.gateway("edge", 1, pool(), &[]).service("edge", &json!({}), &ips(&["192.0.2.1"]));
    let thief = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "thief", "namespace": "other"},
        "spec": {"externalIPs": ["192.0.2.1", "192.0.2.2"]}});
    world.object(thief);
    world.gateway("new", 2, pool(), &[]).service("new", &json!({}), &json!([]));
    let assignment = world.assign();
    assert_eq!(told(&assignment, "edge"), "192.0.2.1");
    assert_eq!(told(&assignment, "new"), "192.0.2.3", "what it says is given to nobody else");
}

#[test]
fn a_service_that_is_made_anew_gets_the_same_address() {
    let mut world = World::default();
    world.gateway("edge", 2, pool(), &[]).service("edge", &json!({}), &ips(&["192.0.2.1"]));
    world.assign();
    world.objects.services.clear();
    world.gateway("other", 1, pool(), &[]).service("other", &json!({}), &json!([]));
    for _ in 0..3 {
        let assignment = world.assign();
        assert_eq!(
            (told(&assignment, "edge").as_str(), told(&assignment, "other").as_str()),
            ("-; its Service is not there yet", "192.0.2.2")
        );
    }
    world.service("edge", &json!({}), &json!([]));
    assert_eq!(told(&world.assign(), "edge"), "192.0.2.1");
}

/// A replica that follows may remember something else than what the leader has written.
#[test]
fn what_is_written_counts_more_than_what_is_remembered() {
    let mut world = World::default();
    world.gateway("old", 1, pool(), &[]).service("old", &json!({}), &json!([]));
    assert_eq!(told(&world.assign(), "old"), "192.0.2.1");
    world.gateway("new", 2, pool(), &[]).service("new", &json!({}), &ips(&["192.0.2.1"]));
    let assignment = world.assign();
    assert_eq!((told(&assignment, "old").as_str(), told(&assignment, "new").as_str()), ("192.0.2.2", "192.0.2.1"));
}

#[test]
fn an_empty_pool_is_told() {
    let mut world = World::default();
    let one = json!({"addressPools": ["192.0.2.1"]});
    world.gateway("a", 1, one.clone(), &[]).service("a", &json!({}), &json!([]));
    world.gateway("b", 2, one, &[]).service("b", &json!({}), &json!([]));
    let assignment = world.assign();
    assert_eq!(told(&assignment, "a"), "192.0.2.1");
    assert_eq!(told(&assignment, "b"), "-; no IPv4 address is free in the address pools; enlarge them");
    assert_eq!(assignment.addresses().len(), 1);
}

#[test]
fn addresses_that_others_give() {
    let inside = |ip: &str| json!([{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": "x"}]);
    let node_ports = json!({"ports": [{"port": 80, "nodePort": 30080}, {"port": 443, "nodePort": 30443}]});
    let waits = "-; no load balancer controller has given its Service an address yet; where there is none, set addressPools or another \
                 service.type in GatewayParameters";
    for (what, parameters, asks, spec, ingress, expected) in [
        ("load balancer, none yet", json!({}), &[][..], json!({}), json!([]), waits),
        ("load balancer, ip", json!({}), &[], json!({}), ips(&["203.0.113.1"]), "203.0.113.1"),
        ("load balancer, name", json!({}), &[], json!({}), json!([{"hostname": "lb.example.com"}]), "lb.example.com"),
        ("load balancer, asked for", json!({}), &["203.0.113.2"], json!({}), ips(&["203.0.113.1", "203.0.113.2"]), "203.0.113.2"),
        (
            "load balancer, another asked for",
            json!({}),
            &["203.0.113.9"],
            json!({}),
            ips(&["203.0.113.1"]),
            "; 203.0.113.9 is not among its addresses (LoadBalancer: 203.0.113.1); ask for one that is",
        ),
        ("load balancer, none yet for what is asked for", json!({}), &["203.0.113.9"], json!({}), json!([]), waits),
        (
            "cluster",
            json!({"service": {"type": "ClusterIP"}}),
            &[],
            json!({"clusterIPs": ["10.96.0.9", "fd00::9"]}),
            json!([]),
            "10.96.0.9 fd00::9",
        ),
        (
            "node ports",
            json!({"service": {"type": "NodePort"}}),
            &[],
            node_ports.clone(),
            json!([]),
            "10.0.0.1 198.51.100.2; ports on nodes: 80 is 30080, 443 is 30443",
        ),
        (
            "node ports, only nodes with pods",
            json!({"service": {"type": "NodePort", "externalTrafficPolicy": "Local"}}),
            &[],
            node_ports,
            json!([]),
            "198.51.100.2; ports on nodes: 80 is 30080, 443 is 30443",
        ),
        ("host ports", json!({"hostPort": true}), &[], json!({}), json!([]), "198.51.100.2"),
    ] {
        let mut world = World::default();
        world.node("n1", &inside("10.0.0.1"), "True").node("n3", &inside("10.0.0.3"), "False");
        world.node(
            "n2",
            &json!([{"type": "InternalIP", "address": "10.0.0.2"}, {"type": "ExternalIP", "address": "198.51.100.2"}]),
            "True",
        );
        world.object(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "e", "namespace": "shop", "labels": {"kubernetes.io/service-name": "isthmus-edge"}},
            "endpoints": [
                {"addresses": ["10.1.0.1"], "nodeName": "n2", "conditions": {"ready": true}},
                {"addresses": ["10.1.0.2"], "nodeName": "n1", "conditions": {"ready": false}},
            ],
        }));
        world.gateway("edge", 1, parameters, asks).service("edge", &spec, &ingress);
        let assignment = world.assign();
        assert_eq!(told(&assignment, "edge"), expected, "{what}");
        assert_eq!(assignment.needs_nodes, what.contains("node") || what.contains("host"), "{what}");
        assert_eq!(assignment.records, [], "{what}: it is not ours to write");
    }
    let mut world = World::default();
    world.gateway("edge", 1, json!({"hostPort": true}), &[]).service("edge", &json!({}), &json!([]));
    let unknown = assign(&world.infrastructure, &world.objects, None, &Assignment::default());
    assert!(told(&unknown, "edge").contains("the right to list and watch nodes"));
}

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Change {
    Create {
        name: u8,
        created: i64,
        asks: Vec<u8>,
    },
    Ask {
        name: u8,
        asks: Vec<u8>,
    },
    Delete {
        name: u8,
    },
    /// The Service is seen only now.
    Service {
        name: u8,
        recorded: Vec<u8>,
    },
    Record,
    Restart,
}

fn changes() -> impl Strategy<Value = Change> {
    let name = || 0_u8..5;
    let some = || vec(0_u8..9, 0..3);
    prop_oneof![
        (name(), 0_i64..3, some()).prop_map(|(name, created, asks)| Change::Create { name, created, asks }),
        (name(), some()).prop_map(|(name, asks)| Change::Ask { name, asks }),
        name().prop_map(|name| Change::Delete { name }),
        (name(), some()).prop_map(|(name, recorded)| Change::Service { name, recorded }),
        Just(Change::Record),
        Just(Change::Restart),
    ]
}

impl World {
    fn change(&mut self, change: &Change) {
        let texts = |numbers: &[u8]| -> Vec<String> {
            numbers.iter().map(|n| if *n == 0 { String::new() } else { format!("192.0.2.{n}") }).collect()
        };
        match change {
            Change::Create { name, created, asks } => {
                let asks = texts(asks);
                self.gateway(&format!("g{name}"), *created, pool(), &asks.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Change::Ask { name, asks } => {
                if let Some(given) = self.infrastructure.get_mut(&key(&format!("g{name}"))) {
                    let asks = texts(asks);
                    given.requested = requested(&asks.iter().map(String::as_str).collect::<Vec<_>>());
                }
            }
            Change::Delete { name } => {
                self.infrastructure.remove(&key(&format!("g{name}")));
                self.objects.services.remove(&provision::location(&key(&format!("g{name}"))));
            }
            Change::Service { name, recorded } => {
                if self.infrastructure.contains_key(&key(&format!("g{name}"))) {
                    let recorded = texts(recorded);
                    let recorded: Vec<_> = recorded.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
                    self.service(&format!("g{name}"), &json!({"ipFamilies": ["IPv4"]}), &ips(&recorded));
                }
            }
            Change::Record => {
                let assignment = self.assign();
                self.record(&assignment);
            }
            Change::Restart => self.before = Assignment::default(),
        }
    }

    /// Every Gateway has its Service, as it soon has: what it was given is known to nobody else before.
    fn provide_services(&mut self) {
        let lacks = |key: &&GatewayKey| !self.objects.services.contains_key(&provision::location(key));
        let lacking: Vec<_> = self.infrastructure.keys().filter(lacks).map(|key| key.name.clone()).collect();
        for name in lacking {
            self.service(&name, &json!({"ipFamilies": ["IPv4"]}), &json!([]));
        }
    }

    /// Writes and reads until nothing changes any more.
    fn settle(&mut self) -> Assignment {
        for _ in 0..20 {
            let assignment = self.assign();
            if assignment.records.is_empty() {
                return assignment;
            }
            self.record(&assignment);
        }
        panic!("it does not settle: {self:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_gateways_ever_have_one_address(changes in vec(changes(), 1..24)) {
        let mut world = World::default();
        for change in &changes {
            world.change(change);
            let assignment = world.assign();
            let mut seen = BTreeSet::new();
            for address in assignment.addresses().values().flatten() {
                prop_assert!(seen.insert(address.clone()), "{address} twice after {change:?}: {assignment:#?}");
            }
            let again = assign(&world.infrastructure, &world.objects, Some(&world.nodes), &world.before);
            prop_assert_eq!(&again, &assignment, "the same input gives the same result");
        }
    }

    #[test]
    fn what_is_settled_stays_whatever_others_do(changes in vec(changes(), 1..16), others in vec(changes(), 1..8)) {
        let mut world = World::default();
        changes.iter().for_each(|change| world.change(change));
        world.provide_services();
        let settled = world.settle();
        // A new leader knows no more than what the Services say.
        world.before = Assignment::default();
        prop_assert_eq!(world.assign().addresses(), settled.addresses());
        let touched = |change: &Change| match change {
            Change::Create { name, .. } | Change::Ask { name, .. } | Change::Delete { name } | Change::Service { name, .. } => Some(*name),
            Change::Record | Change::Restart => None,
        };
        // Nobody writes into the Services but us from here on.
        let others: Vec<_> = others.into_iter().map(|change| match change {
            Change::Service { name, .. } => Change::Service { name, recorded: Vec::new() },
            other => other,
        }).collect();
        let names: BTreeSet<_> = others.iter().filter_map(touched).map(|name| key(&format!("g{name}"))).collect();
        for change in &others {
            world.change(change);
            world.settle();
        }
        let later = world.settle().addresses();
        for (gateway, addresses) in settled.addresses().into_iter().filter(|(gateway, _)| !names.contains(gateway)) {
            for address in addresses {
                prop_assert!(later[&gateway].contains(&address), "{gateway:?} lost {address} through {others:?}");
            }
        }
    }
}
