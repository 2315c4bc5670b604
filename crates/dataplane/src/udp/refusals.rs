//! Endpoints that did not take datagrams a moment ago.
//!
//! Nobody but datagrams themselves tells whether an endpoint listens. One that does not has few sessions, so without this the choice of
//! the less busy one would prefer it.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::balance::{BackendState, InFlight, Tried};

/// How long an endpoint is passed over. Until then it is back, or known not to be ready.
const PASSED_OVER: Duration = Duration::from_secs(5);
/// Endpoints that are looked at to find one that is not passed over.
const LOOKS: usize = 8;

/// Endpoints with the time of their last refusal; no more than there are endpoints that sessions went to.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Vec<(SocketAddr, Instant)>>);

impl Refusals {
    /// An endpoint could not be reached.
    pub(super) fn note(&self, endpoint: SocketAddr, now: Instant) {
        let mut noted = self.lock();
        noted.retain(|(address, since)| *address != endpoint && now.saturating_duration_since(*since) < PASSED_OVER);
        noted.push((endpoint, now));
    }

    /// The endpoint for a new session; one that was noted only if no other is found. None: there are no endpoints.
    pub(super) fn choose(&self, backend: &BackendState, now: Instant) -> Option<InFlight> {
        let mut tried = Tried::default();
        let first = backend.choose(&mut tried)?;
        if !self.is_noted(first.address(), now) {
            return Some(first);
        }
        let others = (1..LOOKS).filter_map(|_| backend.choose(&mut tried));
        Some(others.into_iter().find(|other| !self.is_noted(other.address(), now)).unwrap_or(first))
    }

    fn is_noted(&self, endpoint: &SocketAddr, now: Instant) -> bool {
        self.lock().iter().any(|(address, since)| address == endpoint && now.saturating_duration_since(*since) < PASSED_OVER)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(SocketAddr, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
