//! The objects and how they came to be: one counter of versions, the present state, and every event since the beginning.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::kinds::{self, CRD_GROUP, CRD_PLURAL, Resource};
use super::review::Tokens;

/// Where an object lives. The order is that of pages of a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) group: String,
    pub(super) plural: String,
    /// Empty for cluster-scoped objects.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    /// Whether it is of this resource.
    pub(super) fn is_of(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }
}

/// What was applied, by field manager and sub-resource.
pub(super) type Applied = BTreeMap<(String, String), Value>;

#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) object: Arc<Value>,
    pub(super) applied: Applied,
}

/// One write that had an effect.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) key: Key,
    /// After the write; for a removal what was there last, with the version of the removal.
    pub(super) object: Arc<Value>,
    /// Before the write.
    pub(super) previous: Option<Arc<Value>>,
    pub(super) removed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    objects: BTreeMap<Key, Stored>,
    history: Vec<Event>,
    version: u64,
    /// Versions below it are gone: watches and pages from there are answered with 410.
    compacted: u64,
    uids: u64,
    /// What is served, worked out when it is first asked after a change of the CRDs.
    served: OnceLock<Vec<Resource>>,
    pub(super) tokens: Tokens,
}

impl Store {
    /// The `resourceVersion` of the last write.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Forgets what was before now, as etcd does after five minutes.
    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
    }

    /// A `uid` that no object had yet.
    pub(super) fn new_uid(&mut self) -> String {
        self.uids += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.uids)
    }

    /// The resources that are served at this moment.
    pub(super) fn served(&self) -> &[Resource] {
        let crds = || self.objects.iter().filter(|(key, _)| key.is_of(CRD_GROUP, CRD_PLURAL)).map(|(_, stored)| &*stored.object);
        self.served.get_or_init(|| kinds::served(crds()))
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Stored> {
        self.objects.get(key)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Stored)> {
        self.objects.iter()
    }

    /// An object as it was after the write `at`, or as it is now.
    pub(super) fn get_at(&self, key: &Key, at: Option<u64>) -> Option<Arc<Value>> {
        let Some(at) = at else { return self.objects.get(key).map(|stored| Arc::clone(&stored.object)) };
        let last = self.history.iter().rev().find(|event| event.version <= at && event.key == *key)?;
        (!last.removed).then(|| Arc::clone(&last.object))
    }

    /// The objects of a resource in the order of their keys, as they were after the write `at`, or as they are now.
    pub(super) fn list(&self, group: &str, plural: &str, at: Option<u64>) -> Vec<(Key, Arc<Value>)> {
        let Some(at) = at.filter(|at| *at < self.version) else {
            let present = self.objects.iter().filter(|(key, _)| key.is_of(group, plural));
            return present.map(|(key, stored)| (key.clone(), Arc::clone(&stored.object))).collect();
        };
        let mut state = BTreeMap::new();
        for event in self.history.iter().take_while(|event| event.version <= at).filter(|event| event.key.is_of(group, plural)) {
            if event.removed {
                state.remove(&event.key);
            } else {
                state.insert(event.key.clone(), Arc::clone(&event.object));
            }
        }
        state.into_iter().collect()
    }

    /// The events after `version`, the oldest first.
    pub(super) fn since(&self, version: u64) -> &[Event] {
        &self.history[self.history.partition_point(|event| event.version <= version)..]
    }

    /// Stores an object under a new version and returns it as stored.
    pub(super) fn put(&mut self, key: Key, object: Value, applied: Applied) -> Arc<Value> {
        let object = Arc::new(self.stamped(object));
        let previous = self.objects.insert(key.clone(), Stored { object: Arc::clone(&object), applied });
        self.record(key, Arc::clone(&object), previous, false);
        object
    }

    /// Notes what was applied without a change of the object.
    pub(super) fn own(&mut self, key: &Key, applied: Applied) {
        if let Some(stored) = self.objects.get_mut(key) {
            stored.applied = applied;
        }
    }

    /// Removes an object and returns what was there.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let stored = self.objects.remove(key)?;
        let object = Arc::new(self.stamped((*stored.object).clone()));
        self.record(key.clone(), Arc::clone(&object), Some(stored), true);
        Some(object)
    }

    fn stamped(&mut self, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object
    }

    fn record(&mut self, key: Key, object: Arc<Value>, previous: Option<Stored>, removed: bool) {
        if key.is_of(CRD_GROUP, CRD_PLURAL) {
            self.served.take();
        }
        let previous = previous.map(|stored| stored.object);
        self.history.push(Event { version: self.version, key, object, previous, removed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { group: String::new(), plural: "services".to_owned(), namespace: "shop".to_owned(), name: name.to_owned() }
    }

    fn names(store: &Store, at: Option<u64>) -> Vec<String> {
        store.list("", "services", at).into_iter().map(|(key, _)| key.name).collect()
    }

    #[test]
    fn the_past_can_be_read() {
        let mut store = Store::default();
        store.put(key("b"), json!({"metadata": {}, "step": 1}), Applied::new());
        store.put(key("a"), json!({"metadata": {}}), Applied::new());
        store.put(key("b"), json!({"metadata": {}, "step": 2}), Applied::new());
        store.remove(&key("a"));
        assert_eq!(names(&store, None), ["b"]);
        assert_eq!(names(&store, Some(0)), [""; 0]);
        assert_eq!(names(&store, Some(1)), ["b"]);
        assert_eq!(names(&store, Some(3)), ["a", "b"]);
        assert_eq!(names(&store, Some(4)), ["b"]);
        assert_eq!(store.get_at(&key("b"), Some(2)).unwrap()["step"], 1);
        assert_eq!(store.get_at(&key("b"), Some(3)).unwrap()["step"], 2);
        assert_eq!(store.get_at(&key("a"), Some(4)), None);
        let versions: Vec<_> = store.since(2).iter().map(|event| (event.version, event.removed)).collect();
        assert_eq!(versions, [(3, false), (4, true)]);
        assert_eq!(store.since(2)[1].object["metadata"]["resourceVersion"], "4");
    }
}
