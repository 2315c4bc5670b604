//! The controller's end: snapshots of Gateways and of the mesh -> each proxy's own part, and what the proxies say of them. Certificates for
//! workloads are asked for and handed out on the same streams.

mod accept;
mod admit;
mod failures;
mod parts;
mod published;
mod registry;
mod session;
mod sign;
mod strangers;
mod unanswered;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use isthmus_routing::snapshot::{Lacking, ModelVersion, Models};
use isthmus_routing::{BackendKey, Certificate, GatewayKey, Identity, Inbound, Snapshot, Version};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Ping;

use self::failures::Failures;
use self::published::Published;
use self::registry::Registry;
use self::strangers::Strangers;

/// How a server runs.
#[derive(Clone)]
pub struct Options {
    /// What it shows to proxies. A new one is for new connections; one that cannot be used is logged, and the one before stays.
    pub tls: watch::Receiver<Arc<Certificate>>,
    /// Who may connect.
    pub authenticate: Authenticate,
    /// Makes certificates of workloads.
    pub sign: Sign,
    /// Whether it accepts streams.
    pub role: watch::Receiver<Role>,
    /// The model versions that it can write for.
    pub models: Models,
    /// What proxies and strangers may take.
    pub limits: Limits,
}

/// A bearer token -> whose it is. May take its time; it is cut after [`Limits::admission`].
pub type Authenticate = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Peer, Denied>> + Send + Sync>;

/// A workload's identity, and a request for a certificate (PKCS #10 as PEM) of which nothing but the public key counts -> a chain as PEM, the
/// leaf first. May take its time; it is cut after [`Limits::sign`].
pub type Sign = Arc<dyn Fn(Identity, String) -> BoxFuture<'static, Result<String, Denied>> + Send + Sync>;

/// Who a proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it serves.
    pub subject: Subject,
    /// Its pod, of the namespace of its identity; a new stream of a pod takes the place of its old one.
    pub pod: String,
}

/// What a proxy serves, and with whose identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The traffic that enters by a Gateway.
    Gateway {
        /// The Gateway whose snapshot it gets, and no other.
        gateway: GatewayKey,
        /// As whom it calls workloads.
        identity: Identity,
    },
    /// What a workload calls, and what calls it.
    Workload {
        /// The workload's.
        identity: Identity,
    },
}

impl Subject {
    /// As whom it calls.
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Gateway { identity, .. } | Self::Workload { identity } => identity,
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.subject {
            Subject::Gateway { gateway, .. } => write!(f, "{} of {gateway}", self.pod),
            Subject::Workload { identity } => write!(f, "{} of {identity}", self.pod),
        }
    }
}

/// What is to be served.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    /// Each Gateway's own. One that is left out is not served: its proxies keep what they have.
    pub gateways: BTreeMap<GatewayKey, Arc<Snapshot>>,
    /// The mesh; none: sidecars keep what they have.
    pub mesh: Option<MeshPublication>,
}

/// The mesh. A sidecar gets what [`Snapshot::of_workload`] makes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshPublication {
    /// Everything that a sidecar may get a part of; the rest is passed over.
    pub snapshot: Arc<Snapshot>,
    /// What workloads ask of their callers, by namespace and name of the pod.
    pub inbound: BTreeMap<(String, String), Arc<Inbound>>,
    /// The same for a pod that is not there, because nobody has seen it yet.
    pub unseen: Arc<Inbound>,
}

/// The names of what was published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// For each Gateway what [`Proxy::acked`] is to become.
    pub gateways: BTreeMap<GatewayKey, Version>,
    /// What [`Sidecar::acked`] is to become: a number that grows with each publication whose mesh is another one. 0: there was none yet.
    pub mesh: u64,
}

/// Why a token is not taken, or a certificate not given. The text is the answer's, so it names nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token proves nothing, and somebody had to be asked about it (401).
    #[error("{0}")]
    Unauthorized(String),
    /// The token proves nothing, as was known without asking anybody (401).
    #[error("{0}")]
    Unasked(String),
    /// It proves somebody who may not connect (403).
    #[error("{0}")]
    Forbidden(String),
    /// It could not be looked at now (503): the proxy tries again.
    #[error("{0}")]
    Unavailable(String),
}

