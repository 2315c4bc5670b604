//! From an address to a stream.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Options;
use super::backoff::Outlook;
use crate::body::{Outgoing, Reader};
use crate::frame::frame;
use crate::message::{FromProxy, Hello};
use crate::{AT_ONCE, ITS_TURN, LEADER, PATH, Ping, SERVER_NAME};

/// How long an address may take to take a connection before the next one is tried. Where a controller has ended nobody answers for a moment,
/// and a SYN that was lost is sent anew after as long.
const ONE_ADDRESS: Duration = Duration::from_secs(1);
/// Bytes that the controller may send ahead: a whole configuration of usual size.
const WINDOW: u32 = 1 << 20;
/// Answers that wait for HTTP/2 to take them.
const CHUNKS: usize = 64;
/// Bytes of a refusal's text.
const TEXT: usize = 4 << 10;

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Any controller, by `host:port`.
    Service(String),
    /// The one that another one has named.
    Leader(SocketAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => f.write_str(name),
            Self::Leader(address) => write!(f, "the leader {address}"),
        }
    }
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) peer: SocketAddr,
    pub(crate) reader: Reader,
    pub(crate) chunks: mpsc::Sender<Bytes>,
    pub(crate) connection: Connection,
}

/// The task of a connection; closed when this is dropped.
#[derive(Debug)]
pub(crate) struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{what} {} cannot be read: {source}; is it mounted into this pod?", .path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the CA file {} holds no certificate that can be used: {reason}; the controller fills it", .path.display())]
    Ca { path: PathBuf, reason: String },
    #[error("the token in {} is no token; is it a projected service account token?", .0.display())]
    Token(PathBuf),
    #[error("its address cannot be looked up: {0}; is the controller's Service there?")]
    Lookup(io::Error),
    #[error("it has no address; is the controller running?")]
    NoAddress,
    #[error("{address} cannot be reached: {source}; is the controller running, and does a NetworkPolicy let this pod through?")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("{peer} is not taken for the controller, and no token was shown to it: {source}; its certificate has to be for {SERVER_NAME} and signed by a CA in {}. Where a controller has just ended, its address may be somebody else's for a moment, and this passes", .ca.display())]
    Tls { peer: SocketAddr, source: io::Error, ca: PathBuf },
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(String),
    #[error("no stream came about within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("the leader is {0}")]
    Referred(SocketAddr),
    #[error("the controller does not take the token in {}: {text}; it has to be this pod's, with the audience isthmus.dev/push", .token.display())]
    Denied { token: PathBuf, text: String },
    #[error("the controller says {status}: {text}")]
    Refused { status: StatusCode, text: String, outlook: Outlook },
}

impl ConnectError {
    /// What it says of the next try.
    pub(crate) fn outlook(&self) -> Outlook {
        match self {
            Self::Refused { outlook, .. } => *outlook,
            Self::Denied { .. } => Outlook::Poor,
            _ => Outlook::Unknown,
        }
    }
}

/// Connects, proves who this is, and says what it has.
pub(crate) async fn open(options: &Options, target: &Target, hello: Hello) -> Result<Stream, ConnectError> {
    let deadline = options.limits.connect;
    tokio::time::timeout(deadline, try_open(options, target, hello)).await.unwrap_or(Err(ConnectError::Timeout(deadline)))
}

async fn try_open(options: &Options, target: &Target, hello: Hello) -> Result<Stream, ConnectError> {
    let (chunks, body) = Outgoing::new(CHUNKS);
    let hello =
        frame(&FromProxy::Hello(hello), options.limits.message).map_err(|error| ConnectError::Request(error.to_string()))?;
    // The queue is empty.
    let _ = chunks.try_send(hello);
    let (peer, reader, connection) = post(options, target, body).await?;
    Ok(Stream { peer, reader, chunks, connection })
}

