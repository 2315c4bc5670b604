//! WebSocket and other upgrades.

use std::time::Duration;

use isthmus_tests::backend::{backend, canned, edit_rule, read_request};
use isthmus_tests::raw::Raw;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{before, before_with, short};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Takes the upgrade at once and sends every byte back.
async fn raw_echo() -> std::net::SocketAddr {
    backend(|mut stream| async move {
        let mut buffer = Vec::new();
        let Some((head, _)) = read_request(&mut stream, &mut buffer).await else { return };
        if !head.to_ascii_lowercase().contains("upgrade: websocket") {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n").await;
        let _ = stream.write_all(&buffer).await;
        let mut bytes = [0; 4096];
        while let Ok(n) = stream.read(&mut bytes).await {
            if n == 0 || stream.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// After 101 bytes pass both ways as they are, in pieces of any size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass() {
    let echo = raw_echo().await;
    let (_bed, address) = before(echo).await;
    let mut client = Raw::connect(address).await;
    client.send(UPGRADE).await;
    let response = client.response().await.expect("a response");
    assert_eq!(response.status, 101);
    assert_eq!(response.header("upgrade").map(str::to_ascii_lowercase).as_deref(), Some("websocket"));
    for size in [1, 100, 50_000] {
        let sent = vec![b'z'; size];
        client.send(&sent).await;
        let mut received = Vec::new();
        while received.len() < size {
            let bytes = client.bytes().await;
            assert!(!bytes.is_empty(), "the stream ended after {} of {size} bytes", received.len());
            received.extend(bytes);
        }
        assert_eq!(received, sent);
    }
}

/// An endpoint that switches at once does not lose the stream: Pingora's message that the request's body is over must not end it. And a
/// deadline for the request ends with the 101.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_at_once() {
    let target = raw_echo().await;
    let (_bed, address) = before_with(target, short(), |snapshot| {
        edit_rule(snapshot, |rule| rule.timeouts.request = Some(Duration::from_millis(400)));
    })
    .await;
    for round in 0..100 {
        let mut client = Raw::connect(address).await;
        client.send(UPGRADE).await;
        assert_eq!(client.response().await.unwrap_or_else(|fault| panic!("round {round}: {fault}")).status, 101);
        if round == 0 {
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        client.send("ping").await;
        assert_eq!(client.bytes().await, b"ping", "round {round}: the stream has ended");
    }
}

/// A backend that refuses the upgrade answers as usual, and what the client sent ahead is no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_upgrade() {
    let (_bed, address) = before(canned(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", false).await).await;
    let mut client = Raw::connect(address).await;
    client.send(UPGRADE).await;
    assert_eq!(client.response().await.expect("a response").status, 403);
}

/// `Upgrade: h2c` is not taken over and not passed on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2c_upgrade_is_ignored() {
    let (_bed, address) = before(isthmus_tests::backend::mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    client
        .send("GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n")
        .await;
    let response = client.response().await.expect("a response");
    if response.status == 200 {
        assert!(!response.text().to_ascii_lowercase().contains("upgrade: h2c"), "{}", response.text());
    } else {
        assert_eq!(response.status, 400);
    }
}
