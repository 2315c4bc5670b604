//! Snapshots -> served requests: Pingora behind our own accept loops. The only crate that names `pingora-*`.

#![forbid(unsafe_code)]

mod admin;
mod balance;
mod capture;
mod config;
mod connection;
mod drain;
mod filter;
mod identity;
mod limits;
mod listen;
pub mod process;
mod proxy;
mod proxy_protocol;
mod report;
mod stream;
mod telemetry;
mod tls;
mod udp;
mod upstream;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use isthmus_routing::{BackendKey, Certificate, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::admin::Admin;
use crate::config::{Config, Pod, Site};
use crate::connection::serve::Front;
use crate::drain::{Readiness, State};
use crate::listen::accept::Context;
use crate::listen::permit::Permits;
use crate::listen::{Drain, Manager};
use crate::stream::Streams;
use crate::telemetry::Telemetry;

pub use crate::limits::Limits;
pub use crate::report::{ListenerReport, Report, ServiceReport};

/// How a data plane runs. See `docs/defaults.md` for every default with its reason.
#[derive(Debug, Clone)]
pub struct Options {
    /// Worker threads of the runtime that it runs in; sizes Pingora's pools.
    pub threads: usize,
    /// Where `/readyz`, `/metrics` and `/debug/snapshot` answer: the first of these that can be had; none: nowhere.
    pub admin: Vec<SocketAddr>,
    /// More pages for the admin server, none of which is one of its own.
    pub pages: axum::Router,
    /// Where access logs go.
    pub access_log: AccessLog,
    /// An OTLP/HTTP endpoint for spans (`http://127.0.0.1:4318`); none: no spans are made, trace headers pass.
    pub otlp: Option<String>,
    /// What clients may take; the default is for a port that faces the internet.
    pub limits: Limits,
    /// Where a Gateway that names no address listens; none: nowhere. `0.0.0.0` takes IPv4 only and `::` IPv6 only, so both may be here.
    pub addresses: Vec<IpAddr>,
    /// As whose client it stands before Services; none: the snapshot's Services are passed over, as a Gateway does.
    pub outbound: Option<Outbound>,
    /// What it takes of a pod's connections, as the pod's sidecar; none: it is no sidecar.
    pub capture: Option<Capture>,
    /// The certificate by which workloads of the mesh know it, as it changes; none: it has none and gets none.
    pub identity: Option<watch::Receiver<Option<Arc<Certificate>>>>,
    /// The first snapshot is none yet: only the admin server answers, and it is not ready, until the next one comes.
    pub placeholder: bool,
}

/// Two threads; no admin address, access log or spans; what a Gateway names is where it listens.
impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 2,
            admin: Vec::new(),
            pages: axum::Router::new(),
            access_log: AccessLog::Off,
            otlp: None,
            limits: Limits::default(),
            addresses: Vec::new(),
            outbound: None,
            capture: None,
            identity: None,
            placeholder: false,
        }
    }
}

/// The side of a client in the mesh: it listens on the addresses and ports of Services, and requests that come there are routed by the
/// Service's routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbound {
    /// The namespace of its clients: the one whose consumer routes are theirs.
    pub namespace: String,
    /// Added to the Services' ports below 1024 when they are opened, so that they need no privileges. Routes and what they answer know
    /// the Service's port only.
    pub port_offset: u16,
}

/// A sidecar: what its pod sends and what is sent to it is redirected by the kernel to sockets of the sidecar's.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The namespace of the pod: the one whose consumer routes are its own.
    pub namespace: String,
    /// Where what the pod sends is redirected to. An address of each version of IP that the pod has: a socket of one takes no other.
    pub outbound: Vec<SocketAddr>,
    /// Where what is sent to the pod is redirected to; the same holds.
    pub inbound: Vec<SocketAddr>,
    /// The addresses of the pod.
    pub pod_ips: Vec<IpAddr>,
    /// Ports of the sidecar's own, on this pod and on every other one with a sidecar: nothing is redirected from them.
    pub own_ports: BTreeSet<u16>,
    /// The ports of Services that the pod calls: what is there at the start counts as called, and each new one is added. Whoever listens
    /// sees to it that they come with the next snapshots.
    pub calls: watch::Sender<BTreeSet<BackendKey>>,
    /// Since when nobody sends snapshots, so that Services and workloads may be new that are not in the last one; `None` while somebody
    /// does. None: somebody does at all times.
    pub away: Option<watch::Receiver<Option<Instant>>>,
}

/// Ports below this one need privileges.
const PRIVILEGED: u16 = 1024;

impl Outbound {
    /// The port that is opened for a Service's port; none: the offset leads past the last one.
    pub fn socket_port(&self, port: u16) -> Option<u16> {
        if port < PRIVILEGED { port.checked_add(self.port_offset) } else { Some(port) }
    }
}

/// Where access logs go: one JSON object a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    #[default]
    Off,
    /// To standard output.
    Stdout,
    /// To a file that is appended to.
    File(std::path::PathBuf),
}

