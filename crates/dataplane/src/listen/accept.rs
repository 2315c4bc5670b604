//! The accept loop of one address, and the way of each connection from there.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use pingora_core::apps::HttpServerApp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::capture::{self, Capture, Fresh, Side};
use crate::connection::io::Io;
use crate::connection::serve::Front;
use crate::connection::transport::Transport;
use crate::connection::{Addresses, Connection, TlsInfo};
use crate::drain::{Readiness, Signals, raised};
use crate::limits::Limits;
use crate::listen::permit::Permits;
use crate::proxy_protocol::{self, ProxyProtocolError};
use crate::stream::{Arrived, Client, Streams};
use crate::telemetry::{ConnectionFault, ConnectionGuard, PortMetrics};
use crate::tls::accept::{Hosts, Taker, TlsError, greet};

/// What all accept loops share.
pub(crate) struct Context<A> {
    pub(crate) front: Arc<Front<A>>,
    pub(crate) streams: Streams,
    pub(crate) limits: Arc<Limits>,
    pub(crate) permits: Permits,
    pub(crate) readiness: Arc<Readiness>,
    /// Of a sidecar.
    pub(crate) capture: Option<Arc<Capture>>,
}

/// How an address meets its clients; swapped whole when a snapshot changes it, without touching the socket.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) entrance: Entrance,
    /// Whether connections begin with a header of the PROXY protocol.
    pub(crate) proxy_protocol: bool,
    pub(crate) metrics: Arc<PortMetrics>,
}

/// How what comes on an address begins.
#[derive(Debug)]
pub(crate) enum Entrance {
    /// With a request.
    Http,
    /// With a ClientHello.
    Tls(Hosts),
    /// With any bytes, or with datagrams.
    Stream,
    /// With any bytes, on their way to somewhere else.
    Captured(Side),
}

impl<A: HttpServerApp + Send + Sync + 'static> Context<A> {
    /// Serves requests on a connection, of which some bytes may have been read, to its end.
    pub(crate) async fn serve_http(
        &self,
        (transport, read): (Transport, Vec<u8>),
        tls: Option<TlsInfo>,
        addresses: Addresses,
        kept: (ConnectionGuard, OwnedSemaphorePermit),
        signals: Signals,
    ) {
        let state = (signals.clone(), self.readiness.clone());
        let connection = Connection::new(addresses, tls, self.limits.clone(), state, kept);
        let io = Io::new(transport, Arc::new(connection), self.limits.write_buffer).after(read);
        self.front.serve(Box::new(io), signals).await;
    }
}

/// The first pause after the system refused to accept.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// A warning about refused connections is repeated no sooner.
const WARN_AGAIN: Duration = Duration::from_secs(10);
/// Connections that are still taken from the backlog when the address closes: their clients believe that they are connected.
const LAST_ACCEPTS: usize = 1024;

/// Accepts until told to end; then the socket is closed.
pub(crate) async fn run<A: HttpServerApp + Send + Sync + 'static>(
    listener: TcpListener,
    address: SocketAddr,
    face: Arc<ArcSwap<Face>>,
    signals: Signals,
    context: Arc<Context<A>>,
) {
    let mut ending = signals.ending.clone();
    let mut ended = pin!(raised(&mut ending));
    let mut warnings = Warnings::default();
    let mut pause = FIRST_PAUSE;
    let mut left = LAST_ACCEPTS;
    while left > 0 {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = ended.as_mut() => return,
        };
        if signals.is_ending() {
            left -= 1;
        }
        let face = face.load_full();
        match accepted {
            Ok((socket, peer)) => {
                pause = FIRST_PAUSE;
                let room = context.permits.room(&face.entrance);
                let Some(permit) = room.enter() else {
                    face.metrics.fault(ConnectionFault::Limit);
                    warnings.warn(|| tracing::warn!(%address, limit = room.limit, "too many connections: new ones are closed"));
                    continue;
                };
                let accepted = Accepted { socket, ends: (address, peer), face, signals: signals.clone(), permit };
                tokio::spawn(accepted.serve(context.clone()));
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                face.metrics.fault(ConnectionFault::Accept);
                warnings.warn(
                    || tracing::warn!(%address, %error, "cannot accept: if files are too many, raise the limit (ulimit -n)"),
                );
                // Whoever closes the address waits for this task: an end is not put off until files are free again.
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = ended.as_mut() => return,
                }
                pause = (pause * 2).min(context.limits.accept_pause);
            }
        }
    }
}

