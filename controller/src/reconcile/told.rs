//! What proxies and those who give addresses say -> what translation makes statuses of. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_push::server::{Proxies, Proxy};
use isthmus_routing::{GatewayKey, RouteKey, Snapshot};

use crate::addresses::{Assigned, Assignment};
use crate::proof::ProxyState;

/// Listeners that a proxy cannot open, of what was published. One whose certificate is missing has its port; its status says the rest.
pub(super) fn unavailable(
    published: &BTreeMap<GatewayKey, Arc<Snapshot>>,
    proxies: &Proxies,
) -> BTreeMap<(GatewayKey, String), String> {
    let mut unavailable = BTreeMap::new();
    for (key, pods) in proxies {
        let Some(snapshot) = published.get(key) else { continue };
        for (pod, proxy) in pods {
            let faults = proxy.listeners.iter().filter(|(listener, _)| needs_only_a_port(snapshot, key, listener));
            unavailable.extend(faults.map(|(listener, why)| ((key.clone(), listener.clone()), format!("{pod}: {why}"))));
        }
    }
    unavailable
}

/// What there is to say about the addresses of each Gateway: by those who give them, and by those who write them down.
pub(super) fn notes(assignment: &Assignment, unwritten: &BTreeMap<GatewayKey, String>) -> BTreeMap<GatewayKey, Vec<String>> {
    let of = |(key, assigned): (&GatewayKey, &Assigned)| {
        let notes = assigned.faults.iter().chain(&assigned.notes).chain(unwritten.get(key)).cloned().collect();
        (key.clone(), notes)
    };
    assignment.gateways.iter().map(of).collect()
}

/// Rules that a proxy of an older release cannot run, by route.
pub(super) fn lacking(pods: &BTreeMap<String, Proxy>) -> BTreeMap<RouteKey, String> {
    let mut lacking = BTreeMap::<RouteKey, Vec<String>>::new();
    for (pod, proxy) in pods {
        for (route, rules) in &proxy.lacking {
            let rules: Vec<_> = rules.iter().map(|rule| format!("rules[{rule}]")).collect();
            lacking.entry(route.clone()).or_default().push(format!("{} on {pod} (release {})", rules.join(", "), proxy.package));
        }
    }
    lacking.into_iter().map(|(route, told)| (route, told.join("; "))).collect()
}

/// The same as the prover wants it.
pub(super) fn states(pods: &BTreeMap<String, Proxy>) -> BTreeMap<String, ProxyState> {
    let state = |proxy: &Proxy| ProxyState { acked: proxy.acked, nack: proxy.nack.as_ref().map(|(_, why)| why.clone()) };
    pods.iter().map(|(pod, proxy)| (pod.clone(), state(proxy))).collect()
}

/// Whether a listener has all but its port: it ends no TLS, or has a certificate for it.
fn needs_only_a_port(snapshot: &Snapshot, gateway: &GatewayKey, name: &str) -> bool {
    let listeners = snapshot.gateways.get(gateway).map(|gateway| gateway.listeners.as_slice()).unwrap_or_default();
    listeners.iter().find(|listener| listener.name == name).is_some_and(|listener| {
        let ends_tls = listener.protocol.is_tls() && !listener.passthrough;
        !ends_tls || listener.certificates.iter().any(|key| snapshot.certificates.contains_key(key))
    })
}

#[cfg(test)]
mod tests {
    use isthmus_routing::{Certificate, CertificateKey, Gateway, Listener, Protocol};

    use super::*;

    #[test]
    fn a_listener_that_ends_no_tls_needs_only_a_port() {
        let key = GatewayKey { namespace: "shop".to_owned(), name: "edge".to_owned() };
        let certificate = |name: &str| CertificateKey { namespace: "shop".to_owned(), name: name.to_owned() };
        let mut snapshot = Snapshot::default();
        let there = Certificate { chain: String::new(), key: String::new() };
        snapshot.certificates.insert(certificate("there"), Arc::new(there));
        for (protocol, passthrough, certificates, expected) in [
            (Protocol::Http, false, vec![], true),
            (Protocol::Tcp, false, vec![], true),
            (Protocol::Udp, false, vec![], true),
            (Protocol::Tls, true, vec![], true),
            (Protocol::Tls, false, vec![], false),
            (Protocol::Tls, false, vec!["gone"], false),
            (Protocol::Tls, false, vec!["gone", "there"], true),
            (Protocol::Https, false, vec!["gone"], false),
            (Protocol::Https, false, vec!["there"], true),
        ] {
            let certificates = certificates.into_iter().map(certificate).collect();
            let listener = Listener { passthrough, certificates, ..Listener::new("l", 443, protocol) };
            let gateway = Gateway { listeners: vec![listener], ..Gateway::default() };
            snapshot.gateways.insert(key.clone(), Arc::new(gateway));
            assert_eq!(needs_only_a_port(&snapshot, &key, "l"), expected, "{protocol:?} {passthrough}");
        }
        assert!(!needs_only_a_port(&snapshot, &key, "another"));
    }
}
