//! What a rule matches, defaults included.

use crate::generated::{grpcroutes as grpc, httproutes as http};

/// The matches of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matches {
    /// Of an HTTPRoute; at least one.
    Http(Vec<HttpMatch>),
    /// Of a GRPCRoute; at least one.
    Grpc(Vec<GrpcMatch>),
    /// Of a TLSRoute, a TCPRoute or a UDPRoute: whatever reaches the route.
    Any,
}

/// A match of an HTTPRoute: everything in it has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// A path prefix of `/` by default.
    pub path: PathMatch,
    /// Headers, in the order of the route.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, in the order of the route.
    pub query_params: Vec<QueryParamMatch>,
    /// `GET`, ...
    pub method: Option<String>,
}

/// A match of a GRPCRoute: everything in it has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrpcMatch {
    /// Service and method.
    pub method: Option<GrpcMethodMatch>,
    /// Headers, in the order of the route.
    pub headers: Vec<HeaderMatch>,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMatch {
    /// How it is compared.
    pub r#type: PathMatchType,
    /// With what.
    pub value: String,
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathMatchType {
    /// Equal.
    Exact,
    /// By elements.
    PathPrefix,
    /// By regular expression.
    RegularExpression,
}

/// How a header, a query parameter or a gRPC method is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchType {
    /// Equal.
    Exact,
    /// By regular expression.
    RegularExpression,
}

/// A condition on a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// How it is compared.
    pub r#type: MatchType,
    /// The header, in any case.
    pub name: String,
    /// With what.
    pub value: String,
}

/// A condition on a query parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryParamMatch {
    /// How it is compared.
    pub r#type: MatchType,
    /// The parameter, case and all.
    pub name: String,
    /// With what.
    pub value: String,
}

/// A condition on the gRPC service and method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcMethodMatch {
    /// How both are compared.
    pub r#type: MatchType,
    /// None: any.
    pub service: Option<String>,
    /// None: any.
    pub method: Option<String>,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self { r#type: PathMatchType::PathPrefix, value: "/".to_owned() }
    }
}

impl Matches {
    /// > If no matches are specified, the default is a prefix path match on "/", which has the effect of matching every HTTP request.
    pub(super) fn http(from: Option<&[http::HttpRouteRulesMatches]>) -> Self {
        match from {
            Some(matches) if !matches.is_empty() => Self::Http(matches.iter().map(Into::into).collect()),
            _ => Self::Http(vec![HttpMatch::default()]),
        }
    }

    /// > If no matches are specified, the implementation MUST match every gRPC request.
    pub(super) fn grpc(from: Option<&[grpc::GrpcRouteRulesMatches]>) -> Self {
        match from {
            Some(matches) if !matches.is_empty() => Self::Grpc(matches.iter().map(Into::into).collect()),
            _ => Self::Grpc(vec![GrpcMatch::default()]),
        }
    }
}

impl From<&http::HttpRouteRulesMatches> for HttpMatch {
    fn from(from: &http::HttpRouteRulesMatches) -> Self {
        Self {
            path: from.path.as_ref().map(Into::into).unwrap_or_default(),
            headers: from.headers.iter().flatten().map(Into::into).collect(),
            query_params: from.query_params.iter().flatten().map(Into::into).collect(),
            method: from.method.as_ref().map(|method| http_method(method).to_owned()),
        }
    }
}

impl From<&http::HttpRouteRulesMatchesPath> for PathMatch {
    fn from(from: &http::HttpRouteRulesMatchesPath) -> Self {
        use http::HttpRouteRulesMatchesPathType as Type;
        Self {
            r#type: match from.r#type {
                Some(Type::Exact) => PathMatchType::Exact,
                Some(Type::PathPrefix) | None => PathMatchType::PathPrefix,
                Some(Type::RegularExpression) => PathMatchType::RegularExpression,
            },
            value: from.value.clone().unwrap_or_else(|| "/".to_owned()),
        }
    }
}

impl From<&grpc::GrpcRouteRulesMatches> for GrpcMatch {
    fn from(from: &grpc::GrpcRouteRulesMatches) -> Self {
        Self {
            method: from.method.as_ref().map(|method| GrpcMethodMatch {
                r#type: match_type!(method, grpc::GrpcRouteRulesMatchesMethodType),
                service: method.service.clone(),
                method: method.method.clone(),
            }),
            headers: from.headers.iter().flatten().map(Into::into).collect(),
        }
    }
}

fn http_method(method: &http::HttpRouteRulesMatchesMethod) -> &'static str {
    use http::HttpRouteRulesMatchesMethod as Method;
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
    }
}

/// The generated enums differ by name only.
macro_rules! match_type {
    ($from:expr, $type:path) => {{
        use $type as Type;
        match $from.r#type {
            Some(Type::Exact) | None => MatchType::Exact,
            Some(Type::RegularExpression) => MatchType::RegularExpression,
        }
    }};
}
use match_type;

macro_rules! named_match {
    ($($view:ident from $generated:ty, $type:path;)*) => {$(
        impl From<&$generated> for $view {
            fn from(from: &$generated) -> Self {
                Self { r#type: match_type!(from, $type), name: from.name.clone(), value: from.value.clone() }
            }
        }
    )*};
}
named_match! {
    HeaderMatch from http::HttpRouteRulesMatchesHeaders, http::HttpRouteRulesMatchesHeadersType;
    HeaderMatch from grpc::GrpcRouteRulesMatchesHeaders, grpc::GrpcRouteRulesMatchesHeadersType;
    QueryParamMatch from http::HttpRouteRulesMatchesQueryParams, http::HttpRouteRulesMatchesQueryParamsType;
}
