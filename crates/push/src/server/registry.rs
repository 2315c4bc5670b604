//! Which proxies are connected and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isthmus_routing::snapshot::Lacking;
use isthmus_routing::{BackendKey, GatewayKey};
use tokio::sync::{Notify, oneshot, watch};

use super::published::Edition;
use super::{Peer, Proxies, Proxy, Sidecar, Sidecars, Subject};

/// How long a proxy that was told to open a new stream counts as connected without one.
const RENEWAL: Duration = Duration::from_secs(10);
/// How soon after news of sidecars the next are told: all of them answer an edit at once.
const PACE: Duration = Duration::from_millis(20);

/// The sessions of all proxies.
#[derive(Debug, Default)]
pub(super) struct Registry {
    sessions: Mutex<Sessions>,
    proxies: watch::Sender<Arc<Proxies>>,
    sidecars: watch::Sender<Arc<Sidecars>>,
    /// There is something in [`Sessions::sidecars`] that was not told.
    news: Notify,
}

#[derive(Debug, Default)]
struct Sessions {
    last: u64,
    /// The newest session of each pod; dropping its sender ends it.
    newest: BTreeMap<Key, (u64, oneshot::Sender<()>)>,
    sidecars: Arc<Sidecars>,
}

/// Whose session it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Gateway(GatewayKey, String),
    /// A pod by namespace and name.
    Workload((String, String)),
}

/// What is known of a proxy.
#[derive(Debug)]
pub(super) enum Member {
    Proxy(Proxy),
    Sidecar(Sidecar),
}

/// A session's place in the registry; it leaves when this is dropped, unless a newer one of the same pod has its place.
#[derive(Debug)]
pub(super) struct Entered {
    registry: Arc<Registry>,
    key: Key,
    id: u64,
}

impl Key {
    fn new(peer: &Peer) -> Self {
        match &peer.subject {
            Subject::Gateway { gateway, .. } => Self::Gateway(gateway.clone(), peer.pod.clone()),
            Subject::Workload { identity } => Self::Workload((identity.namespace.clone(), peer.pod.clone())),
        }
    }
}

impl Member {
    /// It serves this, also if it has refused something before.
    pub(super) fn serves(&mut self, edition: Edition) {
        match (self, edition) {
            (Self::Proxy(proxy), Edition::Gateway(version)) => (proxy.acked, proxy.nack) = (Some(version), None),
            (Self::Sidecar(sidecar), Edition::Mesh(number)) => (sidecar.acked, sidecar.nack) = (Some(number), None),
            _ => {}
        }
    }

    pub(super) fn refuses(&mut self, edition: Edition, reason: String) {
        match (self, edition) {
            (Self::Proxy(proxy), Edition::Gateway(version)) => proxy.nack = Some((version, reason)),
            (Self::Sidecar(sidecar), Edition::Mesh(number)) => sidecar.nack = Some((number, reason)),
            _ => {}
        }
    }

    /// What it has refused is of this publication, too.
    pub(super) fn refuses_also(&mut self, edition: Edition) {
        let reason = match self {
            Self::Proxy(proxy) => proxy.nack.take().map(|(_, reason)| reason),
            Self::Sidecar(sidecar) => sidecar.nack.take().map(|(_, reason)| reason),
        };
        if let Some(reason) = reason {
            self.refuses(edition, reason);
        }
    }

    /// What it says of what it serves.
    pub(super) fn says(&mut self, faults: BTreeMap<String, String>, passed_over: Vec<String>) {
        if let Self::Proxy(proxy) = self {
            (proxy.listeners, proxy.unknown) = (faults, passed_over);
        }
    }

    pub(super) fn lacks(&mut self, rules: &Lacking) {
        match self {
            Self::Proxy(Proxy { lacking, .. }) | Self::Sidecar(Sidecar { lacking, .. }) => lacking.clone_from(rules),
        }
    }

