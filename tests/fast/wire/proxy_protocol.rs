//! The PROXY protocol on both sides: who the client is, for backends that are asked in the clear, with TLS and by HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_routing::{BackendProtocol, Gateway, Protocol, ProxyProtocol, Snapshot};
use isthmus_tests::backend::{backend, edit_backend, leads_to, mirror_text, read_request, streams_to};
use isthmus_tests::bed::Bed;
use isthmus_tests::raw::Raw;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{serve, short};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn edit_gateway(snapshot: &mut Snapshot, edit: impl FnOnce(&mut Gateway)) {
    if let Some(gateway) = snapshot.gateways.values_mut().next() {
        edit(Arc::make_mut(gateway));
    }
}

/// Version 2, for TCP over IPv4, with one TLV that nobody knows.
fn version_2(command: u8, source: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = [SIGNATURE, &[0x20 | command, 0x11, 0, 12 + 5]].concat();
    header.extend(source);
    header.extend([127, 0, 0, 1]);
    header.extend(port.to_be_bytes());
    header.extend(80_u16.to_be_bytes());
    header.extend([0xe0, 0, 2, 1, 2]);
    header
}

/// Answers with everything that it received, once the client has ended its half.
async fn repeats() -> SocketAddr {
    backend(|mut stream| async move {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        let _ = stream.write_all(&bytes).await;
    })
    .await
}

async fn before(endpoint: SocketAddr, required: bool, out: Option<ProxyProtocol>) -> (Bed, SocketAddr) {
    serve(short(), |address| {
        let mut snapshot = streams_to(address, &[endpoint], Protocol::Tcp);
        edit_gateway(&mut snapshot, |gateway| gateway.proxy_protocol = required);
        edit_backend(&mut snapshot, |backend| backend.proxy_protocol = out);
        snapshot
    })
    .await
}

/// Sends, ends its half, and gives what comes back and its own address.
async fn ask(address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, SocketAddr) {
    let mut client = TcpStream::connect(address).await.expect("the listener accepts");
    let own = client.local_addr().expect("connected");
    let _ = client.write_all(bytes).await;
    let _ = client.shutdown().await;
    let mut answer = Vec::new();
    let reading = client.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("the end comes in time");
    (answer, own)
}

