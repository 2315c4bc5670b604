//! Objects of the core kinds: what Isthmus reads of them is defaulted and checked; the rest has to have the types that Kubernetes gives it.

mod config_map;
mod endpoint_slice;
mod pod;
mod secret;
mod service;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Map, Value, json};

use crate::metadata::{self, Naming};
use crate::path::Path;
use crate::{Finding, typed};

/// The core kinds that Isthmus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Namespace,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    Pod,
}

impl Kind {
    /// The kind of an object with this `apiVersion` and `kind`.
    pub(crate) fn find(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("v1", "Namespace") => Some(Self::Namespace),
            ("v1", "Service") => Some(Self::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => Some(Self::EndpointSlice),
            ("v1", "Secret") => Some(Self::Secret),
            ("v1", "ConfigMap") => Some(Self::ConfigMap),
            ("v1", "Pod") => Some(Self::Pod),
            _ => None,
        }
    }
}

/// Completes the object in place; says what is wrong with it.
pub(crate) fn admit(object: &mut Map<String, Value>, kind: Kind, warnings: &mut Vec<Finding>) -> Vec<Finding> {
    let mut findings = Vec::new();
    object.retain(|_, value| !value.is_null());
    if kind != Kind::Pod {
        object.remove("status");
    }
    let (namespaced, naming) = match kind {
        Kind::Namespace => (false, Naming::Label),
        Kind::Service => (true, Naming::Label1035),
        Kind::EndpointSlice | Kind::Secret | Kind::ConfigMap | Kind::Pod => (true, Naming::Subdomain),
    };
    metadata::admit(object, namespaced, naming, &mut findings, warnings);
    // Fields of other types than the kind's would only make the rest guess; metadata was read already.
    let metadata = object.remove("metadata");
    let read = read(object, kind, warnings);
    object.extend(metadata.map(|metadata| ("metadata".to_owned(), metadata)));
    if let Err(fault) = read {
        findings.push(if kind == Kind::Secret { secret::explain(fault) } else { fault });
        return findings;
    }
    match kind {
        Kind::Namespace => label(object),
        Kind::Service => service::admit(object, &mut findings),
        Kind::EndpointSlice => endpoint_slice::admit(object, &mut findings),
        Kind::Secret => secret::admit(object, &mut findings),
        Kind::ConfigMap => config_map::admit(object, &mut findings),
        Kind::Pod => pod::admit(object, &mut findings),
    }
    findings
}

fn read(object: &mut Map<String, Value>, kind: Kind, warnings: &mut Vec<Finding>) -> Result<(), Finding> {
    let mut value = Value::Object(std::mem::take(object));
    // The types want a `metadata`; the real one was read before.
    value["metadata"] = json!({});
    let read = match kind {
        Kind::Namespace => typed::check::<Namespace>(&value, "", warnings),
        Kind::Service => typed::check::<Service>(&value, "", warnings),
        Kind::EndpointSlice => typed::check::<EndpointSlice>(&value, "", warnings),
        Kind::Secret => typed::check::<Secret>(&value, "", warnings),
        Kind::ConfigMap => typed::check::<ConfigMap>(&value, "", warnings),
        Kind::Pod => typed::check::<Pod>(&value, "", warnings),
    };
    if let Value::Object(value) = value {
        *object = value;
    }
    object.remove("metadata");
    read
}

/// Every Namespace carries its name as a label, so that selectors can name it.
fn label(namespace: &mut Map<String, Value>) {
    let Some(Value::Object(metadata)) = namespace.get_mut("metadata") else { return };
    let Some(name) = metadata.get("name").cloned() else { return };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Value::Object(labels) = labels {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}

/// The entries of the list `field`, as far as they are mappings.
fn entries<'a>(object: &'a mut Map<String, Value>, field: &str) -> impl Iterator<Item = (usize, &'a mut Map<String, Value>)> {
    let items = object.get_mut(field).and_then(Value::as_array_mut);
    items.into_iter().flatten().enumerate().filter_map(|(index, item)| Some((index, item.as_object_mut()?)))
}

fn default_to(object: &mut Map<String, Value>, field: &str, value: impl FnOnce() -> Value) {
    if object.get(field).is_none_or(Value::is_null) {
        object.insert(field.to_owned(), value());
    }
}

/// Says if the number in `field` is no port.
fn check_port(object: &Map<String, Value>, field: &str, path: &Path<'_>, findings: &mut Vec<Finding>) {
    if let Some(port) = object.get(field)
        && port.is_number()
        && !port.as_i64().is_some_and(|port| (1..=65_535).contains(&port))
    {
        findings.push(path.field(field).invalid(port, "must be between 1 and 65535, inclusive"));
    }
}

/// Says if `field` is none of the texts that are supported.
fn check_one_of(object: &Map<String, Value>, field: &str, supported: &[&str], path: &Path<'_>, findings: &mut Vec<Finding>) {
    if let Some(value) = object.get(field)
        && !value.as_str().is_some_and(|text| supported.contains(&text))
    {
        let supported: Vec<Value> = supported.iter().map(|text| json!(text)).collect();
        findings.push(path.field(field).unsupported(value, supported.iter()));
    }
}

#[cfg(test)]
mod tests;
