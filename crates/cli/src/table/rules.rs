//! The route table: each rule of each attached route in one row.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_api::NamespacedName;
use isthmus_api::shared::{BackendRef, RouteView};
use isthmus_routing::filter::{Filter, PathModifier};
use isthmus_routing::matching::{HeaderMatch, QueryParamMatch, ValueMatch};
use isthmus_routing::{
    Backend, BackendKey, BackendTls, GrpcMatch, HttpMatch, Matches, MethodMatch, PathMatch, ProxyProtocol, Route, RouteKey,
    RouteKind, Rule, Target, Transport,
};

use super::columns;
use crate::standalone::View;

/// One row for each rule, with the route above its rules; and how many rows there are beyond the first `most` or so.
pub(super) fn rows(view: &View, most: usize) -> (Vec<String>, usize) {
    let mut texts = Vec::new();
    let mut more = 0;
    for Row { key, route, parents: (hostnames, parents) } in routes(view) {
        if texts.len() >= most {
            more += 1 + route.rules.len();
            continue;
        }
        let hostnames = match key.kind {
            // Nobody asks for a host there.
            RouteKind::Tcp | RouteKind::Udp => String::new(),
            _ if hostnames.is_empty() => "any host  ".to_owned(),
            _ => format!("{}  ", hostnames.join(", ")),
        };
        texts.push(format!("{key}  {hostnames}on {}", parents.join(", ")));
        let names = backend_names(view, key);
        let rules = route.rules.iter().enumerate().map(|(index, rule)| {
            let names = names.get(index).map(Vec::as_slice).unwrap_or_default();
            vec![format!("  {}", matches(rule)), filters(rule), format!("-> {}", backends(view, key, rule, names))]
        });
        texts.extend(columns(&rules.collect::<Vec<_>>()));
    }
    (texts, more)
}

/// What a match asks, in the fewest words: `/exact`, `/prefix/*`, `~regex`.
pub(crate) fn http_match(of: &HttpMatch) -> String {
    let path = match &of.path {
        PathMatch::Exact(path) => path.clone(),
        PathMatch::Prefix(path) => format!("{}/*", path.trim_end_matches('/')),
        PathMatch::Regex(pattern) => format!("~{pattern}"),
    };
    let method = of.method.iter().map(ToString::to_string);
    let query = of.query.iter().map(|QueryParamMatch { name, value }| format!("?{}", pair(name, value)));
    method.chain([path]).chain(query).chain(headers(&of.headers)).collect::<Vec<_>>().join(" ")
}

/// A route with the hostnames and the names of parents.
struct Row<'v> {
    key: &'v RouteKey,
    route: &'v Arc<Route>,
    parents: Parents,
}

/// Hostnames and parents of a route, each once.
type Parents = (Vec<String>, Vec<String>);

/// Routes of listeners, then those of Services that differ from them or are nothing else.
fn routes(view: &View) -> Vec<Row<'_>> {
    let (mut listeners, mut services) = (listeners(view), services(view));
    let mut rows: Vec<_> = view
        .snapshot
        .routes
        .iter()
        .map(|(key, route)| Row { key, route, parents: listeners.remove(key).unwrap_or_default() })
        .collect();
    for (key, route) in &view.snapshot.service_routes {
        let names = services.remove(key).unwrap_or_default();
        match rows.iter_mut().find(|row| row.key == key && row.route == route) {
            Some(row) => row.parents.1.extend(names),
            None => rows.push(Row { key, route, parents: (Vec::new(), names) }),
        }
    }
    rows
}

/// The Service ports of each route.
fn services(view: &View) -> BTreeMap<RouteKey, Vec<String>> {
    let mut parents: BTreeMap<RouteKey, Vec<String>> = BTreeMap::new();
    for (key, parent) in &view.snapshot.services {
        for attachment in &parent.routes {
            parents.entry(attachment.route.clone()).or_default().push(key.to_string());
        }
        for (namespace, attachments) in &parent.consumers {
            for attachment in attachments {
                parents.entry(attachment.route.clone()).or_default().push(format!("{key} for clients of {namespace}"));
            }
        }
    }
    parents
}

/// Hostnames and listeners of each route.
fn listeners(view: &View) -> BTreeMap<RouteKey, Parents> {
    let mut parents: BTreeMap<RouteKey, Parents> = BTreeMap::new();
    for (gateway, listeners) in &view.snapshot.gateways {
        for listener in &listeners.listeners {
            for attachment in &listener.routes {
                let (hostnames, names) = parents.entry(attachment.route.clone()).or_default();
                let own = attachment.hostnames.iter().map(ToString::to_string);
                let inherited = listener.hostname.iter().filter(|_| attachment.hostnames.is_empty()).map(ToString::to_string);
                for hostname in own.chain(inherited) {
                    if !hostnames.contains(&hostname) {
                        hostnames.push(hostname);
                    }
                }
                names.push(format!("{}/{}", gateway.name, listener.name));
            }
        }
    }
    parents
}

