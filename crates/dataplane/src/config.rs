//! A snapshot -> what requests are served from: tables, rules and balancers, compiled once and swapped whole.
//!
//! Compiling keeps from the configuration before whatever is unchanged: the balancer state of an endpoint, a rule with its
//! counters, a parent with its route table, and a port (by pointer, so that the accepting side sees which ones changed).

mod bind;
mod frontends;
pub(crate) mod parent;
pub(crate) mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use isthmus_routing::hostname::HostMap;
use isthmus_routing::{
    BackendKey, Certificate, Gateway, GatewayKey, Listener, ServiceParent, Snapshot, Spoken, Transport, Version,
};
use tokio::sync::watch;

use crate::balance::BackendState;
use crate::identity::Membership;
use crate::telemetry::{PortMetrics, Telemetry};
use crate::tls::handshake::Shaken;
use crate::upstream::ClientCertificate;
use crate::{Capture, Outbound};
pub(crate) use bind::{Bind, Speech};
pub(crate) use frontends::{Fronted, Frontends, exists};
use parent::By;
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
    /// Everything that is served, by the address that clients dial: what is listened on, and, beside a pod, what is captured.
    pub(crate) ports: BTreeMap<Bind, Arc<Port>>,
    /// Beside a pod: the addresses of all Services.
    pub(crate) frontends: Arc<Frontends>,
    /// Who is who in the mesh, and we ourselves; none: there is no mesh.
    pub(crate) membership: Option<Arc<Membership>>,
    backends: HashMap<BackendKey, Arc<BackendState>, foldhash::fast::RandomState>,
    /// Services with routes that Gateways evaluate in the place of their endpoints, as clients in the Gateway's namespace.
    onward: BTreeMap<GatewayKey, HashMap<BackendKey, Arc<CompiledParent>, foldhash::fast::RandomState>>,
}

/// What a snapshot does not say: where it is served, and for whom.
#[derive(Debug, Default)]
pub(crate) struct Site {
    /// Where Gateways without an address listen.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whose calls of Services are taken; none: nobody's.
    pub(crate) outbound: Option<Outbound>,
    /// Beside which pod it stands, whose calls of Services are captured; none: beside none.
    pub(crate) pod: Option<Pod>,
    /// By which certificate workloads of the mesh know us, as it changes; none: by none.
    pub(crate) identity: Option<watch::Receiver<Option<Arc<Certificate>>>>,
}

/// A pod, as its sidecar knows it.
#[derive(Debug, Default)]
pub(crate) struct Pod {
    /// Its namespace: the one whose consumer routes are its own.
    pub(crate) namespace: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Ports of sidecars, here and on every other pod.
    pub(crate) own_ports: BTreeSet<u16>,
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
    /// What is known of how it begins where it is captured; nobody listens for anything but HTTP there.
    pub(crate) spoken: Spoken,
    /// What counts its connections.
    pub(crate) metrics: Arc<PortMetrics>,
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
    pub(crate) fn before(site: Arc<Site>) -> Self {
        let snapshot = Arc::<Snapshot>::default();
        Self {
            version: snapshot.version(),
            snapshot,
            site,
            ports: BTreeMap::new(),
            frontends: Arc::default(),
            membership: None,
            backends: HashMap::default(),
            onward: BTreeMap::new(),
        }
    }

