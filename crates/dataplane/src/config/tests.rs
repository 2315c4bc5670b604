use isthmus_routing::filter::Filter;
use isthmus_routing::matching::{HttpMatch, PathMatch};
use isthmus_routing::{
    Attachment, Backend, Endpoint, Listener, Matches, Protocol, Retry, Route, RouteKey, Rule, ServiceParent, Target, Timeouts,
    WeightedBackend,
};

use super::*;
use crate::{AccessLog, Options};

fn telemetry() -> Arc<Telemetry> {
    let options = Options { access_log: AccessLog::Off, otlp: None, ..Options::default() };
    Telemetry::start(&options).expect("nothing to open")
}

fn key<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a key")
}

fn rule(backend: &str) -> Rule {
    Rule {
        name: None,
        matches: Matches::Http(vec![HttpMatch {
            path: PathMatch::Prefix("/".to_owned()),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        }]),
        filters: Vec::<Filter>::new(),
        backends: vec![WeightedBackend { weight: 1, target: Target::Backend(key(backend)), filters: Vec::new() }],
        timeouts: Timeouts::default(),
        retry: None::<Retry>,
        invalid: false,
    }
}

fn listener(name: &str, port: u16, hostname: Option<&str>, routes: &[&str]) -> Listener {
    let attach = |route: &&str| Attachment { route: key(route), hostnames: Vec::new() };
    Listener {
        hostname: hostname.map(key),
        routes: routes.iter().map(attach).collect(),
        ..Listener::new(name.to_owned(), port, Protocol::Http)
    }
}

/// Two listeners, two routes, two backends.
fn snapshot() -> Snapshot {
    let gateway = Gateway {
        addresses: vec![[127, 0, 0, 1].into(), [127, 0, 0, 2].into()],
        listeners: vec![
            listener("one", 80, None, &["HTTPRoute/a/one"]),
            listener("two", 80, Some("two.example"), &["HTTPRoute/a/two"]),
            listener("other", 81, None, &["HTTPRoute/a/two", "HTTPRoute/a/gone"]),
        ],
        ..Gateway::default()
    };
    let route = |backend| Arc::new(Route { created: 0, rules: vec![rule(backend)] });
    let backend = |port| {
        let endpoints =
            vec![Endpoint { address: ([10, 0, 0, 1], port).into() }, Endpoint { address: ([10, 0, 0, 2], port).into() }];
        Arc::new(Backend { endpoints, ..Backend::default() })
    };
    Snapshot {
        gateways: [(key("Gateway/a/edge"), Arc::new(gateway))].into(),
        routes: [(key("HTTPRoute/a/one"), route("Service/a/one:80")), (key("HTTPRoute/a/two"), route("Service/a/two:80"))].into(),
        backends: [(key("Service/a/one:80"), backend(1)), (key("Service/a/two:80"), backend(2))].into(),
        ..Snapshot::default()
    }
}

fn compile(snapshot: Snapshot, previous: Option<&Config>) -> Config {
    Config::compile(&Arc::new(snapshot), &Arc::default(), previous, &telemetry())
}

/// As if a new translation had made every item anew.
fn copied(snapshot: &Snapshot) -> Snapshot {
    let mut copy = snapshot.clone();
    copy.gateways.values_mut().for_each(|item| *item = Arc::new(item.as_ref().clone()));
    copy.routes.values_mut().for_each(|item| *item = Arc::new(item.as_ref().clone()));
    copy.backends.values_mut().for_each(|item| *item = Arc::new(item.as_ref().clone()));
    copy
}

fn port(config: &Config, number: u16) -> &Arc<Port> {
    &config.ports[&Bind::tcp(([127, 0, 0, 1], number).into())]
}

#[test]
fn a_snapshot_becomes_ports_with_listeners_by_host() {
    let config = compile(snapshot(), None);
    let addresses: Vec<_> = config.ports.keys().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.2:80", "127.0.0.2:81"]);
    let listeners = &port(&config, 80).parents;
    for (host, name) in [("two.example", "two"), ("three.example", "one"), ("", "one")] {
        assert_eq!(listeners.get(host).map(|listener| listener.source().name()), Some(name), "{host}");
    }
    assert_eq!(config.version, snapshot().version());
}

