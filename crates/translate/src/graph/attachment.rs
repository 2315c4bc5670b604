//! Which routes attach to which listeners, and what parents there are at all.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use isthmus_api::shared::{FromNamespaces, GATEWAY_GROUP, ParentRef};
use isthmus_api::{NamespacedName, Objects, Unreadable};
use isthmus_routing::{Attachment, Hostname, Protocol, RouteKey, RouteKind};

use super::conflict::intersects;
use super::endpoint::Services;
use super::gateway::GatewayNode;
use super::hostname_index::HostnameIndex;
use super::listener::{self, ListenerNode};
use super::listener_set::ListenerSetNode;
use super::route::RouteNode;
use super::service::{self, ServiceFault, ServiceParentNode};

/// A parentRef to something of ours.
#[derive(Debug)]
pub(crate) struct ParentNode {
    /// As the route has it, defaults included.
    pub(crate) parent_ref: ParentRef,
    /// What it leads to.
    pub(crate) parent: Parent,
    /// Why nothing of it takes the route.
    pub(crate) fault: Option<AttachmentFault>,
}

/// What a parentRef leads to. Routing for the two differs here and in what each of them is, and nowhere else.
#[derive(Debug)]
pub(crate) enum Parent {
    /// Listeners of a Gateway of ours, or of a ListenerSet of one.
    Gateway(GatewayParentNode),
    /// Ports of a Service, for clients in the mesh.
    Service(ServiceParentNode),
}

/// A parentRef to a Gateway of ours, or to a ListenerSet of one.
#[derive(Debug)]
pub(crate) struct GatewayParentNode {
    /// The Gateway.
    pub(crate) gateway: NamespacedName,
    /// The ListenerSet, if it is that.
    pub(crate) listener_set: Option<NamespacedName>,
    /// Positions of the Gateway's listeners that take the route, with the hostnames it has there.
    pub(crate) claims: Vec<Claim>,
    /// Listeners that would take it if another route were not there.
    pub(crate) lost: Vec<Lost>,
    /// Listeners that take it and send everything to another route.
    pub(crate) shadowed: Vec<Shadowed>,
}

impl Parent {
    pub(crate) fn gateway(&self) -> Option<&GatewayParentNode> {
        match self {
            Self::Gateway(of_gateway) => Some(of_gateway),
            Self::Service(_) => None,
        }
    }

    pub(crate) fn service(&self) -> Option<&ServiceParentNode> {
        match self {
            Self::Gateway(_) => None,
            Self::Service(of_service) => Some(of_service),
        }
    }
}

/// A route on a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) listener: usize,
    pub(crate) hostnames: Vec<Hostname>,
}

/// A claim that lost against a route of the other kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "listener `{listener}` has {winner} with an intersecting hostname, which is older or comes first by name; give one of them another hostname or listener"
)]
pub(crate) struct Lost {
    pub(crate) listener: String,
    pub(crate) winner: RouteKey,
}

/// A TCPRoute or UDPRoute that has a listener in vain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "listener `{listener}` sends everything to {winner}, which is older or comes first by name; give one of them another listener"
)]
pub(crate) struct Shadowed {
    pub(crate) listener: String,
    pub(crate) winner: RouteKey,
}

/// Why a parentRef is not accepted. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttachmentFault {
    #[error("ListenerSet {0} is not attached to its Gateway; see its conditions")]
    NotAttached(NamespacedName),
    #[error("Gateway {0} cannot be read; see its conditions")]
    GatewayUnreadable(NamespacedName),
    #[error("{parent} has no listener with the sectionName and port of the parentRef; correct them: it has {listeners}")]
    NoMatchingParent { parent: String, listeners: String },
    #[error(
        "{kind}s of namespace `{namespace}` are not allowed by {listeners} of {parent}; extend `allowedRoutes` there or choose another listener"
    )]
    NotAllowed { parent: String, listeners: String, kind: RouteKind, namespace: String },
    #[error("{listeners} of {parent} cannot take {kind}s; choose a listener of protocol {}", protocols(*.kind))]
    NotCarried { parent: String, listeners: String, kind: RouteKind },
    #[error("no hostname of the route intersects with that of {listeners} of {parent}; correct the route's or the listener's")]
    NoMatchingHostname { parent: String, listeners: String },
    #[error("none of the route's hostnames can be used: {0}")]
    NoHostname(String),
    #[error("{0}; until then nothing of the route is served")]
    Unreadable(Unreadable),
    #[error(transparent)]
    Lost(Lost),
    #[error(transparent)]
    Service(ServiceFault),
}

