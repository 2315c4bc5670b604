//! Sessions from their first datagram to their end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::flow::Flow;
use super::front::Front;
use super::places::Share;
use super::refusals::Refusals;
use super::table::{Bounds, Full, Pair, Table};
use crate::balance::{BackendState, InFlight};
use crate::config::rule::CompiledRule;
use crate::config::{Bind, Config, Shared};
use crate::limits::Limits;
use crate::listen::accept::Face;
use crate::stream::route::{Refused, destination};
use crate::telemetry::{PortMetrics, UdpDrop, UdpEnd};

/// The sessions of one listening socket.
#[derive(Debug)]
pub(super) struct Sessions {
    front: Arc<Front>,
    bind: Bind,
    shared: Shared,
    /// The configuration that the sessions were last held against.
    config: Arc<Config>,
    face: Arc<ArcSwap<Face>>,
    limits: Arc<Limits>,
    table: Table<Session>,
    share: Share,
    refusals: Arc<Refusals>,
    ending: bool,
}

/// A client at an endpoint. Dropping it ends it.
#[derive(Debug)]
struct Session {
    flow: Arc<Flow>,
    answering: AbortHandle,
    backend: Arc<BackendState>,
    endpoint: InFlight,
    metrics: Arc<PortMetrics>,
    /// Why it ends, when it does.
    end: UdpEnd,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.answering.abort();
        self.metrics.udp().ended(self.end);
    }
}

