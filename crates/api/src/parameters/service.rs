//! What the Service of a Gateway is like.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Service in front of a Gateway's pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceParameters {
    /// See the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<ServiceType>,
    /// Who provides the load balancer. Default: none, which is the cluster's default. With addressPools it is always `isthmus.dev/pool`, so
    /// that nobody else gives the Service an address. A change creates the Service anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
    /// See the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// Annotations, for example for a cloud's load balancer. The Gateway's infrastructure.annotations win. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Prefixes from which clients may connect through a load balancer: `10.0.0.0/8`. Only for LoadBalancer. Default: from everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 50), regex(pattern = r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$")))]
    pub source_ranges: Option<Vec<String>>,
}

/// What kind of Service it is. Default: LoadBalancer, or ClusterIP with hostPort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// An address from addressPools, or from the cluster's load balancer controller.
    #[default]
    LoadBalancer,
    /// A port of its own for each listener on every node, whose addresses are the Gateway's.
    NodePort,
    /// The cluster's own address.
    ClusterIP,
}

/// Whether nodes forward to pods on other nodes too (Cluster) or only to their own (Local), which keeps the client's address. Default:
/// Cluster. Not for ClusterIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExternalTrafficPolicy {
    /// Any.
    Cluster,
    /// Those on the node itself.
    Local,
}
