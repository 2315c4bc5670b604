//! The authority of the mesh: a root or an intermediate in a Secret, and the certificates of workloads that it signs.
//!
//! [`plan`](plan::plan) decides what should be held where the root is our own; the leader writes it, every replica follows the Secret and
//! can sign. What a user or cert-manager puts into the Secret is used as it is. docs/mesh-identity.md is for them.

mod content;
mod issuer;
mod plan;
mod request;
mod sealed;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isthmus_push::server::{Denied, Role, Sign};
use isthmus_routing::{Identity, Mesh, MtlsMode, TrustDomain};
use kube::Client;
use rustls_pki_types::UnixTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use self::content::Content;
use self::issuer::Issuer;
use crate::authority::keep::{self, Entries, Held, Kept};
use crate::authority::{DAY, Malformed, Plan, validity};
use crate::metrics::{Issuance, Metrics};

/// The Secret, in the controller's namespace.
pub const SECRET: &str = "isthmus-mesh-ca";

/// How long the authority before goes on signing where a new one comes whose root was not trusted: proxies get the new roots meanwhile.
const SETTLE: Duration = Duration::from_secs(30);
/// How often the log says that a workload gets no certificate; the metric counts each.
const COMPLAINTS: Duration = Duration::from_secs(30);
/// How often it is told that the authority ends soon.
const TELL: Duration = Duration::from_secs(3600);
/// How long before, in seconds; or twice the lifetime of the certificates, if that is longer.
const SOON: u64 = 14 * DAY;

/// How the mesh is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Within which names of workloads mean something.
    pub trust_domain: TrustDomain,
    /// How long certificates of workloads hold.
    pub lifetime: Duration,
    /// What workloads ask of callers where neither they nor their namespace say otherwise.
    pub mtls: MtlsMode,
}

impl Default for Settings {
    /// `cluster.local`, 24 hours, permissive.
    fn default() -> Self {
        Self { trust_domain: TrustDomain::default(), lifetime: Duration::from_secs(DAY), mtls: MtlsMode::Permissive }
    }
}

/// What the Secret holds, and what signs with it.
#[derive(Debug, Clone)]
struct Issuing {
    content: Arc<Content>,
    issuer: Arc<Issuer>,
}

impl PartialEq for Issuing {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

/// Signs certificates of workloads, and says whose they trust.
#[derive(Debug, Clone)]
pub struct Authority {
    signing: watch::Receiver<Option<Arc<Issuing>>>,
    authorities: watch::Receiver<Option<Arc<Mesh>>>,
    lifetime: Duration,
    metrics: Arc<Metrics>,
    /// When the log last said that nothing can be signed.
    complained: Arc<Mutex<Option<Instant>>>,
}

impl Authority {
    /// Follows the Secret in `namespace`, and keeps it as it should be while this replica leads. Ends with the last clone.
    pub(crate) fn start(
        client: Client,
        namespace: String,
        role: watch::Receiver<Role>,
        settings: &Settings,
        metrics: Arc<Metrics>,
    ) -> Self {
        let domain = &settings.trust_domain;
        let (sender, held) = watch::channel(None);
        let workloads = Workloads { domain: domain.clone(), last: None, metrics: Arc::clone(&metrics) };
        tokio::spawn(keep::run(workloads, client, namespace, role, sender));
        let (sign, signing) = watch::channel(None);
        let (trust, authorities) = watch::channel(None);
        tokio::spawn(follow(held, domain.clone(), settings.lifetime, sign, trust, Arc::clone(&metrics)));
        Self { signing, authorities, lifetime: settings.lifetime, metrics, complained: Arc::default() }
    }

    /// Whose certificates workloads take from each other: what `ca.crt` has, the one below which certificates are given now first. None until
    /// it was read or made; then it stays, whatever happens to the Secret, until another one can be used.
    pub fn authorities(&self) -> watch::Receiver<Option<Arc<Mesh>>> {
        self.authorities.clone()
    }

    /// As the push server wants it.
    pub fn into_sign(self) -> Sign {
        Arc::new(move |identity, csr| Box::pin(self.clone().sign(identity, csr)))
    }

    /// A certificate of this identity for the key that has signed the request (PEM), with those above it but for the root (PEM). Who may
    /// have it was decided before. Dropped early, it leaves nothing behind.
    ///
    /// # Errors
    /// [`Denied::Forbidden`]: the request will never be taken. [`Denied::Unavailable`]: nothing can be signed now.
    async fn sign(self, identity: Identity, csr: String) -> Result<String, Denied> {
        // An RSA key takes milliseconds, and a thousand sidecars may ask at once.
        let signed = tokio::task::spawn_blocking(move || self.sign_now(&identity, &csr, UnixTime::now())).await;
        signed.unwrap_or_else(|_| Err(Denied::Unavailable("the controller failed to sign; its log says more".to_owned())))
    }

