//! Requests that two readers could read in two ways, or that are none.

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_dataplane::{AccessLog, Options};
use isthmus_routing::BackendProtocol;
use isthmus_tests::backend::{PORT, leads_to, mirror_text};
use isthmus_tests::bed::{Bed, options, own_address};
use isthmus_tests::raw::Raw;

use super::{before, short};

/// Refused with the code, and the connection closed: what follows cannot be trusted to be a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused() {
    let (_bed, address) = before(mirror_text().await).await;
    let cases: &[(&str, &[u8], &[u16])] = &[
        (
            "both lengths",
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        (
            "both lengths, other order",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        ("two lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde", &[400]),
        ("list of lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4, 5\r\n\r\nabcde", &[400]),
        ("list of equal lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4, 4\r\n\r\nabcd", &[400]),
        ("two equal lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nabcd", &[400]),
        ("signed length", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +4\r\n\r\nabcd", &[400]),
        ("hexadecimal length", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x4\r\n\r\nabcd", &[400]),
        ("negative length", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", &[400]),
        ("huge length", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n", &[400]),
        ("unknown coding", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", &[400, 501]),
        ("chunked twice", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", &[400, 501]),
        ("chunked not last", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", &[400, 501]),
        ("chunked in HTTP/1.0", b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", &[400, 501]),
        ("space before colon", b"GET / HTTP/1.1\r\nhost : a\r\n\r\n", &[400]),
        ("folded line", b"GET / HTTP/1.1\r\nhost: a\r\nx-a: b\r\n c\r\n\r\n", &[400]),
        ("no colon", b"GET / HTTP/1.1\r\nhost: a\r\nnonsense\r\n\r\n", &[400]),
        ("empty name", b"GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n", &[400]),
        ("NUL in a value", b"GET / HTTP/1.1\r\nhost: a\r\nx-a: b\0c\r\n\r\n", &[400]),
        ("control in the method", b"G\x01T / HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("no host", b"GET / HTTP/1.1\r\n\r\n", &[400]),
        ("empty host", b"GET / HTTP/1.1\r\nhost:\r\n\r\n", &[400]),
        ("two hosts", b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", &[400]),
        ("list of hosts", b"GET / HTTP/1.1\r\nhost: a, b\r\n\r\n", &[400]),
        ("path in host", b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", &[400]),
        ("user in host", b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", &[400]),
        ("absolute form of another host", b"GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("target without a slash", b"GET a/b HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("target of another scheme", b"GET ftp://a/b HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("asterisk with GET", b"GET * HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("NUL in the path", b"GET /a%00b HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("raw NUL in the path", b"GET /a\0b HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("encoded slash", b"GET /a%2fb HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("backslash", b"GET /a\\b HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("broken escape", b"GET /a%2 HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("CONNECT", b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", &[405]),
        ("TRACE", b"TRACE / HTTP/1.1\r\nhost: a\r\n\r\n", &[405]),
        ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[400]),
    ];
    let mut faults = Vec::new();
    for (name, bytes, codes) in cases {
        let mut client = Raw::connect(address).await;
        client.send(bytes).await;
        match client.response().await {
            Ok(response) if codes.contains(&response.status) => {
                if response.status == 400 && !client.ends_within(Duration::from_secs(4)).await {
                    faults.push(format!("{name}: the connection stays open"));
                }
            }
            Ok(response) => faults.push(format!("{name}: answered {} ({})", response.status, response.text())),
            // Closing without a word refuses as well.
            Err(fault) if fault.starts_with("closed before a whole header: \"\"") => {}
            Err(fault) => faults.push(format!("{name}: {fault}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A request that is refused says nothing about those of other connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_are_served() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut good = Raw::connect(address).await;
    for _ in 0..20 {
        let mut bad = Raw::connect(address).await;
        bad.send("GARBAGE\r\n\r\n").await;
        good.send("GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(good.response().await.expect("the good connection is served").status, 200);
    }
}

/// Hop-by-hop headers of the client stay on its hop; ours cannot be nominated away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_by_hop() {
    let (_bed, address) = before(mirror_text().await).await;
    let mut client = Raw::connect(address).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: a\r\nkeep-alive: timeout=9\r\nproxy-connection: keep-alive\r\nte: gzip\r\nx-kept: 1\r\n\r\n",
        )
        .await;
    let seen = client.response().await.expect("a response").text().to_ascii_lowercase();
    assert!(seen.contains("x-kept: 1"), "{seen}");
    for gone in ["keep-alive:", "proxy-connection:", "te:"] {
        assert!(!seen.contains(&format!("\n{gone}")), "{gone} reached the backend: {seen}");
    }
    let mut client = Raw::connect(address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: x-forwarded-for, close\r\n\r\n").await;
    assert_eq!(client.response().await.expect("a refusal").status, 400, "a client took away what this proxy adds");
}

/// A request that is refused is logged without what the client claims of itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_not_logged() {
    let log = std::env::temp_dir().join(format!("isthmus-claims-{}.log", std::process::id()));
    let ip = own_address();
    let bed = Bed::start(Options { access_log: AccessLog::File(log.clone()), ..options(short()) }).await;
    bed.serve(leads_to(ip, &[mirror_text().await], BackendProtocol::Http)).await;
    for path in ["/", "/%00"] {
        let mut client = Raw::connect(SocketAddr::new(ip, PORT)).await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 6.6.6.6\r\nconnection: close\r\n\r\n")).await;
        client.response().await.expect("a response");
    }
    bed.dataplane.drain(Duration::ZERO, Duration::from_secs(1)).await;
    let lines = std::fs::read_to_string(&log).expect("the log");
    let _ = std::fs::remove_file(&log);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(!lines.contains("6.6.6.6"), "{lines}");
}
