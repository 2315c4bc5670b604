//! What this proxy was given at last, and whether its data plane serves it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_routing::snapshot::Models;
use isthmus_routing::{BackendKey, Snapshot, Version};
use tokio::sync::watch;

use super::Outcome;
use super::staging::Staging;
use super::store::Stored;
use crate::PACKAGE;
use crate::message::{self, Ack, Hello};

/// Faults that an answer names at most, and bytes of each: a controller takes answers of a limited size.
const FAULTS: (usize, usize) = (1000, 500);

/// The committed configuration, outliving streams.
#[derive(Debug)]
pub(super) struct Held {
    snapshots: watch::Sender<Arc<Snapshot>>,
    outcomes: watch::Receiver<Outcome>,
    committed: Option<Committed>,
}

#[derive(Debug)]
struct Committed {
    /// As the commit named it.
    version: Version,
    /// Complete.
    snapshot: Arc<Snapshot>,
    /// Of the complete snapshot: what the data plane calls it.
    local: Version,
    unknown: Vec<String>,
}

impl Held {
    pub(super) fn new(snapshots: watch::Sender<Arc<Snapshot>>, outcomes: watch::Receiver<Outcome>) -> Self {
        Self { snapshots, outcomes, committed: None }
    }

    /// Serves what was stored.
    pub(super) async fn restore(&mut self, stored: Stored) {
        self.take(stored.version, stored.snapshot, Vec::new()).await;
    }

    /// Serves a committed version, and says whether the data plane has that very content already, so that its report need not be waited for.
    /// Cancel safe: the version is given to the data plane or it is not.
    pub(super) async fn commit(&mut self, version: Version, sent: Snapshot, unknown: Vec<String>) -> bool {
        let complete = match &self.committed {
            Some(before) if sent.keeps() => sent.keeping(&before.snapshot),
            _ => sent,
        };
        self.take(version, Arc::new(complete), unknown).await
    }

    async fn take(&mut self, version: Version, snapshot: Arc<Snapshot>, unknown: Vec<String>) -> bool {
        let hashed = snapshot.clone();
        // Long with many routes, and requests go on meanwhile. It fails only when the runtime ends, and then nobody serves anything.
        let Ok(local) = tokio::task::spawn_blocking(move || hashed.version()).await else { return false };
        let same = self.committed.as_ref().is_some_and(|before| before.local == local);
        self.committed = Some(Committed { version, snapshot: snapshot.clone(), local, unknown });
        if !same {
            // A report of before, about the same content, is not the answer.
            self.outcomes.mark_unchanged();
            self.snapshots.send_replace(snapshot);
        }
        same
    }

    /// Waits for news from the data plane; for ever if it has gone. Cancel safe.
    pub(super) async fn reported(&mut self) {
        if self.outcomes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What to answer to the last commit; none while the data plane serves something else.
    pub(super) fn answer(&self) -> Option<Ack> {
        let committed = self.committed.as_ref()?;
        let outcome = self.outcomes.borrow();
        (outcome.version == Some(committed.local)).then(|| Ack {
            version: committed.version,
            faults: shortened(&outcome.faults),
            unknown: committed.unknown.clone(),
        })
    }

    /// What to store once it is served.
    pub(super) fn stored(&self) -> Option<Stored> {
        self.committed.as_ref().map(|committed| Stored { version: committed.version, snapshot: committed.snapshot.clone() })
    }

    /// Where the next stream begins: with what was sent, not with what completes it.
    pub(super) fn staging(&self) -> Staging {
        Staging::new(self.committed.as_ref().map(|committed| committed.snapshot.without_kept()).unwrap_or_default())
    }

    /// As the last commit named it.
    pub(super) fn version(&self) -> Option<Version> {
        self.committed.as_ref().map(|committed| committed.version)
    }

    pub(super) fn hello(&self, models: &Models, calls: BTreeSet<BackendKey>) -> Hello {
        let held = self.version().map(|version| message::Held { version, served: self.answer() });
        Hello { oldest: models.oldest, newest: models.newest, package: PACKAGE.to_owned(), held, calls }
    }
}

fn shortened(faults: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let short = |text: &String| text.chars().take(FAULTS.1).collect();
    faults.iter().take(FAULTS.0).map(|(name, fault)| (name.clone(), short(fault))).collect()
}

#[cfg(test)]
mod tests {
    use isthmus_routing::{Bundle, BundleKey, Certificate, CertificateKey};

