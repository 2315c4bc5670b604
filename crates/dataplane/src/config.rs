//! A snapshot -> what requests are served from: tables, rules and balancers, compiled once and swapped whole.
//!
//! Compiling keeps from the configuration before whatever is unchanged: the balancer state of an endpoint, a rule with its
//! counters, a listener with its route table, and a port (by pointer, so that the accepting side sees which ones changed).

mod bind;
pub(crate) mod listener;
pub(crate) mod rule;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use isthmus_routing::hostname::HostMap;
use isthmus_routing::{BackendKey, Gateway, GatewayKey, Listener, Snapshot, Version};

use crate::balance::BackendState;
use crate::telemetry::Telemetry;
use crate::upstream::ClientCertificate;
pub(crate) use bind::{Bind, Speech};
pub(crate) use listener::CompiledListener;

/// The configuration that is served. A request takes it once and keeps it to its end.
pub(crate) type Shared = Arc<ArcSwap<Config>>;

/// A compiled snapshot.
#[derive(Debug)]
pub(crate) struct Config {
    /// Of the snapshot.
    pub(crate) version: Version,
    /// What was compiled.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Where Gateways without an address listen.
    addresses: Arc<[IpAddr]>,
    /// Everything that is listened on.
    pub(crate) ports: BTreeMap<Bind, Arc<Port>>,
    backends: HashMap<BackendKey, Arc<BackendState>, foldhash::fast::RandomState>,
}

/// A port of a Gateway on one of its addresses.
#[derive(Debug)]
pub(crate) struct Port {
    /// Where it is listened.
    pub(crate) bind: Bind,
    /// Whose port it is.
    pub(crate) gateway: GatewayKey,
    /// How what comes on it begins.
    pub(crate) speech: Speech,
    /// Whether connections begin with a header of the PROXY protocol before that.
    pub(crate) proxy_protocol: bool,
    /// How many proxies before us tell the truth of clients.
    pub(crate) trusted_hops: u8,
    /// What the Gateway shows to backends that ask for a certificate.
    pub(crate) client_certificate: Option<Arc<ClientCertificate>>,
    /// The listeners by hostname: the most specific one takes a request or a connection and no other answers for it.
    pub(crate) listeners: HostMap<Arc<CompiledListener>>,
    /// The same in the order of the object.
    pub(crate) all: Vec<Arc<CompiledListener>>,
}

impl Config {
    /// What is served before the first snapshot: nothing.
    pub(crate) fn empty() -> Self {
        let snapshot = Arc::<Snapshot>::default();
        Self {
            version: snapshot.version(),
            snapshot,
            addresses: Arc::default(),
            ports: BTreeMap::new(),
            backends: HashMap::default(),
        }
    }

    /// Compiles a snapshot whose Gateways without an address listen on `addresses`. Cannot fail: what a snapshot refers to and does
    /// not hold is answered with an error when a request needs it.
    pub(crate) fn compile(
        snapshot: &Arc<Snapshot>,
        addresses: &Arc<[IpAddr]>,
        previous: Option<&Self>,
        telemetry: &Telemetry,
    ) -> Self {
        let mut ports = BTreeMap::new();
        for (key, gateway) in &snapshot.gateways {
            let addresses = addresses_of(gateway, addresses);
            compile_gateway(key, gateway, addresses, &mut ports, &Sources { snapshot, previous, telemetry });
        }
        let backend = |(key, backend)| {
            let before = previous.and_then(|previous: &Self| previous.backends.get(key));
            (BackendKey::clone(key), BackendState::compile(key, backend, snapshot, before))
        };
        Self {
            version: snapshot.version(),
            addresses: addresses.clone(),
            ports,
            backends: snapshot.backends.iter().map(backend).collect(),
            snapshot: snapshot.clone(),
        }
    }

    /// Where a Gateway of the snapshot listens.
    pub(crate) fn addresses<'c>(&'c self, gateway: &'c Gateway) -> &'c [IpAddr] {
        addresses_of(gateway, &self.addresses)
    }

    /// The balancer of a backend; none: the snapshot does not hold it, so it has no endpoints.
    pub(crate) fn backend(&self, key: &BackendKey) -> Option<&Arc<BackendState>> {
        self.backends.get(key)
    }
}

