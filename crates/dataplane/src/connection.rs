//! A client's connection: what every hook may know of it, and how it is served from accept to close.

pub(crate) mod head;
pub(crate) mod io;
pub(crate) mod linger;
pub(crate) mod serve;
pub(crate) mod timer;
pub(crate) mod transport;

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pingora_core::protocols::Digest;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::drain::{Readiness, Signals, State, raised};
use crate::limits::Limits;
use crate::telemetry::{ConnectionFault, ConnectionGuard};
use crate::tls::handshake::Shaken;

/// What is known of a connection. It reaches every hook, on HTTP/1 and HTTP/2, plain and under TLS: see [`Connection::of`].
#[derive(Debug)]
pub(crate) struct Connection {
    /// The address as the Gateway has it: a key of `Config::ports`, also when the socket takes all addresses.
    pub(crate) local: SocketAddr,
    /// The client, or the last proxy before us; with the PROXY protocol whoever that one says.
    pub(crate) peer: SocketAddr,
    /// What it dialled: the same address, or the true one where that is all addresses, or what the PROXY protocol says.
    pub(crate) destination: SocketAddr,
    /// Absent on a plain connection.
    pub(crate) tls: Option<TlsInfo>,
    /// The accepting side's limits.
    pub(crate) limits: Arc<Limits>,
    requests: AtomicU64,
    retired: Notify,
    signals: Signals,
    readiness: Arc<Readiness>,
    metrics: ConnectionGuard,
    /// Given back when the connection, and everything that knows it, has ended.
    _permit: OwnedSemaphorePermit,
}

/// Between whom a connection is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// See [`Connection::local`].
    pub(crate) local: SocketAddr,
    /// See [`Connection::peer`].
    pub(crate) peer: SocketAddr,
    /// See [`Connection::destination`].
    pub(crate) destination: SocketAddr,
}

/// What the handshake agreed on.
#[derive(Debug, Clone)]
pub(crate) struct TlsInfo {
    /// Whose certificate the client has been shown, and whose rules it has fulfilled.
    pub(crate) listener: Arc<Shaken>,
    /// SNI: lower-case, without a trailing dot.
    pub(crate) server_name: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`, as Envoy and nginx write it.
    pub(crate) version: &'static str,
    /// IANA's name of the cipher suite.
    pub(crate) cipher: &'static str,
    /// Whose valid certificate the client has shown: its alternative names, then its subject. None: it was not asked, or is served
    /// without one.
    pub(crate) client_certificate: Option<Box<str>>,
    /// The protocol that ALPN chose, if the client asked for one.
    pub(crate) alpn: Option<Alpn>,
}

/// A protocol that ALPN can choose here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alpn {
    /// `http/1.1`
    Http1,
    /// `h2`
    Http2,
}

impl Connection {
    pub(crate) fn new(
        Addresses { local, peer, destination }: Addresses,
        tls: Option<TlsInfo>,
        limits: Arc<Limits>,
        (signals, readiness): (Signals, Arc<Readiness>),
        (metrics, permit): (ConnectionGuard, OwnedSemaphorePermit),
    ) -> Self {
        let (requests, retired) = (AtomicU64::new(0), Notify::new());
        Self { local, peer, destination, tls, limits, requests, retired, signals, readiness, metrics, _permit: permit }
    }

    /// The connection that a request came on; none for requests that no client sent.
    pub(crate) fn of(session: &Session) -> Option<&Arc<Self>> {
        Self::of_digest(session.digest()?)
    }

    pub(crate) fn of_digest(digest: &Digest) -> Option<&Arc<Self>> {
        digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// Whether a response should tell the client to close: this listener or the whole proxy is going away. On HTTP/2, GOAWAY
    /// tells it instead.
    pub(crate) fn is_ending(&self) -> bool {
        self.readiness.state() == State::Draining || self.signals.is_ending()
    }

    /// No request is wanted on it any more. HTTP/2 gets GOAWAY; on HTTP/1 a response has to say it.
    pub(crate) fn retire(&self) {
        self.retired.notify_one();
    }

    /// Waits until HTTP/2 is to end: its address closes, or it is of no more use itself.
    async fn wait_for_end(&self) {
        let mut ending = self.signals.ending.clone();
        tokio::select! {
            () = raised(&mut ending) => {}
            () = self.retired.notified() => {}
        }
    }

    fn is_cut(&self) -> bool {
        *self.signals.cut.borrow()
    }

    /// Requests so far, the current one included.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// It ended before its time.
    fn fault(&self, fault: ConnectionFault) {
        self.metrics.port().fault(fault);
    }

    fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Pingora hands this to every hook; the response in it is a stand-in for a CONNECT proxy's.
    fn digest(self: &Arc<Self>) -> ProxyDigest {
        let user_data: Box<dyn Any + Send + Sync> = Box::new(self.clone());
        let response = ResponseHeader::build(http::StatusCode::OK, Some(0)).expect("200 is a status");
        ProxyDigest::new(Box::new(response), Some(user_data))
    }
}

impl TlsInfo {
    fn digest(&self) -> SslDigest {
        SslDigest::new(self.cipher, self.version, None, None, Vec::new())
    }
}
