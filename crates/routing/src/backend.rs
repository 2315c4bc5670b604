//! Where requests go.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::BackendKey;
use crate::filter::Filter;

/// A backendRef of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedBackend {
    /// Its share: `weight / sum of weights`. 0 gets nothing; at most 1,000,000.
    pub weight: u32,
    /// Where the share goes.
    pub target: Target,
    /// Filters of the backendRef; they run after the rule's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
}

/// What a backendRef resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A port of a Service.
    Backend(BackendKey),
    /// Nothing that may be used. Its share is answered with 500:
    ///
    /// > If a Backend is invalid, 500 status codes MUST be returned for requests that would have otherwise been routed to an invalid backend.
    Invalid,
}

/// A port of a Service with the endpoints behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// What its endpoints speak (`appProtocol`).
    pub protocol: BackendProtocol,
    /// Ready endpoints, sorted by address, each once. None: 503.
    pub endpoints: Vec<Endpoint>,
}

/// What a backend speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BackendProtocol {
    /// HTTP/1.1; gRPC requests go by HTTP/2 with prior knowledge all the same, since nothing else can carry them.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/2 with prior knowledge (`kubernetes.io/h2c`).
    #[serde(rename = "h2c")]
    H2c,
    /// WebSocket over HTTP/1.1 (`kubernetes.io/ws`).
    #[serde(rename = "ws")]
    WebSocket,
}

/// An address that answers for a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
}
