//! The parts of a mesh: what all sidecars hold is there once, and the rest is made for those who ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use isthmus_routing::snapshot::{Changes, Lacking, ModelVersion, Models};
use isthmus_routing::{BackendKey, Inbound, Snapshot, Version};
use sha2::{Digest, Sha256};

use super::MeshPublication;
use super::published::{Edition, Part, Sendable};

/// Subscriptions whose parts are remembered at most: more than there are streams.
const MOST: usize = 8192;

/// A mesh.
#[derive(Debug)]
pub(super) struct Parts {
    number: u64,
    published: MeshPublication,
    common: Arc<Common>,
    /// What is not in `common` and may be in a part. What is equal in the mesh before is the same by pointer, so that comparing parts is quick.
    rest: Snapshot,
    /// The parts that somebody holds, by the name of who sees what.
    made: Mutex<BTreeMap<[u8; 32], Vec<Made>>>,
}

/// What every sidecar holds.
#[derive(Debug)]
pub(super) struct Common {
    snapshot: Snapshot,
    version: Version,
    /// What has changed since another one, which most sidecars hold.
    since: Option<(Version, Changes)>,
}

#[derive(Debug)]
struct Made {
    model: ModelVersion,
    inbound: Arc<Inbound>,
    part: Weak<Part>,
}

/// What a sidecar subscribes to.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    pub(super) services: Arc<BTreeSet<BackendKey>>,
    /// A hash of these and of the namespace from which they are called.
    name: [u8; 32],
}

/// Whose part it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'o> {
    pub(super) namespace: &'o str,
    pub(super) pod: &'o str,
    pub(super) calls: &'o Calls,
    pub(super) model: ModelVersion,
}

impl Calls {
    pub(super) fn new(namespace: &str, services: BTreeSet<BackendKey>) -> Self {
        let mut hasher = Sha256::new_with_prefix(namespace);
        for service in &services {
            hasher.update(format!("\n{service}"));
        }
        Self { services: Arc::new(services), name: hasher.finalize().into() }
    }
}

