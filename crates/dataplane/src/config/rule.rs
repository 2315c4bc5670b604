//! A rule, with all that can be known before a request.

use std::sync::Arc;

use isthmus_routing::{BackendKey, Route, Rule, Target, WeightedChoice};

use crate::balance::Interleave;
use crate::filter::Filters;
use crate::proxy::deadline::Patience;
use crate::proxy::retry::RetryPolicy;
use crate::telemetry::RuleMetrics;

/// A rule on one parent.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    route: Arc<Route>,
    index: usize,
    /// What counts its requests.
    pub(crate) metrics: Arc<RuleMetrics>,
    /// Its filters.
    pub(crate) filters: Filters,
    /// Those of its backendRefs, by position.
    backend_filters: Box<[Filters]>,
    shares: Interleave,
    /// Its timeouts.
    pub(crate) patience: Patience,
    /// Its retries.
    pub(crate) retry: RetryPolicy,
}

/// A share of a rule's requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share<'r> {
    /// The position of the backendRef.
    pub(crate) position: usize,
    /// Where it goes; none: the backendRef is invalid.
    pub(crate) backend: Option<&'r BackendKey>,
}

impl CompiledRule {
    pub(super) fn compile(route: &Arc<Route>, index: usize, rule: &Rule, metrics: Arc<RuleMetrics>) -> Self {
        let total = WeightedChoice::new(&rule.backends).map_or(0, |choice| choice.total());
        Self {
            route: route.clone(),
            index,
            metrics,
            filters: Filters::compile(&rule.filters),
            backend_filters: rule.backends.iter().map(|backend| Filters::compile(&backend.filters)).collect(),
            shares: Interleave::new(u32::try_from(total).unwrap_or(u32::MAX)),
            patience: Patience::of(&rule.timeouts),
            retry: RetryPolicy::of(rule.retry.as_ref()),
        }
    }

    /// Whether every request is answered with an error, because the rule cannot be carried out.
    pub(crate) fn is_invalid(&self) -> bool {
        self.rule().is_some_and(|rule| rule.invalid)
    }

    /// Where the next request goes. None: there is no backendRef with a weight.
    pub(crate) fn share(&self) -> Option<Share<'_>> {
        let backends = &self.rule()?.backends;
        let position = WeightedChoice::new(backends)?.pick(self.shares.draw());
        let backend = match &backends.get(position)?.target {
            Target::Backend(key) => Some(key),
            Target::Invalid => None,
        };
        Some(Share { position, backend })
    }

    /// Whether one of its backendRefs names this backend, with whatever weight.
    pub(crate) fn refers_to(&self, backend: &BackendKey) -> bool {
        let named = |target: &Target| matches!(target, Target::Backend(key) if key == backend);
        self.rule().is_some_and(|rule| !rule.invalid && rule.backends.iter().any(|weighted| named(&weighted.target)))
    }

    /// The filters of the backendRef at this position.
    pub(crate) fn backend_filters(&self, position: usize) -> Option<&Filters> {
        self.backend_filters.get(position)
    }

    fn rule(&self) -> Option<&Rule> {
        self.route.rules.get(self.index)
    }
}
