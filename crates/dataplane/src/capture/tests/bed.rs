//! A sidecar without a kernel that redirects: clients dial its sockets, and say in a table where they meant to go.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isthmus_routing::{
    Attachment, Backend, BackendKey, Certificate, Endpoint, Frontend, FrontendKey, ServiceParent, Snapshot, Spoken,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Capture, Dataplane, Limits, Options};

/// What a sidecar may be given besides a configuration.
pub(super) struct Setup {
    pub(super) limits: Limits,
    pub(super) identity: Option<watch::Receiver<Option<Arc<Certificate>>>>,
    pub(super) away: Option<watch::Receiver<Option<Instant>>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { limits: Limits::mesh(), identity: None, away: None }
    }
}

type Originals = Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>;

pub(super) struct Bed {
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) calls: watch::Receiver<BTreeSet<BackendKey>>,
    pub(super) dataplane: Dataplane,
    outbound: SocketAddr,
    inbound: SocketAddr,
    originals: Originals,
}

/// The address of the pod.
pub(super) const POD: [u8; 4] = [127, 9, 9, 9];
/// The port of the sidecar's own that nothing listens on here.
pub(super) const OWN: u16 = 15421;

/// An address that nobody has at this moment.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound")
}

impl Bed {
    /// A sidecar with a configuration.
    pub(super) async fn start(snapshot: &Snapshot) -> Self {
        Self::with(Some(snapshot), Setup::default()).await
    }

    /// A sidecar that may have none yet.
    pub(super) async fn with(snapshot: Option<&Snapshot>, setup: Setup) -> Self {
        let (calls, called) = watch::channel(BTreeSet::new());
        let (outbound, inbound) = (free(), free());
        let capture = Capture {
            namespace: "client".to_owned(),
            outbound: vec![outbound],
            inbound: vec![inbound],
            pod_ips: vec![POD.into()],
            own_ports: BTreeSet::from([OWN]),
            calls,
            away: setup.away,
        };
        let options = Options {
            threads: 1,
            admin: vec![([127, 0, 0, 1], 0).into()],
            limits: setup.limits,
            capture: Some(capture),
            identity: setup.identity,
            placeholder: snapshot.is_none(),
            ..Options::default()
        };
        let originals = Originals::default();
        let table = originals.clone();
        let original = Arc::new(move |socket: &TcpStream| {
            let original = table.lock().expect("not poisoned").get(&socket.peer_addr()?).copied();
            original.ok_or_else(|| std::io::ErrorKind::NotFound.into())
        });
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot.cloned().unwrap_or_default()));
        let dataplane = Dataplane::capturing(options, receiver, original).await.expect("it starts");
        Self { snapshots, calls: called, dataplane, outbound, inbound, originals }
    }

    pub(super) async fn serve(&self, snapshot: &Snapshot) {
        let version = snapshot.version();
        self.snapshots.send_replace(Arc::new(snapshot.clone()));
        self.dataplane.reports().wait_for(|report| report.version == Some(version)).await.expect("served");
    }

    /// A connection of the workload to somewhere; none: one that nothing has redirected.
    pub(super) async fn dial(&self, to: Option<SocketAddr>) -> TcpStream {
        self.connect(self.outbound, to).await
    }

    /// A connection to the workload.
    pub(super) async fn arrive(&self, at: Option<SocketAddr>) -> TcpStream {
        self.connect(self.inbound, at).await
    }

    async fn connect(&self, socket: SocketAddr, original: Option<SocketAddr>) -> TcpStream {
        let client = TcpSocket::new_v4().expect("a socket");
        client.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        if let Some(original) = original {
            self.originals.lock().expect("not poisoned").insert(client.local_addr().expect("bound"), original);
        }
        client.connect(socket).await.expect("listening")
    }

    /// A page of the admin server.
    pub(super) async fn page(&self, path: &str) -> String {
        let mut admin = TcpStream::connect(self.dataplane.admin().expect("it is open")).await.expect("listening");
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        admin.write_all(request.as_bytes()).await.expect("is taken");
        let mut page = String::new();
        admin.read_to_string(&mut page).await.expect("readable");
        page
    }

    /// Waits until a line of the metrics has all of these in it, and does not end with 0.
    pub(super) async fn counted(&self, parts: &[&str]) {
        let mut page = String::new();
        for _ in 0..300 {
            page = self.page("/metrics").await;
            let is_it = |line: &str| parts.iter().all(|part| line.contains(part)) && !line.ends_with(" 0");
            if page.lines().any(is_it) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {parts:?} in:\n{page}");
    }
}

