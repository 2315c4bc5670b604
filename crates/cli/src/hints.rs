//! What to try next: requests that the routes answer, and a weight to change. Pure.

use std::net::SocketAddr;

use isthmus_api::{Kind, ObjectRef};
use isthmus_dataplane::{Report, ServiceReport};
use isthmus_routing::filter::Filter;
use isthmus_routing::matching::ValueMatch;
use isthmus_routing::{
    GrpcMatch, Hostname, HttpMatch, Listener, Matches, PathMatch, Protocol, RouteKey, RouteKind, Rule, Target,
};

mod stream;

use crate::message::Place;
use crate::standalone::View;

/// How many requests are shown.
const REQUESTS: usize = 3;
/// How many routes are looked at for them.
const CANDIDATES: usize = 50;

/// Lines for a shell, for the first routes in the order of the files, then the first weight.
pub fn hints(view: &View, report: &Report) -> Vec<String> {
    let mut routes: Vec<(&RouteKey, Option<Place>, Option<u32>)> = view
        .snapshot
        .routes
        .keys()
        .chain(view.snapshot.service_routes.keys().filter(|key| !view.snapshot.routes.contains_key(key)))
        .map(|key| {
            let origin = view.origins.get(&object(key));
            (
                key,
                origin.map(|origin| origin.place.clone()),
                origin.filter(|origin| origin.followed).and_then(|origin| origin.landmark),
            )
        })
        .collect();
    routes.sort_by(|a, b| order(a.1.as_ref()).cmp(&order(b.1.as_ref())));
    let mut hints: Vec<String> = routes
        .iter()
        .take(CANDIDATES)
        .filter_map(|(key, ..)| request(view, report, key).or_else(|| call(view, report, key)))
        .take(REQUESTS)
        .collect();
    let weight = routes.iter().find_map(|(_, place, landmark)| Some(Place { line: (*landmark)?, ..place.clone()? }));
    hints.extend(weight.map(|place| format!("now change this weight and save: {place}")));
    hints
}

fn object(key: &RouteKey) -> ObjectRef {
    let kind = match key.kind {
        RouteKind::Http => Kind::HttpRoute,
        RouteKind::Grpc => Kind::GrpcRoute,
        RouteKind::Tls => Kind::TlsRoute,
        RouteKind::Tcp => Kind::TcpRoute,
        RouteKind::Udp => Kind::UdpRoute,
    };
    ObjectRef { kind, namespace: Some(key.namespace.clone()), name: key.name.clone() }
}

fn order(place: Option<&Place>) -> Option<(&std::path::Path, u32)> {
    place.map(|place| (place.path.as_path(), place.line))
}

/// A request that the route's first simple rule answers, on the first listener that is open.
fn request(view: &View, report: &Report, key: &RouteKey) -> Option<String> {
    let route = view.snapshot.routes.get(key)?;
    let open = report.listeners.iter().filter(|listener| listener.fault.is_none());
    let attached = open.filter_map(|open| {
        let gateway = view.snapshot.gateways.get(&open.gateway)?;
        let listener = gateway.listeners.iter().find(|listener| listener.name == open.name)?;
        let attachment = listener.routes.iter().find(|attachment| attachment.route == *key)?;
        Some((open.address, listener, attachment.hostnames.first().or(listener.hostname.as_ref())))
    });
    let (address, listener, hostname) = attached.min_by_key(|(_, listener, _)| listener.protocol)?;
    if !matches!(key.kind, RouteKind::Http | RouteKind::Grpc) {
        let backends = route.rules.iter().flat_map(|rule| &rule.backends).filter(|backend| backend.weight > 0);
        let keys = backends.filter_map(|backend| match &backend.target {
            Target::Backend(key) => Some(key),
            Target::Invalid => None,
        });
        let peer = keys.map(|key| match key.port {
            _ if view.echoes.contains(key) => stream::Peer::Echo,
            53 => stream::Peer::Dns,
            _ => stream::Peer::Other,
        });
        return stream::hint(address, listener, hostname, peer.min()?);
    }
    line(&route.rules, key.kind, address, listener, hostname)
}

/// A call of a Service that the route answers, for the clients that there are.
fn call(view: &View, report: &Report, key: &RouteKey) -> Option<String> {
    let namespace = view.client_namespace.as_deref()?;
    let route = view.snapshot.service_routes.get(key)?;
    let is_routed = |open: &&ServiceReport| {
        let parent = view.snapshot.services.get(&open.service);
        open.fault.is_none() && parent.is_some_and(|parent| parent.routes_for(namespace).iter().any(|at| at.route == *key))
    };
    let open = report.services.iter().find(is_routed)?;
    // To a client it is one more place that speaks HTTP.
    let spoken = Listener::new(open.service.to_string(), open.service.port, Protocol::Http);
    line(&route.rules, key.kind, open.address, &spoken, None)
}

/// A line for the first simple rule.
fn line(
    rules: &[Rule],
    kind: RouteKind,
    address: SocketAddr,
    listener: &Listener,
    hostname: Option<&Hostname>,
) -> Option<String> {
    let (rule, (path, mut flags)) = rules.iter().find_map(|rule| Some((rule, simple(rule)?)))?;
    if rule.filters.iter().any(|filter| matches!(filter, Filter::RequestRedirect(_))) {
        // A redirect says what it has to say in its headers.
        flags.insert_str(0, " -i");
    }
    let body = if kind == RouteKind::Grpc { "printf '\\0\\0\\0\\0\\0' | " } else { "" };
    Some(format!("{body}{}", curl(address, listener, hostname, &path, &flags)))
}

