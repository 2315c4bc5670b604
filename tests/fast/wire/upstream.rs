//! Backends that misbehave: each hurts the request that met it, and tells the client what kind of fault it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use isthmus_routing::{BackendProtocol, Retry, Timeouts};
use isthmus_tests::backend::{backend, canned, edit_rule, leads_to, read_request};
use isthmus_tests::raw::Raw;
use tokio::io::AsyncWriteExt as _;

use super::{before, before_with, serve, short};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What a backend sends instead of a response, and what the client then gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_response() {
    let cases: &[(&str, &'static [u8])] = &[
        ("nothing", b""),
        ("garbage", b"\x00\x01\x02 this is no HTTP\r\n\r\n"),
        ("half a header", b"HTTP/1.1 200 OK\r\ncontent-le"),
        ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc"),
        (
            "an upgrade that nobody asked for",
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        ),
    ];
    for (name, bytes) in cases {
        let (_bed, address) = before(canned(bytes, true).await).await;
        let mut client = Raw::connect(address).await;
        client.send(GET).await;
        let response = client.response().await.unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(response.status, 502, "{name}");
    }
}

/// A backend that stops in the middle of a body: the client sees that the response is not whole, and no second one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_body() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let (_bed, address) = before(canned(bytes, true).await).await;
        let mut client = Raw::connect(address).await;
        client.send(GET).await;
        let fault = client.response().await.expect_err("a response that was cut is no whole one");
        assert!(fault.starts_with("closed"), "{fault}");
    }
}

/// A backend that never answers: 504 at the deadline. One that trickles cannot put the deadline off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_absolute() {
    let silent = backend(|mut stream| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {}
    })
    .await;
    let trickles_header = backend(|mut stream| async move {
        let mut buffer = Vec::new();
        read_request(&mut stream, &mut buffer).await;
        for byte in
            b"HTTP/1.1 200 OK\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"
        {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    })
    .await;
    for (name, target) in [("silent", silent), ("trickling header", trickles_header)] {
        for timeouts in [
            Timeouts { request: Some(Duration::from_millis(500)), backend_request: None },
            Timeouts { request: None, backend_request: Some(Duration::from_millis(500)) },
        ] {
            let (_bed, address) =
                before_with(target, short(), |snapshot| edit_rule(snapshot, |rule| rule.timeouts = timeouts)).await;
            let mut client = Raw::connect(address).await;
            let start = Instant::now();
            client.send(GET).await;
            let response = client.response().await.unwrap_or_else(|fault| panic!("{name} {timeouts:?}: {fault}"));
            assert_eq!(response.status, 504, "{name}");
            assert!(start.elapsed() < Duration::from_millis(1500), "{name}: took {:?}", start.elapsed());
        }
    }
}

/// A body that trickles past the deadline is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickling_body_is_cut() {
    let trickles = backend(|mut stream| async move {
        let mut buffer = Vec::new();
        read_request(&mut stream, &mut buffer).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
        for _ in 0..100 {
            if stream.write_all(b"x").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let (_bed, address) = before_with(trickles, short(), |snapshot| {
        edit_rule(snapshot, |rule| rule.timeouts.request = Some(Duration::from_millis(500)));
    })
    .await;
    let mut client = Raw::connect(address).await;
    let start = Instant::now();
    client.send(GET).await;
    client.response().await.expect_err("the body is not whole");
    assert!(start.elapsed() < Duration::from_millis(2000), "took {:?}", start.elapsed());
}

/// A pooled connection that the backend closed meanwhile costs no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_while_pooled() {
    let (_bed, address) = before(canned(OK, true).await).await;
    let mut client = Raw::connect(address).await;
    for round in 0..20 {
        client.send(GET).await;
        let response = client.response().await.unwrap_or_else(|fault| panic!("round {round}: {fault}"));
        assert_eq!(response.status, 200, "round {round}");
    }
}

/// Without a retry stanza a request that reached a backend is not sent again: POST least of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_silent_retry() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let dies = backend(move |mut stream| {
        let asked = counter.clone();
        async move {
            let mut buffer = Vec::new();
            if read_request(&mut stream, &mut buffer).await.is_some() {
                asked.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let (_bed, address) = before(dies).await;
    let mut client = Raw::connect(address).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!(client.response().await.expect("a response").status, 502);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// With one, each try takes a fresh endpoint, and a body beyond the replay buffer is not sent again in part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries() {
    let good = canned(OK, false).await;
    let bad = canned(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", false).await;
    let (_bed, address) = serve(short(), |address| {
        let mut snapshot = leads_to(address, &[good, bad], BackendProtocol::Http);
        edit_rule(&mut snapshot, |rule| {
            rule.retry = Some(Retry { codes: vec![503], attempts: 1, backoff: Some(Duration::from_millis(1)) });
        });
        snapshot
    })
    .await;
    let mut client = Raw::connect(address).await;
    for round in 0..30 {
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
        assert_eq!(client.response().await.expect("a response").status, 200, "round {round}");
    }
    let large = "x".repeat(200_000);
    for _ in 0..6 {
        let mut client = Raw::connect(address).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{large}", large.len())).await;
        let status = client.response().await.expect("a response").status;
        assert!(status == 200 || status == 503, "{status}");
    }
}

/// Connection errors are retried on another endpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_errors() {
    let good = canned(OK, false).await;
    let refused = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("bound")
    };
    let (_bed, address) = serve(short(), |address| {
        let mut snapshot = leads_to(address, &[good, refused], BackendProtocol::Http);
        edit_rule(&mut snapshot, |rule| rule.retry = Some(Retry { codes: Vec::new(), attempts: 3, backoff: None }));
        snapshot
    })
    .await;
    let mut client = Raw::connect(address).await;
    for round in 0..20 {
        client.send(GET).await;
        assert_eq!(client.response().await.expect("a response").status, 200, "round {round}");
    }
}

/// Hop-by-hop headers of a backend stay on its hop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_by_hop_response_headers() {
    let chatty = canned(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: timeout=1\r\nproxy-connection: x\r\nupgrade: h2c\r\nconnection: keep-alive\r\nx-kept: 1\r\n\r\nok",
        false,
    )
    .await;
    let (_bed, address) = before(chatty).await;
    let mut client = Raw::connect(address).await;
    client.send(GET).await;
    let response = client.response().await.expect("a response");
    assert_eq!(response.header("x-kept"), Some("1"));
    for gone in ["keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(response.header(gone), None, "{gone}");
    }
}

/// A backend's interim responses do not become the response.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses() {
    let (_bed, address) = before(
        canned(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false).await,
    )
    .await;
    let mut client = Raw::connect(address).await;
    client.send(GET).await;
    let mut response = client.response().await.expect("a response");
    if response.status == 103 {
        response = client.response().await.expect("a final response");
    }
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
}

/// A response header of a megabyte is the backend's fault: 502, and the next request is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_response_header() {
    let huge = backend(|mut stream| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            let header = format!("HTTP/1.1 200 OK\r\nx-huge: {}\r\n\r\n", "a".repeat(2_000_000));
            if stream.write_all(header.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (_bed, address) = before(huge).await;
    let mut client = Raw::connect(address).await;
    client.send(GET).await;
    assert_eq!(client.response().await.expect("a response").status, 502);
}
