//! Snapshots -> served requests: Pingora behind our own accept loops. The only crate that names `pingora-*`.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_routing::{GatewayKey, Snapshot, Version};
use tokio::sync::watch;

/// How a data plane runs. See `docs/defaults.md` for every default with its reason.
#[derive(Debug, Clone)]
pub struct Options {
    /// Worker threads of the runtime that it runs in; sizes Pingora's pools.
    pub threads: usize,
    /// Where `/readyz`, `/metrics` and `/debug/snapshot` answer; none: nowhere.
    pub admin: Option<SocketAddr>,
    /// Where access logs go.
    pub access_log: AccessLog,
    /// An OTLP/HTTP endpoint for spans (`http://127.0.0.1:4318`); none: no spans are made, trace headers pass.
    pub otlp: Option<String>,
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

/// What became of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The snapshot that is served; none before the first.
    pub version: Option<Version>,
    /// Every listener of it on every address.
    pub listeners: Vec<ListenerReport>,
}

/// A listener on one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerReport {
    /// The Gateway.
    pub gateway: GatewayKey,
    /// The listener's name.
    pub name: String,
    /// Where it listens (or cannot).
    pub address: SocketAddr,
    /// Why it cannot, in one line that says what to do.
    pub fault: Option<String>,
}

/// A running data plane.
#[derive(Debug)]
pub struct Dataplane {}

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
}

impl Dataplane {
    /// Starts in the current tokio runtime and serves each value of `snapshots`, the first at once.
    ///
    /// # Errors
    /// When the admin address or the access log cannot be opened. A listener that cannot be opened is no error: see [`Dataplane::reports`].
    pub async fn start(_options: Options, _snapshots: watch::Receiver<Arc<Snapshot>>) -> Result<Self, StartError> {
        Ok(Self {})
    }

    /// Says after each snapshot what became of it.
    pub fn reports(&self) -> watch::Receiver<Arc<Report>> {
        watch::channel(Arc::default()).1
    }

    /// Not ready at once; goes on accepting for `lame_duck`; then closes listeners, lets requests in flight end, and cuts what is left
    /// at `deadline` (counted from the call). Cancel safe: dropping it leaves the drain running.
    pub async fn drain(&self, _lame_duck: Duration, _deadline: Duration) {}
}