pub(super) fn key<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a key")
}

/// A Service that every sidecar knows.
pub(super) fn front(snapshot: &mut Snapshot, service: &str, address: IpAddr) {
    let BackendKey { namespace, name, port, .. } = key(service);
    let frontend = Frontend { addresses: vec![address], ports: vec![port] };
    snapshot.frontends.insert(FrontendKey { namespace, name }, Arc::new(frontend));
}

/// The same with its configuration.
pub(super) fn hold(snapshot: &mut Snapshot, service: &str, address: IpAddr, spoken: Spoken, endpoint: SocketAddr) {
    front(snapshot, service, address);
    let parent = ServiceParent { addresses: vec![address], spoken, ..ServiceParent::default() };
    snapshot.services.insert(key(service), Arc::new(parent));
    let backend = Backend { endpoints: vec![Endpoint { address: endpoint }], ..Backend::default() };
    snapshot.backends.insert(key(service), Arc::new(backend));
}

/// A route that takes nothing.
pub(super) fn route_nowhere(snapshot: &mut Snapshot, service: &str) {
    let route = isthmus_routing::Route { created: 0, rules: Vec::new() };
    snapshot.service_routes.insert(key("HTTPRoute/shop/none"), Arc::new(route));
    let parent = Arc::make_mut(snapshot.services.get_mut(&key(service)).expect("it is there"));
    parent.routes = vec![Attachment { route: key("HTTPRoute/shop/none"), hostnames: Vec::new() }];
}

/// A server that says `first` to each connection, then gives back what it is sent.
pub(super) async fn parrot(first: &'static str) -> SocketAddr {
    server(move |mut socket| async move {
        socket.write_all(first.as_bytes()).await?;
        let (mut reader, mut writer) = socket.split();
        tokio::io::copy(&mut reader, &mut writer).await?;
        writer.shutdown().await
    })
    .await
}

/// A server of HTTP/1 that answers each request with its name.
pub(super) async fn web(name: &'static str) -> SocketAddr {
    server(move |mut socket| async move {
        let mut seen = Vec::new();
        loop {
            while !seen.ends_with(b"\r\n\r\n") {
                if socket.read_buf(&mut seen).await? == 0 {
                    return Ok(());
                }
            }
            seen.clear();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            socket.write_all(answer.as_bytes()).await?;
        }
    })
    .await
}

async fn server<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(socket));
        }
    });
    address
}

/// A request, and its answer up to where it ends with `last`, which may be the end of the connection.
pub(super) async fn ask(client: &mut TcpStream, last: &str) -> String {
    client.write_all(b"GET /any HTTP/1.1\r\nHost: nobody.example\r\n\r\n").await.expect("is taken");
    read_to(client, last).await
}

pub(super) async fn read_to(client: &mut TcpStream, last: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).ends_with(last) {
        let read = tokio::time::timeout(Duration::from_secs(10), client.read_buf(&mut seen)).await.expect("an answer");
        assert!(read.expect("readable") > 0, "it ended: {}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// Whether it is over, without a byte.
pub(super) async fn is_refused(client: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(10), client.read(&mut [0; 1])).await.expect("an end");
    matches!(read, Ok(0) | Err(_))
}
