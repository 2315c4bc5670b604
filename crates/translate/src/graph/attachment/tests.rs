//! What attaches where, in tables: parents, namespaces, kinds and hostnames, and who wins.

use isthmus_api::NamespacedName;
use serde_json::{Value, json};

use crate::testing::{edge, gateway, object, route, shown, translated};

/// The `Accepted` condition of the only parent, and who is attached where with which hostnames.
fn attached(listeners: &Value, kind: &str, namespace: &str, spec: Value) -> (String, Vec<String>) {
    let route = object("gateway.networking.k8s.io/v1", kind, namespace, "r", json!({"generation": 7}), spec);
    let translation = translated([gateway(listeners), route]);
    let name = NamespacedName::new(namespace, "r");
    let statuses = &translation.statuses;
    let routes = match kind {
        "HTTPRoute" => &statuses.http_routes,
        "GRPCRoute" => &statuses.grpc_routes,
        "TLSRoute" => &statuses.tls_routes,
        "TCPRoute" => &statuses.tcp_routes,
        _ => &statuses.udp_routes,
    };
    let accepted =
        routes.get(&name).map_or_else(|| "no status".to_owned(), |status| shown(&status.parents[0].conditions, 7)[0].clone());
    let listeners = translation.snapshot.gateways.get(&edge()).map(|gateway| gateway.listeners.clone()).unwrap_or_default();
    let counts = &translation.statuses.gateways[&NamespacedName::new("shop", "edge")].listeners;
    let total: i32 = counts.iter().map(|listener| listener.attached_routes).sum();
    let shown: Vec<_> = listeners
        .iter()
        .flat_map(|listener| listener.routes.iter().map(move |attachment| (listener, attachment)))
        .map(|(listener, attachment)| {
            attachment.hostnames.iter().fold(listener.name.clone(), |text, hostname| format!("{text} {hostname}"))
        })
        .collect();
    assert_eq!(usize::try_from(total), Ok(shown.len()), "attachedRoutes is what is attached");
    (accepted, shown)
}