impl AttachmentFault {
    /// The reason of `Accepted=False`. The specification names none for a route that loses against one of the other kind.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotAttached(_) | Self::GatewayUnreadable(_) | Self::NoMatchingParent { .. } => "NoMatchingParent",
            Self::NotAllowed { .. } | Self::NotCarried { .. } => "NotAllowedByListeners",
            Self::NoMatchingHostname { .. } => "NoMatchingListenerHostname",
            Self::NoHostname(_) | Self::Unreadable(_) => "UnsupportedValue",
            Self::Lost(_) => "HostnameConflict",
            Self::Service(fault) => fault.reason(),
        }
    }
}

/// `HTTP or HTTPS`
fn protocols(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Http | RouteKind::Grpc => "HTTP or HTTPS",
        RouteKind::Tls => Protocol::Tls.as_str(),
        RouteKind::Tcp => Protocol::Tcp.as_str(),
        RouteKind::Udp => Protocol::Udp.as_str(),
    }
}

/// What routes can attach to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parents<'p> {
    pub(super) gateways: &'p BTreeMap<NamespacedName, GatewayNode>,
    pub(super) listener_sets: &'p BTreeMap<NamespacedName, ListenerSetNode>,
    /// None: nothing attaches to a Service.
    pub(super) services: Option<&'p Services<'p>>,
}

impl Parents<'_> {
    /// What a parentRef of a route of this kind leads to, if it is ours: a Gateway, by itself or by a ListenerSet of it, or a Service,
    /// whether it exists or not, because nobody else could say that it does not.
    pub(super) fn find(&self, parent: &ParentRef, kind: RouteKind, route_namespace: &str) -> Option<Parent> {
        let namespace = parent.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(route_namespace);
        let name = NamespacedName::new(namespace, parent.name.as_str());
        let of_gateway = |gateway, listener_set| {
            let (claims, lost, shadowed) = (Vec::new(), Vec::new(), Vec::new());
            Parent::Gateway(GatewayParentNode { gateway, listener_set, claims, lost, shadowed })
        };
        match (parent.group.as_str(), parent.kind.as_str()) {
            (GATEWAY_GROUP, "Gateway") => self.gateways.contains_key(&name).then(|| of_gateway(name, None)),
            (GATEWAY_GROUP, "ListenerSet") => {
                self.listener_sets.get(&name).map(|set| of_gateway(set.gateway.clone(), Some(name)))
            }
            ("", "Service") if service::takes(kind) => {
                let node = || ServiceParentNode { service: name, ports: Vec::new(), lost: Vec::new() };
                self.services.map(|_| Parent::Service(node()))
            }
            _ => None,
        }
    }
}

/// The labels of every namespace, with the one that Kubernetes gives to each.
#[derive(Debug)]
pub(super) struct NamespaceLabels<'a> {
    labels: BTreeMap<&'a str, BTreeMap<String, String>>,
}

impl<'a> NamespaceLabels<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        let requests = objects.http_routes.keys().chain(objects.grpc_routes.keys()).chain(objects.tls_routes.keys());
        let routes = requests.chain(objects.tcp_routes.keys()).chain(objects.udp_routes.keys());
        let attaching = routes.chain(objects.listener_sets.keys()).map(|name| name.namespace.as_str());
        let mut labels: BTreeMap<&str, _> = attaching.map(|namespace| (namespace, BTreeMap::new())).collect();
        for (name, namespace) in &objects.namespaces {
            labels.insert(name, namespace.metadata.labels.clone().unwrap_or_default());
        }
        for (name, labels) in &mut labels {
            labels.insert("kubernetes.io/metadata.name".to_owned(), (*name).to_owned());
        }
        Self { labels }
    }

    /// Whether an object in namespace `own` that says this takes objects of another namespace.
    pub(super) fn allows(&self, from: &FromNamespaces, own: &str, namespace: &str) -> bool {
        match from {
            FromNamespaces::All => true,
            FromNamespaces::Same => namespace == own,
            FromNamespaces::None => false,
            FromNamespaces::Selector(Some(Ok(selector))) => {
                self.labels.get(namespace).is_some_and(|labels| selector.matches(labels))
            }
            FromNamespaces::Selector(_) => false,
        }
    }
}