    pub(super) fn calls(&mut self, services: Arc<BTreeSet<BackendKey>>) {
        if let Self::Sidecar(sidecar) = self {
            sidecar.calls = services;
        }
    }
}

impl Registry {
    pub(super) fn proxies(&self) -> watch::Receiver<Arc<Proxies>> {
        self.proxies.subscribe()
    }

    pub(super) fn sidecars(&self) -> watch::Receiver<Arc<Sidecars>> {
        self.sidecars.subscribe()
    }

    /// Tells of sidecars for ever.
    pub(super) async fn tell(self: Arc<Self>) {
        loop {
            self.news.notified().await;
            let now = self.sessions().sidecars.clone();
            self.sidecars.send_replace(now);
            tokio::time::sleep(PACE).await;
        }
    }

    /// Takes the place of an older session of the same pod. The receiver resolves when a newer one takes this one's.
    pub(super) fn enter(self: &Arc<Self>, peer: &Peer, member: Member) -> (Entered, oneshot::Receiver<()>) {
        let (replace, replaced) = oneshot::channel();
        let key = Key::new(peer);
        let mut sessions = self.sessions();
        sessions.last += 1;
        let id = sessions.last;
        sessions.newest.insert(key.clone(), (id, replace));
        self.edit(&mut sessions, &key, Some(member));
        (Entered { registry: self.clone(), key, id }, replaced)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn member(&self, sessions: &Sessions, key: &Key) -> Option<Member> {
        match key {
            Key::Gateway(gateway, pod) => self.proxies.borrow().get(gateway)?.get(pod).cloned().map(Member::Proxy),
            Key::Workload(pod) => sessions.sidecars.get(pod).cloned().map(Member::Sidecar),
        }
    }

    fn edit(&self, sessions: &mut Sessions, key: &Key, member: Option<Member>) {
        match (key, member) {
            (Key::Gateway(gateway, pod), Some(Member::Proxy(proxy))) => self.proxies.send_modify(|proxies| {
                Arc::make_mut(proxies).entry(gateway.clone()).or_default().insert(pod.clone(), proxy);
            }),
            (Key::Gateway(gateway, pod), _) => self.proxies.send_modify(|proxies| {
                let proxies = Arc::make_mut(proxies);
                if let Some(pods) = proxies.get_mut(gateway) {
                    pods.remove(pod);
                    if pods.is_empty() {
                        proxies.remove(gateway);
                    }
                }
            }),
            (Key::Workload(pod), member) => {
                let sidecars = Arc::make_mut(&mut sessions.sidecars);
                match member {
                    Some(Member::Sidecar(sidecar)) => drop(sidecars.insert(pod.clone(), sidecar)),
                    _ => drop(sidecars.remove(pod)),
                }
                self.news.notify_one();
            }
        }
    }
}

impl Entered {
    /// Takes over news of the proxy; nothing if a newer session has its place.
    pub(super) fn update(&self, edit: impl FnOnce(&mut Member)) {
        let mut sessions = self.registry.sessions();
        if !self.is_newest(&sessions) {
            return;
        }
        let Some(mut member) = self.registry.member(&sessions, &self.key) else { return };
        edit(&mut member);
        let changed = match (&member, self.registry.member(&sessions, &self.key)) {
            (Member::Proxy(now), Some(Member::Proxy(before))) => *now != before,
            (Member::Sidecar(now), Some(Member::Sidecar(before))) => *now != before,
            _ => true,
        };
        if changed {
            self.registry.edit(&mut sessions, &self.key, Some(member));
        }
    }

    /// Leaves a little later, so that a proxy which only renews its stream is never missing.
    pub(super) fn leave_later(self) {
        tokio::spawn(async move {
            tokio::time::sleep(RENEWAL).await;
            drop(self);
        });
    }

