//! Requests and connections against the match functions without sockets, and against their slow oracles.

mod stream;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use isthmus_api::NamespacedName;
use isthmus_routing::hostname::HostMap;
use isthmus_routing::{
    BackendKey, Found, Listener, Protocol, Request, RouteTable, ServiceParent, Snapshot, Target, Transport, matching::oracle,
    path,
};

use crate::case::{Exchange, Speech};

/// Checks what the match function decides for the exchange, and that the oracle decides the same.
///
/// # Errors
/// Says what was expected and what was decided.
pub fn check(snapshot: &Snapshot, exchange: &Exchange) -> Result<(), String> {
    if exchange.expect.sockets_only {
        return Ok(());
    }
    if let Some(service) = &exchange.service {
        return check_service(snapshot, exchange, service);
    }
    let (port, listeners) = listeners(snapshot, exchange)?;
    let http = matches!(exchange.speech(), Speech::Http);
    if exchange.expect.refused && (http || listeners.is_empty()) {
        // What a handshake makes of a listener is the data plane's.
        return Ok(());
    }
    if listeners.is_empty() {
        return Err(format!("the gateway has no listener on port {port}"));
    }
    if !http {
        return stream::check(snapshot, exchange, &listeners);
    }
    let asked = Asked::of(exchange)?;

    let mut by_host = HostMap::default();
    for listener in &listeners {
        by_host.insert(listener.hostname.as_ref(), *listener);
    }
    let Some(listener) = by_host.get(&asked.host) else {
        return expect_none(exchange, "no listener takes the host");
    };
    judge(exchange, &asked, &RouteTable::compile(listener, snapshot), listener, snapshot)
}

/// The same for a client of a Service.
fn check_service(snapshot: &Snapshot, exchange: &Exchange, service: &NamespacedName) -> Result<(), String> {
    let (key, parent) = self::service(snapshot, exchange, service)?;
    let Some(parent) = parent else {
        return if exchange.expect.refused { Ok(()) } else { Err(format!("nobody can call {key}")) };
    };
    if exchange.expect.refused {
        return Err(format!("{key} can be called"));
    }
    let attachments = parent.routes_for(exchange.from().unwrap_or_default());
    if attachments.is_empty() {
        return expect_itself(exchange, service);
    }
    // To the oracle, a listener is whatever has attachments.
    let listener = Listener { routes: attachments.to_vec(), ..Listener::new(key.to_string(), key.port, Protocol::Http) };
    let known = Snapshot { routes: snapshot.service_routes.clone(), ..Snapshot::default() };
    let table = RouteTable::of(attachments, &snapshot.service_routes);
    judge(exchange, &Asked::of(exchange)?, &table, &listener, &known)
}

fn judge(exchange: &Exchange, asked: &Asked, table: &RouteTable, listener: &Listener, snapshot: &Snapshot) -> Result<(), String> {
    let request = asked.request();
    let found = table.find(&request);
    let literal = oracle::find(listener, snapshot, &request);
    let short = |found: &Found<'_>| (found.route.to_string(), found.index, found.prefix);
    if found.as_ref().map(short) != literal.as_ref().map(short) {
        return Err(format!(
            "the match function and the oracle differ: {:?} and {:?}",
            found.as_ref().map(short),
            literal.as_ref().map(short)
        ));
    }
    match found {
        None => expect_none(exchange, "no rule matches"),
        Some(found) => expect_found(exchange, &found),
    }
}

/// A request of a case as the match function sees it.
#[derive(Debug)]
pub struct Asked {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl Asked {
    /// # Errors
    /// When a proxy would refuse it before it looks for a rule.
    pub fn of(exchange: &Exchange) -> Result<Self, String> {
        let (raw_path, query) =
            exchange.path.split_once('?').map_or((exchange.path.as_str(), None), |(path, query)| (path, Some(query)));
        let path = path::normalise(raw_path).map_err(|error| format!("path: {error}"))?.to_string();
        let host = path::host_of(&exchange.host).map_err(|error| format!("host: {error}"))?.to_string();
        let method = Method::from_bytes(exchange.method().as_bytes()).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        for (name, value) in exchange.header_lines() {
            let name: HeaderName = name.parse().map_err(|_| format!("header name `{name}`"))?;
            headers.append(name, HeaderValue::from_str(&value).map_err(|_| format!("header value `{value}`"))?);
        }
        Ok(Self { method, host, path, query: query.map(str::to_owned), headers })
    }

