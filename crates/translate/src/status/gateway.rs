//! `Gateway.status`

use std::fmt::Display;

use isthmus_api::status::{Condition, GatewayAddress, GatewayStatus};

use super::{Verdict, listener};
use crate::graph::conflict::quoted;
use crate::graph::gateway::GatewayNode;
use crate::{Address, Proof};

/// The most addresses that a status takes.
const ADDRESSES: usize = 16;

/// `attached` is how many ListenerSets are attached to it.
pub(super) fn status(node: &GatewayNode, attached: i32, proof: Option<&Proof>) -> GatewayStatus {
    let lacks = proof.and_then(|proof| proof.lacks_gateway(&node.edition()));
    let bound = if node.fault.is_none() { node.addresses.as_slice() } else { &[] };
    let address = |address: &Address| {
        let kind = match address {
            Address::Ip(_) => "IPAddress",
            Address::Hostname(_) => "Hostname",
        };
        GatewayAddress { r#type: kind.to_owned(), value: address.to_string() }
    };
    GatewayStatus {
        addresses: bound.iter().take(ADDRESSES).map(address).collect(),
        conditions: conditions(node, proof),
        listeners: node.own_listeners().iter().map(|of| listener::status(node, of, node.generation, lacks.as_ref())).collect(),
        attached_listener_sets: attached,
    }
}

fn conditions(node: &GatewayNode, proof: Option<&Proof>) -> Vec<Condition> {
    let mut conditions = vec![
        accepted(node).condition("Accepted", node.generation),
        programmed(node, proof).condition("Programmed", node.generation),
        resolved_refs(node).condition("ResolvedRefs", node.generation),
    ];
    let insecure = insecure_frontend_validation_mode(node);
    conditions.extend(insecure.map(|verdict| verdict.condition("InsecureFrontendValidationMode", node.generation)));
    conditions
}

/// > This reason is used with the "Accepted" condition when one or
/// > more Listeners have an invalid or unsupported configuration
/// > and cannot be configured on the Gateway.
/// > This can be the reason when "Accepted" is "True" or "False", depending on whether
/// > the listener being invalid causes the entire Gateway to not be accepted.
///
/// One accepted listener is enough, be it of a ListenerSet:
///
/// > Implementations MUST treat the parent Gateway as having the merged
/// > list of all listeners from itself and attached ListenerSets
///
/// Else the conditions tell of the Gateway's own listeners alone. The message obeys:
///
/// > That Condition SHOULD clearly
/// > indicate in the Message which Listeners are conflicted, and which are
/// > Accepted.
fn accepted(node: &GatewayNode) -> Verdict {
    if let Some(fault) = &node.fault {
        return Verdict::no(fault.reason(), fault);
    }
    let own = node.own_listeners();
    if node.listeners.is_empty() {
        return Verdict::no("ListenersNotValid", "there is no listener; add one");
    }
    if !node.listeners.iter().any(listener::is_accepted) {
        return Verdict::no("ListenersNotValid", format_args!("no listener is accepted: {}", listener::broken(own)));
    }
    if own.iter().all(listener::is_whole) {
        return Verdict::yes("Accepted");
    }
    Verdict::yes("ListenersNotValid").with(listener::right_and_wrong(own))
}

/// > It is a positive-polarity summary condition, and so should always be
/// > present on the resource with ObservedGeneration set.
///
/// It is true when proxies have acknowledged this generation, and as long as there are proxies.
pub(super) fn programmed(node: &GatewayNode, proof: Option<&Proof>) -> Verdict {
    if let Some(fault) = &node.fault {
        return Verdict::no("Invalid", fault);
    }
    if !node.listeners.iter().any(listener::is_whole) {
        return Verdict::no("Invalid", format_args!("no listener can be served: {}", listener::broken(node.own_listeners())));
    }
    if !node.unusable.is_empty() {
        let message =
            format_args!("{} of spec.addresses cannot be used; remove it or make it available here", quoted(&node.unusable));
        return Verdict::no("AddressNotUsable", with_notes(node, &message));
    }
    if node.addresses.is_empty() {
        return Verdict::no("AddressNotAssigned", with_notes(node, &"no address was assigned yet"));
    }
    if let Some((reason, why)) = proof.and_then(|proof| proof.lacks_gateway(&node.edition())) {
        return Verdict::no(reason, why);
    }
    let notes = node.address_notes.iter().cloned().chain(proof.map(Proof::note)).filter(|note| !note.is_empty());
    Verdict::yes("Programmed").with(notes.collect::<Vec<_>>().join("; "))
}

/// > This condition indicates whether the controller was able to resolve all
/// > the object references for the Gateway that are not part of a specific
/// > Listener configuration, and also provides a positive-polarity summary of
/// > Listener's "ResolvedRefs" condition. This condition does not directly
/// > impact the Gateway's Accepted or Programmed conditions.
///
/// Listeners of ListenerSets have objects of their own to tell it.
fn resolved_refs(node: &GatewayNode) -> Verdict {
    let listeners: Vec<_> =
        node.own_listeners().iter().filter(|of| !of.unresolved.is_empty()).map(|of| of.name.clone()).collect();
    let of_listeners = format!("see ResolvedRefs of listeners {}", quoted(&listeners));
    match &node.client_certificate_fault {
        None if listeners.is_empty() => Verdict::yes("ResolvedRefs"),
        None => Verdict::no("ListenersNotResolved", of_listeners),
        Some(fault) => {
            let reason = match fault.reason() {
                "RefNotPermitted" => "RefNotPermitted",
                _ => "InvalidClientCertificateRef",
            };
            let more = if listeners.is_empty() { String::new() } else { format!("; {of_listeners}") };
            Verdict::no(reason, format_args!("spec.tls.backend.clientCertificateRef: {fault}{more}"))
        }
    }
}

/// > This condition is removed as soon as FrontendValidationModeType is changed back to `AllowValidOnly`.
fn insecure_frontend_validation_mode(node: &GatewayNode) -> Option<Verdict> {
    let places = node.frontend.optional();
    (!places.is_empty()).then(|| {
        let message = format_args!(
            "spec.tls.frontend ({}) lets clients in whatever certificate they show, or none; use AllowValidOnly to end that",
            places.join(", ")
        );
        Verdict::yes("ConfigurationChanged").with(message)
    })
}

fn with_notes(node: &GatewayNode, message: &dyn Display) -> String {
    node.address_notes.iter().fold(message.to_string(), |text, note| format!("{text}; {note}"))
}

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use serde_json::{Value, json};

    use crate::testing::{base, edge, gateway_with, objects, options, plain_listener, secret, shown, translated};
    use crate::{Listen, Options, translate};

    fn judged(spec: Value, options: &Options) -> (String, Vec<String>, bool) {
        let translation = translate(&objects(base().into_iter().chain([gateway_with(spec)])), options);
        let served = translation.snapshot.gateways.contains_key(&edge());
        let Some(status) = translation.statuses.gateways.get(&NamespacedName::new("shop", "edge")) else {
            return ("no status".to_owned(), Vec::new(), served);
        };
        let addresses = status.addresses.iter().map(|address| format!("{}:{}", address.r#type, address.value)).collect();
        (shown(&status.conditions, 3)[..2].join(" "), addresses, served)
    }

    #[test]
    fn conditions_and_addresses() {
        let http = plain_listener();
        let with = |more: Value| {
            let mut spec = json!({"gatewayClassName": "isthmus", "listeners": http});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let address = |kind: Option<&str>, value: Option<&str>| json!({"addresses": [{"type": kind, "value": value}]});
        let bad = json!({"name": "bad", "port": 1111, "protocol": "INVALID"});
        let broken = json!({"name": "tls", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "absent"}]}});
        let given = vec!["IPAddress:127.0.0.1".to_owned()];
        let none = Vec::new();
        for (spec, expected, addresses, served) in [
            (with(json!({})), "Accepted=True/Accepted Programmed=True/Programmed", &given, true),
            (with(json!({"gatewayClassName": "other"})), "no status", &none, false),
            (with(address(None, Some("127.0.0.1"))), "Accepted=True/Accepted Programmed=True/Programmed", &given, true),
            (with(address(Some("IPAddress"), None)), "Accepted=True/Accepted Programmed=True/Programmed", &given, true),
            (
                with(address(Some("IPAddress"), Some("127.0.0.2"))),
                "Accepted=True/Accepted Programmed=False/AddressNotUsable",
                &given,
                true,
            ),
            (
                with(address(Some("IPAddress"), Some("my-address"))),
                "Accepted=True/Accepted Programmed=False/AddressNotUsable",
                &given,
                true,
            ),
            (
                with(address(Some("Hostname"), Some("a.example"))),
                "Accepted=False/UnsupportedAddress Programmed=False/Invalid",
                &none,
                false,
            ),
            (
                with(address(Some("example.com/t"), None)),
                "Accepted=False/UnsupportedAddress Programmed=False/Invalid",
                &none,
                false,
            ),
            (
                with(json!({"infrastructure": {"parametersRef": {"group": "example.com", "kind": "P", "name": "p"}}})),
                "Accepted=False/InvalidParameters Programmed=False/Invalid",
                &none,
                false,
            ),
            (with(json!({"listeners": []})), "Accepted=False/ListenersNotValid Programmed=False/Invalid", &given, false),
            (with(json!({"listeners": [bad]})), "Accepted=False/ListenersNotValid Programmed=False/Invalid", &given, false),
            (
                with(json!({"listeners": [bad, http[0]]})),
                "Accepted=True/ListenersNotValid Programmed=True/Programmed",
                &given,
                true,
            ),
            (with(json!({"listeners": [broken]})), "Accepted=True/ListenersNotValid Programmed=False/Invalid", &given, false),
            (
                with(json!({"listeners": [broken, http[0]]})),
                "Accepted=True/ListenersNotValid Programmed=True/Programmed",
                &given,
                true,
            ),
        ] {
            let shown = spec.to_string();
            assert_eq!(judged(spec, &options()), (expected.to_owned(), addresses.clone(), served), "{shown}");
        }
        let spec = with(json!({}));
        let unassigned = ("Accepted=True/Accepted Programmed=False/AddressNotAssigned".to_owned(), none, false);
        assert_eq!(judged(spec.clone(), &Options::default()), unassigned);
        let mut port_in_use = options();
        port_in_use.unavailable.insert((edge(), "http".to_owned()), "address in use".to_owned());
        let (conditions, _, served) = judged(spec, &port_in_use);
        assert_eq!(conditions, "Accepted=False/ListenersNotValid Programmed=False/Invalid");
        assert!(served, "it stays in the snapshot, or it would never be tried again");
    }

    /// What `ResolvedRefs` says, whether there are other conditions besides, and the certificate of the snapshot.
    fn resolved(more: &Value) -> (String, String, String) {
        let mut spec = json!({"gatewayClassName": "isthmus", "listeners": plain_listener()});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut empty = secret("empty");
        empty["data"]["tls.key"] = "".into();
        let (mut opaque, mut theirs) = (secret("opaque"), secret("private"));
        opaque["type"] = "Opaque".into();
        theirs["metadata"]["namespace"] = "bank".into();
        let translation = translated([gateway_with(spec), secret("good"), empty, opaque, theirs]);
        let conditions = &translation.statuses.gateways[&NamespacedName::new("shop", "edge")].conditions;
        let told = shown(conditions, 3);
        let snapshot = &translation.snapshot;
        let shows = snapshot.gateways.get(&edge()).and_then(|gateway| gateway.client_certificate.clone());
        let state = shows.map_or_else(String::new, |key| {
            format!("{key} {} {}", snapshot.certificates.contains_key(&key), snapshot.kept.contains(&key))
        });
        (told[2].clone(), told[3..].join(" "), state)
    }

    #[test]
    fn references_of_the_gateway() {
        let to = |reference: Value| json!({"tls": {"backend": {"clientCertificateRef": reference}}});
        let modes = |default: &str, port: &str| {
            let of = |mode: &str| json!({"validation": {"mode": mode, "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}});
            json!({"tls": {"frontend": {"default": of(default), "perPort": [{"port": 8443, "tls": of(port)}]}}})
        };
        let broken = json!({"name": "tls", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "absent"}]}});
        let (valid, fallback) = ("AllowValidOnly", "AllowInsecureFallback");
        let resolved_refs = "ResolvedRefs=True/ResolvedRefs";
        let invalid = "ResolvedRefs=False/InvalidClientCertificateRef";
        let insecure = "InsecureFrontendValidationMode=True/ConfigurationChanged";
        for (more, expected, others, shows) in [
            (json!({}), resolved_refs, "", ""),
            (to(json!({"name": "good"})), resolved_refs, "", "Secret/shop/good true false"),
            (to(json!({"name": "absent"})), invalid, "", ""),
            (to(json!({"name": "opaque"})), invalid, "", ""),
            (to(json!({"name": "empty"})), invalid, "", "Secret/shop/empty false true"),
            (to(json!({"name": "good", "group": "wrong.example"})), invalid, "", ""),
            (to(json!({"name": "good", "kind": "WrongKind"})), invalid, "", ""),
            (to(json!({"name": "private", "namespace": "bank"})), "ResolvedRefs=False/RefNotPermitted", "", ""),
            (json!({"listeners": [broken, plain_listener()[0]]}), "ResolvedRefs=False/ListenersNotResolved", "", ""),
            (modes(valid, valid), resolved_refs, "", ""),
            (modes(fallback, valid), resolved_refs, insecure, ""),
            (modes(valid, fallback), resolved_refs, insecure, ""),
        ] {
            let shown = more.to_string();
            assert_eq!(resolved(&more), (expected.to_owned(), others.to_owned(), shows.to_owned()), "{shown}");
        }
    }

    #[test]
    fn what_is_said_of_clients_reaches_the_proxies() {
        let parameters = |clients: Value| {
            json!({
                "apiVersion": "isthmus.dev/v1alpha1", "kind": "GatewayParameters", "metadata": {"name": "p", "namespace": "shop"},
                "spec": {"clients": clients},
            })
        };
        let reference = json!({"parametersRef": {"group": "isthmus.dev", "kind": "GatewayParameters", "name": "p"}});
        let spec = json!({"gatewayClassName": "isthmus", "listeners": plain_listener(), "infrastructure": reference});
        for (clients, expected) in [
            (json!({}), (false, 0)),
            (json!({"proxyProtocol": "Off", "trustedHops": 16}), (false, 16)),
            (json!({"proxyProtocol": "Required"}), (true, 0)),
        ] {
            let translation = translated([gateway_with(spec.clone()), parameters(clients.clone())]);
            let gateway = &translation.snapshot.gateways[&edge()];
            assert_eq!((gateway.proxy_protocol, gateway.trusted_hops), expected, "{clients}");
            assert!(!gateway.keeps_clients, "{clients}");
        }
        let everywhere = Options { listen: Listen::Everywhere, ..options() };
        let translation = translate(&objects(base().into_iter().chain([gateway_with(spec)])), &everywhere);
        let gateway = &translation.snapshot.gateways[&edge()];
        let of_clients = (gateway.proxy_protocol, gateway.trusted_hops, gateway.keeps_clients);
        assert_eq!(of_clients, (false, 0, true), "parameters that are gone leave proxies with what they hold");
    }

    #[test]
    fn a_message_tells_good_listeners_from_bad_ones() {
        let listeners = json!([plain_listener()[0], {"name": "bad", "port": 1111, "protocol": "INVALID"}]);
        let translation = crate::testing::translated([crate::testing::gateway(&listeners)]);
        let status = &translation.statuses.gateways[&NamespacedName::new("shop", "edge")];
        assert_eq!(status.conditions[0].message, "listeners that are right: `http`; that are not: `bad` (UnsupportedProtocol)");
    }
}
