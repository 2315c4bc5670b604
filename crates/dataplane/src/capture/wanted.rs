//! What the workload calls: the ports of Services whose configuration has to be there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use isthmus_routing::{BackendKey, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::exists;

/// As many as the controller takes.
const MOST: usize = 4096;
/// How long after a configuration did not come nobody waits for it again.
const MISSING: Duration = Duration::from_secs(3);

/// The ports of Services that are called, and by how many connections.
#[derive(Debug)]
pub(super) struct Wanted {
    calls: watch::Sender<BTreeSet<BackendKey>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    called: HashMap<BackendKey, Called, foldhash::fast::RandomState>,
    /// Grows with each call.
    turn: u64,
}

#[derive(Debug, Default)]
struct Called {
    open: usize,
    /// The turn of the last call.
    last: u64,
    /// When its configuration was waited for in vain.
    missing: Option<Instant>,
}

/// A connection that calls a Service; until it is dropped the Service is wanted.
#[derive(Debug)]
pub(super) struct Call {
    wanted: Arc<Wanted>,
    service: BackendKey,
}

impl Wanted {
    /// Begins with what was called before.
    pub(super) fn new(calls: watch::Sender<BTreeSet<BackendKey>>) -> Arc<Self> {
        let called = calls.borrow().iter().map(|service| (service.clone(), Called::default())).collect();
        Arc::new(Self { calls, state: Mutex::new(State { called, turn: 0 }) })
    }

    /// Wants a Service for a connection. Where there is no room, that of the Service goes whose last call was the longest ago, and which no
    /// connection calls; none: all of them are called.
    pub(super) fn call(self: &Arc<Self>, service: &BackendKey) -> Option<Call> {
        let mut state = self.lock();
        let State { called, turn } = &mut *state;
        *turn += 1;
        let mut gone = None;
        let is_new = !called.contains_key(service);
        if is_new {
            if called.len() >= MOST {
                let idle = called.iter().filter(|(_, called)| called.open == 0);
                let (oldest, _) = idle.min_by_key(|(_, called)| called.last)?;
                gone = Some(oldest.clone());
                called.remove(gone.as_ref()?);
            }
            called.insert(service.clone(), Called::default());
        }
        let entry = called.get_mut(service)?;
        entry.open += 1;
        entry.last = *turn;
        if is_new {
            self.calls.send_modify(|calls| {
                if let Some(gone) = gone {
                    calls.remove(&gone);
                }
                calls.insert(service.clone());
            });
        }
        Some(Call { wanted: self.clone(), service: service.clone() })
    }

    /// Whether its configuration did not come a moment ago.
    pub(super) fn is_missing(&self, service: &BackendKey) -> bool {
        let since = self.lock().called.get(service).and_then(|called| called.missing);
        since.is_some_and(|since| since.elapsed() < MISSING)
    }

    /// Its configuration did not come.
    pub(super) fn missed(&self, service: &BackendKey) {
        if let Some(called) = self.lock().called.get_mut(service) {
            called.missing = Some(Instant::now());
        }
    }

    /// Wants no more what does not exist any more.
    pub(super) fn keep(&self, snapshot: &Snapshot) {
        let mut state = self.lock();
        let before = state.called.len();
        state.called.retain(|service, _| exists(service, snapshot));
        if state.called.len() < before {
            self.calls.send_modify(|calls| calls.retain(|service| exists(service, snapshot)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(called) = self.wanted.lock().called.get_mut(&self.service) {
            // It may have been forgotten and called again meanwhile.
            called.open = called.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: usize) -> BackendKey {
        format!("Service/shop/cart-{number}:80").parse().expect("a key")
    }

    #[test]
    fn what_is_called_is_wanted_once() {
        let (calls, mut seen) = watch::channel(BTreeSet::from([service(0)]));
        let wanted = Wanted::new(calls);
        drop(wanted.call(&service(0)).expect("room"));
        assert!(!seen.has_changed().expect("open"), "it was wanted before");
        let _calls = [wanted.call(&service(1)).expect("room"), wanted.call(&service(1)).expect("room")];
        assert_eq!(*seen.borrow_and_update(), BTreeSet::from([service(0), service(1)]));
        drop(wanted.call(&service(1)).expect("room"));
        assert!(!seen.has_changed().expect("open"));
    }

    #[test]
    fn the_one_whose_call_is_longest_ago_makes_room() {
        let (calls, seen) = watch::channel(BTreeSet::new());
        let wanted = Wanted::new(calls);
        let mut open: Vec<_> = (0..MOST).map(|number| wanted.call(&service(number)).expect("room")).collect();
        assert!(wanted.call(&service(MOST)).is_none(), "all are called");
        drop(open.drain(1..3));
        drop(wanted.call(&service(1)).expect("it is there"));
        let _call = wanted.call(&service(MOST)).expect("room");
        let now = seen.borrow();
        assert_eq!((now.len(), now.contains(&service(2)), now.contains(&service(1))), (MOST, false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn what_did_not_come_is_not_waited_for_for_a_while() {
        let wanted = Wanted::new(watch::channel(BTreeSet::new()).0);
        let _call = wanted.call(&service(1));
        assert!(!wanted.is_missing(&service(1)));
        wanted.missed(&service(1));
        assert!(wanted.is_missing(&service(1)) && !wanted.is_missing(&service(2)));
        tokio::time::advance(MISSING).await;
        assert!(!wanted.is_missing(&service(1)));
    }

    #[test]
    fn what_does_not_exist_is_not_wanted() {
        let (calls, seen) = watch::channel(BTreeSet::new());
        let wanted = Wanted::new(calls);
        let call = wanted.call(&service(1)).expect("room");
        wanted.keep(&Snapshot::default());
        assert!(seen.borrow().is_empty());
        drop(call);
        let _again = wanted.call(&service(1)).expect("room");
        assert_eq!(seen.borrow().len(), 1);
    }
}
