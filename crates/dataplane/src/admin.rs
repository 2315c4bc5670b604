//! The admin server: whether this proxy is ready, its metrics, and what it serves.
//!
//! It shows the names of everything that is routed, so it belongs on an address that only operators reach.

mod room;
mod shown;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::StartError;
use crate::config;
use crate::drain::{Readiness, State as Ready};
use crate::telemetry::Telemetry;
use room::Room;
use shown::Shown;

/// How long a request's header, or the next request on a kept connection, may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once; the next ones wait in the backlog.
const CONNECTIONS: usize = 256;
/// Of these, from one address; more are closed. The kubelet asks here for all probes of a pod, and must not wait behind somebody who says
/// nothing or does not read.
const CONNECTIONS_EACH: usize = 64;

const INDEX: &str = "\
isthmus admin
  /readyz          200 when a snapshot is served and new connections are wanted, else 503 with the reason
  /livez           200 while the process answers
  /metrics         metrics in the text format of Prometheus
  /debug/snapshot  what is served, as JSON, without private keys; its ETag is the snapshot's version
";

/// A running admin server; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// What the answers are made of.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// For `/metrics`.
    pub(crate) telemetry: Arc<Telemetry>,
    /// For `/debug/snapshot`.
    pub(crate) config: config::Shared,
    /// For `/readyz`.
    pub(crate) readiness: Arc<Readiness>,
}

impl Admin {
    /// Opens the first address that can be had and answers in a task: with its own pages, and `more` of others. None: there are no addresses.
    ///
    /// # Errors
    /// When no address can be had: why the last one cannot.
    pub(crate) async fn start(addresses: &[SocketAddr], sources: Sources, more: Router) -> Result<Option<Self>, StartError> {
        let mut refused = Ok(None);
        for address in addresses {
            match open(*address).await {
                Ok((listener, address)) => {
                    let task = tokio::spawn(accept(listener, router(sources).merge(more)));
                    return Ok(Some(Self { address, task }));
                }
                Err(source) => refused = Err(StartError::Admin { address: *address, source }),
            }
        }
        refused
    }

    /// Where it answers: the port is the true one if 0 was asked for.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The socket, and its address with the true port.
async fn open(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// `axum::serve` has no deadline for headers, so connections are driven here.
async fn accept(listener: TcpListener, router: Router) {
    let (all, each) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::<Room>::default());
    while let Ok(permit) = all.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(place) = each.place(peer.ip(), CONNECTIONS_EACH) else { continue };
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router).await;
                    drop((place, permit));
                });
            }
            // Want of file descriptors passes; a loop without a pause would make it worse.
            Err(error) => {
                tracing::warn!("the admin server cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection to the admin server ended: {error}");
    }
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(sources.clone())
        .merge(Router::new().route("/debug/snapshot", get(snapshot)).with_state((sources, Arc::<Shown>::default())))
}

