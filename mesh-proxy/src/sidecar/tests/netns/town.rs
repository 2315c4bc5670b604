//! Pods on one bridge, two of them with sidecars, and a controller: what every part of the test is played in.

use std::net::Ipv6Addr;
use std::sync::mpsc;
use std::thread;

use isthmus_routing::{Backend, Endpoint, Frontend, FrontendKey, MeshedPod, Route, RouteKey, ServiceParent, Spoken, Workloads};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::super::*;
use super::apps::{self, GREETING, HTTP};
use super::certificates::{Leaf, Rogue};
use super::client::{self, Outcome};
use super::net::{APPLICATION, Net, SIDECAR};

/// Where the controller is, outside of the pods.
const CONTROLLER: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(10, 231, 7, 254)), v6(7, 254)];
/// Nobody has it but `Plain`, besides its own.
pub(super) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 231, 8, 8));

/// The pods. Each has a ServiceAccount of its name, and Services, one of each IP version, with it behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Name {
    /// With a sidecar.
    Web,
    /// With a sidecar.
    Cart,
    /// Without; nobody in the mesh.
    Plain,
    /// Without, at the address of a workload of the mesh: what it serves and shows is up to the test.
    Rogue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

/// Of IPv6 everywhere here.
const fn v6(subnet: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd31, 0, 0, subnet, 0, 0, 0, host))
}

impl Version {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn localhost(self) -> IpAddr {
        if self == Self::V4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
    }
}

impl Name {
    pub(super) const ALL: [Self; 4] = [Self::Web, Self::Cart, Self::Plain, Self::Rogue];
    pub(super) const CAPTURED: [Self; 2] = [Self::Web, Self::Cart];

    pub(super) fn as_str(self) -> &'static str {
        ["web", "cart", "plain", "rogue"][self as usize]
    }

    /// Its own.
    pub(super) fn ip(self, version: Version) -> IpAddr {
        let host = self as u8 + 1;
        if version == Version::V4 { Ipv4Addr::new(10, 231, 7, host).into() } else { v6(7, host.into()) }
    }

    /// An address of its own with a port.
    pub(super) fn at(self, version: Version, port: u16) -> SocketAddr {
        (self.ip(version), port).into()
    }

    /// A port of its Service.
    pub(super) fn service(self, version: Version, port: u16) -> SocketAddr {
        cluster(10 + self as u8, version, port)
    }
}

/// A ClusterIP with a port: 10 and on are of the pods' own Services, 20 and on those of [`ROUTED`].
pub(super) fn cluster(number: u8, version: Version, port: u16) -> SocketAddr {
    let ip = if version == Version::V4 { Ipv4Addr::new(10, 231, 96, number).into() } else { v6(96, number.into()) };
    (ip, port).into()
}

/// Ports of every pod's Services, what is known of them, and the port of the pod.
const PORTS: [(u16, Spoken, u16); 4] = [
    (80, Spoken::Http, HTTP),
    (81, Spoken::Unknown, HTTP),
    (GREETING, Spoken::Stream, GREETING),
    (UNNAMED, Spoken::Unknown, GREETING),
];
/// A Service's port for [`GREETING`] of which nothing is known.
pub(super) const UNNAMED: u16 = 3307;

/// Services by number, with the endpoints of their ports, which are 80 and on.
pub(super) const SPLIT: u8 = 20;
pub(super) const ROUTES: u8 = 21;
pub(super) const GRPC: u8 = 22;
pub(super) const LOOPS: u8 = 23;
/// Services of which no configuration comes, until [`Town::appear`].
pub(super) const LATE: u8 = 24;
pub(super) const NEVER: u8 = 25;
const ROUTED: [(u8, &str); 4] = [(SPLIT, "split"), (ROUTES, "routes"), (GRPC, "grpc"), (LOOPS, "loops")];

