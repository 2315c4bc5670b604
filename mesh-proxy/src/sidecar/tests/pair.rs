//! Two pods with their sidecars, in network namespaces of their own and with their traffic redirected: the whole way of a call. As root only.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream as Plain;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use isthmus_routing::{Backend, Endpoint, Frontend, MeshedPod, ServiceParent, Spoken, Transport, Workloads};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Uid, geteuid, gettid, setfsuid};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::*;

const WEB: Ipv4Addr = Ipv4Addr::new(10, 231, 7, 1);
const CART: Ipv4Addr = Ipv4Addr::new(10, 231, 7, 2);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 231, 96, 1);
/// Whose connections are not redirected: the sidecar, and here whoever is to be in no mesh.
const SIDECAR: u32 = 15420;
const APPLICATION: u32 = 1000;
const PORT: u16 = 8080;

/// A network namespace, for as long as this is there.
struct Net(File);

impl Net {
    fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip(&["link", "set", "lo", "up"]);
            File::open(format!("/proc/self/task/{}/ns/net", gettid())).unwrap()
        });
        Self(made.join().unwrap())
    }

    /// Does something in it, as this user for all that the kernel looks at: both are a thread's own, and the thread ends.
    fn within<T: Send>(&self, uid: u32, what: impl FnOnce() -> T + Send) -> T {
        let there = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            setfsuid(Uid::from_raw(uid));
            what()
        };
        thread::scope(|scope| scope.spawn(there).join()).unwrap()
    }

    /// A call from a process in it.
    fn call(&self, uid: u32, to: (Ipv4Addr, u16)) -> io::Result<String> {
        self.get(uid, to, "/readyz")
    }

    fn get(&self, uid: u32, to: (Ipv4Addr, u16), path: &str) -> io::Result<String> {
        let mut stream = self.within(uid, || Plain::connect_timeout(&to.into(), SOON))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: whatever\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}

/// A pod: its network, redirected, with a sidecar that serves until this is dropped.
struct Pod {
    net: Arc<Net>,
    _end: oneshot::Sender<()>,
}

impl Pod {
    fn start(net: Arc<Net>, account: &'static str, address: Ipv4Addr, authority: &Arc<Authority>) -> Self {
        net.within(0, || {
            let line = crate::Arguments::try_parse_from(["isthmus-mesh-proxy", "redirect"]).unwrap();
            let crate::Command::Redirect(arguments) = line.command else { panic!("that is the other command") };
            crate::redirect::run(&arguments).unwrap();
        });
        let (tell, told) = mpsc::channel();
        let (end, ended) = oneshot::channel::<()>();
        let (inside, authority) = (net.clone(), authority.clone());
        thread::spawn(move || {
            inside.within(SIDECAR, || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let bed = Bed::of(account, &authority).await;
                    bed.publish_with(mesh(), MtlsMode::Strict);
                    let sidecar = bed.sidecar_at(bed.server.address(), PORT, address, &["--admin=0.0.0.0:15423"]).await;
                    ready(&sidecar).await;
                    tell.send(()).unwrap();
                    let _ = ended.await;
                });
            });
        });
        told.recv_timeout(SOON).expect("the sidecar is ready soon");
        Self { net, _end: end }
    }
}

/// The Service `cart` with one endpoint, and both pods.
fn mesh() -> Snapshot {
    let pod = |account: &str, address: Ipv4Addr| {
        let pods = BTreeMap::from([(address.into(), MeshedPod::default())]);
        (identity(account), Arc::new(Workloads { pods }))
    };
    let service = BackendKey { namespace: "shop".to_owned(), name: "cart".to_owned(), port: 80, transport: Transport::Tcp };
    let parent = ServiceParent { addresses: vec![CLUSTER_IP.into()], spoken: Spoken::Http, ..ServiceParent::default() };
    let endpoints = vec![Endpoint { address: (CART, PORT).into() }];
    let frontend = Frontend { addresses: vec![CLUSTER_IP.into()], ports: vec![80] };
    Snapshot {
        workloads: [pod("web", WEB), pod("cart", CART)].into(),
        frontends: [("shop/cart".parse().unwrap(), Arc::new(frontend))].into(),
        services: [(service.clone(), Arc::new(parent))].into(),
        backends: [(service, Arc::new(Backend { endpoints, ..Backend::default() }))].into(),
        ..Snapshot::default()
    }
}

/// Answers each request with whom the connection came from.
fn serve(net: &Net) {
    let listener = net.within(APPLICATION, || std::net::TcpListener::bind((CART, PORT)).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    break;
                }
                read.push(byte[0]);
            }
            let body = format!("from {}", stream.peer_addr().map_or(String::new(), |peer| peer.ip().to_string()));
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
}

/// Why it cannot be done here.
fn unavailable() -> Option<&'static str> {
    if !geteuid().is_root() {
        return Some("it needs root");
    }
    let there_is = |program: &str| Command::new(program).arg("-V").output().is_ok();
    let can = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap_or(false);
    (!there_is("ip") || !there_is("nft") || !can).then_some("it needs ip, nft and the right to make network namespaces")
}

#[test]
fn a_call_between_two_strict_pods() {
    if let Some(why) = unavailable() {
        eprintln!("skipped: {why}");
        return;
    }
    let (web, cart) = (Arc::new(Net::new()), Arc::new(Net::new()));
    web.within(0, || {
        let peer = format!("/proc/{}/fd/{}", std::process::id(), cart.0.as_raw_fd());
        ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &peer]);
    });
    for (net, address) in [(&web, WEB), (&cart, CART)] {
        net.within(0, || {
            ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
            ip(&["link", "set", "eth0", "up"]);
            ip(&["route", "add", "default", "dev", "eth0"]);
        });
    }
    serve(&cart);
    let authority = authority();
    let cart = Pod::start(cart, "cart", CART, &authority);
    let web = Pod::start(web, "web", WEB, &authority);

    // A Service by its address, and a pod by its own: both with mTLS, so the application sees its own sidecar.
    for to in [(CLUSTER_IP, 80), (CART, PORT), (CLUSTER_IP, 80)] {
        let answer = web.net.call(APPLICATION, to).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("from {CART}")), "{to:?}: {answer}");
    }
    let nothing = web.net.call(APPLICATION, (CLUSTER_IP, 81));
    assert!(nothing.as_ref().map_or(true, String::is_empty), "the Service has no such port: {nothing:?}");
    // In the clear, as whoever has no sidecar.
    let plain = web.net.call(SIDECAR, (CART, PORT));
    assert!(plain.as_ref().map_or(true, String::is_empty), "it is strict: {plain:?}");
    // What the kubelet asks, and the application of itself.
    assert!(web.net.call(SIDECAR, (CART, 15423)).unwrap().starts_with("HTTP/1.1 200"));
    assert!(cart.net.call(APPLICATION, (CART, PORT)).unwrap().ends_with(&format!("from {CART}")));
    // The sidecar's own ports lead nowhere.
    for port in [15421, 15422] {
        let answer = web.net.call(SIDECAR, (CART, port));
        assert!(answer.as_ref().map_or(true, String::is_empty), "{port}: {answer:?}");
    }
    let metrics = web.net.get(SIDECAR, (CART, 15423), "/metrics").unwrap();
    for part in [r#"source_namespace="shop",source_account="web""#, r#"reason="plaintext"} 1"#] {
        assert!(metrics.contains(part), "{part}\n{metrics}");
    }
}
