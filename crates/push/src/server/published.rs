//! What proxies are to hold: Gateway by Gateway, and of the mesh.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use isthmus_routing::snapshot::{Changes, Lacking, ModelVersion, Models};
use isthmus_routing::{GatewayKey, Snapshot, Version};

use super::parts::{Common, Parts};
use super::{Publication, Versions};

/// Every Gateway's snapshot, and the mesh.
#[derive(Debug, Clone)]
pub(super) struct Published {
    gateways: Arc<BTreeMap<GatewayKey, Arc<Entry>>>,
    mesh: Option<Arc<Parts>>,
    /// The number of the newest mesh, whether it is still there or not.
    last: u64,
}

/// How a publication is called towards whoever has published it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edition {
    /// The version of a Gateway's snapshot.
    Gateway(Version),
    /// The number of a mesh.
    Mesh(u64),
}

/// A Gateway's snapshot in every model version that a connected proxy reads.
#[derive(Debug)]
pub(super) struct Entry {
    newest: Sendable,
    /// Made when a proxy needs it.
    older: Mutex<BTreeMap<ModelVersion, Sendable>>,
}

/// What a proxy is to hold, for readers of its model version.
#[derive(Debug, Clone)]
pub(super) struct Sendable {
    /// What it has in common with all sidecars, if it is one.
    pub(super) common: Option<Arc<Common>>,
    /// The rest.
    pub(super) part: Arc<Part>,
    /// Of what was published.
    pub(super) edition: Edition,
}

/// What a proxy holds that not all do.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) snapshot: Arc<Snapshot>,
    version: OnceLock<Version>,
    /// Rules that the readers cannot run.
    pub(super) lacking: Lacking,
}

impl Published {
    /// Takes over from `before` whatever is unchanged.
    pub(super) fn new(publication: Publication, before: Option<&Self>) -> Self {
        let entry = |(key, snapshot): (GatewayKey, Arc<Snapshot>)| {
            let same = |entry: &&Arc<Entry>| entry.is_of(&snapshot);
            let kept = before.and_then(|before| before.gateways.get(&key)).filter(same).cloned();
            (key, kept.unwrap_or_else(|| Arc::new(Entry::new(snapshot))))
        };
        let gateways = Arc::new(publication.gateways.into_iter().map(entry).collect());
        let last = before.map_or(0, |before| before.last);
        let mesh_before = before.and_then(|before| before.mesh.as_ref());
        let mesh = publication.mesh.map(|mesh| match mesh_before {
            Some(same) if same.is_of(&mesh) => same.clone(),
            before => Arc::new(Parts::new(mesh, last + 1, before.map(|before| &**before))),
        });
        let last = mesh.as_ref().map_or(last, |mesh| mesh.number());
        Self { gateways, mesh, last }
    }

    pub(super) fn gateway(&self, gateway: &GatewayKey) -> Option<&Arc<Entry>> {
        self.gateways.get(gateway)
    }

    pub(super) fn mesh(&self) -> Option<&Arc<Parts>> {
        self.mesh.as_ref()
    }

    pub(super) fn versions(&self) -> Versions {
        let gateways = self.gateways.iter().map(|(key, entry)| (key.clone(), entry.newest.version())).collect();
        Versions { gateways, mesh: self.last }
    }

    /// Whether every entry is the other's, by pointer.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |key, entry| other.gateways.get(key).is_some_and(|other| Arc::ptr_eq(entry, other));
        let same_mesh = match (&self.mesh, &other.mesh) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same_mesh && self.gateways.len() == other.gateways.len() && self.gateways.iter().all(|(key, entry)| same(key, entry))
    }
}

impl Entry {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        let part = Part::new(snapshot, Lacking::new());
        let edition = Edition::Gateway(part.version());
        Self { newest: Sendable { common: None, part: Arc::new(part), edition }, older: Mutex::default() }
    }

    fn is_of(&self, snapshot: &Arc<Snapshot>) -> bool {
        let own = &self.newest.part.snapshot;
        Arc::ptr_eq(own, snapshot) || own == snapshot
    }

    /// The snapshot as a reader of `model` can read it. Blocks for as long as hashing takes, the first time that a model is asked for.
    pub(super) fn for_model(&self, model: ModelVersion, models: &Models) -> Sendable {
        if model >= models.newest {
            return self.newest.clone();
        }
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let (snapshot, lacking) = self.newest.part.snapshot.for_model(model, models);
            if lacking.is_empty() {
                return self.newest.clone();
            }
            let part = Part::new(Arc::new(snapshot), lacking);
            part.version();
            Sendable { part: Arc::new(part), ..self.newest.clone() }
        };
        older.entry(model).or_insert_with(make).clone()
    }
}

