//! Where requests go.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::filter::Filter;
use crate::{BackendKey, BackendTls, BundleKey, ProxyProtocol};

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

/// The shares of a rule's backends.
///
/// > Weight specifies the proportion of requests forwarded to the referenced
/// > backend. This is computed as weight/(sum of all weights in this
/// > BackendRefs list).
#[derive(Debug, Clone, Copy)]
pub struct WeightedChoice<'b> {
    backends: &'b [WeightedBackend],
    total: u64,
}

impl<'b> WeightedChoice<'b> {
    /// `None` if there is nothing to choose: no backend, or none with a weight. Such a request is answered with 500.
    pub fn new(backends: &'b [WeightedBackend]) -> Option<Self> {
        let total = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        (total > 0).then_some(Self { backends, total })
    }

    /// The sum of the weights.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The position of the backend that a drawn number stands for. Of the numbers `0..total`, and of every `total` numbers that
    /// follow each other, each backend has exactly as many as its weight says, so any evenly drawn `u64` will do.
    pub fn pick(&self, drawn: u64) -> usize {
        let mut rest = drawn % self.total;
        let takes = |backend: &WeightedBackend| match rest.checked_sub(u64::from(backend.weight)) {
            Some(less) => {
                rest = less;
                false
            }
            None => true,
        };
        self.backends.iter().position(takes).unwrap_or_default()
    }
}

/// What a backendRef resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A port of a Service.
    Backend(BackendKey),
    /// Nothing that may be used. Its share of requests is answered with 500, of connections closed, of datagrams dropped:
    ///
    /// > When a HTTPBackendRef is invalid, 500 status codes MUST be returned for
    /// > requests that would have otherwise been routed to an invalid backend.
    Invalid,
}

/// A port of a Service with the endpoints behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// What its endpoints speak (`appProtocol`).
    pub protocol: BackendProtocol,
    /// Ready endpoints, sorted by address, each once. None: 503.
    pub endpoints: Vec<Endpoint>,
    /// How connections to them are encrypted; none: not at all. Of no matter where the client's TLS is passed on as it is, and for UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
    /// What each connection to them begins with, so that they learn who the client is; none: nothing. Of no matter for UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Backend {
    /// Certificates of authorities that it refers to.
    pub fn bundles(&self) -> &[BundleKey] {
        match &self.tls {
            Some(BackendTls::Verified(validation)) => validation.roots.bundles(),
            Some(BackendTls::Invalid) | None => &[],
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(weights: &[u32]) -> Vec<WeightedBackend> {
        let backend = |&weight| WeightedBackend { weight, target: Target::Invalid, filters: Vec::new() };
        weights.iter().map(backend).collect()
    }

    #[test]
    fn shares_are_exact() {
        for weights in [&[1][..], &[70, 30, 0], &[0, 0, 5], &[1, 2, 3, 4], &[0, 1, 0, 1, 0]] {
            let backends = backends(weights);
            let choice = WeightedChoice::new(&backends).unwrap();
            for start in [0, choice.total() * 7] {
                let mut picked = vec![0; weights.len()];
                (start..start + choice.total()).for_each(|drawn| picked[choice.pick(drawn)] += 1);
                assert_eq!(picked, weights);
            }
            assert!(weights[choice.pick(u64::MAX)] > 0);
        }
    }

    #[test]
    fn as_heavy_as_can_be() {
        let backends = backends(&[1_000_000; 16]);
        let choice = WeightedChoice::new(&backends).unwrap();
        assert_eq!(choice.total(), 16_000_000);
        for (drawn, picked) in [(0, 0), (999_999, 0), (1_000_000, 1), (15_999_999, 15), (16_000_000, 0)] {
            assert_eq!(choice.pick(drawn), picked);
        }
        assert!(WeightedChoice::new(&self::backends(&[u32::MAX; 3])).is_some_and(|choice| choice.pick(u64::MAX) < 3));
    }

    #[test]
    fn nothing_to_choose() {
        assert!(WeightedChoice::new(&[]).is_none());
        assert!(WeightedChoice::new(&backends(&[0, 0])).is_none());
    }
}