/// Finds the listeners for one parentRef to a Gateway. The state of Gateway and listener is of no matter:
///
/// > Listener or Route status does not impact
/// > successful attachment, i.e. the AttachedRoutes field count MUST be set
/// > for Listeners, even if the Accepted condition of an individual Listener is set
/// > to "False".
pub(super) fn claim(
    route: &RouteNode,
    parent_ref: &ParentRef,
    node: &GatewayParentNode,
    known: &Parents<'_>,
    labels: &NamespaceLabels<'_>,
) -> Result<Vec<Claim>, AttachmentFault> {
    let Some(gateway) = known.gateways.get(&node.gateway) else { return Ok(Vec::new()) };
    if gateway.is_unreadable() {
        return Err(AttachmentFault::GatewayUnreadable(node.gateway.clone()));
    }
    let (own, name, listeners, first) = match node.listener_set.as_ref().and_then(|set| known.listener_sets.get(set)) {
        Some(set) if set.fault.is_some() => return Err(AttachmentFault::NotAttached(set.name.clone())),
        Some(set) => (&set.name, format!("ListenerSet {}", set.name), set.listeners(gateway), set.positions.start),
        None => (&node.gateway, format!("Gateway {}", node.gateway), gateway.own_listeners(), 0),
    };
    let every: Vec<_> = listeners.iter().enumerate().map(|(at, listener)| (first + at, listener)).collect();
    let meant: Vec<_> = every.iter().copied().filter(|(_, listener)| is_meant(parent_ref, listener)).collect();
    if meant.is_empty() {
        let listeners = told(&every, |listener| format!("`{}` on port {}", listener.name, listener.port));
        return Err(AttachmentFault::NoMatchingParent { parent: name, listeners });
    }
    let carries =
        |listener: &ListenerNode| listener.protocol.is_some_and(|protocol| listener::kinds(protocol).contains(&route.key.kind));
    if !meant.iter().any(|(_, listener)| carries(listener)) {
        let listeners = told(&meant, |listener| match listener.protocol {
            Some(protocol) => format!("`{}` ({})", listener.name, protocol.as_str()),
            None => format!("`{}`", listener.name),
        });
        return Err(AttachmentFault::NotCarried { parent: name, listeners, kind: route.key.kind });
    }
    let allows = |listener: &ListenerNode| {
        listener.kinds.contains(&route.key.kind) && labels.allows(&listener.namespaces, &own.namespace, &route.key.namespace)
    };
    let allowed: Vec<_> = meant.iter().copied().filter(|(_, listener)| allows(listener)).collect();
    if allowed.is_empty() {
        return Err(AttachmentFault::NotAllowed {
            parent: name,
            listeners: told(&meant, |listener| format!("`{}`", listener.name)),
            kind: route.key.kind,
            namespace: route.key.namespace.clone(),
        });
    }
    if let Some(why) = &route.unreadable {
        return Err(AttachmentFault::Unreadable(why.clone()));
    }
    if route.hostnames.is_empty() && !route.bad_hostnames.is_empty() {
        return Err(AttachmentFault::NoHostname(route.bad_hostnames.join("; ")));
    }
    let claims: Vec<_> = allowed.iter().filter_map(|(at, listener)| claim_hostnames(route, *at, listener)).collect();
    if claims.is_empty() {
        let hostname = |listener: &ListenerNode| listener.hostname.as_ref().map_or("", Hostname::as_str).to_owned();
        let listeners = told(&allowed, |listener| format!("`{}` ({})", listener.name, hostname(listener)));
        return Err(AttachmentFault::NoMatchingHostname { parent: name, listeners });
    }
    Ok(claims)
}

/// The most listeners that a message names.
const TOLD: usize = 5;

