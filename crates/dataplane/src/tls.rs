//! TLS on the accepting side: which listener a ClientHello is for, and what that listener shows.
//!
//! All that a handshake needs is made when a snapshot comes. A listener keeps its `ServerConfig`, and with it its ticket keys, for as
//! long as it lives: a new certificate is put into the resolver that the config already holds.

pub(crate) mod accept;
pub(crate) mod certificate;
pub(crate) mod hello;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use isthmus_routing::{Certificate, CertificateKey, GatewayKey, Listener, Protocol, Snapshot};
use rustls::ServerConfig;
use rustls::crypto::ring;

use crate::tls::certificate::{Loaded, Resolver};

/// The TLS side of every HTTPS listener, carried from snapshot to snapshot.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    certificates: BTreeMap<CertificateKey, Known>,
    listeners: BTreeMap<(GatewayKey, String), ListenerTls>,
}

/// A certificate as it came, and as rustls takes it.
#[derive(Debug)]
struct Known {
    source: Arc<Certificate>,
    loaded: Arc<Loaded>,
}

/// One listener, on all its addresses.
#[derive(Debug)]
struct ListenerTls {
    resolver: Arc<Resolver>,
    config: Arc<ServerConfig>,
    /// Certificates that it refers to and that cannot be had.
    missing: Vec<(CertificateKey, String)>,
    /// Whether it has any.
    servable: bool,
}

impl Listeners {
    /// Follows a snapshot. A certificate that has gone or that no longer parses, while a listener still refers to it, stays as it was.
    pub(crate) fn update(&mut self, snapshot: &Snapshot) {
        let wanted: Vec<(&GatewayKey, &Listener)> = snapshot
            .gateways
            .iter()
            .flat_map(|(key, gateway)| gateway.listeners.iter().map(move |listener| (key, listener)))
            .filter(|(_, listener)| listener.protocol == Protocol::Https)
            .collect();
        let mut faults = BTreeMap::new();
        let mut certificates = BTreeMap::new();
        for key in wanted.iter().flat_map(|(_, listener)| &listener.certificates) {
            if certificates.contains_key(key) {
                continue;
            }
            let (known, fault) = refresh(self.certificates.remove(key), snapshot.certificates.get(key));
            if let Some(known) = known {
                certificates.insert(key.clone(), known);
            }
            if let Some(fault) = fault {
                faults.insert(key.clone(), fault);
            }
        }
        self.certificates = certificates;
        let mut before = std::mem::take(&mut self.listeners);
        for (gateway, listener) in wanted {
            let id = (gateway.clone(), listener.name.clone());
            let loaded: Vec<_> =
                listener.certificates.iter().filter_map(|key| Some(self.certificates.get(key)?.loaded.clone())).collect();
            let missing = listener.certificates.iter().filter_map(|key| Some((key.clone(), faults.get(key)?.clone()))).collect();
            let servable = !loaded.is_empty();
            let (resolver, config) = match before.remove(&id) {
                Some(old) => (old.resolver, old.config),
                None => new_listener(),
            };
            resolver.replace(loaded);
            self.listeners.insert(id, ListenerTls { resolver, config, missing, servable });
        }
    }

    /// What connections to a listener shake hands with.
    pub(crate) fn config(&self, gateway: &GatewayKey, listener: &str) -> Option<Arc<ServerConfig>> {
        Some(self.listeners.get(&(gateway.clone(), listener.to_owned()))?.config.clone())
    }

    /// Why clients of a listener may be disappointed, in one line.
    pub(crate) fn fault(&self, gateway: &GatewayKey, listener: &str) -> Option<String> {
        let listener = self.listeners.get(&(gateway.clone(), listener.to_owned()))?;
        let reasons: Vec<String> = listener.missing.iter().map(|(key, fault)| format!("{key} {fault}")).collect();
        match (listener.servable, reasons.is_empty()) {
            (true, true) => None,
            (true, false) => Some(reasons.join("; ")),
            (false, true) => {
                Some("no certificate is configured, so every handshake fails: name one in certificateRefs".to_owned())
            }
            (false, false) => Some(format!("every handshake fails: {}", reasons.join("; "))),
        }
    }
}

/// What is served of a certificate from now on, and what is wrong with what the snapshot has of it.
fn refresh(known: Option<Known>, source: Option<&Arc<Certificate>>) -> (Option<Known>, Option<String>) {
    let kept = if known.is_some() { "; the last good one is still shown" } else { "" };
    let Some(source) = source else {
        return (known, Some(format!("is not there: create a Secret of type kubernetes.io/tls{kept}")));
    };
    match known {
        Some(known) if known.source == *source => (Some(known), None),
        known => match Loaded::parse(source) {
            Ok(loaded) => (Some(Known { source: source.clone(), loaded: Arc::new(loaded) }), None),
            Err(fault) => (known, Some(format!("cannot be used: {fault}{kept}"))),
        },
    }
}

/// Tickets are sealed with keys of this listener alone, so a session of one listener is never resumed on another.
fn new_listener() -> (Arc<Resolver>, Arc<ServerConfig>) {
    let resolver = Arc::new(Resolver::default());
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has suites for both versions")
        .with_no_client_auth()
        .with_cert_resolver(resolver.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if let Ok(ticketer) = ring::Ticketer::new() {
        config.ticketer = ticketer;
    }
    (resolver, Arc::new(config))
}

/// Certificates in the listener's order, replaced whole.
pub(crate) type Certificates = ArcSwap<Vec<Arc<Loaded>>>;

#[cfg(test)]
mod tests;
