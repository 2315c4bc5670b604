//! Mutated objects: nothing panics, everything is repeatable, and neighbours stay as they are.

use isthmus_api::{Objects, decode};
use isthmus_routing::{Attachment, Listener, MtlsMode, RouteKey, RouteKind, Snapshot};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::graph::listener::kinds;
use crate::testing::{
    authority, base, bundle, edge, gateway_with, mesh_options, object, options, pod, route, secret, with_sidecar,
};
use crate::{MESH_CONTROLLER_NAME, Translation, translate};

/// One change: which object, the way down into it, and what is put there (none: it is dropped).
#[derive(Debug, Clone)]
struct Mutation {
    object: usize,
    way: Vec<usize>,
    odd: Option<Value>,
}

fn odd() -> impl Strategy<Value = Option<Value>> {
    let texts = [
        "",
        "*",
        "a",
        "/",
        "//",
        "/a%",
        "é",
        "a\r\nb: c",
        "10.0.0.1",
        "*.example.com",
        "EXAMPLE.com.",
        "(",
        "(?:a{1000}){1000}",
        "Host",
        ":path",
        "99999h",
        "1ms",
        "HTTP",
        "HTTPS",
        "TCP",
        "TLS",
        "UDP",
        "Passthrough",
        "Exact",
        "Selector",
        "edge",
        "shop",
        "other",
        "front",
        "Service",
        "ListenerSet",
        "first",
        "ReplacePrefixMatch",
        "kubernetes.io/wss",
        "ExternalName",
        "None",
        "back",
        "System",
        "ConfigMap",
        "URI",
        "AllowInsecureFallback",
        "isthmus.dev/min-version",
        "10.0.0.2",
        "strict",
        "permissive",
        "80=permissive",
        "Succeeded",
    ];
    let mut values: Vec<_> = texts.iter().map(|text| Some(Value::from(*text))).collect();
    values.extend([json!(null), json!(true), json!([]), json!({}), json!([[]]), json!("x".repeat(5000))].map(Some));
    values.extend([-1, 0, 1, 80, 443, 65_536, i64::from(i32::MAX), i64::MIN].map(|number| Some(number.into())));
    values.extend([None, None, None]);
    prop::sample::select(values)
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let one = (any::<usize>(), prop::collection::vec(any::<usize>(), 1..9), odd());
    prop::collection::vec(one.prop_map(|(object, way, odd)| Mutation { object, way, odd }), 1..6)
}

/// Goes down as far as there is something, then changes what is there.
fn mutate(value: &mut Value, way: &[usize], odd: Option<&Value>) {
    let Some((step, rest)) = way.split_first() else { return };
    let deeper = |child: &Value| !rest.is_empty() && (child.is_object() || child.is_array());
    match value {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(step % map.len()).cloned().unwrap_or_default();
            match (map.get_mut(&key), odd) {
                (Some(child), _) if deeper(child) => mutate(child, rest, odd),
                (Some(child), Some(odd)) => *child = odd.clone(),
                _ => drop(map.remove(&key)),
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let at = step % list.len();
            match odd {
                _ if deeper(&list[at]) => mutate(&mut list[at], rest, odd),
                Some(odd) => list[at] = odd.clone(),
                None => drop(list.remove(at)),
            }
        }
        other => *other = odd.cloned().unwrap_or_default(),
    }
}

/// What still decodes.
fn objects(list: &[Value]) -> Objects {
    let mut objects = Objects::default();
    for object in list.iter().filter_map(|object| decode(object.clone()).ok()) {
        objects.apply(object);
    }
    objects
}

