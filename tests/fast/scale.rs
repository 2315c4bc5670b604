//! As much as one cluster has, translated at once: it converges, a bad one among thousands hurts nobody, and nothing that is written grows
//! towards the 1.5 MB that an API server takes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_api::{Objects, decode};
use isthmus_routing::{GatewayKey, Mesh, TrustDomain};
use isthmus_translate::{CONTROLLER_NAME, Options, Translation, translate};
use k8s_openapi::ByteString;
use serde::Serialize;
use serde_json::{Value, json};

/// Without optimisation, beside other tests: a translation that grows with the square of anything takes minutes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The largest object that an API server takes is 1.5 MB; half of it is somebody else's: spec, annotations, managed fields.
const LARGEST_STATUS: usize = 750_000;

const GROUP: &str = "gateway.networking.k8s.io/v1";

struct World(Objects);

impl World {
    fn new() -> Self {
        let mut world = Self(Objects::default());
        world.apply(json!({
            "apiVersion": GROUP, "kind": "GatewayClass", "metadata": {"name": "isthmus"}, "spec": {"controllerName": CONTROLLER_NAME},
        }));
        world
    }

    fn apply(&mut self, object: Value) {
        self.0.apply(decode(object).expect("the objects decode"));
    }

    fn object(&mut self, kind: &str, name: &str, spec: &Value) {
        self.apply(json!({"apiVersion": GROUP, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}));
    }

    fn service(&mut self, name: &str) {
        self.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": {"ports": [{"port": 80}]},
        }));
    }

    fn translated(&self) -> Translation {
        self.translated_with(Options::default())
    }

    fn translated_with(&self, mut options: Options) -> Translation {
        let edge = GatewayKey { namespace: "shop".to_owned(), name: "edge".to_owned() };
        options.addresses.insert(edge, vec![IpAddr::V4(Ipv4Addr::LOCALHOST).into()]);
        let start = Instant::now();
        let translation = translate(&self.0, &options);
        let took = start.elapsed();
        assert!(took < PATIENCE, "translated in {took:?}");
        translation
    }
}

fn assert_small(statuses: impl IntoIterator<Item = impl Serialize>) {
    let size = |status| serde_json::to_vec(&status).expect("statuses serialise").len();
    let largest = statuses.into_iter().map(size).max().expect("there are some");
    assert!(largest < LARGEST_STATUS, "a status of {largest} bytes");
}

#[test]
fn ten_thousand_routes() {
    const ROUTES: usize = 10_000;
    let mut world = World::new();
    world.object(
        "Gateway",
        "edge",
        &json!({"gatewayClassName": "isthmus", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}),
    );
    world.service("app");
    for at in 0..ROUTES {
        // Every hundredth route is wrong: its expression cannot be compiled.
        let path = match at % 100 {
            0 => json!({"type": "RegularExpression", "value": "/("}),
            _ => json!({"type": "PathPrefix", "value": format!("/{at}")}),
        };
        world.object(
            "HTTPRoute",
            &format!("r{at}"),
            &json!({
                "parentRefs": [{"name": "edge"}], "hostnames": [format!("h{}.example.com", at / 10)],
                "rules": [{"matches": [{"path": path}], "backendRefs": [{"name": "app", "port": 80}]}],
            }),
        );
    }
    let translation = world.translated();
    assert_eq!(translation.snapshot.routes.len(), ROUTES - ROUTES / 100);
    assert_eq!(translation.statuses.http_routes.len(), ROUTES);
    assert_small(translation.statuses.gateways.values());
    assert_small(translation.statuses.http_routes.values());
    assert_eq!(translation.snapshot, world.translated().snapshot, "equal input gives equal output");
}

#[test]
fn ten_thousand_pods_with_sidecars() {
    const PODS: u32 = 10_000;
    const SERVICES: u32 = 1000;
    let mut world = World::new();
    let address = |at: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + at);
    let pod = |at: u32| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("p{at}"), "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"isthmus.dev/injected": "0.1.0", "isthmus.dev/mtls-ports": "9090=strict", "isthmus.dev/exclude-inbound-ports": "22"},
            },
            "spec": {
                "serviceAccountName": format!("a{}", at % SERVICES),
                "initContainers": [
                    {"name": "isthmus-redirect", "args": ["redirect", "--exclude-inbound-ports=22"]},
                    {"name": "isthmus-proxy", "restartPolicy": "Always"},
                ],
            },
            "status": {"phase": "Running", "podIPs": [{"ip": address(at).to_string()}]},
        })
    };
    for at in 0..SERVICES {
        world.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{at}"), "namespace": "shop"},
            "spec": {"clusterIP": Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + at).to_string(), "ports": [{"port": 80}]},
        }));
    }
    (0..PODS).for_each(|at| world.apply(pod(at)));
    let mesh = Mesh { trust_domain: TrustDomain::default(), authorities: "PEM".to_owned() };
    let options = || Options { mesh: true, authority: Some(Arc::new(mesh.clone())), ..Options::default() };
    let before = world.translated_with(options());
    let places: usize = before.snapshot.workloads.values().map(|workloads| workloads.pods.len()).sum();
    assert_eq!((places, before.inbound.len()), (PODS as usize, PODS as usize));
    assert_eq!((before.snapshot.frontends.len(), before.snapshot.services.len()), (SERVICES as usize, SERVICES as usize));
    world.apply(pod(PODS));
    let changes = world.translated_with(options()).snapshot.changes(&before.snapshot);
    let changed: Vec<_> = changes.puts.iter().map(|item| item.key().to_string()).collect();
    assert_eq!((changed, changes.removes), (vec!["ServiceAccount/shop/a0".to_owned()], Vec::new()));
}