    /// Compiles a snapshot. Cannot fail: what a snapshot refers to and does not hold is answered with an error when a request needs it.
    pub(crate) fn compile(snapshot: &Arc<Snapshot>, site: &Arc<Site>, previous: Option<&Self>, telemetry: &Telemetry) -> Self {
        let mut ports = BTreeMap::new();
        let sources = Sources { snapshot, previous, telemetry };
        for (key, gateway) in &snapshot.gateways {
            compile_gateway(key, gateway, site.addresses(gateway), &mut ports, &sources);
        }
        compile_services(site, &mut ports, &sources);
        let evaluating = snapshot.gateways.iter().filter(|(_, gateway)| gateway.service_routes);
        let onward = evaluating.map(|(key, _)| (key.clone(), compile_onward(key, &sources))).collect();
        let frontends = match site.pod {
            Some(_) => Frontends::compile(snapshot, previous.map(|previous| (&*previous.snapshot, &previous.frontends))),
            None => Arc::default(),
        };
        let own_addresses = site.pod.as_ref().map_or(&[][..], |pod| &pod.addresses);
        let before = previous.and_then(|previous| previous.membership.as_ref());
        let membership = Membership::compile(snapshot, site.certificate(), own_addresses, before);
        let backend = |(key, backend)| {
            let before = previous.and_then(|previous: &Self| previous.backends.get(key));
            (BackendKey::clone(key), BackendState::compile(key, backend, (snapshot, membership.as_deref()), before))
        };
        Self {
            version: snapshot.version(),
            site: site.clone(),
            ports,
            frontends,
            onward,
            backends: snapshot.backends.iter().map(backend).collect(),
            membership,
            snapshot: snapshot.clone(),
        }
    }

    /// What is listened on: all ports, but for those of Services where these are captured.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = (&Bind, &Arc<Port>)> {
        let captures = self.site.pod.is_some();
        self.ports.iter().filter(move |(_, port)| !captures || matches!(port.owner, Owner::Gateway(_)))
    }

    /// Where Gateways and Services of the snapshot listen.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// The routes of a Service that somebody's rule leads to, if they are to be evaluated there.
    pub(crate) fn routes_of(&self, owner: &Owner, service: &BackendKey) -> Option<&Arc<CompiledParent>> {
        match owner {
            Owner::Gateway(gateway) => self.onward.get(gateway)?.get(service),
            Owner::Service(_) => None,
        }
    }

    /// The balancer of a backend; none: the snapshot does not hold it, so it has no endpoints.
    pub(crate) fn backend(&self, key: &BackendKey) -> Option<&Arc<BackendState>> {
        self.backends.get(key)
    }
}

impl Site {
    /// Our certificate of now.
    pub(crate) fn certificate(&self) -> Option<Arc<Certificate>> {
        self.identity.as_ref()?.borrow().clone()
    }

    /// Whether nobody could be served: a sidecar without its certificate.
    pub(crate) fn is_nobody(&self) -> bool {
        self.pod.is_some() && self.identity.as_ref().is_some_and(|identity| identity.borrow().is_none())
    }

    /// Whether workloads of the mesh would be called, and cannot be: our certificate is still to come.
    pub(crate) fn wants_certificate(&self, snapshot: &Snapshot) -> bool {
        !snapshot.workloads.is_empty() && self.identity.as_ref().is_some_and(|identity| identity.borrow().is_none())
    }

    /// Where a Gateway listens: on its own addresses, if it has any.
    pub(crate) fn addresses<'a>(&'a self, gateway: &'a Gateway) -> &'a [IpAddr] {
        if gateway.addresses.is_empty() { &self.addresses } else { &gateway.addresses }
    }
}

impl Pod {
    pub(crate) fn of(capture: &Capture) -> Self {
        let Capture { namespace, pod_ips, own_ports, .. } = capture;
        Self { namespace: namespace.clone(), addresses: pod_ips.clone(), own_ports: own_ports.clone() }
    }

    /// Whether whoever connects there would come back to this sidecar, or to another one's own ports.
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        self.own_ports.contains(&address.port()) && (ip.is_loopback() || ip.is_unspecified() || self.addresses.contains(&ip))
    }
}

/// The ports of Services that clients of this side call: each with its addresses as they are listened on, or dialled where they are
/// captured.
pub(crate) fn services<'s>(
    outbound: Option<&'s Outbound>,
    snapshot: &'s Snapshot,
) -> impl Iterator<Item = (&'s BackendKey, &'s Arc<ServiceParent>, impl Iterator<Item = Bind> + 's)> {
    snapshot.services.iter().filter(|(key, _)| key.transport == Transport::Tcp).map(move |(key, service)| {
        let port = outbound.map_or(Some(key.port), |outbound| outbound.socket_port(key.port));
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
            spoken: Spoken::Unknown,
            proxy_protocol: gateway.proxy_protocol,
            trusted_hops: gateway.trusted_hops,
            client_certificate: client_certificate.as_ref(),
            all: &all,
        };
        addresses.iter().for_each(|address| terms.open(bind(address), ports, sources));
    }
}