    /// What is looked up.
    pub fn request(&self) -> Request<'_> {
        let Self { method, host, path, query, headers } = self;
        Request { method, host, path, query: query.as_deref(), headers }
    }
}

/// The Service's port that the exchange goes to, and what its clients meet there; none: nobody listens for them.
///
/// # Errors
/// When the exchange names no port and the Service has none.
pub fn service<'s>(
    snapshot: &'s Snapshot,
    exchange: &Exchange,
    service: &NamespacedName,
) -> Result<(BackendKey, Option<&'s ServiceParent>), String> {
    let is_its = |key: &&BackendKey| key.namespace == service.namespace && key.name == service.name;
    let port = match exchange.port {
        Some(port) => port,
        None => snapshot.services.keys().find(is_its).ok_or_else(|| format!("nobody can call {service}"))?.port,
    };
    let key = BackendKey { namespace: service.namespace.clone(), name: service.name.clone(), port, transport: Transport::Tcp };
    let parent = snapshot.services.get(&key).map(|parent| &**parent);
    Ok((key, parent))
}

/// A Service without routes for the client is reached as it is.
fn expect_itself(exchange: &Exchange, service: &NamespacedName) -> Result<(), String> {
    let expect = &exchange.expect;
    if expect.route.is_some() || expect.rule.is_some() {
        return Err(format!("{service} has no routes for this client"));
    }
    let itself = service.to_string();
    match &expect.backend {
        Some(backend) if *backend != itself => {
            Err(format!("expected backend {backend}, {service} has no routes for this client"))
        }
        _ => Ok(()),
    }
}

/// The Gateway's port that the exchange goes to, and the listeners on it; maybe none.
///
/// # Errors
/// When the case has no such Gateway, or several and the exchange names none.
pub fn listeners<'s>(snapshot: &'s Snapshot, exchange: &Exchange) -> Result<(u16, Vec<&'s Listener>), String> {
    let gateway = match &exchange.gateway {
        Some(name) => snapshot.gateways.iter().find(|(key, _)| format!("{}/{}", key.namespace, key.name) == *name),
        None if snapshot.gateways.len() == 1 => snapshot.gateways.iter().next(),
        None => return Err(format!("the case has {} gateways that serve: name one", snapshot.gateways.len())),
    };
    let (_, gateway) = gateway.ok_or("no such gateway serves")?;
    let port = match exchange.port {
        Some(port) => port,
        None => {
            let carries = |listener: &&Listener| listener.protocol.transport() == exchange.transport();
            gateway.listeners.iter().find(carries).ok_or("the gateway serves no such listener")?.port
        }
    };
    let takes = |listener: &&Listener| listener.port == port && listener.protocol.transport() == exchange.transport();
    let listeners: Vec<_> = gateway.listeners.iter().filter(takes).collect();
    Ok((port, listeners))
}

fn expect_none(exchange: &Exchange, because: &str) -> Result<(), String> {
    let none = exchange.status() == 404 || exchange.expect.grpc_status == Some(12);
    if none && exchange.expect.route.is_none() { Ok(()) } else { Err(format!("nothing answers ({because})")) }
}

fn expect_found(exchange: &Exchange, found: &Found<'_>) -> Result<(), String> {
    let expect = &exchange.expect;
    if exchange.status() == 404 && expect.route.is_none() && expect.backend.is_none() {
        return Err(format!("expected no route, found {} rule {}", found.route, found.index));
    }
    if let Some(route) = &expect.route
        && *route != found.route.to_string()
    {
        return Err(format!("expected {route}, found {} rule {}", found.route, found.index));
    }
    if let Some(rule) = expect.rule
        && rule != found.index
    {
        return Err(format!("expected rule {rule}, found rule {} of {}", found.index, found.route));
    }
    if let Some(backend) = &expect.backend {
        let names: Vec<_> = found
            .rule
            .backends
            .iter()
            .filter_map(|backend| match &backend.target {
                Target::Backend(key) if backend.weight > 0 => Some(format!("{}/{}", key.namespace, key.name)),
                _ => None,
            })
            .collect();
        if !names.contains(backend) {
            return Err(format!("expected backend {backend}, {} rule {} has {names:?}", found.route, found.index));
        }
    }
    Ok(())
}
