//! Which proxies are connected and what they say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::{Identity, Proxies, Proxy};

/// How long a proxy that was told to open a new stream counts as connected without one.
const RENEWAL: Duration = Duration::from_secs(10);

/// The sessions of all proxies.
#[derive(Debug, Default)]
pub(super) struct Registry {
    sessions: Mutex<Sessions>,
    proxies: watch::Sender<Arc<Proxies>>,
}

#[derive(Debug, Default)]
struct Sessions {
    last: u64,
    /// The newest session of each pod; dropping its sender ends it.
    newest: BTreeMap<String, (u64, oneshot::Sender<()>)>,
}

/// A session's place in the registry; it leaves when this is dropped, unless a newer one of the same pod has its place.
#[derive(Debug)]
pub(super) struct Entered {
    registry: Arc<Registry>,
    identity: Identity,
    id: u64,
}

impl Registry {
    pub(super) fn proxies(&self) -> watch::Receiver<Arc<Proxies>> {
        self.proxies.subscribe()
    }

    /// Takes the place of an older session of the same pod. The receiver resolves when a newer one takes this one's.
    pub(super) fn enter(self: &Arc<Self>, identity: &Identity, proxy: Proxy) -> (Entered, oneshot::Receiver<()>) {
        let (replace, replaced) = oneshot::channel();
        let mut sessions = self.sessions();
        sessions.last += 1;
        let id = sessions.last;
        sessions.newest.insert(name(identity), (id, replace));
        self.edit(|proxies| {
            proxies.entry(identity.gateway.clone()).or_default().insert(identity.pod.clone(), proxy);
        });
        (Entered { registry: self.clone(), identity: identity.clone(), id }, replaced)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit(&self, edit: impl FnOnce(&mut Proxies)) {
        self.proxies.send_modify(|proxies| edit(Arc::make_mut(proxies)));
    }
}

/// A key that is the pod's within its Gateway.
fn name(identity: &Identity) -> String {
    format!("{} {}", identity.gateway, identity.pod)
}

impl Entered {
    /// Takes over news of the proxy; nothing if a newer session has its place.
    pub(super) fn update(&self, edit: impl FnOnce(&mut Proxy)) {
        let sessions = self.registry.sessions();
        if sessions.newest.get(&name(&self.identity)).is_none_or(|(id, _)| *id != self.id) {
            return;
        }
        self.registry.proxies.send_if_modified(|proxies| {
            let Some(before) = proxies.get(&self.identity.gateway).and_then(|pods| pods.get(&self.identity.pod)) else {
                return false;
            };
            let mut proxy = before.clone();
            edit(&mut proxy);
            let changed = proxy != *before;
            if changed && let Some(pods) = Arc::make_mut(proxies).get_mut(&self.identity.gateway) {
                pods.insert(self.identity.pod.clone(), proxy);
            }
            changed
        });
    }

    /// Leaves a little later, so that a proxy which only renews its stream is never missing.
    pub(super) fn leave_later(self) {
        tokio::spawn(async move {
            tokio::time::sleep(RENEWAL).await;
            drop(self);
        });
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut sessions = self.registry.sessions();
        let name = name(&self.identity);
        if sessions.newest.get(&name).is_none_or(|(id, _)| *id != self.id) {
            return;
        }
        sessions.newest.remove(&name);
        self.registry.edit(|proxies| {
            if let Some(pods) = proxies.get_mut(&self.identity.gateway) {
                pods.remove(&self.identity.pod);
                if pods.is_empty() {
                    proxies.remove(&self.identity.gateway);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use isthmus_routing::snapshot::ModelVersion;

    use super::*;
    use crate::tests::edge;

    fn proxy(package: &str) -> Proxy {
        Proxy {
            package: package.to_owned(),
            model: ModelVersion(1),
            acked: None,
            nack: None,
            listeners: BTreeMap::new(),
            unknown: Vec::new(),
            lacking: BTreeMap::new(),
        }
    }

    fn seen(proxies: &watch::Receiver<Arc<Proxies>>) -> Vec<String> {
        proxies.borrow().values().flat_map(|pods| pods.iter().map(|(pod, proxy)| format!("{pod} {}", proxy.package))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_session_of_a_pod_speaks_for_it() {
        let registry = Arc::<Registry>::default();
        let mut proxies = registry.proxies();
        let identity = |pod: &str| Identity { gateway: edge(), pod: pod.to_owned() };
        let (first, mut first_replaced) = registry.enter(&identity("a"), proxy("1"));
        let (other, _other_replaced) = registry.enter(&identity("b"), proxy("1"));
        let (second, mut second_replaced) = registry.enter(&identity("a"), proxy("2"));
        assert!(first_replaced.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(second_replaced.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        first.update(|proxy| proxy.package = "stale".to_owned());
        drop(first);
        assert_eq!(seen(&proxies), ["a 2", "b 1"]);

        proxies.mark_unchanged();
        other.update(|_| {});
        assert!(!proxies.has_changed().unwrap(), "nothing new is nothing");
        other.update(|proxy| proxy.package = "3".to_owned());
        assert!(proxies.has_changed().unwrap());
        drop(other);
        assert_eq!(seen(&proxies), ["a 2"]);

        second.leave_later();
        tokio::time::sleep(RENEWAL / 2).await;
        assert_eq!(seen(&proxies), ["a 2"]);
        tokio::time::sleep(RENEWAL).await;
        assert!(proxies.borrow().is_empty(), "a Gateway without proxies is not there");
    }
}
