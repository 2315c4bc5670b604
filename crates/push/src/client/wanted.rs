//! The Services whose routes are wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_routing::BackendKey;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::message::CALLS;

/// How soon after the controller was told it is told again: a workload that starts calls many Services at once.
const PACE: Duration = Duration::from_millis(10);

/// What is wanted and what the controller knows of it.
#[derive(Debug)]
pub(super) struct Wanted {
    /// None: this is no sidecar.
    calls: Option<watch::Receiver<BTreeSet<BackendKey>>>,
    /// Services of the stored configuration. They are served, so the data plane has no reason to ask for them, and without them a restart would
    /// lose their routes as soon as the controller answers.
    stored: BTreeSet<BackendKey>,
    /// What the controller was told last, and when.
    told: (BTreeSet<BackendKey>, Instant),
}

impl Wanted {
    pub(super) fn new(calls: Option<watch::Receiver<BTreeSet<BackendKey>>>) -> Self {
        Self { calls, stored: BTreeSet::new(), told: (BTreeSet::new(), Instant::now()) }
    }

    /// These are served already, and wanted until this process ends.
    pub(super) fn store<'k>(&mut self, services: impl Iterator<Item = &'k BackendKey>) {
        if self.calls.is_some() {
            self.stored = services.cloned().collect();
        }
    }

    /// What to tell a controller that knows nothing yet.
    pub(super) fn hello(&mut self) -> BTreeSet<BackendKey> {
        self.told = (self.now(), Instant::now());
        self.told.0.clone()
    }

    /// What to tell a controller that knows what it was told last; none if there is no news.
    pub(super) fn news(&mut self) -> Option<BTreeSet<BackendKey>> {
        let now = self.now();
        let is_news = now != self.told.0;
        is_news.then(|| {
            self.told = (now, Instant::now());
            self.told.0.clone()
        })
    }

    /// Waits until there may be news; for ever if there will be none. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let Some(calls) = &mut self.calls else { return std::future::pending().await };
        tokio::time::sleep_until(self.told.1 + PACE).await;
        if calls.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn now(&mut self) -> BTreeSet<BackendKey> {
        let Some(calls) = &mut self.calls else { return BTreeSet::new() };
        let calls = calls.borrow_and_update();
        let mut now: BTreeSet<_> = calls.iter().take(CALLS).cloned().collect();
        let room = CALLS - now.len();
        now.extend(self.stored.iter().filter(|service| !calls.contains(service)).take(room).cloned());
        if calls.len() > CALLS {
            tracing::warn!("this workload calls {} Services, of which only {CALLS} can have routes", calls.len());
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(names: &[&str]) -> BTreeSet<BackendKey> {
        names.iter().map(|name| format!("Service/shop/{name}:80").parse().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wanted_is_told_once_and_not_too_often() {
        let (sender, calls) = watch::channel(services(&["a"]));
        let mut wanted = Wanted::new(Some(calls));
        wanted.store(services(&["stored"]).iter());
        assert_eq!(wanted.hello(), services(&["a", "stored"]));
        assert_eq!(wanted.news(), None);
        let start = Instant::now();
        sender.send_replace(services(&["a", "b"]));
        wanted.changed().await;
        assert_eq!((wanted.news(), start.elapsed()), (Some(services(&["a", "b", "stored"])), PACE));
        tokio::time::sleep(PACE * 3).await;
        let start = Instant::now();
        sender.send_replace(services(&["b", "stored"]));
        wanted.changed().await;
        assert_eq!((wanted.news(), start.elapsed()), (Some(services(&["b", "stored"])), Duration::ZERO));
        sender.send_replace(services(&["b"]));
        wanted.changed().await;
        assert_eq!(wanted.news(), None, "it is wanted as before");
        drop(sender);
        assert!(tokio::time::timeout(Duration::from_secs(9), wanted.changed()).await.is_err());
    }

    #[test]
    fn there_is_a_limit() {
        let many: BTreeSet<BackendKey> = (0..=5000).map(|n| format!("Service/shop/s{n}:80").parse().unwrap()).collect();
        let (_sender, calls) = watch::channel(many.clone());
        let mut wanted = Wanted::new(Some(calls));
        assert_eq!(wanted.hello().len(), CALLS);
        let (_sender, calls) = watch::channel(services(&["a"]));
        let mut wanted = Wanted::new(Some(calls));
        wanted.store(many.iter());
        let hello = wanted.hello();
        assert!(hello.len() == CALLS && hello.is_superset(&services(&["a"])), "what is called comes first");
        let mut none = Wanted::new(None);
        none.store(many.iter());
        assert!(none.hello().is_empty());
    }
}
