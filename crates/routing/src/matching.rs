//! Matchers: what a rule asks of a request, and how much of it was matched.
//!
//! Each matcher has a configured type (here, in the snapshot) and a matched rank ([`precedence`]) whose `Ord` is the
//! specification's order.

#[cfg(test)]
mod agreement;
mod candidate;
mod grpc_table;
mod header;
mod host_table;
mod http_table;
pub mod oracle;
mod path_index;
pub mod precedence;
mod query;
mod regex_table;
pub mod stream_table;
pub mod table;

use serde::{Deserialize, Serialize};

use crate::value::{HeaderName, Method, Pattern};

/// What the match function sees of a request. It borrows everything.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a http::Method,
    /// The host: lower-case, without port and trailing dot ([`crate::path::host_of`]).
    pub host: &'a str,
    /// The path in its normal form ([`crate::path::normalise`]), without the query.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a http::HeaderMap,
}

impl Request<'_> {
    /// Whether this is a gRPC request: POST, and a content type of `application/grpc`, alone or with a `+` or a `;` after it.
    /// (`application/grpc-web` is not: its messages are framed differently.)
    pub fn is_grpc(&self) -> bool {
        const GRPC: &[u8] = b"application/grpc";
        let content_type = self.headers.get(http::header::CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
        self.method == http::Method::POST
            && content_type.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
            && matches!(content_type.get(GRPC.len()), None | Some(b'+' | b';'))
    }
}

/// All of these have to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpMatch {
    /// Never absent: the API defaults it to the prefix `/`.
    pub path: PathMatch,
    /// Each names another header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// Each names another parameter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryParamMatch>,
    /// Case-sensitive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// The whole path, case-sensitive.
    Exact(String),
    /// Whole path elements: `/abc` matches `/abc`, `/abc/` and `/abc/d`, not `/abcd`; a trailing `/` is of no meaning.
    Prefix(String),
    /// The whole path.
    Regex(Pattern),
}

/// How a header's value or a query parameter's value is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueMatch {
    /// Equal bytes.
    Exact(String),
    /// The whole value.
    Regex(Pattern),
}

impl ValueMatch {
    /// Whether it holds for a value. An expression holds for no value that is not UTF-8.
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(pattern) => std::str::from_utf8(value).is_ok_and(|text| pattern.is_match(text)),
        }
    }
}

/// A header with one of its values. Several lines of one name are compared as one value joined by `,` first, then each alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Any case in the request.
    pub name: HeaderName,
    /// What it has to be.
    pub value: ValueMatch,
}

/// A query parameter. If a request repeats it, its first value is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryParamMatch {
    /// Case-sensitive, compared after percent-decoding the request's.
    pub name: String,
    /// What it has to be, compared after percent-decoding the request's.
    pub value: ValueMatch,
}

/// All of these have to hold, and the request has to be gRPC (POST, content type `application/grpc` or with a `+` or `;` after it).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcMatch {
    /// None: all services and methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<MethodMatch>,
    /// Each names another header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// A gRPC service, method, or both; at least one is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodMatch {
    /// The full name of the service, as in the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ValueMatch>,
    /// The method's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<ValueMatch>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_grpc() {
        let cases = [
            ("POST", Some("application/grpc"), true),
            ("POST", Some("application/grpc+proto"), true),
            ("POST", Some("application/grpc;x=y"), true),
            ("POST", Some("Application/GRPC"), true),
            ("POST", Some("application/grpc-web"), false),
            ("POST", Some("application/grpc web"), false),
            ("POST", Some("application/grp"), false),
            ("POST", Some("application/json"), false),
            ("POST", None, false),
            ("GET", Some("application/grpc"), false),
        ];
        for (method, content_type, expected) in cases {
            let headers = content_type.map(|value| (http::header::CONTENT_TYPE, value.parse().unwrap())).into_iter().collect();
            let method = method.parse().unwrap();
            let request = Request { method: &method, host: "", path: "/", query: None, headers: &headers };
            assert_eq!(request.is_grpc(), expected, "{method} {content_type:?}");
        }
    }
}
