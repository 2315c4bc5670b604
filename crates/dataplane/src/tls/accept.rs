//! A fresh socket on an HTTPS listener -> a TLS stream of the listener that its SNI names.

use std::io;
use std::sync::Arc;

use isthmus_routing::hostname::HostMap;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use crate::connection::{Alpn, TlsInfo};
use crate::limits::Limits;
use crate::tls::hello::{HelloError, Reader, UNRECOGNIZED_NAME};

/// The listeners of one address.
pub(crate) type Hosts = HostMap<Arc<ServerConfig>>;

/// Why a connection did not get as far as HTTP.
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
    /// No listener on the address takes the name.
    #[error("no listener takes the server name {0:?}")]
    Name(Option<String>),
}

const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 48\r\nConnection: close\r\n\r\n\
    this port speaks HTTPS: use https:// for the URL";

/// Reads the ClientHello, chooses the listener, shakes hands, all of it before `deadline`. Dropping it closes the socket.
///
/// # Errors
/// The client has been told as far as TLS has a word for it.
pub(crate) async fn accept(
    mut socket: TcpStream,
    hosts: &Hosts,
    deadline: Instant,
    limits: &Limits,
) -> Result<(TlsStream<TcpStream>, TlsInfo), TlsError> {
    let hello = timeout_at(deadline, read_hello(&mut socket, limits)).await.map_err(|_| TlsError::HelloTimeout)??;
    let accepted = match hello {
        Ok(accepted) => accepted,
        Err(error) => {
            let (answer, error) = match error {
                HelloError::NotTls => (NOT_TLS.to_vec(), TlsError::NotTls),
                HelloError::Broken(alert) => (alert, TlsError::Hello),
                HelloError::TooLong => (Vec::new(), TlsError::Hello),
            };
            refuse(socket, &answer, limits).await;
            return Err(error);
        }
    };
    let name = accepted.client_hello().server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    // A client without SNI gets the listener without a hostname.
    let Some(config) = hosts.get(name.as_deref().unwrap_or_default()) else {
        refuse(socket, &UNRECOGNIZED_NAME, limits).await;
        return Err(TlsError::Name(name));
    };
    let handshake = StartHandshake::from_parts(accepted, socket).into_stream(config.clone());
    let stream = timeout_at(deadline, handshake).await.map_err(|_| TlsError::HandshakeTimeout)??;
    let session = stream.get_ref().1;
    let info = TlsInfo {
        server_name: name,
        version: match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default(),
        alpn: session.alpn_protocol().map(|protocol| if protocol == b"h2" { Alpn::Http2 } else { Alpn::Http1 }),
    };
    Ok((stream, info))
}

async fn read_hello(socket: &mut TcpStream, limits: &Limits) -> io::Result<Result<rustls::server::Accepted, HelloError>> {
    let mut reader = Reader::new(limits.client_hello_bytes);
    let mut bytes = Vec::with_capacity(2048);
    loop {
        bytes.clear();
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match reader.push(&bytes) {
            Ok(Some(accepted)) => return Ok(Ok(accepted)),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Says the last word and reads on until the client has heard it: a reset would overtake it.
async fn refuse(mut socket: TcpStream, answer: &[u8], limits: &Limits) {
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
