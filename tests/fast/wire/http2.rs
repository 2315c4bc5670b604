//! HTTP/2 and gRPC: streams, trailers, pools, and frames that attack.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_routing::BackendProtocol;
use isthmus_tests::backend::{backend, edit_rule, leads_to, mirror_text};
use isthmus_tests::raw::Raw;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{before, serve, short};

/// A gRPC backend that sends every message back and ends with status 0; counts its connections.
async fn grpc_echo(connections: Arc<AtomicUsize>, delay: Duration) -> std::net::SocketAddr {
    backend(move |stream| {
        connections.fetch_add(1, Ordering::SeqCst);
        async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                tokio::time::sleep(delay).await;
                let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(8);
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(frame)) = body.frame().await {
                        if let Ok(data) = frame.into_data()
                            && sender.send(Ok(Frame::data(data))).await.is_err()
                        {
                            return;
                        }
                    }
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let _ = sender.send(Ok(Frame::trailers(trailers))).await;
                });
                let body = StreamBody::new(ReceiverStream(receiver));
                Ok::<_, std::convert::Infallible>(
                    http::Response::builder().header("content-type", "application/grpc").body(body).expect("a response"),
                )
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

/// A channel as a stream.
struct ReceiverStream(mpsc::Receiver<Result<Frame<Bytes>, std::convert::Infallible>>);

impl futures_core::Stream for ReceiverStream {
    type Item = Result<Frame<Bytes>, std::convert::Infallible>;
    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

fn grpc_request<B>(body: B) -> http::Request<B> {
    http::Request::post("http://grpc.test/echo.Echo/Stream")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a request")
}

/// Both sides stream at once: responses come before the request has ended, trailers at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bidirectional_stream() {
    let target = grpc_echo(Arc::default(), Duration::ZERO).await;
    let (_bed, address) = serve(short(), |address| leads_to(address, &[target], BackendProtocol::Http)).await;
    let stream = TcpStream::connect(address).await.expect("accepted");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let (messages, receiver) = mpsc::channel(8);
    let response = tokio::time::timeout(
        Duration::from_secs(5),
        sender.send_request(grpc_request(StreamBody::new(ReceiverStream(receiver)))),
    )
    .await
    .expect("the response header comes before the request ends")
    .expect("a response");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for n in 0..5 {
        messages.send(Ok(Frame::data(Bytes::from(format!("message {n}"))))).await.expect("the request is open");
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame())
            .await
            .expect("in time")
            .expect("a frame")
            .expect("no error");
        assert_eq!(frame.into_data().expect("data"), format!("message {n}"));
    }
    drop(messages);
    let mut status = None;
    while let Some(frame) = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("in time") {
        if let Ok(trailers) = frame.expect("no error").into_trailers() {
            status = trailers.get("grpc-status").cloned();
        }
    }
    assert_eq!(status.expect("trailers"), "0");
}

/// Calls that are open at the same time share connections to the backend. They start one after another here: in a burst several would
/// meet before a connection is back in the pool, and Pingora opens one for each of those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_share_connections() {
    let connections = Arc::new(AtomicUsize::new(0));
    let target = grpc_echo(connections.clone(), Duration::from_millis(500)).await;
    let (_bed, address) = serve(short(), |address| leads_to(address, &[target], BackendProtocol::H2c)).await;
    let stream = TcpStream::connect(address).await.expect("accepted");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let call = |mut sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>| async move {
        let response = sender.send_request(grpc_request(Full::new(Bytes::from_static(b"hi")))).await.expect("a response");
        response.into_body().collect().await.expect("a body").trailers().and_then(|trailers| trailers.get("grpc-status").cloned())
    };
    assert_eq!(call(sender.clone()).await.expect("trailers"), "0");
    let mut calls = Vec::new();
    for _ in 0..60 {
        calls.push(tokio::spawn(call(sender.clone())));
        tokio::time::sleep(Duration::from_millis(6)).await;
    }
    for call in calls {
        assert_eq!(call.await.expect("no panic").expect("trailers"), "0");
    }
    let used = connections.load(Ordering::SeqCst);
    assert!(used <= 20, "60 calls at the same time took {used} connections");
}

/// Request trailers are not forwarded (a limit of Pingora), and the call is answered all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_trailers() {
    let target = grpc_echo(Arc::default(), Duration::ZERO).await;
    let (_bed, address) = serve(short(), |address| leads_to(address, &[target], BackendProtocol::H2c)).await;
    let stream = TcpStream::connect(address).await.expect("accepted");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let (messages, receiver) = mpsc::channel(8);
    messages.send(Ok(Frame::data(Bytes::from_static(b"hello")))).await.expect("room");
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-trailer", http::HeaderValue::from_static("1"));
    messages.send(Ok(Frame::trailers(trailers))).await.expect("room");
    drop(messages);
    let response = sender.send_request(grpc_request(StreamBody::new(ReceiverStream(receiver)))).await.expect("a response");
    let body =
        tokio::time::timeout(Duration::from_secs(5), response.into_body().collect()).await.expect("in time").expect("a body");
    assert_eq!(body.to_bytes(), "hello");
}

