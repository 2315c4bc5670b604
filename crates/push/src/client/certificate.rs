//! The certificate of this proxy's identity: asked for in time and when the mesh's authorities change, kept over restarts, taken back when it
//! has expired.
//!
//! The key is made here, one for each certificate, and leaves this process only for the folder of the store.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_routing::{Certificate, Mesh, Snapshot};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::leaf::{Leaf, Stored};
use self::standing::Standing;
use super::backoff::Backoff;
use super::{Limits, file};

mod leaf;
mod standing;

const FILE: &str = "certificate";
/// The share of its life after which a certificate is to be renewed; up to a tenth more by chance, so that proxies that started together do
/// not ask together for ever.
const RENEW: f64 = 0.5;
const JITTER: f64 = 0.1;
/// The share of its life after which it is said that it was not renewed.
const WARN: f64 = 0.8;
/// How often that is said.
const WARN_AGAIN: Duration = Duration::from_secs(60);
/// How often one that is of a former authority is renewed early while the authorities stay the same: a controller that goes on with the former
/// one is not asked for ever.
const EARLY: u32 = 3;
/// The longest sleep: the clock of the wall may be set meanwhile.
const LOOK: Duration = Duration::from_secs(30);

/// What the controller has answered to a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// PEM, the leaf first.
    Certificate(String),
    /// Why there is none.
    Denied(String),
}

/// A stream's end of a [`Keeper`].
#[derive(Debug)]
pub(super) struct Requests {
    /// The request (PKCS #10 as PEM) that is to be answered, on whichever stream.
    current: watch::Receiver<Option<Arc<str>>>,
    answers: mpsc::Sender<Answer>,
}

impl Requests {
    /// What has to be asked on a stream on which nothing was asked yet.
    pub(super) fn current(&mut self) -> Option<Arc<str>> {
        self.current.borrow_and_update().clone()
    }

    /// Waits for another request, or for the same if it has to be asked again; for ever if there will be none. Cancel safe.
    pub(super) async fn changed(&mut self) {
        if self.current.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Never waits. What nobody has asked for is passed over.
    pub(super) fn answer(&self, answer: Answer) {
        // Too many answers, of which only the first counts.
        let _ = self.answers.try_send(answer);
    }
}

/// Where it asks for a certificate, and for whom.
#[derive(Debug)]
pub(super) struct Keeper {
    certificate: watch::Sender<Option<Arc<Certificate>>>,
    /// Without a mesh there is nobody to ask.
    snapshots: watch::Receiver<Arc<Snapshot>>,
    folder: Option<PathBuf>,
    /// How long an answer may take.
    patience: Duration,
    backoff: Backoff,
    current: watch::Sender<Option<Arc<str>>>,
    answers: mpsc::Receiver<Answer>,
    /// Over how long early renewals are spread.
    spread: Duration,
    held: Option<Held>,
    trust: Trust,
    asking: Option<Asking>,
    /// Why the last request has brought nothing.
    fault: Option<String>,
    warned: Option<Instant>,
}

/// The certificate in use.
#[derive(Debug)]
struct Held {
    leaf: Leaf,
    /// When to ask for the next one, if nothing changes.
    renew: SystemTime,
}

/// What the certificate in use is worth by the mesh's authorities.
#[derive(Debug, Default)]
struct Trust {
    /// Whose authorities these are.
    mesh: Option<Arc<Mesh>>,
    /// Whether the certificate in use was looked at.
    is_judged: bool,
    /// When to ask for the next one because of what was seen.
    early: Option<SystemTime>,
    /// How often it may still be asked early.
    left: u32,
}

/// A request under way. It stays the same until it has brought something, so that an answer that comes late is one all the same.
#[derive(Debug)]
struct Asking {
    key: KeyPair,
    csr: Arc<str>,
    /// When to give an answer up, or, if it is given up, when to ask again.
    next: Instant,
    given_up: bool,
}

impl Keeper {
    pub(super) fn new(
        certificate: watch::Sender<Option<Arc<Certificate>>>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        folder: Option<PathBuf>,
        limits: &Limits,
    ) -> (Self, Requests) {
        let (current, requests) = watch::channel(None);
        let (sender, answers) = mpsc::channel(1);
        let keeper = Self {
            certificate,
            snapshots,
            folder,
            patience: limits.answer,
            backoff: Backoff::new(limits),
            current,
            answers,
            spread: limits.spread,
            held: None,
            trust: Trust::default(),
            asking: None,
            fault: None,
            warned: None,
        };
        (keeper, Requests { current: requests, answers: sender })
    }

