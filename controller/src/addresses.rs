//! Gateways, Services and Nodes -> where each Gateway answers.
//!
//! [`assign`] is pure. Addresses from pools are ours to give: they are written to the Service's `status.loadBalancer.ingress`
//! ([`Recorder`]), which is what kube-proxy answers by and at the same time the record that outlives the controller. All others are only
//! read: what somebody else's load balancer, the Service or the nodes have.

pub mod nodes;
mod observed;
mod pool;
mod pooled;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_api::parameters::ServiceType;
use isthmus_api::{NamespacedName, Objects, Service};
use isthmus_routing::GatewayKey;
use isthmus_translate::{Address, Infrastructure};

pub use nodes::Nodes;
pub use record::Recorder;

use crate::provision;

/// Where every Gateway answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Each Gateway that should run.
    pub gateways: BTreeMap<GatewayKey, Assigned>,
    /// What Services' statuses should say and do not.
    pub records: Vec<Record>,
    /// Whether a Gateway's addresses are those of nodes.
    pub needs_nodes: bool,
    /// Pool addresses that were given to a Gateway's uid. They stay with it even before its Service says so.
    held: BTreeMap<GatewayKey, (String, Vec<IpAddr>)>,
    /// Pool addresses that were given back, the longest ago first. They are given to another Gateway last: clients, and whatever tracks
    /// their connections on the way, may still mean the one that had them.
    left: Vec<IpAddr>,
}

/// Where a Gateway answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// None: nobody has given it any yet. Empty: nothing that it asks for can be given.
    pub addresses: Option<Vec<Address>>,
    /// Why there is none yet, or why one that it asks for cannot be given, each with what to do.
    pub faults: Vec<String>,
    /// What clients have to know besides: ports that differ from the listeners'.
    pub notes: Vec<String>,
}

/// A Service's status to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub gateway: GatewayKey,
    /// The Service.
    pub service: NamespacedName,
    /// Its uid and resource version, so that nobody else's write is undone.
    pub uid: String,
    /// See `uid`.
    pub resource_version: String,
    /// What its status said.
    pub seen: Vec<IpAddr>,
    /// What it is to say.
    pub addresses: Vec<IpAddr>,
}

/// Addresses given back that are remembered.
const LEFT: usize = 1024;

impl Assignment {
    /// Remembers what is nobody's any more.
    fn leave(&mut self, before: &Self) {
        let addresses = |assignment: &Self| -> BTreeSet<IpAddr> {
            assignment.held.values().flat_map(|(_, held)| held.iter().copied()).collect()
        };
        let held = addresses(self);
        self.left.retain(|ip| !held.contains(ip));
        let fresh = addresses(before).into_iter().filter(|ip| !held.contains(ip) && !before.left.contains(ip));
        self.left.extend(fresh);
        let surplus = self.left.len().saturating_sub(LEFT);
        self.left.drain(..surplus);
    }

    /// What translation has to know.
    pub fn addresses(&self) -> BTreeMap<GatewayKey, Vec<Address>> {
        let given = self.gateways.iter().filter_map(|(key, assigned)| Some((key.clone(), assigned.addresses.clone()?)));
        given.collect()
    }
}

/// Decides where each Gateway answers, given what was decided before. The same input gives the same result, and no two Gateways get the
/// same pool address. `nodes`: none if they are not known.
///
/// A Gateway's address is known once its Service is there: that says which IP families there are.
pub fn assign(
    infrastructure: &BTreeMap<GatewayKey, Infrastructure>,
    objects: &Objects,
    nodes: Option<&Nodes>,
    before: &Assignment,
) -> Assignment {
    let mut assignment = Assignment::default();
    let mut candidates = Vec::new();
    for (key, given) in infrastructure {
        let service = own_service(key, given, objects);
        if provision::is_pooled(given) && given.parameters.host_port != Some(true) {
            candidates.push(pooled::Candidate::new(key, given, service, before));
            continue;
        }
        let (assigned, needs_nodes) = observed::observe(key, given, service, objects, nodes);
        assignment.needs_nodes |= needs_nodes;
        assignment.gateways.insert(key.clone(), assigned);
    }
    let ours: BTreeSet<_> = candidates.iter().filter_map(|candidate| candidate.service_name()).collect();
    assignment.left.clone_from(&before.left);
    pooled::assign(&candidates, &taken(objects, &ours), &mut assignment);
    assignment.leave(before);
    assignment
}

/// Addresses of Services that are not given addresses here.
fn taken(objects: &Objects, ours: &BTreeSet<NamespacedName>) -> BTreeMap<IpAddr, String> {
    let others = objects.services.iter().filter(|(name, _)| !ours.contains(name));
    let addresses = others.flat_map(|(name, service)| {
        let external = service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten()).filter_map(|ip| ip.parse().ok());
        external.chain(ingress_ips(service)).map(move |ip| (ip, format!("Service {name}")))
    });
    addresses.collect()
}

/// The Gateway's Service, if it is there and its own.
fn own_service<'o>(key: &GatewayKey, given: &Infrastructure, objects: &'o Objects) -> Option<&'o Arc<Service>> {
    let service = objects.services.get(&provision::location(key))?;
    let owned = service.metadata.owner_references.iter().flatten().any(|owner| owner.uid == given.uid);
    (owned && service.metadata.deletion_timestamp.is_none()).then_some(service)
}

/// IP addresses of a Service's `status.loadBalancer.ingress`.
fn ingress_ips(service: &Service) -> Vec<IpAddr> {
    let ingress = service.status.iter().filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref()).flatten();
    ingress.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

/// The addresses that a Gateway asks for by value; those that are no IP addresses as text.
fn asked(given: &Infrastructure) -> Vec<Result<IpAddr, &str>> {
    let mut asked = Vec::new();
    for value in given.requested.iter().filter_map(|requested| requested.value.as_deref()) {
        let parsed = value.parse().map_err(|_| value);
        if !asked.contains(&parsed) {
            asked.push(parsed);
        }
    }
    asked
}

/// Whether any address will do for the Gateway, besides those that it asks for by value.
fn takes_any(given: &Infrastructure) -> bool {
    given.requested.is_empty() || given.requested.iter().any(|requested| requested.value.is_none())
}

/// What a Service's type is called in messages.
fn type_name(kind: ServiceType) -> &'static str {
    match kind {
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::NodePort => "NodePort",
        ServiceType::ClusterIP => "ClusterIP",
    }
}