impl Sessions {
    pub(super) fn new(
        front: Arc<Front>,
        bind: Bind,
        shared: Shared,
        face: Arc<ArcSwap<Face>>,
        limits: Arc<Limits>,
        share: Share,
    ) -> Self {
        let bounds = Bounds { client: limits.udp_client_sessions, in_use: limits.udp_in_use };
        let (config, refusals) = (shared.load_full(), Arc::default());
        Self { front, bind, shared, config, face, limits, table: Table::new(bounds), share, refusals, ending: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether no session can begin any more.
    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    /// No session begins from now on.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// Takes the configuration of now. A session stays as long as the listener's route refers to its backend, with whatever weight, and
    /// the backend has its endpoint. It has no end that a client sees, so one that stayed at a backend of an earlier route would stay
    /// as long as its client speaks; and of a backend that no route refers to nobody knows whether its endpoints are still its own.
    pub(super) fn follow(&mut self) {
        let config = self.shared.load();
        if Arc::ptr_eq(&config, &self.config) {
            return;
        }
        self.config = config.clone();
        let port = config.ports.get(&self.bind).filter(|_| !self.ending);
        let rule = port.and_then(|port| port.all.first()?.stream(None));
        self.table.retain(|session| {
            let key = session.backend.key();
            let stays = match config.backend(key) {
                Some(now) if !Arc::ptr_eq(now, &session.backend) && !now.has(session.endpoint.address()) => false,
                // A listener that goes away has no route; its sessions come to their own end. The configuration is there before the
                // listener is told to end.
                _ if port.is_none() => true,
                now => now.is_some() && rule.as_deref().is_some_and(|rule: &CompiledRule| rule.refers_to(key)),
            };
            if !stays {
                session.end = UdpEnd::EndpointRemoved;
            }
            stays
        });
    }

    /// Ends the sessions whose time has come.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.follow();
        let (limits, ending) = (self.limits.clone(), self.ending);
        self.table.retain(|session| {
            // Without an answer it may be of a forged address, or at a backend that only takes.
            let soon = ending || !session.flow.is_answered();
            let patience = if soon { limits.udp_unanswered.min(limits.udp_idle) } else { limits.udp_idle };
            if session.flow.is_broken() {
                session.end = UdpEnd::Unreachable;
            } else if session.flow.silence(now) >= patience {
                session.end = UdpEnd::Idle;
            } else {
                return true;
            }
            false
        });
        for _ in 0..self.share.settle(self.table.len()) {
            let Some(mut session) = self.table.give_up(now) else { break };
            session.end = UdpEnd::Replaced;
        }
    }

    /// Sends a client's datagram to the endpoint of its session, which begins with it if there is none.
    pub(super) fn pass_on(&mut self, pair: Pair, datagram: &[u8], now: Instant) {
        if let Some(session) = self.table.receive(&pair, now) {
            let sent = if session.flow.is_broken() {
                Err(io::ErrorKind::ConnectionRefused.into())
            } else {
                session.flow.send(datagram, now)
            };
            match sent {
                Ok(()) => return session.metrics.udp().received(datagram.len()),
                Err(error) if !is_unreachable(&error) => return session.metrics.udp().dropped(UdpDrop::Endpoint),
                Err(_) => self.unreachable(&pair, now),
            }
        }
        let metrics = self.face.load().metrics.clone();
        match self.begin(pair, datagram, &metrics, now) {
            Ok(()) => metrics.udp().received(datagram.len()),
            Err(drop) => metrics.udp().dropped(drop),
        }
    }

    /// The endpoint of a session has said that it does not take datagrams; the client gets another one.
    fn unreachable(&mut self, pair: &Pair, now: Instant) {
        if let Some(mut session) = self.table.remove(pair) {
            session.end = UdpEnd::Unreachable;
            self.refusals.note(*session.endpoint.address(), now);
        }
    }

    fn begin(&mut self, pair: Pair, datagram: &[u8], metrics: &Arc<PortMetrics>, now: Instant) -> Result<(), UdpDrop> {
        if self.ending {
            return Err(UdpDrop::Ending);
        }
        let backend = self.decide()?;
        let endpoint = self.refusals.choose(&backend, now).ok_or(UdpDrop::NoEndpoint)?;
        let room = self.table.make_room(&pair, now, |sessions| self.share.take(sessions));
        if let Some(mut replaced) = room.map_err(why_full)? {
            replaced.end = UdpEnd::Replaced;
        }
        let address = *endpoint.address();
        let flow = Flow::open(pair, address).map_err(|error| self.not_opened(address, &error, now))?;
        flow.send(datagram, now).map_err(|_| UdpDrop::Endpoint)?;
        let flow = Arc::new(flow);
        let answering = tokio::spawn(answer(flow.clone(), self.front.clone(), metrics.clone(), self.refusals.clone(), address));
        metrics.udp().began();
        let session = Session {
            flow,
            answering: answering.abort_handle(),
            backend,
            endpoint,
            metrics: metrics.clone(),
            end: UdpEnd::DrainDeadline,
        };
        self.table.insert(pair, session, now);
        Ok(())
    }

    /// The backend of a new session.
    fn decide(&self) -> Result<Arc<BackendState>, UdpDrop> {
        let listener = self.config.ports.get(&self.bind).and_then(|port| port.all.first()).ok_or(UdpDrop::NoRoute)?;
        match destination(&self.config, listener, None) {
            Ok(backend) => Ok(backend),
            Err(Refused::NoRoute) => Err(UdpDrop::NoRoute),
            Err(Refused::Invalid) => Err(UdpDrop::Invalid),
            Err(Refused::NoEndpoint) => Err(UdpDrop::NoEndpoint),
        }
    }

    fn not_opened(&self, endpoint: SocketAddr, error: &io::Error, now: Instant) -> UdpDrop {
        if is_unreachable(error) {
            self.refusals.note(endpoint, now);
            return UdpDrop::Endpoint;
        }
        tracing::debug!(address = %self.bind.address, %error, "no socket towards an endpoint: if files are too many, raise the limit (ulimit -n)");
        UdpDrop::Socket
    }
}

/// Passes on what an endpoint sends, until it cannot be reached.
async fn answer(flow: Arc<Flow>, front: Arc<Front>, metrics: Arc<PortMetrics>, refusals: Arc<Refusals>, endpoint: SocketAddr) {
    let error = flow.answer(&front, metrics.udp()).await;
    tracing::debug!(%endpoint, %error, "the endpoint does not take datagrams");
    refusals.note(endpoint, Instant::now());
}

/// What the system has been told of the endpoint, by ICMP or by its own routes.
fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

fn why_full(full: Full) -> UdpDrop {
    match full {
        Full::Client => UdpDrop::ClientLimit,
        Full::All => UdpDrop::Limit,
    }
}