/// What is required of clients is taken away, and not one byte more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_in() {
    let (_bed, address) = before(repeats().await, true, None).await;
    let good: &[(&str, Vec<u8>)] = &[
        ("version 1", b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n".to_vec()),
        ("version 1 over IPv6", b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n".to_vec()),
        ("version 1 that knows nothing", b"PROXY UNKNOWN\r\n".to_vec()),
        ("version 2", version_2(1, [192, 0, 2, 7], 4711)),
        ("version 2 of a health check", version_2(0, [192, 0, 2, 7], 4711)),
    ];
    for (name, header) in good {
        let (answer, _) = ask(address, &[header, &b"hello"[..]].concat()).await;
        assert_eq!(answer, b"hello", "{name}");
    }
}

/// What is no header ends the connection before the backend hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_headers_in() {
    let (_bed, address) = before(repeats().await, true, None).await;
    let bad: &[(&str, Vec<u8>)] = &[
        ("nothing but bytes", b"hello, this is no header at all\r\n".to_vec()),
        ("HTTP", GET.as_bytes().to_vec()),
        ("no end", [&b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80"[..], &[b' '; 200]].concat()),
        ("no address", b"PROXY TCP4 a b 1 2\r\nhello".to_vec()),
        ("a port too large", b"PROXY TCP4 192.0.2.7 192.0.2.1 70000 80\r\nhello".to_vec()),
        ("version 3", [SIGNATURE, &[0x31, 0x11, 0, 12], &[0; 12], b"hello"].concat()),
        ("addresses that are cut", [SIGNATURE, &[0x21, 0x11, 0, 4], &[0; 4], b"hello"].concat()),
        ("a signature with a fault", [&SIGNATURE[..11], b"x!\x11\0\x0c", &[0; 12], b"hello"].concat()),
    ];
    for (name, bytes) in bad {
        let (answer, _) = ask(address, bytes).await;
        assert!(answer.is_empty(), "{name}: {:?}", String::from_utf8_lossy(&answer));
    }
    for begun in [&b""[..], b"PROXY ", SIGNATURE] {
        let mut client = Raw::connect(address).await;
        client.send(begun).await;
        assert!(client.ends_within(short().handshake + Duration::from_secs(3)).await, "{begun:?} and silence: still open");
    }
    let (answer, _) = ask(address, b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nhello").await;
    assert_eq!(answer, b"hello", "neighbours are served");
}

/// Where it is not asked for, a header is bytes like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_required() {
    let (_bed, address) = before(repeats().await, false, None).await;
    let sent = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nhello";
    assert_eq!(ask(address, sent).await.0, sent);
}

/// Backends are told of the client: of its connection, or of what the proxy before us says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_out() {
    let target = repeats().await;
    let (_bed, address) = before(target, false, Some(ProxyProtocol::V1)).await;
    let (answer, own) = ask(address, b"hello").await;
    let expected = format!("PROXY TCP4 {} {} {} {}\r\nhello", own.ip(), address.ip(), own.port(), address.port());
    assert_eq!(String::from_utf8_lossy(&answer), expected);

    let (_bed, address) = before(target, true, Some(ProxyProtocol::V1)).await;
    let (answer, _) = ask(address, b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nhello").await;
    assert_eq!(String::from_utf8_lossy(&answer), "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nhello");

    let (_bed, address) = before(target, false, Some(ProxyProtocol::V2)).await;
    let (answer, own) = ask(address, b"hello").await;
    assert!(answer.starts_with(SIGNATURE) && answer.ends_with(b"hello"), "{answer:?}");
    assert_eq!(answer[12..14], [0x21, 0x11], "version, command, family");
    assert_eq!(answer[24..26], own.port().to_be_bytes(), "the client's port");
}

/// By HTTP too, and no client gets a connection that was opened for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_out() {
    let target = backend(|mut stream| async move {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            line.push(byte);
        }
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            let answer = [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", line.len()).as_bytes(), &line].concat();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (_bed, address) = serve(short(), |address| {
        let mut snapshot = leads_to(address, &[target], BackendProtocol::Http);
        edit_gateway(&mut snapshot, |gateway| gateway.proxy_protocol = true);
        edit_backend(&mut snapshot, |backend| backend.proxy_protocol = Some(ProxyProtocol::V1));
        snapshot
    })
    .await;
    for number in [1, 2, 1, 2] {
        let mut client = Raw::connect(address).await;
        client.send(format!("PROXY TCP4 192.0.2.{number} 192.0.2.9 400{number} 80\r\n")).await;
        for _ in 0..2 {
            client.send(GET).await;
            let response = client.response().await.expect("served");
            assert_eq!(response.text(), format!("PROXY TCP4 192.0.2.{number} 192.0.2.9 400{number} 80\r\n"));
        }
    }
}

/// Forwarding headers tell of the client that a PROXY header names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarding_headers_follow() {
    let target = mirror_text().await;
    let (_bed, address) = serve(short(), |address| {
        let mut snapshot = leads_to(address, &[target], BackendProtocol::Http);
        edit_gateway(&mut snapshot, |gateway| gateway.proxy_protocol = true);
        snapshot
    })
    .await;
    let mut client = Raw::connect(address).await;
    client.send(version_2(1, [192, 0, 2, 7], 4711)).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.9\r\n\r\n").await;
    let said = client.response().await.expect("served").text().to_ascii_lowercase();
    assert!(said.contains("x-forwarded-for: 192.0.2.7\r\n"), "{said}");
    assert!(!said.contains("203.0.113.9"), "{said}");
}

/// Proxies in front are believed as far as they are trusted, and no further.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trusted_hops() {
    let target = mirror_text().await;
    for (hops, chain, expected, scheme) in [
        (0, "203.0.113.9", "127.", "http"),
        (1, "203.0.113.9", "203.0.113.9, 127.", "https"),
        (2, "6.6.6.6, 203.0.113.9, 198.51.100.1", "6.6.6.6, 203.0.113.9, 198.51.100.1, 127.", "https"),
        // It has not come through two proxies, so nothing of it can be believed.
        (2, "203.0.113.9", "127.", "http"),
        (1, "not-an-address", "127.", "http"),
    ] {
        let (_bed, address) = serve(short(), |address| {
            let mut snapshot = leads_to(address, &[target], BackendProtocol::Http);
            edit_gateway(&mut snapshot, |gateway| gateway.trusted_hops = hops);
            snapshot
        })
        .await;
        let mut client = Raw::connect(address).await;
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: {chain}\r\nx-forwarded-proto: https\r\n\r\n")).await;
        let said = client.response().await.expect("served").text().to_ascii_lowercase();
        assert!(said.contains(&format!("x-forwarded-for: {expected}")), "{hops} hops, {chain}: {said}");
        assert!(said.contains(&format!("x-forwarded-proto: {scheme}\r\n")), "{hops} hops: {said}");
    }
}
