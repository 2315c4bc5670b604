//! The table against the oracle, on random routes and requests from alphabets so small that most requests match something.

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{GrpcMatch, HeaderMatch, HttpMatch, MethodMatch, PathMatch, QueryParamMatch, Request, ValueMatch, oracle};
use crate::value::Pattern;
use crate::{Attachment, Listener, Matches, Protocol, Route, RouteKey, RouteKind, RouteTable, Rule, Snapshot, Timeouts, path};

/// Compiled once, since a debug build takes a while for each.
static PATH_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let sources =
        ["/a.*", "/[ab]", "/a/.*", ".*", "/a|/b", "/(a|b)/b", "/a/b", "(?i)/A", "/b.*", "/a?b?", "/.", "/ab", "/a/b/c?"];
    sources.iter().map(|source| source.parse().unwrap()).collect()
});
static VALUE_PATTERNS: LazyLock<Vec<Pattern>> =
    LazyLock::new(|| ["[12]", "1.*", "a.*", ".*", "[sm]\\d"].iter().map(|source| source.parse().unwrap()).collect());

fn value(texts: &'static [&'static str]) -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        4 => select(texts).prop_map(|text| ValueMatch::Exact(text.to_owned())),
        1 => select(VALUE_PATTERNS.clone()).prop_map(ValueMatch::Regex),
    ]
}

fn headers() -> impl Strategy<Value = Vec<HeaderMatch>> {
    let one = |name: &'static str| {
        option::weighted(0.2, value(&["1", "2", "1,2"]))
            .prop_map(move |value| value.map(|value| HeaderMatch { name: name.parse().unwrap(), value }))
    };
    (one("h1"), one("H2")).prop_map(|(a, b)| a.into_iter().chain(b).collect())
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/%61/b", "/b", "/ab", "/a/b/c", "/s1/m1", "/a%2fb", "/b/./a"];
    let path = prop_oneof![
        2 => select(PATHS).prop_map(|path| PathMatch::Exact(path.to_owned())),
        3 => select(PATHS).prop_map(|path| PathMatch::Prefix(path.to_owned())),
        3 => select(PATH_PATTERNS.clone()).prop_map(PathMatch::Regex),
    ];
    let param = |name: &'static str| {
        option::weighted(0.15, value(&["1", "2", ""]))
            .prop_map(move |value| value.map(|value| QueryParamMatch { name: name.to_owned(), value }))
    };
    let method = option::weighted(0.2, select(vec!["GET", "POST"])).prop_map(|method| method.map(|m| m.parse().unwrap()));
    (path, headers(), param("p"), param("q"), method).prop_map(|(path, headers, p, q, method)| HttpMatch {
        path,
        headers,
        query: p.into_iter().chain(q).collect(),
        method,
    })
}

fn grpc_match() -> impl Strategy<Value = GrpcMatch> {
    let names = (option::weighted(0.7, value(&["s1", "s2", "a"])), option::weighted(0.6, value(&["m1", "m2", "b"])));
    let method =
        names.prop_map(|(service, method)| (service.is_some() || method.is_some()).then_some(MethodMatch { service, method }));
    (method, headers()).prop_map(|(method, headers)| GrpcMatch { method, headers })
}

fn route() -> impl Strategy<Value = (RouteKey, Route, Attachment)> {
    let rules = prop_oneof![
        3 => vec(vec(http_match(), 0..7).prop_map(Matches::Http), 1..6).prop_map(|rules| (RouteKind::Http, rules)),
        1 => vec(vec(grpc_match(), 0..7).prop_map(Matches::Grpc), 1..6).prop_map(|rules| (RouteKind::Grpc, rules)),
    ];
    let hostnames = vec(select(vec!["a.x", "b.a.x", "*.x", "*.x", "*.a.x", "x"]), 0..3);
    (select(vec!["n", "n-m"]), select(vec!["a", "b", "c", "d"]), 0_i64..2, rules, hostnames).prop_map(
        |(namespace, name, created, (kind, rules), hostnames)| {
            let key = RouteKey { namespace: namespace.to_owned(), name: name.to_owned(), kind };
            let rule = |matches| Rule {
                name: None,
                matches,
                filters: Vec::new(),
                backends: Vec::new(),
                timeouts: Timeouts::default(),
                retry: None,
                invalid: false,
            };
            let route = Route { created, rules: rules.into_iter().map(rule).collect() };
            let hostnames = hostnames.into_iter().map(|hostname| hostname.parse().unwrap()).collect();
            (key.clone(), route, Attachment { route: key, hostnames })
        },
    )
}

fn attached() -> impl Strategy<Value = (Listener, Snapshot)> {
    vec(route(), 1..9).prop_map(|routes| {
        let mut snapshot = Snapshot::default();
        let mut listener = Listener::new("http".to_owned(), 80, Protocol::Http);
        for (key, route, attachment) in routes {
            if snapshot.routes.insert(key, Arc::new(route)).is_none() {
                listener.routes.push(attachment);
            }
        }
        (listener, snapshot)
    })
}

