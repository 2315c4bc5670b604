//! Who is where, and what they ask, in tables.

use std::collections::BTreeMap;

use isthmus_api::ObjectRef;
use isthmus_routing::{Item, MtlsMode};
use serde_json::{Value, json};

use crate::testing::{base, gateway, mesh_options, object, objects, options, plain_listener, pod, route, service, with_sidecar};
use crate::{Options, Translation, translate};

/// With a sidecar that takes all ports.
fn meshed(name: &str, account: &str, second: u8, annotations: &Value, addresses: &[&str]) -> Value {
    with_sidecar(pod(("shop", name), account, second, annotations, addresses), "")
}

/// With one at this address.
fn at(name: &str, account: &str, address: &str) -> Value {
    meshed(name, account, 1, &json!({"isthmus.dev/injected": "0.1.0"}), &[address])
}

/// With a field changed.
fn but(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[field] = value;
    pod
}

fn namespace(name: &str, annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}})
}

/// `shop/cart 10.0.0.1`, or with ports that are plain `shop/cart 10.0.0.1 [80]`; in their order.
fn workloads(list: impl IntoIterator<Item = Value>) -> Vec<String> {
    let translation = translate(&objects(list), &mesh_options());
    let mut shown = Vec::new();
    for (identity, workloads) in &translation.snapshot.workloads {
        for (address, pod) in workloads.pods.iter() {
            let ports = if pod.plain_ports.is_empty() { String::new() } else { format!(" {:?}", pod.plain_ports) };
            shown.push(format!("{}/{} {address}{ports}", identity.namespace, identity.account));
        }
    }
    shown
}

#[test]
fn which_addresses_are_whose() {
    let cart = || at("cart-1", "cart", "10.0.0.1");
    let plain = |second| pod(("other", "plain"), "plain", second, &json!({}), &["10.0.0.1"]);
    let excluded = |ports: &str| json!({"isthmus.dev/exclude-inbound-ports": ports});
    let with_ports = |ports: &str| with_sidecar(cart(), ports);
    let injected = json!({"isthmus.dev/injected": "0.1.0"});
    let one = &["shop/cart 10.0.0.1"][..];
    let nobody = &[][..];
    for (what, pods, expected) in [
        ("no pod", vec![], nobody),
        ("one", vec![cart()], one),
        ("without a sidecar", vec![plain(1)], nobody),
        (
            "two families",
            vec![meshed("a", "cart", 1, &json!({}), &["10.0.0.1", "fd00::1"])],
            &["shop/cart 10.0.0.1", "shop/cart fd00::1"],
        ),
        ("not yet running", vec![but(cart(), "/status/phase", json!("Pending"))], one),
        ("nobody knows", vec![but(cart(), "/status/phase", json!("Unknown"))], one),
        ("ended", vec![but(cart(), "/status/phase", json!("Succeeded"))], nobody),
        ("failed", vec![but(cart(), "/status/phase", json!("Failed"))], nobody),
        ("on its way out", vec![but(cart(), "/metadata/deletionTimestamp", json!("2026-01-01T00:01:00Z"))], one),
        ("the node's network", vec![but(cart(), "/spec/hostNetwork", json!(true))], nobody),
        ("explicitly its own network", vec![but(cart(), "/spec/hostNetwork", json!(false))], one),
        ("no address yet", vec![but(cart(), "/status/podIPs", json!(null))], nobody),
        ("no status yet", vec![but(cart(), "/status", json!(null))], nobody),
        ("no address at all", vec![but(cart(), "/status/podIPs", json!([{"ip": "none"}, {"ip": "10.0.0.1"}]))], one),
        ("an account that is none", vec![but(cart(), "/spec/serviceAccountName", json!("a/b"))], nobody),
        ("no account", vec![but(cart(), "/spec/serviceAccountName", json!(null))], &["shop/default 10.0.0.1"]),
        ("two accounts", vec![cart(), at("web-1", "web", "10.0.0.2")], &["shop/cart 10.0.0.1", "shop/web 10.0.0.2"]),
        ("one account", vec![cart(), at("cart-2", "cart", "10.0.0.2")], &["shop/cart 10.0.0.1", "shop/cart 10.0.0.2"]),
        ("plain ports", vec![with_ports("443, 80,80,")], &["shop/cart 10.0.0.1 [80, 443]"]),
        ("unreadable ports", vec![with_ports("80,x,0,65536")], &["shop/cart 10.0.0.1 [80]"]),
        ("annotated later", vec![but(cart(), "/metadata/annotations", excluded("80"))], one),
        ("no longer annotated", vec![but(with_ports("80"), "/metadata/annotations", json!({}))], &["shop/cart 10.0.0.1 [80]"]),
        ("annotated, but without a sidecar", vec![pod(("shop", "a"), "a", 1, &injected, &["10.0.0.1"])], nobody),
        ("a sidecar that ends", vec![but(cart(), "/spec/initContainers/1/restartPolicy", json!(null))], nobody),
        (
            "the address of one that ended",
            vec![but(cart(), "/status/phase", json!("Failed")), at("a-1", "a", "10.0.0.1")],
            &["shop/a 10.0.0.1"],
        ),
        ("the newest", vec![cart(), meshed("a-2", "a", 2, &json!({}), &["10.0.0.1"])], &["shop/a 10.0.0.1"]),
        ("the newest in whatever order", vec![meshed("z-2", "z", 0, &json!({}), &["10.0.0.1"]), cart()], one),
        ("the newest has no sidecar", vec![cart(), plain(2)], nobody),
        ("an older one has none", vec![cart(), plain(0)], one),
        (
            "a node says when, and not who made it",
            vec![but(cart(), "/metadata/creationTimestamp", json!("2026-01-01T00:00:09Z")), plain(2)],
            nobody,
        ),
        (
            "without a node's word it is when it was made",
            vec![
                cart(),
                but(
                    but(plain(2), "/status/startTime", json!(null)),
                    "/metadata/creationTimestamp",
                    json!("2026-01-01T00:00:09Z"),
                ),
            ],
            nobody,
        ),
        ("a node's address is nobody's", vec![cart(), but(plain(2), "/spec/hostNetwork", json!(true))], one),
    ] {
        assert_eq!(workloads(pods), expected, "{what}");
    }
}