/// The connection was gone before it was accepted; the next one may be fine.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}

struct Accepted {
    socket: TcpStream,
    ends: (SocketAddr, SocketAddr),
    face: Arc<Face>,
    signals: Signals,
    permit: OwnedSemaphorePermit,
}

/// A connection whose beginning is known.
enum Opened {
    Http(Transport, Option<TlsInfo>),
    Stream(Client),
}

/// Why it did not get so far.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    #[error(transparent)]
    ProxyProtocol(#[from] ProxyProtocolError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Accepted {
    async fn serve<A: HttpServerApp + Send + Sync + 'static>(self, context: Arc<Context<A>>) {
        let Self { socket, ends, face, signals, permit } = self;
        if let Entrance::Captured(side) = face.entrance {
            let fresh = Fresh { socket, peer: ends.1, at: face.metrics.clone(), signals, permit };
            // Boxed, as streams are below, so that a connection of HTTP, which may be idle for long, has no room for them.
            return Box::pin(capture::serve(side, fresh, &context)).await;
        }
        let (started, start_time) = (std::time::Instant::now(), SystemTime::now());
        let guard = face.metrics.accepted();
        let deadline = Instant::now() + context.limits.handshake;
        let mut cut = signals.cut.clone();
        // Boxed, so that a connection does not carry the handshake's state for all its life.
        let opening = Box::pin(open(socket, ends, &face, deadline, &context.limits));
        let opened = tokio::select! {
            opened = opening => opened,
            () = raised(&mut cut) => return,
        };
        let (opened, addresses) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(address = %ends.0, peer = %ends.1, %error, "not served");
                face.metrics.fault(match error {
                    NotOpened::ProxyProtocol(_) => ConnectionFault::ProxyProtocol,
                    NotOpened::Tls(error) => error.fault(),
                });
                return;
            }
        };
        // A connection must not keep the certificates of its day.
        drop(face);
        match opened {
            Opened::Http(transport, tls) => {
                context.serve_http((transport, Vec::new()), tls, addresses, (guard, permit), signals).await;
            }
            Opened::Stream(client) => {
                let arrived = Arrived { client, addresses, started, start_time, deadline };
                Box::pin(context.streams.serve(arrived, guard.port(), signals)).await;
                drop((guard, permit));
            }
        }
    }
}

/// Everything before the first byte of a request or a stream, all of it before `deadline`.
async fn open(
    mut socket: TcpStream,
    (local, peer): (SocketAddr, SocketAddr),
    face: &Face,
    deadline: Instant,
    limits: &Limits,
) -> Result<(Opened, Addresses), NotOpened> {
    let told = if face.proxy_protocol { proxy_protocol::read(&mut socket, deadline).await? } else { None };
    let addresses = match told {
        Some(ends) => Addresses { local, peer: ends.source, destination: ends.destination },
        None if local.ip().is_unspecified() => Addresses { local, peer, destination: socket.local_addr().unwrap_or(local) },
        None => Addresses { local, peer, destination: local },
    };
    let opened = match &face.entrance {
        Entrance::Http => Opened::Http(Transport::Plain(socket), None),
        Entrance::Stream | Entrance::Captured(_) => Opened::Stream(Client::Tcp(socket, Vec::new())),
        Entrance::Tls(hosts) => {
            let greeted = greet(socket, hosts, deadline, limits).await?;
            match greeted.taker {
                Taker::Stream(_) | Taker::PassThrough => Opened::Stream(Client::Tls(Box::new(greeted))),
                Taker::Http(ending) => {
                    let client = (greeted.accepted, greeted.name);
                    let (stream, info) = ending.shake(client, greeted.socket, deadline, limits).await?;
                    Opened::Http(Transport::Tls(Box::new(stream.into())), Some(info))
                }
            }
        }
    };
    Ok((opened, addresses))
}

/// Not one line for each connection of a flood.
#[derive(Default)]
struct Warnings {
    last: Option<Instant>,
}

impl Warnings {
    fn warn(&mut self, say: impl FnOnce()) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now - last >= WARN_AGAIN) {
            self.last = Some(now);
            say();
        }
    }
}
