//! A built-in echo server: what a backend was sent, as JSON in the shape of the conformance suite's `echo-basic`.
//!
//! One listener stands for one Service port and speaks HTTP/1.1, HTTP/2 with prior knowledge, gRPC and WebSocket; a client that begins with
//! a TLS handshake gets the same within TLS, with a certificate for the name that it asks for. A port of UDP answers each datagram with one. Answers depend on
//! the request:
//!
//! - `?delay=1s` waits first, `/status/503` answers with that code and no body;
//! - `/retry/...?uuid=U&succeedAfter=N` fails the first `N` requests of `U`, by closing the connection or with `&responseCode=503`, each after
//!   `&delayRetry=100ms`;
//! - the request header `X-Echo-Set-Header: name:value, name:value` sets response headers;
//! - a WebSocket gets its messages back, and so does a gRPC call, except that `GrpcEcho` answers as `echo-basic` does.

mod answer;
mod datagram;
pub mod endpoints;
mod grpc;
mod report;
mod server;
mod tls;
mod websocket;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

pub use datagram::Datagram;
pub use report::{Identity, Report};

use crate::authority::Authority;

/// A running echo server. Dropping it closes its listener and cuts its connections.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Echo {
    /// Listens on a free port of 127.0.0.1 and answers as `identity`, in the current tokio runtime.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start(identity: Identity) -> std::io::Result<Self> {
        Self::start_observed(identity, drop).await
    }

    /// The same with TLS certificates that `authority` signs; without it they are those of an authority that nobody knows.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start_signed(identity: Identity, authority: Arc<Authority>) -> std::io::Result<Self> {
        Self::listen(identity, drop, authority).await
    }

    /// The same, and `observe` is told of every request when its headers have arrived, whatever becomes of it then.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start_observed(identity: Identity, observe: impl Fn(Report) + Send + Sync + 'static) -> std::io::Result<Self> {
        let authority = Authority::new().map_err(std::io::Error::other)?;
        Self::listen(identity, observe, Arc::new(authority)).await
    }

    async fn listen(
        identity: Identity,
        observe: impl Fn(Report) + Send + Sync + 'static,
        authority: Arc<Authority>,
    ) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let tls = tls::acceptor(&identity, authority)?;
        let server = server::Server::new(identity, address.port(), tls, observe);
        let serving = tokio::spawn(server::serve(listener, server));
        Ok(Self { address, serving })
    }

    /// The same for datagrams, which are answered with a [`Datagram`] each.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start_udp(identity: Identity) -> std::io::Result<Self> {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let serving = tokio::spawn(datagram::serve(socket, identity));
        Ok(Self { address, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[cfg(test)]
mod tests;