#[derive(Debug)]
struct OwnedRequest {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl OwnedRequest {
    fn as_request(&self) -> Request<'_> {
        let Self { method, host, path, query, headers } = self;
        Request { method, host, path, query: query.as_deref(), headers }
    }
}

fn request() -> impl Strategy<Value = OwnedRequest> {
    let host = select(vec!["a.x", "a.x", "b.a.x", "c.b.a.x", "c.x", "x", "z"]);
    let path = select(vec!["/a", "/a/", "/a/b", "/b", "/ab", "/a/b/c", "/a/bc", "/A", "/s1/m1", "/s1/m1", "/s2/m1", "/b/a", "*"]);
    let param = select(vec!["p=1", "p=2", "q=1", "q", "%70=%31", "r=1", ""]);
    let query = option::of(vec(param, 0..3).prop_map(|params| params.join("&")));
    let header = (select(vec!["h1", "h2"]), select(vec!["1", "2", "12", "3"]));
    let grpc = option::weighted(0.3, select(vec!["application/grpc", "application/grpc+proto", "application/grpc-web"]));
    (any::<bool>(), host, path, query, vec(header, 0..5), grpc).prop_map(|(post, host, path, query, lines, grpc)| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.extend(grpc.map(|value| (http::header::CONTENT_TYPE, HeaderValue::from_static(value))));
        let method = if post { Method::POST } else { Method::GET };
        OwnedRequest { method, host: host.to_owned(), path: path.to_owned(), query, headers }
    })
}

fn any_request() -> impl Strategy<Value = OwnedRequest> {
    let byte = prop_oneof![0x20..0x7f_u8, 0x80..=0xff_u8];
    let value = vec(byte, 0..8).prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap());
    let headers = vec((select(vec!["h1", "h2", "content-type"]), value), 0..4);
    (".{0,8}|[.xa]{0,6}", ".{0,8}|[/ab]{0,8}", option::of(".{0,8}"), headers).prop_map(|(host, path, query, lines)| {
        let headers = lines.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).collect();
        OwnedRequest { method: Method::POST, host, path, query, headers }
    })
}

/// A case is 64 requests to tables that take a debug build milliseconds to compile. `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.div_ceil(4), ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn table_and_oracle_agree((listener, snapshot) in attached(), requests in vec(request(), 64)) {
        let table = RouteTable::compile(&listener, &snapshot);
        for request in &requests {
            let request = request.as_request();
            let found = table.find(&request);
            prop_assert_eq!(found, oracle::find(&listener, &snapshot, &request), "{:?}", request);
            if let Some(prefix) = found.and_then(|found| found.prefix) {
                prop_assert!(prefix <= request.path.len());
            }
        }
    }

    #[test]
    fn any_request_is_taken((listener, snapshot) in attached(), requests in vec(any_request(), 16)) {
        let table = RouteTable::compile(&listener, &snapshot);
        for request in &requests {
            let request = request.as_request();
            prop_assert_eq!(table.find(&request), oracle::find(&listener, &snapshot, &request), "{:?}", request);
        }
    }
}

/// The alphabets are of use only if requests match now and then, and in many ways.
#[test]
fn most_requests_match() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut total, mut matched, mut several, mut grpc, mut many_patterns) = (0, 0, 0, 0, 0);
    for _ in 0..64 {
        let (listener, snapshot) = attached().new_tree(&mut runner).unwrap().current();
        for _ in 0..16 {
            let request = request().new_tree(&mut runner).unwrap().current();
            let all = oracle::matching(&listener, &snapshot, &request.as_request());
            total += 1;
            matched += usize::from(!all.is_empty());
            several += usize::from(all.len() > 2);
            grpc += usize::from(matches!(all.first(), Some(oracle::Matched { asked: oracle::Asked::Grpc(_), .. })));
            let is_regex = |matched: &&oracle::Matched<'_>| {
                matches!(matched.asked, oracle::Asked::Http(HttpMatch { path: PathMatch::Regex(_), .. }))
            };
            many_patterns += usize::from(all.iter().filter(is_regex).count() > 4);
        }
        assert!(listener.routes.iter().all(|attachment| snapshot.routes.contains_key(&attachment.route)));
    }
    assert!(
        matched * 2 > total && several * 5 > total && grpc * 50 > total && many_patterns * 60 > total,
        "of {total}: {matched} match, {several} in several ways, {grpc} by gRPC, {many_patterns} by more than four expressions"
    );
    assert_eq!(path::normalise("/%61/b").as_deref(), Ok("/a/b"), "the alphabet has two spellings of one path");
}