/// What a pod with these annotations asks in a namespace with these: the mode, ports that differ, and notes.
fn asked(of_pod: &Value, of_namespace: &Value, default: MtlsMode) -> (String, Vec<String>) {
    let pod = with_sidecar(pod(("shop", "cart-1"), "cart", 1, of_pod, &[]), "80,443");
    let options = Options { mtls: default, ..mesh_options() };
    let translation = translate(&objects([namespace("shop", of_namespace), pod]), &options);
    assert_eq!(translation.inbound.len(), 1, "it has no address yet, and its sidecar asks already");
    let inbound = &translation.inbound[&("shop".to_owned(), "cart-1".to_owned())];
    let ports: Vec<_> = inbound.ports.iter().map(|(port, mode)| format!(" {port}={mode:?}")).collect();
    let told = |(object, notes): (ObjectRef, Vec<String>)| notes.into_iter().map(move |note| format!("{object}: {note}"));
    (format!("{:?}{}", inbound.mode, ports.concat()), translation.notes.into_iter().flat_map(told).collect())
}

#[test]
fn what_is_asked_of_callers() {
    use MtlsMode::{Permissive, Strict};
    let mtls = |mode: &str| json!({"isthmus.dev/mtls": mode});
    let ports = |mode: &str, ports: &str| json!({"isthmus.dev/mtls": mode, "isthmus.dev/mtls-ports": ports});
    let (none, no) = (json!({}), "");
    for (of_pod, of_namespace, default, expected, notes) in [
        (&none, &none, Permissive, "Permissive", no),
        (&none, &none, Strict, "Strict", no),
        (&none, &mtls("strict"), Permissive, "Strict", no),
        (&none, &mtls("permissive"), Strict, "Permissive", no),
        (&mtls("permissive"), &mtls("strict"), Strict, "Permissive", no),
        (&mtls("strict"), &mtls("permissive"), Permissive, "Strict", no),
        (&mtls(" strict "), &none, Permissive, "Strict", no),
        (&mtls("Permissive"), &none, Permissive, "Strict", "Pod/shop/cart-1: isthmus.dev/mtls: `Permissive` is neither"),
        (&mtls(""), &none, Permissive, "Strict", "Pod/shop/cart-1: isthmus.dev/mtls: `` is neither"),
        (&none, &mtls("off"), Permissive, "Strict", "Namespace/shop: isthmus.dev/mtls: `off` is neither"),
        (&mtls("permissive"), &mtls("off"), Strict, "Permissive", "Namespace/shop: isthmus.dev/mtls: `off` is neither"),
        (&ports("permissive", "8080=strict, 9090=permissive,"), &none, Permissive, "Permissive 8080=Strict", no),
        (&ports("strict", "8080=strict,9090=permissive"), &none, Permissive, "Strict 9090=Permissive", no),
        (&json!({"isthmus.dev/mtls-ports": "80=permissive"}), &mtls("strict"), Permissive, "Strict 80=Permissive", no),
        (&ports("permissive", "8080=on"), &none, Permissive, "Permissive 8080=Strict", "`8080=on` ends neither"),
        (&ports("permissive", "8080"), &none, Permissive, "Permissive 8080=Strict", "`8080` ends neither"),
        (&ports("permissive", "80=permissive,80=strict"), &none, Permissive, "Permissive 80=Strict", "port 80 is there twice"),
        (&ports("permissive", "80=strict,80=permissive"), &none, Permissive, "Permissive 80=Strict", "port 80 is there twice"),
        (&ports("permissive", "80=strict,80=strict"), &none, Permissive, "Permissive 80=Strict", no),
        (&ports("permissive", "http=strict"), &none, Permissive, "Strict", "all ports that are not named are strict"),
        (&ports("permissive", "0=strict,80=permissive"), &none, Permissive, "Strict 80=Permissive", "`0=strict` does not"),
        (&ports("permissive", "strict"), &none, Permissive, "Strict", "`strict` does not begin"),
        (&ports("strict", "http=permissive"), &none, Permissive, "Strict", "so it is passed over"),
        (&ports("permissive", ","), &none, Permissive, "Permissive", no),
    ] {
        let mut of_pod = of_pod.clone();
        of_pod["isthmus.dev/exclude-inbound-ports"] = json!("443, 80,80,");
        let of_pod = &of_pod;
        let (found, told) = asked(of_pod, of_namespace, default);
        assert_eq!((found.as_str(), told.len()), (expected, usize::from(!notes.is_empty())), "{of_pod} {of_namespace} {told:?}");
        assert!(told.iter().all(|note| note.contains(notes)), "{told:?}");
    }
}

