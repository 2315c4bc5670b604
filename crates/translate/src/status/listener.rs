//! `Gateway.status.listeners[]` and `ListenerSet.status.listeners[]`

use isthmus_api::shared::GATEWAY_GROUP;
use isthmus_api::status::{ListenerStatus, RouteGroupKind};
use isthmus_routing::Protocol;

use super::{Verdict, listed};
use crate::graph::conflict::quoted;
use crate::graph::gateway::GatewayNode;
use crate::graph::listener::{ListenerNode, ListenerRefFault};

/// The reason of `Programmed=False`, and why in words.
type Lacks = (&'static str, String);

/// `generation` is that of the object which has the listener, and `lacks` is why proxies are not proven to run it.
pub(super) fn status(gateway: &GatewayNode, node: &ListenerNode, generation: i64, lacks: Option<&Lacks>) -> ListenerStatus {
    let mut conditions = vec![
        accepted(node).condition("Accepted", generation),
        programmed(gateway, node, lacks).condition("Programmed", generation),
        resolved_refs(node).condition("ResolvedRefs", generation),
        conflicted(node).condition("Conflicted", generation),
    ];
    conditions.extend(overlapping_tls_config(node).map(|verdict| verdict.condition("OverlappingTLSConfig", generation)));
    ListenerStatus {
        name: node.name.clone(),
        supported_kinds: node
            .kinds
            .iter()
            .map(|kind| RouteGroupKind { group: GATEWAY_GROUP.to_owned(), kind: kind.as_str().to_owned() })
            .collect(),
        attached_routes: i32::try_from(node.attached.len()).unwrap_or(i32::MAX),
        conditions,
    }
}

/// Whether `Accepted` is true.
pub(super) fn is_accepted(node: &ListenerNode) -> bool {
    node.is_valid() && node.can_validate() && node.unavailable.is_none()
}

/// Whether it is served as it is meant.
pub(super) fn is_whole(node: &ListenerNode) -> bool {
    is_accepted(node) && node.is_servable()
}

/// Those that are not served, each with its reason in one word.
pub(super) fn broken(listeners: &[ListenerNode]) -> String {
    let broken: Vec<_> = listeners.iter().filter(|of| !is_whole(of)).collect();
    listed(broken.into_iter().map(|of| format!("`{}` ({})", of.name, reason(of))))
}

/// Those that are served, and those that are not.
pub(super) fn right_and_wrong(listeners: &[ListenerNode]) -> String {
    let whole: Vec<_> = listeners.iter().filter(|of| is_whole(of)).map(|of| of.name.clone()).collect();
    let whole = if whole.is_empty() { "none".to_owned() } else { quoted(&whole) };
    format!("listeners that are right: {whole}; that are not: {}", broken(listeners))
}

/// Why a listener is not served, in one word.
fn reason(node: &ListenerNode) -> &'static str {
    if is_accepted(node) { resolved_refs(node).reason } else { accepted(node).reason }
}

/// > In general, a Listener will be marked as Accepted when the supplied
/// > configuration will generate at least some data plane configuration.
///
/// A Secret that is missing is told by `ResolvedRefs` and `Programmed`; the listener itself is right.
fn accepted(node: &ListenerNode) -> Verdict {
    if let Some(fault) = &node.fault {
        return Verdict::no(fault.reason(), fault);
    }
    if let Some(conflict) = &node.conflict {
        return Verdict::no(conflict.reason(), conflict);
    }
    if !node.can_validate() {
        let message = "clients have to show a certificate, and there is no CA certificate to compare it with; see ResolvedRefs";
        return Verdict::no("NoValidCACertificate", format_args!("{message}{}", kept(node)));
    }
    match &node.unavailable {
        Some(why) => Verdict::no("PortUnavailable", format_args!("port {} cannot be opened: {why}", node.port)),
        None => Verdict::yes("Accepted"),
    }
}