#[test]
fn requests_find_their_rule_and_its_backend() {
    let config = compile(snapshot(), None);
    let headers = http::HeaderMap::new();
    let request = isthmus_routing::Request { method: &http::Method::GET, host: "x", path: "/", query: None, headers: &headers };
    let matched = port(&config, 80).all[0].find(&request).expect("a rule");
    let share = matched.rule.share().expect("a backend");
    let backend = config.backend(share.backend.expect("valid")).expect("in the snapshot");
    assert!(!backend.is_empty());
    assert!(config.backend(&key("Service/a/none:80")).is_none());
}

#[test]
fn what_is_equal_is_kept() {
    let first = compile(snapshot(), None);
    let second = compile(copied(&snapshot()), Some(&first));
    for (address, port) in &first.ports {
        assert!(Arc::ptr_eq(port, &second.ports[address]), "{address}");
    }
    let backend: BackendKey = key("Service/a/one:80");
    assert!(Arc::ptr_eq(&first.backends[&backend], &second.backends[&backend]));
}

#[test]
fn an_endpoint_changes_only_its_backend() {
    let first = compile(snapshot(), None);
    let mut edited = copied(&snapshot());
    let (one, two): (BackendKey, BackendKey) = (key("Service/a/one:80"), key("Service/a/two:80"));
    edited.backends.insert(one.clone(), Arc::default());
    let second = compile(edited, Some(&first));
    assert!(second.backends[&one].is_empty());
    assert!(Arc::ptr_eq(&first.backends[&two], &second.backends[&two]));
    assert!(first.ports.iter().all(|(address, port)| Arc::ptr_eq(port, &second.ports[address])));
}

#[test]
fn a_route_changes_only_the_listeners_that_it_is_on() {
    let first = compile(snapshot(), None);
    let mut edited = copied(&snapshot());
    let two: RouteKey = key("HTTPRoute/a/two");
    edited.routes.insert(two, Arc::new(Route { created: 0, rules: vec![rule("Service/a/one:80")] }));
    let second = compile(edited, Some(&first));
    let same = |number, position: usize| Arc::ptr_eq(&port(&first, number).all[position], &port(&second, number).all[position]);
    assert_eq!([same(80, 0), same(80, 1), same(81, 0)], [true, false, false]);
    let changed = port(&second, 80).parents.get("two.example").expect("the listener");
    assert!(Arc::ptr_eq(changed, &port(&second, 80).all[1]));
}

#[test]
fn a_route_that_arrives_later_is_noticed() {
    let first = compile(snapshot(), None);
    let mut edited = copied(&snapshot());
    edited.routes.insert(key("HTTPRoute/a/gone"), Arc::new(Route { created: 0, rules: vec![rule("Service/a/one:80")] }));
    let second = compile(edited, Some(&first));
    assert!(Arc::ptr_eq(port(&first, 80), port(&second, 80)));
    assert!(!Arc::ptr_eq(port(&first, 81), port(&second, 81)));
}

#[test]
fn the_opened_port_may_be_another_than_the_dialled_one() {
    let mut shifted = snapshot();
    for gateway in shifted.gateways.values_mut() {
        for listener in &mut Arc::make_mut(gateway).listeners {
            listener.bind_port = Some(listener.port + 8000);
        }
    }
    let config = compile(shifted, None);
    let ports: Vec<_> = config.ports.values().map(|port| (port.bind.address.port(), port.dialled(), port.all.len())).collect();
    assert_eq!(ports, [(8080, 80, 2), (8081, 81, 1), (8080, 80, 2), (8081, 81, 1)]);
}

#[test]
fn an_address_has_one_owner() {
    let mut both = snapshot();
    let gateway = Gateway {
        addresses: vec![[127, 0, 0, 1].into()],
        listeners: vec![listener("late", 80, None, &[])],
        ..Gateway::default()
    };
    both.gateways.insert(key("Gateway/b/late"), Arc::new(gateway));
    let config = compile(both, None);
    assert_eq!(port(&config, 80).owner, Owner::Gateway(key("Gateway/a/edge")));
}

