//! Server names at a TLS listener that passes connections on: what is none, or nobody's, is refused with an alert that says so.

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_routing::Protocol;
use isthmus_tests::backend::{backend, edit_listener, streams_to};
use isthmus_tests::bed::Bed;
use isthmus_tests::raw::Raw;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{serve, short};

const ALERT: u8 = 0x15;

/// A ClientHello with this server name, or with none, of TLS 1.2.
pub(super) fn hello(name: Option<&[u8]>) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("it is short").to_be_bytes();
    // Groups (x25519, P-256) and signatures (ECDSA and RSA-PSS with SHA-256).
    let mut extensions = b"\x00\x0a\x00\x06\x00\x04\x00\x1d\x00\x17\x00\x0d\x00\x06\x00\x04\x04\x03\x08\x04".to_vec();
    if let Some(name) = name {
        extensions.extend([0, 0]);
        extensions.extend(length(name.len() + 5));
        extensions.extend(length(name.len() + 3));
        extensions.push(0);
        extensions.extend(length(name.len()));
        extensions.extend(name);
    }
    let mut body = [&[3, 3], &[7; 32][..], &[0, 0, 2, 0xc0, 0x2b, 1, 0]].concat();
    body.extend(length(extensions.len()));
    body.extend(extensions);
    let record = length(body.len() + 4);
    [&[0x16, 3, 1], &record[..], &[1, 0], &length(body.len()), &body].concat()
}

/// The same handshake message in records of one byte.
pub(super) fn in_pieces(hello: &[u8]) -> Vec<u8> {
    hello[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect()
}

/// A backend that says how many bytes it received first.
async fn before() -> (Bed, SocketAddr) {
    let target = backend(|mut stream| async move {
        let mut bytes = Vec::new();
        while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
            let _ = stream.write_all(&bytes).await;
            bytes.clear();
        }
    })
    .await;
    serve(short(), |address| {
        let mut snapshot = streams_to(address, &[target], Protocol::Tls);
        edit_listener(&mut snapshot, |listener| listener.hostname = Some("*.example.com".parse().expect("a hostname")));
        snapshot
    })
    .await
}

/// What is for somebody is passed on byte for byte, however it is cut into records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passed_on_as_it_is() {
    let (_bed, address) = before().await;
    let whole = hello(Some(b"a.example.com"));
    for (name, sent) in [
        ("one record", whole.clone()),
        ("records of one byte", in_pieces(&whole)),
        ("capitals", hello(Some(b"A.Example.COM"))),
        ("with bytes after it", [&whole[..], b"\x14\x03\x03\x00\x01\x01"].concat()),
    ] {
        let mut client = Raw::connect(address).await;
        client.send(&sent).await;
        let mut received = Vec::new();
        while received.len() < sent.len() {
            let more = client.bytes().await;
            assert!(!more.is_empty(), "{name}: only {} of {} bytes came back", received.len(), sent.len());
            received.extend(more);
        }
        assert_eq!(received, sent, "{name}");
    }
}

/// Nobody's: the end of the connection, for broken ones with an alert before it, and the backend hears nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused() {
    let (_bed, address) = before().await;
    let long = [b"a".repeat(300), b".example.com".to_vec()].concat();
    for (name, server_name, is_silent) in [
        ("none", None, true),
        ("of nobody", Some(&b"a.example.org"[..]), true),
        ("the wildcard's own name", Some(b"example.com"), true),
        ("an IPv4 address", Some(b"127.0.0.1"), false),
        ("an IPv6 address", Some(b"::1"), false),
        ("300 characters", Some(&long), false),
        ("empty", Some(b""), false),
        ("with NUL", Some(b"a.example.com\0.example.com"), false),
        ("no ASCII", Some("ä.example.com".as_bytes()), false),
    ] {
        let mut client = Raw::connect(address).await;
        client.send(hello(server_name)).await;
        let answer = client.bytes().await;
        assert!(answer.first().is_none_or(|first| *first == ALERT), "{name}: passed on, {answer:02x?}");
        assert!(!is_silent || answer.is_empty(), "{name}: {answer:02x?}");
        assert!(client.ends_within(Duration::from_secs(3)).await, "{name}: stays open");
    }
    let mut client = Raw::connect(address).await;
    client.send(hello(Some(b"a.example.com"))).await;
    assert!(client.bytes().await.starts_with(&[0x16]), "neighbours are served");
}

/// What is no TLS, and what stalls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hello() {
    let (_bed, address) = before().await;
    let whole = hello(Some(b"a.example.com"));
    for (name, bytes) in [
        ("silence", &b""[..]),
        ("five bytes", &whole[..5]),
        ("all but one byte", &whole[..whole.len() - 1]),
        ("plain HTTP", b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n"),
        ("garbage", &[0xff; 64]),
    ] {
        let mut client = Raw::connect(address).await;
        client.send(bytes).await;
        assert!(client.ends_within(short().handshake + Duration::from_secs(3)).await, "{name}: stays open");
    }
}
