//! TLS on the accepting side: which listener a ClientHello is for, and what that listener shows.
//!
//! All that a handshake needs is made when a snapshot comes. A listener keeps its `ServerConfig`, and with it its ticket keys, for as
//! long as it lives and has the same terms: a new certificate is put into the resolver that the config already holds.

pub(crate) mod accept;
pub(crate) mod certificate;
pub(crate) mod client;
pub(crate) mod handshake;
pub(crate) mod hello;
pub(crate) mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use isthmus_routing::{Bundle, Certificate, CertificateKey, GatewayKey, Listener, Protocol, Snapshot, TlsSettings};
use rustls::ServerConfig;
use rustls::crypto::ring;

use crate::tls::certificate::{Loaded, Resolver};
use crate::tls::client::Clients;
use crate::tls::handshake::{Ending, Shaken};
use crate::tls::settings::Offer;

/// The TLS side of every listener that ends TLS, carried from snapshot to snapshot.
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
    terms: Terms,
    made: Made,
    /// Goes when connections that were made to it must not be used any more: when the listener goes, or asks its clients for something
    /// else. See [`Shaken`].
    standing: Arc<()>,
    /// Certificates that it refers to and that cannot be had.
    missing: Vec<(CertificateKey, String)>,
    /// Whether it has any.
    servable: bool,
}

/// What a config is made from. When it changes, another config takes the place of the first: no session lasts longer than the terms on
/// which it was made.
#[derive(Debug, PartialEq)]
struct Terms {
    /// HTTP, agreed on by ALPN.
    is_http: bool,
    settings: TlsSettings,
    clients: Option<ClientTerms>,
}

#[derive(Debug, PartialEq)]
struct ClientTerms {
    /// Those that are there.
    authorities: Vec<Arc<Bundle>>,
    is_optional: bool,
}

/// What is made from the terms.
#[derive(Debug)]
struct Made {
    resolver: Arc<Resolver>,
    ending: Ending,
    /// Why every handshake fails, whatever the certificates are.
    fault: Option<&'static str>,
}

impl Listeners {
    /// Follows a snapshot. A certificate that no longer parses, while a listener still refers to it, stays as it was: that is a
    /// mistake, and whoever made it would have an outage. So does one that is not in the snapshot: where a Secret was deleted,
    /// `translate` takes the reference away too, so here it is one that could not be read.
    pub(crate) fn update(&mut self, snapshot: &Snapshot) {
        let wanted: Vec<(&GatewayKey, &Listener)> = snapshot
            .gateways
            .iter()
            .flat_map(|(key, gateway)| gateway.listeners.iter().map(move |listener| (key, listener)))
            .filter(|(_, listener)| listener.protocol.is_tls() && !listener.passthrough)
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
            let terms = Terms::of(listener, snapshot);
            let old = before.remove(&id);
            let kept = old.as_ref().filter(|old| old.terms.ask_the_same_as(&terms)).map(|old| old.standing.clone());
            let standing = kept.unwrap_or_default();
            let made = match old {
                Some(old) if old.terms == terms => old.made,
                _ => terms.make(Shaken::new(gateway, &listener.name, Arc::downgrade(&standing))),
            };
            made.resolver.replace(loaded);
            self.listeners.insert(id, ListenerTls { terms, made, standing, missing, servable });
        }
    }

    /// What connections to a listener shake hands with; none: it does not end TLS.
    pub(crate) fn config(&self, gateway: &GatewayKey, listener: &str) -> Option<Ending> {
        Some(self.listeners.get(&(gateway.clone(), listener.to_owned()))?.made.ending.clone())
    }

    /// Why clients of a listener may be disappointed, in one line.
    pub(crate) fn fault(&self, gateway: &GatewayKey, listener: &str) -> Option<String> {
        let listener = self.listeners.get(&(gateway.clone(), listener.to_owned()))?;
        if let Some(fault) = listener.made.fault {
            return Some(format!("every handshake fails: {fault}"));
        }
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

const NO_CIPHER: &str = "the listener's minimum version and cipher suites leave nothing to speak: add a suite of that version to \
    `isthmus.dev/cipher-suites`";
const NO_AUTHORITY: &str =
    "no client certificate can be valid, because none of the CA certificates is there: see `caCertificateRefs`";

impl Terms {
    fn of(listener: &Listener, snapshot: &Snapshot) -> Self {
        let clients = listener.client_validation.as_ref().map(|wanted| ClientTerms {
            authorities: wanted.authorities.iter().filter_map(|key| snapshot.bundles.get(key).cloned()).collect(),
            is_optional: wanted.optional,
        });
        Self { is_http: listener.protocol == Protocol::Https, settings: listener.tls.clone(), clients }
    }

    /// Whether a connection that was made on these terms may be used on the others. Versions and ciphers bind new connections only.
    fn ask_the_same_as(&self, other: &Self) -> bool {
        self.clients == other.clients && self.is_http == other.is_http
    }

    /// Tickets are sealed with keys of this config alone, and its cache of sessions is its own: a session of one listener, or of other
    /// terms, is never resumed on it.
    fn make(&self, listener: Shaken) -> Made {
        let resolver = Arc::new(Resolver::default());
        let clients = self.clients.as_ref().map(|terms| Arc::new(Clients::new(&terms.authorities, terms.is_optional)));
        let offer = Offer::of(&self.settings);
        let fault = match (&offer, &clients) {
            (None, _) => Some(NO_CIPHER),
            (_, Some(clients)) if !clients.are_possible() => Some(NO_AUTHORITY),
            _ => None,
        };
        // With nothing to speak the listener still answers for its name, and to nobody: another one must not take its clients.
        let shown = if offer.is_some() { resolver.clone() } else { Arc::default() };
        let Offer { provider, versions, ordered } = offer.unwrap_or_default();
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .expect("an offer has a cipher for each of its versions");
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(shown);
        config.ignore_client_order = ordered;
        if self.is_http {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        if let Ok(ticketer) = ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Made { resolver, ending: Ending { config: Arc::new(config), clients, listener: Arc::new(listener) }, fault }
    }
}

/// Certificates in the listener's order, replaced whole.
pub(crate) type Certificates = ArcSwap<Vec<Arc<Loaded>>>;

#[cfg(test)]
mod tests;
