//! Filters: HTTPRoute's and GRPCRoute's, on a rule and on a backendRef, are one type here.

use super::BackendRef;
use crate::generated::{grpcroutes as grpc, httproutes as http};

/// What happens to a request or its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// `RequestHeaderModifier`
    RequestHeaderModifier(HeaderModifier),
    /// `ResponseHeaderModifier`
    ResponseHeaderModifier(HeaderModifier),
    /// `RequestRedirect`
    RequestRedirect(RequestRedirect),
    /// `URLRewrite`
    UrlRewrite(UrlRewrite),
    /// `RequestMirror`
    RequestMirror(RequestMirror),
    /// `CORS`
    Cors(Cors),
    /// `ExternalAuth`, which the standard channel does not have: nothing of it is read, so it must be judged unsupported.
    ExternalAuth,
    /// `ExtensionRef`
    ExtensionRef {
        /// The API group of the object.
        group: String,
        /// Its kind.
        kind: String,
        /// Its name, in the route's namespace.
        name: String,
    },
    /// A filter that names its type but lacks that type's field. No API server admits one.
    Incomplete {
        /// The type that it names.
        r#type: &'static str,
    },
}

/// Headers to set, add and remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// Replace what is there.
    pub set: Vec<Header>,
    /// Beside what is there.
    pub add: Vec<Header>,
    /// Names, in any case.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// In any case.
    pub name: String,
    /// As it is sent.
    pub value: String,
}

/// An answer that sends the client elsewhere. What is absent stays as the request has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRedirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Of the `Location`.
    pub hostname: Option<String>,
    /// Of the `Location`.
    pub path: Option<PathModifier>,
    /// Of the `Location`.
    pub port: Option<i32>,
    /// 301, 302, 303, 307 or 308; 302 by default.
    pub status_code: i64,
}

/// What the backend sees instead of what the client sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlRewrite {
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
}

/// A change of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathModifier {
    /// The whole path.
    ReplaceFullPath(String),
    /// The prefix that matched.
    ReplacePrefixMatch(String),
}

/// A copy of the requests for somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMirror {
    /// Who gets it.
    pub backend_ref: BackendRef,
    /// How many of them, if not all.
    pub fraction: Option<Fraction>,
}

/// A share; a percentage has denominator 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// At most the denominator.
    pub numerator: i32,
    /// At least 1.
    pub denominator: i32,
}

/// Cross-origin resource sharing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// `*`, `https://example.com`, `https://*.example.com`, ...
    pub allow_origins: Vec<String>,
    /// Whether credentials may be sent.
    pub allow_credentials: bool,
    /// `*` or methods.
    pub allow_methods: Vec<String>,
    /// `*` or header names.
    pub allow_headers: Vec<String>,
    /// `*` or header names.
    pub expose_headers: Vec<String>,
    /// Seconds that an answer to a preflight may be kept; 5 by default.
    pub max_age: i32,
}

impl Filter {
    /// The `type` that the API calls it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::RequestHeaderModifier(_) => "RequestHeaderModifier",
            Self::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
            Self::RequestRedirect(_) => "RequestRedirect",
            Self::UrlRewrite(_) => "URLRewrite",
            Self::RequestMirror(_) => "RequestMirror",
            Self::Cors(_) => "CORS",
            Self::ExternalAuth => "ExternalAuth",
            Self::ExtensionRef { .. } => "ExtensionRef",
            Self::Incomplete { r#type } => r#type,
        }
    }
}

// The generated types differ by name only, so the conversions are written over their fields.

macro_rules! headers {
    ($headers:expr) => {
        $headers.iter().flatten().map(|header| Header { name: header.name.clone(), value: header.value.clone() }).collect()
    };
}

macro_rules! header_modifier {
    ($from:expr) => {
        HeaderModifier { set: headers!($from.set), add: headers!($from.add), remove: $from.remove.clone().unwrap_or_default() }
    };
}

macro_rules! request_mirror {
    ($from:expr) => {
        RequestMirror {
            backend_ref: BackendRef::from(&$from.backend_ref),
            fraction: match (&$from.fraction, $from.percent) {
                (Some(fraction), _) => {
                    Some(Fraction { numerator: fraction.numerator, denominator: fraction.denominator.unwrap_or(100) })
                }
                (None, Some(percent)) => Some(Fraction { numerator: percent, denominator: 100 }),
                (None, None) => None,
            },
        }
    };
}

macro_rules! extension_ref {
    ($from:expr) => {
        Filter::ExtensionRef { group: $from.group.clone(), kind: $from.kind.clone(), name: $from.name.clone() }
    };
}

/// A path modifier that lacks its value has none: the filter is then incomplete.
macro_rules! path_modifier {
    ($from:expr, $type:ident) => {
        match $from.r#type {
            http::$type::ReplaceFullPath => $from.replace_full_path.clone().map(PathModifier::ReplaceFullPath),
            http::$type::ReplacePrefixMatch => $from.replace_prefix_match.clone().map(PathModifier::ReplacePrefixMatch),
        }
    };
}

