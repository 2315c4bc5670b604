//! The accept loop of one address, and the way of each connection from there.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora_core::apps::HttpServerApp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::connection::io::Io;
use crate::connection::serve::Front;
use crate::connection::transport::Transport;
use crate::drain::{Readiness, Signals, raised};
use crate::limits::Limits;
use crate::telemetry::{ConnectionFault, PortMetrics};
use crate::tls::accept::{Hosts, TlsError, accept as accept_tls};

/// What all accept loops share.
pub(crate) struct Context<A> {
    pub(crate) front: Arc<Front<A>>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) readiness: Arc<Readiness>,
}

/// How an address meets its clients; swapped whole when a snapshot changes it, without touching the socket.
#[derive(Debug)]
pub(crate) struct Face {
    /// None: plain HTTP.
    pub(crate) tls: Option<Hosts>,
    pub(crate) metrics: Arc<PortMetrics>,
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
                let Ok(permit) = context.permits.clone().try_acquire_owned() else {
                    face.metrics.fault(ConnectionFault::Limit);
                    warnings.warn(|| tracing::warn!(%address, limit = context.limits.connections, "too many connections: new ones are closed"));
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

impl Accepted {
    async fn serve<A: HttpServerApp + Send + Sync + 'static>(self, context: Arc<Context<A>>) {
        let Self { socket, ends, face, signals, permit } = self;
        let guard = face.metrics.accepted();
        let (transport, tls) = if let Some(hosts) = &face.tls {
            let deadline = Instant::now() + context.limits.handshake;
            let mut cut = signals.cut.clone();
            // Boxed, so that a connection does not carry the handshake's state for all its life.
            let handshake = Box::pin(accept_tls(socket, hosts, deadline, &context.limits));
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                () = raised(&mut cut) => return,
            };
            match shaken {
                Ok((stream, info)) => (Transport::Tls(Box::new(stream)), Some(info)),
                Err(error) => {
                    tracing::debug!(address = %ends.0, peer = %ends.1, %error, "no TLS");
                    face.metrics.fault(fault(&error));
                    return;
                }
            }
        } else {
            (Transport::Plain(socket), None)
        };
        // A connection must not keep the certificates of its day.
        drop(face);
        let limits = context.limits.clone();
        let connection = Connection::new(ends, tls, limits, (signals.clone(), context.readiness.clone()), (guard, permit));
        let io = Io::new(transport, Arc::new(connection), context.limits.write_buffer);
        context.front.serve(Box::new(io), signals).await;
    }
}

fn fault(error: &TlsError) -> ConnectionFault {
    match error {
        TlsError::HelloTimeout => ConnectionFault::ClientHelloTimeout,
        TlsError::HandshakeTimeout => ConnectionFault::HandshakeTimeout,
        TlsError::Name(_) => ConnectionFault::NoCertificate,
        TlsError::Io(_) | TlsError::NotTls | TlsError::Hello => ConnectionFault::Handshake,
    }
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