    use super::*;
    use crate::tests::snapshot;

    struct Fixture {
        held: Held,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        outcomes: watch::Sender<Outcome>,
    }

    fn fixture() -> Fixture {
        let (snapshots, receiver) = watch::channel(Arc::default());
        let (sender, outcomes) = watch::channel(Outcome::default());
        Fixture { held: Held::new(snapshots, outcomes), snapshots: receiver, outcomes: sender }
    }

    impl Fixture {
        fn hello(&self) -> Hello {
            self.held.hello(&Models::default(), BTreeSet::new())
        }

        fn serve(&mut self) {
            let version = Some(self.snapshots.borrow_and_update().version());
            self.outcomes.send_replace(Outcome { version, faults: BTreeMap::new() });
        }
    }

    #[tokio::test]
    async fn only_what_is_served_is_answered() {
        let mut f = fixture();
        let version = snapshot(1).version();
        assert!(f.held.answer().is_none() && f.hello().held.is_none());
        assert!(!f.held.commit(version, snapshot(1), Vec::new()).await);
        assert!(f.held.answer().is_none());
        assert_eq!(f.hello().held.map(|held| held.served), Some(None));
        f.serve();
        assert_eq!(f.held.answer().map(|ack| ack.version), Some(version));
        assert!(f.held.commit(version, snapshot(1), Vec::new()).await, "it has that already");
        assert!(!f.snapshots.has_changed().unwrap());
        assert!(f.held.answer().is_some());
    }

    #[tokio::test]
    async fn the_first_snapshot_is_sent_even_if_it_is_empty() {
        let mut f = fixture();
        f.held.commit(Snapshot::default().version(), Snapshot::default(), Vec::new()).await;
        assert!(f.snapshots.has_changed().unwrap());
    }

    #[tokio::test]
    async fn kept_references_are_completed_and_answered_under_the_name_that_was_sent() {
        let key: CertificateKey = "Secret/a/b".parse().unwrap();
        let mut good = snapshot(1);
        good.certificates.insert(key.clone(), Arc::new(Certificate { chain: "c".to_owned(), key: "k".to_owned() }));
        let bundle: BundleKey = "ConfigMap/a/ca".parse().unwrap();
        good.bundles.insert(bundle.clone(), Arc::new(Bundle { certificates: "c".to_owned() }));
        for kept in [
            Snapshot { certificates: BTreeMap::new(), kept: [key].into(), ..good.clone() },
            Snapshot { bundles: BTreeMap::new(), kept_bundles: [bundle].into(), ..good.clone() },
        ] {
            completed(&good, &kept).await;
        }
    }

    /// `kept` is `good` without what it keeps.
    async fn completed(good: &Snapshot, kept: &Snapshot) {
        let mut f = fixture();
        f.held.commit(good.version(), good.clone(), Vec::new()).await;
        f.held.commit(kept.version(), kept.clone(), Vec::new()).await;
        f.serve();
        let held = |snapshot: &Snapshot| (snapshot.certificates.clone(), snapshot.bundles.clone());
        assert_eq!(held(&f.snapshots.borrow()), held(good));
        assert_eq!(f.held.answer().map(|ack| ack.version), Some(kept.version()));
        assert_eq!(f.held.staging().commit(), Ok(kept.clone()), "the controller's idea of it");

        // As after a restart.
        let mut g = fixture();
        g.held.restore(f.held.stored().unwrap()).await;
        assert_eq!(held(&g.snapshots.borrow()), held(good));
        assert_eq!(g.held.staging().commit(), Ok(kept.clone()));
        g.held.commit(snapshot(2).version(), snapshot(2), Vec::new()).await;
        assert_eq!(held(&g.snapshots.borrow()), held(&Snapshot::default()), "what is deleted stops at once");
    }

    #[test]
    fn answers_are_of_a_limited_size() {
        let faults: BTreeMap<_, _> = (0..2000).map(|n| (n.to_string(), "ü".repeat(2000))).collect();
        let short = shortened(&faults);
        assert!(short.len() == 1000 && short.values().all(|text| text.chars().count() == 500));
    }
}
