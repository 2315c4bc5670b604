//! A listener with its route table and its rules.

use std::sync::Arc;

use hashbrown::HashMap;
use isthmus_routing::{
    Found, GatewayKey, Hostname, Listener, Protocol, Request, Route, RouteKey, RouteTable, StreamFound, StreamTable,
};

use super::Sources;
use super::rule::CompiledRule;
use crate::telemetry::ParentMetrics;

/// A listener, compiled.
pub(crate) struct CompiledListener {
    source: Listener,
    table: Table,
    routes: HashMap<RouteKey, CompiledRoute, foldhash::fast::RandomState>,
    metrics: Arc<ParentMetrics>,
}

/// What its routes are looked up in.
enum Table {
    Requests(RouteTable),
    Streams(StreamTable),
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

impl CompiledListener {
    pub(super) fn compile(
        gateway: &GatewayKey,
        source: &Listener,
        previous: Option<&Arc<Self>>,
        sources: &Sources<'_>,
    ) -> Arc<Self> {
        if let Some(previous) = previous
            && previous.source == *source
            && previous.has_the_routes_of(sources)
        {
            return previous.clone();
        }
        let metrics = sources.telemetry.listener(gateway, &source.name);
        let mut routes = HashMap::with_capacity_and_hasher(source.routes.len(), foldhash::fast::RandomState::default());
        for attachment in &source.routes {
            let Some(route) = sources.snapshot.routes.get(&attachment.route) else { continue };
            let before = previous.and_then(|previous| previous.routes.get(&attachment.route));
            let compiled = match before.filter(|before| before.is_of(route)) {
                Some(unchanged) => unchanged.clone(),
                None => CompiledRoute::compile(&attachment.route, route, &metrics, sources),
            };
            routes.insert(attachment.route.clone(), compiled);
        }
        let table = if source.protocol.is_http() {
            Table::Requests(RouteTable::compile(source, sources.snapshot))
        } else {
            Table::Streams(StreamTable::compile(source, sources.snapshot))
        };
        Arc::new(Self { source: source.clone(), table, routes, metrics })
    }

    /// Its name within the Gateway.
    pub(crate) fn name(&self) -> &str {
        &self.source.name
    }

    /// The port that clients dial.
    pub(crate) fn port(&self) -> u16 {
        self.source.port
    }

    /// Which hosts it takes; none: all.
    pub(crate) fn hostname(&self) -> Option<&Hostname> {
        self.source.hostname.as_ref()
    }

    /// What counts its requests.
    pub(crate) fn metrics(&self) -> &Arc<ParentMetrics> {
        &self.metrics
    }

    /// What is spoken on it.
    pub(crate) fn protocol(&self) -> Protocol {
        self.source.protocol
    }

    /// Whether the backend ends TLS, and not this listener.
    pub(crate) fn is_passthrough(&self) -> bool {
        self.source.passthrough
    }

    /// The rule that answers a request; none: 404.
    pub(crate) fn find(&self, request: &Request<'_>) -> Option<Matched> {
        let Table::Requests(table) = &self.table else { return None };
        let Found { route, index, prefix, .. } = table.find(request)?;
        let rule = self.routes.get(route)?.rules.get(index)?.clone();
        Some(Matched { rule, prefix })
    }

    /// The rule that takes a connection or a datagram; none: no route does. The server name is lower-case and without a trailing dot; none
    /// where the client, or the protocol, has none.
    pub(crate) fn stream(&self, server_name: Option<&str>) -> Option<Arc<CompiledRule>> {
        let Table::Streams(table) = &self.table else { return None };
        let StreamFound { route, index } = table.find(server_name)?;
        self.routes.get(route)?.rules.get(*index).cloned()
    }

    fn has_the_routes_of(&self, sources: &Sources<'_>) -> bool {
        self.source.routes.iter().all(|attachment| {
            match (self.routes.get(&attachment.route), sources.snapshot.routes.get(&attachment.route)) {
                (Some(before), Some(now)) => before.is_of(now),
                (None, None) => true,
                _ => false,
            }
        })
    }
}

impl std::fmt::Debug for CompiledListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledListener")
            .field("name", &self.source.name)
            .field("hostname", &self.source.hostname)
            .finish_non_exhaustive()
    }
}

impl CompiledRoute {
    fn compile(key: &RouteKey, route: &Arc<Route>, listener: &Arc<ParentMetrics>, sources: &Sources<'_>) -> Self {
        let rule = |(index, rule)| {
            let metrics = sources.telemetry.rule(listener, key, index, rule);
            Arc::new(CompiledRule::compile(route, index, rule, metrics))
        };
        Self { source: route.clone(), rules: route.rules.iter().enumerate().map(rule).collect() }
    }

    /// Pointers first: most routes of a snapshot are those of the one before.
    fn is_of(&self, route: &Arc<Route>) -> bool {
        Arc::ptr_eq(&self.source, route) || self.source == *route
    }
}