/// A little of everything that is read.
fn world() -> Vec<Value> {
    let authorities = json!({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}], "mode": "AllowValidOnly"});
    let listeners = json!([
        {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}, "kinds": [{"kind": "HTTPRoute"}]}},
        {"name": "grpc", "port": 81, "protocol": "HTTP", "hostname": "*.example.com", "allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}},
        {
            "name": "https", "port": 443, "protocol": "HTTPS", "hostname": "a.example.com",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "tls"}, {"name": "tls2", "namespace": "other"}]},
            "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {
                "matchLabels": {"team": "b"}, "matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}],
            }}},
        },
        {
            "name": "tls", "port": 443, "protocol": "TLS", "hostname": "t.example.com",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "tls"}]}, "allowedRoutes": {"kinds": [{"kind": "TLSRoute"}]},
        },
        {"name": "passed", "port": 443, "protocol": "TLS", "hostname": "p.example.com", "tls": {"mode": "Passthrough"}},
        {"name": "tcp", "port": 5432, "protocol": "TCP", "allowedRoutes": {"kinds": [{"kind": "TCPRoute"}]}},
        {"name": "udp", "port": 5432, "protocol": "UDP", "allowedRoutes": {"namespaces": {"from": "All"}}},
    ]);
    let spec = json!({
        "gatewayClassName": "isthmus", "listeners": listeners, "allowedListeners": {"namespaces": {"from": "All"}}, "addresses": [{"type": "IPAddress", "value": "127.0.0.1"}],
        "tls": {
            "frontend": {"default": {"validation": authorities}, "perPort": [{"port": 8443, "tls": {}}]},
            "backend": {"clientCertificateRef": {"name": "tls"}},
        },
    });
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "front", "port": 80}, "percent": 5}});
    let add = json!({"add": [{"name": "x-a", "value": "1"}], "set": [{"name": "x-b", "value": "2"}], "remove": ["x-c"]});
    let http = json!({
        "parentRefs": [
            {"name": "edge"}, {"name": "edge", "sectionName": "http", "port": 80},
            {"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "first", "namespace": "other"},
            {"group": "", "kind": "Service", "name": "front", "sectionName": "http", "port": 80},
        ],
        "hostnames": ["a.example.com", "*.example.com"],
        "rules": [
            {
                "name": "first",
                "matches": [{
                    "path": {"type": "PathPrefix", "value": "/a"}, "method": "GET",
                    "headers": [{"name": "x", "value": "y.*", "type": "RegularExpression"}], "queryParams": [{"name": "q", "value": "1"}],
                }],
                "filters": [
                    {"type": "RequestHeaderModifier", "requestHeaderModifier": add},
                    {"type": "URLRewrite", "urlRewrite": {"hostname": "b.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}},
                    {"type": "CORS", "cors": {"allowOrigins": ["https://*.example.com"], "allowMethods": ["GET"], "maxAge": 5}},
                    mirror,
                ],
                "backendRefs": [
                    {"name": "front", "port": 80, "weight": 3, "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": add}]},
                    {"name": "back", "namespace": "other", "port": 8080},
                ],
                "timeouts": {"request": "10s", "backendRequest": "5s"}, "retry": {"codes": [503, 500], "attempts": 2, "backoff": "100ms"},
            },
            {
                "matches": [{"path": {"type": "Exact", "value": "/r"}}],
                "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "port": 8443, "statusCode": 301}}],
            },
        ],
    });
    let grpc = json!({
        "parentRefs": [{"name": "edge", "sectionName": "grpc"}], "hostnames": ["g.example.com"],
        "rules": [{
            "matches": [{"method": {"service": "a.B", "method": "C"}, "headers": [{"name": "v", "value": "1"}]}],
            "filters": [mirror], "backendRefs": [{"name": "front", "port": 80}],
        }],
    });
    let more = json!([
        {"name": "http", "port": 80, "protocol": "HTTP", "hostname": "set.example.com", "allowedRoutes": {"namespaces": {"from": "All"}}},
        {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "*.example.com", "tls": {"certificateRefs": [{"name": "tls2", "namespace": "other"}]}},
        {"name": "tcp", "port": 6379, "protocol": "TCP"},
        {"name": "taken", "port": 5432, "protocol": "UDP"},
    ]);
    let set = |name: &str| {
        let spec = json!({"parentRef": {"name": "edge", "namespace": "shop"}, "listeners": more});
        object("gateway.networking.k8s.io/v1", "ListenerSet", "other", name, json!({"generation": 1}), spec)
    };
    let grant = json!({
        "from": [
            {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"},
            {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop"},
        ],
        "to": [{"group": "", "kind": "Service"}, {"group": "", "kind": "Secret", "name": "tls2"}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "front-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "front"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false}}],
    });
    let mut theirs = secret("tls2");
    theirs["metadata"]["namespace"] = "other".into();
    let mut world = base();
    world.extend([
        gateway_with(spec),
        secret("tls"),
        theirs,
        object(
            "v1",
            "Service",
            "shop",
            "front",
            json!({}),
            json!({
                "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            }),
        ),
        object(
            "v1",
            "Service",
            "other",
            "back",
            json!({}),
            json!({"ports": [{"port": 8080, "appProtocol": "kubernetes.io/h2c"}]}),
        ),
        slice,
        object("gateway.networking.k8s.io/v1", "ReferenceGrant", "other", "g", json!({}), grant),
        set("first"),
        set("second"),
        route("HTTPRoute", "web", http),
        route(
            "HTTPRoute",
            "api",
            json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "front", "port": 80}]}]}),
        ),
        route("GRPCRoute", "rpc", grpc),
        route("TLSRoute", "secure", stream(&json!([{"name": "edge", "port": 443}]), 80, &json!(["t.example.com", "*.com"]))),
        route("TCPRoute", "db", stream(&json!([{"name": "edge"}, {"name": "edge", "sectionName": "tcp"}]), 80, &json!(null))),
        route("TCPRoute", "db2", stream(&json!([{"name": "edge"}]), 80, &json!(null))),
        route("UDPRoute", "dns", stream(&json!([{"name": "edge", "sectionName": "udp"}]), 53, &json!(null))),
        of_service("HTTPRoute", "consumer", "shop", ("front", 80)),
        of_service("GRPCRoute", "calls", "other", ("back", 8080)),
        bundle("shop", "ca", Some(&authority())),
        policy(),
        json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": {"isthmus.dev/mtls": "permissive"}},
        }),
        meshed(pod(("shop", "front-1"), "front", 1, &modes("8080=strict,9090=permissive"), &["10.0.0.1", "fd00::1"])),
        meshed(pod(("other", "back-1"), "back", 2, &modes("strict"), &["10.0.0.2"])),
        pod(("other", "plain-1"), "plain", 3, &json!({}), &["10.0.0.3"]),
        json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh", "metadata": {"name": "mesh", "generation": 2},
            "spec": {"controllerName": MESH_CONTROLLER_NAME},
        }),
    ]);
    world
}