#[test]
fn a_route_as_large_as_it_may_be() {
    let mut world = World::new();
    world.object(
        "Gateway",
        "edge",
        &json!({"gatewayClassName": "isthmus", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}),
    );
    world.service("app");
    // 16 rules with 128 matches together and 16 backends each, 16 hostnames, and every backend but one is missing.
    let backends: Vec<_> =
        (0..16).map(|at| json!({"name": if at == 0 { "app".to_owned() } else { "b".repeat(253) }, "port": 80})).collect();
    let matches = |rule: usize| (0..8).map(|at| json!({"path": {"value": format!("/{rule}/{at}")}})).collect::<Vec<_>>();
    let rules: Vec<_> = (0..16).map(|rule| json!({"matches": matches(rule), "backendRefs": backends})).collect();
    let hostnames: Vec<_> = (0..16).map(|at| format!("h{at}.example.com")).collect();
    let parents: Vec<_> = (0..32)
        .map(|at| json!({"name": "edge", "port": 80, "sectionName": if at == 0 { "http".to_owned() } else { format!("s{at}") }}))
        .collect();
    world.object("HTTPRoute", "large", &json!({"parentRefs": parents, "hostnames": hostnames, "rules": rules}));
    let translation = world.translated();
    let route = translation.snapshot.routes.values().next().expect("it is served");
    assert_eq!(route.rules.len(), 16);
    assert_small(translation.statuses.http_routes.values());
}

#[test]
fn a_gateway_with_a_thousand_listener_sets() {
    const OWN: usize = 64;
    const SETS: usize = 1000;
    const SECRETS: usize = 5000;
    let mut world = World::new();
    let pair = rcgen::generate_simple_self_signed(["example.com".to_owned()]).expect("a certificate");
    let (chain, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    for at in 0..SECRETS {
        // Every hundredth certificate is malformed.
        let chain = if at % 100 == 0 { "none" } else { chain.as_str() };
        world.apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("c{at}"), "namespace": "shop"}, "type": "kubernetes.io/tls",
            "data": {"tls.crt": ByteString(chain.as_bytes().to_vec()), "tls.key": ByteString(key.as_bytes().to_vec())},
        }));
    }
    let listener = |at: usize| {
        json!({
            "name": format!("l{at}"), "port": 443, "protocol": "HTTPS", "hostname": format!("h{at}.example.com"),
            "tls": {"certificateRefs": [{"name": format!("c{at}")}]},
        })
    };
    world.object(
        "Gateway",
        "edge",
        &json!({
            "gatewayClassName": "isthmus", "allowedListeners": {"namespaces": {"from": "Same"}},
            "listeners": (0..OWN).map(listener).collect::<Vec<_>>(),
        }),
    );
    // Together they refer to each Secret once; the last one repeats a hostname of the Gateway.
    let each = (SECRETS - OWN) / SETS;
    for set in 0..SETS {
        let first = OWN + set * each;
        let mut listeners: Vec<_> = (first..first + each).map(listener).collect();
        if set == SETS - 1 {
            listeners.push(listener(7));
        }
        let name = format!("set-{set:04}");
        world.object("ListenerSet", &name, &json!({"parentRef": {"name": "edge"}, "listeners": listeners}));
    }
    world.service("app");
    world.object(
        "HTTPRoute",
        "all",
        &json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "app", "port": 80}]}]}),
    );
    let translation = world.translated();
    let gateway = translation.snapshot.gateways.values().next().expect("it is served");
    assert_eq!(gateway.listeners.len(), OWN + SETS * each, "all but the one that came too late");
    let referred = OWN + SETS * each;
    let malformed = (0..referred).filter(|at| at % 100 == 0).count();
    assert_eq!(translation.snapshot.kept.len(), malformed);
    assert_eq!(translation.snapshot.certificates.len(), referred - malformed);
    assert_small(translation.statuses.gateways.values());
    assert_small(translation.statuses.listener_sets.values());
}
