//! Objects as the API server has them.

use isthmus_api::NamespacedName;
use kube::api::DynamicObject;
use serde_json::Value;

use super::{FIELD_MANAGER, names};

/// One of the objects of a Gateway, as it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Live {
    /// All of it but `managedFields`.
    pub(super) body: Value,
    pub(super) name: NamespacedName,
    /// A Deployment's `spec.replicas`, if it is there because we applied it.
    pub(super) own_replicas: Option<i64>,
}

/// Who controls an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner<'l> {
    pub(super) kind: &'l str,
    pub(super) name: &'l str,
    pub(super) uid: &'l str,
}

impl Live {
    pub(super) fn read(mut object: DynamicObject) -> Self {
        let managed = object.metadata.managed_fields.take();
        let applied = managed
            .into_iter()
            .flatten()
            .filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply"));
        let owns_replicas =
            applied.filter_map(|entry| entry.fields_v1).any(|fields| fields.0.pointer("/f:spec/f:replicas").is_some());
        let name = NamespacedName::of(&object.metadata);
        let body = serde_json::to_value(object).unwrap_or_default();
        let own_replicas = body.pointer("/spec/replicas").and_then(Value::as_i64).filter(|_| owns_replicas);
        Self { body, name, own_replicas }
    }

    pub(super) fn uid(&self) -> &str {
        self.text("/metadata/uid")
    }

    /// When it was made, in seconds since 1970.
    pub(super) fn created(&self) -> Option<i64> {
        self.text("/metadata/creationTimestamp").parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
    }

    pub(super) fn resource_version(&self) -> &str {
        self.text("/metadata/resourceVersion")
    }

    /// Whether it is being deleted.
    pub(super) fn is_leaving(&self) -> bool {
        self.body.pointer("/metadata/deletionTimestamp").is_some()
    }

    /// Whether its label says that it is ours.
    pub(super) fn is_managed(&self) -> bool {
        self.label(names::MANAGED_BY.0) == Some(names::MANAGED_BY.1)
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.body.pointer("/metadata/labels")?.get(key)?.as_str()
    }

    /// Its controlling owner.
    pub(super) fn owner(&self) -> Option<Owner<'_>> {
        let owners = self.body.pointer("/metadata/ownerReferences")?.as_array()?;
        let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
        let text = |field| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        Some(Owner { kind: text("kind"), name: text("name"), uid: text("uid") })
    }

    /// Whether this was read after `other`, of the same object. Versions that are no numbers cannot be compared: then the last one that
    /// came is the newest.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        let version = |live: &Self| live.resource_version().parse::<u128>();
        match (version(self), version(other)) {
            (Ok(this), Ok(other)) => this >= other,
            _ => true,
        }
    }

    fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}