impl Parts {
    /// Takes over from `before` whatever is unchanged.
    pub(super) fn new(published: MeshPublication, number: u64, before: Option<&Self>) -> Self {
        let all = &published.snapshot;
        let (mesh, workloads, frontends) = (all.mesh.clone(), all.workloads.clone(), all.frontends.clone());
        let common = Snapshot { mesh, workloads, frontends, ..Snapshot::default() };
        let rest = Snapshot {
            services: all.services.clone(),
            service_routes: all.service_routes.clone(),
            backends: all.backends.clone(),
            bundles: all.bundles.clone(),
            kept_bundles: all.kept_bundles.clone(),
            ..Snapshot::default()
        };
        let (common, rest) = match before {
            Some(before) => (Common::after(&before.common, &common), after(&before.rest, &rest)),
            None => (Arc::new(Common::new(common, None)), rest),
        };
        Self { number, published, common, rest, made: Mutex::default() }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_of(&self, mesh: &MeshPublication) -> bool {
        let MeshPublication { snapshot, inbound, unseen } = &self.published;
        let same = Arc::ptr_eq(snapshot, &mesh.snapshot) || *snapshot == mesh.snapshot;
        same && *inbound == mesh.inbound && *unseen == mesh.unseen
    }

    /// What a sidecar is to hold. Costs little if another one that sees the same holds it already.
    pub(super) fn of(&self, owner: Owner<'_>, models: &Models) -> Sendable {
        // A pair of borrowed strings is no key of this map.
        let pod = (owner.namespace.to_owned(), owner.pod.to_owned());
        let inbound = self.published.inbound.get(&pod).unwrap_or(&self.published.unseen);
        let found = self.made().get(&owner.calls.name).and_then(|made| find(made, owner.model, inbound));
        let part = found.unwrap_or_else(|| self.remember(owner, inbound, self.make(owner, inbound, models)));
        Sendable { common: Some(self.common.clone()), part, edition: Edition::Mesh(self.number) }
    }

    fn make(&self, owner: Owner<'_>, inbound: &Arc<Inbound>, models: &Models) -> Arc<Part> {
        let newest = self.rest.of_workload(owner.namespace, &owner.calls.services, inbound.clone());
        let (snapshot, lacking) =
            if owner.model >= models.newest { (newest, Lacking::new()) } else { newest.for_model(owner.model, models) };
        Arc::new(Part::new(Arc::new(snapshot), lacking))
    }

    /// Returns the one that somebody else has made meanwhile, if so.
    fn remember(&self, owner: Owner<'_>, inbound: &Arc<Inbound>, part: Arc<Part>) -> Arc<Part> {
        let mut made = self.made();
        if made.len() >= MOST {
            made.retain(|_, parts| parts.iter().any(|made| made.part.strong_count() > 0));
        }
        let parts = made.entry(owner.calls.name).or_default();
        if let Some(found) = find(parts, owner.model, inbound) {
            return found;
        }
        parts.retain(|made| made.part.strong_count() > 0);
        parts.push(Made { model: owner.model, inbound: inbound.clone(), part: Arc::downgrade(&part) });
        part
    }

    fn made(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Vec<Made>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(made: &[Made], model: ModelVersion, inbound: &Arc<Inbound>) -> Option<Arc<Part>> {
    made.iter().filter(|made| made.model == model && made.inbound == *inbound).find_map(|made| made.part.upgrade())
}

/// `now`, with the pointers of what is equal in `before`.
fn after(before: &Snapshot, now: &Snapshot) -> Snapshot {
    let mut after = before.clone();
    after.apply(now.changes(before));
    after
}

impl Common {
    fn new(snapshot: Snapshot, since: Option<(Version, Changes)>) -> Self {
        Self { version: snapshot.version(), snapshot, since }
    }

    fn after(before: &Arc<Self>, now: &Snapshot) -> Arc<Self> {
        let changes = now.changes(&before.snapshot);
        if changes.is_empty() {
            return before.clone();
        }
        let mut snapshot = before.snapshot.clone();
        snapshot.apply(changes.clone());
        Arc::new(Self::new(snapshot, Some((before.version, changes))))
    }

    /// The version of this and a part.
    pub(super) fn version_with(&self, part: Version) -> Version {
        let digest = Sha256::digest(format!("{} {part}", self.version));
        let text: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        text.parse().expect("a version is 16 hexadecimal digits")
    }

    pub(super) fn changes(&self, sent: Option<&Arc<Self>>) -> Changes {
        match (sent, &self.since) {
            (Some(sent), _) if sent.version == self.version => Changes::default(),
            (Some(sent), Some((before, changes))) if sent.version == *before => changes.clone(),
            (Some(sent), _) => self.snapshot.changes(&sent.snapshot),
            (None, _) => self.snapshot.changes(&Snapshot::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_routing::snapshot::ModelVersion;

    use super::*;
    use crate::tests::mesh::{mesh, services};

    fn parts(snapshot: Snapshot, before: Option<&Parts>) -> Parts {
        let mesh = MeshPublication { snapshot: Arc::new(snapshot), ..MeshPublication::default() };
        Parts::new(mesh, before.map_or(1, |before| before.number + 1), before)
    }

    fn of(parts: &Parts, namespace: &str, names: &[&str]) -> Sendable {
        let calls = Calls::new(namespace, services(names));
        parts.of(Owner { namespace, pod: "pod", calls: &calls, model: ModelVersion(1) }, &Models::default())
    }

    #[test]
    fn a_part_is_made_once_for_all_that_see_the_same() {
        let parts = parts(mesh(&[("a", 1), ("b", 1)]), None);
        let one = of(&parts, "shop", &["a"]);
        assert!(one.is(&of(&parts, "shop", &["a"])));
        for other in [of(&parts, "shop", &["a", "b"]), of(&parts, "bank", &["a"]), of(&parts, "shop", &[])] {
            assert!(!one.is(&other) && one.version() != other.version());
        }
        let name = Calls::new("shop", services(&["a"])).name;
        drop(one);
        assert!(parts.made()[&name].iter().all(|made| made.part.strong_count() == 0), "what nobody holds is not kept");
        for n in 0..MOST + 10 {
            drop(of(&parts, "shop", &[&format!("s{n}")]));
        }
        assert!(parts.made().len() <= MOST);
    }

    #[test]
    fn what_is_equal_in_the_next_mesh_is_the_same_by_pointer() {
        let first = parts(mesh(&[("a", 1), ("b", 1)]), None);
        // Made anew from the same objects, but for an endpoint.
        let second = parts(mesh(&[("a", 1), ("b", 2)]), Some(&first));
        assert!(Arc::ptr_eq(&first.common, &second.common), "what all have has not changed");
        for (key, route) in &second.rest.service_routes {
            assert!(Arc::ptr_eq(route, &first.rest.service_routes[key]), "{key}");
        }
        let (a, b) = (
            (of(&first, "shop", &["a"]), of(&second, "shop", &["a"])),
            (of(&first, "shop", &["b"]), of(&second, "shop", &["b"])),
        );
        assert!(a.1.changes(Some(&a.0)).is_empty() && a.1.version() == a.0.version() && a.1.edition != a.0.edition);
        assert_eq!((b.1.changes(Some(&b.0)).puts.len(), b.1.version() == b.0.version()), (1, false));
    }

    #[test]
    fn what_all_have_in_common_is_compared_once() {
        let snapshots = [mesh(&[("a", 1)]), mesh(&[("a", 1), ("b", 1)]), mesh(&[("b", 1), ("c", 1)])];
        let first = parts(snapshots[0].clone(), None);
        let second = parts(snapshots[1].clone(), Some(&first));
        let third = parts(snapshots[2].clone(), Some(&second));
        let held = [&first, &second, &third].map(|parts| of(parts, "shop", &["b"]));
        let whole = |n: usize| snapshots[n].of_workload("shop", &services(&["b"]), Arc::default());
        for (from, to) in [(0, 1), (1, 2), (0, 2), (2, 0)] {
            let mut snapshot = whole(from);
            snapshot.apply(held[to].changes(Some(&held[from])));
            assert_eq!(snapshot, whole(to), "{from} to {to}");
        }
        let mut snapshot = Snapshot::default();
        snapshot.apply(held[2].changes(None));
        assert_eq!(snapshot, whole(2));
        assert!(third.common.since.as_ref().is_some_and(|(before, _)| *before == second.common.version));
    }

    #[test]
    fn versions_are_of_the_content() {
        let (one, other) = (parts(mesh(&[("a", 1)]), None), parts(mesh(&[("a", 1)]), None));
        assert_eq!(of(&one, "shop", &["a"]).version(), of(&other, "shop", &["a"]).version(), "whoever makes it");
        let strict = MeshPublication {
            unseen: Arc::new(Inbound { mode: isthmus_routing::MtlsMode::Strict, ..Inbound::default() }),
            ..one.published.clone()
        };
        let mut more = mesh(&[("a", 1)]);
        more.workloads.clear();
        for other in [Parts::new(strict, 1, None), parts(more, None), parts(mesh(&[("a", 2)]), None)] {
            assert_ne!(of(&one, "shop", &["a"]).version(), of(&other, "shop", &["a"]).version());
        }
    }
}