/// The names in the object: what does not resolve has none in the snapshot.
fn backend_names(view: &View, key: &RouteKey) -> Vec<Vec<String>> {
    let name = NamespacedName::new(key.namespace.clone(), key.name.clone());
    let rules = match key.kind {
        RouteKind::Http => view.objects.http_routes.get(&name).map(|route| RouteView::from(&**route).rules),
        RouteKind::Grpc => view.objects.grpc_routes.get(&name).map(|route| RouteView::from(&**route).rules),
        RouteKind::Tls => view.objects.tls_routes.get(&name).map(|route| RouteView::from(&**route).rules),
        RouteKind::Tcp => view.objects.tcp_routes.get(&name).map(|route| RouteView::from(&**route).rules),
        RouteKind::Udp => view.objects.udp_routes.get(&name).map(|route| RouteView::from(&**route).rules),
    };
    let shown = |reference: &BackendRef| {
        let namespace = reference.namespace.as_ref().filter(|namespace| **namespace != key.namespace);
        let namespace = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let port = reference.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{namespace}{}{port}", reference.name)
    };
    let rules = rules.unwrap_or_default();
    rules.iter().map(|rule| rule.backend_refs.iter().map(|backend| shown(&backend.backend_ref)).collect()).collect()
}

fn matches(rule: &Rule) -> String {
    let all: Vec<String> = match &rule.matches {
        Matches::Http(matches) => matches.iter().map(http_match).collect(),
        Matches::Grpc(matches) => matches.iter().map(grpc_match).collect(),
        Matches::Any => vec!["*".to_owned()],
    };
    if all.is_empty() { "(dropped)".to_owned() } else { all.join(" | ") }
}

fn grpc_match(of: &GrpcMatch) -> String {
    let any = || "*".to_owned();
    let text = |value: &Option<ValueMatch>| match value {
        None => any(),
        Some(ValueMatch::Exact(text)) => text.clone(),
        Some(ValueMatch::Regex(pattern)) => format!("~{pattern}"),
    };
    let method =
        of.method.as_ref().map_or_else(any, |MethodMatch { service, method }| format!("{}/{}", text(service), text(method)));
    [method].into_iter().chain(headers(&of.headers)).collect::<Vec<_>>().join(" ")
}

fn headers(headers: &[HeaderMatch]) -> impl Iterator<Item = String> {
    headers.iter().map(|HeaderMatch { name, value }| pair(name.as_http().as_str(), value))
}

fn pair(name: &str, value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(text) => format!("{name}={text}"),
        ValueMatch::Regex(pattern) => format!("{name}~{pattern}"),
    }
}

fn filters(rule: &Rule) -> String {
    let path = |path: &PathModifier| match path {
        PathModifier::Full(path) => path.clone(),
        PathModifier::Prefix(path) => format!("{path}*"),
    };
    let shown = rule.filters.iter().map(|filter| match filter {
        Filter::RequestHeaderModifier(_) => "request headers".to_owned(),
        Filter::ResponseHeaderModifier(_) => "response headers".to_owned(),
        Filter::RequestRedirect(redirect) => format!("redirect {}", redirect.status),
        Filter::UrlRewrite(rewrite) => {
            let to = rewrite.hostname.iter().cloned().chain(rewrite.path.iter().map(path)).collect::<Vec<_>>();
            format!("rewrite {}", to.join(""))
        }
        Filter::RequestMirror(mirror) => match &mirror.target {
            Target::Backend(key) if mirror.numerator < mirror.denominator => {
                format!("mirror {}% to {}:{}", percent(mirror.numerator.into(), mirror.denominator.into()), key.name, key.port)
            }
            Target::Backend(key) => format!("mirror to {}:{}", key.name, key.port),
            Target::Invalid => "mirror nowhere".to_owned(),
        },
        Filter::Cors(_) => "CORS".to_owned(),
    });
    let timeout = rule.timeouts.request.map(|timeout| format!("timeout {timeout:?}"));
    let retry = rule.retry.as_ref().map(|retry| format!("retry {}", retry.attempts));
    let all: Vec<_> = shown.chain(timeout).chain(retry).collect();
    if all.is_empty() { String::new() } else { format!("[{}]", all.join(", ")) }
}

