//! Listeners, routes and certificates that come and go under open connections; drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_routing::{BackendProtocol, Certificate, CertificateKey, Hostname, Listener, Protocol, Snapshot};
use isthmus_tests::backend::{PORT, backend, canned, leads_to, mirror_text, read_request};
use isthmus_tests::bed::{Bed, options, own_address};
use isthmus_tests::client::tls_stream;
use isthmus_tests::raw::Raw;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{before, short};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn edit_listeners(snapshot: &mut Snapshot, edit: impl FnOnce(&mut Vec<Listener>)) {
    if let Some(gateway) = snapshot.gateways.values_mut().next() {
        edit(&mut Arc::make_mut(gateway).listeners);
    }
}

fn second_listener(snapshot: &mut Snapshot) {
    edit_listeners(snapshot, |listeners| {
        let second = Listener { name: "second".to_owned(), port: PORT + 1, ..listeners[0].clone() };
        listeners.push(second);
    });
}

/// A removed listener: its request in flight ends well, its idle connections end at once, its port is free; others notice nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_listener() {
    let slow = backend(|mut stream| async move {
        let mut buffer = Vec::new();
        while let Some((head, _)) = read_request(&mut stream, &mut buffer).await {
            if head.starts_with("GET /slow") {
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let bed = Bed::start(options(short())).await;
    let ip = own_address();
    let one = leads_to(ip, &[slow], BackendProtocol::Http);
    let mut two = one.clone();
    second_listener(&mut two);
    bed.serve(two.clone()).await;

    let mut kept = Raw::connect(SocketAddr::new(ip, PORT)).await;
    let mut idle = Raw::connect(SocketAddr::new(ip, PORT + 1)).await;
    let mut busy = Raw::connect(SocketAddr::new(ip, PORT + 1)).await;
    for client in [&mut kept, &mut idle] {
        client.send(GET).await;
        assert_eq!(client.response().await.expect("served").status, 200);
    }
    busy.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    bed.serve(one.clone()).await;

    assert!(idle.ends_within(Duration::from_millis(900)).await, "an idle connection of a removed listener stays open");
    assert_eq!(busy.response().await.expect("the request in flight ends well").status, 200);
    assert!(TcpStream::connect(SocketAddr::new(ip, PORT + 1)).await.is_err(), "the port is still open");
    kept.send(GET).await;
    assert_eq!(kept.response().await.expect("the other listener's connection goes on").status, 200);
    bed.serve(two).await;
    let mut again = Raw::connect(SocketAddr::new(ip, PORT + 1)).await;
    again.send(GET).await;
    assert_eq!(again.response().await.expect("the listener is back").status, 200);
}

/// Routes change under an open connection: the next request sees the change, and no connection is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_change_under_a_connection() {
    let (one, two) = (
        canned(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none", false).await,
        canned(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo", false).await,
    );
    let bed = Bed::start(options(short())).await;
    let ip = own_address();
    bed.serve(leads_to(ip, &[one], BackendProtocol::Http)).await;
    let mut client = Raw::connect(SocketAddr::new(ip, PORT)).await;
    for round in 0..20 {
        let (target, text) = if round % 2 == 0 { (two, "two") } else { (one, "one") };
        bed.serve(leads_to(ip, &[target], BackendProtocol::Http)).await;
        client.send(GET).await;
        assert_eq!(client.response().await.unwrap_or_else(|fault| panic!("round {round}: {fault}")).text(), text);
    }
}

/// A port in use is one clear line on that listener; it is opened once it is free, and the others serve meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_in_use() {
    let ip = own_address();
    let occupied = tokio::net::TcpListener::bind(SocketAddr::new(ip, PORT + 1)).await.expect("a free port");
    let mut snapshot = leads_to(ip, &[mirror_text().await], BackendProtocol::Http);
    second_listener(&mut snapshot);
    let bed = Bed::start(options(short())).await;
    let report = bed.try_serve(snapshot).await;
    let faults: Vec<_> = report.listeners.iter().filter(|listener| listener.fault.is_some()).collect();
    assert_eq!(faults.len(), 1, "{report:?}");
    assert_eq!(faults[0].name, "second");
    assert!(faults[0].fault.as_deref().unwrap_or_default().contains("in use"), "{faults:?}");
    let mut client = Raw::connect(SocketAddr::new(ip, PORT)).await;
    client.send(GET).await;
    assert_eq!(client.response().await.expect("the other listener serves").status, 200);

    drop(occupied);
    let mut reports = bed.dataplane.reports();
    let recovered = reports.wait_for(|report| report.listeners.iter().all(|listener| listener.fault.is_none()));
    tokio::time::timeout(Duration::from_secs(6), recovered).await.expect("opened once it is free").expect("running");
    let mut client = Raw::connect(SocketAddr::new(ip, PORT + 1)).await;
    client.send(GET).await;
    assert_eq!(client.response().await.expect("the second listener serves").status, 200);
}

pub(super) fn certificate(name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a DNS name");
    Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

pub(super) fn https(ip: std::net::IpAddr, target: SocketAddr, listeners: &[(&str, Option<&str>, &Certificate)]) -> Snapshot {
    let mut snapshot = leads_to(ip, &[target], BackendProtocol::Http);
    for (name, _, certificate) in listeners {
        let key = CertificateKey { namespace: "default".to_owned(), name: (*name).to_owned() };
        snapshot.certificates.insert(key, Arc::new((*certificate).clone()));
    }
    edit_listeners(&mut snapshot, |all| {
        let plain = all.remove(0);
        all.extend(listeners.iter().map(|(name, hostname, _)| Listener {
            name: (*name).to_owned(),
            protocol: Protocol::Https,
            hostname: hostname.map(|text| text.parse::<Hostname>().expect("a hostname")),
            certificates: vec![CertificateKey { namespace: "default".to_owned(), name: (*name).to_owned() }],
            ..plain.clone()
        }));
    });
    snapshot
}

/// The certificate that a handshake with this name is given.
async fn presented(address: SocketAddr, name: &str) -> Result<Vec<u8>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let stream = tls_stream(stream, name, false).await?;
    let (_, session) = stream.get_ref();
    Ok(session.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec()).unwrap_or_default())
}

fn der(certificate: &Certificate) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(certificate.chain.as_bytes()).expect("PEM").to_vec()
}

/// Certificates by SNI; a swapped one is given to the next handshake, and open connections go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates() {
    let (a, b, any) = (certificate("a.test"), certificate("b.test"), certificate("any.test"));
    let ip = own_address();
    let address = SocketAddr::new(ip, PORT);
    let target = mirror_text().await;
    let bed = Bed::start(options(short())).await;
    bed.serve(https(ip, target, &[("a", Some("a.test"), &a), ("b", Some("b.test"), &b), ("any", None, &any)])).await;
    assert_eq!(presented(address, "a.test").await.expect("a handshake"), der(&a));
    assert_eq!(presented(address, "b.test").await.expect("a handshake"), der(&b));
    assert_eq!(presented(address, "other.test").await.expect("a handshake"), der(&any));
    assert_eq!(presented(address, "").await.expect("a handshake without SNI"), der(&any));

    let stream = TcpStream::connect(address).await.expect("accepted");
    let open = tls_stream(stream, "a.test", false).await.expect("a handshake");
    let io = hyper_util::rt::TokioIo::new(open);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    for _ in 0..10 {
        let next = certificate("a.test");
        bed.serve(https(ip, target, &[("a", Some("a.test"), &next), ("b", Some("b.test"), &b), ("any", None, &any)])).await;
        assert_eq!(presented(address, "a.test").await.expect("a handshake"), der(&next));
        sender.ready().await.expect("the open connection goes on");
        let request = http::Request::get("/")
            .header("host", "a.test")
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        http_body_util::BodyExt::collect(response.into_body()).await.expect("a body");
    }
}

