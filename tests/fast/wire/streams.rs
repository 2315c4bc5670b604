//! Connections without HTTP: both halves, resets, back-pressure and ends are as if nothing were in between.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use isthmus_dataplane::Options;
use isthmus_routing::{Protocol, Snapshot};
use isthmus_tests::backend::{PORT, backend, edit_rule, streams_to};
use isthmus_tests::bed::{Bed, options, own_address};
use isthmus_tests::raw::Raw;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::short;

/// How long the end of a connection may take to arrive.
const SOON: Duration = Duration::from_secs(4);
/// What a client says first.
const HELLO: &[u8] = b"hello";
/// More than the buffers of all sockets and of the data plane hold.
const MUCH: usize = 64 * 1024 * 1024;

async fn before(endpoints: &[SocketAddr]) -> (Bed, SocketAddr) {
    before_with(endpoints, |_| {}).await
}

/// A data plane that tells its metrics.
async fn before_with(endpoints: &[SocketAddr], edit: impl FnOnce(&mut Snapshot)) -> (Bed, SocketAddr) {
    let address = own_address();
    let admin = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    let bed = Bed::start(Options { admin, ..options(short()) }).await;
    let mut snapshot = streams_to(address, endpoints, Protocol::Tcp);
    edit(&mut snapshot);
    bed.serve(snapshot).await;
    (bed, SocketAddr::new(address, PORT))
}

/// Waits until one connection, and no more, has been counted as ended with this result.
async fn assert_counted(bed: &Bed, name: &str, result: &str) {
    let wanted = format!("result=\"{result}\"");
    let deadline = Instant::now() + SOON;
    loop {
        let mut admin = Raw::connect(bed.dataplane.admin().expect("it was asked for")).await;
        admin.send("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let text = admin.response().await.expect("metrics").text();
        let of_streams = || text.lines().filter(|line| line.starts_with("isthmus_stream_connections_total{"));
        if of_streams().any(|line| line.contains(&wanted) && line.ends_with(" 1")) {
            return;
        }
        assert!(Instant::now() < deadline, "{name}: not counted as {result}: {:?}", of_streams().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the listener accepts");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

/// Reads to the end.
async fn rest(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.expect("the end comes in time")?;
    Ok(bytes)
}

/// Bytes of which no two positions near each other are the same.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// The client ends its half first: the backend sees the end, and its answer still comes, whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_ends_first() {
    let counting = backend(|mut stream| async move {
        let received = rest(&mut stream).await.expect("the client's half");
        let _ = stream.write_all(&received.into_iter().rev().collect::<Vec<_>>()).await;
    })
    .await;
    let (_bed, address) = before(&[counting]).await;
    let mut client = connect(address).await;
    let sent = pattern(3_000_000);
    client.write_all(&sent).await.expect("taken");
    client.shutdown().await.expect("ended");
    let received = rest(&mut client).await.expect("the answer");
    assert!(received.iter().rev().eq(&sent), "{} bytes came back", received.len());
}

/// The backend ends its half first: the client sees the end, and what it still sends arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_ends_first() {
    let (sender, mut arrived) = mpsc::unbounded_channel();
    let early = backend(move |mut stream| {
        let sender = sender.clone();
        async move {
            let _ = stream.write_all(b"bye").await;
            let _ = stream.shutdown().await;
            let _ = sender.send(rest(&mut stream).await.expect("the client's half"));
        }
    })
    .await;
    let (_bed, address) = before(&[early]).await;
    let mut client = connect(address).await;
    assert_eq!(rest(&mut client).await.expect("the backend's half"), b"bye");
    let sent = pattern(1_000_000);
    client.write_all(&sent).await.expect("the other half is open");
    client.shutdown().await.expect("ended");
    let received = timeout(SOON, arrived.recv()).await.expect("in time").expect("the backend is there");
    assert!(received == sent, "{} bytes arrived", received.len());
}

/// A backend that speaks first needs no byte of the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_speaks_first() {
    let greeting = backend(|mut stream| async move {
        let _ = stream.write_all(b"220 ready\r\n").await;
        let _ = rest(&mut stream).await;
    })
    .await;
    let (_bed, address) = before(&[greeting]).await;
    let mut client = connect(address).await;
    let mut line = [0; 11];
    timeout(SOON, client.read_exact(&mut line)).await.expect("in time").expect("a greeting");
    assert_eq!(&line, b"220 ready\r\n");
}

/// A reset on either side is a reset on the other, not a clean end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let told = backend(move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut first = [0; 1];
            let _ = stream.read_exact(&mut first).await;
            if first[0] == b'r' {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
                return;
            }
            let _ = stream.write_all(b"!").await;
            let _ = sender.send(rest(&mut stream).await);
        }
    })
    .await;
    let (bed, address) = before(&[told]).await;

    let mut client = connect(address).await;
    client.write_all(b"r").await.expect("taken");
    let end = rest(&mut client).await;
    assert!(end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "the client sees {end:?}");

    let mut client = connect(address).await;
    client.write_all(b"c").await.expect("taken");
    client.read_exact(&mut [0; 1]).await.expect("the backend answers");
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    drop(client);
    let end = timeout(SOON, seen.recv()).await.expect("in time").expect("the backend is there");
    assert!(end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "the backend sees {end:?}");
    assert_counted(&bed, "the backend's", "endpoint_reset").await;
    assert_counted(&bed, "the client's", "client_reset").await;
}