fn backends(view: &View, route: &RouteKey, rule: &Rule, names: &[String]) -> String {
    let refusal = |status: &'static str| match route.kind {
        RouteKind::Http | RouteKind::Grpc => status,
        RouteKind::Tls | RouteKind::Tcp => "closed",
        RouteKind::Udp => "dropped",
    };
    if rule.invalid {
        return format!("{}, the rule cannot be carried out", refusal("500"));
    }
    if rule.backends.is_empty() {
        let answers = rule.filters.iter().any(|filter| matches!(filter, Filter::RequestRedirect(_)));
        return if answers { "the client".to_owned() } else { format!("{}, no backend", refusal("500")) };
    }
    let is_passed_on = is_passed_on(view, route);
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let one = rule.backends.len() == 1;
    let shown = rule.backends.iter().enumerate().map(|(index, backend)| {
        let name = names.get(index).cloned();
        let share = if one || total == 0 { String::new() } else { format!(" {}%", percent(u64::from(backend.weight), total)) };
        match &backend.target {
            Target::Invalid => format!("{}{share} INVALID: {}", name.unwrap_or_else(|| "?".to_owned()), refusal("500")),
            Target::Backend(key) => {
                let backend = view.snapshot.backends.get(key);
                let endpoints = backend.map_or(0, |backend| backend.endpoints.len());
                let local = if key.namespace == route.namespace { String::new() } else { format!("{}/", key.namespace) };
                let state = match endpoints {
                    _ if view.echoes.contains(key) => " (echo)".to_owned(),
                    0 => format!(" NO ENDPOINTS: {}", refusal("503")),
                    1 => String::new(),
                    _ => format!(" ({endpoints} endpoints)"),
                };
                let wire = backend.map(|backend| wire(backend, is_passed_on, key)).unwrap_or_default();
                format!("{local}{}:{}{share}{state}{wire}", key.name, key.port)
            }
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// What else is spoken with it than the plain bytes of the client.
fn wire(backend: &Backend, is_passed_on: bool, key: &BackendKey) -> String {
    if key.transport == Transport::Udp {
        return String::new();
    }
    let tls = match &backend.tls {
        _ if is_passed_on => "",
        None => "",
        Some(BackendTls::Verified(_)) => " by TLS",
        Some(BackendTls::Invalid) => " REFUSED: its BackendTLSPolicy cannot be carried out",
    };
    let proxy_protocol = match backend.proxy_protocol {
        None => "",
        Some(ProxyProtocol::V1) => " with PROXY v1",
        Some(ProxyProtocol::V2) => " with PROXY v2",
    };
    format!("{tls}{proxy_protocol}")
}

/// Whether the client's own TLS goes to the backends of a route as it is.
fn is_passed_on(view: &View, route: &RouteKey) -> bool {
    let listeners = view.snapshot.gateways.values().flat_map(|gateway| &gateway.listeners);
    let mut own = listeners.filter(|listener| listener.routes.iter().any(|attachment| attachment.route == *route)).peekable();
    own.peek().is_some() && own.all(|listener| listener.passthrough)
}

/// Without a fraction that says nothing.
fn percent(part: u64, whole: u64) -> String {
    let tenths = (part * 1000 + whole / 2) / whole;
    if tenths.is_multiple_of(10) { (tenths / 10).to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (part, whole, expected) in [(90, 100, "90"), (1, 3, "33.3"), (0, 5, "0"), (5, 5, "100"), (999_999, 1_000_000, "100")]
        {
            assert_eq!(percent(part, whole), expected);
        }
    }

    #[test]
    fn matches_are_short() {
        let exact = |text: &str| ValueMatch::Exact(text.into());
        let header = HeaderMatch { name: "X-Canary".parse().unwrap(), value: exact("yes") };
        let of = HttpMatch {
            path: PathMatch::Prefix("/api/".into()),
            headers: vec![header.clone()],
            query: vec![QueryParamMatch { name: "q".into(), value: ValueMatch::Regex("a+".parse().unwrap()) }],
            method: Some("GET".parse().unwrap()),
        };
        assert_eq!(http_match(&of), "GET /api/* ?q~a+ x-canary=yes");
        for (path, expected) in [
            (PathMatch::Prefix("/".into()), "/*"),
            (PathMatch::Exact("/a".into()), "/a"),
            (PathMatch::Regex("/a|b".parse().unwrap()), "~/a|b"),
        ] {
            assert_eq!(http_match(&HttpMatch { path, headers: vec![], query: vec![], method: None }), expected);
        }
        let method = MethodMatch { service: Some(exact("a.B")), method: None };
        assert_eq!(grpc_match(&GrpcMatch { method: Some(method), headers: vec![header] }), "a.B/* x-canary=yes");
        assert_eq!(grpc_match(&GrpcMatch::default()), "*");
    }
}
