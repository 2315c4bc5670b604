//! The accept loop of an echo, and which protocol answers a request.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::{Body, Faults, answer};
use super::{Identity, Report, grpc, tls, websocket};

/// What the connections of an echo share.
pub(super) struct Server {
    identity: Identity,
    port: u16,
    faults: Faults,
    tls: TlsAcceptor,
    observe: Box<dyn Fn(Report) + Send + Sync>,
}

impl Server {
    pub(super) fn new(identity: Identity, port: u16, tls: TlsAcceptor, observe: impl Fn(Report) + Send + Sync + 'static) -> Self {
        Self { identity, port, faults: Faults::default(), tls, observe: Box::new(observe) }
    }
}

/// Never ends by itself; aborting it aborts its connections.
pub(super) async fn serve(listener: TcpListener, server: Server) {
    let server = Arc::new(server);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&server), stream));
                }
                // Out of descriptors: those who are connected have to end first.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(server: Arc<Server>, stream: TcpStream) {
    // Without it a delayed acknowledgement of the client costs 40 ms; a socket that refuses is as good as gone.
    let _ = stream.set_nodelay(true);
    // Whoever speaks to an echo begins, so there is a first byte to tell by.
    let mut first = [0];
    if matches!(stream.peek(&mut first).await, Ok(1)) && first[0] == tls::HANDSHAKE {
        if let Ok(stream) = server.tls.accept(stream).await {
            converse(server, stream).await;
        }
    } else {
        converse(server, stream).await;
    }
}

async fn converse(server: Arc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { respond(&server, request).await }
    });
    // A client that breaks off or breaks the protocol is no concern of an echo.
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

/// A request that asks for the connection to be cut is answered with this; hyper then closes without a response.
#[derive(Debug, thiserror::Error)]
#[error("the request asked for the connection to be cut")]
pub(super) struct Cut;

async fn respond(server: &Server, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let (parts, body) = request.into_parts();
    let report = Report::new(&parts, &server.identity, server.port);
    (server.observe)(report.clone());
    if grpc::is_grpc(&parts.headers) {
        return Ok(grpc::answer(&server.identity, &parts, body).await);
    }
    if websocket::is_upgrade(&parts.headers) {
        return Ok(websocket::answer(Request::from_parts(parts, body)));
    }
    answer(&server.faults, &report, &parts, body).await
}
