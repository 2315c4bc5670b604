use std::net::SocketAddr;
use std::time::Duration;

use isthmus_routing::ProxyProtocol::{V1, V2};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const IPV4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb];

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn ends(source: &str, destination: &str) -> Ends {
    Ends { source: address(source), destination: address(destination) }
}

/// A header of version 2 with whatever parts.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    client.set_nodelay(true).expect("no delay");
    (client, listener.accept().await.expect("accepted").0)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Sends `sent` in pieces of `size` bytes and then closes; gives what was read of it and what is left.
async fn exchange(sent: &[u8], size: usize) -> (Result<Option<Ends>, ProxyProtocolError>, Vec<u8>) {
    let (mut client, mut server) = pair().await;
    let sent = sent.to_vec();
    let sending = tokio::spawn(async move {
        for piece in sent.chunks(size) {
            // The other side may have seen enough.
            let _ = client.write_all(piece).await;
            tokio::task::yield_now().await;
        }
    });
    let read = read(&mut server, soon()).await;
    let mut rest = Vec::new();
    if read.is_ok() {
        server.read_to_end(&mut rest).await.expect("the rest");
    }
    drop(server);
    sending.await.expect("sent");
    (read, rest)
}

#[tokio::test]
async fn headers_are_taken_and_nothing_else() {
    let tlvs = [IPV4, &[0x02, 0, 3, b'a', b'.', b'b'], &[0xea, 0, 2, 1, 2]].concat();
    let ipv6: Vec<_> = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[1], &[0; 15], &[1], &[0x12, 0x34, 0x01, 0xbb]].concat();
    let mapped = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1 2\r\n";
    let longest =
        b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), 107);
    let cases: &[(&str, Vec<u8>, Option<Ends>)] = &[
        ("TCP4", b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n".to_vec(), Some(ends("192.0.2.1:4660", "198.51.100.2:443"))),
        ("TCP6", b"PROXY TCP6 2001:db8::1 ::1 4660 443\r\n".to_vec(), Some(ends("[2001:db8::1]:4660", "[::1]:443"))),
        ("mapped", mapped.to_vec(), Some(ends("192.0.2.1:1", "198.51.100.2:2"))),
        ("UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), None),
        ("UNKNOWN with anything", b"PROXY UNKNOWN a  b c d e f g h\r\n".to_vec(), None),
        ("the longest line", longest.to_vec(), None),
        ("v2 IPv4", v2(0x21, 0x11, IPV4), Some(ends("192.0.2.1:4660", "198.51.100.2:443"))),
        ("v2 IPv6", v2(0x21, 0x21, &ipv6), Some(ends("[2001:db8::1]:4660", "[::1]:443"))),
        ("v2 with TLVs", v2(0x21, 0x11, &tlvs), Some(ends("192.0.2.1:4660", "198.51.100.2:443"))),
        (
            "v2 as long as it may be",
            v2(0x21, 0x11, &[IPV4, &[0; 4068]].concat()),
            Some(ends("192.0.2.1:4660", "198.51.100.2:443")),
        ),
        ("LOCAL", v2(0x20, 0x00, &[]), None),
        ("LOCAL with what makes no sense", v2(0x20, 0xff, &[1, 2, 3]), None),
        ("v2 of no family", v2(0x21, 0x00, &[9; 5]), None),
        ("v2 of UNIX sockets", v2(0x21, 0x31, &[0; 216]), None),
        ("v2 of datagrams", v2(0x21, 0x12, IPV4), None),
    ];
    for (name, header, expected) in cases {
        // What follows looks like the end of a line and like another header.
        for after in [&b""[..], b"\nGET / HTTP/1.1\r\n", b"PROXY UNKNOWN\r\n", SIGNATURE] {
            for size in [1, 7, 16, 10_000] {
                let (read, rest) = exchange(&[header, after].concat(), size).await;
                assert_eq!(read.expect(name), *expected, "{name} in pieces of {size}");
                assert_eq!(rest, after, "{name} in pieces of {size}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_header_is_said_to_be() {
    let line = |length: usize| [b"PROXY TCP4 ", &vec![b'1'; length - 11][..]].concat();
    let cases: &[(&[u8], &str)] = &[
        (b"", "closed before"),
        (b"PROXY TCP4 192.0.2.1", "closed before"),
        (SIGNATURE, "closed before"),
        (&v2(0x21, 0x11, IPV4)[..20], "closed before"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "does not begin with"),
        (b"\x16\x03\x01\x02\x00\x01", "does not begin with"),
        (b"\r\n\r\n\0\r\nQUIT\r", "does not begin with"),
        (b"PROXYTCP4 1", "does not begin with"),
        (&line(107), "longer than 107"),
        (&line(500), "longer than 107"),
        (&v2(0x21, 0x11, &[IPV4, &[0; 4069]].concat()), "longer than 4096"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\n", "malformed"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 65536\r\n", "malformed"),
        (b"PROXY TCP4 2001:db8::1 ::1 4660 443\r\n", "malformed"),
        (b"PROXY TCP6 192.0.2.1 198.51.100.2 4660 443\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4660\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n", "malformed"),
        (b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n", "malformed"),
        (b"PROXY UNKNOWNS and more\r\n", "malformed"),
        (b"PROXY \xff\xff\xff\xff\xff\xff\xff\xff\r\n", "malformed"),
        (&v2(0x11, 0x11, IPV4), "malformed"),
        (&v2(0x22, 0x11, IPV4), "malformed"),
        (&v2(0x21, 0x11, &IPV4[..11]), "malformed"),
        (&v2(0x21, 0x41, IPV4), "malformed"),
    ];
    for (sent, expected) in cases {
        for size in [1, 10_000] {
            let (read, _) = exchange(sent, size).await;
            let error = read.expect_err("it is no header").to_string();
            assert!(error.contains(expected), "{}: {error}", String::from_utf8_lossy(sent));
        }
    }
}

#[tokio::test]
async fn a_silent_or_slow_connection_ends_at_its_deadline() {
    for sent in [&b""[..], b"PROXY TCP4 192.0.2.1 ", &v2(0x21, 0x11, IPV4)[..27]] {
        let (mut client, mut server) = pair().await;
        client.write_all(sent).await.expect("sent");
        let read = read(&mut server, Instant::now() + Duration::from_millis(30)).await;
        assert!(matches!(read, Err(ProxyProtocolError::Timeout)), "{read:?}");
    }
}

#[test]
fn headers_are_written_as_the_specification_has_them() {
    for (version, source, destination, expected) in [
        (V1, "192.0.2.1:4660", "198.51.100.2:443", b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n".to_vec()),
        (V1, "[2001:db8::1]:4660", "[::1]:443", b"PROXY TCP6 2001:db8::1 ::1 4660 443\r\n".to_vec()),
        (V1, "192.0.2.1:1", "[::1]:2", b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n".to_vec()),
        (V1, "[::ffff:192.0.2.1]:1", "198.51.100.2:2", b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n".to_vec()),
        (V2, "192.0.2.1:4660", "198.51.100.2:443", v2(0x21, 0x11, IPV4)),
    ] {
        let written = header(version, address(source), address(destination));
        assert_eq!(written, expected, "{}", String::from_utf8_lossy(&written));
    }
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_is_read_again(source in addresses(), destination in addresses(), first in any::<bool>(), size in 1..40_usize) {
        let written = header(if first { V1 } else { V2 }, source, destination);
        prop_assert!(!first || written.len() <= 107);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (read, rest) = runtime.block_on(exchange(&[&written[..], b"after"].concat(), size));
        prop_assert_eq!(read.expect("a header"), Some(Ends::new(source, destination)));
        prop_assert_eq!(rest, b"after");
    }
}
