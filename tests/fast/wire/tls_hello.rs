//! ClientHellos that no client should send, at HTTPS listeners: each is counted under its reason, and the connection beside it goes on.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_dataplane::Options;
use isthmus_tests::backend::{PORT, mirror_text};
use isthmus_tests::bed::{Bed, options, own_address};
use isthmus_tests::client::{tls_stream, trusting_anybody};
use isthmus_tests::raw::Raw;
use rustls::ClientConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::listeners::{certificate, https};
use super::server_names::{hello, in_pieces};
use super::short;

const SERVER_HELLO: u8 = 0x16;
const ALERT: u8 = 0x15;

/// A data plane that tells its metrics, with an HTTPS listener for `a.test`, and one for the rest if wanted.
async fn before(takes_all: bool) -> (Bed, SocketAddr) {
    let a = certificate("a.test");
    let ip = own_address();
    let admin = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    let bed = Bed::start(Options { admin, ..options(short()) }).await;
    let listeners = [("a", Some("a.test"), &a), ("all", None, &a)];
    bed.serve(https(ip, mirror_text().await, if takes_all { &listeners } else { &listeners[..1] })).await;
    (bed, SocketAddr::new(ip, PORT))
}

/// Connections of the port that ended for this reason.
async fn counted(bed: &Bed, reason: &str) -> u64 {
    let mut admin = Raw::connect(bed.dataplane.admin().expect("it was asked for")).await;
    admin.send("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let text = admin.response().await.expect("metrics").text();
    let wanted = format!("reason=\"{reason}\"");
    let line = text.lines().find(|line| line.starts_with("isthmus_connection_faults_total{") && line.contains(&wanted));
    let count = line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, count)| count.parse().ok());
    count.unwrap_or_else(|| panic!("no {reason} in:\n{text}"))
}

/// A connection with a kept session, which asks again and again.
struct Neighbour(tokio_rustls::client::TlsStream<TcpStream>);

impl Neighbour {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("accepted");
        Self(tls_stream(stream, "a.test", false).await.expect("a handshake"))
    }

    async fn ask(&mut self, after: &str) {
        self.0
            .write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n")
            .await
            .unwrap_or_else(|fault| panic!("after {after}: {fault}"));
        let mut answer = vec![0; 4096];
        let count = self.0.read(&mut answer).await.unwrap_or_else(|fault| panic!("after {after}: {fault}"));
        assert!(answer[..count].starts_with(b"HTTP/1.1 200 "), "after {after}: {:?}", String::from_utf8_lossy(&answer[..count]));
    }
}

/// A handshake message of 64 KiB, in the largest records that there are.
fn too_long() -> Vec<u8> {
    let message = [&[1, 1, 0, 0, 3, 3][..], &[7; 64 * 1024 - 2]].concat();
    message.chunks(16 * 1024).flat_map(|piece| [&[0x16, 3, 1, 0x40, 0], piece].concat()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_is_counted_and_harms_nobody() {
    let (bed, address) = before(false).await;
    let mut neighbour = Neighbour::open(address).await;
    let long = [b"a".repeat(293), b".a.test".to_vec()].concat();
    let (unrecognized, illegal) = (Some(112), Some(47));
    for (name, bytes, alert, reason) in [
        ("a name of nobody", hello(Some(b"b.test")), unrecognized, "no_certificate"),
        ("no name", hello(None), unrecognized, "no_certificate"),
        ("an IPv4 address as name", hello(Some(b"127.0.0.1")), unrecognized, "no_certificate"),
        ("a name of 300 characters", hello(Some(&long)), illegal, "handshake"),
        ("a name with NUL", hello(Some(b"a.test\0.b.test")), illegal, "handshake"),
        ("64 KiB", too_long(), None, "handshake"),
        ("five bytes and silence", hello(Some(b"a.test"))[..5].to_vec(), None, "client_hello_timeout"),
        ("silence", Vec::new(), None, "client_hello_timeout"),
    ] {
        let before = counted(&bed, reason).await;
        let mut client = Raw::connect(address).await;
        let start = Instant::now();
        client.send(&bytes).await;
        neighbour.ask(name).await;
        let answer = client.bytes().await;
        assert_eq!(answer.first().copied(), alert.map(|_| ALERT), "{name}: {answer:02x?}");
        assert_eq!(answer.get(6).copied(), alert, "{name}: {answer:02x?}");
        assert!(client.ends_within(short().handshake + Duration::from_secs(3)).await, "{name}: open after {:?}", start.elapsed());
        drop(client);
        let deadline = Instant::now() + Duration::from_secs(5);
        while counted(&bed, reason).await != before + 1 {
            assert!(Instant::now() < deadline, "{name} is not counted as {reason}, or twice");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        neighbour.ask(name).await;
    }
}

/// A whole handshake whose ClientHello is sent as `cut` makes it, and a request.
fn answered(address: SocketAddr, protocols: Vec<Vec<u8>>, cut: fn(&[u8]) -> Vec<u8>) -> Result<String, String> {
    let mut config = trusting_anybody(&[], None)?;
    config.alpn_protocols = protocols;
    let name = "a.test".try_into().expect("a name");
    let mut session = ClientConnection::new(Arc::new(config), name).map_err(|fault| fault.to_string())?;
    let mut socket = std::net::TcpStream::connect(address).map_err(|fault| fault.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).map_err(|fault| fault.to_string())?;
    let mut whole = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut whole).map_err(|fault| fault.to_string())?;
    }
    socket.write_all(&cut(&whole)).map_err(|fault| fault.to_string())?;
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").map_err(|fault| fault.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|fault| fault.to_string())?;
    Ok(answer)
}

/// However odd it looks, it is whole and within the limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_odd_and_whole_is_served() {
    let (bed, address) = before(true).await;
    let many: Vec<Vec<u8>> = std::iter::once(b"http/1.1".to_vec()).chain((0..230_u8).map(|number| vec![number; 255])).collect();
    for (name, protocols, cut) in [
        ("as it is", vec![b"http/1.1".to_vec()], (|whole| whole.to_vec()) as fn(&[u8]) -> Vec<u8>),
        ("records of one byte", vec![b"http/1.1".to_vec()], in_pieces),
        ("59 KB of protocols", many, |whole| whole.to_vec()),
    ] {
        let answer = tokio::task::spawn_blocking(move || answered(address, protocols, cut)).await.expect("no panic");
        assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")), "{name}: {answer:?}");
    }
    assert_eq!(counted(&bed, "handshake").await, 0, "all of them were whole");
    // An address is no name: the listener for the rest takes it.
    for name in [Some(&b"127.0.0.1"[..]), None, Some(b"b.test")] {
        let mut client = Raw::connect(address).await;
        client.send(hello(name)).await;
        assert_eq!(client.bytes().await.first(), Some(&SERVER_HELLO), "{name:?}");
    }
}
