//! Filters as they are applied. What they do is decided in `isthmus_routing::filter`; here it is done to Pingora's headers.

pub(crate) mod cors;
pub(crate) mod header;
pub(crate) mod mirror;
pub(crate) mod redirect;
pub(crate) mod rewrite;

use isthmus_routing::filter::{Cors, Filter, HeaderModifier, Redirect, Rewrite};

use mirror::MirrorRule;

/// The filters of a rule or of a backendRef, by the phase in which they work.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// Those that may answer, in the order of the object.
    pub(crate) answering: Vec<Answering>,
    /// Request headers to modify.
    pub(crate) request_headers: Vec<HeaderModifier>,
    /// Where the request goes instead.
    pub(crate) rewrite: Option<Rewrite>,
    /// Who gets a copy.
    pub(crate) mirrors: Vec<MirrorRule>,
    /// Response headers to modify.
    pub(crate) response_headers: Vec<HeaderModifier>,
}

/// A filter that may answer in place of a backend.
#[derive(Debug)]
pub(crate) enum Answering {
    /// Answers preflight requests.
    Cors(Cors),
    /// Answers always.
    Redirect(Redirect),
}

impl Filters {
    /// Sorts filters by phase.
    pub(crate) fn compile(filters: &[Filter]) -> Self {
        let mut sorted = Self::default();
        for filter in filters {
            match filter.clone() {
                Filter::RequestHeaderModifier(modifier) => sorted.request_headers.push(modifier),
                Filter::ResponseHeaderModifier(modifier) => sorted.response_headers.push(modifier),
                Filter::RequestRedirect(redirect) => sorted.answering.push(Answering::Redirect(redirect)),
                Filter::UrlRewrite(rewrite) => sorted.rewrite = Some(rewrite),
                Filter::RequestMirror(mirror) => sorted.mirrors.push(MirrorRule::compile(mirror)),
                Filter::Cors(cors) => sorted.answering.push(Answering::Cors(cors)),
            }
        }
        sorted
    }
}
