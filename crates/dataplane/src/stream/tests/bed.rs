//! A data plane with one address, whose HTTP answers by itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use isthmus_routing::{
    Attachment, Backend, BackendKey, Endpoint, Gateway, GatewayKey, Listener, Matches, Protocol, Route, RouteKey, RouteKind,
    Rule, Snapshot, Target, Timeouts, WeightedBackend,
};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::connection::serve::Front;
use crate::connection::serve::tests::Echo;
use crate::drain::Readiness;
use crate::limits::Limits;
use crate::listen::Manager;
use crate::listen::accept::Context;
use crate::listen::permit::Permits;
use crate::stream::Streams;
use crate::telemetry::Telemetry;
use crate::{AccessLog, Options};

pub(super) struct Bed {
    pub(super) address: SocketAddr,
    telemetry: Arc<Telemetry>,
    log: std::path::PathBuf,
    /// While it is there, the data plane runs.
    _orders: mpsc::Sender<crate::listen::Drain>,
}

impl Bed {
    /// Serves the snapshot that is made for a free port of 127.0.0.1.
    pub(super) async fn start(limits: Limits, snapshot: impl FnOnce(u16) -> Snapshot) -> Self {
        let port =
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port").local_addr().expect("bound").port();
        let log = std::env::temp_dir().join(format!("isthmus-stream-{}-{port}.log", std::process::id()));
        let options = Options { threads: 1, access_log: AccessLog::File(log.clone()), limits, ..Options::default() };
        let telemetry = Telemetry::start(&options).expect("the log can be opened");
        let limits = Arc::new(options.limits);
        let shared = Arc::new(ArcSwap::from_pointee(Config::before(Arc::default())));
        let context = Context {
            front: Arc::new(Front::new(Arc::new(Echo), limits.clone())),
            streams: Streams { config: shared.clone(), telemetry: telemetry.clone(), limits: limits.clone() },
            permits: Permits::new(&limits),
            readiness: Arc::new(Readiness::default()),
            limits,
            capture: None,
        };
        let (report, _) = watch::channel(Arc::default());
        let (orders, ordered) = mpsc::channel(1);
        let (_, snapshots) = watch::channel(Arc::<Snapshot>::default());
        let mut manager = Manager::new(Arc::new(context), shared, telemetry.clone(), report, Arc::default());
        manager.serve(Arc::new(snapshot(port))).await;
        tokio::spawn(manager.run(snapshots, ordered));
        Self { address: (Ipv4Addr::LOCALHOST, port).into(), telemetry, log, _orders: orders }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("listening")
    }

    /// Waits until a connection has ended so.
    pub(super) async fn ended(&self, result: &str) {
        let wanted = format!("result=\"{result}\"");
        let mut text = String::new();
        for _ in 0..500 {
            text = self.telemetry.expose(Instant::now());
            if text.lines().any(|line| line.starts_with("isthmus_stream_connections_total") && line.contains(&wanted)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {wanted} in:\n{text}");
    }

    /// Reasons that were counted.
    pub(super) fn faults(&self) -> Vec<String> {
        let text = self.telemetry.expose(Instant::now());
        let counted = text.lines().filter(|line| line.starts_with("isthmus_connection_faults_total") && !line.ends_with(" 0"));
        counted.filter_map(|line| Some(line.split("reason=\"").nth(1)?.split('"').next()?.to_owned())).collect()
    }

    /// The last line of the log, once there is one.
    pub(super) async fn line(&self) -> serde_json::Value {
        for _ in 0..500 {
            self.telemetry.flush(Duration::from_secs(1)).await;
            let text = std::fs::read_to_string(&self.log).expect("the log");
            if let Some(line) = text.lines().last() {
                return serde_json::from_str(line).expect("JSON");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no line");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.log);
    }
}

pub(super) fn gateway() -> GatewayKey {
    GatewayKey { namespace: "infra".to_owned(), name: "edge".to_owned() }
}

pub(super) fn backend_key(name: &str) -> BackendKey {
    format!("Service/shop/{name}:80").parse().expect("a key")
}

/// A listener with one route to one backend, `one`.
pub(super) fn snapshot(port: u16, protocol: Protocol, endpoints: &[SocketAddr]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let listener = Listener::new("stream", port, protocol);
    let gateway = super::bed::gateway();
    let edge = Gateway { addresses: vec![Ipv4Addr::LOCALHOST.into()], listeners: vec![listener], ..Gateway::default() };
    snapshot.gateways.insert(gateway, Arc::new(edge));
    let kind = if protocol == Protocol::Tls { RouteKind::Tls } else { RouteKind::Tcp };
    let route = attach(&mut snapshot, 0, "route", kind);
    snapshot.routes.insert(route, Arc::new(Route { created: 0, rules: vec![rule()] }));
    add_backend(&mut snapshot, "one", 1, endpoints);
    snapshot
}

pub(super) fn attach(snapshot: &mut Snapshot, listener: usize, name: &str, kind: RouteKind) -> RouteKey {
    let route = RouteKey { namespace: "shop".to_owned(), name: name.to_owned(), kind };
    let edge = Arc::make_mut(snapshot.gateways.values_mut().next().expect("a Gateway"));
    edge.listeners[listener].routes.push(Attachment { route: route.clone(), hostnames: Vec::new() });
    route
}

pub(super) fn rule() -> Rule {
    Rule {
        name: None,
        matches: Matches::Any,
        filters: Vec::new(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    }
}

/// Every rule gets a share for it.
pub(super) fn add_backend(snapshot: &mut Snapshot, name: &str, weight: u32, endpoints: &[SocketAddr]) {
    let mut endpoints: Vec<_> = endpoints.iter().map(|address| Endpoint { address: *address }).collect();
    endpoints.sort();
    snapshot.backends.insert(backend_key(name), Arc::new(Backend { endpoints, ..Backend::default() }));
    let target = Target::Backend(backend_key(name));
    edit_rule(snapshot, |rule| rule.backends.push(WeightedBackend { weight, target, filters: Vec::new() }));
}

pub(super) fn edit_rule(snapshot: &mut Snapshot, edit: impl FnOnce(&mut Rule)) {
    let route = snapshot.routes.values_mut().next().expect("a route");
    edit(&mut Arc::make_mut(route).rules[0]);
}

pub(super) fn edit_listener(snapshot: &mut Snapshot, edit: impl FnOnce(&mut Listener)) {
    let edge = snapshot.gateways.values_mut().next().expect("a Gateway");
    edit(&mut Arc::make_mut(edge).listeners[0]);
}

/// What a client of this server says first.
pub(super) fn hello(name: &'static str) -> Vec<u8> {
    let config = super::shared_port::trusting_anybody();
    let mut client = rustls::ClientConnection::new(config, name.try_into().expect("a name")).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("into memory");
    bytes
}
