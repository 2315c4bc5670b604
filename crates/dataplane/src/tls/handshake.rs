//! A ClientHello and the listener that it is for -> a TLS stream of that listener.

use std::sync::{Arc, Weak};

use isthmus_routing::GatewayKey;
use rustls::server::{Accepted, ServerConnection};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use crate::connection::{Alpn, TlsInfo};
use crate::limits::Limits;
use crate::tls::accept::{TlsError, refuse};
use crate::tls::client::{Clients, Refusal};
use crate::tls::settings::iana_name;

/// How a listener ends TLS.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(super) config: Arc<ServerConfig>,
    /// None: its clients are not asked for certificates.
    pub(super) clients: Option<Arc<Clients>>,
    pub(super) listener: Arc<Shaken>,
}

/// A listener as it was when a connection was made to it.
#[derive(Debug)]
pub(crate) struct Shaken {
    gateway: GatewayKey,
    name: String,
    /// Gone when the listener is, or asks its clients for something else than it did.
    standing: Weak<()>,
}

impl Shaken {
    pub(crate) fn new(gateway: &GatewayKey, name: &str, standing: Weak<()>) -> Self {
        Self { gateway: gateway.clone(), name: name.to_owned(), standing }
    }

    /// Whether it is this one, and asks its clients for the same as it did then. A listener that has gone and come back is another one.
    pub(crate) fn is(&self, gateway: &GatewayKey, name: &str) -> bool {
        self.is_standing() && self.name == name && self.gateway == *gateway
    }

    pub(crate) fn is_standing(&self) -> bool {
        self.standing.strong_count() > 0
    }
}

impl Ending {
    /// What connections that are made with it are made to.
    pub(crate) fn listener(&self) -> &Shaken {
        &self.listener
    }

    /// Shakes hands before `deadline`. `name` is that of the ClientHello, lower-case and without a trailing dot. Dropping it closes the
    /// socket.
    ///
    /// # Errors
    /// The client has been told as far as TLS has a word for it.
    pub(crate) async fn shake(
        &self,
        (accepted, name): (Accepted, Option<String>),
        socket: TcpStream,
        deadline: Instant,
        limits: &Limits,
    ) -> Result<(TlsStream<TcpStream>, TlsInfo), TlsError> {
        let handshake = StartHandshake::from_parts(accepted, socket).into_stream(self.config.clone()).into_fallible();
        let mut stream = match timeout_at(deadline, handshake).await.map_err(|_| TlsError::HandshakeTimeout)? {
            Ok(stream) => stream,
            Err((error, socket)) => {
                let refused = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
                let refusal = refused.and_then(Refusal::of);
                // The alert is sent. With TLS 1.3 the client may have sent a request meanwhile, and a reset would overtake the alert.
                if refused.is_some() {
                    refuse(socket, &[], limits).await;
                }
                return Err(refusal.map_or(TlsError::Io(error), TlsError::Client));
            }
        };
        let session = stream.get_ref().1;
        let client_certificate = match self.clients.as_ref().map(|clients| clients.identify(session)).transpose() {
            Ok(client) => client.flatten(),
            Err(error) => {
                // TLS has no alert for it after the handshake.
                let _ = timeout(limits.linger, stream.shutdown()).await;
                return Err(TlsError::Client(Refusal::of(&error).unwrap_or(Refusal::Invalid)));
            }
        };
        let info = info(self.listener.clone(), name, session, client_certificate);
        Ok((stream, info))
    }
}

fn info(
    listener: Arc<Shaken>,
    server_name: Option<String>,
    session: &ServerConnection,
    client_certificate: Option<Box<str>>,
) -> TlsInfo {
    TlsInfo {
        listener,
        server_name,
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        cipher: session.negotiated_cipher_suite().map(iana_name).unwrap_or_default(),
        client_certificate,
        alpn: session.alpn_protocol().map(|protocol| if protocol == b"h2" { Alpn::Http2 } else { Alpn::Http1 }),
    }
}
