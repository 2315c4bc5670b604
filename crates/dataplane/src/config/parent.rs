//! What routes are attached to, a listener or a Service, with its route table and its rules.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use isthmus_routing::matching::{HttpMatch, PathMatch};
use isthmus_routing::{
    Attachment, BackendKey, Found, GatewayKey, Hostname, Listener, Matches, Protocol, Request, Route, RouteKey, RouteTable, Rule,
    ServiceParent, Snapshot, StreamFound, StreamTable, Target, Timeouts, WeightedBackend,
};

use super::Sources;
use super::rule::CompiledRule;
use crate::telemetry::ParentMetrics;

/// What routes are attached to. All that differs between requests that come to a Gateway and requests of a client in the mesh is said here.
#[derive(Debug, PartialEq)]
pub(crate) enum Parent {
    /// A listener of a Gateway.
    Listener(Listener),
    /// A port of a Service, as clients of one namespace see it.
    Service {
        key: BackendKey,
        /// Those of that namespace's clients; none: requests go to the Service's endpoints.
        routes: Vec<Attachment>,
        /// Who stands before it.
        by: By,
    },
}

/// Who evaluates the routes of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Its client, who could have called any backend: none needs a grant.
    Client,
    /// A Gateway, in the place of clients: backends of other namespaces need theirs.
    Gateway,
}

/// Whose port it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A Gateway's, where its listeners are.
    Gateway(GatewayKey),
    /// A Service's, where its clients dial.
    Service(BackendKey),
}

/// A parent, compiled.
pub(crate) struct CompiledParent {
    source: Parent,
    table: Table,
    routes: HashMap<RouteKey, CompiledRoute, foldhash::fast::RandomState>,
    metrics: Arc<ParentMetrics>,
}

/// What its routes are looked up in.
enum Table {
    Requests(RouteTable),
    Streams(StreamTable),
    /// There are none, and this takes every request and every connection.
    Endpoints(Arc<CompiledRule>),
}

/// The rules of a route, by their position.
#[derive(Debug, Clone)]
struct CompiledRoute {
    source: Arc<Route>,
    rules: Arc<[Arc<CompiledRule>]>,
}

/// The rule that takes a request.
#[derive(Debug)]
pub(crate) struct Matched {
    /// The rule.
    pub(crate) rule: Arc<CompiledRule>,
    /// How many bytes of the path a prefix match took; see [`Found::prefix`].
    pub(crate) prefix: Option<usize>,
}

impl Parent {
    /// Its name beside others on its port.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Listener(listener) => &listener.name,
            Self::Service { key, .. } => &key.name,
        }
    }

    /// The port that clients dial, which redirects name if they say nothing else.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Listener(listener) => listener.port,
            Self::Service { key, .. } => key.port,
        }
    }

    /// Which hosts it takes; none: all. A Service is told by its address, so the host does not matter.
    pub(crate) fn hostname(&self) -> Option<&Hostname> {
        match self {
            Self::Listener(listener) => listener.hostname.as_ref(),
            Self::Service { .. } => None,
        }
    }

    /// What is spoken on it.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Listener(listener) => listener.protocol,
            Self::Service { .. } => Protocol::Http,
        }
    }

    /// Whether connections of any bytes are its own. Those of a Service are, if it has no routes.
    pub(crate) fn takes_bytes(&self) -> bool {
        match self {
            Self::Listener(listener) => listener.protocol == Protocol::Tcp,
            Self::Service { routes, .. } => routes.is_empty(),
        }
    }

    /// Whether the backend ends TLS, and not this parent.
    pub(crate) fn is_passthrough(&self) -> bool {
        matches!(self, Self::Listener(listener) if listener.passthrough)
    }

    /// What a client is told if no route takes its request.
    pub(crate) fn no_match(&self, method: &http::Method, host: &str) -> String {
        match self {
            Self::Listener(_) => format!("no route matches {method} on `{host}`"),
            Self::Service { key, .. } => format!("no route of {key} matches this {method}"),
        }
    }

    fn routes(&self) -> &[Attachment] {
        match self {
            Self::Listener(listener) => &listener.routes,
            Self::Service { routes, .. } => routes,
        }
    }

    /// Where its routes are what they are for it: backends of other namespaces need no grant on a Service.
    fn known<'s>(&self, snapshot: &'s Snapshot) -> &'s BTreeMap<RouteKey, Arc<Route>> {
        match self {
            Self::Listener(_) | Self::Service { by: By::Gateway, .. } => &snapshot.routes,
            Self::Service { by: By::Client, .. } => &snapshot.service_routes,
        }
    }
}

/// `Gateway/infra/edge`, `Service/shop/cart:80`
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(key) => key.fmt(f),
            Self::Service(key) => key.fmt(f),
        }
    }
}

impl CompiledParent {
    pub(super) fn listener(
        gateway: &GatewayKey,
        listener: &Listener,
        previous: Option<&Arc<Self>>,
        sources: &Sources<'_>,
    ) -> Arc<Self> {
        let same = |parent: &Parent| matches!(parent, Parent::Listener(before) if before == listener);
        if let Some(unchanged) = previous.filter(|previous| same(&previous.source) && previous.has_the_routes_of(sources)) {
            return unchanged.clone();
        }
        let table = if listener.protocol.is_http() {
            Table::Requests(RouteTable::compile(listener, sources.snapshot))
        } else {
            Table::Streams(StreamTable::compile(listener, sources.snapshot))
        };
        let metrics = sources.telemetry.listener(gateway, &listener.name);
        Self::compile(Parent::Listener(listener.clone()), table, metrics, previous, sources)
    }