#[test]
fn without_a_mesh_nobody_is_in_it_and_without_its_authority_nobody_leaves() {
    let list = || objects([at("cart-1", "cart", "10.0.0.1"), service("front", 80)]);
    let none = translate(&list(), &options());
    assert!(none.snapshot.mesh.is_none() && none.snapshot.workloads.is_empty() && none.inbound.is_empty());
    let known = translate(&list(), &mesh_options());
    let unknown = translate(&list(), &Options { authority: None, ..mesh_options() });
    assert_eq!((unknown.snapshot.workloads.len(), unknown.inbound.len()), (1, 1), "they are not to be called in cleartext");
    assert_eq!(*unknown.snapshot, isthmus_routing::Snapshot { mesh: None, ..(*known.snapshot).clone() });
    assert_eq!(known.snapshot.mesh, mesh_options().authority);
    let without = translate(&list(), &Options { mesh: false, ..mesh_options() });
    assert_eq!(without.snapshot, none.snapshot, "an authority alone makes no mesh");
}

#[test]
fn ports_that_are_excluded_too_late_are_told() {
    for (made, annotated, told) in [
        ("", None, None),
        ("", Some(""), None),
        ("80,443", Some("443, 80,"), None),
        ("", Some("80"), Some("`80` has no effect on a pod that is there, whose sidecar leaves alone no port;")),
        ("80,443", Some("80"), Some("`80` has no effect on a pod that is there, whose sidecar leaves alone 80,443;")),
        ("80", Some("80,http"), Some("`80,http` has no effect")),
        ("80", None, Some("`` has no effect on a pod that is there, whose sidecar leaves alone 80;")),
    ] {
        let annotations = annotated.map_or(json!({}), |ports| json!({"isthmus.dev/exclude-inbound-ports": ports}));
        let pod = with_sidecar(pod(("shop", "cart-1"), "cart", 1, &annotations, &[]), made);
        let notes: Vec<_> = translate(&objects([pod]), &mesh_options()).notes.into_values().flatten().collect();
        assert_eq!(notes.len(), usize::from(told.is_some()), "{made} {annotated:?}: {notes:?}");
        assert!(notes.iter().all(|note| note.contains(told.unwrap())), "{notes:?}");
    }
}

/// A little of everything that pods are behind of.
fn world() -> Vec<Value> {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "front-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "front"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
    });
    let to_front = json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "front", "port": 80}]}]});
    let list = [
        gateway(&plain_listener()),
        service("front", 80),
        slice,
        route("HTTPRoute", "r", to_front),
        at("front-1", "front", "10.0.0.1"),
        at("front-2", "front", "10.0.0.2"),
        at("web-1", "web", "10.0.0.3"),
    ];
    base().into_iter().chain(list).collect()
}

