//! Requests and connections against the match functions without sockets, and against their slow oracles.

mod stream;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use isthmus_routing::hostname::HostMap;
use isthmus_routing::{Found, Listener, Request, RouteTable, Snapshot, Target, matching::oracle, path};

use crate::case::{Exchange, Speech};

/// Checks what the match function decides for the exchange, and that the oracle decides the same.
///
/// # Errors
/// Says what was expected and what was decided.
pub fn check(snapshot: &Snapshot, exchange: &Exchange) -> Result<(), String> {
    if exchange.expect.sockets_only {
        return Ok(());
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
    let (raw_path, query) =
        exchange.path.split_once('?').map_or((exchange.path.as_str(), None), |(path, query)| (path, Some(query)));
    let path = path::normalise(raw_path).map_err(|error| format!("path: {error}"))?;
    let host = path::host_of(&exchange.host).map_err(|error| format!("host: {error}"))?;
    let method = Method::from_bytes(exchange.method().as_bytes()).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    for (name, value) in exchange.header_lines() {
        let name: HeaderName = name.parse().map_err(|_| format!("header name `{name}`"))?;
        headers.append(name, HeaderValue::from_str(&value).map_err(|_| format!("header value `{value}`"))?);
    }
    let request = Request { method: &method, host: &host, path: &path, query, headers: &headers };

    let mut by_host = HostMap::default();
    for listener in &listeners {
        by_host.insert(listener.hostname.as_ref(), *listener);
    }
    let Some(listener) = by_host.get(&host) else {
        return expect_none(exchange, "no listener takes the host");
    };
    let table = RouteTable::compile(listener, snapshot);
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
