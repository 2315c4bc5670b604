//! Connections: TLS, HTTP/2, and the deadlines of whoever has no stream yet.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isthmus_routing::Certificate;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::strangers::Place;
use super::{Shared, StartError, admit, count};

/// How long the system's refusal to accept is waited out.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the end of a connection may take.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes of a request's headers; a token has one or two thousand.
const HEADERS: u32 = 32 << 10;
/// Bytes that a proxy may send ahead, on its stream and in all.
const WINDOWS: (u32, u32) = (64 << 10, 128 << 10);
/// Bytes that wait in HTTP/2 for a proxy.
const SEND_BUFFER: usize = 256 << 10;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has no stream.
    Stranger,
    /// It has one.
    Streaming,
    /// It has had one, or was refused.
    Over,
}

/// Makes TLS of connections, with the newest certificate that can be used.
pub(super) struct Acceptor {
    certificates: watch::Receiver<Arc<Certificate>>,
    tls: TlsAcceptor,
}

impl Acceptor {
    pub(super) fn new(shared: &Shared) -> Result<Self, StartError> {
        let mut certificates = shared.options.tls.clone();
        let first = certificates.borrow_and_update().clone();
        Ok(Self { tls: tls(&first).map_err(StartError::Certificate)?, certificates })
    }

    fn current(&mut self) -> TlsAcceptor {
        if self.certificates.has_changed().unwrap_or_default() {
            let certificate = self.certificates.borrow_and_update().clone();
            match tls(&certificate) {
                Ok(tls) => self.tls = tls,
                Err(error) => {
                    tracing::error!("the new certificate of the push server cannot be used, the old one stays: {error}");
                }
            }
        }
        self.tls.clone()
    }
}

/// Both ends are ours, so only TLS 1.3 is spoken.
fn tls(certificate: &Certificate) -> Result<TlsAcceptor, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts for ever.
pub(super) async fn run(listener: TcpListener, mut acceptor: Acceptor, shared: Arc<Shared>) {
    while let Some(permit) = shared.strangers.room().await {
        match listener.accept().await {
            Ok((socket, peer)) => {
                let Some(place) = shared.strangers.place(permit, peer.ip()) else {
                    tracing::debug!(%peer, "cut: its address has too many connections without a stream");
                    count(&shared.counts.cut);
                    continue;
                };
                let (tls, shared) = (acceptor.current(), shared.clone());
                tokio::spawn(async move { serve(socket, peer, tls, place, &shared).await });
            }
            // Want of file descriptors passes; a loop without a pause would make it worse.
            Err(error) => {
                tracing::warn!("the push server cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, peer: SocketAddr, tls: TlsAcceptor, stranger: Place, shared: &Arc<Shared>) {
    let limits = &shared.options.limits;
    // Commits are small and nobody should wait for more of them.
    let _ = socket.set_nodelay(true);
    let handshake = tokio::time::timeout(limits.handshake, tls.accept(socket)).await;
    let stream = match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%peer, %error, "no TLS");
            return count(&shared.counts.cut);
        }
    };
    let (stage, mut stages) = watch::channel(Stage::Stranger);
    let stage = Arc::new(stage);
    let service = service_fn(move |request| admit::admit(request, peer, shared.clone(), stage.clone()));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping.every)
        .keep_alive_timeout(limits.ping.patience)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(1);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let deadline = Instant::now() + limits.admission;
    let mut stranger = Some(stranger);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection ended");
                }
                return;
            }
            () = tokio::time::sleep_until(deadline), if stranger.is_some() => {
                tracing::debug!(%peer, "cut: it has said nothing, or not enough");
                return count(&shared.counts.cut);
            }
            Ok(()) = stages.changed() => match *stages.borrow_and_update() {
                Stage::Stranger => {}
                Stage::Streaming => drop(stranger.take()),
                Stage::Over => break,
            },
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LINGER, connection).await;
}