/// A pod.
pub(super) struct Pod {
    pub(super) net: Arc<Net>,
    /// Ends its sidecar.
    sidecar: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

pub(super) struct Town {
    pods: BTreeMap<Name, Pod>,
    pub(super) rogue: Rogue,
    pub(super) authority: Arc<Authority>,
    snapshot: Snapshot,
    mode: MtlsMode,
    bed: Bed,
    runtime: Runtime,
    _bridge: Net,
}

impl Town {
    /// Everybody is ready, and permissive.
    pub(super) fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let inside = runtime.enter();
        let bridge = Net::new();
        // With an address of its own: else it has the least of its ports', and another one when the next pod comes.
        bridge.ip(&["link", "add", "bridge", "address", "02:00:00:00:00:01", "type", "bridge"]);
        bridge.ip(&["link", "set", "bridge", "up"]);
        CONTROLLER.iter().for_each(|address| bridge.address("bridge", *address));
        let authority = authority();
        let listener = TcpListener::from_std(bridge.listen(0, 15410)).unwrap();
        let bed = Bed::on(listener, &authority);
        let snapshot = snapshot();
        bed.publish_with(snapshot.clone(), MtlsMode::Permissive);
        let pods = Name::ALL.map(|name| {
            let net = Arc::new(Net::new());
            net.plug_into(&bridge, name.as_str(), Version::BOTH.map(|version| name.ip(version)));
            if name != Name::Rogue {
                apps::serve(&net, name.as_str());
            }
            let sidecar = Name::CAPTURED.contains(&name).then(|| sidecar(&net, name, &bed));
            (name, Pod { net, sidecar })
        });
        let pods = BTreeMap::from(pods);
        pods[&Name::Plain].net.address("eth0", OUTSIDE);
        pods[&Name::Plain].net.nft(&kube_proxy());
        let rogue = Rogue::serve(&pods[&Name::Rogue].net, &Leaf::of("rogue").signed(&authority));
        drop(inside);
        let town = Self { pods, rogue, authority, snapshot, mode: MtlsMode::Permissive, bed, runtime, _bridge: bridge };
        for name in Name::CAPTURED {
            assert!(town.soon(|| town.is_ready(name)), "{name:?} is not ready");
        }
        town.publish();
        town
    }

    pub(super) fn net(&self, name: Name) -> &Net {
        &self.pods[&name].net
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Asks this of callers from now on; both sidecars know it.
    pub(super) fn set_mode(&mut self, mode: MtlsMode) {
        self.mode = mode;
        self.publish();
    }

    /// Whether sidecars believe that this pod's IPv6 address is that of another workload, which has gone.
    pub(super) fn mistake(&mut self, whose: Option<(Name, &str)>) {
        let mut snapshot = snapshot();
        if let Some((name, former)) = whose {
            let at = |version| Arc::new(Workloads { pods: [(name.ip(version), MeshedPod::default())].into_iter().collect() });
            snapshot.workloads.insert(identity(name.as_str()), at(Version::V4));
            snapshot.workloads.insert(identity(former), at(Version::V6));
        }
        self.snapshot = snapshot;
        self.publish();
    }

    /// The configuration of a Service comes that was only known by its address.
    pub(super) fn appear(&self, number: u8) {
        let mut snapshot = self.snapshot.clone();
        add_service(&mut snapshot, number, "late", &[(80, Spoken::Http, vec![Name::Cart.at(Version::V4, HTTP)])]);
        self.bed.publish_with(snapshot, self.mode);
    }

    fn publish(&self) {
        let number = self.bed.publish_with(self.snapshot.clone(), self.mode);
        self.runtime.block_on(self.bed.acked(number));
    }

    /// The controller goes, and does not come back.
    pub(super) fn lose_controller(&mut self) {
        self.bed.server = None;
    }

    /// As if it were killed: its rules stay.
    pub(super) fn end_sidecar(&mut self, name: Name) {
        let sidecar = self.pods.get_mut(&name).and_then(|pod| pod.sidecar.take());
        let (end, thread) = sidecar.expect("it has one");
        drop(end);
        thread.join().unwrap();
    }

    /// One request of an application there.
    pub(super) fn get(&self, from: Name, to: SocketAddr, path: &str) -> Outcome {
        client::get(self.net(from), APPLICATION, to, path, &[])
    }

    /// The sum of the series of a sidecar that have this name and these labels, and none of those.
    pub(super) fn count(&self, of: Name, name: &str, with: &[&str], without: &[&str]) -> u64 {
        let page = self.page(of, "/metrics");
        let series = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
                && with.iter().all(|label| line.contains(label))
                && !without.iter().any(|label| line.contains(label))
        });
        series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// How many connections a sidecar has refused for this reason.
    pub(super) fn faults(&self, of: Name, reason: &str) -> u64 {
        self.count(of, "isthmus_connection_faults_total", &[&format!("reason=\"{reason}\"")], &[])
    }

