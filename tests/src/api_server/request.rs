//! A request: method, path, query and headers -> what is asked of which resource.

use std::collections::BTreeMap;

use http::request::Parts;
use http::{Method, header};
use serde_json::Value;

use super::calls::Verb;
use super::kinds::{self, Resource};
use super::refusal::Refusal;
use super::store::Store;

/// A request that was read.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) verb: Verb,
    pub(super) query: BTreeMap<String, String>,
    pub(super) target: Target,
    /// `Null` if there is none.
    pub(super) body: Value,
    pub(super) content_type: String,
    /// Whether only metadata is wanted.
    pub(super) metadata_only: bool,
}

/// What a path leads to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// Discovery and the like: the parts of the path.
    Other(Vec<String>),
    /// A resource that is not served: its plural.
    Absent(Place),
    /// A resource that is.
    Resource(Resource, Place),
}

/// Where in a resource. Empty parts were not in the path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

impl Request {
    /// Reads everything but the body, which may take its time.
    pub(super) fn read(parts: &Parts, body: &[u8], store: &Store) -> Result<Self, Refusal> {
        let query: BTreeMap<_, _> =
            form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let path = parts.uri.path();
        let target = match place(path) {
            None => Target::Other(segments(path)),
            Some(place) => match kinds::find(store, &place.group, &place.version, &place.plural) {
                Some(resource) => Target::Resource(resource.clone(), place),
                None => Target::Absent(place),
            },
        };
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let body = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(body) };
        Ok(Self {
            verb: verb(&parts.method, &target, &query),
            query,
            target,
            body: body.map_err(|error| Refusal::bad_request(format!("the object provided is unrecognized: {error}")))?,
            content_type: text(header::CONTENT_TYPE),
            metadata_only: text(header::ACCEPT).contains("as=PartialObjectMetadata"),
        })
    }

    /// A parameter of the query; empty if there is none.
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Whether a parameter says yes.
    pub(super) fn is_set(&self, name: &str) -> bool {
        ["true", "1"].contains(&self.parameter(name))
    }

    /// A parameter that is a number; none if there is no such thing.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.parameter(name).parse().ok()
    }
}

impl Target {
    /// Where it leads, for a path of a resource.
    pub(super) fn place(&self) -> Option<&Place> {
        match self {
            Self::Other(_) => None,
            Self::Absent(place) | Self::Resource(_, place) => Some(place),
        }
    }
}

fn verb(method: &Method, target: &Target, query: &BTreeMap<String, String>) -> Verb {
    let Some(place) = target.place() else { return Verb::Discover };
    let named = !place.name.is_empty();
    let watch = query.get("watch").is_some_and(|watch| ["true", "1"].contains(&watch.as_str()));
    match *method {
        Method::GET if named => Verb::Get,
        Method::GET if watch => Verb::Watch,
        Method::GET => Verb::List,
        Method::POST => Verb::Create,
        Method::PUT if named => Verb::Update,
        Method::PATCH if named => Verb::Patch,
        Method::DELETE if named => Verb::Delete,
        _ => Verb::Other,
    }
}

fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// `/api/v1/..` and `/apis/GROUP/VERSION/..`, with at least a plural behind.
fn place(path: &str) -> Option<Place> {
    let parts = segments(path);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let mut place = Place { group: group.to_owned(), version: version.to_owned(), ..Place::default() };
    let rest = match rest {
        ["namespaces", name, "status" | "finalize"] if group.is_empty() => {
            place.name = (*name).to_owned();
            &["namespaces", name, rest[2]][..]
        }
        ["namespaces", namespace, plural, more @ ..] => {
            place.namespace = (*namespace).to_owned();
            place.plural = (*plural).to_owned();
            place.name = more.first().map_or_else(String::new, |name| (*name).to_owned());
            place.subresource = more.get(1).map_or_else(String::new, |name| (*name).to_owned());
            return (more.len() <= 2).then_some(place);
        }
        rest => rest,
    };
    place.plural = (*rest.first()?).to_owned();
    place.name = rest.get(1).map_or_else(String::new, |name| (*name).to_owned());
    place.subresource = rest.get(2).map_or_else(String::new, |name| (*name).to_owned());
    (rest.len() <= 3).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_places() {
        for (path, expected) in [
            ("/api/v1/namespaces", Some(["", "v1", "namespaces", "", "", ""])),
            ("/api/v1/namespaces/shop", Some(["", "v1", "namespaces", "", "shop", ""])),
            ("/api/v1/namespaces/shop/status", Some(["", "v1", "namespaces", "", "shop", "status"])),
            ("/api/v1/namespaces/shop/services", Some(["", "v1", "services", "shop", "", ""])),
            ("/api/v1/services", Some(["", "v1", "services", "", "", ""])),
            (
                "/apis/apps/v1/namespaces/shop/deployments/edge/status",
                Some(["apps", "v1", "deployments", "shop", "edge", "status"]),
            ),
            ("/apis/g.io/v1/classes/edge/status", Some(["g.io", "v1", "classes", "", "edge", "status"])),
            ("/apis/apps/v1", None),
            ("/apis", None),
            ("/version", None),
        ] {
            let found = place(path).map(|place| {
                let Place { group, version, plural, namespace, name, subresource } = place;
                [group, version, plural, namespace, name, subresource]
            });
            assert_eq!(found, expected.map(|parts| parts.map(str::to_owned)), "{path}");
        }
    }
}
