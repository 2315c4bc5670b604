//! What stands in for the Services of a case: the echo server, in front of it TLS if the case says so, and for lines of text and
//! datagrams a backend that says who it is.
//!
//! A line or a datagram that begins with [`GREETING`] is answered with the Service, its port and the same text. Everything else is taken
//! for HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use isthmus_cli::echo::{Echo, Identity, Report};
use isthmus_routing::{BackendKey, Transport};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::certificate::roots;
use crate::input::{Input, Secure};

/// How lines of text begin.
pub const GREETING: &str = "case";

/// A request as an echo server saw it.
#[derive(Debug)]
pub struct Seen {
    /// Whose stand-in.
    pub backend: BackendKey,
    /// What it saw.
    pub report: Report,
}

/// What the last client said in the handshake with a stand-in.
#[derive(Debug, Clone, Default)]
pub struct Met {
    /// The server name.
    pub server_name: Option<String>,
    /// The first of its certificates.
    pub client: Option<CertificateDer<'static>>,
}

/// A running stand-in. Dropping it closes its socket.
#[derive(Debug)]
pub struct StandIn {
    /// What it stands in for.
    pub backend: BackendKey,
    /// Where it listens.
    pub address: SocketAddr,
    met: Arc<Mutex<Met>>,
    _echo: Option<Echo>,
    serving: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Starts one. `lines`: whether the case talks to backends in lines of text.
    ///
    /// # Errors
    /// When no socket can be had, or the case lacks what its TLS needs.
    pub async fn start(backend: BackendKey, input: &Input, lines: bool, sender: &UnboundedSender<Seen>) -> Result<Self, String> {
        let fault = |error: std::io::Error| format!("a stand-in for {backend}: {error}");
        let met = Arc::<Mutex<Met>>::default();
        if backend.transport == Transport::Udp {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(fault)?;
            let address = socket.local_addr().map_err(fault)?;
            let serving = Some(tokio::spawn(datagrams(socket, backend.clone())));
            return Ok(Self { backend, address, met, _echo: None, serving });
        }
        let identity = Identity {
            namespace: backend.namespace.clone(),
            service: backend.name.clone(),
            pod: format!("{}-echo", backend.name),
        };
        let (key, sender) = (backend.clone(), sender.clone());
        let observe = move |report| {
            // The receiver is gone once the case is over.
            let _ = sender.send(Seen { backend: key.clone(), report });
        };
        let echo = Echo::start_observed(identity, observe).await.map_err(fault)?;
        let secure = input.secure(&backend);
        if secure.is_none() && !lines {
            return Ok(Self { address: echo.address(), backend, met, _echo: Some(echo), serving: None });
        }
        let tls = secure.map(|secure| acceptor(input, secure)).transpose()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        let front = Arc::new(Front { backend: backend.clone(), echo: echo.address(), tls, met: met.clone() });
        let serving = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let front = front.clone();
                tokio::spawn(async move { front.accept(stream).await });
            }
        }));
        Ok(Self { backend, address, met, _echo: Some(echo), serving })
    }

    /// What the last client said in its handshake.
    ///
    /// # Panics
    /// When a stand-in has panicked.
    pub fn met(&self) -> Met {
        self.met.lock().expect("nothing panics that holds it").clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

fn acceptor(input: &Input, secure: &Secure) -> Result<TlsAcceptor, String> {
    let pair = input.certificates.get(&secure.certificate);
    let (chain, key) = pair.ok_or_else(|| format!("options.yaml makes no certificate {}", secure.certificate))?.der();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &secure.clients {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let authority = input.authorities.get(name).ok_or_else(|| format!("options.yaml has no authority {name}"))?;
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots(&authority.certificate), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A listener before an echo server.
struct Front {
    backend: BackendKey,
    echo: SocketAddr,
    tls: Option<TlsAcceptor>,
    met: Arc<Mutex<Met>>,
}

impl Front {
    /// A connection that breaks is the client's affair.
    async fn accept(&self, stream: TcpStream) -> Option<()> {
        let Some(tls) = &self.tls else { return self.serve(stream).await };
        let stream = tls.accept(stream).await.ok()?;
        let session = stream.get_ref().1;
        *self.met.lock().ok()? = Met {
            server_name: session.server_name().map(str::to_owned),
            client: session.peer_certificates().and_then(<[_]>::first).map(|certificate| certificate.clone().into_owned()),
        };
        self.serve(stream).await
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let mut buffer = Vec::new();
        while buffer.len() < GREETING.len() {
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
        if !buffer.starts_with(GREETING.as_bytes()) {
            let mut echo = TcpStream::connect(self.echo).await.ok()?;
            echo.write_all(&buffer).await.ok()?;
            tokio::io::copy_bidirectional(&mut stream, &mut echo).await.ok()?;
            return Some(());
        }
        loop {
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                stream.write_all(&answer(&self.backend, &line)).await.ok()?;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return stream.shutdown().await.ok();
            }
        }
    }
}

async fn datagrams(socket: UdpSocket, backend: BackendKey) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let _ = socket.send_to(&answer(&backend, &buffer[..length]), from).await;
    }
}

/// `namespace/name:port` or `namespace/name:port/UDP`, a space, and what was received.
fn answer(backend: &BackendKey, received: &[u8]) -> Vec<u8> {
    let who = backend.to_string();
    [who.strip_prefix("Service/").unwrap_or(&who).as_bytes(), b" ", received].concat()
}