    /// Of a sidecar's admin server.
    pub(super) fn page(&self, of: Name, path: &str) -> String {
        match client::get(self.net(of), SIDECAR, (Ipv4Addr::LOCALHOST, ADMIN).into(), path, &[]).came {
            client::Came::Code(_, text) => text,
            other => panic!("{path} of {of:?}: {other:?}"),
        }
    }

    /// Whether a sidecar says so.
    pub(super) fn is_ready(&self, name: Name) -> bool {
        client::get(self.net(name), SIDECAR, (Ipv4Addr::LOCALHOST, ADMIN).into(), "/readyz", &[]).code() == Some(200)
    }

    /// Whether it comes to be so.
    pub(super) fn soon(&self, is_so: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !is_so() {
            if start.elapsed() > SOON {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Pod {
    /// Its sidecar ends before the folder goes that it writes to.
    fn drop(&mut self) {
        if let Some((end, thread)) = self.sidecar.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}

/// Redirects a pod's traffic and starts its sidecar, as the containers of a pod do.
fn sidecar(net: &Arc<Net>, name: Name, bed: &Bed) -> (oneshot::Sender<()>, thread::JoinHandle<()>) {
    net.within(0, || {
        let line = crate::Arguments::try_parse_from(["isthmus-mesh-proxy", "redirect"]).unwrap();
        let crate::Command::Redirect(arguments) = line.command else { panic!("that is the other command") };
        crate::redirect::run(&arguments).unwrap();
    });
    let ips = Version::BOTH.map(|version| name.ip(version).to_string()).join(",");
    let arguments = bed.arguments(name.as_str(), (CONTROLLER[0], 15410).into(), &[&format!("--pod-ips={ips}")]);
    std::os::unix::fs::chown(bed.store(name.as_str()), Some(SIDECAR), None).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let (tell, told) = mpsc::channel();
    let inside = net.clone();
    let serve = move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let sidecar = Sidecar::start(&arguments, 1).await.unwrap();
            let _ = tell.send(());
            let _ = ended.await;
            drop(sidecar);
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
    };
    let thread = thread::spawn(move || inside.within(SIDECAR, serve));
    told.recv_timeout(SOON).expect("the sidecar starts");
    (end, thread)
}

/// Who is where, and what is called by which address.
fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in [Name::Web, Name::Cart, Name::Rogue] {
        let pods = Version::BOTH.map(|version| (name.ip(version), MeshedPod::default())).into();
        snapshot.workloads.insert(identity(name.as_str()), Arc::new(Workloads { pods }));
    }
    for name in Name::ALL {
        for version in Version::BOTH {
            let service = format!("{}-{version:?}", name.as_str()).to_lowercase();
            let ports = PORTS.map(|(port, spoken, target)| (port, spoken, vec![name.at(version, target)]));
            add_service(&mut snapshot, 10 + name as u8, &service, &ports);
        }
    }
    let own = |name: Name, port| vec![name.at(Version::V4, port)];
    let loops =
        [own(Name::Web, 15421), own(Name::Web, 15422), own(Name::Cart, 15421), own(Name::Cart, 15422), own(Name::Web, HTTP)];
    let loops: Vec<_> = (80..).zip(loops).map(|(port, endpoints)| (port, Spoken::Http, endpoints)).collect();
    for (number, name) in ROUTED {
        let ports = if number == LOOPS { loops.clone() } else { vec![(80, Spoken::Http, Vec::new())] };
        add_service(&mut snapshot, number, name, &ports);
    }
    for (number, name) in [(LATE, "late"), (NEVER, "never")] {
        add_frontend(&mut snapshot, number, name, vec![80]);
    }
    let routes: BTreeMap<RouteKey, Arc<Route>> = serde_json::from_value(routes()).unwrap();
    for route in routes.keys() {
        let service: BackendKey = format!("Service/shop/{}:80", route.name).parse().unwrap();
        let parent = Arc::make_mut(snapshot.services.get_mut(&service).unwrap());
        parent.routes = vec![isthmus_routing::Attachment { route: route.clone(), hostnames: Vec::new() }];
    }
    snapshot.service_routes = routes;
    snapshot
}

/// One for the port 80 of the Service of the same name.
fn routes() -> Value {
    let rule = |path: &str, backends: Value, filters: Value| {
        let matches = json!({"http": [{"path": {"prefix": path}}]});
        json!({"matches": matches, "backends": backends, "filters": filters})
    };
    let to = |name: &str, weight: u32| json!({"weight": weight, "target": {"Backend": format!("Service/shop/{name}-v4:80")}});
    let invalid = || json!({"weight": 1, "target": "Invalid"});
    let set = json!([{"RequestHeaderModifier": {"set": [["x-route", "yes"]], "remove": ["x-gone"]}}]);
    let call = |service: &str, backend: Value| {
        let matches = json!({"grpc": [{"method": {"service": {"exact": service}}}]});
        json!({"matches": matches, "backends": [backend]})
    };
    let http = |rules: Value| json!({"created": 0, "rules": rules});
    json!({
        "HTTPRoute/shop/split": http(json!([rule("/", json!([to("cart", 3), to("plain", 1)]), json!([]))])),
        "HTTPRoute/shop/routes": http(json!([
            rule("/set", json!([to("cart", 1)]), set),
            rule("/own", json!([to("web", 1)]), json!([])),
            rule("/invalid", json!([invalid()]), json!([])),
        ])),
        "GRPCRoute/shop/grpc": http(json!([call("shop.Cart", to("cart", 1)), call("shop.Broken", invalid())])),
    })
}

/// A Service as a sidecar has it that calls it. A name with two versions is two Services at one number.
fn add_service(snapshot: &mut Snapshot, number: u8, name: &str, ports: &[(u16, Spoken, Vec<SocketAddr>)]) {
    let addresses = add_frontend(snapshot, number, name, ports.iter().map(|(port, ..)| *port).collect());
    for (port, spoken, endpoints) in ports {
        let key: BackendKey = format!("Service/shop/{name}:{port}").parse().unwrap();
        let parent = ServiceParent { addresses: addresses.clone(), spoken: *spoken, ..ServiceParent::default() };
        let endpoints = endpoints.iter().map(|address| Endpoint { address: *address }).collect();
        snapshot.services.insert(key.clone(), Arc::new(parent));
        snapshot.backends.insert(key, Arc::new(Backend { endpoints, ..Backend::default() }));
    }
}

/// What every sidecar knows of a Service; its addresses.
fn add_frontend(snapshot: &mut Snapshot, number: u8, name: &str, ports: Vec<u16>) -> Vec<IpAddr> {
    let version = if name.ends_with("-v6") { Version::V6 } else { Version::V4 };
    let addresses = vec![cluster(number, version, 0).ip()];
    let key: FrontendKey = format!("shop/{name}").parse().unwrap();
    snapshot.frontends.insert(key, Arc::new(Frontend { addresses: addresses.clone(), ports }));
    addresses
}

/// What makes ClusterIPs work for a pod without a sidecar; on a node it is done one step later.
fn kube_proxy() -> String {
    let rule = |(name, version): (Name, Version)| {
        let (from, to) = (name.service(version, 80), name.at(version, HTTP));
        let ip = if version == Version::V4 { "ip" } else { "ip6" };
        format!("{ip} daddr {} tcp dport 80 dnat {ip} to {to}\n", from.ip())
    };
    let rules: String = Name::ALL.iter().flat_map(|name| Version::BOTH.map(|version| (*name, version))).map(rule).collect();
    format!("table inet kube {{ chain output {{ type nat hook output priority -100; policy accept;\n{rules}}}\n}}\n")
}
