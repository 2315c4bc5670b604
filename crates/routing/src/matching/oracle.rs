//! A slow, literal transcription of the specification's order.
//!
//! It looks at every match of every route for every request and sorts by the quoted criteria. [`super::table`] is checked
//! against it, so it shares nothing with the table but the path's normal form and the regular expressions; and because it
//! tells why a match was chosen, `explain` uses it too.

use std::cmp::{Ordering, Reverse};

use super::{GrpcMatch, HeaderMatch, HttpMatch, PathMatch, QueryParamMatch, Request, ValueMatch};
use crate::value::Pattern;
use crate::{Found, Hostname, Listener, Matches, Route, RouteKey, Snapshot, path};

/// A match that holds for a request, with all that its precedence depends on.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'s> {
    /// The route's hostname that matches; `None`: the route has none.
    pub hostname: Option<&'s Hostname>,
    /// The route's name.
    pub key: &'s RouteKey,
    /// The route.
    pub route: &'s Route,
    /// The position of the rule in the route.
    pub rule: usize,
    /// The position of the match in the rule.
    pub index: usize,
    /// The match.
    pub asked: Asked<'s>,
}

/// A match of either kind.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'s> {
    /// Of an HTTPRoute.
    Http(&'s HttpMatch),
    /// Of a GRPCRoute.
    Grpc(&'s GrpcMatch),
}

/// What [`crate::RouteTable::find`] has to find.
pub fn find<'s>(listener: &'s Listener, snapshot: &'s Snapshot, request: &Request<'_>) -> Option<Found<'s>> {
    let first = *matching(listener, snapshot, request).first()?;
    let prefix = match first.asked {
        Asked::Http(HttpMatch { path: PathMatch::Prefix(prefix), .. }) => Some(prefix_text(prefix).len()),
        _ => None,
    };
    Some(Found { route: first.key, rule: &first.route.rules[first.rule], index: first.rule, prefix })
}

/// All matches that hold for a request, those with the highest precedence first.
pub fn matching<'s>(listener: &'s Listener, snapshot: &'s Snapshot, request: &Request<'_>) -> Vec<Matched<'s>> {
    let mut all = Vec::new();
    for attachment in &listener.routes {
        let Some(route) = snapshot.routes.get(&attachment.route) else { continue };
        let hostnames: Vec<Option<&Hostname>> =
            if attachment.hostnames.is_empty() { vec![None] } else { attachment.hostnames.iter().map(Some).collect() };
        for hostname in hostnames {
            if !hostname.is_none_or(|hostname| hostname_matches(hostname.as_str(), request.host)) {
                continue;
            }
            for (rule, object) in route.rules.iter().enumerate() {
                let asked: Vec<Asked<'s>> = match &object.matches {
                    Matches::Http(matches) => matches.iter().map(Asked::Http).collect(),
                    Matches::Grpc(matches) => matches.iter().map(Asked::Grpc).collect(),
                    Matches::Any => Vec::new(),
                };
                for (index, asked) in asked.into_iter().enumerate() {
                    if asked.holds(request) {
                        all.push(Matched { hostname, key: &attachment.route, route, rule, index, asked });
                    }
                }
            }
        }
    }
    all.sort_by(precedence);
    all
}

/// The criteria, one after the other; `Less` goes first.
fn precedence(a: &Matched<'_>, b: &Matched<'_>) -> Ordering {
    let by_hostname = largest(a, b, |m| match m.hostname {
        Some(hostname) if !hostname.as_str().starts_with("*.") => hostname.as_str().len(),
        _ => 0,
    })
    .then(largest(a, b, |m| m.hostname.map_or(0, |hostname| hostname.as_str().len())));
    // Not in the specification, which lets an implementation keep the kinds apart, as `translate` does.
    let by_kind = largest(a, b, |m| usize::from(matches!(m.asked, Asked::Grpc(_))));
    let by_match = match (a.asked, b.asked) {
        (Asked::Http(a), Asked::Http(b)) => http_precedence(a, b),
        (Asked::Grpc(a), Asked::Grpc(b)) => grpc_precedence(a, b),
        _ => Ordering::Equal,
    };
    // The oldest Route based on creation timestamp; then in alphabetical order by "{namespace}/{name}".
    let name = |m: &Matched<'_>| format!("{}/{}", m.key.namespace, m.key.name);
    let by_route = a.route.created.cmp(&b.route.created).then_with(|| name(a).cmp(&name(b)));
    // The FIRST matching rule (in list order).
    by_hostname.then(by_kind).then(by_match).then(by_route).then(a.rule.cmp(&b.rule)).then(a.index.cmp(&b.index))
}

fn http_precedence(a: &HttpMatch, b: &HttpMatch) -> Ordering {
    largest(a, b, |m| usize::from(matches!(m.path, PathMatch::Exact(_))))
        .then(largest(a, b, |m| if let PathMatch::Regex(pattern) = &m.path { 1 + characters(pattern) } else { 0 }))
        .then(largest(a, b, |m| if let PathMatch::Prefix(prefix) = &m.path { prefix_text(prefix).len() } else { 0 }))
        .then(largest(a, b, |m| usize::from(m.method.is_some())))
        .then(largest(a, b, |m| m.headers.len()))
        .then(largest(a, b, |m| m.query.len()))
}