/// Listeners; the route's kind, namespace and spec; the condition; where it is attached.
type Case = (Value, &'static str, &'static str, Value, &'static str, &'static [&'static str]);

#[test]
fn parents_namespaces_kinds_and_hostnames() {
    let listener = |name: &str, port: u16, hostname: Option<&str>, allowed: Value| json!({"name": name, "port": port, "protocol": "HTTP", "hostname": hostname, "allowedRoutes": allowed});
    let same = json!({"namespaces": {"from": "Same"}});
    let from = |from: Value| json!({"namespaces": from});
    let selector = |selector: Value| from(json!({"from": "Selector", "selector": selector}));
    let two = json!([listener("a", 80, None, same.clone()), listener("b", 81, None, same.clone())]);
    let hosts =
        json!([listener("a", 80, Some("a.example.com"), same.clone()), listener("w", 80, Some("*.example.com"), same.clone())]);
    let parent = |more: Value| {
        let mut parent = json!({"name": "edge"});
        parent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"parentRefs": [parent], "rules": [{}]})
    };
    let named = |hostnames: Value| json!({"parentRefs": [{"name": "edge"}], "hostnames": hostnames, "rules": [{}]});
    let foreign = json!({"parentRefs": [{"name": "edge", "namespace": "shop"}], "rules": [{}]});
    let one = |allowed: Value| json!([listener("a", 80, None, allowed)]);
    let accepted = "Accepted=True/Accepted";
    let not_allowed = "Accepted=False/NotAllowedByListeners";
    let no_parent = "Accepted=False/NoMatchingParent";
    let no_hostname = "Accepted=False/NoMatchingListenerHostname";
    let table: Vec<Case> = vec![
        (two.clone(), "HTTPRoute", "shop", parent(json!({})), accepted, &["a", "b"]),
        (two.clone(), "HTTPRoute", "shop", parent(json!({"sectionName": "b"})), accepted, &["b"]),
        (two.clone(), "HTTPRoute", "shop", parent(json!({"port": 80})), accepted, &["a"]),
        (two.clone(), "HTTPRoute", "shop", parent(json!({"port": 80, "sectionName": "b"})), no_parent, &[]),
        (two.clone(), "HTTPRoute", "shop", parent(json!({"sectionName": "c"})), no_parent, &[]),
        (two.clone(), "HTTPRoute", "shop", parent(json!({"port": 8080})), no_parent, &[]),
        (two.clone(), "HTTPRoute", "shop", parent(json!({"name": "absent"})), "no status", &[]),
        (two.clone(), "HTTPRoute", "shop", parent(json!({"kind": "Service", "group": ""})), "no status", &[]),
        (two.clone(), "HTTPRoute", "other", foreign.clone(), not_allowed, &[]),
        (one(from(json!({"from": "All"}))), "HTTPRoute", "other", foreign.clone(), accepted, &["a"]),
        (one(selector(json!({"matchLabels": {"team": "b"}}))), "HTTPRoute", "other", foreign.clone(), accepted, &["a"]),
        (one(selector(json!({"matchLabels": {"team": "a"}}))), "HTTPRoute", "other", foreign.clone(), not_allowed, &[]),
        (
            one(selector(json!({"matchLabels": {"kubernetes.io/metadata.name": "other"}}))),
            "HTTPRoute",
            "other",
            foreign.clone(),
            accepted,
            &["a"],
        ),
        (
            one(selector(json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}}))),
            "HTTPRoute",
            "shop",
            parent(json!({})),
            accepted,
            &["a"],
        ),
        (
            one(selector(json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["b"]}]}))),
            "HTTPRoute",
            "other",
            foreign,
            not_allowed,
            &[],
        ),
        (one(json!({"kinds": [{"kind": "HTTPRoute"}]})), "GRPCRoute", "shop", parent(json!({})), not_allowed, &[]),
        (one(json!({"kinds": [{"kind": "GRPCRoute"}]})), "GRPCRoute", "shop", parent(json!({})), accepted, &["a"]),
        (hosts.clone(), "HTTPRoute", "shop", parent(json!({})), accepted, &["a", "w"]),
        (
            hosts.clone(),
            "HTTPRoute",
            "shop",
            named(json!(["a.example.com", "b.example.com", "a.example.org"])),
            accepted,
            &["a a.example.com", "w a.example.com b.example.com"],
        ),
        (hosts.clone(), "HTTPRoute", "shop", named(json!(["*.com"])), accepted, &["a *.com", "w *.com"]),
        (hosts.clone(), "HTTPRoute", "shop", named(json!(["*.b.example.com"])), accepted, &["w *.b.example.com"]),
        (hosts.clone(), "HTTPRoute", "shop", named(json!(["example.com", "example.org"])), no_hostname, &[]),
        (hosts.clone(), "HTTPRoute", "shop", named(json!(["10.0.0.1", "b.example.com"])), accepted, &["w b.example.com"]),
        (hosts.clone(), "HTTPRoute", "shop", named(json!(["10.0.0.1"])), "Accepted=False/UnsupportedValue", &[]),
    ];
    for (listeners, kind, namespace, spec, accepted, expected) in table {
        let expected = expected.iter().map(|text| (*text).to_owned()).collect();
        let told = format!("{kind} of {namespace} {spec}");
        assert_eq!(attached(&listeners, kind, namespace, spec), (accepted.to_owned(), expected), "{told}");
    }
}

