//! Rules of routes -> rules of the model, each with what is wrong in it.

mod filter;
mod header;
mod http;
mod matches;

use std::fmt;

use isthmus_api::shared::{RouteBackendRef, RuleView};
use isthmus_routing::{Matches, RouteKey, RouteKind, Rule, Target, Timeouts, WeightedBackend};

use crate::graph::backend_ref::{BackendFault, Backends};

/// A rule with its judgement.
#[derive(Debug)]
pub(crate) struct RuleNode {
    /// What is served of it.
    pub(crate) rule: Rule,
    /// Why it cannot be carried out as written.
    pub(crate) fault: Option<RuleFault>,
    /// What it refers to in vain.
    pub(crate) unresolved: Vec<BackendFault>,
}

/// Why a rule cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleFault {
    severity: Severity,
    /// Where, from the rule on: `matches[0].path.value`. Empty: the rule.
    field: String,
    /// What is wrong and what to do.
    fault: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    /// A value that the specification or the model does not have. The rule is dropped.
    Unsupported,
    /// Filters that exclude each other. The rule is dropped.
    Incompatible,
    /// A filter that cannot be carried out and may guard what is behind it: the rule goes on matching and answers 500.
    Closed,
}

impl RuleFault {
    fn unsupported(field: &str, fault: fmt::Arguments<'_>) -> Self {
        Self { severity: Severity::Unsupported, field: field.to_owned(), fault: fault.to_string() }
    }

    fn incompatible(fault: fmt::Arguments<'_>) -> Self {
        Self { severity: Severity::Incompatible, field: String::new(), fault: fault.to_string() }
    }

    fn closed(fault: &str) -> Self {
        let fault = format!("{fault}; until then requests that match get status 500");
        Self { severity: Severity::Closed, field: String::new(), fault }
    }

    /// The same fault, seen from one field further out.
    fn within(mut self, outer: &str) -> Self {
        self.field = if self.field.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.field) };
        self
    }

    /// The reason of `Accepted=False`.
    pub(crate) fn reason(&self) -> &'static str {
        match self.severity {
            Severity::Unsupported | Severity::Closed => "UnsupportedValue",
            Severity::Incompatible => "IncompatibleFilters",
        }
    }
}

impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.fault),
            field => write!(f, "{field}: {}", self.fault),
        }
    }
}

/// Converts one rule. Total: a rule with a fault keeps its position, so that all positions stay those of the object.
///
/// > All valid rules within a Route attached to this Listener should be
/// > implemented. Invalid Route rules can be ignored (sometimes that will mean
/// > the full Route).
pub(crate) fn rule(route: &RouteKey, from: &RuleView, backends: &Backends<'_, '_>) -> RuleNode {
    let mut unresolved = Vec::new();
    let targets = weighted(route, from, backends, &mut unresolved);
    let filters = filter::filters(&from.filters, &from.matches, route, backends);
    let matches = matches::matches(&from.matches);
    let timing =
        http::timeouts(&from.timeouts).and_then(|timeouts| Ok((timeouts, from.retry.as_ref().map(http::retry).transpose()?)));
    let mut node = RuleNode { rule: dropped(route.kind, from), fault: None, unresolved };
    let matches = match matches {
        Ok(matches) => matches,
        Err(fault) => return RuleNode { fault: Some(fault), ..node },
    };
    match (filters, targets, timing) {
        (Ok(filters), Ok(backends), Ok((timeouts, retry))) => {
            node.unresolved.splice(..0, filters.unresolved);
            node.rule =
                Rule { matches, filters: filters.filters, backends, timeouts, retry, invalid: filters.unknown, ..node.rule };
        }
        (filters, targets, timing) => {
            node.fault = worst([filters.err(), targets.err(), timing.err()].into_iter().flatten());
            if node.fault.as_ref().is_some_and(|fault| fault.severity == Severity::Closed) {
                node.rule = Rule { matches, invalid: true, ..node.rule };
            }
        }
    }
    node
}

/// A rule that never applies; of a route of connections or datagrams, where nothing can be at fault but what it refers to, one that
/// leads nowhere yet.
fn dropped(kind: RouteKind, from: &RuleView) -> Rule {
    Rule {
        name: from.name.clone(),
        matches: match kind {
            RouteKind::Http => Matches::Http(Vec::new()),
            RouteKind::Grpc => Matches::Grpc(Vec::new()),
            RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => Matches::Any,
        },
        filters: Vec::new(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    }
}

/// > If
/// > multiple backends are specified, and some are invalid, the proportion of
/// > requests that would otherwise have been routed to an invalid backend
/// > MUST receive a 500 status code.
///
/// A backendRef with a filter that is not known is as invalid as one without its Service.
fn weighted(
    route: &RouteKey,
    from: &RuleView,
    backends: &Backends<'_, '_>,
    unresolved: &mut Vec<BackendFault>,
) -> Result<Vec<WeightedBackend>, RuleFault> {
    let mut converted = Vec::with_capacity(from.backend_refs.len());
    let mut faults = Vec::new();
    for (at, RouteBackendRef { backend_ref, filters }) in from.backend_refs.iter().enumerate() {
        let mut target = backends.resolve(route, backend_ref).map_or_else(
            |fault| {
                unresolved.push(fault);
                Target::Invalid
            },
            Target::Backend,
        );
        match filter::filters(filters, &from.matches, route, backends) {
            Ok(filters) => {
                if filters.unknown {
                    target = Target::Invalid;
                }
                unresolved.extend(filters.unresolved);
                converted.push(WeightedBackend { weight: weight(backend_ref.weight), target, filters: filters.filters });
            }
            Err(fault) => faults.push(fault.within(&format!("backendRefs[{at}]"))),
        }
    }
    worst(faults.into_iter()).map_or(Ok(converted), Err)
}

/// The first of the most severe ones.
fn worst(faults: impl Iterator<Item = RuleFault>) -> Option<RuleFault> {
    faults.reduce(|worst, next| if next.severity > worst.severity { next } else { worst })
}

/// The API's rules keep it in this range.
fn weight(weight: i32) -> u32 {
    u32::try_from(weight).unwrap_or(0).min(1_000_000)
}