/// No listener takes the name: the handshake is refused, and neighbours are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_server_name() {
    let a = certificate("a.test");
    let ip = own_address();
    let address = SocketAddr::new(ip, PORT);
    let bed = Bed::start(options(short())).await;
    bed.serve(https(ip, mirror_text().await, &[("a", Some("a.test"), &a)])).await;
    presented(address, "b.test").await.expect_err("no listener takes this name");
    presented(address, "").await.expect_err("no listener takes no name");
    assert_eq!(presented(address, "a.test").await.expect("a handshake"), der(&a));
}

/// Handshakes that stall, come byte by byte, or are none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_handshakes() {
    let a = certificate("a.test");
    let ip = own_address();
    let address = SocketAddr::new(ip, PORT);
    let bed = Bed::start(options(short())).await;
    bed.serve(https(ip, mirror_text().await, &[("a", Some("a.test"), &a)])).await;
    for (name, bytes) in [
        ("silence", &b""[..]),
        ("five bytes", b"\x16\x03\x01\x02\x00"),
        ("plain HTTP", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("garbage", b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("an endless record", &[0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff]),
    ] {
        let mut client = Raw::connect(address).await;
        let start = Instant::now();
        client.send(bytes).await;
        assert!(client.ends_within(Duration::from_secs(4)).await, "{name}: still open after {:?}", start.elapsed());
    }
    assert_eq!(presented(address, "a.test").await.expect("neighbours are served"), der(&a));
}

/// A ClientHello for `a.test`, as clients of before TLS 1.3 send it.
fn old_hello(version: [u8; 2], suites: &[[u8; 2]], compression: u8) -> Vec<u8> {
    // The server name, groups (x25519, P-256) and signatures (ECDSA and RSA-PSS with SHA-256), so that these are not what is missing.
    let extensions = b"\x00\x00\x00\x0b\x00\x09\x00\x00\x06a.test\x00\x0a\x00\x06\x00\x04\x00\x1d\x00\x17\x00\x0d\x00\x06\x00\x04\x04\x03\x08\x04";
    let length = |bytes: usize| u16::try_from(bytes).expect("it is short").to_be_bytes();
    let mut body = [&version[..], &[7; 32], &[0]].concat();
    body.extend(length(suites.len() * 2));
    body.extend(suites.concat());
    body.extend([1, compression]);
    body.extend(length(extensions.len()));
    body.extend(extensions);
    let record = length(body.len() + 4);
    [&[0x16, 3, 1], &record[..], &[1, 0], &length(body.len()), &body].concat()
}

/// Versions, suites and compression that are given up: an alert that says which, and no handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_handshakes() {
    const SERVER_HELLO: u8 = 0x16;
    const ALERT: u8 = 0x15;
    let a = certificate("a.test");
    let ip = own_address();
    let address = SocketAddr::new(ip, PORT);
    let bed = Bed::start(options(short())).await;
    bed.serve(https(ip, mirror_text().await, &[("a", Some("a.test"), &a)])).await;
    let strong = [[0xc0, 0x2b], [0xc0, 0x2c]];
    for (name, hello, first, said) in [
        ("TLS 1.2 with a suite of today", old_hello([3, 3], &strong, 0), SERVER_HELLO, None),
        ("SSL 3.0", old_hello([3, 0], &strong, 0), ALERT, Some(70)),
        ("TLS 1.0", old_hello([3, 1], &strong, 0), ALERT, Some(70)),
        ("TLS 1.1", old_hello([3, 2], &strong, 0), ALERT, Some(70)),
        ("RC4, CBC and RSA key exchange", old_hello([3, 3], &[[0, 5], [0, 0x2f], [0, 0x9c], [0xc0, 0x13]], 0), ALERT, Some(40)),
        ("no suite", old_hello([3, 3], &[], 0), ALERT, None),
        ("compression", old_hello([3, 3], &strong, 1), ALERT, Some(47)),
    ] {
        let mut client = Raw::connect(address).await;
        client.send(hello).await;
        let answer = client.bytes().await;
        assert_eq!(answer.first(), Some(&first), "{name}: {answer:02x?}");
        let alert = answer.get(6).copied().filter(|_| first == ALERT);
        assert!(said.is_none() || alert == said, "{name}: alert {alert:?}, not {said:?}");
    }
    assert_eq!(presented(address, "a.test").await.expect("neighbours are served"), der(&a));
}

