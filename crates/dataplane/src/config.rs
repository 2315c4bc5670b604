//! A snapshot -> what requests are served from: tables, rules and balancers, compiled once and swapped whole.
//!
//! Compiling keeps from the configuration before whatever is unchanged: the balancer state of an endpoint, a rule with its
//! counters, a parent with its route table, and a port (by pointer, so that the accepting side sees which ones changed).

mod bind;
pub(crate) mod parent;
pub(crate) mod rule;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use isthmus_routing::hostname::HostMap;
use isthmus_routing::{BackendKey, Gateway, GatewayKey, Listener, ServiceParent, Snapshot, Transport, Version};

use crate::Outbound;
use crate::balance::BackendState;
use crate::telemetry::Telemetry;
use crate::tls::handshake::Shaken;
use crate::upstream::ClientCertificate;
pub(crate) use bind::{Bind, Speech};
pub(crate) use parent::{CompiledParent, Owner};

/// The configuration that is served. A request takes it once and keeps it to its end.
pub(crate) type Shared = Arc<ArcSwap<Config>>;

/// A compiled snapshot.
#[derive(Debug)]
pub(crate) struct Config {
    /// Of the snapshot.
    pub(crate) version: Version,
    /// What was compiled.
    pub(crate) snapshot: Arc<Snapshot>,
    site: Arc<Site>,
    /// Everything that is listened on.
    pub(crate) ports: BTreeMap<Bind, Arc<Port>>,
    backends: HashMap<BackendKey, Arc<BackendState>, foldhash::fast::RandomState>,
}

/// What a snapshot does not say: where it is served, and for whom.
#[derive(Debug, Default)]
pub(crate) struct Site {
    /// Where Gateways without an address listen.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whose calls of Services are taken; none: nobody's.
    pub(crate) outbound: Option<Outbound>,
}

/// A port of a Gateway, or of a Service, on one of its addresses.
#[derive(Debug)]
pub(crate) struct Port {
    /// Where it is listened.
    pub(crate) bind: Bind,
    /// Whose port it is.
    pub(crate) owner: Owner,
    /// How what comes on it begins.
    pub(crate) speech: Speech,
    /// Whether connections begin with a header of the PROXY protocol before that.
    pub(crate) proxy_protocol: bool,
    /// How many proxies before us tell the truth of clients.
    pub(crate) trusted_hops: u8,
    /// What the Gateway shows to backends that ask for a certificate.
    pub(crate) client_certificate: Option<Arc<ClientCertificate>>,
    /// What routes are attached to, by hostname: the most specific one takes a request or a connection and no other answers for it.
    pub(crate) parents: HostMap<Arc<CompiledParent>>,
    /// The same in the order of the object.
    pub(crate) all: Vec<Arc<CompiledParent>>,
}

impl Port {
    /// Whether a connection was made to this parent, which still asks its clients for the same as it did then.
    pub(crate) fn is_of(&self, made_to: &Shaken, parent: &CompiledParent) -> bool {
        matches!(&self.owner, Owner::Gateway(gateway) if made_to.is(gateway, parent.source().name()))
    }
}

impl Config {
    /// What is served before the first snapshot: nothing.
    pub(crate) fn empty() -> Self {
        let snapshot = Arc::<Snapshot>::default();
        Self { version: snapshot.version(), snapshot, site: Arc::default(), ports: BTreeMap::new(), backends: HashMap::default() }
    }

    /// Compiles a snapshot. Cannot fail: what a snapshot refers to and does not hold is answered with an error when a request needs it.
    pub(crate) fn compile(snapshot: &Arc<Snapshot>, site: &Arc<Site>, previous: Option<&Self>, telemetry: &Telemetry) -> Self {
        let mut ports = BTreeMap::new();
        let sources = Sources { snapshot, previous, telemetry };
        for (key, gateway) in &snapshot.gateways {
            compile_gateway(key, gateway, site.addresses(gateway), &mut ports, &sources);
        }
        if let Some(outbound) = &site.outbound {
            compile_services(outbound, &mut ports, &sources);
        }
        let backend = |(key, backend)| {
            let before = previous.and_then(|previous: &Self| previous.backends.get(key));
            (BackendKey::clone(key), BackendState::compile(key, backend, snapshot, before))
        };
        Self {
            version: snapshot.version(),
            site: site.clone(),
            ports,
            backends: snapshot.backends.iter().map(backend).collect(),
            snapshot: snapshot.clone(),
        }
    }

    /// Where Gateways and Services of the snapshot listen.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// The balancer of a backend; none: the snapshot does not hold it, so it has no endpoints.
    pub(crate) fn backend(&self, key: &BackendKey) -> Option<&Arc<BackendState>> {
        self.backends.get(key)
    }
}

impl Site {
    /// Where a Gateway listens: on its own addresses, if it has any.
    pub(crate) fn addresses<'a>(&'a self, gateway: &'a Gateway) -> &'a [IpAddr] {
        if gateway.addresses.is_empty() { &self.addresses } else { &gateway.addresses }
    }
}

