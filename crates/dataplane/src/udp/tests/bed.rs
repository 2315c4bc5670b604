//! A UDP listener on a free port of the loopback, its endpoints and its clients.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use isthmus_routing::{
    Attachment, Backend, BackendKey, Endpoint, Gateway, GatewayKey, Listener, Matches, Protocol, Route, RouteKey, Rule, Snapshot,
    Target, Timeouts, Transport, WeightedBackend,
};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::{Bind, Config, Shared};
use crate::drain::Closing;
use crate::limits::Limits;
use crate::listen::accept::{Entrance, Face};
use crate::telemetry::{PortMetrics, Telemetry};
use crate::udp::Places;

/// A share of the route's sessions: its weight, its backend's name (none: it is invalid) and the backend's endpoints.
pub(crate) type Share<'a> = (u32, Option<&'a str>, &'a [SocketAddr]);

pub(super) struct Bed {
    pub(super) address: SocketAddr,
    pub(super) closing: Closing,
    pub(super) running: JoinHandle<()>,
    pub(super) metrics: Arc<PortMetrics>,
    config: Shared,
    telemetry: Arc<Telemetry>,
}

impl Bed {
    pub(super) async fn start(ip: &str, limits: Limits, shares: &[Share<'_>]) -> Self {
        let places = Places::new(&limits);
        Self::beside(&places, ip, limits, shares).await
    }

    /// A listener that shares its places with others.
    pub(super) async fn beside(places: &Arc<Places>, ip: &str, limits: Limits, shares: &[Share<'_>]) -> Self {
        let socket = UdpSocket::bind((ip, 0)).await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let telemetry = Telemetry::start(&crate::Options::default()).expect("telemetry");
        let config = Arc::new(ArcSwap::from_pointee(Config::before(Arc::default())));
        let metrics = telemetry.port(&crate::config::Owner::Gateway(gateway()), address.port());
        let face =
            Arc::new(ArcSwap::from_pointee(Face { entrance: Entrance::Stream, proxy_protocol: false, metrics: metrics.clone() }));
        let bind = Bind { address, transport: Transport::Udp };
        let (closing, signals) = Closing::new();
        let front = crate::udp::Front::new(socket).expect("a socket with what it has to tell");
        let running = tokio::spawn(super::run(front, bind, config.clone(), face, signals, Arc::new(limits), places.share()));
        let bed = Self { address, closing, running, metrics, config, telemetry };
        bed.serve(shares);
        bed
    }

    /// Swaps the configuration.
    pub(super) fn serve(&self, shares: &[Share<'_>]) {
        self.compile(snapshot(self.address, shares));
    }

    /// The same, where something else refers to the backends of `others`.
    pub(super) fn serve_beside(&self, shares: &[Share<'_>], others: &[Share<'_>]) {
        let mut snapshot = snapshot(self.address, shares);
        snapshot.backends.extend(self::snapshot(self.address, others).backends);
        self.compile(snapshot);
    }

    pub(super) fn serve_without_route(&self) {
        let mut snapshot = snapshot(self.address, &[]);
        snapshot.routes.clear();
        self.compile(snapshot);
    }

    fn compile(&self, snapshot: Snapshot) {
        let compiled = Config::compile(&Arc::new(snapshot), &Arc::default(), Some(&self.config.load()), &self.telemetry);
        self.config.store(Arc::new(compiled));
    }

    /// A client with an address and a port of its own, that hears only what comes from where it speaks to.
    pub(super) async fn client(&self, ip: &str) -> Client {
        let to: IpAddr = if self.address.ip().is_unspecified() { ip.parse().expect("an address") } else { self.address.ip() };
        Client::of(ip, (to, self.address.port()).into()).await
    }

    /// What was counted; see [`crate::telemetry::UdpMetrics::shown`].
    pub(super) fn count(&self, name: &str) -> u64 {
        self.metrics.udp().shown().get(name).copied().unwrap_or_default()
    }

    /// Waits until something was counted so often.
    pub(super) async fn counted(&self, name: &str, count: u64) {
        let counted = async {
            while self.count(name) != count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(Duration::from_secs(10), counted).await.is_ok(), "not {count} {name}: {:?}", self.metrics.udp().shown());
    }
}

pub(crate) struct Client(pub(crate) UdpSocket);

impl Client {
    pub(crate) async fn of(ip: &str, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).await.expect("a port");
        socket.connect(to).await.expect("connected");
        Self(socket)
    }

    pub(crate) async fn say(&self, text: &[u8]) {
        self.0.send(text).await.expect("sent");
    }

    pub(crate) async fn hear(&self, within: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        let length = timeout(within, self.0.recv(&mut buffer)).await.ok()?.expect("received");
        buffer.truncate(length);
        Some(buffer)
    }

    /// The answer to a question, which is asked again as clients do it, also if nobody listens at the moment.
    pub(crate) async fn ask(&self, text: &str) -> Option<String> {
        for _ in 0..10 {
            let mut buffer = [0; 2_000];
            let (_, patience) = (self.0.send(text.as_bytes()).await, Duration::from_millis(300));
            match timeout(patience, self.0.recv(&mut buffer)).await {
                Ok(Ok(length)) => return Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Ok(Err(_)) => sleep(patience).await,
                Err(_) => {}
            }
        }
        None
    }
}

/// An endpoint that answers `NAME FROM TEXT`: FROM is the port that the datagram came from, by which sessions are told apart. It does not
/// answer to `hush`.
pub(crate) async fn endpoint(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    let answering = tokio::spawn(async move {
        let mut buffer = vec![0; 70_000];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.expect("received");
            if &buffer[..length] == b"hush" {
                continue;
            }
            let text = String::from_utf8_lossy(&buffer[..length]);
            let _ = socket.send_to(format!("{name} {} {text}", from.port()).as_bytes(), from).await;
        }
    });
    (address, answering)
}

/// An address where nothing listens.
pub(crate) async fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.and_then(|socket| socket.local_addr()).expect("a port")
}