/// A drain: not ready, still accepting for a while, then requests in flight end well and the rest is closed, all within the deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain() {
    let slow = backend(|mut stream| async move {
        let mut buffer = Vec::new();
        while let Some((head, _)) = read_request(&mut stream, &mut buffer).await {
            if head.starts_with("GET /slow") {
                tokio::time::sleep(Duration::from_millis(1200)).await;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let (bed, address) = before(slow).await;
    let bed = Arc::new(bed);
    let mut idle = Raw::connect(address).await;
    idle.send(GET).await;
    idle.response().await.expect("served");

    let start = Instant::now();
    let draining = tokio::spawn({
        let bed = bed.clone();
        async move { bed.dataplane.drain(Duration::from_millis(500), Duration::from_secs(5)).await }
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let mut late = Raw::connect(address).await;
    late.send(GET).await;
    let response = late.response().await.expect("still accepting in the lame duck time");
    assert_eq!(response.status, 200);
    assert!(response.closes(), "a draining proxy asks clients to go");
    let mut busy = Raw::connect(address).await;
    busy.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(busy.response().await.expect("the request in flight ends well").status, 200);
    draining.await.expect("no panic");
    assert!(start.elapsed() < Duration::from_millis(4500), "the drain took {:?}", start.elapsed());
    assert!(idle.ends_within(Duration::from_millis(500)).await, "an idle connection outlives the drain");
    assert!(TcpStream::connect(address).await.is_err(), "the port is open after the drain");
}

/// A drain cuts what is not done at its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_deadline() {
    let never = backend(|mut stream| async move {
        let mut buffer = Vec::new();
        read_request(&mut stream, &mut buffer).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let (bed, address) = before(never).await;
    let mut client = Raw::connect(address).await;
    client.send(GET).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    bed.dataplane.drain(Duration::ZERO, Duration::from_millis(800)).await;
    assert!(start.elapsed() < Duration::from_millis(2500), "the drain took {:?}", start.elapsed());
}
