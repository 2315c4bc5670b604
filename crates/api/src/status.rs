//! Statuses as Isthmus writes them: the API's shapes, without times. Who writes a status adds `lastTransitionTime`, because only
//! the writer knows whether a condition changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::NamespacedName;

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `Programmed`, ...
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: ConditionStatus,
    /// One word in CamelCase, from the Gateway API where it has one.
    pub reason: String,
    /// What is wrong and what to do about it; empty when nothing is.
    #[serde(default)]
    pub message: String,
    /// The generation of the object that was judged.
    pub observed_generation: i64,
}

/// The truth of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It is not known.
    Unknown,
}

/// `GatewayClass.status`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Features, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supported_features: Vec<SupportedFeature>,
}

/// `XMesh.status`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Features, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supported_features: Vec<SupportedFeature>,
}

/// A feature that conformance tests can ask for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SupportedFeature {
    /// Its name in the Gateway API.
    pub name: String,
}

/// `Gateway.status`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<GatewayAddress>,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// One for each listener of the spec, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
    /// How many ListenerSets are attached to it: allowed, and accepted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attached_listener_sets: i32,
}

/// `ListenerSet.status`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSetStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// One for each listener of the spec, in its order; none if the Gateway does not allow the set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
}

/// An address of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayAddress {
    /// `IPAddress` or `Hostname`.
    pub r#type: String,
    /// The address.
    pub value: String,
}

/// `Gateway.status.listeners[]` and `ListenerSet.status.listeners[]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// The listener.
    pub name: String,
    /// Kinds of route that may attach.
    pub supported_kinds: Vec<RouteGroupKind>,
    /// How many routes are attached to it (accepted, with at least one match of section, port, namespace and hostname).
    pub attached_routes: i32,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// A kind of route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteGroupKind {
    /// Its API group.
    pub group: String,
    /// Its kind.
    pub kind: String,
}

/// `status` of every kind of route
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// One for each parentRef that is ours, in the order of the spec.
    pub parents: Vec<RouteParentStatus>,
}

/// `status.parents[]` of a route
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The parentRef as the route has it, defaults included.
    pub parent_ref: crate::shared::ParentRef,
    /// Whose judgement this is.
    pub controller_name: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// The status of every object that is ours. An object that is not (another controller's class, a route without a parent of ours) is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statuses {
    /// By name.
    pub gateway_classes: BTreeMap<String, GatewayClassStatus>,
    /// By namespace and name.
    pub gateways: BTreeMap<NamespacedName, GatewayStatus>,
    /// By namespace and name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub listener_sets: BTreeMap<NamespacedName, ListenerSetStatus>,
    /// By namespace and name.
    pub http_routes: BTreeMap<NamespacedName, RouteStatus>,
    /// By namespace and name.
    pub grpc_routes: BTreeMap<NamespacedName, RouteStatus>,
    /// By namespace and name.
    pub tls_routes: BTreeMap<NamespacedName, RouteStatus>,
    /// By namespace and name.
    pub tcp_routes: BTreeMap<NamespacedName, RouteStatus>,
    /// By namespace and name.
    pub udp_routes: BTreeMap<NamespacedName, RouteStatus>,
    /// By namespace and name.
    pub backend_tls_policies: BTreeMap<NamespacedName, PolicyStatus>,
    /// By name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub x_meshes: BTreeMap<String, MeshStatus>,
}

/// `status` of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// One for each Gateway of ours whose traffic it concerns, sorted by name. The API's schema takes 16.
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// `status.ancestors[]` of a policy
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The Gateway, with its namespace.
    pub ancestor_ref: crate::shared::ParentRef,
    /// Whose judgement this is.
    pub controller_name: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}