    fn sign_now(&self, identity: &Identity, csr: &str, now: UnixTime) -> Result<String, Denied> {
        let key = request::public_key(csr).map_err(|error| {
            self.metrics.issued(Issuance::Refused);
            debug!(%identity, "a request for a certificate is refused: {error}");
            Denied::Forbidden(error.to_string())
        })?;
        let unavailable = |why: String| {
            self.metrics.issued(Issuance::Failed);
            let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
            // A thousand sidecars may ask at once, and again and again.
            if complained.is_none_or(|last| last.elapsed() >= COMPLAINTS) {
                *complained = Some(Instant::now());
                warn!(%identity, "no certificate can be issued now: {why}; see the Secret {SECRET} and docs/mesh-identity.md");
            }
            Denied::Unavailable(why)
        };
        let issuing = self.signing.borrow().clone();
        let issuing =
            issuing.ok_or_else(|| unavailable("the authority of the mesh was not read yet, or cannot be used".to_owned()))?;
        let leaf =
            issuing.issuer.issue(identity, &key, self.lifetime.as_secs(), now).map_err(|error| unavailable(error.to_string()))?;
        self.metrics.issued(Issuance::Issued);
        debug!(%identity, serial = %hexadecimal(&leaf.serial), ends = leaf.ends, "a certificate was issued");
        Ok(leaf.chain)
    }
}

/// Publishes what the Secret holds: roots at once; what signs, when those who look at it know its roots. Then the roots' order says so.
async fn follow(
    mut held: watch::Receiver<Option<Arc<Issuing>>>,
    domain: TrustDomain,
    lifetime: Duration,
    sign: watch::Sender<Option<Arc<Issuing>>>,
    trust: watch::Sender<Option<Arc<Mesh>>>,
    metrics: Arc<Metrics>,
) {
    let mut due = None;
    let mut tell = Instant::now();
    loop {
        tokio::select! {
            changed = held.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = held.borrow_and_update().clone();
                if let Some(issuing) = &now {
                    let before = sign.borrow().clone();
                    let waiting = before.filter(|before| waits(before, issuing));
                    due = waiting.is_some().then(|| Instant::now() + SETTLE);
                    let signer = waiting.unwrap_or_else(|| Arc::clone(issuing));
                    trust.send_replace(Some(trusted(&domain, issuing, &signer)));
                    sign.send_replace(Some(signer));
                    tell = Instant::now();
                }
            }
            () = sleep_until(due.unwrap_or(tell)), if due.is_some() => {
                due = None;
                let now = held.borrow().clone();
                // First, because whoever sees the other order asks for a certificate.
                sign.send_replace(now.clone());
                if let Some(issuing) = &now {
                    trust.send_replace(Some(trusted(&domain, issuing, issuing)));
                }
            }
            () = sleep_until(tell), if held.borrow().is_some() => {
                tell = Instant::now() + TELL;
                if let Some(issuing) = &*held.borrow() {
                    let now = UnixTime::now();
                    let root = root_ends(issuing, now);
                    metrics.authority_ends(issuing.issuer.ends(), root);
                    for told in end_told(issuing, lifetime, now).into_iter().chain(root_told(issuing, root, now)) {
                        warn!("{told}");
                    }
                }
            }
            () = trust.closed() => return,
        }
    }
}

/// Whose certificates workloads take: the roots of `issuing`, and that first which is above what `signer` signs, so that a proxy sees
/// whether its certificate is of an authority that gives none any more.
fn trusted(domain: &TrustDomain, issuing: &Issuing, signer: &Issuing) -> Arc<Mesh> {
    let roots = signer.issuer.ordered(&issuing.content.roots, UnixTime::now());
    Arc::new(Mesh { trust_domain: domain.clone(), authorities: roots.concat() })
}

