//! Certificates that were found to be what is wanted, and the handshakes that find out.
//!
//! Pingora verifies a backend's chain and one DNS name, but neither subjectAltNames nor what makes a certificate that of a workload of the
//! mesh; all it tells of a connection's certificate is a digest. So a connection of Pingora's is used only if its certificate has been
//! verified in a handshake of our own. One such handshake is enough for all endpoints that show the same certificate.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::UpstreamTlsError;

/// How long a failed probe stands for the next ones: a backend that is refused is asked once a second, whatever comes for it.
const REMEMBERED: Duration = Duration::from_secs(1);

/// Certificates that are remembered. More are shown only by a backend whose endpoints renew theirs all the time.
const LEAVES: usize = 1024;

/// Endpoints whose last probe is remembered.
const PROBES: usize = 1024;

/// SHA-256 of a certificate's DER.
pub(super) type Leaf = [u8; 32];

/// Where a probe goes, and which client certificate it shows: a backend may refuse one and take another.
pub(super) type Target = (SocketAddr, Option<u64>);

/// Of one policy, or one workload, as it is now.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    accepted: Mutex<HashSet<Leaf>>,
    probes: Mutex<HashMap<Target, Arc<Probe>>>,
}

/// Locked while a probe is under way, so that all who wait for it share its outcome.
#[derive(Debug, Default)]
struct Probe(AsyncMutex<Option<Outcome>>);

#[derive(Debug)]
struct Outcome {
    at: Instant,
    failure: Option<Arc<UpstreamTlsError>>,
}

impl Outcome {
    fn recent_failure(&self) -> Option<&Arc<UpstreamTlsError>> {
        self.failure.as_ref().filter(|_| self.at.elapsed() < REMEMBERED)
    }
}

impl Proofs {
    /// Whether the certificate with this digest is what is wanted. If that is not known yet, `probe` finds out (it returns the digest of the
    /// certificate that it was shown and verified), unless somebody is asking already or has been refused a moment ago.
    ///
    /// Cancel safe: whoever waits for a probe that is dropped makes one of its own.
    pub(super) async fn admit(
        &self,
        leaf: &Leaf,
        target: Target,
        probe: impl Future<Output = Result<Leaf, UpstreamTlsError>>,
        within: Duration,
    ) -> Result<(), Arc<UpstreamTlsError>> {
        if self.knows(leaf) {
            return Ok(());
        }
        let asked = Instant::now();
        let shared = self.probe(target);
        let found = timeout(within, async {
            let mut last = shared.0.lock().await;
            let known = match &*last {
                Some(outcome) if outcome.at >= asked => Some(outcome.failure.clone()),
                Some(outcome) => outcome.recent_failure().cloned().map(Some),
                None => None,
            };
            if let Some(failure) = known {
                return failure;
            }
            let failure = match probe.await {
                Ok(leaf) => {
                    self.learn(leaf);
                    None
                }
                Err(failure) => Some(Arc::new(failure)),
            };
            *last = Some(Outcome { at: Instant::now(), failure: failure.clone() });
            failure
        });
        match found.await {
            Ok(None) if self.knows(leaf) => Ok(()),
            Ok(None) => Err(Arc::new(UpstreamTlsError::Changed)),
            Ok(Some(failure)) => Err(failure),
            Err(_) => Err(Arc::new(UpstreamTlsError::Timeout)),
        }
    }

    /// Why the last probe failed, if that was a moment ago.
    pub(super) fn recent_failure(&self, target: &Target) -> Option<Arc<UpstreamTlsError>> {
        let probe = lock(&self.probes).get(target)?.clone();
        let last = probe.0.try_lock().ok()?;
        last.as_ref()?.recent_failure().cloned()
    }

    fn knows(&self, leaf: &Leaf) -> bool {
        lock(&self.accepted).contains(leaf)
    }

    fn learn(&self, leaf: Leaf) {
        let mut accepted = lock(&self.accepted);
        if accepted.len() >= LEAVES {
            accepted.clear();
        }
        accepted.insert(leaf);
    }

    fn probe(&self, target: Target) -> Arc<Probe> {
        let mut probes = lock(&self.probes);
        if probes.len() >= PROBES && !probes.contains_key(&target) {
            probes.retain(|_, probe| Arc::strong_count(probe) > 1);
        }
        probes.entry(target).or_default().clone()
    }
}

/// The digest of a certificate, as Pingora makes it.
pub(super) fn leaf_of(der: &[u8]) -> Leaf {
    Sha256::digest(der).into()
}

/// No holder can leave half of a change behind.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
