//! Bodies, `Expect`, pipelining and clients that go away.

use std::time::Duration;

use isthmus_tests::backend::{backend, canned, mirror_text, read_request};
use isthmus_tests::raw::Raw;
use tokio::io::AsyncWriteExt as _;

use super::before;

/// `Expect: 100-continue` gets its 100, and the connection is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expect_continue_keeps_the_connection() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    for round in 0..3 {
        client.send("POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await;
        assert_eq!(client.response().await.unwrap_or_else(|fault| panic!("round {round}: {fault}")).status, 100);
        client.send("hello").await;
        let response = client.response().await.expect("a final response");
        assert_eq!(response.status, 200);
        assert!(response.text().ends_with("hello"));
        assert!(!response.closes(), "round {round}: the connection is closed");
    }
}

/// Requests that are sent ahead are answered in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    client.send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\nGET /3 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    for path in ["/1", "/2", "/3"] {
        let response = client.response().await.unwrap_or_else(|fault| panic!("{path}: {fault}"));
        assert!(response.text().starts_with(&format!("GET {path} ")), "{path}: {}", response.text());
    }
}

/// A client that goes away takes its request with it, as users of nginx and Envoy expect: the backend's connection ends, so that nobody
/// works for nobody. (To TCP a client that only ends its sending half looks the same; it gets no response either.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_goes_away() {
    let (noticed, mut notices) = tokio::sync::mpsc::unbounded_channel();
    let waits = backend(move |mut stream| {
        let noticed = noticed.clone();
        async move {
            let mut buffer = Vec::new();
            read_request(&mut stream, &mut buffer).await;
            let ended = read_request(&mut stream, &mut buffer).await.is_none();
            let _ = noticed.send(ended);
        }
    })
    .await;
    let (_bed, address) = before(waits).await;
    let mut client = Raw::connect(address).await;
    client.send("GET /long HTTP/1.1\r\nhost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(client);
    let ended = tokio::time::timeout(Duration::from_secs(5), notices.recv()).await.expect("the backend is told");
    assert_eq!(ended, Some(true));
}

/// Chunks arrive whole, whatever their borders, and so do trailers' neighbours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_request() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    client.send("POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for piece in ["5\r\nhel", "lo\r\n", "1\r\n \r\n5\r\nworld\r\n", "0\r\n\r\n"] {
        client.send(piece).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let text = client.response().await.expect("a response").text();
    assert!(text.contains("hello") && text.contains("world"), "{text}");
    client.send("GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(client.response().await.expect("the next").text().starts_with("GET /next"));
}

/// Bad chunks: the request fails, and nothing of it becomes the next request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_chunks() {
    let (_bed, address) = before(mirror_text().await).await;
    for chunk in
        ["zz\r\nab\r\n0\r\n\r\n", "-1\r\nab\r\n0\r\n\r\n", "ffffffffffffffffff\r\nab\r\n0\r\n\r\n", "5\r\nabc\r\n0\r\n\r\n"]
    {
        let mut client = Raw::connect(address).await;
        let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        client.send(format!("POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{smuggled}")).await;
        client.finish().await;
        while let Ok(response) = client.response().await {
            assert!(!response.text().starts_with("GET /smuggled"), "{chunk:?} let a request through");
        }
    }
}

/// Responses without a body have none, and the connection goes on after them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodiless_responses() {
    for (backend, code) in [
        (canned(b"HTTP/1.1 204 No Content\r\n\r\n", false).await, 204),
        (canned(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", false).await, 304),
    ] {
        let (_bed, address) = before(backend).await;
        let mut client = Raw::connect(address).await;
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert_eq!(client.response().await.expect("a response").status, code);
        }
    }
    let (_bed, address) = before(canned(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", false).await).await;
    let mut client = Raw::connect(address).await;
    for _ in 0..3 {
        client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.response_to("HEAD").await.expect("a response").status, 200);
    }
}

/// 5 MB each way arrive byte for byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies() {
    let echo = backend(|mut stream| async move {
        let mut buffer = Vec::new();
        while let Some((_, body)) = read_request(&mut stream, &mut buffer).await {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&body).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (_bed, address) = before(echo).await;
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut client = Raw::connect(address).await;
    for _ in 0..2 {
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len())).await;
        client.send(&body).await;
        let response = client.response().await.expect("a response");
        assert_eq!(response.status, 200);
        assert!(response.body == body, "the body came back changed");
    }
}
