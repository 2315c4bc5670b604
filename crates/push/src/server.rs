//! The controller's end: snapshots of Gateways -> each proxy's own, and what the proxies say of them.

mod accept;
mod admit;
mod published;
mod registry;
mod session;
mod strangers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use isthmus_routing::snapshot::{Lacking, ModelVersion, Models};
use isthmus_routing::{Certificate, GatewayKey, Snapshot, Version};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::Ping;

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
    /// Whether it accepts streams.
    pub role: watch::Receiver<Role>,
    /// The model versions that it can write for.
    pub models: Models,
    /// What proxies and strangers may take.
    pub limits: Limits,
}

/// A bearer token -> whose it is. May take its time; it is cut after [`Limits::admission`].
pub type Authenticate = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Identity, Denied>> + Send + Sync>;

/// Who a proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The Gateway whose snapshot it gets, and no other.
    pub gateway: GatewayKey,
    /// Its pod; a new stream of a pod takes the place of its old one.
    pub pod: String,
}

/// Why a token is not taken. The text is the answer's, so it names nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token proves nothing (401).
    #[error("{0}")]
    Unauthorized(String),
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
            handshake: Duration::from_secs(10),
            admission: Duration::from_secs(10),
            item: 64 << 20,
            message: 1 << 20,
            write: Duration::from_secs(30),
            unanswered: 32,
            ping: Ping::default(),
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
    /// Requests that were refused for another reason.
    pub refused: AtomicU64,
    /// Connections that were cut before they had a stream: no handshake, no request, nothing said.
    pub cut: AtomicU64,
    /// Streams that ended because the proxy did not read.
    pub slow: AtomicU64,
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
    accepting: JoinHandle<()>,
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
            published: receiver,
            registry: Arc::default(),
            counts: Arc::default(),
            options,
        });
        let accepting = tokio::spawn(accept::run(listener, accept::Acceptor::new(&shared)?, shared.clone()));
        Ok(Self { shared, address, published, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends every Gateway's proxies what has changed, and says which version each Gateway has now: the one that
    /// [`Proxy::acked`] is to become. Takes the place of all that was published before; a Gateway that is left out is not served, and
    /// its proxies keep what they have. A snapshot that is the one before, by pointer or by value, costs nothing; another one is
    /// hashed here.
    pub fn publish(&self, snapshots: BTreeMap<GatewayKey, Arc<Snapshot>>) -> BTreeMap<GatewayKey, Version> {
        let next = Published::new(snapshots, self.published.borrow().as_ref());
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

    /// The connected proxies; changes with every connection, answer and end.
    pub fn proxies(&self) -> watch::Receiver<Arc<Proxies>> {
        self.shared.registry.proxies()
    }

    /// What happened since the start.
    pub fn counts(&self) -> Arc<Counts> {
        self.shared.counts.clone()
    }
}

impl Drop for Server {
    /// Streams end because nothing will be published any more.
    fn drop(&mut self) {
        self.accepting.abort();
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
