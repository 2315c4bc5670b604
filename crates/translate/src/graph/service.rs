//! Services as parents: which routes attach to which of their ports, for whose clients, and who wins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_api::core::api::core::v1::ServicePort;
use isthmus_api::shared::ParentRef;
use isthmus_api::{NamespacedName, Service};
use isthmus_routing::{Attachment, BackendKey, Frontend, FrontendKey, RouteKey, RouteKind, ServiceParent, Spoken, Transport};

use super::attachment::{AttachmentFault, Parent, older};
use super::endpoint::{Services, is_of};
use super::route::RouteNode;
use super::spoken;

/// A parentRef to a Service.
#[derive(Debug)]
pub(crate) struct ServiceParentNode {
    /// The Service, which may not be there.
    pub(crate) service: NamespacedName,
    /// Its ports that take the route.
    pub(crate) ports: Vec<u16>,
    /// Ports that would take it if a route of another kind were not there.
    pub(crate) lost: Vec<Outranked>,
}

/// A port that went to a route of another kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "port {port} has {winner} for the same clients, and on one port of a Service GRPCRoutes go before HTTPRoutes; give one of them another port or Service"
)]
pub(crate) struct Outranked {
    pub(crate) port: u16,
    pub(crate) winner: RouteKey,
}

/// Why a Service does not take a route. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServiceFault {
    #[error("Service {0} does not exist; create it or correct the parentRef")]
    NotFound(NamespacedName),
    #[error(
        "Service {0} is of type ExternalName, which has no address that clients call; attach the route to a Service with a ClusterIP"
    )]
    ExternalName(NamespacedName),
    #[error(
        "Service {0} is headless (`clusterIP: None`), so its clients call endpoints and no route comes between; attach the route to a Service with a ClusterIP"
    )]
    Headless(NamespacedName),
    #[error("Service {service} has no TCP port with the port and sectionName of the parentRef; correct them: it has {has}")]
    NoPort { service: NamespacedName, has: String },
    #[error(transparent)]
    Outranked(#[from] Outranked),
}

impl ServiceFault {
    /// The reason of `Accepted=False`. For what is no Service to attach to the specification has only the one that it also has for what does
    /// not exist; for a route of another kind GEP-1294 has one of its own:
    ///
    /// > If multiple routes with different types both bind to the same Service and Port pair, only a single route type should be applied.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::ExternalName(_) | Self::Headless(_) | Self::NoPort { .. } => "NoMatchingParent",
            Self::Outranked(_) => "Conflicted",
        }
    }
}

/// Whether routes of a kind attach to Services.
pub(super) fn takes(kind: RouteKind) -> bool {
    matches!(kind, RouteKind::Http | RouteKind::Grpc)
}

/// The ports that a parentRef means. GEP-1294:
///
/// > If `port` is set, the implementation MUST associate the route only with that port.
/// > If `port` is not set, the implementation MUST associate the route with all ports defined in the Service.
///
/// Datagrams carry no requests, so it is all TCP ports. A `sectionName` is the name of a port:
///
/// > * Service: Port name. When both Port (experimental) and SectionName
/// > are specified, the name and port of the selected listener must match
/// > both specified values.
pub(super) fn claim(
    parent_ref: &ParentRef,
    name: &NamespacedName,
    services: Option<&Services<'_>>,
) -> Result<Vec<u16>, ServiceFault> {
    let Some(service) = services.and_then(|services| services.get(name)) else {
        return Err(ServiceFault::NotFound(name.clone()));
    };
    check_frontend(name, service)?;
    let section = parent_ref.section_name.as_deref().filter(|section| !section.is_empty());
    let is_meant = |port: &ServicePort| {
        section.is_none_or(|section| port.name.as_deref() == Some(section))
            && parent_ref.port.is_none_or(|number| number == port.port)
    };
    let meant: BTreeSet<u16> = tcp_ports(service).filter(|(_, port)| is_meant(port)).map(|(number, _)| number).collect();
    if meant.is_empty() {
        return Err(ServiceFault::NoPort { service: name.clone(), has: told(service) });
    }
    Ok(meant.into_iter().collect())
}

/// GEP-1294:
///
/// > Services valid to be selected as a `parentRef` SHOULD have a way to identify traffic to them - typically by one or more virtual IP(s), DNS hostname(s), or name(s).
///
/// One without an address has none yet: whoever serves a folder gives it one.
fn check_frontend(name: &NamespacedName, service: &Service) -> Result<(), ServiceFault> {
    let spec = service.spec.as_ref();
    if spec.is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName")) {
        return Err(ServiceFault::ExternalName(name.clone()));
    }
    match cluster_ips(service).any(|address| address == "None") {
        true => Err(ServiceFault::Headless(name.clone())),
        false => Ok(()),
    }
}

/// The addresses of a Service as its object has them.
fn cluster_ips(service: &Service) -> impl Iterator<Item = &str> {
    let spec = service.spec.iter();
    spec.flat_map(|spec| spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten())).map(String::as_str)
}

pub(super) fn tcp_ports(service: &Service) -> impl Iterator<Item = (u16, &ServicePort)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let tcp = ports.filter(|port| is_of(port.protocol.as_deref(), Transport::Tcp));
    tcp.filter_map(|port| Some((u16::try_from(port.port).ok().filter(|number| *number > 0)?, port)))
}

