//! Connections and datagrams: listener by server name, route by [`StreamTable`], backend by weight.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use isthmus_routing::{
    HostMap, Hostname, Listener, Matches, Protocol, Snapshot, StreamFound, StreamTable, Target, WeightedBackend, WeightedChoice,
};

use crate::case::{Exchange, Speech};

/// The outcome of what is not served.
const REFUSED: &str = "refused";

/// Checks what is decided for a connection, and that the oracle decides the same.
pub(super) fn check(snapshot: &Snapshot, exchange: &Exchange, listeners: &[&Listener]) -> Result<(), String> {
    let server_name = match exchange.speech() {
        Speech::Tls(name) => name,
        _ => None,
    };
    let listener = if matches!(exchange.speech(), Speech::Tls(_)) {
        let ours: Vec<_> = listeners.iter().copied().filter(|listener| listener.protocol.is_tls()).collect();
        let mut by_host = HostMap::default();
        for listener in &ours {
            by_host.insert(listener.hostname.as_ref(), *listener);
        }
        let found = by_host.get(server_name.unwrap_or_default()).copied();
        let literal = literal_listener(&ours, server_name);
        if found.map(|one| &one.name) != literal.map(|one| &one.name) {
            return Err(format!(
                "the hosts say {:?} and the oracle {:?}",
                found.map(|one| &one.name),
                literal.map(|one| &one.name)
            ));
        }
        found
    } else {
        listeners.first().copied()
    };
    let Some(listener) = listener else {
        return expect(exchange, None, &BTreeMap::from([(REFUSED.to_owned(), 1.0)]));
    };
    if listener.protocol == Protocol::Https || (exchange.expect.refused && listener.client_validation.is_some()) {
        // What becomes of bytes that are no HTTP, and of clients' certificates, is the data plane's.
        return Ok(());
    }
    let found = StreamTable::compile(listener, snapshot).find(server_name).cloned();
    let literal = literal_route(listener, snapshot, server_name);
    if found != literal {
        return Err(format!("the table and the oracle differ: {found:?} and {literal:?}"));
    }
    let backends = found.as_ref().map_or(&[][..], |found| &snapshot.routes[&found.route].rules[found.index].backends);
    expect(exchange, found.as_ref(), &outcomes(snapshot, backends))
}

/// Which share goes where.
fn outcomes(snapshot: &Snapshot, backends: &[WeightedBackend]) -> BTreeMap<String, f64> {
    let Some(choice) = WeightedChoice::new(backends) else {
        return BTreeMap::from([(REFUSED.to_owned(), 1.0)]);
    };
    let mut outcomes = BTreeMap::new();
    #[allow(clippy::cast_precision_loss, reason = "weights of cases are small")]
    let total = choice.total() as f64;
    for backend in backends.iter().filter(|backend| backend.weight > 0) {
        let outcome = match &backend.target {
            Target::Backend(key) if snapshot.backends.get(key).is_some_and(|backend| !backend.endpoints.is_empty()) => {
                format!("{}/{}", key.namespace, key.name)
            }
            Target::Backend(_) | Target::Invalid => REFUSED.to_owned(),
        };
        *outcomes.entry(outcome).or_default() += f64::from(backend.weight) / total;
    }
    outcomes
}

fn expect(exchange: &Exchange, found: Option<&StreamFound>, outcomes: &BTreeMap<String, f64>) -> Result<(), String> {
    let expect = &exchange.expect;
    let route = found.map(|found| found.route.to_string());
    if expect.route.is_some() && expect.route != route {
        return Err(format!("expected {:?}, found {route:?}", expect.route));
    }
    if expect.rule.is_some() && expect.rule != found.map(|found| found.index) {
        return Err(format!("expected rule {:?}, found {found:?}", expect.rule));
    }
    let differs = |wanted: &BTreeMap<String, f64>| {
        wanted.len() != outcomes.len()
            || wanted.iter().any(|(name, share)| outcomes.get(name).is_none_or(|found| (found - share).abs() > 1e-6))
    };
    let refused = BTreeMap::from([(REFUSED.to_owned(), 1.0)]);
    match &expect.backend {
        Some(backend) if !outcomes.contains_key(backend) => Err(format!("expected backend {backend}, found {outcomes:?}")),
        _ if expect.refused && differs(&refused) => Err(format!("expected nothing to serve it, found {outcomes:?}")),
        _ if !expect.shares.is_empty() && differs(&expect.shares) => {
            Err(format!("expected {:?}, found {outcomes:?}", expect.shares))
        }
        _ => Ok(()),
    }
}

/// How well a hostname fits a server name; more is better, none does not fit. No hostname fits everything.
fn fit(hostname: Option<&Hostname>, server_name: Option<&str>) -> Option<usize> {
    let Some(hostname) = hostname.map(Hostname::as_str) else { return Some(0) };
    let name = server_name?;
    match hostname.strip_prefix('*') {
        // One label or more in front of it.
        Some(rest) => (name.len() > rest.len() && name.ends_with(rest)).then_some(1 + rest.len()),
        None => (name == hostname).then_some(usize::MAX),
    }
}

fn literal_listener<'l>(listeners: &[&'l Listener], server_name: Option<&str>) -> Option<&'l Listener> {
    let mut fitting: Vec<_> = listeners.iter().filter_map(|one| Some((fit(one.hostname.as_ref(), server_name)?, *one))).collect();
    fitting.sort_by_key(|(fit, _)| Reverse(*fit));
    fitting.first().map(|(_, listener)| *listener)
}

fn literal_route(listener: &Listener, snapshot: &Snapshot, server_name: Option<&str>) -> Option<StreamFound> {
    let mut fitting = Vec::new();
    for attachment in &listener.routes {
        let Some(route) = snapshot.routes.get(&attachment.route) else { continue };
        let Some(index) = route.rules.iter().position(|rule| rule.matches == Matches::Any) else { continue };
        let key = &attachment.route;
        let hostnames: Vec<_> =
            if attachment.hostnames.is_empty() { vec![None] } else { attachment.hostnames.iter().map(Some).collect() };
        for fit in hostnames.into_iter().filter_map(|hostname| fit(hostname, server_name)) {
            let name = format!("{}/{}", key.namespace, key.name);
            fitting.push((Reverse(fit), route.created, name, StreamFound { route: key.clone(), index }));
        }
    }
    fitting.sort_by(|a, b| (&a.0, a.1, &a.2).cmp(&(&b.0, b.1, &b.2)));
    fitting.into_iter().next().map(|(_, _, _, found)| found)
}