#[test]
fn routes_of_connections_and_datagrams() {
    let tls = |name: &str, hostname: &str, mode: &str| {
        let mut listener = json!({"name": name, "port": 443, "protocol": "TLS", "tls": {"mode": mode}});
        listener["hostname"] = hostname.into();
        listener
    };
    let of = |name: &str, port: u16, protocol: &str| json!({"name": name, "port": port, "protocol": protocol, "hostname": "ignored.example"});
    let listeners = json!([
        of("http", 80, "HTTP"),
        tls("exact", "a.example.com", "Passthrough"),
        tls("wide", "*.example.com", "Passthrough"),
        of("tcp", 5432, "TCP"),
        of("more", 5433, "TCP"),
        of("udp", 5432, "UDP"),
    ]);
    let to = |parent: Value, hostnames: Value| {
        let mut parent = parent;
        parent["name"] = "edge".into();
        let mut spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "db", "port": 5432}]}]});
        if !hostnames.is_null() {
            spec["hostnames"] = hostnames;
        }
        spec
    };
    let any = || json!({});
    let accepted = "Accepted=True/Accepted";
    let not_allowed = "Accepted=False/NotAllowedByListeners";
    let no_parent = "Accepted=False/NoMatchingParent";
    let no_hostname = "Accepted=False/NoMatchingListenerHostname";
    let table: Vec<Case> = vec![
        (listeners.clone(), "TCPRoute", "shop", to(any(), json!(null)), accepted, &["tcp", "more"]),
        (listeners.clone(), "UDPRoute", "shop", to(any(), json!(null)), accepted, &["udp"]),
        (listeners.clone(), "TCPRoute", "shop", to(json!({"port": 5432}), json!(null)), accepted, &["tcp"]),
        (listeners.clone(), "UDPRoute", "shop", to(json!({"port": 5432}), json!(null)), accepted, &["udp"]),
        (listeners.clone(), "TCPRoute", "shop", to(json!({"sectionName": "more"}), json!(null)), accepted, &["more"]),
        (listeners.clone(), "TCPRoute", "shop", to(json!({"sectionName": "more", "port": 5432}), json!(null)), no_parent, &[]),
        (listeners.clone(), "TCPRoute", "shop", to(json!({"sectionName": "http"}), json!(null)), not_allowed, &[]),
        (listeners.clone(), "TCPRoute", "shop", to(json!({"sectionName": "udp"}), json!(null)), not_allowed, &[]),
        (listeners.clone(), "UDPRoute", "shop", to(json!({"sectionName": "exact"}), json!(null)), not_allowed, &[]),
        (listeners.clone(), "UDPRoute", "shop", to(json!({"port": 5433}), json!(null)), not_allowed, &[]),
        (listeners.clone(), "HTTPRoute", "shop", to(json!({"sectionName": "tcp"}), json!(null)), not_allowed, &[]),
        (listeners.clone(), "TLSRoute", "shop", to(json!({"sectionName": "http"}), json!(["a.example.com"])), not_allowed, &[]),
        (listeners.clone(), "TLSRoute", "shop", to(json!({"sectionName": "none"}), json!(["a.example.com"])), no_parent, &[]),
        (
            listeners.clone(),
            "TLSRoute",
            "shop",
            to(any(), json!(["a.example.com", "b.example.com", "example.org"])),
            accepted,
            &["exact a.example.com", "wide a.example.com b.example.com"],
        ),
        (listeners.clone(), "TLSRoute", "shop", to(any(), json!(["*.com"])), accepted, &["exact *.com", "wide *.com"]),
        (listeners.clone(), "TLSRoute", "shop", to(any(), json!(["example.com", "example.org"])), no_hostname, &[]),
        (listeners.clone(), "TLSRoute", "shop", to(any(), json!(["10.0.0.1"])), "Accepted=False/UnsupportedValue", &[]),
        (
            listeners,
            "TCPRoute",
            "other",
            json!({"parentRefs": [{"name": "edge", "namespace": "shop"}], "rules": [{"backendRefs": []}]}),
            not_allowed,
            &[],
        ),
    ];
    for (listeners, kind, namespace, spec, accepted, expected) in table {
        let expected = expected.iter().map(|text| (*text).to_owned()).collect();
        let told = format!("{kind} of {namespace} {spec}");
        assert_eq!(attached(&listeners, kind, namespace, spec), (accepted.to_owned(), expected), "{told}");
    }
}