/// Path and flags of a request that a rule takes; none for what no example can be made of.
fn simple(rule: &Rule) -> Option<(String, String)> {
    match &rule.matches {
        Matches::Http(matches) => matches.iter().find_map(http),
        Matches::Grpc(matches) => matches.iter().find_map(grpc),
        // Only of streams, which are shown otherwise.
        Matches::Any => None,
    }
}

fn http(of: &HttpMatch) -> Option<(String, String)> {
    let mut path = match &of.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.clone(),
        PathMatch::Regex(_) => return None,
    };
    let mut flags = String::new();
    for header in &of.headers {
        let ValueMatch::Exact(value) = &header.value else { return None };
        flags += &format!(" -H {}", quoted(&format!("{}: {value}", header.name)));
    }
    for (index, query) in of.query.iter().enumerate() {
        let ValueMatch::Exact(value) = &query.value else { return None };
        path += &format!("{}{}={}", if index == 0 { '?' } else { '&' }, encoded(&query.name), encoded(value));
    }
    if let Some(method) = of.method.as_ref().filter(|method| *method.as_http() != http::Method::GET) {
        flags += &if *method.as_http() == http::Method::HEAD { " -I".to_owned() } else { format!(" -X {method}") };
    }
    Some((path, flags))
}

/// One empty message over HTTP/2.
fn grpc(of: &GrpcMatch) -> Option<(String, String)> {
    let method = of.method.as_ref()?;
    let (Some(ValueMatch::Exact(service)), Some(ValueMatch::Exact(name))) = (&method.service, &method.method) else {
        return None;
    };
    let mut flags =
        " --http2-prior-knowledge -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @- -o - -v".to_owned();
    for header in &of.headers {
        let ValueMatch::Exact(value) = &header.value else { return None };
        flags += &format!(" -H {}", quoted(&format!("{}: {value}", header.name)));
    }
    Some((format!("/{service}/{name}"), flags))
}

/// Also for a stream that carries HTTP.
fn curl(address: SocketAddr, listener: &Listener, hostname: Option<&Hostname>, path: &str, flags: &str) -> String {
    let (scheme, insecure) = if listener.protocol.is_tls() { ("https", " -k") } else { ("http", "") };
    // What no shell has a meaning for.
    let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-~:@%+,=".contains(c));
    let (path, quote) = if is_plain { (path.to_owned(), "") } else { (path.replace('\'', "%27"), "'") };
    let port = address.port();
    let host = hostname.map(example);
    match host {
        None => format!("curl{insecure}{flags} {quote}{scheme}://{address}{path}{quote}"),
        // Every resolver knows where these are.
        Some(host) if address.ip() == std::net::Ipv4Addr::LOCALHOST && (host == "localhost" || host.ends_with(".localhost")) => {
            format!("curl{insecure}{flags} {quote}{scheme}://{host}:{port}{path}{quote}")
        }
        Some(host) if listener.protocol == Protocol::Http => {
            format!("curl{flags} -H {} {quote}{scheme}://{address}{path}{quote}", quoted(&format!("host: {host}")))
        }
        Some(host) => {
            let ip = address.ip();
            format!("curl{insecure}{flags} --resolve {host}:{port}:{ip} {quote}{scheme}://{host}:{port}{path}{quote}")
        }
    }
}

/// A host that a hostname stands for.
fn example(hostname: &Hostname) -> String {
    hostname.suffix().map_or(hostname.to_string(), |suffix| format!("www{suffix}"))
}

/// A part of a query.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use isthmus_routing::matching::{HeaderMatch, QueryParamMatch};

    use super::*;

    fn listener(protocol: Protocol) -> Listener {
        Listener::new("l", 80, protocol)
    }

    #[test]
    fn curl_lines_find_their_listener() {
        for (address, protocol, hostname, path, expected) in [
            ("127.0.0.1:8080", Protocol::Http, None, "/", "curl http://127.0.0.1:8080/"),
            ("127.0.0.1:8080", Protocol::Http, None, "/a;b!", "curl 'http://127.0.0.1:8080/a;b!'"),
            ("127.0.0.1:8080", Protocol::Http, Some("shop.localhost"), "/a", "curl http://shop.localhost:8080/a"),
            (
                "127.0.0.2:8080",
                Protocol::Http,
                Some("shop.localhost"),
                "/a",
                "curl -H 'host: shop.localhost' http://127.0.0.2:8080/a",
            ),
            (
                "[::1]:8080",
                Protocol::Http,
                Some("*.a.example"),
                "/a?b=c",
                "curl -H 'host: www.a.example' 'http://[::1]:8080/a?b=c'",
            ),
            (
                "127.0.0.1:8443",
                Protocol::Https,
                Some("a.example"),
                "/",
                "curl -k --resolve a.example:8443:127.0.0.1 https://a.example:8443/",
            ),
        ] {
            let hostname = hostname.map(|hostname: &str| hostname.parse().unwrap());
            assert_eq!(curl(address.parse().unwrap(), &listener(protocol), hostname.as_ref(), path, ""), expected);
        }
    }

    #[test]
    fn requests_meet_their_match() {
        let exact = |text: &str| ValueMatch::Exact(text.into());
        let of = HttpMatch {
            path: PathMatch::Prefix("/a".into()),
            headers: vec![HeaderMatch { name: "x".parse().unwrap(), value: exact("it's") }],
            query: vec![
                QueryParamMatch { name: "q".into(), value: exact("1") },
                QueryParamMatch { name: "r".into(), value: exact("2 & 3'") },
            ],
            method: Some("POST".parse().unwrap()),
        };
        assert_eq!(http(&of), Some(("/a?q=1&r=2%20%26%203%27".into(), " -H 'x: it'\\''s' -X POST".into())));
        let regex = HttpMatch { path: PathMatch::Regex("/a".parse().unwrap()), ..of };
        assert_eq!(http(&regex), None, "no example can be made of a pattern");
    }
}
