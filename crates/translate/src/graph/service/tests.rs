//! What attaches to which Service for whom, in tables; and who wins.

use std::sync::Arc;

use isthmus_api::NamespacedName;
use isthmus_routing::{Attachment, Spoken, Target};
use serde_json::{Value, json};

use crate::testing::{base, gateway, mesh_options, object, objects, options, plain_listener, route, service, shown};
use crate::{Translation, translate};

/// With clients in the mesh.
fn translated(list: impl IntoIterator<Item = Value>) -> Translation {
    translate(&objects(base().into_iter().chain(list)), &mesh_options())
}

/// A Service of namespace `shop`.
fn with_spec(name: &str, spec: Value) -> Value {
    object("v1", "Service", "shop", name, json!({}), spec)
}

/// Services of every kind in namespace `shop`.
fn services() -> Vec<Value> {
    let two = json!([
        {"name": "http", "port": 80}, {"name": "alt", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]);
    vec![
        with_spec("front", json!({"ports": two, "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"]})),
        with_spec("bare", json!({"ports": [{"port": 80}]})),
        with_spec("balanced", json!({"type": "LoadBalancer", "ports": [{"port": 80}]})),
        with_spec("headless", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
        with_spec("out", json!({"type": "ExternalName", "externalName": "a.example", "ports": [{"port": 80}]})),
        with_spec("udp", json!({"ports": [{"port": 53, "protocol": "UDP"}]})),
        with_spec("none", json!({})),
    ]
}

/// To a Service of namespace `shop`.
fn parent(name: &str, more: &Value) -> Value {
    let mut parent = json!({"group": "", "kind": "Service", "name": name, "namespace": "shop"});
    parent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    parent
}

fn of_namespace(kind: &str, namespace: &str, name: &str, second: u8, spec: Value) -> Value {
    let metadata = json!({"generation": 7, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")});
    object("gateway.networking.k8s.io/v1", kind, namespace, name, metadata, spec)
}

/// `front:80 shop/r` for every attachment of a producer route, `front:80 for other: other/r` of a consumer route.
fn attached(translation: &Translation) -> Vec<String> {
    let mut shown = Vec::new();
    for (key, parent) in &translation.snapshot.services {
        let told = |Attachment { route, hostnames }: &Attachment| {
            assert!(hostnames.is_empty(), "{route} has hostnames on {key}");
            assert!(translation.snapshot.service_routes.contains_key(route), "{route} is sent");
            format!("{}/{}", route.namespace, route.name)
        };
        let of = format!("{}:{}", key.name, key.port);
        shown.extend(parent.routes.iter().map(|attachment| format!("{of} {}", told(attachment))));
        for (namespace, attachments) in &parent.consumers {
            assert!(!attachments.is_empty());
            shown.extend(attachments.iter().map(|attachment| format!("{of} for {namespace}: {}", told(attachment))));
        }
    }
    shown
}

/// `Accepted` of each parent of a route, with its message.
fn accepted(translation: &Translation, kind: &str, namespace: &str, name: &str) -> Vec<String> {
    let statuses = &translation.statuses;
    let of_kind = if kind == "HTTPRoute" { &statuses.http_routes } else { &statuses.grpc_routes };
    let parents = of_kind.get(&NamespacedName::new(namespace, name)).map_or(&[][..], |status| &status.parents);
    let told = |conditions: &[isthmus_api::status::Condition]| format!("{} {}", shown(conditions, 7)[0], conditions[0].message);
    parents.iter().map(|parent| told(&parent.conditions).trim_end().to_owned()).collect()
}

#[test]
fn parents_ports_and_hostnames() {
    let nobody: &[&str] = &[];
    for (namespace, parent_ref, hostnames, expected, attached_to) in [
        ("shop", parent("front", &json!({})), json!([]), "True/Accepted", &["front:80 shop/r", "front:8080 shop/r"][..]),
        ("shop", parent("front", &json!({"port": 8080})), json!([]), "True/Accepted", &["front:8080 shop/r"]),
        ("shop", parent("front", &json!({"sectionName": "http"})), json!([]), "True/Accepted", &["front:80 shop/r"]),
        ("shop", parent("front", &json!({"sectionName": "http", "port": 80})), json!([]), "True/Accepted", &["front:80 shop/r"]),
        ("shop", json!({"group": "", "kind": "Service", "name": "bare"}), json!([]), "True/Accepted", &["bare:80 shop/r"]),
        ("shop", parent("balanced", &json!({})), json!([]), "True/Accepted", &["balanced:80 shop/r"]),
        ("other", parent("bare", &json!({})), json!([]), "True/Accepted", &["bare:80 for other: other/r"]),
        (
            "shop",
            parent("bare", &json!({})),
            json!(["a.example.com"]),
            "True/Accepted `hostnames` have no effect on a Service, whose clients are known by the address they call; remove them if the route has no other parent",
            &["bare:80 shop/r"],
        ),
        (
            "shop",
            parent("bare", &json!({})),
            json!(["10.0.0.1"]),
            "True/Accepted `hostnames` have no effect on a Service, whose clients are known by the address they call; remove them if the route has no other parent",
            &["bare:80 shop/r"],
        ),
        (
            "shop",
            parent("front", &json!({"sectionName": "http", "port": 8080})),
            json!([]),
            "False/NoMatchingParent Service shop/front has no TCP port with the port and sectionName of the parentRef; correct them: it has `80` (http), `8080` (alt)",
            nobody,
        ),
        (
            "shop",
            parent("bare", &json!({"port": 81})),
            json!([]),
            "False/NoMatchingParent Service shop/bare has no TCP port with the port and sectionName of the parentRef; correct them: it has `80`",
            nobody,
        ),
        (
            "shop",
            parent("udp", &json!({"port": 53})),
            json!([]),
            "False/NoMatchingParent Service shop/udp has no TCP port with the port and sectionName of the parentRef; correct them: it has none",
            nobody,
        ),
        (
            "shop",
            parent("none", &json!({})),
            json!([]),
            "False/NoMatchingParent Service shop/none has no TCP port with the port and sectionName of the parentRef; correct them: it has none",
            nobody,
        ),
        (
            "other",
            parent("gone", &json!({})),
            json!([]),
            "False/NoMatchingParent Service shop/gone does not exist; create it or correct the parentRef",
            nobody,
        ),
        (
            "shop",
            parent("headless", &json!({})),
            json!([]),
            "False/NoMatchingParent Service shop/headless is headless (`clusterIP: None`), so its clients call endpoints and no route comes between; attach the route to a Service with a ClusterIP",
            nobody,
        ),
        (
            "shop",
            parent("out", &json!({})),
            json!([]),
            "False/NoMatchingParent Service shop/out is of type ExternalName, which has no address that clients call; attach the route to a Service with a ClusterIP",
            nobody,
        ),
    ] {
        for kind in ["HTTPRoute", "GRPCRoute"] {
            let told = format!("{kind} of {namespace} to {parent_ref} {hostnames}");
            let spec = json!({"parentRefs": [parent_ref], "hostnames": hostnames, "rules": [{}]});
            let translation = translated(services().into_iter().chain([of_namespace(kind, namespace, "r", 0, spec)]));
            assert_eq!(accepted(&translation, kind, namespace, "r"), [format!("Accepted={expected}")], "{told}");
            assert_eq!(attached(&translation), attached_to, "{told}");
        }
    }
}

#[test]
fn services_are_there_with_their_addresses_whether_they_have_routes_or_not() {
    let translation = translated(services());
    let told: Vec<_> =
        translation.snapshot.services.iter().map(|(key, parent)| format!("{key} {:?}", parent.addresses)).collect();
    assert_eq!(
        told,
        [
            "Service/shop/balanced:80 []",
            "Service/shop/bare:80 []",
            "Service/shop/front:80 [10.96.0.7, fd00::7]",
            "Service/shop/front:8080 [10.96.0.7, fd00::7]",
        ]
    );
    assert!(translation.snapshot.services.keys().all(|key| translation.snapshot.backends.contains_key(key)));
}

#[test]
fn without_a_mesh_a_service_is_nobodys_parent() {
    let spec = json!({"parentRefs": [parent("front", &json!({}))], "rules": [{}]});
    let list = || objects(base().into_iter().chain(services()).chain([of_namespace("HTTPRoute", "shop", "r", 0, spec.clone())]));
    let translation = translate(&list(), &options());
    assert!(accepted(&translation, "HTTPRoute", "shop", "r").is_empty());
    assert_eq!(*translation.snapshot, isthmus_routing::Snapshot::default());
    assert_eq!(accepted(&translate(&list(), &mesh_options()), "HTTPRoute", "shop", "r").len(), 1);
}

#[test]
fn routes_of_connections_do_not_attach_to_services() {
    for kind in ["TLSRoute", "TCPRoute", "UDPRoute"] {
        let mut spec =
            json!({"parentRefs": [parent("front", &json!({}))], "rules": [{"backendRefs": [{"name": "front", "port": 80}]}]});
        if kind == "TLSRoute" {
            spec["hostnames"] = json!(["a.example.com"]);
        }
        let translation = translated(services().into_iter().chain([of_namespace(kind, "shop", "r", 0, spec)]));
        let statuses = &translation.statuses;
        assert!(statuses.tls_routes.is_empty() && statuses.tcp_routes.is_empty() && statuses.udp_routes.is_empty(), "{kind}");
        assert!(attached(&translation).is_empty(), "{kind}");
    }
}

/// Kind, namespace, name, creation second, fields of the parentRef to `front`.
type Rival = (&'static str, &'static str, &'static str, u8, Value);

#[test]
fn grpc_goes_before_http_for_the_same_clients() {
    let any = || json!({});
    let port = |port: u16| json!({"port": port});
    let table: [(_, Vec<Rival>, Vec<_>, Vec<_>); 5] = [
        (
            "routes of one kind are merged",
            vec![("HTTPRoute", "shop", "a", 1, port(80)), ("HTTPRoute", "shop", "b", 0, port(80))],
            vec!["a Accepted=True/Accepted", "b Accepted=True/Accepted"],
            vec!["front:80 shop/a", "front:80 shop/b"],
        ),
        (
            "age is of no matter between kinds",
            vec![("HTTPRoute", "shop", "h", 0, port(80)), ("GRPCRoute", "shop", "g", 9, port(80))],
            vec!["h Accepted=False/Conflicted", "g Accepted=True/Accepted"],
            vec!["front:80 shop/g"],
        ),
        (
            "a port that is left is enough",
            vec![("HTTPRoute", "shop", "h", 0, any()), ("GRPCRoute", "shop", "g", 9, port(80))],
            vec!["h Accepted=True/Accepted", "g Accepted=True/Accepted"],
            vec!["front:80 shop/g", "front:8080 shop/h"],
        ),
        (
            "a consumer's does not touch the producer's, nor another consumer's",
            vec![
                ("HTTPRoute", "shop", "h", 0, port(80)),
                ("GRPCRoute", "other", "g", 9, port(80)),
                ("HTTPRoute", "third", "t", 9, port(80)),
            ],
            vec!["h Accepted=True/Accepted", "t Accepted=True/Accepted", "g Accepted=True/Accepted"],
            vec!["front:80 shop/h", "front:80 for other: other/g", "front:80 for third: third/t"],
        ),
        (
            "two kinds of one consumer",
            vec![("HTTPRoute", "other", "h", 0, port(80)), ("GRPCRoute", "other", "g", 9, port(80))],
            vec!["h Accepted=False/Conflicted", "g Accepted=True/Accepted"],
            vec!["front:80 for other: other/g"],
        ),
    ];
    for (why, rivals, expected, expected_attached) in table {
        let routes = rivals.iter().map(|(kind, namespace, name, second, more)| {
            of_namespace(kind, namespace, name, *second, json!({"parentRefs": [parent("front", more)], "rules": [{}]}))
        });
        let translation = translated(services().into_iter().chain(routes));
        let statuses = translation.statuses.http_routes.iter().chain(&translation.statuses.grpc_routes);
        let told: Vec<_> =
            statuses.map(|(name, status)| format!("{} {}", name.name, shown(&status.parents[0].conditions, 7)[0])).collect();
        assert_eq!(told, expected, "{why}");
        assert_eq!(attached(&translation), expected_attached, "{why}");
    }
}

#[test]
fn who_lost_is_told_to_whom() {
    let of = |kind: &str, name: &str, more: Value| {
        of_namespace(kind, "shop", name, 0, json!({"parentRefs": [parent("front", &more)], "rules": [{}]}))
    };
    let invalid = json!([{"filters": [{"type": "RequestMirror"}]}]);
    let list =
        [of("HTTPRoute", "h", json!({})), of("GRPCRoute", "g1", json!({"port": 80})), of("GRPCRoute", "g2", json!({"port": 80}))];
    let translation = translated(services().into_iter().chain(list));
    let lost = "port 80 has GRPCRoute/shop/g1 for the same clients, and on one port of a Service GRPCRoutes go before HTTPRoutes; \
                give one of them another port or Service";
    assert_eq!(accepted(&translation, "HTTPRoute", "shop", "h"), [format!("Accepted=True/Accepted {lost}")]);

    // A route of which nothing can be carried out keeps nobody out, and leaves clients to the producer's.
    let spec = json!({"parentRefs": [parent("front", &json!({"port": 80}))], "rules": invalid});
    let list = [
        of("HTTPRoute", "h", json!({"port": 80})),
        of_namespace("GRPCRoute", "shop", "g", 0, spec.clone()),
        of_namespace("HTTPRoute", "other", "c", 0, spec),
    ];
    let translation = translated(services().into_iter().chain(list));
    assert_eq!(attached(&translation), ["front:80 shop/h"]);
    assert!(accepted(&translation, "HTTPRoute", "other", "c")[0].starts_with("Accepted=False/UnsupportedValue"));
}

#[test]
fn a_backend_of_another_namespace_needs_its_permission_for_a_gateway_only() {
    let foreign = json!({"name": "back", "namespace": "other", "port": 80});
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": foreign}});
    let absent = json!({"name": "gone", "namespace": "other", "port": 80});
    let spec = json!({
        "parentRefs": [{"name": "edge"}, parent("front", &json!({"port": 80}))],
        "rules": [{"backendRefs": [foreign], "filters": [mirror]}, {"matches": [{"path": {"value": "/b"}}], "backendRefs": [absent]}],
    });
    let grant = json!({
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}], "to": [{"group": "", "kind": "Service"}],
    });
    let list = || {
        let back = object("v1", "Service", "other", "back", json!({}), json!({"ports": [{"port": 80}]}));
        [gateway(&plain_listener()), service("front", 80), back, route("HTTPRoute", "r", spec.clone())]
    };
    let granted = object("gateway.networking.k8s.io/v1", "ReferenceGrant", "other", "g", json!({}), grant);
    let key = "HTTPRoute/shop/r".parse().unwrap();
    let back = || Target::Backend("Service/other/back:80".parse().unwrap());
    let conditions = |translation: &Translation| -> Vec<String> {
        let status = &translation.statuses.http_routes[&NamespacedName::new("shop", "r")];
        status.parents.iter().map(|parent| shown(&parent.conditions, 7)[1].clone()).collect()
    };

    let translation = translated(list());
    assert_eq!(conditions(&translation), ["ResolvedRefs=False/RefNotPermitted", "ResolvedRefs=False/BackendNotFound"]);
    assert_eq!(translation.snapshot.routes[&key].rules[0].backends[0].target, Target::Invalid);
    assert!(translation.snapshot.routes[&key].backend_keys().next().is_none(), "the mirror is not permitted either");
    let rules = &translation.snapshot.service_routes[&key].rules;
    assert_eq!((&rules[0].backends[0].target, &rules[1].backends[0].target), (&back(), &Target::Invalid));
    assert_eq!(translation.snapshot.service_routes[&key].backend_keys().count(), 2);
    assert!(
        !translation
            .snapshot
            .of_gateway(&crate::testing::edge())
            .backends
            .contains_key(&"Service/other/back:80".parse().unwrap())
    );

    let translation = translated(list().into_iter().chain([granted]));
    assert_eq!(conditions(&translation), ["ResolvedRefs=False/BackendNotFound", "ResolvedRefs=False/BackendNotFound"]);
    assert_eq!(translation.snapshot.routes[&key].rules[0].backends[0].target, back());
    assert_eq!(translation.snapshot.routes[&key], translation.snapshot.service_routes[&key]);
}

#[test]
fn rules_and_their_faults_are_told_as_for_a_gateway() {
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {}});
    let rules = json!([{"filters": [{"type": "ExternalAuth"}]}, {"filters": [redirect]}]);
    let spec = json!({"parentRefs": [{"name": "edge"}, parent("front", &json!({}))], "rules": rules});
    let translation = translated([gateway(&plain_listener()), service("front", 80), route("HTTPRoute", "r", spec)]);
    let parents = &translation.statuses.http_routes[&NamespacedName::new("shop", "r")].parents;
    assert_eq!(parents[0].conditions, parents[1].conditions);
    assert_eq!(parents[1].conditions.len(), 3);
    let key = "HTTPRoute/shop/r".parse().unwrap();
    assert!(std::sync::Arc::ptr_eq(&translation.snapshot.routes[&key], &translation.snapshot.service_routes[&key]));
}

