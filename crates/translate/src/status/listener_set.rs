//! `ListenerSet.status`

use isthmus_api::status::{ConditionStatus, ListenerSetStatus};

use super::{Verdict, gateway, listener};
use crate::Proof;
use crate::graph::gateway::GatewayNode;
use crate::graph::listener::ListenerNode;
use crate::graph::listener_set::ListenerSetNode;

pub(super) fn status(node: &ListenerSetNode, parent: &GatewayNode, proof: Option<&Proof>) -> ListenerSetStatus {
    let listeners = node.listeners(parent);
    let generation = node.edition.generation;
    let lacks = proof.and_then(|proof| proof.lacks_listener_set(&node.name, &node.edition));
    ListenerSetStatus {
        conditions: vec![
            accepted(node, parent, listeners).condition("Accepted", generation),
            programmed(node, parent, listeners, proof).condition("Programmed", generation),
        ],
        listeners: listeners.iter().map(|of| listener::status(parent, of, generation, lacks.as_ref())).collect(),
    }
}

/// Whether it is attached to its Gateway.
///
/// > A ListenerSet is successfully attached to a Gateway when all the following conditions are met:
/// > - The ListenerSet is selected by the Gateway's AllowedListeners field
/// > - The ListenerSet has a valid ParentRef selecting the Gateway
/// > - The ListenerSet's status has the condition "Accepted: true"
pub(super) fn is_attached(status: &ListenerSetStatus) -> bool {
    status.conditions.iter().any(|condition| condition.r#type == "Accepted" && condition.status == ConditionStatus::True)
}

/// > This reason is used with the "Accepted" condition when one or
/// > more Listeners have an invalid or unsupported configuration
/// > and cannot be configured on the ListenerSet.
/// > This can be the reason when "Accepted" is "True" or "False", depending on whether
/// > the listener being invalid causes the entire ListenerSet to not be accepted.
///
/// One listener that can be served is enough.
fn accepted(node: &ListenerSetNode, parent: &GatewayNode, listeners: &[ListenerNode]) -> Verdict {
    if let Some(fault) = &node.fault {
        return Verdict::no(fault.reason(), fault);
    }
    if parent.fault.is_some() {
        return Verdict::no("ParentNotAccepted", format_args!("Gateway {} is not accepted; see its conditions", node.gateway));
    }
    if listeners.iter().all(listener::is_whole) {
        return Verdict::yes("Accepted");
    }
    if !listeners.iter().any(listener::is_whole) {
        let broken = listener::broken(listeners);
        return Verdict::no("ListenersNotValid", format_args!("no listener can be served: {broken}"));
    }
    Verdict::yes("ListenersNotValid").with(listener::right_and_wrong(listeners))
}

/// As of a Gateway, but for these listeners alone. Its Gateway has to be programmed too.
fn programmed(node: &ListenerSetNode, parent: &GatewayNode, listeners: &[ListenerNode], proof: Option<&Proof>) -> Verdict {
    if let Some(fault) = &node.fault {
        return Verdict::no(fault.reason(), fault);
    }
    if !listeners.iter().any(listener::is_whole) && parent.fault.is_none() {
        let only_ports = listeners.iter().any(|of| of.unavailable.is_some() && of.is_servable());
        let reason = if only_ports { "PortUnavailable" } else { "ListenersNotValid" };
        let broken = listener::broken(listeners);
        return Verdict::no(reason, format_args!("no listener can be served: {broken}"));
    }
    let of_parent = gateway::programmed(parent, proof);
    if of_parent.status != ConditionStatus::True {
        let (name, Verdict { reason, message, .. }) = (&node.gateway, of_parent);
        return Verdict::no("ParentNotProgrammed", format_args!("Gateway {name} is not programmed ({reason}): {message}"));
    }
    if let Some((reason, why)) = proof.and_then(|proof| proof.lacks_listener_set(&node.name, &node.edition)) {
        return Verdict::no(reason, why);
    }
    Verdict::yes("Programmed").with(proof.map(Proof::note).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use isthmus_api::status::ListenerSetStatus;
    use serde_json::{Value, json};

    use crate::testing::{base, edge, gateway_with, object, objects, options, route, secret, shown};
    use crate::{Edition, Options, Proof, Translation, translate};

    fn gateway(allowed: &Value) -> Value {
        let own = json!({"name": "http", "port": 80, "protocol": "HTTP", "hostname": "own.example.com"});
        gateway_with(json!({"gatewayClassName": "isthmus", "listeners": [own], "allowedListeners": {"namespaces": allowed}}))
    }

    /// A ListenerSet of `Gateway/shop/edge` and of generation 5.
    fn set(namespace: &str, name: &str, listeners: &Value) -> Value {
        let spec = json!({"parentRef": {"name": "edge", "namespace": "shop"}, "listeners": listeners});
        object("gateway.networking.k8s.io/v1", "ListenerSet", namespace, name, json!({"generation": 5, "uid": "u"}), spec)
    }

    fn translated_with(list: impl IntoIterator<Item = Value>, options: &Options) -> Translation {
        translate(&objects(base().into_iter().chain(list)), options)
    }

    /// The conditions of a ListenerSet, and the names of the listeners that are served.
    fn judged(translation: &Translation, namespace: &str, name: &str) -> (String, Vec<String>) {
        let none = ListenerSetStatus::default();
        let status = translation.statuses.listener_sets.get(&NamespacedName::new(namespace, name)).unwrap_or(&none);
        let served = translation.snapshot.gateways.get(&edge()).map(|gateway| gateway.listeners.as_slice()).unwrap_or_default();
        (shown(&status.conditions, 5).join(" "), served.iter().map(|listener| listener.name.clone()).collect())
    }

    #[test]
    fn who_may_attach() {
        let added = json!([{"name": "http", "port": 80, "protocol": "HTTP", "hostname": "added.example.com"}]);
        let attached = "Accepted=True/Accepted Programmed=True/Programmed";
        let refused = "Accepted=False/NotAllowed Programmed=False/NotAllowed";
        let by = |selector: Value| json!({"from": "Selector", "selector": selector});
        for (allowed, namespace, expected) in [
            (json!(null), "shop", refused),
            (json!({}), "shop", refused),
            (json!({"from": "None"}), "shop", refused),
            (json!({"from": "Same"}), "shop", attached),
            (json!({"from": "Same"}), "other", refused),
            (json!({"from": "All"}), "other", attached),
            (by(json!({"matchLabels": {"team": "b"}})), "other", attached),
            (by(json!({"matchLabels": {"team": "a"}})), "other", refused),
            (by(json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}})), "shop", attached),
            (by(json!({"matchExpressions": [{"key": "team", "operator": "Like"}]})), "other", refused),
            (json!({"from": "Selector"}), "other", refused),
        ] {
            let translation = translated_with([gateway(&allowed), set(namespace, "s", &added)], &options());
            let (conditions, served) = judged(&translation, namespace, "s");
            let added = format!("{namespace}/s/http");
            let expected_served = if expected == attached { vec!["http".to_owned(), added] } else { vec!["http".to_owned()] };
            assert_eq!((conditions.as_str(), &served), (expected, &expected_served), "{allowed} {namespace}");
            let of_gateway = &translation.statuses.gateways[&NamespacedName::new("shop", "edge")];
            assert_eq!(of_gateway.attached_listener_sets, i32::from(expected == attached), "{allowed} {namespace}");
            assert_eq!(of_gateway.listeners.len(), 1, "a Gateway's status has its own listeners only");
        }
    }

    #[test]
    fn conditions_follow_from_the_listeners() {
        let good = json!({"name": "good", "port": 80, "protocol": "HTTP", "hostname": "good.example.com"});
        let conflict = json!({"name": "taken", "port": 80, "protocol": "HTTP", "hostname": "own.example.com"});
        let tcp = json!({"name": "tcp", "port": 80, "protocol": "TCP"});
        let odd = json!({"name": "odd", "port": 81, "protocol": "SCTP"});
        let (dns, again) =
            (json!({"name": "dns", "port": 80, "protocol": "UDP"}), json!({"name": "again", "port": 80, "protocol": "UDP"}));
        let https = |secret: &str| json!({"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": secret}]}});
        let some = "Accepted=True/ListenersNotValid Programmed=True/Programmed";
        let none = "Accepted=False/ListenersNotValid Programmed=False/ListenersNotValid";
        let table: Vec<(Value, &str, &[&str], &[&str])> = vec![
            (json!([good]), "Accepted=True/Accepted Programmed=True/Programmed", &["shop/s/good"], &[""]),
            (
                json!([good, conflict]),
                some,
                &["shop/s/good"],
                &["", "Accepted=False/HostnameConflict Programmed=False/HostnameConflict Conflicted=True/HostnameConflict"],
            ),
            (
                json!([good, tcp]),
                some,
                &["shop/s/good"],
                &["", "Accepted=False/ProtocolConflict Programmed=False/ProtocolConflict Conflicted=True/ProtocolConflict"],
            ),
            (json!([dns]), "Accepted=True/Accepted Programmed=True/Programmed", &["shop/s/dns"], &[""]),
            (
                json!([dns, again]),
                none,
                &[],
                &["Accepted=False/ProtocolConflict Programmed=False/ProtocolConflict Conflicted=True/ProtocolConflict"; 2],
            ),
            (json!([odd]), none, &[], &["Accepted=False/UnsupportedProtocol Programmed=False/Invalid"]),
            (json!([https("cert")]), "Accepted=True/Accepted Programmed=True/Programmed", &["shop/s/https"], &[""]),
            (json!([https("absent")]), none, &[], &["Programmed=False/Invalid ResolvedRefs=False/InvalidCertificateRef"]),
            (
                json!([https("absent"), good]),
                some,
                &["shop/s/good"],
                &["Programmed=False/Invalid ResolvedRefs=False/InvalidCertificateRef", ""],
            ),
        ];
        let well = ["Accepted=True/", "Programmed=True/", "ResolvedRefs=True/", "Conflicted=False/"];
        for (listeners, expected, served, of_listeners) in table {
            let list = [gateway(&json!({"from": "Same"})), set("shop", "s", &listeners), secret("cert")];
            let translation = translated_with(list, &options());
            let (conditions, found) = judged(&translation, "shop", "s");
            let found: Vec<_> = found.iter().skip(1).map(String::as_str).collect();
            assert_eq!((conditions.as_str(), found.as_slice()), (expected, served), "{listeners}");
            let status = &translation.statuses.listener_sets[&NamespacedName::new("shop", "s")];
            let of = status.listeners.iter().map(|listener| {
                let conditions = shown(&listener.conditions, 5);
                let differs = conditions.into_iter().filter(|text| !well.iter().any(|good| text.starts_with(good)));
                differs.collect::<Vec<_>>().join(" ")
            });
            assert_eq!(of.collect::<Vec<_>>(), of_listeners, "{listeners}");
            let of_gateway =
                shown(&translation.statuses.gateways[&NamespacedName::new("shop", "edge")].conditions, 3)[..2].join(" ");
            assert_eq!(of_gateway, "Accepted=True/Accepted Programmed=True/Programmed", "a ListenerSet hurts only itself");
        }
    }

    #[test]
    fn conditions_follow_from_the_gateway() {
        let added = json!([{"name": "http", "port": 8080, "protocol": "HTTP"}]);
        let list = || [gateway(&json!({"from": "Same"})), set("shop", "s", &added)];
        let mut refused = list();
        refused[0]["spec"]["addresses"] = json!([{"type": "Hostname", "value": "a.example"}]);
        let expected = "Accepted=False/ParentNotAccepted Programmed=False/ParentNotProgrammed";
        assert_eq!(judged(&translated_with(refused, &options()), "shop", "s").0, expected);

        let expected = "Accepted=True/Accepted Programmed=False/ParentNotProgrammed";
        assert_eq!(judged(&translated_with(list(), &Options::default()), "shop", "s").0, expected, "no address yet");

        let mut closed = options();
        closed.unavailable.insert((edge(), "shop/s/http".to_owned()), "address in use".to_owned());
        let (conditions, served) = judged(&translated_with(list(), &closed), "shop", "s");
        assert_eq!(conditions, "Accepted=False/ListenersNotValid Programmed=False/PortUnavailable");
        assert_eq!(served, ["http", "shop/s/http"], "it stays in the snapshot, or it would never be tried again");

        let mut own_closed = options();
        own_closed.unavailable.insert((edge(), "http".to_owned()), "address in use".to_owned());
        let translation = translated_with(list(), &own_closed);
        assert_eq!(judged(&translation, "shop", "s").0, "Accepted=True/Accepted Programmed=True/Programmed");
        let of_gateway = shown(&translation.statuses.gateways[&NamespacedName::new("shop", "edge")].conditions, 3)[..2].join(" ");
        assert_eq!(of_gateway, "Accepted=True/ListenersNotValid Programmed=True/Programmed", "one that is served is enough");
    }

    #[test]
    fn it_is_programmed_when_proxies_serve_this_edition() {
        let added = json!([{"name": "http", "port": 8080, "protocol": "HTTP"}]);
        let list = || [gateway(&json!({"from": "Same"})), set("shop", "s", &added)];
        let name = NamespacedName::new("shop", "s");
        let current = translated_with(list(), &options()).editions[&edge()].clone();
        assert_eq!(current.listener_sets[&name], Edition { uid: "u".to_owned(), generation: 5 });
        let mut before = current.clone();
        before.listener_sets.insert(name.clone(), Edition { uid: "u".to_owned(), generation: 4 });
        for (editions, ready, expected) in [
            (current.clone(), 1, "Accepted=True/Accepted Programmed=True/Programmed"),
            (before, 1, "Accepted=True/Accepted Programmed=False/Pending"),
            (current, 0, "Accepted=True/Accepted Programmed=False/ParentNotProgrammed"),
        ] {
            let mut asked = options();
            asked.proof = Some([(edge(), Proof { editions, ready, ..Proof::default() })].into());
            let translation = translated_with(list(), &asked);
            assert_eq!(judged(&translation, "shop", "s").0, expected);
            let listener = shown(&translation.statuses.listener_sets[&name].listeners[0].conditions, 5)[1].clone();
            assert_eq!(listener == "Programmed=True/Programmed", expected.ends_with("True/Programmed"), "{listener}");
        }
    }

    #[test]
    fn messages_tell_a_listener_set_nothing_of_others() {
        let x = json!([{"name": "x", "port": 80, "protocol": "HTTP", "hostname": "x.example.com"}]);
        let own = json!([{"name": "o", "port": 80, "protocol": "HTTP", "hostname": "own.example.com"}]);
        let list = [gateway(&json!({"from": "All"})), set("other", "secret", &x), set("shop", "a", &own), set("shop", "b", &x)];
        let translation = translated_with(list, &options());
        let told = |name: &str| {
            let status = &translation.statuses.listener_sets[&NamespacedName::new("shop", name)];
            status.listeners[0].conditions[0].message.clone()
        };
        assert_eq!(
            told("a"),
            "port 80 and this hostname are already used by listener `http` of the Gateway; change one of the two"
        );
        assert_eq!(
            told("b"),
            "port 80 and this hostname are already used by a ListenerSet of the same Gateway that is older or comes first by name; \
             change one of the two"
        );
    }

    #[test]
    fn the_first_listener_set_has_the_port() {
        let of = |protocol: &str, hostname: &str| json!([{"name": "x", "port": 443, "protocol": protocol, "hostname": hostname, "tls": {"mode": "Passthrough"}}]);
        let well = "Accepted";
        for (first, second, expected) in [
            (of("TCP", ""), of("UDP", ""), well),
            (of("TLS", "a.example.com"), of("TLS", "b.example.com"), well),
            (of("TCP", ""), of("TCP", ""), "ProtocolConflict TCP port 443 is already used by a ListenerSet"),
            (of("UDP", ""), of("UDP", ""), "ProtocolConflict UDP port 443 is already used by a ListenerSet"),
            (of("TLS", "a.example.com"), of("TCP", ""), "ProtocolConflict another protocol is already spoken on port 443"),
            (of("TLS", "a.example.com"), of("TLS", "a.example.com"), "HostnameConflict port 443 and this hostname are already"),
        ] {
            let list = [gateway(&json!({"from": "Same"})), set("shop", "a", &first), set("shop", "b", &second)];
            let translation = translated_with(list, &options());
            let accepted = |name: &str| {
                let status = &translation.statuses.listener_sets[&NamespacedName::new("shop", name)];
                let condition = &status.listeners[0].conditions[0];
                format!("{} {}", condition.reason, condition.message).trim_end().to_owned()
            };
            assert_eq!(accepted("a"), well, "{first}");
            assert!(accepted("b").starts_with(expected), "{}", accepted("b"));
        }
    }

    #[test]
    fn a_route_is_told_of_the_listener_set_it_named() {
        let added = json!([{"name": "a", "port": 80, "protocol": "HTTP", "hostname": "a.example.com"}]);
        let to = |more: Value| {
            let mut parent = json!({"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "s"});
            parent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            route("HTTPRoute", "r", json!({"parentRefs": [parent], "hostnames": ["b.example.com"], "rules": [{}]}))
        };
        for (allowed, parent, expected) in [
            (
                "Same",
                json!({"sectionName": "http"}),
                "NoMatchingParent: ListenerSet shop/s has no listener with the sectionName and port of the parentRef; correct them: it has \
                 `a` on port 80",
            ),
            (
                "Same",
                json!({}),
                "NoMatchingListenerHostname: no hostname of the route intersects with that of `a` (a.example.com) of ListenerSet shop/s; \
                 correct the route's or the listener's",
            ),
            ("None", json!({}), "NoMatchingParent: ListenerSet shop/s is not attached to its Gateway; see its conditions"),
        ] {
            let list = [gateway(&json!({"from": allowed})), set("shop", "s", &added), to(parent)];
            let statuses = translated_with(list, &options()).statuses;
            let accepted = &statuses.http_routes[&NamespacedName::new("shop", "r")].parents[0].conditions[0];
            assert_eq!(format!("{}: {}", accepted.reason, accepted.message), expected);
        }
        let elsewhere = [gateway(&json!({"from": "Same"})), to(json!({"name": "absent"}))];
        assert!(translated_with(elsewhere, &options()).statuses.http_routes.is_empty(), "nobody's parentRef has no status");
    }
}
