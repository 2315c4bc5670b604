//! Deadlines and sizes of what a client sends.

use std::time::{Duration, Instant};

use isthmus_dataplane::Limits;
use isthmus_tests::backend::{canned, mirror_text};
use isthmus_tests::raw::Raw;

use super::{before, before_with, short};

/// A header that trickles in is cut at one absolute deadline, however many bytes come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_header() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    trickle_is_cut(&mut client, "first request").await;
}

/// The same on a connection that has served a request before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_header_after_keep_alive() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.response().await.expect("served").status, 200);
    }
    trickle_is_cut(&mut client, "fourth request").await;
}

async fn trickle_is_cut(client: &mut Raw, what: &str) {
    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-slow: ").await;
    for _ in 0..80 {
        client.send("a").await;
        if client.ends_within(Duration::from_millis(50)).await {
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(400), "{what}: cut too early, after {took:?}");
            return;
        }
    }
    panic!("{what}: a slow header is still open after {:?}", start.elapsed());
}

/// A connection that never says anything is closed, on the plain port too, where the HTTP/2 preface is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connection() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut silent = Raw::connect(address).await;
    assert!(silent.ends_within(Duration::from_secs(4)).await, "a silent connection stays open");
    let mut half_preface = Raw::connect(address).await;
    half_preface.send("PRI * HTTP/2.0\r\n").await;
    assert!(half_preface.ends_within(Duration::from_secs(4)).await, "half a preface stays open");
    let mut only_preface = Raw::connect(address).await;
    only_preface.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(only_preface.ends_within(Duration::from_secs(8)).await, "a preface without a frame stays open");
}

/// Between requests the idle limit applies, and a connection within it is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connection() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response().await.expect("served").status, 200);
    tokio::time::sleep(short().header + Duration::from_millis(200)).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response().await.expect("kept for longer than the header's deadline").status, 200);
    assert!(client.ends_within(short().idle + Duration::from_secs(3)).await, "an idle connection stays open");
}

/// Too much header: 431, too long a target: 414, and the connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes() {
    let (_bed, address) = before(mirror_text().await).await;
    let many: String = (0..300).map(|n| format!("x-{n}: 1\r\n")).collect();
    let cases = [
        ("70 KiB of one header", format!("GET / HTTP/1.1\r\nhost: a\r\nx-big: {}\r\n\r\n", "a".repeat(70 * 1024)), 431),
        ("300 headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431),
        ("1 MiB without an end", format!("GET / HTTP/1.1\r\nhost: a\r\nx-big: {}", "a".repeat(1024 * 1024)), 431),
        ("a target of 40 KiB", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(40 * 1024)), 414),
    ];
    for (name, bytes, code) in cases {
        let mut client = Raw::connect(address).await;
        client.send(&bytes).await;
        let response = client.response().await.unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(response.status, code, "{name}");
        assert!(client.ends_within(Duration::from_secs(4)).await, "{name}: stays open");
    }
}

/// What is below the limits passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_limits() {
    let (_bed, address) = before(mirror_text().await).await;
    let many: String = (0..80).map(|n| format!("x-{n}: {}\r\n", "v".repeat(500))).collect();
    let mut client = Raw::connect(address).await;
    client.send(format!("GET /{} HTTP/1.1\r\nhost: a\r\n{many}\r\n", "a".repeat(8 * 1024))).await;
    let response = client.response().await.expect("served");
    assert_eq!(response.status, 200);
    assert!(response.text().contains("x-79: vvv"));
}

/// A header that comes byte by byte but in time is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_by_byte() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    for _ in 0..2 {
        for byte in b"GET /bytes HTTP/1.1\r\nhost: a\r\n\r\n" {
            client.send([*byte]).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let response = client.response().await.expect("served");
        assert_eq!(response.status, 200);
        assert!(response.text().starts_with("GET /bytes HTTP/1.1"));
    }
}

/// A client that asks and does not read is cut when a write has waited for too long, however small the responses are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_that_stops() {
    // No body: Pingora watches the writing of bodies on its own.
    let response = format!("HTTP/1.1 304 Not Modified\r\nx-long: {}\r\n\r\n", "x".repeat(3_000));
    let target = canned(Box::leak(response.into_bytes().into_boxed_slice()), false).await;
    let limits = Limits { write: Duration::from_millis(500), ..Limits::default() };
    let (_bed, address) = before_with(target, limits, |_| {}).await;
    let mut client = Raw::connect(address).await;
    // More than the buffers of two sockets hold.
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(12_000)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(client.ends_within(Duration::from_secs(5)).await, "a connection whose client reads nothing stays open");
}