/// With a sidecar.
fn meshed(pod: Value) -> Value {
    with_sidecar(pod, "22,443")
}

/// Annotations of a pod that has one.
fn modes(ports: &str) -> Value {
    json!({"isthmus.dev/injected": "0.1.0", "isthmus.dev/mtls-ports": ports, "isthmus.dev/exclude-inbound-ports": "22,443"})
}

/// Of a route of connections or datagrams.
fn stream(parents: &Value, port: u16, hostnames: &Value) -> Value {
    let backends = json!([{"name": "front", "port": port, "weight": 3}, {"name": "front", "port": port, "weight": 0}]);
    let mut spec = json!({"parentRefs": parents, "rules": [{"name": "all", "backendRefs": backends}]});
    if !hostnames.is_null() {
        spec["hostnames"] = hostnames.clone();
    }
    spec
}

/// A route in namespace `other` whose parent and backend is this Service.
fn of_service(kind: &str, name: &str, namespace: &str, (service, port): (&str, u16)) -> Value {
    let parent = json!({"group": "", "kind": "Service", "namespace": namespace, "name": service});
    let backend = json!({"namespace": namespace, "name": service, "port": port});
    let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]});
    object("gateway.networking.k8s.io/v1", kind, "other", name, json!({"generation": 1}), spec)
}

