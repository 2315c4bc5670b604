//! A proxy's end: the stream from the controller -> snapshots for the data plane, and its answers back.

pub(crate) mod backoff;
mod certificate;
pub(crate) mod connect;
mod file;
mod following;
mod held;
mod session;
mod staging;
mod store;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isthmus_routing::snapshot::Models;
use isthmus_routing::{BackendKey, Certificate, Snapshot, Version};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Ping;

use self::backoff::{Complaints, Tries};
use self::certificate::{Keeper, Requests};
use self::connect::{ConnectError, Target};
use self::held::Held;
use self::session::{End, Session};
use self::store::Store;
use self::wanted::Wanted;

pub use self::following::Following;

/// How a proxy reaches its controller.
#[derive(Debug, Clone)]
pub struct Options {
    /// The controllers' Service, as `host:port`.
    pub controller: String,
    /// A file of PEM certificates, any of which may have signed the controller's; read at each connect.
    pub ca: PathBuf,
    /// A file with the token that proves who this proxy is; read at each connect.
    pub token: PathBuf,
    /// A folder for the last good configuration, which holds private keys; none: a restarted proxy waits for the controller.
    pub store: Option<PathBuf>,
    /// The Services whose routes are wanted; none: this is no sidecar. At most 4096 of them count.
    pub calls: Option<watch::Receiver<BTreeSet<BackendKey>>>,
    /// Where the certificate of this proxy's identity goes, with its key, which is made here; `None` when it has expired. It is asked for
    /// while the configuration has a mesh, and stored like the configuration. None: no certificate is wanted.
    pub certificate: Option<watch::Sender<Option<Arc<Certificate>>>>,
    /// Where it is said since when nobody tells what changes; `None` while a controller does, and before it was tried to reach one. None:
    /// nobody wants to know.
    pub away: Option<watch::Sender<Option<Instant>>>,
    /// The model versions that are announced.
    pub models: Models,
    /// Times and sizes.
    pub limits: Limits,
}

/// Times and sizes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Until a stream is open, from the first lookup of an address.
    pub connect: Duration,
    /// Bytes of a message from the controller.
    pub message: usize,
    /// How long the data plane may take to serve a version before the controller is told that it does not.
    pub serve: Duration,
    /// How long the controller may take to answer a request for a certificate before it is asked again.
    pub answer: Duration,
    /// Over how long proxies are spread that renew their certificates because another authority gives them now.
    pub spread: Duration,
    /// The longest wait before the second try to connect, or to get a certificate, which doubles from try to try; each wait is drawn evenly from what is allowed.
    pub first_wait: Duration,
    /// The longest wait of all.
    pub longest_wait: Duration,
    /// How long a stream must live, from when it is open, to be one after which the controller is expected back.
    pub healthy: Duration,
    /// About how often it is tried to connect while a controller is expected at any moment, and over how long the first tries of proxies
    /// are spread whose streams end together.
    pub pace: Duration,
    /// For how long a controller is expected at any moment: after the start, and after a stream that has lived, or that has ended because
    /// another controller leads.
    pub expected: Duration,
    /// When a controller that says nothing is dead.
    pub ping: Ping,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            message: 64 << 20,
            serve: Duration::from_secs(30),
            answer: Duration::from_secs(15),
            spread: Duration::from_secs(60),
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(10),
            healthy: Duration::from_secs(10),
            pace: Duration::from_secs(1),
            expected: Duration::from_secs(60),
            ping: Ping::default(),
        }
    }
}

/// What the data plane says of the snapshot that it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// [`Snapshot::version`] of the one that it was given; none before the first.
    pub version: Option<Version>,
    /// Listeners, by name, that do not serve as they should, and why.
    pub faults: BTreeMap<String, String>,
}

/// Referrals that are followed one after the other before the controllers' Service is asked again.
const REFERRALS: u32 = 3;

