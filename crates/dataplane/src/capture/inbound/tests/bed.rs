//! A sidecar's inbound side in front of an application, without a kernel that redirects.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use isthmus_routing::{Certificate, Inbound, MtlsMode, Snapshot};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::Options;
use crate::capture::{Caught, inbound};
use crate::config::{Config, Pod, Shared, Site};
use crate::drain::Closing;
use crate::limits::Limits;
use crate::stream::Streams;
use crate::telemetry::{Telemetry, Way};

pub(crate) struct Bed {
    /// Where clients connect to; it stands for the application's own address.
    pub(crate) address: SocketAddr,
    streams: Arc<Streams>,
    site: Arc<Site>,
    certificate: watch::Sender<Option<Arc<Certificate>>>,
    swaps: watch::Sender<u64>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Bed {
    /// In front of the application at `original`.
    pub(crate) async fn start(original: SocketAddr, limits: Limits) -> Self {
        let options = Options { threads: 1, limits, ..Options::default() };
        let telemetry = Telemetry::start(&options).expect("no log");
        let (certificate, identity) = watch::channel(None);
        let pod = Pod { namespace: "shop".to_owned(), addresses: vec![[192, 0, 2, 1].into()], ..Pod::default() };
        let site = Arc::new(Site { pod: Some(pod), identity: Some(identity), ..Site::default() });
        let config: Shared = Arc::new(ArcSwap::from_pointee(Config::before(site.clone())));
        let streams = Arc::new(Streams { config, telemetry: telemetry.clone(), limits: Arc::new(options.limits) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (port, shared) = (telemetry.captured_port(Way::Inbound, 15422), streams.clone());
        let (swaps, swapped) = watch::channel(0);
        let accepting = tokio::spawn(async move {
            let (_closing, signals) = Closing::new();
            loop {
                let (socket, peer) = listener.accept().await.expect("a connection");
                let caught = Caught { socket, peer, original, started: Instant::now(), start_time: SystemTime::now() };
                let (streams, port, signals, swapped) = (shared.clone(), port.clone(), signals.clone(), swapped.clone());
                tokio::spawn(async move { inbound::serve(caught, (&streams, swapped), &port, signals).await });
            }
        });
        Self { address, streams, site, certificate, swaps, accepting }
    }

    /// Serves this from now on, as the workload with this certificate.
    pub(crate) fn serve(&self, mut snapshot: Snapshot, mode: MtlsMode, certificate: Option<&Certificate>) {
        snapshot.inbound = Some(Arc::new(Inbound { mode, ..Inbound::default() }));
        self.certificate.send_replace(certificate.cloned().map(Arc::new));
        let before = self.streams.config.load_full();
        let config = Config::compile(&Arc::new(snapshot), &self.site, Some(&before), &self.streams.telemetry);
        self.streams.config.store(Arc::new(config));
        self.swaps.send_modify(|swaps| *swaps += 1);
    }

    /// The sum of the metrics whose lines contain all of `parts`.
    pub(crate) fn count(&self, parts: &[&str]) -> u64 {
        let text = self.streams.telemetry.expose(Instant::now());
        let lines = text.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// All refusals, and those for this reason.
    pub(crate) fn faults(&self, reason: &str) -> (u64, u64) {
        let of = |reason| self.count(&["isthmus_connection_faults_total", reason]);
        (of("reason="), of(&format!("reason=\"{reason}\"")))
    }

    /// Waits until none is open, so that the next configuration finds none to cut off.
    pub(crate) async fn idle(&self) {
        while self.count(&["isthmus_stream_connections_active{"]) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until one connection has been refused since `before`, for this reason.
    pub(crate) async fn refused(&self, before: (u64, u64), reason: &str) {
        for _ in 0..400 {
            if self.faults(reason) == (before.0 + 1, before.1 + 1) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not one {reason} in:\n{}", self.streams.telemetry.expose(Instant::now()));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