    /// For ever.
    pub(super) async fn run(mut self) -> Infallible {
        self.restore().await;
        loop {
            self.act(SystemTime::now());
            let wake = self.wake(SystemTime::now());
            tokio::select! {
                Some(answer) = self.answers.recv() => self.take(answer).await,
                Ok(()) = self.snapshots.changed() => {}
                () = tokio::time::sleep(wake) => {}
            }
        }
    }

    async fn restore(&mut self) {
        let Some(folder) = &self.folder else { return };
        let path = folder.join(FILE);
        let read = path.clone();
        let loaded = tokio::task::spawn_blocking(move || file::load::<Stored>(&read)).await;
        let loaded = loaded.unwrap_or_else(|error| Err(error.to_string()));
        match loaded.and_then(|stored| stored.map(Leaf::restore).transpose()) {
            Ok(Some(leaf)) if leaf.left(SystemTime::now()).is_some() => self.hold(leaf),
            Ok(_) => {}
            Err(fault) => {
                tracing::warn!("the certificate in {} cannot be used, another one is asked for: {fault}", path.display());
            }
        }
    }

    /// Does what is due.
    fn act(&mut self, now: SystemTime) {
        let mesh = self.snapshots.borrow_and_update().mesh.clone();
        if self.held.as_ref().is_some_and(|held| held.leaf.left(now).is_none()) {
            self.held = None;
            self.certificate.send_replace(None);
            tracing::error!(
                "the certificate of this proxy has expired and calls of the mesh fail until the controller gives another one: {}",
                self.why()
            );
        }
        self.warn(now);
        let Some(mesh) = mesh else {
            self.asking = None;
            self.current.send_if_modified(|current| current.take().is_some());
            return;
        };
        self.judge(&mesh, now);
        let is_due = self.held.as_ref().is_none_or(|held| now >= self.renewal(held) || !held.leaf.is_of(&mesh.trust_domain));
        match &self.asking {
            None if is_due => self.ask(),
            Some(asking) if Instant::now() >= asking.next => {
                if asking.given_up {
                    self.ask();
                } else {
                    self.give_up(format!("the controller has not answered within {} s", self.patience.as_secs_f32()));
                }
            }
            _ => {}
        }
    }

    /// Looks at the certificate in use where it or the authorities are others than before.
    fn judge(&mut self, mesh: &Arc<Mesh>, now: SystemTime) {
        let same = |seen: &Arc<Mesh>| Arc::ptr_eq(seen, mesh) || seen.authorities == mesh.authorities;
        if !self.trust.mesh.as_ref().is_some_and(same) {
            self.trust = Trust { mesh: Some(mesh.clone()), is_judged: false, early: self.trust.early, left: EARLY };
        }
        let Some(held) = self.held.as_ref().filter(|_| !self.trust.is_judged) else { return };
        self.trust.is_judged = true;
        match Standing::of(&held.leaf, &mesh.authorities, now) {
            Standing::Current => self.trust.early = None,
            Standing::Former if self.trust.left == 0 => {}
            Standing::Former => {
                self.trust.left -= 1;
                let early = now + self.spread.mul_f64(fastrand::f64());
                self.trust.early = Some(self.trust.early.map_or(early, |before| before.min(early)));
                tracing::info!(
                    "another authority of the mesh gives certificates now: the next one is asked for within {} s",
                    self.spread.as_secs_f32()
                );
            }
            Standing::Refused => {
                self.trust.early = Some(now);
                tracing::warn!(
                    "the authority of this proxy's certificate is not trusted in the mesh any more: another certificate is asked for at \
                     once, and until it is there calls of the mesh fail"
                );
            }
        }
    }

    fn renewal(&self, held: &Held) -> SystemTime {
        self.trust.early.map_or(held.renew, |early| early.min(held.renew))
    }

    /// Until something is due.
    fn wake(&self, now: SystemTime) -> Duration {
        let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
        let asking = self.asking.as_ref().map(|asking| asking.next.saturating_duration_since(Instant::now()));
        let renew = self.held.as_ref().filter(|_| self.asking.is_none()).map(|held| until(self.renewal(held)));
        let ends = self.held.as_ref().map(|held| until(held.leaf.end()));
        let warn = self.held.as_ref().filter(|_| self.warned.is_none()).map(|held| until(held.leaf.at(WARN)));
        // A clock of milliseconds may be just short of it. And without a mesh what is due is not done.
        let soon = Duration::from_millis(1);
        let has_mesh = self.snapshots.borrow().mesh.is_some();
        [asking, renew.filter(|_| has_mesh), ends, warn].into_iter().flatten().min().unwrap_or(LOOK).clamp(soon, LOOK)
    }

