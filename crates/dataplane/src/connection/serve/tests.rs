//! Raw bytes on real sockets against an application that answers by itself. Time is paused: it jumps to the next deadline when nobody
//! has anything to do.

use std::time::Duration;

use isthmus_routing::GatewayKey;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::*;
use crate::Options;
use crate::connection::Addresses;
use crate::connection::head::PREFACE;
use crate::connection::transport::Transport;
use crate::drain::{Closing, Readiness};
use crate::telemetry::Telemetry;

/// Answers with the path and the length of the body. `/early` does not read the body; `/stalled`, `/broken` and `/endless` do not keep
/// what their header says.
pub(crate) struct Echo;

#[async_trait]
impl HttpServerApp for Echo {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        let path = session.req_header().uri.path().to_owned();
        let mut length = 0;
        while let Some(bytes) = if path == "/early" { None } else { session.read_request_body().await.ok()? } {
            length += bytes.len();
        }
        let body = format!("{path} {length}\n");
        let mut header = ResponseHeader::build(200, None).ok()?;
        let promised = match path.as_str() {
            "/stalled" | "/broken" => 1000,
            "/endless" => 100_000_000,
            _ => body.len(),
        };
        header.insert_header("content-length", promised).ok()?;
        session.write_response_header(Box::new(header)).await.ok()?;
        match path.as_str() {
            "/stalled" => {
                session.write_response_body(Bytes::from(body.clone()), false).await.ok()?;
                // Until the client goes away.
                session.read_body_or_idle(true).await.ok()?;
            }
            "/broken" => {
                session.write_response_body(Bytes::from(body.clone()), false).await.ok()?;
                return None;
            }
            "/endless" => loop {
                session.write_response_body(Bytes::from(vec![b'x'; 65536]), false).await.ok()?;
            },
            _ => {}
        }
        session.write_response_body(Bytes::from(body), true).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

struct Fixture {
    client: TcpStream,
    closing: Closing,
    connection: Arc<Connection>,
    telemetry: Arc<Telemetry>,
    served: tokio::task::JoinHandle<()>,
}

fn gateway() -> GatewayKey {
    GatewayKey { namespace: "infra".to_owned(), name: "edge".to_owned() }
}

async fn connect() -> Fixture {
    connect_within(Limits { target_bytes: 1000, header_bytes: 8000, header_fields: 5, ..Limits::default() }).await
}

async fn connect_within(limits: Limits) -> Fixture {
    let limits = Arc::new(limits);
    let options = Options { threads: 1, limits: Limits::clone(&limits), ..Options::default() };
    let telemetry = Telemetry::start(&options).expect("nothing to open");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).await.expect("listening");
    let (socket, peer) = listener.accept().await.expect("connected");
    let (closing, signals) = Closing::new();
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("free");
    let guard = telemetry.port(&crate::config::Owner::Gateway(gateway()), 80).accepted();
    let state = (signals.clone(), Arc::new(Readiness::default()));
    let connection = Arc::new(Connection::new(
        Addresses { local: address, peer, destination: address },
        None,
        limits.clone(),
        state,
        (guard, permit),
    ));
    let io = Box::new(Io::new(Transport::Plain(socket), connection.clone(), limits.write_buffer));
    let front = Arc::new(Front::new(Arc::new(Echo), limits));
    let served = tokio::spawn(async move { front.serve(io, signals).await });
    Fixture { client, closing, connection, telemetry, served }
}

impl Fixture {
    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.expect("is taken");
    }

    /// Bodies and status lines until `lines` bodies have come.
    async fn responses(&mut self, count: usize) -> Vec<String> {
        let (mut bodies, mut text) = (Vec::new(), Vec::new());
        while bodies.len() < count {
            assert!(self.client.read_buf(&mut text).await.expect("readable") > 0, "closed after {bodies:?}");
            let seen = String::from_utf8_lossy(&text);
            bodies = seen.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect();
        }
        bodies
    }

    /// Everything until the end.
    async fn rest(&mut self) -> String {
        let mut text = String::new();
        self.client.read_to_string(&mut text).await.expect("an end, not a reset");
        text
    }

    fn faults(&self, reason: &str) -> bool {
        let text = self.telemetry.expose(std::time::Instant::now());
        text.lines().any(|line| line.contains(&format!("reason=\"{reason}\"")) && line.ends_with(" 1"))
    }
}

