//! Matches of GRPCRoutes, by service and method.

use hashbrown::HashMap;

use super::candidate::{ByName, Candidate, Routes};
use super::{GrpcMatch, MethodMatch, Request, ValueMatch};
use crate::hash::State;

/// The matches of GRPCRoutes with one hostname. The order of the look-ups is that of [`super::precedence::GrpcRank`].
#[derive(Debug, Default)]
pub(super) struct GrpcTable {
    services: HashMap<Box<str>, MethodTable, State>,
    /// Those with an expression for the service.
    regex_services: Vec<Candidate>,
    /// Those without a service.
    any_service: MethodTable,
}

/// Matches that agree on the service.
#[derive(Debug, Default)]
struct MethodTable {
    methods: ByName,
    /// Those with an expression for the method, and those without a method.
    others: Vec<Candidate>,
}

impl GrpcTable {
    /// To be called in the order of precedence.
    pub(super) fn add(&mut self, asked: &GrpcMatch, candidate: Candidate) {
        let asked = asked.method.as_ref();
        let table = match asked.and_then(|asked| asked.service.as_ref()) {
            None => &mut self.any_service,
            Some(ValueMatch::Exact(service)) => self.services.entry(service.as_str().into()).or_default(),
            Some(ValueMatch::Regex(_)) => return self.regex_services.push(candidate),
        };
        match asked.and_then(|asked| asked.method.as_ref()) {
            Some(ValueMatch::Exact(method)) => table.methods.add(method, candidate),
            Some(ValueMatch::Regex(_)) | None => table.others.push(candidate),
        }
    }

    /// The best match for a gRPC request.
    pub(super) fn find(&self, request: &Request<'_>, routes: &Routes) -> Option<Candidate> {
        let called = called(request.path);
        let passes = |candidate: &Candidate| {
            !candidate.conditional || routes.grpc(candidate).is_some_and(|asked| asked.holds(called, request))
        };
        let by_service = called.and_then(|(service, _)| self.services.get(service));
        let found = by_service.and_then(|table| table.find(called, passes));
        found
            .or_else(|| self.regex_services.iter().find(|candidate| passes(candidate)).copied())
            .or_else(|| self.any_service.find(called, passes))
    }
}

impl MethodTable {
    fn find(&self, called: Option<(&str, &str)>, passes: impl Fn(&Candidate) -> bool) -> Option<Candidate> {
        let by_method = called.map_or(&[][..], |(_, method)| self.methods.get(method));
        by_method.iter().chain(&self.others).find(|candidate| passes(candidate)).copied()
    }
}

impl GrpcMatch {
    /// Whether a look-up by names is not enough.
    pub(super) fn has_regex(&self) -> bool {
        let is_regex = |asked: &Option<ValueMatch>| matches!(asked, Some(ValueMatch::Regex(_)));
        self.method.as_ref().is_some_and(|asked| is_regex(&asked.service) || is_regex(&asked.method))
    }

    fn holds(&self, called: Option<(&str, &str)>, request: &Request<'_>) -> bool {
        self.method.as_ref().is_none_or(|asked| called.is_some_and(|(service, method)| asked.holds(service, method)))
            && self.headers.iter().all(|header| header.holds(request.headers))
    }
}

impl MethodMatch {
    fn holds(&self, service: &str, method: &str) -> bool {
        let is = |asked: &Option<ValueMatch>, name: &str| asked.as_ref().is_none_or(|asked| asked.holds(name.as_bytes()));
        is(&self.service, service) && is(&self.method, method)
    }
}

/// The service and the method that a path calls: `/package.Service/Method`.
fn called(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.rsplit_once('/').filter(|(service, method)| !service.is_empty() && !method.is_empty())
}