fn grpc_precedence(a: &GrpcMatch, b: &GrpcMatch) -> Ordering {
    let service = |m: &GrpcMatch| m.method.as_ref().and_then(|method| method.service.clone());
    let method = |m: &GrpcMatch| m.method.as_ref().and_then(|method| method.method.clone());
    let exact = |asked: Option<ValueMatch>| if let Some(ValueMatch::Exact(name)) = asked { name.chars().count() } else { 0 };
    let regex = |asked: Option<ValueMatch>| if let Some(ValueMatch::Regex(regex)) = asked { 1 + characters(&regex) } else { 0 };
    largest(a, b, |m| exact(service(m)))
        .then(largest(a, b, |m| regex(service(m))))
        .then(largest(a, b, |m| exact(method(m))))
        .then(largest(a, b, |m| regex(method(m))))
        .then(largest(a, b, |m| m.headers.len()))
}

fn largest<T>(a: &T, b: &T, number: impl Fn(&T) -> usize) -> Ordering {
    Reverse(number(a)).cmp(&Reverse(number(b)))
}

fn characters(pattern: &Pattern) -> usize {
    pattern.as_str().chars().count()
}

fn hostname_matches(hostname: &str, host: &str) -> bool {
    match hostname.strip_prefix("*.") {
        Some(parent) => host.strip_suffix(parent).is_some_and(|left| left.len() > 1 && left.ends_with('.')),
        None => hostname == host,
    }
}

impl Asked<'_> {
    fn holds(&self, request: &Request<'_>) -> bool {
        match self {
            Self::Http(asked) => {
                path_matches(&asked.path, request.path)
                    && asked.method.as_ref().is_none_or(|method| method.to_string() == request.method.as_str())
                    && asked.headers.iter().all(|header| header_matches(header, request.headers))
                    && asked.query.iter().all(|param| query_matches(param, request.query))
            }
            Self::Grpc(asked) => {
                request.is_grpc()
                    && asked.method.as_ref().is_none_or(|method| {
                        let names: Vec<&str> = request.path.rsplitn(2, '/').collect();
                        let [name, service] = names[..] else { return false };
                        let Some(service) = service.strip_prefix('/') else { return false };
                        let named = |asked: &Option<ValueMatch>, name: &str| {
                            asked.as_ref().is_none_or(|asked| value_matches(asked, name.as_bytes()))
                        };
                        !service.is_empty() && !name.is_empty() && named(&method.service, service) && named(&method.method, name)
                    })
                    && asked.headers.iter().all(|header| header_matches(header, request.headers))
            }
        }
    }
}

fn path_matches(asked: &PathMatch, path: &str) -> bool {
    match asked {
        PathMatch::Exact(text) => path::normalise(text).map_or(text == path, |text| text == path),
        PathMatch::Regex(pattern) => pattern.is_match(path),
        PathMatch::Prefix(prefix) => {
            let prefix = prefix_text(prefix);
            let (asked, elements): (Vec<_>, Vec<_>) = (prefix.split('/').collect(), path.split('/').collect());
            // Having "the effect of matching every HTTP request", `/` matches the `*` of `OPTIONS *` too.
            prefix.is_empty() || elements.starts_with(&asked)
        }
    }
}

fn prefix_text(prefix: &str) -> String {
    let normal = path::normalise(prefix).map_or_else(|_| prefix.to_owned(), |normal| normal.into_owned());
    normal.trim_end_matches('/').to_owned()
}

fn header_matches(asked: &HeaderMatch, headers: &http::HeaderMap) -> bool {
    let name = asked.name.to_string();
    let mut values: Vec<Vec<u8>> = Vec::new();
    for (other, value) in headers {
        if other.as_str().eq_ignore_ascii_case(&name) {
            values.push(value.as_bytes().to_vec());
        }
    }
    if values.len() > 1 {
        values.push(values.join(&b','));
    }
    values.iter().any(|value| value_matches(&asked.value, value))
}

fn query_matches(asked: &QueryParamMatch, query: Option<&str>) -> bool {
    let Some(query) = query else { return false };
    for param in query.split('&') {
        let (name, value) = match param.find('=') {
            Some(at) => (&param[..at], &param[at + 1..]),
            None => (param, ""),
        };
        if decoded(name) == asked.name.as_bytes() {
            return value_matches(&asked.value, &decoded(value));
        }
    }
    false
}

fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octet = tail.get(..2).filter(|_| first == b'%').filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match octet.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()) {
            Some(octet) => {
                out.push(octet);
                rest = &tail[2..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn value_matches(asked: &ValueMatch, value: &[u8]) -> bool {
    match asked {
        ValueMatch::Exact(text) => value == text.as_bytes(),
        ValueMatch::Regex(pattern) => String::from_utf8(value.to_vec()).is_ok_and(|text| pattern.is_match(&text)),
    }
}