#[test]
fn of_several_streams_on_one_listener_all_are_counted_and_all_but_the_oldest_are_told() {
    let listeners = json!([{"name": "tcp", "port": 1, "protocol": "TCP"}, {"name": "udp", "port": 1, "protocol": "UDP"}]);
    let stream = |kind: &str, name: &str, second: u8| {
        let spec = json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "db", "port": 1}]}]});
        let mut route = route(kind, name, spec);
        route["metadata"]["creationTimestamp"] = format!("2026-01-01T00:00:{second:02}Z").into();
        route
    };
    let translation = translated([
        gateway(&listeners),
        stream("TCPRoute", "a", 5),
        stream("TCPRoute", "b", 5),
        stream("TCPRoute", "c", 4),
        stream("UDPRoute", "d", 9),
    ]);
    let counted = &translation.statuses.gateways[&NamespacedName::new("shop", "edge")].listeners;
    assert_eq!(counted.iter().map(|listener| listener.attached_routes).collect::<Vec<_>>(), [3, 1]);
    let statuses = translation.statuses.tcp_routes.iter().chain(&translation.statuses.udp_routes);
    let told = statuses.map(|(name, status)| {
        let accepted = &status.parents[0].conditions[0];
        format!("{} {} {}", name.name, accepted.reason, accepted.message).trim_end().to_owned()
    });
    let shadowed = "listener `tcp` sends everything to TCPRoute/shop/c, which is older or comes first by name; give one of them \
                    another listener";
    let expected =
        [format!("a Accepted {shadowed}"), format!("b Accepted {shadowed}"), "c Accepted".to_owned(), "d Accepted".to_owned()];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(translation.snapshot.gateways[&edge()].listeners[0].routes.len(), 3);
}

#[test]
fn a_message_names_the_listeners_that_were_meant() {
    let listeners: Vec<_> = (0..7)
        .map(|at| json!({"name": format!("l{at}"), "port": 80 + at, "protocol": "HTTP", "hostname": "a.example.com"}))
        .collect();
    let told = |namespace: &str, parent: Value| {
        let spec = json!({"parentRefs": [parent], "hostnames": ["b.example.com"], "rules": [{}]});
        let route = object("gateway.networking.k8s.io/v1", "HTTPRoute", namespace, "r", json!({}), spec);
        let translation = translated([gateway(&json!(listeners)), route]);
        translation.statuses.http_routes[&NamespacedName::new(namespace, "r")].parents[0].conditions[0].message.clone()
    };
    for (namespace, parent, expected) in [
        (
            "shop",
            json!({"name": "edge", "sectionName": "l0", "port": 81}),
            "Gateway shop/edge has no listener with the sectionName and port of the parentRef; correct them: it has \
             `l0` on port 80, `l1` on port 81, `l2` on port 82, `l3` on port 83, `l4` on port 84 and 2 more",
        ),
        (
            "other",
            json!({"name": "edge", "namespace": "shop", "port": 82}),
            "HTTPRoutes of namespace `other` are not allowed by `l2` of Gateway shop/edge; extend `allowedRoutes` there or \
             choose another listener",
        ),
        (
            "shop",
            json!({"name": "edge", "sectionName": "l3"}),
            "no hostname of the route intersects with that of `l3` (a.example.com) of Gateway shop/edge; correct the \
             route's or the listener's",
        ),
    ] {
        assert_eq!(told(namespace, parent), expected);
    }
}

/// Kind, name, creation second and hostnames.
type Rival = (&'static str, &'static str, u8, &'static [&'static str]);

