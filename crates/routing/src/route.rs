//! Routes and their rules.

use serde::{Deserialize, Serialize};

use crate::filter::Filter;
use crate::{BackendKey, GrpcMatch, HttpMatch, Retry, Target, Timeouts, WeightedBackend};

/// A route of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Creation time in seconds since 1970: the older of two routes wins a tie.
    pub created: i64,
    /// Its rules; their positions are those in the object, so that logs, metrics and statuses name the same rule.
    pub rules: Vec<Rule>,
}

impl Route {
    /// The backends of its backendRefs and of its mirrors, as often as they are named.
    pub fn backend_keys(&self) -> impl Iterator<Item = &BackendKey> {
        fn mirrored(filters: &[Filter]) -> impl Iterator<Item = &Target> {
            filters.iter().filter_map(|filter| match filter {
                Filter::RequestMirror(mirror) => Some(&mirror.target),
                _ => None,
            })
        }

        let targets = self.rules.iter().flat_map(|rule| {
            let backends =
                rule.backends.iter().flat_map(|backend| std::iter::once(&backend.target).chain(mirrored(&backend.filters)));
            backends.chain(mirrored(&rule.filters))
        });
        targets.filter_map(|target| match target {
            Target::Backend(key) => Some(key),
            Target::Invalid => None,
        })
    }
}

/// What matches, and what is then done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The rule's name in the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it applies: any one of these. Never empty: a rule without matches has one that matches everything. A rule
    /// that was dropped ("Dropped Rule") has none and so never applies.
    pub matches: Matches,
    /// What is done to the request and the response, in the order of the object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Where it goes; of no use when a filter answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<WeightedBackend>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,
    /// What is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Set when this rule cannot be carried out (a filter that is not known, or whose reference does not resolve):
    /// every request that matches is answered with 500, or UNAVAILABLE for gRPC.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invalid: bool,
}

/// The matches of a rule, of its route's kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Matches {
    /// Of an HTTPRoute.
    Http(Vec<HttpMatch>),
    /// Of a GRPCRoute.
    Grpc(Vec<GrpcMatch>),
    /// Of a TLSRoute, a TCPRoute or a UDPRoute: whatever reaches the route. Such a rule has neither filters nor timeouts nor retries.
    Any,
}