#[tokio::test]
async fn keep_alive_and_pipelining_give_each_request_its_own_bytes() {
    let mut f = connect().await;
    f.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(f.responses(1).await, ["/a 0"]);
    f.send("POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET /c HTTP/1.1\r\nHost: h\r\n\r\n\r\nGET /d HTTP/1.1\r\nHost: h\r\n\r\nGET /e HT").await;
    assert_eq!(f.responses(3).await, ["/b 5", "/c 0", "/d 0"]);
    f.send("TP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(f.responses(1).await, ["/e 0"]);
    f.send("POST /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    assert_eq!(f.responses(1).await, ["/f 3"]);
    let body = "x".repeat(100_000);
    f.send(&format!(
        "POST /g HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}GET /h HTTP/1.1\r\nHost: h\r\n\r\n",
        body.len()
    ))
    .await;
    assert_eq!(f.responses(2).await, ["/g 100000", "/h 0"]);
    assert_eq!(f.connection.requests(), 8);
    drop(f.client);
    f.served.await.expect("no panic");
}

#[tokio::test]
async fn a_header_past_a_limit_is_refused() {
    let long = "x".repeat(1001);
    let cases = [
        ("GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\ne: 5\r\nf: 6\r\n\r\n".to_owned(), "431"),
        (format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(9000)), "431"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), "414"),
        ("GET / HTTP/1.1\nHost: h\n\n".to_owned(), "400"),
    ];
    for (request, status) in cases {
        for before in ["", "GET /before HTTP/1.1\r\nHost: h\r\n\r\n"] {
            let mut f = connect().await;
            f.send(before).await;
            f.send(&request).await;
            let text = f.rest().await;
            let last = text.lines().rfind(|line| line.starts_with("HTTP/1.1 ")).unwrap_or_default().to_owned();
            assert_eq!(&last[9..12], status, "{text}");
            assert!(text.contains("Connection: close\r\n"), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_header_has_an_absolute_deadline() {
    for before in ["", "GET /before HTTP/1.1\r\nHost: h\r\n\r\n"] {
        let mut f = connect().await;
        if !before.is_empty() {
            f.send(before).await;
            f.responses(1).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let start = Instant::now();
        for byte in "GET / HTTP/1.1\r\nHos".chars() {
            f.send(&byte.to_string()).await;
            tokio::time::sleep(Duration::from_millis(510)).await;
        }
        let text = f.rest().await;
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(10) && took < Duration::from_millis(10_600), "{took:?}");
        assert!(f.faults("header_timeout"));
    }
}

/// As clients in a cluster have it: connections of a pool, or of a channel of gRPC, that are opened before they are needed.
#[tokio::test(start_paused = true)]
async fn in_the_mesh_a_connection_may_be_silent_before_its_first_request() {
    let mut f = connect_within(Limits::mesh()).await;
    tokio::time::sleep(Duration::from_secs(3000)).await;
    f.send("GET /late HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(f.responses(1).await, ["/late 0"]);
    tokio::time::sleep(Duration::from_secs(3000)).await;
    f.send("GET /later HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(f.responses(1).await, ["/later 0"]);

    let mut f = connect_within(Limits::mesh()).await;
    tokio::time::sleep(Duration::from_secs(3000)).await;
    let start = Instant::now();
    f.send("GET /half HT").await;
    assert!(f.rest().await.starts_with("HTTP/1.1 408 "));
    assert_eq!(start.elapsed().as_secs(), 60, "a header that has begun may not take for ever");
}

#[tokio::test(start_paused = true)]
async fn silence_is_closed_without_a_word() {
    let mut f = connect().await;
    let start = Instant::now();
    assert_eq!(f.rest().await, "");
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(f.faults("preface_timeout"));

    let mut f = connect().await;
    f.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    f.responses(1).await;
    let start = Instant::now();
    assert_eq!(f.rest().await, "");
    assert_eq!(start.elapsed().as_secs(), 75);
    assert!(f.faults("idle_timeout"));
}

#[tokio::test(start_paused = true)]
async fn prior_knowledge_gets_http2_and_ten_seconds_for_its_first_request() {
    let mut f = connect().await;
    let start = Instant::now();
    for piece in PREFACE.chunks(5) {
        f.client.write_all(piece).await.expect("is taken");
        tokio::task::yield_now().await;
    }
    f.client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("is taken");
    let mut frame = [0; 9];
    f.client.read_exact(&mut frame).await.expect("a frame");
    assert_eq!(frame[3], 4, "SETTINGS come first");
    let mut rest = Vec::new();
    f.client.read_to_end(&mut rest).await.expect("an end");
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(f.faults("header_timeout"));
}

#[tokio::test(start_paused = true)]
async fn an_ending_listener_closes_idle_connections_and_serves_first_requests() {
    let mut idle = connect().await;
    idle.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    idle.responses(1).await;
    let start = Instant::now();
    idle.closing.end();
    assert_eq!(idle.rest().await, "");
    assert_eq!(start.elapsed().as_secs(), 0);
    assert!(idle.connection.is_ending());

    let mut fresh = connect().await;
    fresh.closing.end();
    tokio::task::yield_now().await;
    fresh.send("GET /late HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let text = fresh.rest().await;
    assert!(text.contains("Connection: close\r\n") && text.ends_with("/late 0\n"), "{text}");

    let mut silent = connect().await;
    silent.closing.end();
    assert_eq!(silent.rest().await, "");
    assert_eq!(start.elapsed().as_secs(), 1, "a last call");
}

#[tokio::test]
async fn an_early_response_reaches_a_client_that_still_sends() {
    let mut f = connect().await;
    let body = "x".repeat(3_000_000);
    f.send(&format!("POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    f.send(&body).await;
    let text = f.rest().await;
    assert!(text.contains("Connection: close\r\n") && text.ends_with("/early 0\n"), "{text}");
}

#[tokio::test]
async fn what_was_written_is_sent_before_the_response_ends_or_breaks() {
    let mut f = connect().await;
    f.send("GET /stalled HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(f.responses(1).await, ["/stalled 0"], "while the rest is not there yet");
    drop(f.client);
    f.served.await.expect("no panic");

    let mut f = connect().await;
    f.send("GET /broken HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let text = f.rest().await;
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("/broken 0\n"), "{text}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_left() {
    let mut f = connect_within(Limits { write: Duration::from_millis(50), ..Limits::default() }).await;
    f.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await;
    tokio::time::timeout(Duration::from_secs(5), f.served).await.expect("it ends").expect("no panic");
}

#[tokio::test]
async fn a_cut_ends_a_connection_in_the_middle() {
    let mut f = connect().await;
    f.send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe").await;
    f.closing.cut();
    f.served.await.expect("no panic");
    assert!(f.telemetry.expose(std::time::Instant::now()).contains("reason=\"drain_deadline\"} 1"));
}