/// `a`, `b` and 3 more
fn told(listeners: &[(usize, &ListenerNode)], show: impl Fn(&ListenerNode) -> String) -> String {
    let named: Vec<_> = listeners.iter().take(TOLD).map(|(_, listener)| show(listener)).collect();
    match listeners.len().saturating_sub(TOLD) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// > When both Port
/// > and SectionName are specified, the name and port of the selected listener
/// > must match both specified values.
fn is_meant(parent: &ParentRef, listener: &ListenerNode) -> bool {
    let section = parent.section_name.as_deref().filter(|section| !section.is_empty());
    section.is_none_or(|section| section == listener.name) && parent.port.is_none_or(|port| port == listener.port)
}

/// > If both the Listener and HTTPRoute have specified hostnames, any
/// > HTTPRoute hostnames that do not match the Listener hostname MUST be
/// > ignored.
fn claim_hostnames(route: &RouteNode, at: usize, listener: &ListenerNode) -> Option<Claim> {
    let hostnames: Vec<_> =
        route.hostnames.iter().filter(|own| intersects(Some(own), listener.hostname.as_ref())).cloned().collect();
    (route.hostnames.is_empty() || !hostnames.is_empty()).then_some(Claim { listener: at, hostnames })
}

/// Decides between HTTPRoutes and GRPCRoutes that want the same hostnames of one listener, and attaches what is left.
///
/// > If a Route (A) of type HTTPRoute or GRPCRoute is attached to a
/// > Listener and that listener already has another Route (B) of the other
/// > type attached and the intersection of the hostnames of A and B is
/// > non-empty, then the implementation MAY reject one of the two routes.
/// > An implementation that does so MUST accept exactly one of them,
/// > determined by the following criteria, in order:
/// >
/// > * The oldest Route based on creation timestamp.
/// > * The Route appearing first in alphabetical order by
/// >   "{namespace}/{name}".
///
/// The two kinds match by orders of their own, so a merged order would be one that nobody wrote down.
pub(super) fn attach(routes: &mut [RouteNode], gateways: &mut BTreeMap<NamespacedName, GatewayNode>) {
    let mut wanted = BTreeMap::<(NamespacedName, usize), Vec<usize>>::new();
    for (at, route) in routes.iter().enumerate().filter(|(_, route)| !route.is_invalid()) {
        for parent in route.gateway_parents() {
            for claim in &parent.claims {
                let members = wanted.entry((parent.gateway.clone(), claim.listener)).or_default();
                if members.last() != Some(&at) {
                    members.push(at);
                }
            }
        }
    }
    for ((name, position), members) in wanted {
        let Some(listener) = gateways.get_mut(&name).and_then(|gateway| gateway.listeners.get_mut(position)) else { continue };
        for (loser, winner) in losers(routes, &name, position, &members) {
            let lost = Lost { listener: listener.name.clone(), winner: routes[winner].key.clone() };
            routes[loser].lose(&name, position, &lost);
        }
        let listener_name = listener.name.clone();
        for (shadowed, winner) in shadowed(routes, &members) {
            let shadow = Shadowed { listener: listener_name.clone(), winner: routes[winner].key.clone() };
            routes[shadowed].shadow(&name, position, &shadow);
        }
        for at in members {
            let route = &routes[at];
            let of_listener = route.gateway_parents().filter(|parent| parent.gateway == name).flat_map(|parent| &parent.claims);
            if let Some(claim) = of_listener.into_iter().find(|claim| claim.listener == position) {
                listener.attached.push(Attachment { route: route.key.clone(), hostnames: claim.hostnames.clone() });
            }
        }
    }
}

/// Pairs of loser and winner on one listener. A route that lost keeps nobody out.
fn losers(routes: &[RouteNode], gateway: &NamespacedName, listener: usize, members: &[usize]) -> Vec<(usize, usize)> {
    let of_kind = |kind| members.iter().any(|at| routes[*at].key.kind == kind);
    if !of_kind(RouteKind::Http) || !of_kind(RouteKind::Grpc) {
        return Vec::new();
    }
    let mut by_age = members.to_vec();
    by_age.sort_by(|a, b| older(&routes[*a], &routes[*b]));
    let (mut http, mut grpc) = (HostnameIndex::new(), HostnameIndex::new());
    let mut losers = Vec::new();
    for at in by_age {
        let route = &routes[at];
        let claims = route.gateway_parents().filter(|parent| parent.gateway == *gateway).flat_map(|parent| &parent.claims);
        let Some(claim) = claims.into_iter().find(|claim| claim.listener == listener) else { continue };
        let (own, other) = match route.key.kind {
            RouteKind::Http => (&mut http, &grpc),
            RouteKind::Grpc => (&mut grpc, &http),
            RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => continue,
        };
        match other.intersecting(&claim.hostnames) {
            Some(winner) => losers.push((at, winner)),
            None => own.insert(&claim.hostnames, at),
        }
    }
    losers
}

/// Pairs of a route that gets nothing of a listener and the one that gets all of it. Both are attached and counted.
///
/// > The oldest Route based on creation timestamp.
///
/// A route without a rule takes nothing.
fn shadowed(routes: &[RouteNode], members: &[usize]) -> Vec<(usize, usize)> {
    let streams = members.iter().copied().filter(|at| matches!(routes[*at].key.kind, RouteKind::Tcp | RouteKind::Udp));
    let mut by_age: Vec<usize> = streams.filter(|at| !routes[*at].route.rules.is_empty()).collect();
    by_age.sort_by(|a, b| older(&routes[*a], &routes[*b]));
    by_age.split_first().map_or_else(Vec::new, |(winner, others)| others.iter().map(|at| (*at, *winner)).collect())
}

/// Who comes first of two.
pub(super) fn older(a: &RouteNode, b: &RouteNode) -> Ordering {
    a.created.cmp(&b.created).then_with(|| a.key.cmp(&b.key))
}

#[cfg(test)]
mod tests;