/// A client that does not read stops the backend, and gets everything when it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_pressure() {
    let (sender, mut progress) = mpsc::unbounded_channel();
    let flood = backend(move |mut stream| {
        let sender = sender.clone();
        async move {
            for part in pattern(MUCH).chunks(256 * 1024) {
                if stream.write_all(part).await.is_err() {
                    return;
                }
                let _ = sender.send(part.len());
            }
        }
    })
    .await;
    let (_bed, address) = before(&[flood]).await;
    let mut client = connect(address).await;
    let mut written = 0;
    while let Ok(Some(part)) = timeout(Duration::from_millis(700), progress.recv()).await {
        written += part;
    }
    assert!(written < MUCH, "the backend wrote everything, and nobody has read");
    let received = rest(&mut client).await.expect("everything");
    assert!(received == pattern(MUCH), "{} bytes came", received.len());
}

/// A new connection ends soon without a byte; a reset may be there before the client has looked at what it has opened.
async fn assert_ends(name: &str, address: SocketAddr) {
    let attempt = async {
        let mut client = TcpStream::connect(address).await?;
        let _ = client.write_all(HELLO).await;
        client.read_u8().await
    };
    let end = timeout(SOON, attempt).await;
    assert!(matches!(&end, Ok(Err(error)) if error.kind() != std::io::ErrorKind::ConnectionRefused), "{name}: {end:?}");
}

/// Backends that are not there, or close soon: the connection ends soon, and so does nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_that_do_not_serve() {
    let dead = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    // What it leaves unread would make a reset of its end.
    let closing = backend(|mut stream| async move {
        let _ = stream.read_exact(&mut [0; HELLO.len()]).await;
    })
    .await;
    for (name, endpoints, result) in
        [("refuses", vec![dead], "unreachable"), ("closes", vec![closing], "closed"), ("none", vec![], "no_endpoint")]
    {
        let (bed, address) = before(&endpoints).await;
        assert_ends(name, address).await;
        assert_counted(&bed, name, result).await;
    }
}

/// An invalid backend and a listener without a route: accepted and closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_to_lead_to() {
    let (bed, address) = before_with(&[], |snapshot| edit_rule(snapshot, |rule| rule.backends.clear())).await;
    assert_ends("no backend", address).await;
    assert_counted(&bed, "no backend", "invalid_backend").await;
    let (bed, address) = before_with(&[], |snapshot| snapshot.routes.clear()).await;
    assert_ends("no route", address).await;
    assert_counted(&bed, "no route", "no_route").await;
}

/// An open connection goes on while the objects change, and new ones go where the new objects say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_survive_changes() {
    let named = |name: &'static [u8]| {
        backend(move |mut stream| async move {
            while stream.read_u8().await.is_ok() {
                let _ = stream.write_all(name).await;
            }
        })
    };
    let (one, two) = (named(b"1").await, named(b"2").await);
    let (bed, address) = before(&[one]).await;
    let ask = async |client: &mut TcpStream| {
        client.write_all(b"?").await.expect("open");
        timeout(SOON, client.read_u8()).await.expect("in time").expect("an answer")
    };
    let mut old = connect(address).await;
    assert_eq!(ask(&mut old).await, b'1');
    bed.serve(streams_to(address.ip(), &[two], Protocol::Tcp)).await;
    assert_eq!(ask(&mut connect(address).await).await, b'2');
    assert_eq!(ask(&mut old).await, b'1');
}

/// A drain lets open connections go on, and cuts them at its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain() {
    let echo = backend(|mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await;
    let (bed, address) = before(&[echo]).await;
    let mut client = connect(address).await;
    client.write_all(b"a").await.expect("taken");
    assert_eq!(client.read_u8().await.expect("an answer"), b'a');
    let bed = std::sync::Arc::new(bed);
    let draining = tokio::spawn({
        let bed = bed.clone();
        async move { bed.dataplane.drain(Duration::from_millis(100), Duration::from_millis(1500)).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.write_all(b"b").await.expect("open in the drain");
    assert_eq!(client.read_u8().await.expect("an answer in the drain"), b'b');
    assert!(matches!(timeout(SOON, client.read_u8()).await, Ok(Err(_))), "open after the drain's deadline");
    draining.await.expect("no panic");
}
