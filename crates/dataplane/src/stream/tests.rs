//! Real sockets through the accept path of an address, towards endpoints that the tests hold in their hands.

mod bed;
mod cuts;
mod shared_port;

use std::io::ErrorKind;
use std::time::Duration;

use isthmus_routing::{Protocol, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::reset;
use crate::limits::Limits;
use bed::{Bed, backend_key, edit_rule, hello, snapshot};

/// How long something on the loopback may take.
const SOON: Duration = Duration::from_secs(10);

async fn endpoint() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

/// A client and the endpoint that it is connected to, through a listener of TCP.
async fn pair(limits: Limits) -> (Bed, TcpStream, TcpStream) {
    let endpoint = endpoint().await;
    let bed = Bed::start(limits, |port| snapshot(port, Protocol::Tcp, &[endpoint.local_addr().expect("bound")])).await;
    let client = bed.connect().await;
    let (server, _) = timeout(SOON, endpoint.accept()).await.expect("in time").expect("connected");
    (bed, client, server)
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut seen = vec![0; bytes.len()];
    timeout(SOON, stream.read_exact(&mut seen)).await.expect("in time").expect("readable");
    assert_eq!(seen, bytes);
}

/// `Ok` for an end, `Err` for a reset.
async fn end(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    match timeout(SOON, stream.read(&mut [0; 1])).await.expect("in time") {
        Ok(0) => Ok(()),
        Ok(_) => panic!("a byte that nobody sent"),
        Err(error) => Err(error.kind()),
    }
}

#[tokio::test]
async fn one_half_ends_and_the_other_goes_on() {
    for client_first in [true, false] {
        let (bed, client, server) = pair(Limits::default()).await;
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"last words").await.expect("is taken");
        first.shutdown().await.expect("ends");
        expect(&mut second, b"last words").await;
        assert_eq!(end(&mut second).await, Ok(()));
        for _ in 0..3 {
            second.write_all(b"answer").await.expect("its half is open");
            expect(&mut first, b"answer").await;
        }
        second.shutdown().await.expect("ends");
        assert_eq!(end(&mut first).await, Ok(()));
        bed.ended("closed").await;
    }
}

#[tokio::test]
async fn a_reset_is_passed_on() {
    for (client_resets, result) in [(true, "client_reset"), (false, "endpoint_reset")] {
        let (bed, client, server) = pair(Limits::default()).await;
        let (mut first, mut second) = if client_resets { (client, server) } else { (server, client) };
        // Both connections are known to be open then.
        first.write_all(b"x").await.expect("is taken");
        expect(&mut second, b"x").await;
        reset(&first);
        drop(first);
        assert_eq!(end(&mut second).await, Err(ErrorKind::ConnectionReset), "{result}");
        bed.ended(result).await;
    }
}

#[tokio::test]
async fn who_was_sent_nothing_sees_a_reset_at_once() {
    let (bed, mut client, mut server) = pair(Limits { linger: 10 * SOON, ..Limits::default() }).await;
    client.write_all(b"x").await.expect("is taken");
    expect(&mut server, b"x").await;
    reset(&server);
    drop(server);
    assert_eq!(end(&mut client).await, Err(ErrorKind::ConnectionReset));
    bed.ended("endpoint_reset").await;
}

#[tokio::test]
async fn what_an_endpoint_said_before_it_broke_off_arrives() {
    let (bed, mut client, mut server) = pair(Limits::default()).await;
    // It closes with bytes that it has not read, which makes it a reset, after its answer has gone out.
    client.write_all(b"never read").await.expect("is taken");
    server.readable().await.expect("it has come");
    server.write_all(b"too large").await.expect("is taken");
    expect(&mut client, b"too large").await;
    drop(server);
    assert_eq!(end(&mut client).await, Err(ErrorKind::ConnectionReset));
    bed.ended("endpoint_reset").await;
}

