//! Certificates that were found to be what is wanted, and the handshakes that find out.
//!
//! Pingora verifies a backend's chain and one DNS name, but neither subjectAltNames nor what makes a certificate that of a workload of the
//! mesh; all it tells of a connection's certificate is a digest. So a connection of Pingora's is used only if its certificate has been
//! verified in a handshake of our own. One such handshake is enough for all endpoints that show the same certificate.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::UpstreamTlsError;

/// How long a refused certificate stands for the next probes: a backend that is refused is asked once a second, whatever comes for it. A
/// probe that found nobody says nothing of the next one.
const REMEMBERED: Duration = Duration::from_secs(1);

/// Certificates that are remembered, of one policy or workload: at most a megabyte and a half. In the mesh each pod of an identity has
/// one.
const LEAVES: usize = 16 * 1024;

/// Endpoints whose last probe is remembered.
const PROBES: usize = 1024;

/// SHA-256 of a certificate's DER.
pub(super) type Leaf = [u8; 32];

/// Where a probe goes, and which client certificate it shows: a backend may refuse one and take another.
pub(super) type Target = (SocketAddr, Option<u64>);

/// Of one policy, or one workload, as it is now.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    accepted: Mutex<Accepted>,
    probes: Mutex<HashMap<Target, Arc<Probe>>>,
    /// When a certificate was last refused, in milliseconds since [`EPOCH`]; 0: never. So requests ask for no lock while none is.
    refused: AtomicU64,
}

/// Certificates that are what is wanted; the oldest ones are forgotten.
#[derive(Debug, Default)]
struct Accepted {
    all: HashSet<Leaf>,
    oldest_first: VecDeque<Leaf>,
}

/// A moment before all others that count.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Never 0.
fn now() -> u64 {
    u64::try_from(EPOCH.elapsed().as_millis()).map_or(u64::MAX, |now| now.saturating_add(1))
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
    fn recent_refusal(&self) -> Option<&Arc<UpstreamTlsError>> {
        self.failure.as_ref().filter(|failure| failure.is_refusal() && self.at.elapsed() < REMEMBERED)
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
                Some(outcome) => outcome.recent_refusal().cloned().map(Some),
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
            if failure.as_ref().is_some_and(|failure| failure.is_refusal()) {
                self.refused.store(now(), Relaxed);
            }
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

    /// Why the certificate there was refused, if that was a moment ago.
    pub(super) fn recent_refusal(&self, target: &Target) -> Option<Arc<UpstreamTlsError>> {
        let refused = self.refused.load(Relaxed);
        if refused == 0 || Duration::from_millis(now().saturating_sub(refused)) > REMEMBERED {
            return None;
        }
        let probe = lock(&self.probes).get(target)?.clone();
        let last = probe.0.try_lock().ok()?;
        last.as_ref()?.recent_refusal().cloned()
    }

    fn knows(&self, leaf: &Leaf) -> bool {
        lock(&self.accepted).all.contains(leaf)
    }

    fn learn(&self, leaf: Leaf) {
        let mut accepted = lock(&self.accepted);
        if !accepted.all.insert(leaf) {
            return;
        }
        accepted.oldest_first.push_back(leaf);
        if accepted.oldest_first.len() > LEAVES
            && let Some(oldest) = accepted.oldest_first.pop_front()
        {
            accepted.all.remove(&oldest);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refusals_are_remembered_and_nobody_s_absence_is_not() {
        let (leaf, target) = ([1; 32], ("127.0.0.1:1".parse().expect("an address"), None));
        let refused = || UpstreamTlsError::Refused("it is another's".to_owned());
        let gone = || UpstreamTlsError::Unreachable(std::io::ErrorKind::ConnectionReset.into());
        for (failure, remembered) in [(refused(), true), (gone(), false), (UpstreamTlsError::Timeout, false)] {
            let proofs = Proofs::default();
            let asked = async |outcome| proofs.admit(&leaf, target, async { outcome }, REMEMBERED).await.is_ok();
            assert!(!asked(Err(failure)).await);
            assert_eq!(proofs.recent_refusal(&target).is_some(), remembered);
            assert_eq!(asked(Ok(leaf)).await, !remembered);
        }
    }

    #[test]
    fn the_oldest_certificate_is_forgotten() {
        let proofs = Proofs::default();
        let leaf = |number: usize| {
            let mut leaf = [0; 32];
            leaf[..8].copy_from_slice(&number.to_be_bytes());
            leaf
        };
        // Seen twice it counts once.
        (0..=LEAVES).chain([LEAVES, 1]).for_each(|number| proofs.learn(leaf(number)));
        let known: Vec<_> = [0, 1, 2, LEAVES].map(|number| proofs.knows(&leaf(number))).into();
        assert_eq!(known, [false, true, true, true]);
    }
}
