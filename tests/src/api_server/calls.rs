//! Calls: which ones a rule or a count is about, and the log of those that came.

use std::fmt;

use serde_json::Value;

use super::request::{Request, Target};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the words of RBAC")]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    /// Discovery and the version.
    Discover,
    /// What this server does not have.
    Other,
}

impl Verb {
    /// Those that change something.
    pub const WRITES: [Self; 4] = [Self::Create, Self::Update, Self::Patch, Self::Delete];
    /// Those that do not.
    pub const READS: [Self; 3] = [Self::Get, Self::List, Self::Watch];
}

/// Some of all calls. A fresh one is about every call; each method narrows it.
#[derive(Debug, Clone, Default)]
pub struct Select {
    client: Option<String>,
    verbs: Vec<Verb>,
    kind: Option<String>,
    not_kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
}

/// A call that was answered, or whose answer was lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The port that it came in through.
    pub client: String,
    /// What was asked for.
    pub verb: Verb,
    /// The kind, or the plural of what is not served; empty for discovery.
    pub kind: String,
    /// Empty for cluster-scoped objects and calls about all namespaces.
    pub namespace: String,
    /// Empty for lists and watches; for a creation the name in the body.
    pub name: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Path and query.
    pub uri: String,
    /// Whether only metadata was wanted.
    pub metadata_only: bool,
    /// The status code; none if the connection was reset instead.
    pub code: Option<u16>,
    /// What was sent along.
    pub body: Value,
    /// The store's version afterwards.
    pub version: u64,
}

impl Select {
    /// Every call.
    pub fn any() -> Self {
        Self::default()
    }

    /// Every call that changes something, but for Leases: their rhythm is no concern of most tests.
    pub fn writes() -> Self {
        Self { not_kind: Some("Lease".to_owned()), ..Self::any().verbs(&Verb::WRITES) }
    }

    /// Only through the port of this name.
    #[must_use]
    pub fn client(mut self, name: &str) -> Self {
        self.client = Some(name.to_owned());
        self
    }

    /// Only these verbs.
    #[must_use]
    pub fn verbs(mut self, verbs: &[Verb]) -> Self {
        self.verbs = verbs.to_vec();
        self
    }

    /// Only this kind: `HTTPRoute`.
    #[must_use]
    pub fn kind(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }

    /// Only this object: `namespace/name`, or `name` in any namespace.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        let (namespace, name) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
        self.namespace = namespace.map(str::to_owned);
        self.name = Some(name.to_owned());
        self
    }

    /// Only the status sub-resource.
    #[must_use]
    pub fn status(mut self) -> Self {
        self.subresource = Some("status".to_owned());
        self
    }

    /// Only the object itself, no sub-resource.
    #[must_use]
    pub fn object(mut self) -> Self {
        self.subresource = Some(String::new());
        self
    }

    /// Whether a call is one of these.
    pub fn matches(&self, call: &Call) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        is(&self.client, &call.client)
            && (self.verbs.is_empty() || self.verbs.contains(&call.verb))
            && is(&self.kind, &call.kind)
            && self.not_kind.as_ref().is_none_or(|kind| *kind != call.kind)
            && is(&self.namespace, &call.namespace)
            && is(&self.name, &call.name)
            && is(&self.subresource, &call.subresource)
    }
}

impl Call {
    /// A call that has no answer yet.
    pub(super) fn new(client: &str, request: &Request, uri: String) -> Self {
        let place = request.target.place().cloned().unwrap_or_default();
        let kind = match &request.target {
            Target::Resource(resource, _) => resource.kind.clone(),
            Target::Absent(place) => place.plural.clone(),
            Target::Other(_) => String::new(),
        };
        let name = match request.body["metadata"]["name"].as_str() {
            Some(name) if request.verb == Verb::Create => name.to_owned(),
            _ => place.name,
        };
        Self {
            client: client.to_owned(),
            verb: request.verb,
            kind,
            namespace: place.namespace,
            name,
            subresource: place.subresource,
            uri,
            metadata_only: request.metadata_only,
            code: None,
            body: request.body.clone(),
            version: 0,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, verb, kind, namespace, name, subresource, .. } = self;
        write!(f, "{client}: {verb:?} {kind}")?;
        for part in [namespace, name, subresource].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "/{part}")?;
        }
        match self.code {
            Some(code) => write!(f, " -> {code}"),
            None => f.write_str(" -> reset"),
        }
    }
}
