//! Over real sockets, with clients that were written elsewhere where there is one.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::{Echo, Identity, Report};
use crate::authority::Authority;

fn identity() -> Identity {
    Identity { namespace: "shop".into(), service: "api".into(), pod: "api-echo".into() }
}

/// Sends bytes and reads until the echo closes.
async fn raw(echo: &Echo, request: &str) -> String {
    let mut stream = TcpStream::connect(echo.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\nx-echo-set-header: x-set:1\r\n\r\n")
}

#[tokio::test]
async fn requests_are_reported() {
    let echo = Echo::start(identity()).await.unwrap();
    let answer = raw(&echo, &get("/p?q=1")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nx-set: 1"), "{head}");
    let report: Report = serde_json::from_str(body).unwrap();
    assert_eq!((report.path.as_str(), report.host.as_str(), report.pod.as_str()), ("/p?q=1", "a.example", "api-echo"));
    assert_eq!(report.http_port, echo.address().port().to_string());
}

/// The answer within TLS, or why there is no TLS.
async fn by_tls(echo: &Echo, server_name: &'static str, authority: &Authority) -> Result<String, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(echo.address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(server_name.try_into().unwrap(), stream).await.map_err(|error| error.to_string())?;
    stream.write_all(get("/p").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    Ok(answer)
}

#[tokio::test]
async fn a_handshake_gets_a_certificate_for_the_name_that_it_asks_for() {
    let (authority, other) = (Arc::new(Authority::new().unwrap()), Authority::new().unwrap());
    let echo = Echo::start_signed(identity(), Arc::clone(&authority)).await.unwrap();
    for name in ["a.example", "b.example"] {
        let answer = by_tls(&echo, name, &authority).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("api-echo"), "{answer}");
    }
    let refused = by_tls(&echo, "a.example", &other).await.unwrap_err();
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    assert!(raw(&echo, &get("/p")).await.contains("api-echo"), "and without TLS as before");
}

#[tokio::test]
async fn faults_on_demand() {
    let echo = Echo::start(identity()).await.unwrap();
    for (path, status) in [
        ("/status/503", "HTTP/1.1 503 "),
        ("/status/nothing", "HTTP/1.1 400 "),
        ("/?delay=1ms", "HTTP/1.1 200 "),
        ("/?delay=soon", "HTTP/1.1 400 "),
        ("/retry/x?uuid=a&succeedAfter=1&responseCode=502", "HTTP/1.1 502 "),
        ("/retry/x?uuid=a&succeedAfter=1&responseCode=502", "HTTP/1.1 200 "),
        ("/retry/x?uuid=b&succeedAfter=1", ""),
        ("/retry/x?uuid=b&succeedAfter=1", "HTTP/1.1 200 "),
    ] {
        let answer = raw(&echo, &get(path)).await;
        assert!(if status.is_empty() { answer.is_empty() } else { answer.starts_with(status) }, "{path}: {answer}");
    }
}

#[tokio::test]
async fn whoever_observes_sees_every_request() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = Arc::clone(&seen);
    let echo = Echo::start_observed(identity(), move |report| observer.lock().unwrap().push(report.path)).await.unwrap();
    for path in ["/a", "/status/500"] {
        raw(&echo, &get(path)).await;
    }
    assert_eq!(*seen.lock().unwrap(), ["/a", "/status/500"]);
}

#[tokio::test]
async fn grpc_messages_come_back() {
    let echo = Echo::start(identity()).await.unwrap();
    let stream = TcpStream::connect(echo.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let message = Bytes::from_static(b"\0\0\0\0\x03abc");
    let echo_service = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho";
    for (path, status, part) in [
        ("/any.Service/Method".to_owned(), "0", message.to_vec()),
        (format!("{echo_service}/EchoTwo"), "0", b"api-echo".to_vec()),
        (format!("{echo_service}/EchoThree"), "12", vec![]),
    ] {
        let request = Request::post(format!("http://a.example{path}")).header("content-type", "application/grpc");
        let response = sender.send_request(request.body(Full::new(message.clone())).unwrap()).await.unwrap();
        assert_eq!((response.status(), &response.headers()["x-echo-pod"]), (StatusCode::OK, &"api-echo".parse().unwrap()));
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], status, "{path}");
        let bytes = body.to_bytes();
        let found = if part.is_empty() { bytes.is_empty() } else { bytes.windows(part.len()).any(|window| window == part) };
        assert!(found, "{path}: {bytes:?}");
    }
    connection.abort();
}

#[tokio::test]
async fn websocket_messages_come_back() {
    let echo = Echo::start(identity()).await.unwrap();
    let stream = TcpStream::connect(echo.address()).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async("ws://a.example/ws", stream).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    for message in [Message::text("hello"), Message::binary(vec![0, 255])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
}

#[tokio::test]
async fn an_echo_ends_when_it_is_dropped() {
    let echo = Echo::start(identity()).await.unwrap();
    let address = echo.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    drop(echo);
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "its connections are cut");
}
