//! How the watching goes: what was not listed yet and what fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::Kind;
use tokio::sync::watch;

/// What is missing and what fails, for readiness and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Kinds that were not listed yet; [`super::Update::Ready`] is sent when this becomes empty.
    pub waiting: BTreeSet<Kind>,
    /// What fails now, by what is watched: `HTTPRoute`, `Secret in shop`.
    pub faults: BTreeMap<String, String>,
    /// Of which kind each of them is.
    pub(super) failing: BTreeMap<String, Kind>,
    /// Scopes that were not listed yet, by name.
    pub(super) scopes: BTreeMap<String, Kind>,
}

impl Health {
    /// How many watches of a kind fail.
    pub fn failing(&self, kind: Kind) -> usize {
        self.failing.values().filter(|of| **of == kind).count()
    }
}

/// Reports on one scope.
#[derive(Debug)]
pub(super) struct Reporter {
    health: Arc<watch::Sender<Arc<Health>>>,
    kind: Kind,
    scope: String,
    failing: bool,
    listed: bool,
}

impl Reporter {
    /// `awaited`: nothing is ready before this scope was listed. All reporters are made before the first one reports.
    pub(super) fn new(health: &Arc<watch::Sender<Arc<Health>>>, kind: Kind, name: String, awaited: bool) -> Self {
        if awaited {
            health.send_modify(|health| {
                let health = Arc::make_mut(health);
                health.waiting.insert(kind);
                health.scopes.insert(name.clone(), kind);
            });
        }
        Self { health: Arc::clone(health), kind, scope: name, failing: false, listed: !awaited }
    }

    /// Something failed; it is logged when it is new.
    pub(super) fn fault(&mut self, fault: String) {
        self.failing = true;
        self.health.send_if_modified(|health| {
            if health.faults.get(&self.scope) == Some(&fault) {
                return false;
            }
            tracing::warn!(watch = %self.scope, %fault, "a watch failed; it is tried again");
            let health = Arc::make_mut(health);
            health.faults.insert(self.scope.clone(), fault);
            health.failing.insert(self.scope.clone(), self.kind);
            true
        });
    }

    /// Whether the last report was a fault.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    /// It works.
    pub(super) fn fine(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(watch = %self.scope, "the watch works again");
            self.health.send_modify(|health| {
                let health = Arc::make_mut(health);
                health.faults.remove(&self.scope);
                health.failing.remove(&self.scope);
            });
        }
    }

    /// The scope was listed (or there is nothing to list). True for the last of the awaited ones, once.
    pub(super) fn listed(&mut self) -> bool {
        if std::mem::replace(&mut self.listed, true) {
            return false;
        }
        let mut last = false;
        self.health.send_modify(|health| {
            let health = Arc::make_mut(health);
            health.scopes.remove(&self.scope);
            health.waiting = health.scopes.values().copied().collect();
            last = health.scopes.is_empty();
        });
        last
    }
}