/// For `Service/shop/front`.
fn policy() -> Value {
    let validation = json!({
        "hostname": "front.example.com", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}],
        "subjectAltNames": [{"type": "Hostname", "hostname": "a.example.com"}, {"type": "URI", "uri": "spiffe://example.com/front"}],
    });
    let spec = json!({
        "targetRefs": [{"group": "", "kind": "Service", "name": "front"}, {"group": "", "kind": "Service", "name": "front", "sectionName": "http"}],
        "validation": validation, "options": {"example.com/a": "b"},
    });
    object("gateway.networking.k8s.io/v1", "BackendTLSPolicy", "shop", "p", json!({"generation": 1}), spec)
}

fn bytes(translation: &Translation) -> (String, String) {
    let text = |result: Result<String, serde_json::Error>| result.expect("both have a JSON form");
    (text(serde_json::to_string(&*translation.snapshot)), text(serde_json::to_string(&translation.statuses)))
}

/// Every item that refers to this route, or is it, is left out.
fn without(snapshot: &Snapshot, key: &RouteKey) -> (Vec<(RouteKey, String)>, Vec<Attachment>) {
    let routes = snapshot.routes.iter().chain(&snapshot.service_routes).filter(|(other, _)| *other != key);
    let attachments = snapshot.gateways.values().flat_map(|gateway| &gateway.listeners).flat_map(|listener| &listener.routes);
    let attachments = attachments.chain(snapshot.services.values().flat_map(|parent| parent.attachments()));
    (
        routes.map(|(other, route)| (other.clone(), format!("{route:?}"))).collect(),
        attachments.filter(|attachment| attachment.route != *key).cloned().collect(),
    )
}

