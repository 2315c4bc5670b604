//! Connections that clients keep, or are about to make, while their listener begins to ask for certificates.

use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_routing::ClientValidation;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::{AccessLog, Dataplane, Options};

/// How long something on the loopback may take.
const SOON: Duration = Duration::from_secs(10);

/// HTTPS for `a.test` and TLS for `s.test` on one port. Without a route what is served gets 404.
struct Bed {
    port: u16,
    shown: Arc<Certificate>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    dataplane: Dataplane,
}

impl Bed {
    async fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let (snapshots, receiver) = watch::channel(Arc::default());
        let options = Options { threads: 1, access_log: AccessLog::Off, ..Options::default() };
        let dataplane = Dataplane::start(options, receiver).await.expect("it starts");
        let bed = Self { port, shown: certificate(&["a.test", "s.test"]), snapshots, dataplane };
        bed.ask_for_certificates(false).await;
        bed
    }

    async fn ask_for_certificates(&self, wanted: bool) {
        let validation = wanted.then(|| ClientValidation { authorities: Vec::new(), optional: false });
        let listener = |name: &str, hostname, protocol| Listener {
            protocol,
            port: self.port,
            client_validation: validation.clone(),
            ..listener(name, Some(hostname), &["shown"])
        };
        let listeners = [listener("https", "a.test", Protocol::Https), listener("stream", "s.test", Protocol::Tls)];
        let snapshot = snapshot(&listeners, &[("shown", &self.shown)]);
        let version = snapshot.version();
        let mut reports = self.dataplane.reports();
        self.snapshots.send_replace(Arc::new(snapshot));
        reports.wait_for(|report| report.version == Some(version)).await.expect("served");
    }

    async fn socket(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.expect("it listens")
    }

    async fn connect(&self, protocol: &str) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(client(&[protocol]));
        connector.connect("a.test".try_into().expect("a name"), self.socket().await).await.expect("a handshake")
    }
}

async fn get(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("is taken");
    let mut seen = String::new();
    // A line of text after the header.
    while !seen.split_once("\r\n\r\n").is_some_and(|(_, body)| body.ends_with('\n')) {
        let mut bytes = [0; 1024];
        let read = timeout(SOON, stream.read(&mut bytes)).await.expect("in time").expect("open");
        assert!(read > 0, "{seen}");
        seen += std::str::from_utf8(&bytes[..read]).expect("text");
    }
    seen.to_ascii_lowercase()
}

#[tokio::test]
async fn requests_are_not_served_any_more() {
    let bed = Bed::start().await;
    let mut plain = bed.connect("http/1.1").await;
    let io = TokioIo::new(bed.connect("h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut ask = async || {
        let request = http::Request::get("https://a.test/").body(String::new()).expect("a request");
        timeout(SOON, sender.send_request(request)).await.expect("in time").expect("an answer").status().as_u16()
    };
    for _ in 0..2 {
        assert!(get(&mut plain).await.starts_with("http/1.1 404"));
        assert_eq!(ask().await, 404);
        // The same again is no change.
        bed.ask_for_certificates(false).await;
    }
    bed.ask_for_certificates(true).await;
    let answer = get(&mut plain).await;
    assert!(answer.starts_with("http/1.1 421") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(timeout(SOON, plain.read(&mut [0; 1])).await.expect("in time").expect("an end"), 0);
    assert_eq!(ask().await, 421);
    // Many clients would go on with it for ever.
    timeout(SOON, connection).await.expect("GOAWAY").expect("no panic").expect("an end in order");
}

#[tokio::test]
async fn a_stream_that_was_about_to_be_made_is_not_made() {
    let bed = Bed::start().await;
    let mut connection = rustls::ClientConnection::new(client(&[]), "s.test".try_into().expect("a name")).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("into memory");
    let mut socket = bed.socket().await;
    let (first, second) = hello.split_at(hello.len() / 2);
    socket.write_all(first).await.expect("is taken");
    // It has been accepted then, under the rules of then.
    sleep(Duration::from_millis(200)).await;
    bed.ask_for_certificates(true).await;
    socket.write_all(second).await.expect("is taken");
    let mut answer = Vec::new();
    timeout(SOON, socket.read_to_end(&mut answer)).await.expect("in time").expect("an end");
    assert_eq!(answer, b"", "no ServerHello");
}