fn compile_onward(
    gateway: &GatewayKey,
    sources: &Sources<'_>,
) -> HashMap<BackendKey, Arc<CompiledParent>, foldhash::fast::RandomState> {
    let before = sources.previous.and_then(|previous| previous.onward.get(gateway));
    let routed = sources.snapshot.services.iter().filter(|(_, service)| !service.routes_for(&gateway.namespace).is_empty());
    let compile = |(key, service): (&BackendKey, &Arc<ServiceParent>)| {
        let before = before.and_then(|before| before.get(key));
        (key.clone(), CompiledParent::service(key, service, (&gateway.namespace, By::Gateway), before, sources))
    };
    routed.map(compile).collect()
}

fn compile_services(site: &Site, ports: &mut BTreeMap<Bind, Arc<Port>>, sources: &Sources<'_>) {
    let namespace = match (&site.pod, &site.outbound) {
        (Some(pod), _) => &pod.namespace,
        (None, Some(outbound)) => &outbound.namespace,
        (None, None) => return,
    };
    for (key, service, binds) in services(site.outbound.as_ref().filter(|_| site.pod.is_none()), sources.snapshot) {
        let owner = Owner::Service(key.clone());
        let binds: Vec<_> = binds.collect();
        let Some(first) = binds.first() else { continue };
        let before = sources.previous_parent(&owner, first, &key.name);
        let all = [CompiledParent::service(key, service, (namespace, By::Client), before, sources)];
        // Whatever it is said to be: nothing goes past routes.
        let is_routed = !service.routes_for(namespace).is_empty();
        let terms = Terms {
            owner: &owner,
            speech: Speech::of(all[0].source().protocol()),
            spoken: if is_routed { Spoken::Http } else { service.spoken },
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
    spoken: Spoken,
    proxy_protocol: bool,
    trusted_hops: u8,
    client_certificate: Option<&'t Arc<ClientCertificate>>,
    all: &'t [Arc<CompiledParent>],
}

impl Terms<'_> {
    /// Takes an address, unless another owner has it.
    fn open(&self, bind: Bind, ports: &mut BTreeMap<Bind, Arc<Port>>, sources: &Sources<'_>) {
        let taken = ports.entry(bind).or_insert_with(|| self.port(bind, sources));
        if taken.owner != *self.owner {
            let (late, owner) = (self.owner, &taken.owner);
            tracing::warn!("{late} cannot have {bind}: {owner} has it already. Give one of them another address or port.");
        }
    }

    fn port(&self, bind: Bind, sources: &Sources<'_>) -> Arc<Port> {
        let same = |port: &&Arc<Port>| {
            port.owner == *self.owner
                && port.speech == self.speech
                && port.spoken == self.spoken
                && port.proxy_protocol == self.proxy_protocol
                && port.trusted_hops == self.trusted_hops
                && port.client_certificate.as_ref().map(Arc::as_ptr) == self.client_certificate.map(Arc::as_ptr)
                && port.all.len() == self.all.len()
                && port.all.iter().zip(self.all).all(|(old, new)| Arc::ptr_eq(old, new))
        };
        if let Some(unchanged) = sources.previous.and_then(|previous| previous.ports.get(&bind)).filter(same) {
            return unchanged.clone();
        }
        let mut parents = HostMap::default();
        // The first of two listeners with one hostname stays; `translate` reports such a conflict and sends one of them.
        for parent in self.all.iter().rev() {
            parents.insert(parent.source().hostname(), parent.clone());
        }
        // The object's port, which is what its owner knows.
        let dialled = self.all.first().map_or(bind.address.port(), |parent| parent.source().port());
        Arc::new(Port {
            bind,
            owner: self.owner.clone(),
            speech: self.speech,
            spoken: self.spoken,
            metrics: sources.telemetry.port(self.owner, dialled),
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
