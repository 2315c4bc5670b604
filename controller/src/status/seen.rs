//! The statuses that objects have, as last seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use isthmus_api::{Kind, ObjectRef};
use serde_json::Value;
use tokio::sync::Notify;

/// The status of each object of a kind that has one of ours, as the API server gave it: with everything that others wrote there,
/// which the generated types may not know. The watch and the answers to our own writes fill it; the writer reads it.
#[derive(Debug, Default)]
pub struct Seen {
    inner: Mutex<Inner>,
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    statuses: BTreeMap<ObjectRef, SeenStatus>,
    dirty: BTreeSet<ObjectRef>,
}

/// The status of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenStatus {
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) resource_version: String,
    /// JSON; as text it takes a fraction of the memory.
    pub(super) text: Box<str>,
}

impl SeenStatus {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

impl Seen {
    /// Whether objects of this kind have a status of ours.
    pub(crate) fn has(kind: Kind) -> bool {
        matches!(
            kind,
            Kind::GatewayClass
                | Kind::Gateway
                | Kind::ListenerSet
                | Kind::HttpRoute
                | Kind::GrpcRoute
                | Kind::TlsRoute
                | Kind::TcpRoute
                | Kind::UdpRoute
                | Kind::BackendTlsPolicy
                | Kind::XMesh
        )
    }

    /// Takes note of an object's metadata and status. What is older than what was seen is ignored, unless `right`: then it
    /// counts whatever was seen.
    pub(crate) fn observe(&self, object: &ObjectRef, whole: &Value, status: &Value, right: bool) {
        let text = |pointer: &str| whole.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let new = SeenStatus {
            uid: text("/metadata/uid").to_owned(),
            generation: whole.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
            resource_version: text("/metadata/resourceVersion").to_owned(),
            text: status.to_string().into(),
        };
        let mut inner = self.lock();
        let old = inner.statuses.get(object);
        if !right && old.is_some_and(|old| is_older(&new.resource_version, &old.resource_version)) {
            return;
        }
        let is_dirty = old.is_none_or(|old| old.uid != new.uid || old.generation != new.generation || old.text != new.text);
        inner.statuses.insert(object.clone(), new);
        if is_dirty {
            inner.dirty.insert(object.clone());
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// The object was deleted, by a write of this version if that is known.
    pub(crate) fn forget(&self, object: &ObjectRef, version: Option<u64>) {
        let mut inner = self.lock();
        let newer =
            |seen: &SeenStatus| version.zip(seen.resource_version.parse::<u64>().ok()).is_some_and(|(gone, seen)| seen > gone);
        if !inner.statuses.get(object).is_some_and(newer) {
            inner.statuses.remove(object);
            inner.dirty.remove(object);
        }
    }

    pub(super) fn get(&self, object: &ObjectRef) -> Option<SeenStatus> {
        self.lock().statuses.get(object).cloned()
    }

    /// Objects whose status is not what it was when this was asked before.
    pub(super) fn take_dirty(&self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut self.lock().dirty)
    }

    /// Every object.
    pub(super) fn all(&self) -> Vec<ObjectRef> {
        self.lock().statuses.keys().cloned().collect()
    }

    /// Whether the status of an object has this text in it.
    #[cfg(test)]
    pub(crate) fn has_seen(&self, object: &ObjectRef, text: &str) -> bool {
        self.get(object).is_some_and(|seen| seen.text.contains(text))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_older(new: &str, old: &str) -> bool {
    matches!((new.parse::<u64>(), old.parse::<u64>()), (Ok(new), Ok(old)) if new < old)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_counts_and_changes_are_dirty() {
        let object = ObjectRef { kind: Kind::HttpRoute, namespace: Some("shop".to_owned()), name: "r".to_owned() };
        let seen = Seen::default();
        for (version, status, right, expected, dirty) in [
            ("5", json!({"parents": []}), false, "5", true),
            ("6", json!({"parents": []}), false, "6", false),
            ("4", json!({"parents": [1]}), false, "6", false),
            ("7", json!({"parents": [1]}), false, "7", true),
            ("3", json!({"parents": [2]}), true, "3", true),
        ] {
            let whole = json!({"metadata": {"uid": "u", "generation": 1, "resourceVersion": version}});
            seen.observe(&object, &whole, &status, right);
            assert_eq!(seen.get(&object).unwrap().resource_version, expected);
            assert_eq!(!seen.take_dirty().is_empty(), dirty, "{version}");
        }
        seen.forget(&object, Some(2));
        assert!(seen.get(&object).is_some(), "a newer one of the name is there");
        seen.forget(&object, Some(9));
        assert!(seen.get(&object).is_none() && seen.all().is_empty());
    }
}