impl std::str::FromStr for AccessLog {
    type Err = std::convert::Infallible;

    /// `off`, `stdout` or the path of a file.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

/// A running data plane. Dropping it closes every listener and cuts every connection, unless a drain has begun.
#[derive(Debug)]
pub struct Dataplane {
    admin: Option<Admin>,
    readiness: Arc<Readiness>,
    reports: watch::Receiver<Arc<Report>>,
    orders: mpsc::Sender<Drain>,
    /// Closed when everything has ended.
    ended: watch::Receiver<()>,
}

/// How long the access log and spans may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// Why a data plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The admin address cannot be had.
    #[error("the admin address {address} cannot be opened: {source}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The access log cannot be opened.
    #[error("the access log {path} cannot be opened: {source}")]
    AccessLog {
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Connections cannot be captured there.
    #[error("captured connections cannot be taken at {address}: {source}")]
    Capture {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Spans cannot be exported there.
    #[error("spans cannot be exported to `{endpoint}`: {reason}")]
    Otlp {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Dataplane {
    /// Starts in the current tokio runtime and serves each value of `snapshots`, the first before this returns (unless it is a
    /// [placeholder](Options::placeholder)): its listeners are open then, or [`Dataplane::reports`] says why not. When the sender of
    /// `snapshots` goes, the last one is served on.
    ///
    /// # Errors
    /// When there are admin addresses and none can be opened, when an address of [`Options::capture`] or the access log cannot be opened, or
    /// when the OTLP endpoint cannot be used. A listener that cannot be opened is no error.
    pub async fn start(options: Options, snapshots: watch::Receiver<Arc<Snapshot>>) -> Result<Self, StartError> {
        Self::capturing(options, snapshots, Arc::new(capture::socket::original_destination)).await
    }

    /// The same, with another way to find out where captured connections were going.
    async fn capturing(
        options: Options,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        original: capture::socket::Original,
    ) -> Result<Self, StartError> {
        let telemetry = Telemetry::start(&options)?;
        let site = Arc::new(Site {
            addresses: options.addresses.clone(),
            outbound: options.outbound.clone(),
            pod: options.capture.as_ref().map(Pod::of),
            identity: options.identity.clone(),
        });
        let shared = Arc::new(ArcSwap::from_pointee(Config::before(site.clone())));
        let readiness = Arc::new(Readiness::default());
        let sources = admin::Sources { telemetry: telemetry.clone(), config: shared.clone(), readiness: readiness.clone() };
        let admin = Admin::start(&options.admin, sources, options.pages.clone()).await?;
        let capture = options.capture.as_ref();
        let sockets = capture.map(capture::socket::open).transpose()?.unwrap_or_default();
        let capture = capture.map(|options| Arc::new(capture::Capture::new(options, site.clone(), original, &telemetry)));
        let limits = Arc::new(options.limits.clone());
        let app = Arc::new(proxy::http_proxy(&options, shared.clone(), telemetry.clone()));
        let context = Context {
            front: Arc::new(Front::new(app, limits.clone())),
            streams: Streams { config: shared.clone(), telemetry: telemetry.clone(), limits: limits.clone() },
            permits: Permits::new(&limits),
            readiness: readiness.clone(),
            limits,
            capture,
        };
        let (report, reports) = watch::channel(Arc::default());
        let (orders, ordered) = mpsc::channel(1);
        let (alive, ended) = watch::channel(());
        let mut manager = Manager::new(Arc::new(context), shared, telemetry.clone(), report, site);
        let first = snapshots.borrow_and_update().clone();
        for (side, listener) in sockets {
            manager.capture(side, listener);
        }
        if !options.placeholder {
            manager.serve(first).await;
        }
        tokio::spawn(async move {
            manager.run(snapshots, ordered).await;
            telemetry.flush(FLUSH).await;
            drop(alive);
        });
        Ok(Self { admin, readiness, reports, orders, ended })
    }

    /// Says after each snapshot, and whenever a listener could be opened later, what became of it.
    pub fn reports(&self) -> watch::Receiver<Arc<Report>> {
        self.reports.clone()
    }

    /// Where the admin server answers; the port is the true one if 0 was asked for.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Not ready at once; goes on accepting, and serving new snapshots, for `lame_duck`, with `Connection: close` on every HTTP/1 response;
    /// then closes listeners and idle connections, sends GOAWAY, lets requests in flight end, and cuts what is left at `deadline` (counted
    /// from the call). At last it writes what the access log and the span exporter still hold. A second call waits for
    /// the first one's end. Cancel safe: dropping it leaves the drain running.
    pub async fn drain(&self, lame_duck: Duration, deadline: Duration) {
        self.readiness.advance(State::Draining);
        // Full or closed: a drain has begun already.
        let _ = self.orders.try_send(Drain { since: Instant::now(), lame_duck, deadline });
        // Nothing is ever sent: this is the end.
        let _ = self.ended.clone().changed().await;
    }
}