/// The most ports that a message names.
const TOLD: usize = 5;

/// `80 (http)`, `8080` and 3 more
fn told(service: &Service) -> String {
    let show = |(number, port): (u16, &ServicePort)| match port.name.as_deref() {
        None | Some("") => format!("`{number}`"),
        Some(name) => format!("`{number}` ({name})"),
    };
    let all: Vec<_> = tcp_ports(service).map(show).collect();
    match (all.is_empty(), all.len().saturating_sub(TOLD)) {
        (true, _) => "none".to_owned(),
        (false, 0) => all.join(", "),
        (false, more) => format!("{} and {more} more", all[..TOLD].join(", ")),
    }
}

/// Every port that clients call, with no routes yet.
pub(super) fn parents(services: &Services<'_>) -> BTreeMap<BackendKey, ServiceParent> {
    let mut parents = BTreeMap::new();
    for (name, service) in services.iter().filter(|(name, service)| check_frontend(name, service).is_ok()) {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in cluster_ips(service).filter_map(|text| text.parse().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        for (number, port) in tcp_ports(service) {
            let parent = ServiceParent { addresses: addresses.clone(), spoken: spoken::of(port), ..ServiceParent::default() };
            parents.insert(key(name, number), parent);
        }
    }
    parents
}

/// What of the Services every sidecar knows: those that have an address.
pub(crate) fn frontends(parents: &BTreeMap<BackendKey, ServiceParent>) -> BTreeMap<FrontendKey, Arc<Frontend>> {
    let mut frontends = BTreeMap::<FrontendKey, Frontend>::new();
    // In the order of their keys, so that the ports of a Service are sorted.
    for (BackendKey { namespace, name, port, .. }, parent) in parents.iter().filter(|(_, parent)| !parent.addresses.is_empty()) {
        let key = FrontendKey { namespace: namespace.clone(), name: name.clone() };
        let frontend = frontends.entry(key).or_default();
        if frontend.addresses.is_empty() {
            frontend.addresses.clone_from(&parent.addresses);
        }
        frontend.ports.push(*port);
    }
    frontends.into_iter().map(|(key, frontend)| (key, Arc::new(frontend))).collect()
}

pub(crate) fn key(service: &NamespacedName, port: u16) -> BackendKey {
    BackendKey { namespace: service.namespace.clone(), name: service.name.clone(), port, transport: Transport::Tcp }
}

/// Decides between routes of different kinds that want the same port for the same clients, and attaches what is left. GEP-1294:
///
/// > Route type specificity is defined in the following order (first one wins):
///
/// Whose clients they are is told by where the route is. GEP-1294 again:
///
/// > A route is a consumer route when the `parentRef` refers to a service in *another namespace*. Unlike producer routes, consumer routes are scoped only the same namespace.
///
/// So a consumer route conflicts with consumer routes of its own namespace only; the producer's are not asked there.
pub(super) fn attach(routes: &mut [RouteNode], parents: &mut BTreeMap<BackendKey, ServiceParent>) {
    let mut wanted = BTreeMap::<(BackendKey, Option<String>), Vec<usize>>::new();
    for (at, route) in routes.iter().enumerate().filter(|(_, route)| !route.is_invalid()) {
        for of_service in route.parents.iter().filter_map(|node| node.parent.service()) {
            for port in &of_service.ports {
                let clients = (of_service.service.namespace != route.key.namespace).then(|| route.key.namespace.clone());
                let members = wanted.entry((key(&of_service.service, *port), clients)).or_default();
                if members.last() != Some(&at) {
                    members.push(at);
                }
            }
        }
    }
    for ((key, clients), members) in wanted {
        let Some(parent) = parents.get_mut(&key) else { continue };
        let is_grpc = |at: &usize| routes[*at].key.kind == RouteKind::Grpc;
        let winner = members.iter().copied().filter(is_grpc).min_by(|a, b| older(&routes[*a], &routes[*b]));
        let (kept, lost): (Vec<usize>, Vec<usize>) = members.into_iter().partition(|at| winner.is_none() || is_grpc(at));
        if let Some(winner) = winner {
            let outranked = Outranked { port: key.port, winner: routes[winner].key.clone() };
            lost.into_iter().for_each(|at| lose(&mut routes[at], &key, &outranked));
        }
        let attachments = kept.into_iter().map(|at| Attachment { route: routes[at].key.clone(), hostnames: Vec::new() });
        match clients {
            None => {
                parent.routes = attachments.collect();
                // Whatever it is called: these are requests. Where only consumers have routes it is so for them only.
                parent.spoken = Spoken::Http;
            }
            Some(namespace) => drop(parent.consumers.insert(namespace, attachments.collect())),
        }
    }
}

/// Takes a port from a route.
fn lose(route: &mut RouteNode, key: &BackendKey, outranked: &Outranked) {
    for node in &mut route.parents {
        let Parent::Service(of_service) = &mut node.parent else { continue };
        let is_it = of_service.service.namespace == key.namespace && of_service.service.name == key.name;
        if !is_it || !of_service.ports.contains(&key.port) {
            continue;
        }
        of_service.ports.retain(|port| *port != key.port);
        of_service.lost.push(outranked.clone());
        if of_service.ports.is_empty() {
            node.fault = Some(AttachmentFault::Service(outranked.clone().into()));
        }
    }
}

#[cfg(test)]
mod tests;