/// Whether a new authority has to wait, because what it signs would not be taken by those who know only the roots before; and the one
/// before can go on meanwhile.
fn waits(before: &Issuing, after: &Issuing) -> bool {
    let now = UnixTime::now();
    let takes = |roots: &Issuing, issuer: &Issuer| matches!(issuer.fault(&roots.content.roots, now), Ok(None));
    match (takes(before, &after.issuer), takes(after, &before.issuer)) {
        (true, true) => false,
        (false, true) => {
            info!("the authority of the mesh is a new one; it signs in {SETTLE:?}, when proxies have its root");
            true
        }
        (_, false) => {
            warn!(
                "the root of the certificates that workloads have has left ca.crt of the Secret {SECRET}: until each has a new certificate, \
                 for which it asks at once, they refuse each other. Put the former root back for a while if it is still to be trusted; \
                 docs/mesh-identity.md has the steps"
            );
            false
        }
    }
}

/// What there is to be said of the authority's end. Our own root is followed by another without anybody's doing.
fn end_told(issuing: &Issuing, lifetime: Duration, now: UnixTime) -> Option<String> {
    let (now, ends) = (now.as_secs(), issuing.issuer.ends());
    if ends <= now {
        return Some(format!(
            "the authority of the mesh has ended: no workload gets a certificate until the Secret {SECRET} has a new one"
        ));
    }
    let is_soon = ends - now < SOON.max(lifetime.as_secs() * 2);
    let days = (ends - now) / DAY;
    (is_soon && !issuing.content.is_own())
        .then(|| format!("the authority of the mesh ends in {days} days: whoever made the Secret {SECRET} has to renew it"))
}

/// When the root ends below which certificates are given, in seconds since 1970.
fn root_ends(issuing: &Issuing, now: UnixTime) -> u64 {
    let roots = issuing.issuer.ordered(&issuing.content.roots, now);
    roots.first().and_then(|root| validity("ca.crt", root).ok()).map_or(0, |validity| validity.to)
}

/// What there is to be said of the root's end. Where it is our own, it is the authority too.
fn root_told(issuing: &Issuing, ends: u64, now: UnixTime) -> Option<String> {
    let left = ends.saturating_sub(now.as_secs());
    (left < SOON && !issuing.content.is_own()).then(|| {
        format!(
            "the root of the mesh ends in {} days: put another one into ca.crt of the Secret {SECRET} beside it, and let that sign; \
             docs/mesh-identity.md has the steps",
            left / DAY
        )
    })
}

/// What a user has put there is theirs: it is never written over, and the last good one is used on.
struct Workloads {
    domain: TrustDomain,
    last: Option<Issuing>,
    metrics: Arc<Metrics>,
}

impl Workloads {
    fn issuing(&self, content: Content, now: UnixTime) -> Result<Issuing, Malformed> {
        let issuer = Issuer::new(&content, &self.domain, now)?;
        Ok(Issuing { content: Arc::new(content), issuer: Arc::new(issuer) })
    }
}

impl Kept for Workloads {
    const SECRET: &'static str = SECRET;
    /// What cert-manager makes, which then can take it over: the type of a Secret cannot be changed.
    const TYPE: &'static str = "kubernetes.io/tls";
    const MALFORMED: &'static str = "the last good one is used on, if there was one since this instance started. Put it right, or delete \
                                     it: then one is made here";
    type Content = Issuing;
    type Material = Issuing;

    fn read(&mut self, entries: &Entries, now: UnixTime) -> Result<Issuing, Malformed> {
        let read = Content::read(entries).and_then(|content| match &self.last {
            Some(last) if *last.content == content => Ok(last.clone()),
            _ => self.issuing(content, now),
        });
        self.metrics.authority_unusable(read.is_err());
        read
    }

    fn entries(issuing: &Issuing) -> Entries {
        issuing.content.entries()
    }

    fn material(&mut self, issuing: &Issuing) -> Issuing {
        self.last = Some(issuing.clone());
        issuing.clone()
    }

    fn plan(&self, held: Held<'_, Issuing>, now: UnixTime) -> Result<Option<Plan<Issuing>>, Malformed> {
        let (held, restored) = match (held, &self.last) {
            (Held::Malformed, _) => return Ok(None),
            (Held::Content(issuing), _) => (Some(issuing), None),
            (Held::Nothing, None) => (None, None),
            (Held::Nothing, Some(last)) if last.content.is_own() => {
                (Some(last), Some("it was deleted, and holds again what it held"))
            }
            (Held::Nothing, Some(_)) => {
                self.metrics.authority_unusable(true);
                warn!(
                    "the Secret {SECRET} is gone, and was not made here: what it held is used on until this instance ends. Put it back; or \
                     restart the controller, which then makes a root of its own"
                );
                return Ok(None);
            }
        };
        let Plan { content, change } = plan::plan(held.map(|held| &*held.content), now)?;
        Ok(Some(Plan { content: self.issuing(content, now)?, change: change.or(restored) }))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
