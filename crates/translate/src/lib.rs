//! Objects -> snapshot and statuses.
//!
//! [`translate`] is total: no clock, no client, no cache, no `Result`. It builds one resolved graph (`graph`); the snapshot and the
//! statuses are two readings of it, so a status can never say what the proxy does not do. What is wrong in an object becomes a condition
//! and, where the specification says so, a value in the model that answers 500. A bad object hurts only itself.

#![forbid(unsafe_code)]

pub mod features;
#[cfg(test)]
mod fuzz;
mod graph;
mod route;
mod snapshot;
mod status;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_api::Objects;
use isthmus_api::status::Statuses;
use isthmus_routing::{GatewayKey, Snapshot};

/// The controller name that a GatewayClass has to have to be ours.
pub const CONTROLLER_NAME: &str = "isthmus.dev/gateway-controller";

/// What `translate` has to know besides the objects.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The addresses that each Gateway was given by whoever provides the infrastructure (a folder's loopback pool, a
    /// cluster's Service). A Gateway that is absent has none yet: `Programmed=False/AddressNotAssigned`.
    pub addresses: BTreeMap<GatewayKey, Vec<IpAddr>>,
    /// Listeners that the data plane could not open, with the reason in words: `Accepted=False/PortUnavailable`. They stay in the
    /// snapshot, which does not depend on this field: whoever left them out would never learn that the port is free again.
    pub unavailable: BTreeMap<(GatewayKey, String), String>,
}

/// What follows from the objects.
#[derive(Debug, Clone)]
pub struct Translation {
    /// For the data plane.
    pub snapshot: Arc<Snapshot>,
    /// For the objects.
    pub statuses: Statuses,
}

/// Translates everything at once. Equal input gives equal bytes.
pub fn translate(objects: &Objects, options: &Options) -> Translation {
    let graph = graph::Graph::build(objects, options);
    Translation { snapshot: Arc::new(snapshot::read(&graph)), statuses: status::read(&graph) }
}
