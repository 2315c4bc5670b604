//! The Kubernetes objects that Isthmus reads and writes, and the store that holds them.
//!
//! JSON of an admitted object -> [`decode`] -> [`Object`] -> [`Objects::apply`]. This is the only crate that names
//! `gateway-api`; where its generated types repeat one concept per nesting, [`shared`] holds the concept once.

#![forbid(unsafe_code)]

pub mod duration;
pub mod kind;
pub mod objects;
pub mod parameters;
pub mod pod;
pub mod shared;
pub mod status;
pub mod stream_route;
pub mod unreadable;

pub use kind::{Kind, NamespacedName, ObjectRef};
pub use objects::{DecodeError, Object, Objects, decode};
pub use parameters::GatewayParameters;

/// The generated types of the Gateway API, module by kind. The experimental channel's types have every field of the standard
/// channel's, but for BackendTLSPolicy (its CRDs are what `isthmus-admission` enforces).
pub use gateway_api::experimental as generated;

pub use gateway_api::backendtlspolicies::{self, BackendTlsPolicy};
pub use generated::gatewayclasses::GatewayClass;
pub use generated::gateways::Gateway;
pub use generated::grpcroutes::GrpcRoute;
pub use generated::httproutes::HttpRoute;
pub use generated::listenersets::ListenerSet;
pub use generated::referencegrants::ReferenceGrant;
pub use generated::tlsroutes::TlsRoute;
pub use generated::xmeshes::XMesh;
/// The core kinds' nested types (`ServicePort`, `Endpoint`, `IntOrString`, ...).
pub use k8s_openapi as core;
pub use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
pub use k8s_openapi::api::discovery::v1::EndpointSlice;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
pub use pod::Pod;
pub use stream_route::{TcpRoute, UdpRoute};
pub use unreadable::{Stored, Unreadable, decode_stored};