impl Part {
    pub(super) fn new(snapshot: Arc<Snapshot>, lacking: Lacking) -> Self {
        Self { snapshot, version: OnceLock::new(), lacking }
    }

    /// Hashes the snapshot the first time.
    pub(super) fn version(&self) -> Version {
        *self.version.get_or_init(|| self.snapshot.version())
    }
}

impl Sendable {
    /// A hash of all its content. Of a sidecar's it is not [`Snapshot::version`], so that what all have in common is hashed once.
    pub(super) fn version(&self) -> Version {
        match &self.common {
            Some(common) => common.version_with(self.part.version()),
            None => self.part.version(),
        }
    }

    /// Whether both are the same by name and by pointer.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.edition == other.edition && Arc::ptr_eq(&self.part, &other.part)
    }

    /// What has to be done to `sent`, or to nothing, so that it becomes this.
    pub(super) fn changes(&self, sent: Option<&Self>) -> Changes {
        let mut changes = match sent {
            Some(sent) if Arc::ptr_eq(&self.part, &sent.part) => Changes::default(),
            Some(sent) => self.part.snapshot.changes(&sent.part.snapshot),
            None => self.part.snapshot.changes(&Snapshot::default()),
        };
        if let Some(common) = &self.common {
            let all = common.changes(sent.and_then(|sent| sent.common.as_ref()));
            changes.puts.extend(all.puts);
            changes.removes.extend(all.removes);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::MeshPublication;
    use crate::tests::{edge, future, snapshot};

    fn publish(snapshot: &Snapshot, before: Option<&Published>) -> Published {
        let gateways = [(edge(), Arc::new(snapshot.clone()))].into();
        Published::new(Publication { gateways, mesh: None }, before)
    }

    #[test]
    fn what_is_equal_is_kept() {
        let first = publish(&snapshot(1), None);
        let second = publish(&snapshot(1), Some(&first));
        assert!(first.is_same(&second));
        let third = publish(&snapshot(2), Some(&second));
        assert!(!third.is_same(&second) && third.versions() != second.versions());
        assert!(!Published::new(Publication::default(), Some(&third)).is_same(&third));
    }

    #[test]
    fn a_mesh_has_a_number_that_grows_with_each_other_one() {
        let mesh = |n: u16| MeshPublication { snapshot: Arc::new(snapshot(n)), ..MeshPublication::default() };
        let strict = MeshPublication { inbound: [(("a".to_owned(), "b".to_owned()), Arc::default())].into(), ..mesh(2) };
        let mut published = Published::new(Publication::default(), None);
        assert_eq!(published.versions().mesh, 0);
        for (mesh, number) in [
            (Some(mesh(1)), 1),
            (Some(mesh(1)), 1),
            (Some(mesh(2)), 2),
            (Some(strict.clone()), 3),
            (Some(strict), 3),
            (None, 3),
            (Some(mesh(2)), 4),
        ] {
            let next = Published::new(Publication { mesh, ..Publication::default() }, Some(&published));
            assert_eq!(next.versions().mesh, number);
            assert_eq!(next.is_same(&published), next.mesh.is_some() && next.last == published.last);
            published = next;
        }
    }

    #[test]
    fn an_older_reader_gets_what_it_can_read_under_a_version_of_its_own() {
        let published = publish(&snapshot(1), None);
        let entry = published.gateway(&edge()).unwrap();
        let newest = entry.for_model(ModelVersion(2), &future());
        let older = entry.for_model(ModelVersion(1), &future());
        assert!(newest.edition == Edition::Gateway(newest.version()) && newest.part.lacking.is_empty());
        assert_eq!(older.edition, newest.edition);
        assert_eq!(older.version(), older.part.snapshot.version());
        assert!(older.version() != newest.version() && older.part.lacking.len() == 1, "{:?}", older.part.lacking);
        assert!(older.is(&entry.for_model(ModelVersion(1), &future())), "it is made once");
        let today = entry.for_model(ModelVersion(1), &Models::default());
        assert!(today.is(&newest));
    }
}
