//! Shapes that occur in several kinds, once each: parentRef, backendRef, filter, match, selector, listener; and the views that
//! read an object through them.
//!
//! A view applies the defaults of the API's types, so an object that no API server has seen reads as one that was admitted.

mod filter;
mod gateway;
mod matches;
mod reference;
mod route;
mod selector;

pub use filter::{Cors, Filter, Fraction, Header, HeaderModifier, PathModifier, RequestMirror, RequestRedirect, UrlRewrite};
pub use gateway::{FromNamespaces, ListenerTls, ListenerView, RouteGroupKind, TlsMode};
pub use matches::{
    GrpcMatch, GrpcMethodMatch, HeaderMatch, HttpMatch, MatchType, Matches, PathMatch, PathMatchType, QueryParamMatch,
};
pub use reference::{BackendRef, ParentRef, SecretRef};
pub use route::{Retry, RouteBackendRef, RouteView, RuleView, Timeouts};
pub use selector::{InvalidSelector, LabelSelector};

/// The API group of the Gateway API, which absent groups of parentRefs and routes default to.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