/// Opens a stream on which `body` is said.
pub(crate) async fn post(
    options: &Options,
    target: &Target,
    body: Outgoing,
) -> Result<(SocketAddr, Reader, Connection), ConnectError> {
    let token = token(&options.token).await?;
    let tls = TlsConnector::from(Arc::new(trust(&options.ca).await?));
    let (peer, socket) = dial(target).await?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| ConnectError::Request(error.to_string()))?;
    let shaken = tls.connect(name, socket).await;
    let stream = shaken.map_err(|source| ConnectError::Tls { peer, source, ca: options.ca.clone() })?;
    let uri = format!("https://{SERVER_NAME}{PATH}");
    let mut request = Request::post(uri).body(body).map_err(|error| ConnectError::Request(error.to_string()))?;
    request.headers_mut().insert(header::AUTHORIZATION, token);
    let (response, connection) = ask(stream, request, options.limits.ping).await?;
    if response.status() != StatusCode::OK {
        return Err(refusal(response, options).await);
    }
    Ok((peer, Reader::new(response.into_body(), options.limits.message), connection))
}

async fn read(what: &'static str, path: &PathBuf) -> Result<Vec<u8>, ConnectError> {
    tokio::fs::read(path).await.map_err(|source| ConnectError::File { what, path: path.clone(), source })
}

async fn token(path: &PathBuf) -> Result<HeaderValue, ConnectError> {
    let bytes = read("the token", path).await?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let mut value = Some(text.trim())
        .filter(|token| !token.is_empty())
        .and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok())
        .ok_or_else(|| ConnectError::Token(path.clone()))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn trust(path: &PathBuf) -> Result<ClientConfig, ConnectError> {
    let fault = |reason: String| ConnectError::Ca { path: path.clone(), reason };
    let pem = read("the CA file", path).await?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| fault(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(fault("there is none".to_owned()));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| fault(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn dial(target: &Target) -> Result<(SocketAddr, TcpStream), ConnectError> {
    let mut addresses: Vec<SocketAddr> = match target {
        Target::Leader(address) => vec![*address],
        Target::Service(name) => tokio::net::lookup_host(name).await.map_err(ConnectError::Lookup)?.collect(),
    };
    fastrand::shuffle(&mut addresses);
    let mut fault = ConnectError::NoAddress;
    for address in addresses {
        match tokio::time::timeout(ONE_ADDRESS, TcpStream::connect(address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        {
            Ok(socket) => {
                // Answers are small and should not wait for more of them.
                let _ = socket.set_nodelay(true);
                return Ok((address, socket));
            }
            Err(source) => fault = ConnectError::Tcp { address, source },
        }
    }
    Err(fault)
}

async fn ask(
    stream: TlsStream<TcpStream>,
    request: Request<Outgoing>,
    ping: Ping,
) -> Result<(Response<Incoming>, Connection), ConnectError> {
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(ping.every)
        .keep_alive_timeout(ping.patience)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(TokioIo::new(stream))
        .await?;
    let connection = Connection(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("the connection to the controller ended: {error}");
        }
    }));
    Ok((sender.send_request(request).await?, connection))
}

async fn refusal(response: Response<Incoming>, options: &Options) -> ConnectError {
    let status = response.status();
    if let Some(leader) = leader(response.headers()).filter(|_| status == StatusCode::MISDIRECTED_REQUEST) {
        return ConnectError::Referred(leader);
    }
    let outlook = outlook(status, response.headers());
    let body =
        Limited::new(response.into_body(), TEXT).collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ConnectError::Denied { token: options.token.clone(), text },
        _ => ConnectError::Refused { status, text, outlook },
    }
}

fn outlook(status: StatusCode, headers: &HeaderMap) -> Outlook {
    let again = headers.get(header::RETRY_AFTER).filter(|_| status == StatusCode::SERVICE_UNAVAILABLE);
    match again.map(HeaderValue::as_bytes) {
        Some(again) if again == AT_ONCE.as_bytes() => Outlook::Soon,
        Some(again) if again == ITS_TURN.as_bytes() => Outlook::Unknown,
        _ => Outlook::Poor,
    }
}

fn leader(headers: &HeaderMap) -> Option<SocketAddr> {
    headers.get(LEADER)?.to_str().ok()?.parse().ok()
}