/// What a replica does with proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves them.
    Leader,
    /// It sends them on.
    Follower {
        /// Where the leader's server is, if that is known.
        leader: Option<SocketAddr>,
    },
}

/// What proxies and strangers may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams at once; more are refused with 503.
    pub streams: usize,
    /// Connections without a stream at once; more wait in the backlog.
    pub strangers: usize,
    /// Of these, from one address; more are cut.
    pub strangers_each: usize,
    /// Tokens that are looked at at once; more wait.
    pub authentications: usize,
    /// Tokens that proved nothing, and about which somebody was asked, within [`Limits::forget`]; then hardly any token is looked at (503).
    pub failures: usize,
    /// Tokens that were not taken, from one address, or one /64 of IPv6; then hardly any from there is looked at (429).
    pub failures_each: usize,
    /// How long it takes until such a number of tokens is forgotten, one after the other.
    pub forget: Duration,
    /// The TLS handshake, from accept.
    pub handshake: Duration,
    /// The request with its token and the first message, from the handshake's end.
    pub admission: Duration,
    /// Bytes of a message to a proxy.
    pub item: usize,
    /// Bytes of a message from a proxy.
    pub message: usize,
    /// How long a proxy may take nothing of what waits for it before it is dropped.
    pub write: Duration,
    /// Versions that a proxy has not answered; then the next one waits.
    pub unanswered: usize,
    /// When a proxy that says nothing is dead.
    pub ping: Ping,
    /// How long the making of a certificate may take; then the proxy is told that there is none.
    pub sign: Duration,
    /// How soon after a request for a certificate a stream's next one is looked at.
    pub sign_every: Duration,
    /// How long a stream may live, less up to a tenth by chance; then the proxy has to prove again who it is.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 4096,
            strangers: 512,
            strangers_each: 64,
            authentications: 32,
            failures: 600,
            failures_each: 30,
            forget: Duration::from_secs(60),
            handshake: Duration::from_secs(10),
            admission: Duration::from_secs(10),
            item: 64 << 20,
            message: 1 << 20,
            write: Duration::from_secs(30),
            unanswered: 32,
            ping: Ping::default(),
            sign: Duration::from_secs(10),
            sign_every: Duration::from_secs(1),
            age: Duration::from_secs(3600),
        }
    }
}

/// The connected proxies of each Gateway, by pod. A Gateway without proxies is not there.
pub type Proxies = BTreeMap<GatewayKey, BTreeMap<String, Proxy>>;

/// A connected proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its release.
    pub package: String,
    /// What it is spoken to in.
    pub model: ModelVersion,
    /// The published version that its data plane serves, also where the proxy was sent it in an older model.
    pub acked: Option<Version>,
    /// The published version that it refused after that, and why; it goes on with `acked`.
    pub nack: Option<(Version, String)>,
    /// Listeners, by name, that do not serve as they should, and why: as of its last answer.
    pub listeners: BTreeMap<String, String>,
    /// Items that it passes over because it does not know their kind.
    pub unknown: Vec<String>,
    /// Rules that its model cannot run, which answer 500 there: as of what it was sent at last.
    pub lacking: Lacking,
}

/// The connected sidecars, by namespace and name of the pod.
pub type Sidecars = BTreeMap<(String, String), Sidecar>;

/// A connected sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// Its release.
    pub package: String,
    /// What it is spoken to in.
    pub model: ModelVersion,
    /// The newest publication of which its data plane serves its part: also one that has changed nothing of that part. See
    /// [`Versions::mesh`].
    pub acked: Option<u64>,
    /// The publication of which it refused its part after that, and why; it goes on with `acked`.
    pub nack: Option<(u64, String)>,
    /// The Services whose routes it wants. What it was not given yet it does not serve: calls wait for it.
    pub calls: Arc<BTreeSet<BackendKey>>,
    /// Rules that its model cannot run, which answer 500 there: as of what it was sent at last.
    pub lacking: Lacking,
}

