//! Objects -> snapshot, statuses and wanted infrastructure.
//!
//! [`translate`] is total: no clock, no client, no cache, no `Result`. It builds one resolved graph (`graph`); the snapshot, the
//! statuses and the infrastructure are readings of it, so a status can never say what the proxy does not do. What is wrong in an object becomes a condition
//! and, where the specification says so, a value in the model that answers 500. A bad object hurts only itself.

#![forbid(unsafe_code)]

pub mod features;
#[cfg(test)]
mod fuzz;
mod graph;
mod infrastructure;
mod proof;
mod route;
mod snapshot;
mod status;
#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::parameters::GatewayParametersSpec;
use isthmus_api::status::Statuses;
use isthmus_api::{ObjectRef, Objects};
use isthmus_routing::{GatewayKey, Inbound, Mesh, MtlsMode, RouteKey, Snapshot};

pub use infrastructure::{Address, Infrastructure, RequestedAddress};
pub use proof::{Audience, Edition, Editions, Proof, ServiceProof};

/// The controller name that a GatewayClass has to have to be ours.
pub const CONTROLLER_NAME: &str = "isthmus.dev/gateway-controller";

/// The controller name that an XMesh has to have to be ours.
pub const MESH_CONTROLLER_NAME: &str = "isthmus.dev/mesh-controller";

/// What `translate` has to know besides the objects.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The addresses that each Gateway was given by whoever provides the infrastructure (a folder's loopback pool, a
    /// cluster's Service). A Gateway that is absent has none yet: `Programmed=False/AddressNotAssigned`.
    pub addresses: BTreeMap<GatewayKey, Vec<Address>>,
    /// What there is to say about the addresses of a Gateway: why it was given none or others, or how to reach them.
    pub address_notes: BTreeMap<GatewayKey, Vec<String>>,
    /// Where the data plane listens.
    pub listen: Listen,
    /// Listeners that the data plane could not open, with the reason in words: `Accepted=False/PortUnavailable`. They stay in the
    /// snapshot, which does not depend on this field: whoever left them out would never learn that the port is free again.
    pub unavailable: BTreeMap<(GatewayKey, String), String>,
    /// What the proxies of each Gateway have acknowledged; none: the data plane is in this process, and what it cannot open is in
    /// `unavailable`. Neither the snapshot nor the infrastructure depends on it.
    pub proof: Option<BTreeMap<GatewayKey, Proof>>,
    /// The same of sidecars, by those whose calls they answer; none: routes on Services have no such condition.
    pub service_proof: Option<BTreeMap<Audience, ServiceProof>>,
    /// Parameters beneath those of class and Gateway.
    pub parameters: GatewayParametersSpec,
    /// Why the CRDs of the cluster are not of a version that is supported: `SupportedVersion=False`.
    pub unsupported_version: Option<String>,
    /// Whether clients in the mesh are served too: HTTPRoutes and GRPCRoutes attach to Services. Without it a parentRef to a Service is
    /// somebody else's and gets no status.
    pub mesh: bool,
    /// Whose certificates workloads take from each other. None: that is not known, and whoever calls a workload takes nobody's but those that
    /// he took before. The snapshot has the workloads all the same, so that no call to them is in cleartext.
    pub authority: Option<Arc<Mesh>>,
    /// What workloads ask of their callers where neither they nor their namespaces say so.
    pub mtls: MtlsMode,
    /// Of [`Translation::references`]: those of which it is not known whether they exist. Proxies go on with what they hold for them.
    pub unread: BTreeSet<ObjectRef>,
}

/// Where the data plane listens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Listen {
    /// On the addresses of the Gateway: one machine has all of them. A Gateway without an address is not served.
    #[default]
    Assigned,
    /// Wherever the proxy is: each Gateway has proxies of its own, and its addresses lead to them.
    Everywhere,
}

/// What follows from the objects.
#[derive(Debug, Clone)]
pub struct Translation {
    /// For the data plane.
    pub snapshot: Arc<Snapshot>,
    /// For the objects.
    pub statuses: Statuses,
    /// What each accepted Gateway needs to run.
    pub infrastructure: BTreeMap<GatewayKey, Infrastructure>,
    /// What the snapshot carries, by Gateway: what its proxies prove when they acknowledge it.
    pub editions: BTreeMap<GatewayKey, Editions>,
    /// The routes on Services that it carries, by whose calls they answer: what those sidecars prove.
    pub audiences: BTreeMap<Audience, BTreeMap<RouteKey, Edition>>,
    /// Secrets and ConfigMaps that something of ours refers to and may refer to, whether they exist or not.
    pub references: BTreeSet<ObjectRef>,
    /// What each pod with a sidecar asks of its callers, by namespace and name. A sidecar whose pod is not here is one that is not known yet
    /// or any more: strict is what does no harm.
    pub inbound: BTreeMap<(String, String), Arc<Inbound>>,
    /// What is wrong with annotations of objects that have no status of ours, and what is made of them: for a log.
    pub notes: BTreeMap<ObjectRef, Vec<String>>,
}

/// Translates everything at once. Equal input gives equal bytes.
pub fn translate(objects: &Objects, options: &Options) -> Translation {
    let graph = graph::Graph::build(objects, options);
    Translation {
        snapshot: Arc::new(snapshot::read(&graph)),
        statuses: status::read(&graph),
        infrastructure: infrastructure::read(&graph),
        editions: proof::read(&graph),
        audiences: proof::read_services(&graph),
        inbound: graph.pods.inbound(),
        notes: graph.pods.notes().clone(),
        references: graph.references,
    }
}
