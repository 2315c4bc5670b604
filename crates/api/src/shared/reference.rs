//! How an object names another one.

use serde::{Deserialize, Serialize};

use super::GATEWAY_GROUP;
use crate::generated::{grpcroutes as grpc, httproutes as http, tlsroutes as tls};

/// What a route wants to attach to, defaults included.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// `gateway.networking.k8s.io` unless said otherwise.
    #[serde(default = "gateway_group")]
    pub group: String,
    /// `Gateway` unless said otherwise.
    #[serde(default = "gateway_kind")]
    pub kind: String,
    /// Of the parent; none: the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of the parent.
    pub name: String,
    /// A listener of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The port of listeners of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

/// Where requests (or copies of them) go, defaults included.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Empty for the core, which is the default.
    #[serde(default)]
    pub group: String,
    /// `Service` unless said otherwise.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// Of the backend.
    pub name: String,
    /// Of the backend; none: the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Required for a Service, which the API's rules enforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// The share among the rule's backends; 1 by default and where the API has none (a mirror's target).
    #[serde(default = "one")]
    pub weight: i32,
}

/// A certificate of a listener, defaults included.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Empty for the core, which is the default.
    #[serde(default)]
    pub group: String,
    /// `Secret` unless said otherwise.
    #[serde(default = "secret_kind")]
    pub kind: String,
    /// Of the object.
    pub name: String,
    /// Of the object; none: the Gateway's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

pub(super) fn gateway_group() -> String {
    GATEWAY_GROUP.to_owned()
}

pub(super) fn gateway_kind() -> String {
    "Gateway".to_owned()
}

pub(super) fn service_kind() -> String {
    "Service".to_owned()
}

pub(super) fn secret_kind() -> String {
    "Secret".to_owned()
}

fn one() -> i32 {
    1
}

macro_rules! parent_ref_from {
    ($($generated:ty),*) => {$(
        impl From<&$generated> for ParentRef {
            fn from(from: &$generated) -> Self {
                Self {
                    group: from.group.clone().unwrap_or_else(gateway_group),
                    kind: from.kind.clone().unwrap_or_else(gateway_kind),
                    namespace: from.namespace.clone(),
                    name: from.name.clone(),
                    section_name: from.section_name.clone(),
                    port: from.port,
                }
            }
        }
    )*};
}
parent_ref_from!(http::HttpRouteParentRefs, grpc::GrpcRouteParentRefs, tls::TlsRouteParentRefs);

macro_rules! backend_ref_from {
    ($weight:expr; $($generated:ty),*) => {$(
        impl From<&$generated> for BackendRef {
            fn from(from: &$generated) -> Self {
                let weight: fn(&$generated) -> Option<i32> = $weight;
                Self {
                    group: from.group.clone().unwrap_or_default(),
                    kind: from.kind.clone().unwrap_or_else(service_kind),
                    name: from.name.clone(),
                    namespace: from.namespace.clone(),
                    port: from.port,
                    weight: weight(from).unwrap_or_else(one),
                }
            }
        }
    )*};
}
backend_ref_from!(|from| from.weight; http::HttpRouteRulesBackendRefs, grpc::GrpcRouteRulesBackendRefs, tls::TlsRouteRulesBackendRefs);
backend_ref_from!(
    |_| None;
    http::HttpRouteRulesFiltersRequestMirrorBackendRef,
    http::HttpRouteRulesBackendRefsFiltersRequestMirrorBackendRef,
    grpc::GrpcRouteRulesFiltersRequestMirrorBackendRef,
    grpc::GrpcRouteRulesBackendRefsFiltersRequestMirrorBackendRef
);