/// A deadline ends an upload to an HTTP/2 backend that takes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadline_during_upload_to_http2() {
    let target = grpc_echo(Arc::default(), Duration::from_secs(30)).await;
    let (_bed, address) = serve(short(), |address| {
        let mut snapshot = leads_to(address, &[target], BackendProtocol::H2c);
        edit_rule(&mut snapshot, |rule| rule.timeouts.request = Some(Duration::from_millis(500)));
        snapshot
    })
    .await;
    let mut client = Raw::connect(address).await;
    let start = std::time::Instant::now();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").await;
    for _ in 0..10 {
        client.send(vec![b'x'; 10_000]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.response().await.expect("a response").status, 504);
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
}

/// The header of a response that comes byte by byte over HTTP/2 cannot put the deadline off either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickled_header_over_http2() {
    let target = backend(|mut stream| async move {
        let settings = [frames::frame(4, 0, 0, &[]), frames::frame(4, 1, 0, &[])].concat();
        if stream.write_all(&settings).await.is_err() {
            return;
        }
        // `:status 200`, then a header that goes on and on in CONTINUATION frames.
        let mut piece = frames::frame(1, 0, 1, &[0x88]);
        while stream.write_all(&piece).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            piece = frames::frame(9, 0, 1, &[0x00, 1, b'x', 1, b'y']);
        }
    })
    .await;
    let (_bed, address) = serve(short(), |address| {
        let mut snapshot = leads_to(address, &[target], BackendProtocol::H2c);
        edit_rule(&mut snapshot, |rule| rule.timeouts.request = Some(Duration::from_millis(500)));
        snapshot
    })
    .await;
    let mut client = Raw::connect(address).await;
    let start = std::time::Instant::now();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response().await.expect("a response").status, 504);
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
}

/// Raw frames.
mod frames {
    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).expect("a short payload").to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// `:method GET`, `:scheme http`, `:path /`, `:authority a` in HPACK without a table.
    pub(super) fn headers(stream: u32, end_headers: bool) -> Vec<u8> {
        frame(1, 1 | if end_headers { 4 } else { 0 }, stream, &[0x82, 0x86, 0x84, 0x01, 0x01, b'a'])
    }
}

/// Floods end the connection or cost nothing; a neighbour is served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods() {
    use frames::{PREFACE, frame, headers};
    let (_bed, address) = before(mirror_text().await).await;
    let reset = |n: u32| [headers(n * 2 + 1, true), frame(3, 0, n * 2 + 1, &8_u32.to_be_bytes())].concat();
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("rapid reset", (0..3000).flat_map(reset).collect()),
        ("settings", (0..3000).flat_map(|_| frame(4, 0, 0, &[0, 4, 0, 0, 255, 255])).collect()),
        ("ping", (0..3000).flat_map(|_| frame(6, 0, 0, &[0; 8])).collect()),
        ("priority", (0..3000_u32).flat_map(|n| frame(2, 0, n * 2 + 1, &[0, 0, 0, 0, 1])).collect()),
        (
            "continuation",
            [headers(1, false), (0..3000).flat_map(|_| frame(9, 0, 1, &[0x00, 1, b'x', 1, b'y'])).collect()].concat(),
        ),
        (
            "zero window updates",
            (0..300_u32).flat_map(|n| [headers(n * 2 + 1, true), frame(8, 0, n * 2 + 1, &[0; 4])].concat()).collect(),
        ),
    ];
    let mut neighbour = Raw::connect(address).await;
    for (name, bytes) in attacks {
        let mut attacker = Raw::connect(address).await;
        attacker.send([PREFACE, &frame(4, 0, 0, &[])].concat()).await;
        attacker.send(&bytes).await;
        neighbour.send("GET /neighbour HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let response = neighbour.response().await.unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(response.status, 200, "{name}");
    }
}

/// HEADERS that never end are cut like a slow header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end() {
    use frames::{PREFACE, frame, headers};
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    client.send([PREFACE, &frame(4, 0, 0, &[]), &headers(1, false)].concat()).await;
    assert!(client.ends_within(Duration::from_secs(8)).await, "an HTTP/2 header without an end stays open");
}

/// HTTP/2 clients send each cookie in a line of its own; HTTP/1 servers read one line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_are_joined_for_http1() {
    let (_bed, address) = before(mirror_text().await).await;
    let stream = TcpStream::connect(address).await.expect("accepted");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request =
        http::Request::get("http://a/").header("cookie", "a=1").header("cookie", "b=2; c=3").body(Full::<Bytes>::default());
    let response = sender.send_request(request.expect("a request")).await.expect("a response");
    let seen = response.into_body().collect().await.expect("a body").to_bytes();
    let seen = String::from_utf8_lossy(&seen).to_ascii_lowercase();
    assert!(seen.contains("\r\ncookie: a=1; b=2; c=3\r\n"), "{seen}");
    assert_eq!(seen.matches("\r\ncookie:").count(), 1, "{seen}");
}
