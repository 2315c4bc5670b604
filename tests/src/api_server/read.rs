//! Reads: one object, a page of a list, and the form that either is shown in.

use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::Resource;
use super::refusal::Refusal;
use super::request::{Place, Request};
use super::selector::Selector;
use super::store::{Key, Store};

/// How a client wants to see objects.
#[derive(Debug, Clone)]
pub(super) struct Form {
    resource: Resource,
    api_version: String,
    metadata_only: bool,
}

const PARTIAL: &str = "meta.k8s.io/v1";

impl Form {
    pub(super) fn new(resource: &Resource, version: &str, metadata_only: bool) -> Self {
        Self { resource: resource.clone(), api_version: resource.api_version(version), metadata_only }
    }

    /// An object in this form.
    pub(super) fn show(&self, object: &Value) -> Value {
        if self.metadata_only {
            return json!({"kind": "PartialObjectMetadata", "apiVersion": PARTIAL, "metadata": object["metadata"]});
        }
        let mut object = object.clone();
        object["apiVersion"] = json!(self.api_version);
        object["kind"] = json!(self.resource.kind);
        object
    }

    /// A bookmark at a version.
    pub(super) fn bookmark(&self, version: u64, ends_list: bool) -> Value {
        let (kind, api_version) = if self.metadata_only {
            ("PartialObjectMetadata", PARTIAL)
        } else {
            (self.resource.kind.as_str(), &*self.api_version)
        };
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if ends_list {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
    }

    fn list(&self, items: &[Arc<Value>], metadata: &Value) -> Value {
        let show = |object: &Arc<Value>| {
            let mut object = self.show(object);
            // Lists of the built-in kinds do not repeat what their items are.
            if !self.resource.custom
                && !self.metadata_only
                && let Value::Object(object) = &mut object
            {
                object.remove("apiVersion");
                object.remove("kind");
            }
            object
        };
        let items: Vec<Value> = items.iter().map(show).collect();
        let (kind, api_version) = if self.metadata_only {
            ("PartialObjectMetadataList".to_owned(), PARTIAL)
        } else {
            (format!("{}List", self.resource.kind), &*self.api_version)
        };
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items})
    }
}

/// GET of one object, now or as it was at a version.
pub(super) fn get(store: &Store, resource: &Resource, place: &Place, form: &Form, at: Option<u64>) -> Result<Value, Refusal> {
    let key = resource.key(&place.namespace, &place.name);
    let object = store.get_at(&key, at).ok_or_else(|| Refusal::not_found(resource, &place.name))?;
    Ok(form.show(&object))
}

/// GET of a page of a list. `at` is the newest version that may be seen.
pub(super) fn list(
    store: &Store,
    request: &Request,
    resource: &Resource,
    place: &Place,
    form: &Form,
    at: Option<u64>,
) -> Result<Value, Refusal> {
    let selector = selector(request, resource, place)?;
    let newest = at.unwrap_or_else(|| store.version());
    let start = Token::read(request.parameter("continue"))?;
    let asked = request.number("resourceVersion").unwrap_or(0);
    let exact = request.parameter("resourceVersionMatch") == "Exact";
    if asked > newest {
        return Err(Refusal::too_large_version(asked, newest));
    }
    let version = start.as_ref().map_or(if exact { asked } else { newest }, |token| token.version);
    if (start.is_some() || exact) && version < store.compacted() {
        return Err(Refusal::gone());
    }
    let all = store.list(&resource.group, &resource.plural, Some(version));
    let selected: Vec<_> = all.into_iter().filter(|(_, object)| selector.matches(object)).collect();
    let rest = match &start {
        Some(token) => selected.into_iter().filter(|(key, _)| token.is_before(key)).collect(),
        None => selected,
    };
    let limit = request.number("limit").and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let page = &rest[..limit.unwrap_or(rest.len()).min(rest.len())];
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some((last, _)) = page.last()
        && page.len() < rest.len()
    {
        metadata["continue"] = json!(Token { version, namespace: last.namespace.clone(), name: last.name.clone() }.text());
        metadata["remainingItemCount"] = json!(rest.len() - page.len());
    }
    let items: Vec<_> = page.iter().map(|(_, object)| Arc::clone(object)).collect();
    Ok(form.list(&items, &metadata))
}

/// Which objects a list or watch is about.
pub(super) fn selector(request: &Request, resource: &Resource, place: &Place) -> Result<Selector, Refusal> {
    let namespace = (resource.namespaced && !place.namespace.is_empty()).then(|| place.namespace.clone());
    Selector::parse(namespace, request.parameter("labelSelector"), request.parameter("fieldSelector"), &resource.plural)
}

/// Where the next page begins: after this object, at this version.
struct Token {
    version: u64,
    namespace: String,
    name: String,
}

impl Token {
    fn read(text: &str) -> Result<Option<Self>, Refusal> {
        if text.is_empty() {
            return Ok(None);
        }
        let mut parts = text.splitn(3, '/');
        let token = (|| {
            let version = parts.next()?.parse().ok()?;
            Some(Self { version, namespace: parts.next()?.to_owned(), name: parts.next()?.to_owned() })
        })();
        token.map(Some).ok_or_else(|| Refusal::bad_request("continue key is not valid"))
    }

    fn text(&self) -> String {
        format!("{}/{}/{}", self.version, self.namespace, self.name)
    }

    fn is_before(&self, key: &Key) -> bool {
        (self.namespace.as_str(), self.name.as_str()) < (key.namespace.as_str(), key.name.as_str())
    }
}