async fn readyz(State(sources): State<Sources>) -> (StatusCode, &'static str) {
    match sources.readiness.state() {
        Ready::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Ready::Ready => (StatusCode::OK, "ready\n"),
        Ready::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn metrics(State(sources): State<Sources>) -> Response {
    let text = aside(move || sources.telemetry.expose(Instant::now())).await;
    (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

async fn snapshot(State((sources, shown)): State<(Sources, Arc<Shown>)>, headers: HeaderMap) -> Response {
    let config = sources.config.load_full();
    let tag = format!("\"{}\"", config.version);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    if known {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let text = Bytes::from_owner(shown.read(&config).await);
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json".to_owned()), (header::ETAG, tag)], text).into_response()
}

/// Runs what takes long with many routes where it delays no request.
async fn aside(make: impl FnOnce() -> String + Send + 'static) -> String {
    // It fails only when the runtime ends, and then nobody reads the answer.
    tokio::task::spawn_blocking(make).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use isthmus_routing::{Certificate, CertificateKey, Snapshot};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::shown::REDACTED;
    use super::*;
    use crate::Options;
    use crate::config::Config;

    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----";

    async fn start(snapshot: Snapshot) -> (Admin, Sources) {
        let telemetry = Telemetry::start(&Options::default()).expect("nothing to open");
        let config = Config::compile(&Arc::new(snapshot), &Arc::default(), None, &telemetry);
        let readiness = Arc::new(Readiness::default());
        let sources = Sources { telemetry, config: Arc::new(ArcSwap::from_pointee(config)), readiness };
        let more = Router::new().route("/more", get(|| async { "more" }));
        let admin = Admin::start(&[([127, 0, 0, 1], 0).into()], sources.clone(), more).await.expect("starts");
        (admin.expect("there is an address"), sources)
    }

    /// The code and all of the response.
    async fn ask(admin: &Admin, method: &str, path: &str, header: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(admin.address()).await.expect("connects");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.expect("is read");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("answers in UTF-8");
        (text[9..12].parse().expect("a code"), text)
    }

    #[tokio::test]
    async fn ready_only_while_ready() {
        let (admin, sources) = start(Snapshot::default()).await;
        for (state, code, word) in
            [(Ready::Starting, 503, "starting"), (Ready::Ready, 200, "ready"), (Ready::Draining, 503, "draining")]
        {
            sources.readiness.advance(state);
            let (seen, text) = ask(&admin, "GET", "/readyz", "").await;
            assert!(seen == code && text.ends_with(&format!("\r\n\r\n{word}\n")), "{text}");
            assert_eq!(ask(&admin, "GET", "/livez", "").await.0, 200);
        }
    }

    #[tokio::test]
    async fn the_index_lists_every_page_and_there_are_no_others() {
        let (admin, _) = start(Snapshot::default()).await;
        let (code, text) = ask(&admin, "GET", "/", "").await;
        assert_eq!(code, 200);
        for page in ["/readyz", "/livez", "/metrics", "/debug/snapshot"] {
            assert!(text.contains(page), "{page}");
        }
        assert_eq!(ask(&admin, "GET", "/debug", "").await.0, 404);
        assert_eq!(ask(&admin, "GET", "/more", "").await.0, 200, "somebody else's");
        assert_eq!(ask(&admin, "POST", "/metrics", "content-length: 0\r\n").await.0, 405);
    }

    #[tokio::test]
    async fn one_address_cannot_keep_the_others_out() {
        let (admin, _) = start(Snapshot::default()).await;
        let connect = async |from: [u8; 4]| {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind((from, 0).into()).expect("a free port");
            socket.connect(admin.address()).await.expect("connects")
        };
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_EACH {
            silent.push(connect([127, 0, 0, 2]).await);
        }
        let mut one_more = connect([127, 0, 0, 2]).await;
        assert!(matches!(one_more.read(&mut [0; 1]).await, Ok(0) | Err(_)), "it is closed at once");
        assert_eq!(ask(&admin, "GET", "/livez", "").await.0, 200, "others are served");
        silent.pop();
        for _ in 0..100 {
            let mut again = connect([127, 0, 0, 2]).await;
            let asked = again.write_all(b"GET /livez HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await;
            if asked.is_ok() && again.read(&mut [0; 1]).await.is_ok_and(|read| read > 0) {
                return;
            }
        }
        panic!("a place that was left is not free");
    }

    #[tokio::test]
    async fn metrics_are_served_as_text() {
        let (admin, sources) = start(Snapshot::default()).await;
        sources.telemetry.config_rejected();
        let (code, text) = ask(&admin, "GET", "/metrics", "").await;
        assert_eq!(code, 200);
        assert!(text.contains("content-type: text/plain; version=0.0.4\r\n"), "{text}");
        assert!(text.contains("\nisthmus_config_rejected_total 1\n"), "{text}");
    }

    #[tokio::test]
    async fn a_snapshot_is_shown_without_private_keys_and_once_for_its_version() {
        let mut snapshot = Snapshot::default();
        let key = CertificateKey { namespace: "infra".to_owned(), name: "wildcard".to_owned() };
        let certificate = Certificate { chain: "-----BEGIN CERTIFICATE-----".to_owned(), key: PRIVATE.to_owned() };
        snapshot.certificates.insert(key, Arc::new(certificate));
        let version = snapshot.version();
        let (admin, _) = start(snapshot).await;

        let (code, text) = ask(&admin, "GET", "/debug/snapshot", "").await;
        let (head, body) = text.split_once("\r\n\r\n").expect("a header and a body");
        let tag = format!("etag: \"{version}\"");
        assert!(code == 200 && head.contains(&tag), "{head}");
        assert!(!text.contains(PRIVATE) && text.contains("BEGIN CERTIFICATE"), "{text}");
        let shown: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(shown["version"], version.to_string());
        assert_eq!(shown["snapshot"]["certificates"]["Secret/infra/wildcard"]["key"], REDACTED);

        let (code, text) = ask(&admin, "GET", "/debug/snapshot", &format!("if-none-match: \"{version}\"\r\n")).await;
        assert!(code == 304 && text.ends_with("\r\n\r\n"), "{text}");
    }

    #[tokio::test]
    async fn the_first_address_that_can_be_had_is_taken_and_the_last_one_in_use_is_named() {
        let (admin, sources) = start(Snapshot::default()).await;
        let taken = admin.address();
        let free = SocketAddr::from(([127, 0, 0, 3], 0));
        let start = async |addresses: &[SocketAddr]| Admin::start(addresses, sources.clone(), Router::new()).await;
        for (addresses, expected) in [(&[][..], None), (&[taken, free], Some(free.ip())), (&[free, taken], Some(free.ip()))] {
            let admin = start(addresses).await.expect("none is needed, or one can be had");
            assert_eq!(admin.map(|admin| admin.address().ip()), expected, "{addresses:?}");
        }
        let error = start(&[SocketAddr::from(([192, 0, 2, 1], 0)), taken]).await.expect_err("neither can be had");
        assert!(error.to_string().starts_with(&format!("the admin address {taken} cannot be opened: ")), "{error}");
    }
}
