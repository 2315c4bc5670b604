//! The compiled form of a listener's attachments.

use crate::{Listener, Request, RouteKey, Snapshot};

/// The routes of one listener, compiled for look-up. Immutable: a change compiles a new one.
#[derive(Debug)]
pub struct RouteTable {}

/// The rule that answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'t> {
    /// Its route.
    pub route: &'t RouteKey,
    /// The route itself, for its rule.
    pub rule: &'t crate::Rule,
    /// The position of the rule in the route.
    pub index: usize,
    /// For a prefix match, how many bytes at the start of the request's path were matched, without a trailing `/` (0 for `/`).
    /// `None` for other matches.
    pub prefix: Option<usize>,
}

impl RouteTable {
    /// Compiles the attachments of a listener. Attachments whose route is not in the snapshot are left out.
    pub fn compile(_listener: &Listener, _snapshot: &Snapshot) -> Self {
        Self {}
    }

    /// The rule with the highest precedence of those that match, or none: 404.
    pub fn find(&self, _request: &Request<'_>) -> Option<Found<'_>> {
        None
    }
}