fn gateway() -> GatewayKey {
    GatewayKey { namespace: "infra".to_owned(), name: "edge".to_owned() }
}

/// A listener at an address, and a route of it with these shares.
pub(crate) fn snapshot(address: SocketAddr, shares: &[Share<'_>]) -> Snapshot {
    let route: RouteKey = "UDPRoute/a/b".parse().expect("a key");
    let key = |name: &str| -> BackendKey { format!("Service/a/{name}:53/UDP").parse().expect("a key") };
    let backends = shares.iter().map(|(weight, name, _)| WeightedBackend {
        weight: *weight,
        target: name.map_or(Target::Invalid, |name| Target::Backend(key(name))),
        filters: Vec::new(),
    });
    let rule = Rule {
        name: None,
        matches: Matches::Any,
        filters: Vec::new(),
        backends: backends.collect(),
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    };
    let attachment = Attachment { route: route.clone(), hostnames: Vec::new() };
    let listener = Listener { routes: vec![attachment], ..Listener::new("udp", address.port(), Protocol::Udp) };
    let mut snapshot = Snapshot::default();
    snapshot
        .gateways
        .insert(gateway(), Arc::new(Gateway { addresses: vec![address.ip()], listeners: vec![listener], ..Gateway::default() }));
    snapshot.routes.insert(route, Arc::new(Route { created: 0, rules: vec![rule] }));
    for (_, name, endpoints) in shares {
        let Some(name) = name else { continue };
        let mut endpoints: Vec<_> = endpoints.iter().map(|address| Endpoint { address: *address }).collect();
        endpoints.sort();
        snapshot.backends.insert(key(name), Arc::new(Backend { endpoints, ..Backend::default() }));
    }
    snapshot
}
