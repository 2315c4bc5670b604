//! Objects of the routing model -> which rule answers a request, and what its filters do to it.
//!
//! `translate` writes a [`Snapshot`]; a data plane compiles the attachments of each listener into a
//! [`RouteTable`] and asks it [`RouteTable::find`] for every request. Filters are data with pure results: what
//! a redirect answers or a rewrite makes of a path is decided here, writing it to a socket is not.
//!
//! This crate is pure: no files, clock, tasks or randomness, and it imports nothing else of the project. The
//! serde form of a snapshot is also its wire format, so deserialising is parsing: a value that exists is valid.

#![forbid(unsafe_code)]

pub mod backend;
pub mod filter;
mod hash;
pub mod hostname;
mod lengths;
pub mod listener;
pub mod matching;
pub mod mesh;
pub mod name;
pub mod parent;
pub mod path;
pub mod retry;
pub mod route;
pub mod snapshot;
pub mod timeout;
pub mod tls;
pub mod value;

pub use backend::{Backend, BackendProtocol, Endpoint, Target, WeightedBackend, WeightedChoice};
pub use hostname::{HostMap, Hostname};
pub use listener::{Attachment, Gateway, Listener, Protocol};
pub use matching::stream_table::{StreamFound, StreamTable};
pub use matching::table::{Found, RouteTable};
pub use matching::{GrpcMatch, HeaderMatch, HttpMatch, MethodMatch, PathMatch, QueryParamMatch, Request};
pub use mesh::{Frontend, FrontendKey, Identity, Inbound, Mesh, MeshedPod, MtlsMode, Pods, Spoken, TrustDomain, Workloads};
pub use name::{BackendKey, BundleKey, BundleKind, CertificateKey, GatewayKey, RouteKey, RouteKind, Transport};
pub use parent::ServiceParent;
pub use retry::Retry;
pub use route::{Matches, Route, Rule};
pub use snapshot::{Changes, Item, ItemKey, Snapshot, Version};
pub use timeout::Timeouts;
pub use tls::{
    BackendTls, BackendValidation, Bundle, Certificate, CipherSuite, ClientValidation, ProxyProtocol, Roots, SubjectAltName,
    TlsSettings, TlsVersion,
};
