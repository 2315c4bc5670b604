//! The two sides of a sidecar: what its workload sends, and what is sent to it. The kernel redirects both to sockets of ours, and tells where
//! each connection was going.
//!
//! A connection that cannot be told apart from one of ours, or that was going nowhere, is refused: whoever dials a port of the sidecar's
//! makes no loop. Nothing goes past the routes of a Service: until they are here its calls wait, and then fail.

mod absence;
mod detect;
pub(crate) mod inbound;
mod outbound;
mod passthrough;
pub(crate) mod socket;
mod told;
mod wanted;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pingora_core::apps::HttpServerApp;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::config::{Config, Shared, Site};
use crate::connection::Addresses;
use crate::drain::{Signals, raised};
use crate::listen::accept::Context;
use crate::stream::reset;
use crate::telemetry::{Captured, ConnectionFault, ParentMetrics, PortMetrics, Telemetry, Way};
use absence::Absence;
use socket::Original;
use told::tell;
use wanted::Wanted;

/// How long a connection waits for the configuration that it needs. 1 s: a controller answers in a tenth of that, and clients that wait for
/// longer have mostly given up.
const WAIT: Duration = Duration::from_secs(1);

/// What all captured connections share.
pub(crate) struct Capture {
    site: Arc<Site>,
    original: Original,
    wanted: Arc<Wanted>,
    absence: Absence,
    /// How many configurations have been served; 0: there is none yet.
    swaps: watch::Sender<u64>,
    passthrough: (Arc<PortMetrics>, Arc<ParentMetrics>),
    workloads: Arc<PortMetrics>,
}

/// What is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What the workload sends.
    Outbound,
    /// What is sent to it.
    Inbound,
}

/// A connection to one of the sidecar's sockets.
pub(crate) struct Fresh {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    /// Counts what comes to that socket.
    pub(crate) at: Arc<PortMetrics>,
    pub(crate) signals: Signals,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// A connection that was on its way to somewhere else.
pub(crate) struct Caught {
    pub(crate) socket: TcpStream,
    /// Whose it is.
    pub(crate) peer: SocketAddr,
    /// Where it was going.
    pub(crate) original: SocketAddr,
    /// When it was accepted.
    pub(crate) started: Instant,
    /// The same by the wall clock.
    pub(crate) start_time: SystemTime,
}

impl Side {
    /// Under which name what comes to its socket is counted.
    pub(crate) fn way(self) -> Way {
        match self {
            Self::Outbound => Way::Outbound,
            Self::Inbound => Way::Inbound,
        }
    }
}

impl Capture {
    /// Begins with what was called before.
    pub(crate) fn new(options: &crate::Capture, site: Arc<Site>, original: Original, telemetry: &Telemetry) -> Self {
        let number = options.outbound.first().map_or(0, SocketAddr::port);
        let port = |way| telemetry.captured_port(way, number);
        Self {
            site,
            original,
            wanted: Wanted::new(options.calls.clone()),
            absence: Absence::new(options.away.clone()),
            swaps: watch::Sender::new(0),
            passthrough: (port(Way::Passthrough), telemetry.captured(Captured::Passthrough)),
            workloads: port(Way::Workload),
        }
    }

    /// Another configuration is served.
    pub(crate) fn swapped(&self, config: &Config) {
        self.wanted.keep(&config.snapshot);
        self.swaps.send_modify(|swaps| *swaps += 1);
    }

    /// Whether it may be served, and where it was going.
    fn original(&self, side: Side, socket: &TcpStream) -> Result<SocketAddr, ConnectionFault> {
        let original = (self.original)(socket).map_err(|_| ConnectionFault::NotRedirected)?;
        let Some(pod) = &self.site.pod else { return Err(ConnectionFault::NotRedirected) };
        let is_elsewhere = side == Side::Inbound && !pod.addresses.contains(&original.ip());
        if pod.is_own(original) || is_elsewhere { Err(ConnectionFault::Loop) } else { Ok(original) }
    }

    /// Asks each configuration, this one and those that come, until one has the answer; none: none had it in time.
    async fn ask<T>(&self, shared: &Shared, mut answer: impl FnMut(&Arc<Config>) -> Option<T>) -> Option<T> {
        let mut swaps = self.swaps.subscribe();
        let asked = async {
            loop {
                // Before the configuration is read: the next one may come in between.
                if *swaps.borrow_and_update() > 0
                    && let Some(answer) = answer(&shared.load_full())
                {
                    return Some(answer);
                }
                swaps.changed().await.ok()?;
            }
        };
        tokio::time::timeout(WAIT, asked).await.ok().flatten()
    }
}

impl Caught {
    fn addresses(&self) -> Addresses {
        Addresses { local: self.original, peer: self.peer, destination: self.original }
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve<A: HttpServerApp + Send + Sync + 'static>(side: Side, fresh: Fresh, context: &Context<A>) {
    let Fresh { socket, peer, at, signals, permit } = fresh;
    let Some(capture) = &context.capture else { return };
    let (started, start_time) = (Instant::now(), SystemTime::now());
    let original = match capture.original(side, &socket) {
        Ok(original) => original,
        Err(fault) => {
            let why = match fault {
                ConnectionFault::Loop => "it leads to a port of the sidecar's, or to a pod that is not this one",
                _ => "it was made to a port of the sidecar's, and not redirected to it",
            };
            tell(&context.streams.telemetry, (peer, socket.local_addr().unwrap_or(peer)), fault, why);
            return refuse(&socket, &at, fault);
        }
    };
    let caught = Caught { socket, peer, original, started, start_time };
    match side {
        Side::Outbound => outbound::serve(capture, caught, &at, (signals, permit), context).await,
        Side::Inbound => {
            let mut cut = signals.cut.clone();
            let configured = tokio::select! {
                configured = capture.ask(&context.streams.config, |_| Some(())) => configured,
                () = raised(&mut cut) => return,
            };
            if configured.is_none() {
                let why = "this sidecar has no configuration yet, so its pod is not ready";
                tell(&context.streams.telemetry, (peer, original), ConnectionFault::NotHeld, why);
                return refuse(&caught.socket, &at, ConnectionFault::NotHeld);
            }
            let guard = at.accepted();
            inbound::serve(caught, (&context.streams, capture.swaps.subscribe()), guard.port(), signals).await;
            drop((guard, permit));
        }
    }
}

/// It goes nowhere; it is reset when it is dropped.
fn refuse(socket: &TcpStream, at: &Arc<PortMetrics>, fault: ConnectionFault) {
    drop(at.accepted());
    at.fault(fault);
    reset(socket);
}

#[cfg(test)]
mod tests;