    fn is_newest(&self, sessions: &Sessions) -> bool {
        sessions.newest.get(&self.key).is_some_and(|(id, _)| *id == self.id)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let registry = self.registry.clone();
        let mut sessions = registry.sessions();
        if self.is_newest(&sessions) {
            sessions.newest.remove(&self.key);
            registry.edit(&mut sessions, &self.key, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_routing::snapshot::ModelVersion;

    use super::*;
    use crate::tests::{edge, peer, workload};

    fn proxy(package: &str) -> Member {
        Member::Proxy(Proxy {
            package: package.to_owned(),
            model: ModelVersion(1),
            acked: None,
            nack: None,
            listeners: BTreeMap::new(),
            unknown: Vec::new(),
            lacking: BTreeMap::new(),
        })
    }

    fn rename(to: &str) -> impl FnOnce(&mut Member) {
        let to = to.to_owned();
        move |member| match member {
            Member::Proxy(Proxy { package, .. }) | Member::Sidecar(Sidecar { package, .. }) => *package = to,
        }
    }

    fn seen(proxies: &watch::Receiver<Arc<Proxies>>) -> Vec<String> {
        proxies.borrow().values().flat_map(|pods| pods.iter().map(|(pod, proxy)| format!("{pod} {}", proxy.package))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_session_of_a_pod_speaks_for_it() {
        let registry = Arc::<Registry>::default();
        let mut proxies = registry.proxies();
        let (first, mut first_replaced) = registry.enter(&peer("a"), proxy("1"));
        let (other, _other_replaced) = registry.enter(&peer("b"), proxy("1"));
        let (second, mut second_replaced) = registry.enter(&peer("a"), proxy("2"));
        assert!(first_replaced.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(second_replaced.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        first.update(rename("stale"));
        drop(first);
        assert_eq!(seen(&proxies), ["a 2", "b 1"]);

        proxies.mark_unchanged();
        other.update(|_| {});
        assert!(!proxies.has_changed().unwrap(), "nothing new is nothing");
        other.update(rename("3"));
        assert!(proxies.has_changed().unwrap());
        drop(other);
        assert_eq!(seen(&proxies), ["a 2"]);

        second.leave_later();
        tokio::time::sleep(RENEWAL / 2).await;
        assert_eq!(seen(&proxies), ["a 2"]);
        tokio::time::sleep(RENEWAL).await;
        assert!(proxies.borrow().is_empty(), "a Gateway without proxies is not there");
        assert!(!proxies.borrow().contains_key(&edge()));
    }

    #[tokio::test(start_paused = true)]
    async fn news_of_many_sidecars_are_told_together() {
        let registry = Arc::<Registry>::default();
        let telling = tokio::spawn(registry.clone().tell());
        let mut sidecars = registry.sidecars();
        let sidecar = || {
            Member::Sidecar(Sidecar {
                package: "1".to_owned(),
                model: ModelVersion(1),
                acked: None,
                nack: None,
                calls: Arc::default(),
                lacking: BTreeMap::new(),
            })
        };
        let entered: Vec<_> = (0..1000).map(|n| registry.enter(&workload("shop", &n.to_string()), sidecar()).0).collect();
        let mut told = 0;
        for round in 1..=10_u64 {
            for (n, entered) in entered.iter().enumerate() {
                entered.update(|member| member.serves(Edition::Mesh(round)));
                if n % 100 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                told += u32::from(sidecars.has_changed().unwrap());
                sidecars.mark_unchanged();
            }
        }
        // 100 ms have passed.
        assert!((2..=6).contains(&told), "{told}");
        tokio::time::sleep(PACE).await;
        assert!(sidecars.borrow().values().all(|sidecar| sidecar.acked == Some(10)) && sidecars.borrow().len() == 1000);
        sidecars.mark_unchanged();
        entered[0].update(|member| member.serves(Edition::Mesh(10)));
        tokio::time::sleep(PACE * 2).await;
        assert!(!sidecars.has_changed().unwrap(), "nothing new is nothing");
        drop(entered);
        tokio::time::sleep(PACE * 2).await;
        assert!(sidecars.borrow().is_empty());
        telling.abort();
    }
}
