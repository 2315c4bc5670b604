//! A snapshot -> what requests are served from: tables, rules and balancers, compiled once and swapped whole.
//!
//! Compiling keeps from the configuration before whatever is unchanged: the balancer state of an endpoint, a rule with its
//! counters, a listener with its route table, and a port (by pointer, so that the accepting side sees which ones changed).

pub(crate) mod listener;
pub(crate) mod rule;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use isthmus_routing::hostname::HostMap;
use isthmus_routing::{BackendKey, Gateway, GatewayKey, Listener, Protocol, Snapshot, Version};

use crate::balance::BackendState;
use crate::telemetry::Telemetry;
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
    pub(crate) ports: BTreeMap<SocketAddr, Arc<Port>>,
    backends: HashMap<BackendKey, Arc<BackendState>, foldhash::fast::RandomState>,
}

/// A port of a Gateway on one of its addresses.
#[derive(Debug)]
pub(crate) struct Port {
    /// Where it is listened.
    pub(crate) address: SocketAddr,
    /// Whose port it is.
    pub(crate) gateway: GatewayKey,
    /// What is spoken on it.
    pub(crate) protocol: Protocol,
    /// The listeners by hostname: the most specific one takes a request and no other answers for it.
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
            (BackendKey::clone(key), BackendState::compile(backend, before))
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
    fn previous_listener(&self, gateway: &GatewayKey, address: &SocketAddr, name: &str) -> Option<&Arc<CompiledListener>> {
        let port = self.previous?.ports.get(address).filter(|port| port.gateway == *gateway)?;
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
    ports: &mut BTreeMap<SocketAddr, Arc<Port>>,
    sources: &Sources<'_>,
) {
    let Some(first) = addresses.first() else { return };
    let mut numbers: Vec<_> = gateway.listeners.iter().map(Listener::socket_port).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        // Compiled once, for all addresses: they differ in nothing else.
        let on_port = gateway.listeners.iter().filter(|listener| listener.socket_port() == number);
        let protocol = on_port.clone().map(|listener| listener.protocol).next().unwrap_or(Protocol::Http);
        let all: Vec<_> = on_port
            .filter(|listener| listener.protocol == protocol)
            .map(|listener| {
                let before = sources.previous_listener(key, &SocketAddr::new(*first, number), &listener.name);
                CompiledListener::compile(key, listener, before, sources)
            })
            .collect();
        for address in addresses {
            let address = SocketAddr::new(*address, number);
            let port = Port::compile(address, key, protocol, &all, sources.previous);
            let taken = ports.entry(address).or_insert_with(|| port.clone());
            if taken.gateway != *key {
                let owner = &taken.gateway;
                tracing::warn!("{key} cannot have {address}: {owner} has it already. Give one of them another address or port.");
            }
        }
    }
}

impl Port {
    /// The port that clients dial, which is not the opened one where ports are translated.
    pub(crate) fn dialled(&self) -> u16 {
        self.all.first().map_or(self.address.port(), |listener| listener.port())
    }

    fn compile(
        address: SocketAddr,
        gateway: &GatewayKey,
        protocol: Protocol,
        all: &[Arc<CompiledListener>],
        previous: Option<&Config>,
    ) -> Arc<Self> {
        let same = |port: &&Arc<Self>| {
            port.gateway == *gateway
                && port.protocol == protocol
                && port.all.len() == all.len()
                && port.all.iter().zip(all).all(|(old, new)| Arc::ptr_eq(old, new))
        };
        if let Some(unchanged) = previous.and_then(|previous| previous.ports.get(&address)).filter(same) {
            return unchanged.clone();
        }
        let mut listeners = HostMap::default();
        // The first of two listeners with one hostname stays; `translate` reports such a conflict and sends one of them.
        for listener in all.iter().rev() {
            listeners.insert(listener.hostname(), listener.clone());
        }
        Arc::new(Self { address, gateway: gateway.clone(), protocol, listeners, all: all.to_vec() })
    }
}

#[cfg(test)]
mod tests;