/// Follows the controller for ever. The last good configuration is sent to `snapshots` before anything else; then each committed version,
/// completed with what was held for its kept references. What `snapshots` holds at first is not looked at, and the first value that is sent
/// may equal it. A version is acknowledged when `outcomes` says that it is served.
///
/// Ends when dropped: the stream breaks off, what was committed stays.
pub async fn run(options: Options, snapshots: watch::Sender<Arc<Snapshot>>, outcomes: watch::Receiver<Outcome>) -> Infallible {
    let Some(certificate) = options.certificate.clone() else { return follow(&options, snapshots, outcomes, None).await };
    let (keeper, requests) = Keeper::new(certificate, snapshots.subscribe(), options.store.clone(), &options.limits);
    tokio::select! {
        never = keeper.run() => never,
        never = follow(&options, snapshots, outcomes, Some(requests)) => never,
    }
}

/// What is said besides answers, and outlives streams.
#[derive(Debug)]
struct Asks {
    wanted: Wanted,
    /// None: no certificate is wanted.
    requests: Option<Requests>,
    presence: Presence,
}

/// Says since when there is no controller, to whoever wants to know.
#[derive(Debug)]
struct Presence(Option<watch::Sender<Option<Instant>>>);

impl Presence {
    /// A controller has said what its configuration is.
    fn is_there(&self) {
        if let Some(away) = &self.0 {
            away.send_if_modified(|since| since.take().is_some());
        }
    }

    /// There is no stream, or not any more. The first time since there was one counts.
    fn is_away(&self) {
        if let Some(away) = &self.0 {
            away.send_if_modified(|since| since.replace(since.unwrap_or_else(Instant::now)).is_none());
        }
    }
}

async fn follow(
    options: &Options,
    snapshots: watch::Sender<Arc<Snapshot>>,
    outcomes: watch::Receiver<Outcome>,
    requests: Option<Requests>,
) -> Infallible {
    let store = options.store.clone().map(Store::open);
    let mut held = Held::new(snapshots, outcomes);
    let wanted = Wanted::new(options.calls.clone());
    let mut asks = Asks { wanted, requests, presence: Presence(options.away.clone()) };
    if let Some(stored) = match &store {
        Some(store) => store.load().await,
        None => None,
    } {
        tracing::info!(version = %stored.version, "the last good configuration is served until the controller answers");
        asks.wanted.store(stored.snapshot.services.keys());
        held.restore(stored).await;
    }
    let mut tries = Tries::new(&options.limits);
    let mut complaints = Complaints::default();
    let mut referrals = Referrals::default();
    loop {
        let target = referrals.next(&options.controller);
        let hello = held.hello(&options.models, asks.wanted.hello());
        let wait = match connect::open(options, &target, hello).await {
            Ok(stream) => {
                tracing::info!(%target, peer = %stream.peer, "connected to the controller");
                complaints.forget();
                let opened = Instant::now();
                let end = Session::new(stream, &mut held, &mut asks, store.as_ref(), &options.limits).run().await;
                let healthy = opened.elapsed() >= options.limits.healthy;
                if healthy {
                    referrals.reset();
                }
                if healthy || matches!(end, End::Refer(_)) {
                    tries.are_due_anew();
                }
                match end {
                    End::Renew if healthy => None,
                    end => {
                        end.tell(&target);
                        if let End::Refer(Some(address)) = end {
                            // Where it is one referral too many, the Service is asked.
                            let _ = referrals.follow(address);
                        }
                        Some(tries.after_stream())
                    }
                }
            }
            Err(ConnectError::Referred(address)) if referrals.follow(address) => None,
            Err(error) => {
                complaints.say(&format!("{target}: {error}"), held.version().is_some(), tries.are_for_its_return());
                Some(tries.after_failure(error.outlook()))
            }
        };
        asks.presence.is_away();
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Where to go on, so that two controllers that name each other are no endless loop.
#[derive(Debug, Default)]
struct Referrals {
    next: Option<SocketAddr>,
    followed: u32,
}

impl Referrals {
    fn next(&mut self, controller: &str) -> Target {
        match self.next.take() {
            Some(address) => Target::Leader(address),
            None => Target::Service(controller.to_owned()),
        }
    }

    /// Whether it is followed; otherwise the Service is asked again, after a wait.
    fn follow(&mut self, address: SocketAddr) -> bool {
        self.followed += 1;
        if self.followed > REFERRALS {
            self.followed = 0;
            return false;
        }
        self.next = Some(address);
        true
    }

    fn reset(&mut self) {
        *self = Self { followed: 0, ..std::mem::take(self) };
    }
}
