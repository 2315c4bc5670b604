//! What the pods serve: HTTP of every kind, and something whose server speaks first.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::net::{TcpListener, TcpStream};

use super::net::{APPLICATION, Net};

/// HTTP/1, HTTP/2 with prior knowledge, gRPC and WebSocket.
pub(super) const HTTP: u16 = 8080;
/// Says who it is, then says again what it hears.
pub(super) const GREETING: u16 = 3306;

/// The answer to every request: who gives it, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) pod: String,
    /// The other end of the connection.
    pub(super) peer: IpAddr,
    pub(super) path: String,
    /// Lower-case, in the order of names.
    pub(super) headers: Vec<(String, String)>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Serves for as long as the runtime runs, in which this is called.
pub(super) fn serve(net: &Net, pod: &'static str) {
    let http = TcpListener::from_std(net.listen(APPLICATION, HTTP)).unwrap();
    let greeting = TcpListener::from_std(net.listen(APPLICATION, GREETING)).unwrap();
    tokio::spawn(async move {
        while let Ok((socket, peer)) = http.accept().await {
            let answer = move |request| async move { Ok::<_, Infallible>(answer(pod, peer.ip().to_canonical(), request)) };
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection_with_upgrades(TokioIo::new(socket), service_fn(answer)).await;
            });
        }
    });
    tokio::spawn(async move {
        while let Ok((socket, _)) = greeting.accept().await {
            tokio::spawn(greet(pod, socket));
        }
    });
}

fn answer(pod: &str, peer: IpAddr, request: Request<Incoming>) -> Response<Body> {
    let is = |name: HeaderName, value: &str| request.headers().get(name).is_some_and(|found| found == value);
    if is(CONTENT_TYPE, "application/grpc") {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("grpc-message", HeaderValue::from_str(pod).unwrap());
        let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(std::future::ready(Some(Ok(trailers))));
        return Response::builder().header(CONTENT_TYPE, "application/grpc").body(Body::new(body)).unwrap();
    }
    if is(header::UPGRADE, "websocket") {
        tokio::spawn(async move {
            let (mut read, mut write) = split(TokioIo::new(hyper::upgrade::on(request).await.unwrap()));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        // Of the key in RFC 6455.
        let accept =
            [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-accept", "s3pPLBmTxaQ9kYGzzhZRbK+xOo=")];
        let response = accept.iter().fold(Response::builder(), |response, (name, value)| response.header(*name, *value));
        return response.status(StatusCode::SWITCHING_PROTOCOLS).body(Body::empty()).unwrap();
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers: Vec<_> = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    headers.sort();
    let seen = Seen { pod: pod.to_owned(), peer, path: request.uri().path().to_owned(), headers };
    Response::new(Body::from(serde_json::to_string(&seen).unwrap()))
}

async fn greet(pod: &str, mut socket: TcpStream) {
    if socket.write_all(pod.as_bytes()).await.is_ok() {
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = socket.read(&mut bytes).await {
            if socket.write_all(&bytes[..read]).await.is_err() {
                break;
            }
        }
    }
}