#[test]
fn a_gateway_without_an_address_listens_where_it_is_told_to() {
    let mut nowhere = snapshot();
    nowhere.gateways.values_mut().for_each(|gateway| Arc::make_mut(gateway).addresses.clear());
    assert!(compile(nowhere.clone(), None).ports.is_empty());
    let addresses = vec![IpAddr::from([0, 0, 0, 0]), IpAddr::from([0_u16; 8])];
    let everywhere = Arc::new(Site { addresses, ..Site::default() });
    let config = Config::compile(&Arc::new(nowhere), &everywhere, None, &telemetry());
    let addresses: Vec<_> = config.ports.keys().map(ToString::to_string).collect();
    assert_eq!(addresses, ["0.0.0.0:80", "0.0.0.0:81", "[::]:80", "[::]:81"]);
    let named = Config::compile(&Arc::new(snapshot()), &everywhere, None, &telemetry());
    assert!(named.ports.keys().all(|address| address.address.ip().is_loopback()), "its own addresses come first");
}

/// A snapshot with a Service that has a producer route, a consumer route and two addresses.
fn with_a_service() -> Snapshot {
    let mut snapshot = snapshot();
    let attach = |route: &str| vec![Attachment { route: key(route), hostnames: Vec::new() }];
    let service = ServiceParent {
        spoken: isthmus_routing::Spoken::Unknown,
        addresses: vec![[127, 1, 0, 1].into(), [127, 1, 0, 2].into()],
        routes: attach("HTTPRoute/a/one"),
        consumers: [("b".to_owned(), attach("HTTPRoute/b/mine"))].into(),
    };
    snapshot.services.insert(key("Service/a/one:80"), Arc::new(service));
    for name in ["HTTPRoute/a/one", "HTTPRoute/b/mine"] {
        let route = Route { created: 0, rules: vec![rule("Service/a/one:80")] };
        snapshot.service_routes.insert(key(name), Arc::new(route));
    }
    snapshot
}

fn site(namespace: &str, port_offset: u16) -> Arc<Site> {
    Arc::new(Site {
        addresses: Vec::new(),
        outbound: Some(Outbound { namespace: namespace.to_owned(), port_offset }),
        ..Site::default()
    })
}

#[test]
fn a_service_is_listened_on_only_for_clients() {
    assert!(compile(with_a_service(), None).ports.values().all(|port| matches!(port.owner, Owner::Gateway(_))));
    for (offset, number) in [(0, 80), (8000, 8080)] {
        let config = Config::compile(&Arc::new(with_a_service()), &site("a", offset), None, &telemetry());
        let owned = config.ports.values().filter(|port| matches!(port.owner, Owner::Service(_)));
        let ports: Vec<_> = owned.map(|port| (port.bind.address, port.dialled(), port.all.len())).collect();
        let [one, two] = [[127, 1, 0, 1], [127, 1, 0, 2]].map(|ip| (ip, number).into());
        assert_eq!(ports, [(one, 80, 1), (two, 80, 1)]);
    }
    let config = Config::compile(&Arc::new(with_a_service()), &site("a", u16::MAX), None, &telemetry());
    assert_eq!(config.ports.len(), 4, "there is no such port");
}

#[test]
fn a_service_is_kept_unless_what_its_clients_get_changes() {
    let first = Config::compile(&Arc::new(with_a_service()), &site("a", 0), None, &telemetry());
    let at = Bind::tcp(([127, 1, 0, 2], 80).into());
    let is_kept = |edit: &dyn Fn(&mut Snapshot)| {
        let mut edited = copied(&with_a_service());
        edit(&mut edited);
        let second = Config::compile(&Arc::new(edited), &site("a", 0), Some(&first), &telemetry());
        Arc::ptr_eq(&first.ports[&at], &second.ports[&at])
    };
    let cart = || key::<BackendKey>("Service/a/one:80");
    let with_service = |edit: fn(&mut ServiceParent)| {
        move |snapshot: &mut Snapshot| edit(Arc::make_mut(snapshot.services.get_mut(&cart()).expect("it is there")))
    };
    let with_route = |name: &'static str| {
        move |snapshot: &mut Snapshot| {
            snapshot.service_routes.remove(&key(name));
        }
    };
    assert!(is_kept(&|_| {}));
    assert!(is_kept(&|snapshot| snapshot.routes.clear()), "listeners' routes are none of its own");
    assert!(is_kept(&with_route("HTTPRoute/b/mine")), "neither are other clients'");
    assert!(is_kept(&with_service(|service| service.consumers.clear())));
    assert!(!is_kept(&with_route("HTTPRoute/a/one")));
    assert!(!is_kept(&with_service(|service| service.routes.clear())));
}