/// What happened since the start; all but `connected` only grow.
#[derive(Debug, Default)]
pub struct Counts {
    /// Streams now.
    pub connected: AtomicU64,
    /// Streams ever.
    pub streams: AtomicU64,
    /// Versions that were sent to a proxy.
    pub commits: AtomicU64,
    /// Answers that a version is served.
    pub acks: AtomicU64,
    /// Answers that a version is not served.
    pub nacks: AtomicU64,
    /// Requests that were sent on to the leader.
    pub referred: AtomicU64,
    /// Requests with a token that was not taken (401, 403).
    pub denied: AtomicU64,
    /// Requests whose token was not looked at, because too many of their address, or of all, were not taken.
    pub limited: AtomicU64,
    /// Requests whose token could not be looked at now.
    pub unjudged: AtomicU64,
    /// Requests that were refused for another reason.
    pub refused: AtomicU64,
    /// Connections that were cut before they had a stream: no handshake, no request, nothing said.
    pub cut: AtomicU64,
    /// Streams that ended because the proxy did not read.
    pub slow: AtomicU64,
    /// Certificates of workloads that were handed out.
    pub certificates: AtomicU64,
    /// Requests for one that were answered with a reason why not.
    pub certificates_denied: AtomicU64,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address cannot be told.
    #[error("the socket of the push server cannot be used: {0}")]
    Socket(#[from] std::io::Error),
    /// Its first certificate cannot be used.
    #[error("the certificate of the push server cannot be used: {0}")]
    Certificate(String),
}

/// A running server. Dropping it ends every stream; proxies go on with what they have.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    published: watch::Sender<Option<Published>>,
    tasks: [JoinHandle<()>; 2],
}

/// What all connections share.
struct Shared {
    options: Options,
    published: watch::Receiver<Option<Published>>,
    registry: Arc<Registry>,
    counts: Arc<Counts>,
    streams: Arc<Semaphore>,
    strangers: Arc<Strangers>,
    authentications: Semaphore,
    failures: Failures,
    /// When it was told last that a proxy gets no certificate.
    complained: Mutex<Option<Instant>>,
}

impl Server {
    /// Serves on `listener` in the current tokio runtime. Until the first [`Server::publish`] proxies are told to come again.
    ///
    /// # Errors
    /// When the first certificate cannot be used.
    pub fn start(listener: TcpListener, options: Options) -> Result<Self, StartError> {
        let address = listener.local_addr()?;
        let (published, receiver) = watch::channel(None);
        let limits = &options.limits;
        let shared = Arc::new(Shared {
            streams: Arc::new(Semaphore::new(limits.streams)),
            strangers: Strangers::new(limits.strangers, limits.strangers_each),
            authentications: Semaphore::new(limits.authentications),
            failures: Failures::new(limits.failures, limits.failures_each, limits.forget),
            complained: Mutex::default(),
            published: receiver,
            registry: Arc::default(),
            counts: Arc::default(),
            options,
        });
        let accepting = tokio::spawn(accept::run(listener, accept::Acceptor::new(&shared)?, shared.clone()));
        let telling = tokio::spawn(shared.registry.clone().tell());
        Ok(Self { shared, address, published, tasks: [accepting, telling] })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends every proxy what has changed of its part, and says how the proxies will call what is published here. Takes the place of all that
    /// was published before. A snapshot that is the one before, by pointer or by value, costs nothing; another one of a Gateway is
    /// hashed here, and of another mesh only what all sidecars hold.
    pub fn publish(&self, publication: Publication) -> Versions {
        let next = Published::new(publication, self.published.borrow().as_ref());
        let versions = next.versions();
        self.published.send_if_modified(|published| {
            let changed = published.as_ref().is_none_or(|published| !published.is_same(&next));
            if changed {
                *published = Some(next);
            }
            changed
        });
        versions
    }

    /// The connected proxies of Gateways; changes with every connection, answer and end.
    pub fn proxies(&self) -> watch::Receiver<Arc<Proxies>> {
        self.shared.registry.proxies()
    }

    /// The connected sidecars; changes soon after connections, answers and ends, many of them at once.
    pub fn sidecars(&self) -> watch::Receiver<Arc<Sidecars>> {
        self.shared.registry.sidecars()
    }

    /// What happened since the start.
    pub fn counts(&self) -> Arc<Counts> {
        self.shared.counts.clone()
    }
}

impl Drop for Server {
    /// Streams end because nothing will be published any more.
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("role", &*self.role.borrow()).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).field("counts", &self.counts).finish_non_exhaustive()
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