fn programmed(gateway: &GatewayNode, node: &ListenerNode, lacks: Option<&Lacks>) -> Verdict {
    if let Some(conflict) = &node.conflict {
        return Verdict::no(conflict.reason(), conflict);
    }
    if let Some(fault) = &node.fault {
        return Verdict::no("Invalid", fault);
    }
    if !node.is_servable() {
        let lacks = if node.can_validate() { "certificate that can be served" } else { "CA certificate for those of clients" };
        return Verdict::no("Invalid", format_args!("there is no {lacks}, see ResolvedRefs{}", kept(node)));
    }
    if node.unavailable.is_some() {
        return Verdict::no("Pending", "the port cannot be opened yet; see Accepted");
    }
    if gateway.fault.is_some() {
        return Verdict::no("Pending", "the Gateway is not accepted; see its conditions");
    }
    if gateway.addresses.is_empty() {
        return Verdict::no("Pending", "the Gateway has no address yet");
    }
    if let Some((_, why)) = lacks {
        return Verdict::no("Pending", why);
    }
    Verdict::yes("Programmed")
}

/// What becomes of a listener that proxies may still hold everything for.
fn kept(node: &ListenerNode) -> &'static str {
    if node.is_sent() { "; a proxy that holds an earlier one goes on with it" } else { "" }
}

/// The first fault gives the reason; what is not permitted comes before what is broken.
fn resolved_refs(node: &ListenerNode) -> Verdict {
    let reason = |fault: &&ListenerRefFault| match fault.reason() {
        "RefNotPermitted" => 0,
        "InvalidCertificateRef" => 1,
        _ => 2,
    };
    match node.unresolved.iter().min_by_key(reason) {
        Some(worst) => Verdict::no(worst.reason(), listed(node.unresolved.iter())),
        None => Verdict::yes("ResolvedRefs"),
    }
}

/// The only condition of a listener whose polarity is negative and that is set in both states.
fn conflicted(node: &ListenerNode) -> Verdict {
    match &node.conflict {
        Some(conflict) => Verdict::yes(conflict.reason()).with(conflict),
        None => Verdict::no("NoConflicts", ""),
    }
}