fn winners(listeners: &Value, rivals: &[Rival]) -> Vec<String> {
    let routes = rivals.iter().map(|(kind, name, second, hostnames)| {
        let mut route = route(kind, name, json!({"parentRefs": [{"name": "edge"}], "hostnames": hostnames, "rules": [{}]}));
        route["metadata"]["creationTimestamp"] = format!("2026-01-01T00:00:{second:02}Z").into();
        route
    });
    let translation = translated([gateway(listeners)].into_iter().chain(routes));
    let statuses = translation.statuses.http_routes.iter().chain(&translation.statuses.grpc_routes);
    statuses.map(|(name, status)| format!("{} {}", name.name, shown(&status.parents[0].conditions, 7)[0])).collect()
}

#[test]
fn of_two_kinds_with_one_hostname_the_older_wins() {
    let one = json!([{"name": "a", "port": 80, "protocol": "HTTP"}]);
    let two = json!([
        {"name": "a", "port": 80, "protocol": "HTTP", "hostname": "a.example.com"},
        {"name": "b", "port": 80, "protocol": "HTTP", "hostname": "b.example.com"},
    ]);
    let table: Vec<(&Value, Vec<Rival>, &[&str])> = vec![
        (
            &one,
            vec![("HTTPRoute", "h", 1, &["a.example.com"]), ("GRPCRoute", "g", 0, &["a.example.com"])],
            &["h Accepted=False/HostnameConflict", "g Accepted=True/Accepted"],
        ),
        (
            &one,
            vec![("HTTPRoute", "h", 0, &[]), ("GRPCRoute", "g", 1, &["a.example.com"])],
            &["h Accepted=True/Accepted", "g Accepted=False/HostnameConflict"],
        ),
        // Equal age: by name.
        (
            &one,
            vec![("HTTPRoute", "z", 0, &["*.example.com"]), ("GRPCRoute", "g", 0, &["a.example.com"])],
            &["z Accepted=False/HostnameConflict", "g Accepted=True/Accepted"],
        ),
        (
            &one,
            vec![("HTTPRoute", "h", 1, &["a.example.com"]), ("GRPCRoute", "g", 0, &["b.example.com"])],
            &["h Accepted=True/Accepted", "g Accepted=True/Accepted"],
        ),
        // A route that lost keeps nobody out.
        (
            &one,
            vec![
                ("HTTPRoute", "h1", 0, &["a.example.com"]),
                ("HTTPRoute", "h2", 2, &["b.example.com"]),
                ("GRPCRoute", "g", 1, &["a.example.com", "b.example.com"]),
            ],
            &["h1 Accepted=True/Accepted", "h2 Accepted=True/Accepted", "g Accepted=False/HostnameConflict"],
        ),
        // One listener is enough to be accepted.
        (
            &two,
            vec![("HTTPRoute", "h", 0, &["a.example.com"]), ("GRPCRoute", "g", 1, &["a.example.com", "b.example.com"])],
            &["h Accepted=True/Accepted", "g Accepted=True/Accepted"],
        ),
    ];
    for (listeners, rivals, expected) in table {
        assert_eq!(winners(listeners, &rivals), expected, "{rivals:?}");
    }
}

#[test]
fn an_attachment_is_counted_once_and_told_by_each_parent_ref() {
    let listeners = json!([{"name": "a", "port": 80, "protocol": "HTTP"}]);
    let parents =
        json!([{"name": "edge"}, {"name": "edge", "sectionName": "a"}, {"name": "edge"}, {"name": "edge", "sectionName": "b"}]);
    let translation = translated([gateway(&listeners), route("HTTPRoute", "r", json!({"parentRefs": parents, "rules": [{}]}))]);
    let status = &translation.statuses.http_routes[&NamespacedName::new("shop", "r")];
    let accepted: Vec<_> = status.parents.iter().map(|parent| shown(&parent.conditions, 7)[0].clone()).collect();
    assert_eq!(accepted, ["Accepted=True/Accepted", "Accepted=True/Accepted", "Accepted=False/NoMatchingParent"]);
    assert_eq!(translation.statuses.gateways[&NamespacedName::new("shop", "edge")].listeners[0].attached_routes, 1);
    assert_eq!(translation.snapshot.gateways[&edge()].listeners[0].routes.len(), 1);
}