#[test]
fn a_pod_changes_nothing_but_what_it_is() {
    let translated = |list: &[Value]| translate(&objects(list.to_vec()), &mesh_options());
    let list = world();
    let before = translated(&list);
    let changed = |pods: Vec<Value>| {
        let after = translated(&list.iter().cloned().chain(pods).collect::<Vec<_>>());
        assert_eq!(after.statuses, before.statuses);
        assert_eq!(after.infrastructure, before.infrastructure);
        let changes = after.snapshot.changes(&before.snapshot);
        let put = changes.puts.iter().map(|item: &Item| item.key().to_string());
        put.chain(changes.removes.iter().map(|key| format!("-{key}"))).collect::<Vec<_>>()
    };
    let strict = json!({"isthmus.dev/mtls": "strict", "isthmus.dev/mtls-ports": "80=permissive"});
    for (what, pods, expected) in [
        ("nothing", vec![], &[][..]),
        ("one more", vec![at("web-2", "web", "10.0.0.4")], &["ServiceAccount/shop/web"]),
        ("one without a sidecar", vec![pod(("shop", "p"), "p", 1, &json!({}), &["10.0.0.4"])], &[]),
        ("one that asks for more", vec![meshed("web-1", "web", 1, &strict, &["10.0.0.3"])], &[]),
        ("another address", vec![at("web-1", "web", "10.0.0.9")], &["ServiceAccount/shop/web"]),
        ("another account", vec![at("web-1", "cart", "10.0.0.3")], &["ServiceAccount/shop/cart", "-ServiceAccount/shop/web"]),
        ("its end", vec![but(at("web-1", "web", "10.0.0.3"), "/status/phase", json!("Failed"))], &["-ServiceAccount/shop/web"]),
    ] {
        assert_eq!(changed(pods), expected, "{what}");
    }
}

/// What `Service/shop/front`'s policy says where this becomes of its two pods: its conditions, and how the message of the third goes on.
fn refused(first: &Value, second: &Value, validation: &Value) -> Vec<String> {
    let metadata = json!({"generation": 4});
    let spec = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "front"}], "validation": validation});
    let mut list = world();
    list.push(object("gateway.networking.k8s.io/v1", "BackendTLSPolicy", "shop", "p", metadata, spec));
    for (name, address, of) in [("front-1", "10.0.0.1", first), ("front-2", "10.0.0.2", second)] {
        let mut pod = of.clone();
        pod["metadata"]["name"] = json!(name);
        pod["status"]["podIPs"] = json!([{"ip": address}]);
        list.push(pod);
    }
    let translation: Translation = translate(&objects(list), &mesh_options());
    let policies: BTreeMap<_, _> = translation.statuses.backend_tls_policies;
    let shown = |ancestor: &isthmus_api::status::PolicyAncestorStatus| {
        ancestor
            .conditions
            .iter()
            .map(|of| format!("{}={:?}/{} {}", of.r#type, of.status, of.reason, of.message))
            .collect::<Vec<_>>()
    };
    let ancestors: Vec<_> = policies.values().flat_map(|status| &status.ancestors).map(shown).collect();
    assert_eq!(ancestors.len(), 2, "the Gateway and the Service itself");
    assert_eq!(ancestors[0], ancestors[1]);
    ancestors[0].clone()
}

#[test]
fn a_policy_that_strict_pods_refuse_says_so() {
    let with = |annotations: &Value| meshed("", "front", 1, annotations, &[]);
    let strict = with(&json!({"isthmus.dev/mtls": "strict"}));
    let (permissive, plain) = (with(&json!({})), pod(("shop", ""), "front", 1, &json!({}), &[]));
    let ports = |ports: &str| with(&json!({"isthmus.dev/mtls": "strict", "isthmus.dev/mtls-ports": ports}));
    let system = json!({"hostname": "front.example.com", "wellKnownCACertificates": "System"});
    for (first, second, expected) in [
        (&permissive, &permissive, None),
        (&plain, &plain, None),
        (&strict, &permissive, Some("port 80 of Service shop/front leads to port 8080 of Pod shop/front-1;")),
        (&plain, &strict, Some("port 80 of Service shop/front leads to port 8080 of Pod shop/front-2;")),
        (&strict, &strict, Some("port 80 of Service shop/front leads to port 8080 of Pod shop/front-1 and 1 more;")),
        (&ports("8080=permissive"), &permissive, None),
        (&ports("80=permissive"), &permissive, Some("of Pod shop/front-1;")),
        (&with_sidecar(strict.clone(), "8080"), &permissive, None),
    ] {
        let conditions = refused(first, second, &system);
        let (common, own) = conditions.split_at(2);
        assert_eq!(common, ["Accepted=True/Accepted ", "ResolvedRefs=True/ResolvedRefs "], "{first} {second}");
        assert_eq!(own.len(), usize::from(expected.is_some()), "{first} {second}: {own:?}");
        for own in own {
            assert!(
                own.starts_with("isthmus.dev/RefusedByStrictMode=True/StrictMode ") && own.contains(expected.unwrap()),
                "{own}"
            );
        }
    }
    let invalid = json!({"hostname": "*.example.com", "wellKnownCACertificates": "System"});
    assert_eq!(refused(&strict, &strict, &invalid).len(), 2, "nothing is sent, so that nothing is refused");
}