/// > This is a negative polarity condition and MUST NOT be set when it is
/// > False.
fn overlapping_tls_config(node: &ListenerNode) -> Option<Verdict> {
    (!node.overlaps.is_empty()).then(|| {
        let reuse = if node.protocol == Some(Protocol::Https) { "gets status 421" } else { "stays with this one" };
        let message = format_args!(
            "the hostname overlaps with that of {} on the same port; a client that reuses a connection for another listener's host {reuse}",
            node.overlaps.join(", ")
        );
        Verdict::yes("OverlappingHostnames").with(message)
    })
}

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use serde_json::{Value, json};

    use crate::testing::{edge, gateway, object, secret, shown, translated};

    /// `name: what differs from a listener where all is well`, and the names of listeners in the snapshot.
    fn judged(gateway: Value) -> (Vec<String>, String) {
        let granted = json!({
            "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop"}],
            "to": [{"group": "", "kind": "Secret", "name": "granted"}],
        });
        let mut empty = secret("empty");
        empty["data"]["tls.key"] = "".into();
        let (mut theirs, mut granted_secret) = (secret("private"), secret("granted"));
        theirs["metadata"]["namespace"] = "bank".into();
        granted_secret["metadata"]["namespace"] = "bank".into();
        let grant = object("gateway.networking.k8s.io/v1", "ReferenceGrant", "bank", "g", json!({}), granted);
        let translation = translated([gateway, secret("good"), secret("good2"), empty, theirs, granted_secret, grant]);
        let status = &translation.statuses.gateways[&NamespacedName::new("shop", "edge")];
        let well = [
            "Accepted=True/Accepted",
            "Programmed=True/Programmed",
            "ResolvedRefs=True/ResolvedRefs",
            "Conflicted=False/NoConflicts",
        ];
        let of = |listener: &isthmus_api::status::ListenerStatus| {
            let conditions = shown(&listener.conditions, 3);
            let differs: Vec<_> = conditions.into_iter().filter(|condition| !well.contains(&condition.as_str())).collect();
            let kinds: Vec<_> = listener.supported_kinds.iter().map(|kind| kind.kind.as_str()).collect();
            let kinds = if kinds == ["HTTPRoute", "GRPCRoute"] { String::new() } else { format!(" [{}]", kinds.join(",")) };
            format!("{}: {}{kinds}", listener.name, differs.join(" ")).replace(":  ", ": ").trim_end().to_owned()
        };
        let served = translation.snapshot.gateways.get(&edge()).map(|gateway| {
            let of = |listener: &isthmus_routing::Listener| {
                listener
                    .certificates
                    .iter()
                    .fold(listener.name.clone(), |text, certificate| format!("{text}+{}", certificate.name))
            };
            gateway.listeners.iter().map(of).collect::<Vec<_>>().join(" ")
        });
        (status.listeners.iter().map(of).collect(), served.unwrap_or_default())
    }

    fn check(table: Vec<(Value, &[&str], &str)>) {
        for (listeners, expected, served) in table {
            let expected = expected.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(judged(gateway(&listeners)), (expected, served.to_owned()), "{listeners}");
        }
    }

    #[test]
    fn values() {
        let one = |more: Value| {
            let mut listener = json!({"name": "a", "port": 80, "protocol": "HTTP"});
            listener.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!([listener])
        };
        let unsupported = ["a: Accepted=False/UnsupportedValue Programmed=False/Invalid"];
        let protocol = ["a: Accepted=False/UnsupportedProtocol Programmed=False/Invalid []"];
        let kinds = |kinds: Value| one(json!({"allowedRoutes": {"kinds": kinds}}));
        check(vec![
            (one(json!({})), &["a:"], "a"),
            (one(json!({"hostname": "*.example.com"})), &["a:"], "a"),
            (one(json!({"hostname": ""})), &["a:"], "a"),
            (one(json!({"hostname": "10.0.0.1"})), &unsupported, ""),
            (one(json!({"port": 0})), &unsupported, ""),
            (one(json!({"port": 65536})), &unsupported, ""),
            (one(json!({"protocol": "TCP"})), &["a: [TCPRoute]"], "a"),
            (one(json!({"protocol": "UDP"})), &["a: [UDPRoute]"], "a"),
            (one(json!({"protocol": "TCP", "hostname": "10.0.0.1"})), &["a: [TCPRoute]"], "a"),
            (
                one(json!({"protocol": "UDP", "port": 0})),
                &["a: Accepted=False/UnsupportedValue Programmed=False/Invalid [UDPRoute]"],
                "",
            ),
            (one(json!({"protocol": "SCTP"})), &protocol, ""),
            (one(json!({"protocol": "tcp"})), &protocol, ""),
            (one(json!({"protocol": "example.com/x"})), &protocol, ""),
            (one(json!({"allowedRoutes": {"namespaces": {"from": "Selector"}}})), &unsupported, ""),
            (
                one(
                    json!({"allowedRoutes": {"namespaces": {"from": "Selector", "selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}}}),
                ),
                &unsupported,
                "",
            ),
            (kinds(json!([{"kind": "GRPCRoute"}, {"kind": "HTTPRoute"}])), &["a: [GRPCRoute,HTTPRoute]"], "a"),
            (kinds(json!([{"kind": "InvalidRoute"}])), &["a: ResolvedRefs=False/InvalidRouteKinds []"], "a"),
            (
                kinds(json!([{"kind": "InvalidRoute"}, {"kind": "HTTPRoute"}])),
                &["a: ResolvedRefs=False/InvalidRouteKinds [HTTPRoute]"],
                "a",
            ),
            (kinds(json!([{"kind": "TCPRoute"}])), &["a: ResolvedRefs=False/InvalidRouteKinds []"], "a"),
            (
                one(json!({"protocol": "UDP", "allowedRoutes": {"kinds": [{"kind": "TCPRoute"}, {"kind": "UDPRoute"}]}})),
                &["a: ResolvedRefs=False/InvalidRouteKinds [UDPRoute]"],
                "a",
            ),
            (kinds(json!([{"kind": "HTTPRoute", "group": "example.com"}])), &["a: ResolvedRefs=False/InvalidRouteKinds []"], "a"),
            (
                json!([{"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "a", "port": 81, "protocol": "HTTP"}]),
                &[unsupported[0], unsupported[0]],
                "",
            ),
        ]);
    }

    #[test]
    fn conflicts() {
        let listener = |name: &str, port: u16, protocol: &str, hostname: Option<&str>| json!({"name": name, "port": port, "protocol": protocol, "hostname": hostname, "tls": {"certificateRefs": [{"name": "good"}]}});
        check(vec![
            (json!([listener("a", 80, "HTTP", None), listener("b", 81, "HTTP", None)]), &["a:", "b:"], "a b"),
            (json!([listener("a", 80, "HTTP", None), listener("b", 80, "HTTP", Some("b.example"))]), &["a:", "b:"], "a b"),
            (
                json!([
                    listener("a", 80, "HTTP", None),
                    listener("b", 80, "HTTP", Some("")),
                    listener("c", 80, "HTTP", Some("c.example"))
                ]),
                &[
                    "a: Accepted=False/HostnameConflict Programmed=False/HostnameConflict Conflicted=True/HostnameConflict",
                    "b: Accepted=False/HostnameConflict Programmed=False/HostnameConflict Conflicted=True/HostnameConflict",
                    "c:",
                ],
                "c",
            ),
            (
                json!([
                    listener("a", 80, "HTTP", None),
                    listener("b", 80, "HTTPS", Some("b.example")),
                    listener("c", 81, "HTTP", None)
                ]),
                &[
                    "a: Accepted=False/ProtocolConflict Programmed=False/ProtocolConflict Conflicted=True/ProtocolConflict",
                    "b: Accepted=False/ProtocolConflict Programmed=False/ProtocolConflict Conflicted=True/ProtocolConflict",
                    "c:",
                ],
                "c",
            ),
            (
                json!([listener("a", 80, "HTTP", None), listener("b", 80, "SCTP", None)]),
                &["a:", "b: Accepted=False/UnsupportedProtocol Programmed=False/Invalid []"],
                "a",
            ),
            (
                json!([
                    listener("a", 443, "HTTPS", Some("foo.example.com")),
                    listener("b", 443, "HTTPS", Some("foo.example.org")),
                    listener("c", 443, "HTTPS", Some("*.example.com")),
                    listener("d", 8443, "HTTPS", None),
                ]),
                &[
                    "a: OverlappingTLSConfig=True/OverlappingHostnames",
                    "b:",
                    "c: OverlappingTLSConfig=True/OverlappingHostnames",
                    "d:",
                ],
                "a+good b+good c+good d+good",
            ),
        ]);
    }

    #[test]
    fn conflicts_of_streams() {
        let listener = |name: &str, protocol: &str, hostname: Option<&str>, mode: Option<&str>| {
            let tls = mode.map(|mode| json!({"mode": mode, "certificateRefs": [{"name": "good"}]}));
            json!({"name": name, "port": 443, "protocol": protocol, "hostname": hostname, "tls": tls})
        };
        let told = |name: &str, reason: &str, kinds: &str| {
            let kinds = if kinds.is_empty() { String::new() } else { format!(" [{kinds}]") };
            format!("{name}: Accepted=False/{reason} Programmed=False/{reason} Conflicted=True/{reason}{kinds}")
        };
        let (protocol, hostname) = ("ProtocolConflict", "HostnameConflict");
        let (terminate, passthrough) = (Some("Terminate"), Some("Passthrough"));
        let table: Vec<(Value, Vec<String>, &str)> = vec![
            (
                json!([
                    listener("a", "HTTPS", Some("a.example.com"), terminate),
                    listener("b", "TLS", Some("b.example.com"), terminate),
                    listener("c", "TLS", Some("c.example.com"), passthrough),
                ]),
                vec!["a:".to_owned(), "b: [TLSRoute]".to_owned(), "c: [TLSRoute]".to_owned()],
                "a+good b+good c",
            ),
            (
                json!([
                    listener("a", "HTTPS", Some("a.example.com"), terminate),
                    listener("b", "TLS", Some("a.example.com"), passthrough),
                    listener("c", "TLS", Some("c.example.com"), terminate),
                ]),
                vec![
                    told("a", hostname, "") + " OverlappingTLSConfig=True/OverlappingHostnames",
                    told("b", hostname, "") + " OverlappingTLSConfig=True/OverlappingHostnames [TLSRoute]",
                    "c: [TLSRoute]".to_owned(),
                ],
                "c+good",
            ),
            (
                json!([
                    listener("a", "TLS", Some("a.example.com"), terminate),
                    listener("b", "TLS", Some("*.example.com"), passthrough),
                ]),
                vec![
                    "a: OverlappingTLSConfig=True/OverlappingHostnames [TLSRoute]".to_owned(),
                    "b: OverlappingTLSConfig=True/OverlappingHostnames [TLSRoute]".to_owned(),
                ],
                "a+good b",
            ),
            (
                json!([
                    listener("a", "TLS", Some("a.example.com"), passthrough),
                    listener("b", "TCP", Some("b.example.com"), None)
                ]),
                vec![told("a", protocol, "TLSRoute"), told("b", protocol, "TCPRoute")],
                "",
            ),
            (
                json!([listener("a", "HTTP", None, None), listener("b", "TLS", Some("b.example.com"), passthrough)]),
                vec![told("a", protocol, ""), told("b", protocol, "TLSRoute")],
                "",
            ),
            // Hostnames tell no connections and no datagrams apart.
            (
                json!([listener("a", "TCP", Some("a.example.com"), None), listener("b", "TCP", Some("b.example.com"), None)]),
                vec![told("a", protocol, "TCPRoute"), told("b", protocol, "TCPRoute")],
                "",
            ),
            (
                json!([
                    listener("a", "UDP", None, None),
                    listener("b", "UDP", Some("b.example.com"), None),
                    listener("c", "TCP", None, None),
                ]),
                vec![told("a", protocol, "UDPRoute"), told("b", protocol, "UDPRoute"), "c: [TCPRoute]".to_owned()],
                "c",
            ),
            (
                json!([listener("a", "UDP", None, None), listener("b", "HTTPS", None, terminate)]),
                vec!["a: [UDPRoute]".to_owned(), "b:".to_owned()],
                "a b+good",
            ),
        ];
        for (listeners, expected, served) in table {
            assert_eq!(judged(gateway(&listeners)), (expected, served.to_owned()), "{listeners}");
        }
    }

    #[test]
    fn conflicts_say_what_to_do() {
        let told = |of: &str, other: &str| {
            let listeners = json!([
                {"name": "a", "port": 53, "protocol": of, "tls": {"mode": "Passthrough"}},
                {"name": "b", "port": 53, "protocol": other, "tls": {"mode": "Passthrough"}},
            ]);
            let translation = translated([gateway(&listeners)]);
            translation.statuses.gateways[&NamespacedName::new("shop", "edge")].listeners[0].conditions[0].message.clone()
        };
        for (of, other, expected) in [
            ("UDP", "UDP", "UDP port 53 is also used by `b`; give each a port of its own"),
            ("TCP", "TCP", "TCP port 53 is also used by `b`; give each a port of its own"),
            ("TCP", "TLS", "port 53 is also used by `b` with another protocol; give each protocol a port of its own"),
            ("TLS", "TLS", "port 53 and this hostname are also used by `b`; change one of the two"),
        ] {
            assert_eq!(told(of, other), expected);
        }
    }

    #[test]
    fn who_ends_tls_needs_a_certificate() {
        let tls = |tls: Value| json!([{"name": "a", "port": 443, "protocol": "TLS", "tls": tls}]);
        let invalid = ["a: Programmed=False/Invalid ResolvedRefs=False/InvalidCertificateRef [TLSRoute]"];
        let denied = ["a: Programmed=False/Invalid ResolvedRefs=False/RefNotPermitted [TLSRoute]"];
        let unsupported = ["a: Accepted=False/UnsupportedValue Programmed=False/Invalid [TLSRoute]"];
        let well = ["a: [TLSRoute]"];
        check(vec![
            (tls(json!({"certificateRefs": [{"name": "good"}]})), &well, "a+good"),
            (tls(json!({"mode": "Terminate", "certificateRefs": [{"name": "good"}]})), &well, "a+good"),
            (tls(json!({"mode": "Terminate", "certificateRefs": [{"name": "absent"}]})), &invalid, ""),
            (tls(json!({"mode": "Terminate", "certificateRefs": [{"name": "private", "namespace": "bank"}]})), &denied, ""),
            (tls(json!({"mode": "Terminate", "options": {"example.com/a": "b"}})), &invalid, ""),
            (tls(json!(null)), &invalid, ""),
            (tls(json!({"mode": "Passthrough"})), &well, "a"),
            // What is not used need not be there.
            (tls(json!({"mode": "Passthrough", "certificateRefs": [{"name": "absent"}]})), &well, "a"),
            (tls(json!({"mode": "Passthrough", "options": {"example.com/a": "b"}})), &well, "a"),
            (tls(json!({"mode": "Passthrough", "options": {"isthmus.dev/min-version": "1.3"}})), &unsupported, ""),
            (tls(json!({"mode": "Passthrough", "options": {"isthmus.dev/unknown": "1.3"}})), &unsupported, ""),
        ]);
    }

    #[test]
    fn certificates() {
        let https =
            |references: Value| json!([{"name": "a", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": references}}]);
        let invalid = ["a: Programmed=False/Invalid ResolvedRefs=False/InvalidCertificateRef"];
        let denied = ["a: Programmed=False/Invalid ResolvedRefs=False/RefNotPermitted"];
        check(vec![
            (https(json!([{"name": "good"}])), &["a:"], "a+good"),
            (https(json!([{"name": "good"}, {"name": "good2"}, {"name": "good"}])), &["a:"], "a+good+good2"),
            (https(json!([{"name": "absent"}])), &invalid, ""),
            (https(json!([{"name": "empty"}])), &invalid, "a+empty"),
            (https(json!([{"name": "good", "kind": "WrongKind"}])), &invalid, ""),
            (https(json!([{"name": "good", "group": "wrong.example"}])), &invalid, ""),
            (https(json!([])), &invalid, ""),
            (json!([{"name": "a", "port": 443, "protocol": "HTTPS"}]), &invalid, ""),
            (https(json!([{"name": "private", "namespace": "bank"}])), &denied, ""),
            (https(json!([{"name": "absent", "namespace": "bank"}])), &denied, ""),
            (https(json!([{"name": "granted", "namespace": "bank"}])), &["a:"], "a+granted"),
            (https(json!([{"name": "absent"}, {"name": "good"}])), &["a: ResolvedRefs=False/InvalidCertificateRef"], "a+good"),
            (
                https(json!([{"name": "absent"}, {"name": "good"}, {"name": "private", "namespace": "bank"}])),
                &["a: ResolvedRefs=False/RefNotPermitted"],
                "a+good",
            ),
            (
                json!([{"name": "a", "port": 443, "protocol": "HTTPS", "tls": {"mode": "Passthrough", "certificateRefs": [{"name": "good"}]}}]),
                &["a: Accepted=False/UnsupportedValue Programmed=False/Invalid"],
                "",
            ),
        ]);
    }

    #[test]
    fn options() {
        let https = |options: Value| json!([{"name": "a", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "good"}], "options": options}}]);
        let unsupported = ["a: Accepted=False/UnsupportedValue Programmed=False/Invalid"];
        check(vec![
            (https(json!({"isthmus.dev/min-version": "1.3", "example.com/x": "y"})), &["a:"], "a+good"),
            (https(json!({"isthmus.dev/min-version": "1.0"})), &unsupported, ""),
            (https(json!({"isthmus.dev/min-versions": "1.3"})), &unsupported, ""),
        ]);
        let listeners = https(json!({"isthmus.dev/min-version": "1.3", "isthmus.dev/cipher-suites": "TLS_AES_128_GCM_SHA256"}));
        let translation = translated([gateway(&listeners), secret("good")]);
        let tls = &translation.snapshot.gateways[&edge()].listeners[0].tls;
        assert_eq!(serde_json::to_value(tls).unwrap(), json!({"min_version": "1.3", "ciphers": ["TLS_AES_128_GCM_SHA256"]}));
    }
}
