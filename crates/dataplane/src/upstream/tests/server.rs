//! A TLS server that notes what it sees.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

/// Ends when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

struct State {
    /// None: plain.
    config: ArcSwap<Option<Arc<ServerConfig>>>,
    /// Whether connections begin with a line of the PROXY protocol.
    announced: bool,
    connections: AtomicUsize,
    full: AtomicUsize,
    resumed: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The connection's number.
    pub(super) connection: usize,
    pub(super) version: http::Version,
    /// SNI.
    pub(super) server_name: String,
    /// DER of what the client has shown.
    pub(super) certificate: Option<Vec<u8>>,
    /// The line of the PROXY protocol.
    pub(super) line: String,
    /// The scheme that an HTTP/2 request has.
    pub(super) scheme: Option<String>,
}

impl Server {
    pub(super) async fn start(config: ServerConfig) -> Self {
        Self::with(Some(config), false).await
    }

    /// `announced`: connections begin with a line of the PROXY protocol. No config: they are plain.
    pub(super) async fn with(config: Option<ServerConfig>, announced: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            config: ArcSwap::from_pointee(config.map(prepared)),
            announced,
            connections: AtomicUsize::new(0),
            full: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let number = shared.connections.fetch_add(1, Relaxed);
                tokio::spawn(serve(socket, number, shared.clone()));
            }
        });
        Self { address, state, accepting }
    }

    /// Shows this on every connection from now on; those that are open stay.
    pub(super) fn show(&self, config: ServerConfig) {
        self.state.config.store(Arc::new(Some(prepared(config))));
    }

    /// The same, without a word on what is spoken.
    pub(super) fn show_without_alpn(&self, config: ServerConfig) {
        self.state.config.store(Arc::new(Some(Arc::new(config))));
    }

    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Relaxed)
    }

    /// Full ones and resumed ones.
    pub(super) fn handshakes(&self) -> (usize, usize) {
        (self.state.full.load(Relaxed), self.state.resumed.load(Relaxed))
    }

    /// The requests since the last call.
    pub(super) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.seen.lock().expect("not poisoned"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn prepared(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn serve(mut socket: TcpStream, connection: usize, state: Arc<State>) {
    let line = if state.announced { read_line(&mut socket).await } else { String::new() };
    let seen =
        Seen { connection, version: http::Version::HTTP_11, server_name: String::new(), certificate: None, line, scheme: None };
    let Some(config) = state.config.load().as_ref().clone() else {
        return speak(TokioIo::new(socket), seen, state).await;
    };
    let Ok(stream) = TlsAcceptor::from(config).accept(socket).await else { return };
    let session = stream.get_ref().1;
    let kind = if session.handshake_kind() == Some(HandshakeKind::Resumed) { &state.resumed } else { &state.full };
    kind.fetch_add(1, Relaxed);
    let server_name = session.server_name().unwrap_or_default().to_owned();
    let certificate = session.peer_certificates().and_then(|chain| Some(chain.first()?.to_vec()));
    speak(TokioIo::new(stream), Seen { server_name, certificate, ..seen }, state).await;
}

async fn speak<I>(io: TokioIo<I>, seen: Seen, state: Arc<State>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let scheme = request.uri().scheme_str().map(str::to_owned);
        let seen = Seen { version: request.version(), scheme, ..seen.clone() };
        state.seen.lock().expect("not poisoned").push(seen);
        async { Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())) }
    });
    // Clients that go away are no matter here.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await;
}

/// Byte by byte, since nothing after the line may be taken.
async fn read_line(socket: &mut TcpStream) -> String {
    let mut line = String::new();
    while let Ok(byte) = socket.read_u8().await {
        if byte == b'\n' {
            break;
        }
        line.push(char::from(byte));
    }
    line
}

/// A request on a connection of one's own.
pub(super) async fn ask(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.ends_with("hello"), "{answer}");
}
