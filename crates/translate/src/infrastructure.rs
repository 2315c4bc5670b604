//! The graph, read for whoever provides what a Gateway runs on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use isthmus_api::parameters::GatewayParametersSpec;
use isthmus_routing::{GatewayKey, Transport};

use crate::graph::Graph;
use crate::graph::gateway::GatewayNode;

/// Where a Gateway answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// `IPAddress`
    Ip(IpAddr),
    /// `Hostname`
    Hostname(String),
}

/// An entry of a Gateway's `spec.addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedAddress {
    /// `IPAddress`; other types are refused before.
    pub kind: String,
    /// The address; none: any one will do.
    pub value: Option<String>,
}

/// What a Gateway needs to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Infrastructure {
    /// The Gateway's `metadata.uid`; empty where nobody gives one.
    pub uid: String,
    /// The Gateway's `metadata.creationTimestamp` in seconds since 1970: the older one of two that want the same goes first.
    pub created: i64,
    /// `spec.infrastructure.labels`
    pub labels: BTreeMap<String, String>,
    /// `spec.infrastructure.annotations`
    pub annotations: BTreeMap<String, String>,
    /// Ports of its accepted listeners.
    pub ports: BTreeSet<(u16, Transport)>,
    /// The installation's parameters, overlaid by the GatewayClass's and then by the Gateway's.
    pub parameters: GatewayParametersSpec,
    /// `spec.addresses`
    pub requested: Vec<RequestedAddress>,
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Hostname(name) => f.write_str(name),
        }
    }
}

/// Every Gateway that is accepted, whatever its listeners.
pub(crate) fn read(graph: &Graph<'_>) -> BTreeMap<GatewayKey, Infrastructure> {
    let accepted = graph.gateways.values().filter(|gateway| gateway.fault.is_none());
    accepted.map(|gateway| (gateway.key.clone(), infrastructure(gateway))).collect()
}

fn infrastructure(node: &GatewayNode) -> Infrastructure {
    let valid = node.listeners.iter().filter(|listener| listener.is_valid());
    Infrastructure {
        ports: valid.filter_map(|listener| Some((u16::try_from(listener.port).ok()?, listener.protocol?.transport()))).collect(),
        ..node.infrastructure.clone()
    }
}