    /// A Service's port for clients of `namespace`.
    pub(super) fn service(
        key: &BackendKey,
        service: &ServiceParent,
        (namespace, by): (&str, By),
        previous: Option<&Arc<Self>>,
        sources: &Sources<'_>,
    ) -> Arc<Self> {
        let source = Parent::Service { key: key.clone(), routes: service.routes_for(namespace).to_vec(), by };
        if let Some(unchanged) = previous.filter(|previous| previous.source == source && previous.has_the_routes_of(sources)) {
            return unchanged.clone();
        }
        let metrics = sources.telemetry.service(key);
        let table = if source.routes().is_empty() {
            Table::Endpoints(endpoints_of(key, &metrics, sources))
        } else {
            Table::Requests(RouteTable::of(source.routes(), source.known(sources.snapshot)))
        };
        Self::compile(source, table, metrics, previous, sources)
    }

    fn compile(
        source: Parent,
        table: Table,
        metrics: Arc<ParentMetrics>,
        previous: Option<&Arc<Self>>,
        sources: &Sources<'_>,
    ) -> Arc<Self> {
        let attachments = source.routes();
        let mut routes = HashMap::with_capacity_and_hasher(attachments.len(), foldhash::fast::RandomState::default());
        for attachment in attachments {
            let Some(route) = source.known(sources.snapshot).get(&attachment.route) else { continue };
            let before = previous.and_then(|previous| previous.routes.get(&attachment.route));
            let compiled = match before.filter(|before| before.is_of(route)) {
                Some(unchanged) => unchanged.clone(),
                None => CompiledRoute::compile(&attachment.route, route, &metrics, sources),
            };
            routes.insert(attachment.route.clone(), compiled);
        }
        Arc::new(Self { source, table, routes, metrics })
    }

    /// What it is.
    pub(crate) fn source(&self) -> &Parent {
        &self.source
    }

    /// What counts its requests.
    pub(crate) fn metrics(&self) -> &Arc<ParentMetrics> {
        &self.metrics
    }

    /// The rule that answers a request; none: 404. A Service with routes never answers by its endpoints what none of them takes.
    pub(crate) fn find(&self, request: &Request<'_>) -> Option<Matched> {
        let table = match &self.table {
            Table::Requests(table) => table,
            Table::Endpoints(rule) => return Some(Matched { rule: rule.clone(), prefix: None }),
            Table::Streams(_) => return None,
        };
        let Found { route, index, prefix, .. } = table.find(request)?;
        let rule = self.routes.get(route)?.rules.get(index)?.clone();
        Some(Matched { rule, prefix })
    }

    /// The rule that takes a connection or a datagram; none: no route does. The server name is lower-case and without a trailing dot; none
    /// where the client, or the protocol, has none.
    pub(crate) fn stream(&self, server_name: Option<&str>) -> Option<Arc<CompiledRule>> {
        let table = match &self.table {
            Table::Streams(table) => table,
            Table::Endpoints(rule) => return Some(rule.clone()),
            Table::Requests(_) => return None,
        };
        let StreamFound { route, index } = table.find(server_name)?;
        self.routes.get(route)?.rules.get(*index).cloned()
    }

    fn has_the_routes_of(&self, sources: &Sources<'_>) -> bool {
        let known = self.source.known(sources.snapshot);
        self.source.routes().iter().all(|attachment| match (self.routes.get(&attachment.route), known.get(&attachment.route)) {
            (Some(before), Some(now)) => before.is_of(now),
            (None, None) => true,
            _ => false,
        })
    }
}

impl fmt::Debug for CompiledParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledParent")
            .field("name", &self.source.name())
            .field("hostname", &self.source.hostname())
            .finish_non_exhaustive()
    }
}

/// The rule of a Service without routes: everything goes to its endpoints, as it is.
fn endpoints_of(key: &BackendKey, metrics: &Arc<ParentMetrics>, sources: &Sources<'_>) -> Arc<CompiledRule> {
    let everything = HttpMatch { path: PathMatch::Prefix("/".to_owned()), headers: Vec::new(), query: Vec::new(), method: None };
    let rule = Rule {
        name: None,
        matches: Matches::Http(vec![everything]),
        filters: Vec::new(),
        backends: vec![WeightedBackend { weight: 1, target: Target::Backend(key.clone()), filters: Vec::new() }],
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    };
    let metrics = sources.telemetry.direct(metrics, key);
    let route = Arc::new(Route { created: 0, rules: vec![rule] });
    Arc::new(CompiledRule::compile(&route, 0, &route.rules[0], metrics))
}

impl CompiledRoute {
    fn compile(key: &RouteKey, route: &Arc<Route>, parent: &Arc<ParentMetrics>, sources: &Sources<'_>) -> Self {
        let rule = |(index, rule)| {
            let metrics = sources.telemetry.rule(parent, key, index, rule);
            Arc::new(CompiledRule::compile(route, index, rule, metrics))
        };
        Self { source: route.clone(), rules: route.rules.iter().enumerate().map(rule).collect() }
    }

    /// Pointers first: most routes of a snapshot are those of the one before.
    fn is_of(&self, route: &Arc<Route>) -> bool {
        Arc::ptr_eq(&self.source, route) || self.source == *route
    }
}

#[cfg(test)]
mod tests;