macro_rules! http_filter {
    ($filter:ident, $type:ident, $scheme:ident, $redirect_path:ident, $rewrite_path:ident) => {
        impl From<&http::$filter> for Filter {
            fn from(from: &http::$filter) -> Self {
                let (r#type, filter) = match from.r#type {
                    http::$type::RequestHeaderModifier => (
                        "RequestHeaderModifier",
                        from.request_header_modifier.as_ref().map(|f| Self::RequestHeaderModifier(header_modifier!(f))),
                    ),
                    http::$type::ResponseHeaderModifier => (
                        "ResponseHeaderModifier",
                        from.response_header_modifier.as_ref().map(|f| Self::ResponseHeaderModifier(header_modifier!(f))),
                    ),
                    http::$type::RequestMirror => {
                        ("RequestMirror", from.request_mirror.as_ref().map(|f| Self::RequestMirror(request_mirror!(f))))
                    }
                    http::$type::RequestRedirect => (
                        "RequestRedirect",
                        from.request_redirect.as_ref().and_then(|f| {
                            let path = match &f.path {
                                Some(path) => Some(path_modifier!(path, $redirect_path)?),
                                None => None,
                            };
                            Some(Self::RequestRedirect(RequestRedirect {
                                scheme: f.scheme.as_ref().map(|scheme| match scheme {
                                    http::$scheme::Http => "http".to_owned(),
                                    http::$scheme::Https => "https".to_owned(),
                                }),
                                hostname: f.hostname.clone(),
                                path,
                                port: f.port,
                                status_code: f.status_code.unwrap_or(302),
                            }))
                        }),
                    ),
                    http::$type::UrlRewrite => (
                        "URLRewrite",
                        from.url_rewrite.as_ref().and_then(|f| {
                            let path = match &f.path {
                                Some(path) => Some(path_modifier!(path, $rewrite_path)?),
                                None => None,
                            };
                            Some(Self::UrlRewrite(UrlRewrite { hostname: f.hostname.clone(), path }))
                        }),
                    ),
                    http::$type::Cors => (
                        "CORS",
                        from.cors.as_ref().map(|f| {
                            Self::Cors(Cors {
                                allow_origins: f.allow_origins.clone().unwrap_or_default(),
                                allow_credentials: f.allow_credentials.unwrap_or_default(),
                                allow_methods: f.allow_methods.clone().unwrap_or_default(),
                                allow_headers: f.allow_headers.clone().unwrap_or_default(),
                                expose_headers: f.expose_headers.clone().unwrap_or_default(),
                                max_age: f.max_age.unwrap_or(5),
                            })
                        }),
                    ),
                    http::$type::ExtensionRef => ("ExtensionRef", from.extension_ref.as_ref().map(|f| extension_ref!(f))),
                    http::$type::ExternalAuth => ("ExternalAuth", Some(Self::ExternalAuth)),
                };
                filter.unwrap_or(Self::Incomplete { r#type })
            }
        }
    };
}
http_filter!(
    HttpRouteRulesFilters,
    HttpRouteRulesFiltersType,
    HttpRouteRulesFiltersRequestRedirectScheme,
    HttpRouteRulesFiltersRequestRedirectPathType,
    HttpRouteRulesFiltersUrlRewritePathType
);
http_filter!(
    HttpRouteRulesBackendRefsFilters,
    HttpRouteRulesBackendRefsFiltersType,
    HttpRouteRulesBackendRefsFiltersRequestRedirectScheme,
    HttpRouteRulesBackendRefsFiltersRequestRedirectPathType,
    HttpRouteRulesBackendRefsFiltersUrlRewritePathType
);

macro_rules! grpc_filter {
    ($filter:ident, $type:ident) => {
        impl From<&grpc::$filter> for Filter {
            fn from(from: &grpc::$filter) -> Self {
                let (r#type, filter) = match from.r#type {
                    grpc::$type::RequestHeaderModifier => (
                        "RequestHeaderModifier",
                        from.request_header_modifier.as_ref().map(|f| Self::RequestHeaderModifier(header_modifier!(f))),
                    ),
                    grpc::$type::ResponseHeaderModifier => (
                        "ResponseHeaderModifier",
                        from.response_header_modifier.as_ref().map(|f| Self::ResponseHeaderModifier(header_modifier!(f))),
                    ),
                    grpc::$type::RequestMirror => {
                        ("RequestMirror", from.request_mirror.as_ref().map(|f| Self::RequestMirror(request_mirror!(f))))
                    }
                    grpc::$type::ExtensionRef => ("ExtensionRef", from.extension_ref.as_ref().map(|f| extension_ref!(f))),
                };
                filter.unwrap_or(Self::Incomplete { r#type })
            }
        }
    };
}
grpc_filter!(GrpcRouteRulesFilters, GrpcRouteRulesFiltersType);
grpc_filter!(GrpcRouteRulesBackendRefsFilters, GrpcRouteRulesBackendRefsFiltersType);