/// What the Gateway's own listeners and conditions are.
fn of_gateway(translation: &Translation) -> (Vec<Listener>, Vec<String>) {
    let listeners = translation.snapshot.gateways[&edge()].listeners.iter().filter(|listener| !listener.name.contains('/'));
    let status = translation.statuses.gateways.values().flat_map(|status| {
        // An overlap with a ListenerSet is worth knowing, and nothing that is wrong.
        let of_listeners = status.listeners.iter().flat_map(|listener| &listener.conditions);
        status.conditions.iter().chain(of_listeners.filter(|condition| condition.r#type != "OverlappingTLSConfig"))
    });
    (listeners.cloned().collect(), status.map(|condition| format!("{condition:?}")).collect())
}

#[test]
fn the_world_is_whole() {
    let translation = translate(&objects(&world()), &mesh_options());
    let snapshot = &translation.snapshot;
    assert_eq!(
        (snapshot.gateways.len(), snapshot.routes.len(), snapshot.backends.len(), snapshot.certificates.len()),
        (1, 7, 3, 2)
    );
    assert_eq!((snapshot.services.len(), snapshot.service_routes.len()), (2, 3));
    assert_eq!((snapshot.workloads.len(), snapshot.frontends.len(), translation.inbound.len()), (2, 1, 2));
    assert_eq!(translation.statuses.x_meshes.len(), 1);
    let statuses = &translation.statuses;
    let streams = statuses.tls_routes.values().chain(statuses.tcp_routes.values()).chain(statuses.udp_routes.values());
    let routes = statuses.http_routes.values().chain(statuses.grpc_routes.values()).chain(streams);
    let conditions = routes.flat_map(|status| &status.parents);
    for condition in conditions.flat_map(|parent| &parent.conditions) {
        assert_eq!(condition.status, isthmus_api::status::ConditionStatus::True, "{condition:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn whatever_decodes_is_translated_and_always_alike(mutations in mutations()) {
        thread_local!(static WORLD: Vec<Value> = world());
        let mut list = WORLD.with(Clone::clone);
        for Mutation { object, way, odd } in &mutations {
            let at = object % list.len();
            mutate(&mut list[at], way, odd.as_ref());
        }
        let objects = objects(&list);
        let first = translate(&objects, &mesh_options());
        let again = translate(&objects, &mesh_options());
        prop_assert_eq!(bytes(&first), bytes(&again));
        for listener in first.snapshot.gateways.values().flat_map(|gateway| &gateway.listeners) {
            let kinds = kinds(listener.protocol);
            prop_assert!(listener.routes.iter().all(|attachment| kinds.contains(&attachment.route.kind)), "{listener:?}");
        }
        for (key, parent) in &first.snapshot.services {
            prop_assert!(first.snapshot.backends.contains_key(key), "{key}");
            prop_assert!(parent.attachments().all(|attachment| first.snapshot.service_routes.contains_key(&attachment.route)));
            for (namespace, list) in [(&key.namespace, &parent.routes)].into_iter().chain(&parent.consumers) {
                let kind = list.first().map(|attachment| attachment.route.kind);
                prop_assert!(matches!(kind, None | Some(RouteKind::Http | RouteKind::Grpc)), "{parent:?}");
                prop_assert!(list.iter().all(|of| Some(of.route.kind) == kind && of.hostnames.is_empty() && of.route.namespace == *namespace));
            }
        }
        // Who is served in the mesh is nothing to Gateways.
        let alone = translate(&objects, &options());
        prop_assert_eq!(&alone.snapshot.gateways, &first.snapshot.gateways);
        prop_assert_eq!(&alone.snapshot.routes, &first.snapshot.routes);
        prop_assert_eq!(&alone.statuses.gateways, &first.statuses.gateways);
        prop_assert!(alone.snapshot.services.is_empty() && alone.snapshot.service_routes.is_empty());
        let parsed: Snapshot = serde_json::from_str(&bytes(&first).0).expect("a snapshot reads what it wrote");
        prop_assert_eq!(&parsed, &*first.snapshot);
    }

    #[test]
    fn what_is_wrong_with_tls_leads_neither_to_the_clear_nor_past_validation(mutations in mutations()) {
        thread_local!(static WORLD: Vec<Value> = world());
        let mut list = WORLD.with(Clone::clone);
        for Mutation { object, way, odd } in &mutations {
            let of_kind = |list: &mut Vec<Value>, kind: &str| list.iter().position(|object| object["kind"] == kind).expect("the world has it");
            let (kind, field) = [
                ("BackendTLSPolicy", "/spec/validation"),
                ("BackendTLSPolicy", "/spec/options"),
                ("ConfigMap", "/data"),
                ("Gateway", "/spec/tls/frontend/default/validation/caCertificateRefs"),
            ][object % 4];
            let at = of_kind(&mut list, kind);
            if let Some(inside) = list[at].pointer_mut(field) {
                mutate(inside, way, odd.as_ref());
            }
        }
        let objects = objects(&list);
        prop_assume!(objects.backend_tls_policies.len() == 1 && objects.gateways.len() == 1);
        let snapshot = translate(&objects, &mesh_options()).snapshot;
        let front = "Service/shop/front:80".parse().expect("a backend's name");
        prop_assert!(snapshot.backends[&front].tls.is_some());
        for listener in snapshot.gateways[&edge()].listeners.iter().filter(|listener| listener.protocol.is_tls() && !listener.passthrough) {
            prop_assert!(listener.client_validation.as_ref().is_some_and(|validation| !validation.authorities.is_empty()));
        }
    }

    #[test]
    fn a_pod_changes_nothing_but_where_workloads_are(mutations in mutations()) {
        thread_local!(static WORLD: Vec<Value> = world());
        let mut list = WORLD.with(Clone::clone);
        let before = translate(&objects(&list), &mesh_options());
        for Mutation { object, way, odd } in &mutations {
            let pods: Vec<usize> = (0..list.len()).filter(|at| list[*at]["kind"] == "Pod").collect();
            prop_assume!(!pods.is_empty());
            mutate(&mut list[pods[object % pods.len()]], way, odd.as_ref());
        }
        let after = translate(&objects(&list), &mesh_options());
        let changes = after.snapshot.changes(&before.snapshot);
        let changed = changes.puts.iter().map(isthmus_routing::Item::key).chain(changes.removes);
        for key in changed {
            prop_assert!(matches!(key, isthmus_routing::ItemKey::Workloads(_)), "{key}");
        }
        prop_assert_eq!(&after.statuses.http_routes, &before.statuses.http_routes);
        prop_assert_eq!(&after.statuses.gateways, &before.statuses.gateways);
        let places: Vec<_> = after.snapshot.workloads.values().flat_map(|workloads| workloads.pods.keys()).collect();
        let each: std::collections::BTreeSet<_> = places.iter().collect();
        prop_assert_eq!(each.len(), places.len(), "each address is somebody's once");
    }

    #[test]
    fn what_cannot_be_read_of_an_annotation_permits_nothing(
        parts in prop::collection::vec(prop::sample::select(vec!["80", "443", "=", ",", "strict", "permissive", " ", "x", "0", ";"]), 0..9),
        mode in prop::sample::select(vec!["strict", "permissive", "Strict", "", "off"]),
    ) {
        let text = parts.concat();
        let annotations = json!({"isthmus.dev/mtls": mode, "isthmus.dev/mtls-ports": text});
        let list = [meshed(pod(("shop", "a"), "a", 1, &annotations, &[]))];
        let translation = translate(&objects(&list), &mesh_options());
        let inbound = translation.inbound.values().next().expect("it has a sidecar");
        for port in [80, 443, 8080] {
            let named = format!("{port}=permissive");
            let permitted = mode == "permissive" || text.replace(' ', "").contains(&named);
            prop_assert!(permitted || inbound.mode_of(port) == MtlsMode::Strict, "{port} of `{mode}` `{text}`");
            let asked = text.replace(' ', "").split(',').any(|entry| entry == format!("{port}=strict") || entry == port.to_string());
            prop_assert!(!asked || inbound.mode_of(port) == MtlsMode::Strict, "{port} of `{mode}` `{text}`");
        }
    }

    #[test]
    fn a_listener_set_changes_nothing_of_the_gateway(mutations in mutations()) {
        thread_local!(static WORLD: Vec<Value> = world());
        let mut list = WORLD.with(Clone::clone);
        list.retain(|object| object["metadata"]["name"] != "second");
        let before = translate(&objects(&list), &mesh_options());
        let first = list.iter_mut().find(|object| object["metadata"]["name"] == "first").expect("the world has it");
        for Mutation { way, odd, .. } in &mutations {
            mutate(&mut first["spec"], way, odd.as_ref());
        }
        let after = translate(&objects(&list), &mesh_options());
        prop_assert_eq!(of_gateway(&before), of_gateway(&after));
    }

    #[test]
    fn a_route_changes_nothing_of_its_neighbours(mutations in mutations()) {
        thread_local!(static WORLD: Vec<Value> = world().into_iter().filter(|object| object["kind"] != "GRPCRoute").collect());
        let mut list = WORLD.with(Clone::clone);
        let before = translate(&objects(&list), &mesh_options());
        let web = list.iter_mut().find(|object| object["metadata"]["name"] == "web").expect("the world has it");
        for Mutation { way, odd, .. } in &mutations {
            mutate(&mut web["spec"], way, odd.as_ref());
        }
        let after = translate(&objects(&list), &mesh_options());
        let key = RouteKey { namespace: "shop".to_owned(), name: "web".to_owned(), kind: RouteKind::Http };
        prop_assert_eq!(without(&before.snapshot, &key), without(&after.snapshot, &key));
    }
}
