//! Which of several matches wins: the order of the specification, as `Ord`. Greater wins.
//!
//! Hostnames come first, and [`crate::hostname::HostMap`] yields them in their order. Then follow the ranks here, then the age
//! and the name of the route (`created`, then [`crate::RouteKey`]'s order), then the positions of the rule and the match in it.

use crate::matching::{GrpcMatch, HttpMatch, MethodMatch, PathMatch, ValueMatch};
use crate::path;

/// How much of a request a match of an HTTPRoute has matched.
///
/// > Proxy or Load Balancer routing configuration generated from HTTPRoutes
/// > MUST prioritize matches based on the following criteria, continuing on
/// > ties. Across all rules specified on applicable Routes, precedence must be
/// > given to the match having:
/// >
/// > * "Exact" path match.
/// > * "Prefix" path match with largest number of characters.
/// > * Method match.
/// > * Largest number of header matches.
/// > * Largest number of query param matches.
/// >
/// > Note: The precedence of RegularExpression path matches are implementation-specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpRank {
    /// By the path.
    pub path: PathRank,
    /// Whether the method was asked for.
    pub method: bool,
    /// How many headers were.
    pub headers: usize,
    /// How many query parameters were.
    pub query: usize,
}

/// How much of a path was matched. Regular expressions stand between the other two: someone who writes one means it more
/// narrowly than the prefix that would match as well; and the longer expression goes first, as the longer prefix does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// The characters of the prefix, without a trailing `/`.
    Prefix(usize),
    /// The characters of the expression.
    Regex(usize),
    /// All of it.
    Exact,
}

/// How much of a request a match of a GRPCRoute has matched.
///
/// > Precedence MUST be given to the rule with the largest number of:
/// >
/// > * Characters in a matching non-wildcard hostname.
/// > * Characters in a matching hostname.
/// > * Characters in a matching service.
/// > * Characters in a matching method.
/// > * Header matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrpcRank {
    /// By the service.
    pub service: NameRank,
    /// By the method.
    pub method: NameRank,
    /// How many headers were asked for.
    pub headers: usize,
}

/// How much of a service's or a method's name was matched. An expression stands below a name, however many characters it
/// happens to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameRank {
    /// Nothing was asked for.
    Any,
    /// The characters of the expression.
    Regex(usize),
    /// The characters of the name.
    Exact(usize),
}

impl From<&HttpMatch> for HttpRank {
    fn from(asked: &HttpMatch) -> Self {
        let path = match &asked.path {
            PathMatch::Exact(_) => PathRank::Exact,
            PathMatch::Regex(pattern) => PathRank::Regex(pattern.as_str().chars().count()),
            PathMatch::Prefix(prefix) => PathRank::Prefix(path::prefix_of(prefix).chars().count()),
        };
        Self { path, method: asked.method.is_some(), headers: asked.headers.len(), query: asked.query.len() }
    }
}

impl From<&GrpcMatch> for GrpcRank {
    fn from(asked: &GrpcMatch) -> Self {
        let (service, method) = match &asked.method {
            Some(MethodMatch { service, method }) => (service.as_ref(), method.as_ref()),
            None => (None, None),
        };
        Self { service: service.into(), method: method.into(), headers: asked.headers.len() }
    }
}

impl From<Option<&ValueMatch>> for NameRank {
    fn from(asked: Option<&ValueMatch>) -> Self {
        match asked {
            None => Self::Any,
            Some(ValueMatch::Regex(pattern)) => Self::Regex(pattern.as_str().chars().count()),
            Some(ValueMatch::Exact(name)) => Self::Exact(name.chars().count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::{HeaderMatch, QueryParamMatch};

    fn http(kind: &str, value: &str, method: bool, headers: usize, query: usize) -> HttpMatch {
        let path = match kind {
            "exact" => PathMatch::Exact(value.to_owned()),
            "prefix" => PathMatch::Prefix(value.to_owned()),
            _ => PathMatch::Regex(value.parse().unwrap()),
        };
        let header = |n| HeaderMatch { name: format!("h{n}").parse().unwrap(), value: ValueMatch::Exact("v".to_owned()) };
        let param = |n| QueryParamMatch { name: format!("q{n}"), value: ValueMatch::Exact("v".to_owned()) };
        HttpMatch {
            path,
            headers: (0..headers).map(header).collect(),
            query: (0..query).map(param).collect(),
            method: method.then(|| "GET".parse().unwrap()),
        }
    }

    #[test]
    fn http_order() {
        let from_first_to_last = [
            http("exact", "/abcd", true, 1, 0),
            http("exact", "/abcd", true, 0, 3),
            http("exact", "/a", false, 2, 0),
            http("exact", "/abcdefg", false, 1, 1),
            http("exact", "/abcdefg", false, 1, 0),
            http("regex", "/a.*[a-z]", false, 0, 0),
            http("regex", "/a.*", true, 0, 0),
            http("prefix", "/abcd", false, 0, 0),
            http("prefix", "/abc", true, 1, 1),
            http("prefix", "/abc/", true, 1, 0),
            http("prefix", "/", true, 16, 16),
            http("prefix", "/", false, 16, 16),
        ];
        let ranks: Vec<HttpRank> = from_first_to_last.iter().map(HttpRank::from).collect();
        for (n, pair) in ranks.windows(2).enumerate() {
            assert!(pair[0] > pair[1], "{:?} goes before {:?}", from_first_to_last[n], from_first_to_last[n + 1]);
        }
    }

    #[test]
    fn ties() {
        assert_eq!(
            HttpRank::from(&http("prefix", "/abc", false, 0, 0)),
            HttpRank::from(&http("prefix", "/abc/", false, 0, 0)),
            "a trailing `/` is ignored"
        );
        assert_eq!(HttpRank::from(&http("exact", "/a", false, 0, 0)), HttpRank::from(&http("exact", "/abc", false, 0, 0)));
    }

    #[test]
    fn grpc_order() {
        let exact = |text: &str| Some(ValueMatch::Exact(text.to_owned()));
        let regex = |text: &str| Some(ValueMatch::Regex(text.parse().unwrap()));
        let header = |n| HeaderMatch { name: format!("h{n}").parse().unwrap(), value: ValueMatch::Exact("v".to_owned()) };
        let grpc = |service, method, headers| GrpcMatch {
            method: Some(MethodMatch { service, method }),
            headers: (0..headers).map(header).collect(),
        };
        let from_first_to_last = [
            grpc(exact("foo.bar"), exact("Login"), 1),
            grpc(exact("foo.bar"), exact("Login"), 0),
            grpc(exact("foo.bar"), regex("Log.*"), 3),
            grpc(exact("foo.bar"), None, 3),
            grpc(exact("foo"), exact("LoginWithAVeryLongName"), 3),
            grpc(regex("foo.*"), exact("Login"), 0),
            grpc(regex("f.*"), exact("Login"), 0),
            grpc(None, exact("Login"), 0),
            grpc(None, exact("Log"), 2),
            GrpcMatch { method: None, headers: vec![header(0)] },
            GrpcMatch::default(),
        ];
        let ranks: Vec<GrpcRank> = from_first_to_last.iter().map(GrpcRank::from).collect();
        for (n, pair) in ranks.windows(2).enumerate() {
            assert!(pair[0] > pair[1], "{:?} goes before {:?}", from_first_to_last[n], from_first_to_last[n + 1]);
        }
    }
}