#[test]
fn every_sidecar_knows_the_services_that_have_an_address() {
    let frontends: Vec<_> = translated(services())
        .snapshot
        .frontends
        .iter()
        .map(|(key, of)| format!("{key} {:?} {:?}", of.addresses, of.ports))
        .collect();
    assert_eq!(frontends, ["shop/front [10.96.0.7, fd00::7] [80, 8080]"]);
    assert!(translate(&objects(services()), &options()).snapshot.frontends.is_empty());
}

#[test]
fn a_port_with_requests_for_its_clients_speaks_http() {
    let ports = json!([{"port": 80, "name": "redis"}, {"port": 81, "name": "http"}, {"port": 82, "name": "x"}]);
    let all = with_spec("mixed", json!({"ports": ports}));
    let attached = |kind: &str, namespace: &str, port: u16| {
        of_namespace(kind, namespace, "r", 0, json!({"parentRefs": [parent("mixed", &json!({"port": port}))], "rules": [{}]}))
    };
    for (route, expected) in [
        (None, "Stream Http Unknown"),
        (Some(attached("HTTPRoute", "shop", 80)), "Http Http Unknown"),
        (Some(attached("GRPCRoute", "shop", 82)), "Stream Http Http"),
        (Some(attached("HTTPRoute", "other", 80)), "Stream Http Unknown"),
    ] {
        let snapshot = translated([all.clone()].into_iter().chain(route)).snapshot;
        let spoken: Vec<_> = snapshot.services.values().map(|parent| format!("{:?}", parent.spoken)).collect();
        assert_eq!(spoken.join(" "), expected);
        // A consumer's route is for clients of its own namespace: what they say is known there.
        let called = snapshot.services.keys().cloned().collect();
        let seen = snapshot.of_workload("other", &called, Arc::default());
        for (key, parent) in &seen.services {
            assert!(parent.routes.is_empty() || parent.spoken == Spoken::Http, "{key}");
        }
    }
}