/// What a listener is compiled from.
pub(crate) struct Sources<'s> {
    pub(crate) snapshot: &'s Snapshot,
    pub(crate) previous: Option<&'s Config>,
    pub(crate) telemetry: &'s Telemetry,
}

impl Sources<'_> {
    /// The listener of this name as it was, if the Gateway had it on that port.
    fn previous_listener(&self, gateway: &GatewayKey, bind: &Bind, name: &str) -> Option<&Arc<CompiledListener>> {
        let port = self.previous?.ports.get(bind).filter(|port| port.gateway == *gateway)?;
        port.all.iter().find(|listener| listener.name() == name)
    }
}

/// Its own addresses, or else these.
fn addresses_of<'a>(gateway: &'a Gateway, otherwise: &'a [IpAddr]) -> &'a [IpAddr] {
    if gateway.addresses.is_empty() { otherwise } else { &gateway.addresses }
}

fn compile_gateway(
    key: &GatewayKey,
    gateway: &Gateway,
    addresses: &[IpAddr],
    ports: &mut BTreeMap<Bind, Arc<Port>>,
    sources: &Sources<'_>,
) {
    let Some(first) = addresses.first() else { return };
    // The same for all of a Gateway's ports.
    let before = sources.previous.and_then(|previous| previous.ports.values().find(|port| port.gateway == *key));
    let before = before.and_then(|port| port.client_certificate.as_ref());
    let certificate = ClientCertificate::of(gateway, sources.snapshot, before);
    let place = |listener: &Listener| (listener.socket_port(), listener.protocol.transport());
    let mut places: Vec<_> = gateway.listeners.iter().map(place).collect();
    places.sort_unstable();
    places.dedup();
    for (number, transport) in places {
        let bind = |ip: &IpAddr| Bind { address: SocketAddr::new(*ip, number), transport };
        // Compiled once, for all addresses: they differ in nothing else.
        let mut on_port = gateway.listeners.iter().filter(|listener| place(listener) == (number, transport)).peekable();
        let Some(speech) = on_port.peek().map(|listener| Speech::of(listener.protocol)) else { continue };
        let all: Vec<_> = on_port
            .filter(|listener| Speech::of(listener.protocol) == speech)
            .map(|listener| {
                let before = sources.previous_listener(key, &bind(first), &listener.name);
                CompiledListener::compile(key, listener, before, sources)
            })
            .collect();
        for address in addresses {
            let bind = bind(address);
            let port = Port::compile(bind, (key, gateway, certificate.as_ref()), speech, &all, sources.previous);
            let taken = ports.entry(bind).or_insert_with(|| port.clone());
            if taken.gateway != *key {
                let owner = &taken.gateway;
                tracing::warn!("{key} cannot have {bind}: {owner} has it already. Give one of them another address or port.");
            }
        }
    }
}

impl Port {
    /// The port that clients dial, which is not the opened one where ports are translated.
    pub(crate) fn dialled(&self) -> u16 {
        self.all.first().map_or(self.bind.address.port(), |listener| listener.port())
    }

    fn compile(
        bind: Bind,
        (key, gateway, certificate): (&GatewayKey, &Gateway, Option<&Arc<ClientCertificate>>),
        speech: Speech,
        all: &[Arc<CompiledListener>],
        previous: Option<&Config>,
    ) -> Arc<Self> {
        let same = |port: &&Arc<Self>| {
            port.gateway == *key
                && port.speech == speech
                && port.proxy_protocol == gateway.proxy_protocol
                && port.trusted_hops == gateway.trusted_hops
                && port.client_certificate.as_ref().map(Arc::as_ptr) == certificate.map(Arc::as_ptr)
                && port.all.len() == all.len()
                && port.all.iter().zip(all).all(|(old, new)| Arc::ptr_eq(old, new))
        };
        if let Some(unchanged) = previous.and_then(|previous| previous.ports.get(&bind)).filter(same) {
            return unchanged.clone();
        }
        let mut listeners = HostMap::default();
        // The first of two listeners with one hostname stays; `translate` reports such a conflict and sends one of them.
        for listener in all.iter().rev() {
            listeners.insert(listener.hostname(), listener.clone());
        }
        Arc::new(Self {
            bind,
            gateway: key.clone(),
            speech,
            proxy_protocol: gateway.proxy_protocol,
            trusted_hops: gateway.trusted_hops,
            client_certificate: certificate.cloned(),
            listeners,
            all: all.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests;
