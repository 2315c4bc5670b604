//! What proxies are to hold, Gateway by Gateway.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use isthmus_routing::snapshot::{Lacking, ModelVersion, Models};
use isthmus_routing::{GatewayKey, Snapshot, Version};

/// Every Gateway's snapshot.
#[derive(Debug, Clone)]
pub(super) struct Published(Arc<BTreeMap<GatewayKey, Arc<Entry>>>);

/// A Gateway's snapshot in every model version that a connected proxy reads.
#[derive(Debug)]
pub(super) struct Entry {
    newest: Arc<Sendable>,
    /// Made when a proxy needs it.
    older: Mutex<BTreeMap<ModelVersion, Arc<Sendable>>>,
}

/// A snapshot for readers of one model version.
#[derive(Debug)]
pub(super) struct Sendable {
    pub(super) snapshot: Arc<Snapshot>,
    /// Of this snapshot.
    pub(super) version: Version,
    /// Of the snapshot that was published.
    pub(super) published: Version,
    /// Rules that the readers cannot run.
    pub(super) lacking: Lacking,
}

impl Published {
    /// Takes over from `before` whatever is unchanged.
    pub(super) fn new(snapshots: BTreeMap<GatewayKey, Arc<Snapshot>>, before: Option<&Self>) -> Self {
        let entry = |(key, snapshot): (GatewayKey, Arc<Snapshot>)| {
            let same = |entry: &&Arc<Entry>| Arc::ptr_eq(&entry.newest.snapshot, &snapshot) || entry.newest.snapshot == snapshot;
            let kept = before.and_then(|before| before.0.get(&key)).filter(same).cloned();
            (key, kept.unwrap_or_else(|| Arc::new(Entry::new(snapshot))))
        };
        Self(Arc::new(snapshots.into_iter().map(entry).collect()))
    }

    pub(super) fn get(&self, gateway: &GatewayKey) -> Option<&Arc<Entry>> {
        self.0.get(gateway)
    }

    pub(super) fn versions(&self) -> BTreeMap<GatewayKey, Version> {
        self.0.iter().map(|(key, entry)| (key.clone(), entry.newest.version)).collect()
    }

    /// Whether every entry is the other's, by pointer.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |key, entry| other.0.get(key).is_some_and(|other| Arc::ptr_eq(entry, other));
        self.0.len() == other.0.len() && self.0.iter().all(|(key, entry)| same(key, entry))
    }
}

impl Entry {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        let version = snapshot.version();
        let newest = Arc::new(Sendable { snapshot, version, published: version, lacking: Lacking::new() });
        Self { newest, older: Mutex::default() }
    }

    /// The snapshot as a reader of `model` can read it. Blocks for as long as hashing takes, the first time that a model is asked for.
    pub(super) fn for_model(&self, model: ModelVersion, models: &Models) -> Arc<Sendable> {
        if model >= models.newest {
            return self.newest.clone();
        }
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let (snapshot, lacking) = self.newest.snapshot.for_model(model, models);
            if lacking.is_empty() {
                return self.newest.clone();
            }
            let version = snapshot.version();
            Arc::new(Sendable { snapshot: Arc::new(snapshot), version, published: self.newest.published, lacking })
        };
        older.entry(model).or_insert_with(make).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{edge, future, snapshot};

    fn publish(snapshot: &Snapshot, before: Option<&Published>) -> Published {
        Published::new([(edge(), Arc::new(snapshot.clone()))].into(), before)
    }

    #[test]
    fn what_is_equal_is_kept() {
        let first = publish(&snapshot(1), None);
        let second = publish(&snapshot(1), Some(&first));
        assert!(first.is_same(&second));
        let third = publish(&snapshot(2), Some(&second));
        assert!(!third.is_same(&second) && third.versions() != second.versions());
        assert!(!Published::new(BTreeMap::new(), Some(&third)).is_same(&third));
    }

    #[test]
    fn an_older_reader_gets_what_it_can_read_under_a_version_of_its_own() {
        let published = publish(&snapshot(1), None);
        let entry = published.get(&edge()).unwrap();
        let newest = entry.for_model(ModelVersion(2), &future());
        let older = entry.for_model(ModelVersion(1), &future());
        assert!(newest.version == newest.published && newest.lacking.is_empty());
        assert_eq!(older.published, newest.version);
        assert_eq!(older.version, older.snapshot.version());
        assert!(older.version != newest.version && older.lacking.len() == 1, "{:?}", older.lacking);
        assert!(Arc::ptr_eq(&older, &entry.for_model(ModelVersion(1), &future())), "it is made once");
        let today = entry.for_model(ModelVersion(1), &Models::default());
        assert!(Arc::ptr_eq(&today, &newest));
    }
}