    /// Asks for the first time, or again for the same.
    fn ask(&mut self) {
        let next = Instant::now() + self.patience;
        let asking = match self.asking.take() {
            Some(asking) => Asking { next, given_up: false, ..asking },
            None => match request() {
                Ok((key, csr)) => Asking { key, csr, next, given_up: false },
                Err(error) => {
                    tracing::error!("no request for a certificate can be made: {error}");
                    return;
                }
            },
        };
        self.current.send_replace(Some(asking.csr.clone()));
        self.asking = Some(asking);
    }

    /// Asks again later. What is held is used on.
    fn give_up(&mut self, fault: String) {
        let Some(asking) = &mut self.asking else { return };
        (asking.next, asking.given_up) = (Instant::now() + self.backoff.next(), true);
        let news = self.fault.as_ref() != Some(&fault);
        if news && self.held.is_none() {
            tracing::warn!("this proxy has no certificate, without which calls of the mesh fail; it is asked for again: {fault}");
        } else if news {
            tracing::info!("the certificate of this proxy was not renewed yet and is used on: {fault}");
        }
        self.fault = Some(fault);
    }

    async fn take(&mut self, answer: Answer) {
        let chain = match answer {
            Answer::Certificate(chain) => chain,
            Answer::Denied(reason) => return self.give_up(reason),
        };
        let Some(asking) = &self.asking else { return };
        let mesh = self.snapshots.borrow().mesh.clone();
        match Leaf::read(Certificate { chain, key: asking.key.serialize_pem() }, SystemTime::now()) {
            Ok(leaf) if mesh.as_ref().is_some_and(|mesh| !leaf.is_of(&mesh.trust_domain)) => {
                let identity = leaf.identity();
                self.give_up(format!("what the controller has sent is for `{identity}`, which is nobody of this mesh"));
            }
            Ok(leaf) if mesh.as_ref().is_some_and(|mesh| is_refused(&leaf, mesh)) => {
                self.give_up("what the controller has sent is of an authority that the mesh does not trust".to_owned());
            }
            Ok(leaf) => {
                self.asking = None;
                self.fault = None;
                self.backoff.reset();
                self.current.send_replace(None);
                self.save(&leaf).await;
                self.hold(leaf);
            }
            Err(fault) => self.give_up(format!("what the controller has sent is no certificate for this proxy: {fault}")),
        }
    }

    async fn save(&self, leaf: &Leaf) {
        let Some(folder) = self.folder.clone() else { return };
        let (stored, target) = (leaf.stored(), folder.clone());
        let saved = tokio::task::spawn_blocking(move || file::save(&target, FILE, &stored)).await;
        if let Err(fault) = saved.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            let folder = folder.display();
            tracing::warn!(
                "the certificate of this proxy cannot be stored in {folder}: {fault}; a restart will ask for another one"
            );
        }
    }

    fn hold(&mut self, leaf: Leaf) {
        let renew = leaf.at(RENEW + JITTER * fastrand::f64());
        tracing::info!(identity = leaf.identity(), left = ?leaf.left(SystemTime::now()), "this proxy has a certificate");
        self.certificate.send_replace(Some(leaf.certificate().clone()));
        self.held = Some(Held { leaf, renew });
        (self.trust.is_judged, self.trust.early) = (false, None);
        self.warned = None;
    }

    fn warn(&mut self, now: SystemTime) {
        let Some(Held { leaf, .. }) = &self.held else { return };
        let due = now >= leaf.at(WARN) && self.warned.is_none_or(|warned| warned.elapsed() >= WARN_AGAIN);
        if let Some(left) = leaf.left(now).filter(|_| due) {
            tracing::warn!(
                "the certificate of this proxy ends in {} s and was not renewed; then calls of the mesh fail: {}",
                left.as_secs(),
                self.why()
            );
            self.warned = Some(Instant::now());
        }
    }

    /// What to do about it.
    fn why(&self) -> &str {
        self.fault.as_deref().unwrap_or("no stream from the controller; is it running, and can it be reached?")
    }
}

fn is_refused(leaf: &Leaf, mesh: &Mesh) -> bool {
    Standing::of(leaf, &mesh.authorities, SystemTime::now()) == Standing::Refused
}

/// A new key and what to ask with: nothing but the key, because the controller knows whose it is.
fn request() -> Result<(KeyPair, Arc<str>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?.pem()?;
    Ok((key, csr.into()))
}
