//! A fresh socket on a port of HTTPS and TLS listeners -> the listener that its SNI names.

use std::io;

use isthmus_routing::{HostMap, Hostname};
use rustls::server::Accepted;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::limits::Limits;
use crate::telemetry::ConnectionFault;
use crate::tls::client::Refusal;
use crate::tls::handshake::Ending;
use crate::tls::hello::{HelloError, Reader, UNRECOGNIZED_NAME};

/// The listeners of one address.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    takers: HostMap<Taker>,
    /// Whether one of them speaks HTTP.
    is_http: bool,
    /// Whether one of them carries any bytes.
    is_stream: bool,
    /// Whether one of them leaves TLS to the backend.
    is_passthrough: bool,
}

/// What a listener does with a connection.
#[derive(Debug, Clone)]
pub(crate) enum Taker {
    /// Ends TLS; requests follow.
    Http(Ending),
    /// Ends TLS; any bytes follow.
    Stream(Ending),
    /// Leaves TLS to the backend.
    PassThrough,
}

impl Hosts {
    fn get(&self, name: &str) -> Option<&Taker> {
        self.takers.get(name)
    }
}

/// Of two with one hostname the last stays.
impl<'h> FromIterator<(Option<&'h Hostname>, Taker)> for Hosts {
    fn from_iter<I: IntoIterator<Item = (Option<&'h Hostname>, Taker)>>(takers: I) -> Self {
        let mut hosts = Self::default();
        for (hostname, taker) in takers {
            let is_http = matches!(taker, Taker::Http(_));
            hosts.is_http |= is_http;
            hosts.is_stream |= !is_http;
            hosts.is_passthrough |= matches!(taker, Taker::PassThrough);
            hosts.takers.insert(hostname, taker);
        }
        hosts
    }
}

/// Why a connection did not get as far as its listener.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The client went away or the network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Plain HTTP, most likely.
    #[error("the client does not speak TLS")]
    NotTls,
    /// No ClientHello within the handshake's time.
    #[error("no ClientHello in time")]
    HelloTimeout,
    /// The handshake did not end in time.
    #[error("the handshake did not end in time")]
    HandshakeTimeout,
    /// A ClientHello that is too long or broken.
    #[error("the ClientHello is too long or broken")]
    Hello,
    /// No listener on the address takes the name, or no route of the one that does.
    #[error("nobody takes the server name {0:?}")]
    Name(Option<String>),
    /// The client needs a valid certificate and has shown none.
    #[error("the client's certificate: {0:?}")]
    Client(Refusal),
}

impl TlsError {
    /// As it is counted.
    pub(crate) fn fault(&self) -> ConnectionFault {
        match self {
            Self::HelloTimeout => ConnectionFault::ClientHelloTimeout,
            Self::HandshakeTimeout => ConnectionFault::HandshakeTimeout,
            Self::Name(_) => ConnectionFault::NoCertificate,
            Self::Client(Refusal::Absent) => ConnectionFault::ClientCertificateAbsent,
            Self::Client(Refusal::UnknownAuthority) => ConnectionFault::ClientCertificateUnknownAuthority,
            Self::Client(Refusal::Expired) => ConnectionFault::ClientCertificateExpired,
            Self::Client(Refusal::NotYetValid) => ConnectionFault::ClientCertificateNotYetValid,
            Self::Client(Refusal::Invalid) => ConnectionFault::ClientCertificateInvalid,
            Self::Io(_) | Self::NotTls | Self::Hello => ConnectionFault::Handshake,
        }
    }
}

const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 48\r\nConnection: close\r\n\r\n\
    this port speaks HTTPS: use https:// for the URL";

/// A client that has said whom it wants, before anything was answered.
pub(crate) struct Greeted {
    pub(crate) socket: TcpStream,
    /// SNI: lower-case, without a trailing dot.
    pub(crate) name: Option<String>,
    /// What the listener does with it.
    pub(crate) taker: Taker,
    /// The ClientHello as rustls goes on with it.
    pub(crate) accepted: Accepted,
    /// If it is passed on: everything that was read from the socket, as it came, the ClientHello and perhaps what follows it.
    pub(crate) read: Vec<u8>,
}

/// Reads the ClientHello before `deadline` and chooses the listener. Dropping it closes the socket.
///
/// # Errors
/// The client has been told as far as TLS has a word for it.
pub(crate) async fn greet(mut socket: TcpStream, hosts: &Hosts, deadline: Instant, limits: &Limits) -> Result<Greeted, TlsError> {
    let mut read = Vec::with_capacity(2048);
    let hello = read_hello(&mut socket, &mut read, hosts.is_passthrough, limits);
    let hello = timeout_at(deadline, hello).await.map_err(|_| TlsError::HelloTimeout)??;
    let accepted = match hello {
        Ok(accepted) => accepted,
        Err(error) => {
            let (answer, error) = match error {
                // Words of HTTP only where somebody speaks it.
                HelloError::NotTls if hosts.is_http => (NOT_TLS.to_vec(), TlsError::NotTls),
                HelloError::NotTls => (Vec::new(), TlsError::NotTls),
                HelloError::Broken(alert) => (alert, TlsError::Hello),
                HelloError::TooLong => (Vec::new(), TlsError::Hello),
            };
            refuse(socket, &answer, limits).await;
            return Err(error);
        }
    };
    let name = accepted.client_hello().server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    // A client without SNI gets the listener without a hostname.
    match hosts.get(name.as_deref().unwrap_or_default()).cloned() {
        Some(taker) => {
            let read = if matches!(taker, Taker::PassThrough) { read } else { Vec::new() };
            Ok(Greeted { socket, name, taker, accepted, read })
        }
        None if hosts.is_stream => Err(unrecognized(socket, name, limits).await),
        None => {
            refuse(socket, &UNRECOGNIZED_NAME, limits).await;
            Err(TlsError::Name(name))
        }
    }
}

/// Closes a connection whose server name nobody takes, without a word: where TLS is passed on there is no TLS of ours that could say one,
/// and the conformance suite asks for the end of the connection.
pub(crate) async fn unrecognized(socket: TcpStream, name: Option<String>, limits: &Limits) -> TlsError {
    refuse(socket, &[], limits).await;
    TlsError::Name(name)
}

/// `keep`: all that was read stays in `read`. Rustls has a copy of its own, so it is not kept without need.
pub(super) async fn read_hello(
    socket: &mut TcpStream,
    read: &mut Vec<u8>,
    keep: bool,
    limits: &Limits,
) -> io::Result<Result<Accepted, HelloError>> {
    let mut reader = Reader::new(limits.client_hello_bytes);
    loop {
        let before = read.len();
        if socket.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match reader.push(&read[before..]) {
            Ok(Some(accepted)) => return Ok(Ok(accepted)),
            Ok(None) if keep => {}
            Ok(None) => read.clear(),
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Says the last word and reads on until the client has heard it: a reset would overtake it.
pub(crate) async fn refuse(mut socket: TcpStream, answer: &[u8], limits: &Limits) {
    let last_word = async {
        socket.write_all(answer).await?;
        socket.shutdown().await?;
        let mut rest = [0; 1024];
        for _ in 0..64 {
            if socket.read(&mut rest).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    // Nobody is left to tell if it fails.
    let _ = timeout(limits.linger, last_word).await;
}
