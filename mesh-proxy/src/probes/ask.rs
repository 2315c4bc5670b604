//! One request to the application, on a connection of its own, as the kubelet makes them: it never waits for another one.

use std::io;
use std::net::SocketAddr;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Scheme, connect, tls};

/// Why the application has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// It takes no connection.
    #[error("the application takes no connection at {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    /// It does not speak TLS, or not with us.
    #[error("the application has not made TLS at {address}: {source}")]
    Tls { address: SocketAddr, source: io::Error },
    /// It does not speak HTTP.
    #[error("the application has not answered at {address}: {source}")]
    Http { address: SocketAddr, source: hyper::Error },
    /// What was declared cannot be asked.
    #[error("the declared request cannot be made: {0}")]
    Request(#[from] http::Error),
}

/// With HTTP/1.1. The answer's body may be read for as long as it comes.
pub(super) async fn http1(address: SocketAddr, scheme: Scheme, request: Request<Body>) -> Result<Response<Incoming>, AskError> {
    let stream = connect(address).await?;
    match scheme {
        Scheme::Http => http1_on(stream, address, request).await,
        Scheme::Https => http1_on(tls::connect(stream, address).await?, address, request).await,
    }
}

async fn http1_on<S>(stream: S, address: SocketAddr, request: Request<Body>) -> Result<Response<Incoming>, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let fault = |source| AskError::Http { address, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(fault)?;
    // Ends with the answer: nothing else is sent on it.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(fault)
}

/// With HTTP/2 in the clear, without having asked whether it is spoken.
pub(super) async fn http2(address: SocketAddr, request: Request<Body>) -> Result<Response<Incoming>, AskError> {
    let fault = |source| AskError::Http { address, source };
    let stream = TokioIo::new(connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.map_err(fault)?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(fault)
}