/// The ports of Services that clients of this side are listened for on: each with its addresses as they are opened.
pub(crate) fn services<'s>(
    outbound: &'s Outbound,
    snapshot: &'s Snapshot,
) -> impl Iterator<Item = (&'s BackendKey, &'s Arc<ServiceParent>, impl Iterator<Item = Bind> + 's)> {
    snapshot.services.iter().filter(|(key, _)| key.transport == Transport::Tcp).map(move |(key, service)| {
        let port = outbound.socket_port(key.port);
        (key, service, service.addresses.iter().filter_map(move |ip| Some(Bind::tcp(SocketAddr::new(*ip, port?)))))
    })
}

/// What a parent is compiled from.
pub(crate) struct Sources<'s> {
    pub(crate) snapshot: &'s Snapshot,
    pub(crate) previous: Option<&'s Config>,
    pub(crate) telemetry: &'s Telemetry,
}

impl Sources<'_> {
    /// The parent of this name as it was, if its owner had it on that port.
    fn previous_parent(&self, owner: &Owner, bind: &Bind, name: &str) -> Option<&Arc<CompiledParent>> {
        let port = self.previous?.ports.get(bind).filter(|port| port.owner == *owner)?;
        port.all.iter().find(|parent| parent.source().name() == name)
    }
}

fn compile_gateway(
    key: &GatewayKey,
    gateway: &Gateway,
    addresses: &[IpAddr],
    ports: &mut BTreeMap<Bind, Arc<Port>>,
    sources: &Sources<'_>,
) {
    let Some(first) = addresses.first() else { return };
    let owner = Owner::Gateway(key.clone());
    // The same for all of a Gateway's ports.
    let before = sources.previous.and_then(|previous| previous.ports.values().find(|port| port.owner == owner));
    let before = before.and_then(|port| port.client_certificate.as_ref());
    let client_certificate = ClientCertificate::of(gateway, sources.snapshot, before);
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
                let before = sources.previous_parent(&owner, &bind(first), &listener.name);
                CompiledParent::listener(key, listener, before, sources)
            })
            .collect();
        let terms = Terms {
            owner: &owner,
            speech,
            proxy_protocol: gateway.proxy_protocol,
            trusted_hops: gateway.trusted_hops,
            client_certificate: client_certificate.as_ref(),
            all: &all,
        };
        addresses.iter().for_each(|address| terms.open(bind(address), ports, sources));
    }
}

fn compile_services(outbound: &Outbound, ports: &mut BTreeMap<Bind, Arc<Port>>, sources: &Sources<'_>) {
    for (key, service, binds) in services(outbound, sources.snapshot) {
        let owner = Owner::Service(key.clone());
        let binds: Vec<_> = binds.collect();
        let Some(first) = binds.first() else { continue };
        let before = sources.previous_parent(&owner, first, &key.name);
        let all = [CompiledParent::service(key, service, &outbound.namespace, before, sources)];
        let terms = Terms {
            owner: &owner,
            speech: Speech::of(all[0].source().protocol()),
            proxy_protocol: false,
            // What a workload says of its own clients is no more than what any client says.
            trusted_hops: 0,
            client_certificate: None,
            all: &all,
        };
        binds.iter().for_each(|bind| terms.open(*bind, ports, sources));
    }
}

/// What is the same for a port on all addresses.
struct Terms<'t> {
    owner: &'t Owner,
    speech: Speech,
    proxy_protocol: bool,
    trusted_hops: u8,
    client_certificate: Option<&'t Arc<ClientCertificate>>,
    all: &'t [Arc<CompiledParent>],
}

impl Terms<'_> {
    /// Takes an address, unless another owner has it.
    fn open(&self, bind: Bind, ports: &mut BTreeMap<Bind, Arc<Port>>, sources: &Sources<'_>) {
        let taken = ports.entry(bind).or_insert_with(|| self.port(bind, sources.previous));
        if taken.owner != *self.owner {
            let (late, owner) = (self.owner, &taken.owner);
            tracing::warn!("{late} cannot have {bind}: {owner} has it already. Give one of them another address or port.");
        }
    }

    fn port(&self, bind: Bind, previous: Option<&Config>) -> Arc<Port> {
        let same = |port: &&Arc<Port>| {
            port.owner == *self.owner
                && port.speech == self.speech
                && port.proxy_protocol == self.proxy_protocol
                && port.trusted_hops == self.trusted_hops
                && port.client_certificate.as_ref().map(Arc::as_ptr) == self.client_certificate.map(Arc::as_ptr)
                && port.all.len() == self.all.len()
                && port.all.iter().zip(self.all).all(|(old, new)| Arc::ptr_eq(old, new))
        };
        if let Some(unchanged) = previous.and_then(|previous| previous.ports.get(&bind)).filter(same) {
            return unchanged.clone();
        }
        let mut parents = HostMap::default();
        // The first of two listeners with one hostname stays; `translate` reports such a conflict and sends one of them.
        for parent in self.all.iter().rev() {
            parents.insert(parent.source().hostname(), parent.clone());
        }
        Arc::new(Port {
            bind,
            owner: self.owner.clone(),
            speech: self.speech,
            proxy_protocol: self.proxy_protocol,
            trusted_hops: self.trusted_hops,
            client_certificate: self.client_certificate.cloned(),
            parents,
            all: self.all.to_vec(),
        })
    }
}

impl Port {
    /// The port that clients dial, which is not the opened one where ports are translated.
    pub(crate) fn dialled(&self) -> u16 {
        self.all.first().map_or(self.bind.address.port(), |parent| parent.source().port())
    }
}

#[cfg(test)]
mod tests;