#[tokio::test]
async fn a_slow_reader_stops_the_other_side() {
    let (_bed, mut client, mut server) = pair(Limits::default()).await;
    let chunk = vec![7; 256 * 1024];
    let mut taken = 0;
    // Four socket buffers and what waits in between are all that there is room for.
    while let Ok(written) = timeout(Duration::from_millis(500), server.write(&chunk)).await {
        taken += written.expect("open");
        assert!(taken < 64 << 20, "nothing stops it");
    }
    drop(chunk);
    let mut seen = 0;
    let mut bytes = vec![0; 256 * 1024];
    server.shutdown().await.expect("ends");
    loop {
        match timeout(SOON, client.read(&mut bytes)).await.expect("in time").expect("open") {
            0 => break,
            read => {
                assert!(bytes[..read].iter().all(|byte| *byte == 7));
                seen += read;
            }
        }
    }
    assert_eq!(seen, taken);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection_and_bytes_either_way_put_that_off() {
    let limits = Limits::default();
    let (idle, half_closed) = (limits.stream_idle, limits.stream_half_closed);
    let (bed, mut client, mut server) = pair(limits).await;
    for _ in 0..2 {
        tokio::time::sleep(idle - Duration::from_secs(60)).await;
        server.write_all(b"x").await.expect("open");
        client.read_exact(&mut [0]).await.expect("open");
    }
    let start = Instant::now();
    assert!(client.read(&mut [0]).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    assert!(start.elapsed() >= idle - Duration::from_secs(1) && start.elapsed() < idle + Duration::from_secs(60));
    assert!(server.read(&mut [0]).await.is_err());
    bed.ended("idle").await;

    let (_bed, mut client, mut server) = pair(Limits::default()).await;
    client.shutdown().await.expect("ends");
    assert_eq!(server.read(&mut [0]).await.expect("an end"), 0);
    let start = Instant::now();
    assert!(server.read(&mut [0]).await.is_ok_and(|read| read == 0), "its read half has ended already");
    assert!(client.read(&mut [0]).await.is_err());
    assert!(start.elapsed() >= half_closed - Duration::from_secs(1) && start.elapsed() < half_closed + Duration::from_secs(60));
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let (alive, dead) = (endpoint().await, endpoint().await);
    let addresses = [alive.local_addr().expect("bound"), dead.local_addr().expect("bound")];
    drop(dead);
    let bed = Bed::start(Limits::default(), |port| snapshot(port, Protocol::Tcp, &addresses)).await;
    for _ in 0..10 {
        let mut client = bed.connect().await;
        client.write_all(b"hello").await.expect("is taken");
        let (mut server, _) = timeout(SOON, alive.accept()).await.expect("in time").expect("connected");
        expect(&mut server, b"hello").await;
    }
}

#[tokio::test]
async fn who_leads_nowhere_is_reset_and_counted() {
    let dead = endpoint().await.local_addr().expect("bound");
    for (name, result) in [
        ("no route", "no_route"),
        ("invalid", "invalid_backend"),
        ("no weight", "invalid_backend"),
        ("no endpoint", "no_endpoint"),
        ("nobody there", "unreachable"),
    ] {
        let bed = Bed::start(Limits::default(), |port| {
            let endpoints = if name == "no endpoint" { vec![] } else { vec![dead] };
            let mut snapshot = snapshot(port, Protocol::Tcp, &endpoints);
            match name {
                "no route" => snapshot.routes.clear(),
                "invalid" => edit_rule(&mut snapshot, |rule| rule.backends[0].target = Target::Invalid),
                "no weight" => edit_rule(&mut snapshot, |rule| rule.backends[0].weight = 0),
                _ => {}
            }
            snapshot
        })
        .await;
        let mut client = bed.connect().await;
        assert_eq!(end(&mut client).await, Err(ErrorKind::ConnectionReset), "{name}");
        bed.ended(result).await;
    }
}

#[tokio::test]
async fn shares_are_exact() {
    let (one, two) = (endpoint().await, endpoint().await);
    let bed = Bed::start(Limits::default(), |port| {
        let mut snapshot = snapshot(port, Protocol::Tcp, &[one.local_addr().expect("bound")]);
        bed::add_backend(&mut snapshot, "two", 3, &[two.local_addr().expect("bound")]);
        snapshot
    })
    .await;
    let mut counts = [0, 0];
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(bed.connect().await);
        let arrived = tokio::select! {
            biased;
            arrived = one.accept() => { counts[0] += 1; arrived }
            arrived = two.accept() => { counts[1] += 1; arrived }
        };
        held.push(arrived.expect("connected").0);
    }
    assert_eq!(counts, [2, 6]);
}

#[tokio::test]
async fn a_client_hello_is_replayed_as_it_came() {
    let endpoint = endpoint().await;
    let address = endpoint.local_addr().expect("bound");
    let bed = Bed::start(Limits::default(), |port| {
        let mut snapshot = snapshot(port, Protocol::Tls, &[address]);
        bed::edit_listener(&mut snapshot, |listener| listener.passthrough = true);
        snapshot
    })
    .await;
    let whole = hello("a.test");
    let in_pieces: Vec<u8> = whole[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect();
    for (sent, step) in [(&whole, 4096), (&whole, 1), (&in_pieces, 4096), (&in_pieces, 7)] {
        let mut client = bed.connect().await;
        client.set_nodelay(true).expect("a TCP socket");
        for piece in sent.chunks(step) {
            client.write_all(piece).await.expect("is taken");
            tokio::task::yield_now().await;
        }
        client.write_all(b"more").await.expect("is taken");
        let (mut server, _) = timeout(SOON, endpoint.accept()).await.expect("in time").expect("connected");
        expect(&mut server, &[sent, &b"more"[..]].concat()).await;
        server.write_all(b"answer").await.expect("is taken");
        expect(&mut client, b"answer").await;
    }
    assert_eq!(bed.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn the_log_tells_who_went_where() {
    let endpoint = endpoint().await;
    let address = endpoint.local_addr().expect("bound");
    let bed = Bed::start(Limits::default(), |port| snapshot(port, Protocol::Tcp, &[address])).await;
    let mut client = bed.connect().await;
    let peer = client.local_addr().expect("connected");
    client.write_all(b"12345").await.expect("is taken");
    client.shutdown().await.expect("ends");
    let (mut server, _) = endpoint.accept().await.expect("connected");
    expect(&mut server, b"12345").await;
    server.write_all(b"123").await.expect("is taken");
    drop(server);
    expect(&mut client, b"123").await;
    assert_eq!(end(&mut client).await, Ok(()));
    let line = bed.line().await;
    for (key, value) in [
        ("protocol", "TCP".to_owned()),
        ("response_flags", "-".to_owned()),
        ("upstream_host", address.to_string()),
        ("downstream_remote_address", peer.to_string()),
        ("gateway", "Gateway/infra/edge".to_owned()),
        ("listener", "stream".to_owned()),
        ("route", "TCPRoute/shop/route".to_owned()),
        ("backend", backend_key("one").to_string()),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert_eq!((&line["bytes_received"], &line["bytes_sent"], &line["attempts"]), (&5.into(), &3.into(), &1.into()), "{line}");
    assert!(line["server_name"].is_null(), "{line}");
}
