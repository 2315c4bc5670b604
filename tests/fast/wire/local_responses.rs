//! Responses that are made here reach clients that are still sending.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_routing::RouteKind;
use isthmus_tests::backend::{mirror_text, with_rules};
use isthmus_tests::raw::Raw;
use tokio::net::TcpStream;

use super::{before, serve, short};

/// HTTP/2: an early 404 with an unread body reaches the client every time (a reset stream would hide it).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_response_on_http2() {
    let (_bed, address) = serve(short(), |address| with_rules(address, RouteKind::Http, Vec::new())).await;
    for size in [3, 100_000] {
        for round in 0..10 {
            let stream = TcpStream::connect(address).await.expect("accepted");
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
            let driver = tokio::spawn(connection);
            let request =
                http::Request::post("http://a/nothing").body(Full::new(Bytes::from(vec![b'x'; size]))).expect("a request");
            let response =
                sender.send_request(request).await.unwrap_or_else(|error| panic!("{size} bytes, round {round}: {error:?}"));
            assert_eq!(response.status(), 404);
            response.into_body().collect().await.unwrap_or_else(|error| panic!("{size} bytes, round {round}, body: {error:?}"));
            driver.abort();
        }
    }
}

/// HTTP/1.1: an early 404 while 300 kB are on their way reaches the client, and the connection goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_response_on_http1() {
    let (_bed, address) = serve(short(), |address| with_rules(address, RouteKind::Http, Vec::new())).await;
    for round in 0..10 {
        let mut client = Raw::connect(address).await;
        client.send(format!("POST /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n{}", "x".repeat(300_000))).await;
        let response = client.response().await.unwrap_or_else(|fault| panic!("round {round}: {fault}"));
        assert_eq!(response.status, 404);
        if !response.closes() {
            client.send("GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert_eq!(client.response().await.expect("the next request").status, 404);
        }
    }
}

/// A body of many megabytes is not read to its end for a 404: the client gets the response, then the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_is_bounded() {
    let (_bed, address) = serve(short(), |address| with_rules(address, RouteKind::Http, Vec::new())).await;
    let mut client = Raw::connect(address).await;
    client.send("POST /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: 9000000000\r\n\r\n").await;
    client.send(vec![b'x'; 200_000]).await;
    assert_eq!(client.response().await.expect("a response").status, 404);
    assert!(client.ends_within(std::time::Duration::from_secs(12)).await, "waits for nine gigabytes");
}

/// Nothing says what it is built on, and each names what happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_foreign_server_header() {
    let (_bed, address) = serve(short(), |address| with_rules(address, RouteKind::Http, Vec::new())).await;
    let mut client = Raw::connect(address).await;
    client.send("GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let response = client.response().await.expect("a response");
    assert_eq!(response.status, 404);
    assert!(!response.header("server").unwrap_or_default().contains("Pingora"));
    assert!(!response.text().is_empty(), "a response without a word");
    client.send("HEAD /nothing HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response_to("HEAD").await.expect("a response to HEAD").status, 404);
    client.send("GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response().await.expect("HEAD left no body behind").status, 404);
}

/// Small responses leave in one write: header and body together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_write_for_a_small_response() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    let mut together = 0;
    for _ in 0..20 {
        client.send("GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let bytes = client.bytes().await;
        if isthmus_tests::raw::find(&bytes, b"GET /x HTTP/1.1").is_some() {
            together += 1;
        } else {
            client.bytes().await;
        }
    }
    assert!(together >= 18, "header and body came together only {together} times of 20");
}
