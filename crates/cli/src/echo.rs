//! A built-in echo server: what a backend was sent, as JSON in the shape of the conformance suite's `echo-basic`.
//!
//! One listener stands for one Service port and speaks HTTP/1.1, HTTP/2 with prior knowledge, gRPC and WebSocket. Answers depend on the request:
//!
//! - `?delay=1s` waits first, `/status/503` answers with that code and no body;
//! - `/retry/...?uuid=U&succeedAfter=N` fails the first `N` requests of `U`, by closing the connection or with `&responseCode=503`, each after
//!   `&delayRetry=100ms`;
//! - the request header `X-Echo-Set-Header: name:value, name:value` sets response headers;
//! - a WebSocket gets its messages back, and so does a gRPC call, except that `GrpcEcho` answers as `echo-basic` does.

mod answer;
pub mod endpoints;
mod grpc;
mod report;
mod server;
mod websocket;

use std::net::{Ipv4Addr, SocketAddr};

pub use report::{Identity, Report};

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

    /// The same, and `observe` is told of every request when its headers have arrived, whatever becomes of it then.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start_observed(identity: Identity, observe: impl Fn(Report) + Send + Sync + 'static) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(server::serve(listener, server::Server::new(identity, address.port(), observe)));
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
