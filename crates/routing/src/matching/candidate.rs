//! What a look-up finds before the rest of a match is looked at.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{GrpcMatch, HttpMatch};
use crate::hash::State;
use crate::{Matches, Route, RouteKey, Rule};

/// A match of a rule, found by what its table is keyed with. Its order is that of equal ranks: the older route, the first
/// rule, the first match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// Its place in [`Routes`].
    pub(super) route: u32,
    /// The position of the rule in the route.
    pub(super) rule: u16,
    /// The position of the match in the rule.
    pub(super) index: u16,
    /// Whether the match asks for more than what it was found by. If not, it need not be looked at.
    pub(super) conditional: bool,
}

/// Candidates by a name. To be added in the order of precedence.
#[derive(Debug, Default)]
pub(super) struct ByName(HashMap<Box<str>, Vec<Candidate>, State>);

impl ByName {
    pub(super) fn add(&mut self, name: &str, candidate: Candidate) {
        self.0.entry(name.into()).or_default().push(candidate);
    }

    /// Those with this name, highest precedence first.
    pub(super) fn get(&self, name: &str) -> &[Candidate] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// The attached routes, those first that win ties.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Apart from their names, which a look-up does not read.
    routes: Vec<Arc<Route>>,
    keys: Vec<RouteKey>,
}

impl Routes {
    /// `sorted` by age and name.
    pub(super) fn new<'s>(sorted: impl Iterator<Item = (&'s RouteKey, &'s Arc<Route>)>) -> Self {
        let (keys, routes) = sorted.map(|(key, route)| (key.clone(), route.clone())).unzip();
        Self { routes, keys }
    }

    pub(super) fn key(&self, candidate: &Candidate) -> &RouteKey {
        &self.keys[candidate.route as usize]
    }

    pub(super) fn rule(&self, candidate: &Candidate) -> &Rule {
        &self.routes[candidate.route as usize].rules[usize::from(candidate.rule)]
    }

    /// The match of a candidate of an HTTPRoute.
    pub(super) fn http(&self, candidate: &Candidate) -> Option<&HttpMatch> {
        match &self.rule(candidate).matches {
            Matches::Http(matches) => matches.get(usize::from(candidate.index)),
            Matches::Grpc(_) | Matches::Any => None,
        }
    }

    /// The match of a candidate of a GRPCRoute.
    pub(super) fn grpc(&self, candidate: &Candidate) -> Option<&GrpcMatch> {
        match &self.rule(candidate).matches {
            Matches::Grpc(matches) => matches.get(usize::from(candidate.index)),
            Matches::Http(_) | Matches::Any => None,
        }
    }

    /// Every match of every rule of HTTPRoutes, for tables to be filled with.
    pub(super) fn http_matches(&self) -> impl Iterator<Item = (&HttpMatch, Candidate)> {
        self.rules().flat_map(|(route, rule, object)| {
            let matches = if let Matches::Http(matches) = &object.matches { &matches[..] } else { &[] };
            (0..=u16::MAX).zip(matches).map(move |(index, asked)| {
                let conditional = asked.method.is_some() || !asked.headers.is_empty() || !asked.query.is_empty();
                (asked, Candidate { route, rule, index, conditional })
            })
        })
    }

    /// Every match of every rule of GRPCRoutes, for tables to be filled with.
    pub(super) fn grpc_matches(&self) -> impl Iterator<Item = (&GrpcMatch, Candidate)> {
        self.rules().flat_map(|(route, rule, object)| {
            let matches = if let Matches::Grpc(matches) = &object.matches { &matches[..] } else { &[] };
            (0..=u16::MAX).zip(matches).map(move |(index, asked)| {
                let conditional = !asked.headers.is_empty() || asked.has_regex();
                (asked, Candidate { route, rule, index, conditional })
            })
        })
    }

    /// Of a route that has more than 65,536 rules, or matches in a rule, the first 65,536. (The API allows 16 and 64.)
    fn rules(&self) -> impl Iterator<Item = (u32, u16, &Rule)> {
        let routes = (0..).zip(&self.routes);
        routes.flat_map(|(number, route)| (0..=u16::MAX).zip(&route.rules).map(move |(rule, object)| (number, rule, object)))
    }
}
