//! What rules do to requests and responses. Each file holds a filter's data and its pure result.

pub mod cors;
pub mod header;
pub mod mirror;
pub mod redirect;
pub mod rewrite;

use serde::{Deserialize, Serialize};

pub use cors::Cors;
pub use header::HeaderModifier;
pub use mirror::Mirror;
pub use redirect::Redirect;
pub use rewrite::{PathModifier, Rewrite};

/// A filter, in the order of the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// `RequestHeaderModifier`
    RequestHeaderModifier(HeaderModifier),
    /// `ResponseHeaderModifier`
    ResponseHeaderModifier(HeaderModifier),
    /// `RequestRedirect`; it answers, so no backend is asked.
    RequestRedirect(Redirect),
    /// `URLRewrite`
    #[serde(rename = "URLRewrite")]
    UrlRewrite(Rewrite),
    /// `RequestMirror`
    RequestMirror(Mirror),
    /// `CORS`; it answers preflight requests.
    #[serde(rename = "CORS")]
    Cors(Cors),
}
