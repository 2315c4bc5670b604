//! A gateway with a controller's server in the same process, over real sockets.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Parser;
use isthmus_push::server::{self, Denied, Peer, Publication, Role, Server, Subject};
use isthmus_routing::snapshot::Models;
use isthmus_routing::{
    Certificate, Gateway as GatewayItem, GatewayKey, Identity, Listener, Mesh, Protocol, TrustDomain, Version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// A controller, and a folder with what its proxies need.
struct Bed {
    server: Server,
    folder: PathBuf,
    _role: watch::Sender<Role>,
    _tls: watch::Sender<Arc<Certificate>>,
}

fn edge() -> GatewayKey {
    "Gateway/infra/edge".parse().unwrap()
}

impl Bed {
    async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isthmus-gateway-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let made = rcgen::generate_simple_self_signed(vec![isthmus_push::SERVER_NAME.to_owned()]).unwrap();
        std::fs::write(folder.join("ca"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("token"), "token").unwrap();
        let certificate = Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() };
        let (role, role_seen) = watch::channel(Role::Leader);
        let (tls, tls_seen) = watch::channel(Arc::new(certificate));
        let identity = Identity { namespace: "infra".to_owned(), account: "edge".to_owned() };
        let peer = Peer { subject: Subject::Gateway { gateway: edge(), identity }, pod: "edge-1".to_owned() };
        let options = server::Options {
            tls: tls_seen,
            authenticate: Arc::new(move |_| Box::pin(std::future::ready(Ok(peer.clone())))),
            sign: Arc::new(|_, _| Box::pin(std::future::ready(Err(Denied::Unavailable("there is no authority".to_owned()))))),
            role: role_seen,
            models: Models::default(),
            limits: server::Limits::default(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self { server: Server::start(listener, options).unwrap(), folder, _role: role, _tls: tls }
    }

    /// A gateway of the controller at this address.
    async fn gateway(&self, controller: SocketAddr) -> Gateway {
        let folder = self.folder.display();
        let line = format!(
            "isthmus-gateway --controller {controller} --token {folder}/token --ca {folder}/ca --store {folder} \
             --admin 127.0.0.1:0 --access-log off --pod-ips 127.0.0.1"
        );
        Gateway::start(&Args::try_parse_from(line.split_whitespace()).unwrap(), 1).await.unwrap()
    }

    fn publish(&self, ports: &[u16]) -> Version {
        let gateways = [(edge(), Arc::new(snapshot(ports)))].into();
        self.server.publish(Publication { gateways, mesh: None }).gateways[&edge()]
    }

    async fn acked(&self, version: Version) -> BTreeMap<String, String> {
        let mut proxies = self.server.proxies();
        let found =
            proxies.wait_for(|proxies| proxies.values().flat_map(BTreeMap::values).any(|proxy| proxy.acked == Some(version)));
        let found = tokio::time::timeout(SOON, found).await.expect("it is acknowledged soon").unwrap();
        found[&edge()]["edge-1"].listeners.clone()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Whoever writes into it now, which may be a task that no abort ends, finds no folder any more, or is done soon.
        let gone = self.folder.with_extension("gone");
        let _ = std::fs::rename(&self.folder, &gone);
        for _ in 0..10 {
            let _ = std::fs::remove_dir_all(&gone);
            if !gone.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A Gateway without an address or a route, with a listener on each port.
fn snapshot(ports: &[u16]) -> Snapshot {
    let listener = |port: &u16| Listener::new(format!("http-{port}"), *port, Protocol::Http);
    let gateway =
        GatewayItem { addresses: Vec::new(), listeners: ports.iter().map(listener).collect(), ..GatewayItem::default() };
    Snapshot { gateways: [(edge(), Arc::new(gateway))].into(), ..Snapshot::default() }
}

fn free() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// The code of the answer; none if nobody listens.
async fn get(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    text.get(9..12)?.parse().ok()
}

async fn at(port: u16) -> Option<u16> {
    get((Ipv4Addr::LOCALHOST, port).into(), "/").await
}

#[tokio::test]
async fn it_is_ready_with_its_first_configuration_and_alive_before() {
    let bed = Bed::start().await;
    let gateway = bed.gateway(bed.server.address()).await;
    let admin = gateway.admin().unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (path, code) in [("/livez", 200), ("/metrics", 200), ("/readyz", 503)] {
        assert_eq!(get(admin, path).await, Some(code), "{path} before");
    }
    let port = free();
    assert!(bed.acked(bed.publish(&[port])).await.is_empty(), "no faults");
    assert_eq!(get(admin, "/readyz").await, Some(200));
    assert_eq!(at(port).await, Some(404), "it has no routes");

    // A listener that cannot be had is said to be; the other one serves.
    let taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let name = taken.local_addr().unwrap().port();
    let faults = bed.acked(bed.publish(&[port, name])).await;
    assert!(faults.len() == 1 && faults[&format!("http-{name}")].contains("in use"), "{faults:?}");

    // Its last listener goes.
    assert!(bed.acked(bed.publish(&[])).await.is_empty());
    assert_eq!((at(port).await, get(admin, "/readyz").await), (None, Some(200)));
}

#[tokio::test]
async fn an_empty_gateway_is_a_configuration() {
    let bed = Bed::start().await;
    let gateway = bed.gateway(bed.server.address()).await;
    bed.acked(bed.publish(&[])).await;
    assert_eq!(get(gateway.admin().unwrap(), "/readyz").await, Some(200));
}

#[tokio::test]
async fn a_restarted_gateway_serves_without_its_controller() {
    let bed = Bed::start().await;
    let gateway = bed.gateway(bed.server.address()).await;
    let port = free();
    bed.acked(bed.publish(&[port])).await;
    while !bed.folder.join("last-good").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gateway.drain(Duration::ZERO, Duration::from_secs(1)).await;
    drop(gateway);
    assert_eq!(at(port).await, None);

    let nobody = (Ipv4Addr::LOCALHOST, free()).into();
    let gateway = bed.gateway(nobody).await;
    let admin = gateway.admin().unwrap();
    let ready = async {
        while get(admin, "/readyz").await != Some(200) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, ready).await.expect("it is ready soon");
    assert_eq!(at(port).await, Some(404));
}

#[tokio::test]
async fn it_asks_for_a_certificate_where_there_is_a_mesh_and_serves_without_one() {
    let bed = Bed::start().await;
    let gateway = bed.gateway(bed.server.address()).await;
    bed.acked(bed.publish(&[])).await;
    let denied = || bed.server.counts().certificates_denied.load(Ordering::Relaxed);
    assert_eq!(denied(), 0);
    let mesh = Mesh { trust_domain: TrustDomain::default(), authorities: String::new() };
    let port = free();
    let meshed = Snapshot { mesh: Some(Arc::new(mesh)), ..snapshot(&[port]) };
    let gateways = [(edge(), Arc::new(meshed))].into();
    let version = bed.server.publish(Publication { gateways, mesh: None }).gateways[&edge()];
    bed.acked(version).await;
    let asks = async {
        while denied() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, asks).await.expect("it asks");
    assert_eq!((at(port).await, get(gateway.admin().unwrap(), "/readyz").await), (Some(404), Some(200)));
}
