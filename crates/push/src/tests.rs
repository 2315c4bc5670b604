//! Servers and proxies over real sockets. The data plane is a task that serves whatever it is given.

mod certificate;
pub(crate) mod heard;
mod hostile;
pub(crate) mod mesh;
mod model;
mod roles;
mod scripted;
mod stream;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isthmus_routing::filter::{Filter, Rewrite};
use isthmus_routing::matching::{HttpMatch, PathMatch};
use isthmus_routing::snapshot::{ModelVersion, Models};
use isthmus_routing::{
    Attachment, Backend, Certificate, Endpoint, Gateway, GatewayKey, Identity, Listener, Matches, Protocol, Route, Rule,
    Snapshot, Target, Timeouts, Version, WeightedBackend,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{self, Outcome};
use crate::server::{self, Denied, Peer, Proxy, Publication, Role, Server, Subject};
use crate::{SERVER_NAME, client::Limits as ClientLimits, server::Limits as ServerLimits};

/// Longer than anything takes here, shorter than anybody waits.
const SOON: Duration = Duration::from_secs(10);

pub(crate) fn edge() -> GatewayKey {
    "Gateway/infra/edge".parse().unwrap()
}

/// A pod of [`edge`].
pub(crate) fn peer(pod: &str) -> Peer {
    let identity = Identity { namespace: "infra".to_owned(), account: "edge".to_owned() };
    Peer { subject: Subject::Gateway { gateway: edge(), identity }, pod: pod.to_owned() }
}

/// A pod whose ServiceAccount is `app` of this namespace.
pub(crate) fn workload(namespace: &str, pod: &str) -> Peer {
    let identity = Identity { namespace: namespace.to_owned(), account: "app".to_owned() };
    Peer { subject: Subject::Workload { identity }, pod: pod.to_owned() }
}

/// A Gateway with a route of two rules, the second with a rewrite, to an endpoint on port `n`.
pub(crate) fn snapshot(n: u16) -> Snapshot {
    let (route, backend) = ("HTTPRoute/infra/shop".parse().unwrap(), "Service/infra/shop:80".parse().unwrap());
    let rule = |path: &str, filters| Rule {
        name: None,
        matches: Matches::Http(vec![HttpMatch {
            path: PathMatch::Prefix(path.to_owned()),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        }]),
        filters,
        backends: vec![WeightedBackend {
            weight: 1,
            target: Target::Backend("Service/infra/shop:80".parse().unwrap()),
            filters: Vec::new(),
        }],
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    };
    let rewrite = Filter::UrlRewrite(Rewrite { hostname: Some("shop.internal".parse().unwrap()), path: None });
    let listener = Listener {
        routes: vec![Attachment { route: "HTTPRoute/infra/shop".parse().unwrap(), hostnames: Vec::new() }],
        ..Listener::new("http".to_owned(), 80, Protocol::Http)
    };
    let endpoints = vec![Endpoint { address: ([10, 0, 0, 1], n).into() }];
    Snapshot {
        gateways: [(edge(), Arc::new(Gateway { listeners: vec![listener], ..Gateway::default() }))].into(),
        routes: [(route, Arc::new(Route { created: 0, rules: vec![rule("/", Vec::new()), rule("/old", vec![rewrite])] }))].into(),
        backends: [(backend, Arc::new(Backend { endpoints, ..Backend::default() }))].into(),
        ..Snapshot::default()
    }
}

/// As if rewrites were new in version 2.
pub(crate) fn future() -> Models {
    Models {
        oldest: ModelVersion(1),
        newest: ModelVersion(2),
        since: |rule| ModelVersion(1 + u32::from(rule.filters.iter().any(|filter| matches!(filter, Filter::UrlRewrite(_))))),
    }
}

/// A folder that is removed in the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isthmus-push-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Whoever writes into it now, which may be a task that no abort ends, finds no folder any more, or is done soon.
        let gone = self.0.with_extension("gone");
        let _ = std::fs::rename(&self.0, &gone);
        for _ in 0..10 {
            let _ = std::fs::remove_dir_all(&gone);
            if !gone.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A certificate of `ServiceAccount/shop/app` for a public key, which began ten minutes ago, signed by nobody in particular.
pub(crate) fn issued(key: &impl rcgen::PublicKeyData, life: Duration) -> String {
    Authority::new().workload(key, life)
}

fn issued_to(uri: &str, key: &impl rcgen::PublicKeyData, life: Duration, authority: &Authority) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
    let now = std::time::SystemTime::now();
    params.not_before = (now - Duration::from_secs(600)).into();
    params.not_after = (now + life).into();
    params.signed_by(key, &authority.issuer).unwrap().pem()
}

/// A CA.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("CA {}", NEXT.fetch_add(1, Ordering::Relaxed)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// As [`issued`], by this one.
    pub(crate) fn workload(&self, key: &impl rcgen::PublicKeyData, life: Duration) -> String {
        issued_to("spiffe://cluster.local/ns/shop/sa/app", key, life, self)
    }

    fn issue(&self, name: &str) -> Arc<Certificate> {
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Arc::new(Certificate { chain: signed.pem(), key: key.serialize_pem() })
    }
}

/// There is no authority.
fn refuse() -> server::Sign {
    Arc::new(|_, _| Box::pin(std::future::ready(Err(Denied::Unavailable("there is no authority".to_owned())))))
}

/// A controller.
struct Bed {
    server: Server,
    tls: watch::Sender<Arc<Certificate>>,
    role: watch::Sender<Role>,
    authority: Arc<Authority>,
    /// How many tokens were looked at.
    looked_at: Arc<AtomicU32>,
}

/// The token `good POD` is that of a proxy of [`edge`], `workload NAMESPACE/POD` that of a sidecar.
fn authenticate(token: &str) -> Result<Peer, Denied> {
    match token.split_once(' ') {
        Some(("good", pod)) => Ok(peer(pod)),
        Some(("workload", pod)) => {
            let (namespace, pod) = pod.split_once('/').unwrap();
            Ok(workload(namespace, pod))
        }
        Some(("stranger", _)) => Err(Denied::Forbidden("this pod is no proxy".to_owned())),
        Some(("known", _)) => Err(Denied::Unasked("this token was not valid a moment ago".to_owned())),
        Some(("early", _)) => Err(Denied::Unavailable("the API server does not answer".to_owned())),
        _ => Err(Denied::Unauthorized("this token is not valid".to_owned())),
    }
}

impl Bed {
    async fn start() -> Self {
        Self::with(ServerLimits::default(), Models::default(), Arc::new(Authority::new())).await
    }

    async fn with(limits: ServerLimits, models: Models, authority: Arc<Authority>) -> Self {
        Self::signing(limits, models, authority, refuse()).await
    }

    async fn signing(limits: ServerLimits, models: Models, authority: Arc<Authority>, sign: server::Sign) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (tls, tls_seen) = watch::channel(authority.issue(SERVER_NAME));
        let (role, role_seen) = watch::channel(Role::Leader);
        let looked_at = Arc::<AtomicU32>::default();
        let counted = looked_at.clone();
        let authenticate: server::Authenticate = Arc::new(move |token| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { authenticate(&token) })
        });
        let options = server::Options { tls: tls_seen, authenticate, sign, role: role_seen, models, limits };
        Self { server: Server::start(listener, options).unwrap(), tls, role, authority, looked_at }
    }

    fn publish(&self, snapshot: &Snapshot) -> Version {
        let snapshot = Arc::new(snapshot.clone());
        self.gateways([(edge(), snapshot)].into())[&edge()]
    }

    fn gateways(&self, gateways: BTreeMap<GatewayKey, Arc<Snapshot>>) -> BTreeMap<GatewayKey, Version> {
        self.server.publish(Publication { gateways, mesh: None }).gateways
    }

    fn proxy(&self, pod: &str) -> ProxyBed {
        ProxyBed::new(self.server.address(), &format!("good {pod}"), &self.authority.pem)
    }

    fn seen(&self, pod: &str) -> Option<Proxy> {
        self.server.proxies().borrow().get(&edge())?.get(pod).cloned()
    }

    /// Waits until the server knows this of a pod.
    async fn until(&self, pod: &str, what: impl Fn(&Proxy) -> bool) -> Proxy {
        let mut proxies = self.server.proxies();
        let proxy = |proxies: &Arc<server::Proxies>| proxies.get(&edge())?.get(pod).cloned();
        let found = proxies.wait_for(|proxies| proxy(proxies).is_some_and(|proxy| what(&proxy)));
        match tokio::time::timeout(SOON, found).await {
            Ok(found) => proxy(&found.unwrap()).unwrap(),
            Err(_) => panic!("{pod}: {:?}", self.seen(pod)),
        }
    }

    async fn acked(&self, pod: &str, version: Version) -> Proxy {
        self.until(pod, |proxy| proxy.acked == Some(version)).await
    }

    async fn gone(&self, pod: &str) {
        let mut proxies = self.server.proxies();
        let gone = proxies.wait_for(|proxies| proxies.get(&edge()).is_none_or(|pods| !pods.contains_key(pod)));
        tokio::time::timeout(SOON, gone).await.expect("it is gone soon").unwrap();
    }

    fn count(&self, counter: impl Fn(&server::Counts) -> &std::sync::atomic::AtomicU64) -> u64 {
        counter(&self.server.counts()).load(Ordering::Relaxed)
    }
}

/// What a proxy is made of.
struct ProxyBed {
    folder: Arc<Folder>,
    options: client::Options,
}

/// A proxy with a data plane that serves at once, unless it is told to rest.
struct Running {
    task: JoinHandle<Infallible>,
    serving: JoinHandle<()>,
    outcomes: watch::Sender<Outcome>,
    rests: watch::Sender<bool>,
    /// Every snapshot that the data plane has served, in order.
    served: Arc<Mutex<Vec<Arc<Snapshot>>>>,
    _folder: Arc<Folder>,
}

impl ProxyBed {
    fn new(controller: SocketAddr, token: &str, ca: &str) -> Self {
        let folder = Arc::new(Folder::new());
        let (ca_file, token_file) = (folder.path().join("ca.crt"), folder.path().join("token"));
        std::fs::write(&ca_file, ca).unwrap();
        std::fs::write(&token_file, format!("{token}\n")).unwrap();
        let limits = ClientLimits {
            first_wait: Duration::from_millis(20),
            longest_wait: Duration::from_millis(100),
            healthy: Duration::ZERO,
            pace: Duration::from_millis(50),
            ..ClientLimits::default()
        };
        let options = client::Options {
            controller: controller.to_string(),
            ca: ca_file,
            token: token_file,
            store: Some(folder.path().to_owned()),
            calls: None,
            certificate: None,
            away: None,
            models: Models::default(),
            limits,
        };
        Self { folder, options }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join(file), text).unwrap();
    }

    fn stored(&self) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join("last-good")).ok()
    }

    /// Waits until this is in the store.
    async fn stores(&self, text: &str) {
        let stores = async {
            while self.stored().is_none_or(|stored| !stored.contains(text)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, stores).await.expect("it is stored soon");
    }

    fn run(&self) -> Running {
        let (snapshots, mut given) = watch::channel(Arc::<Snapshot>::default());
        let (outcomes, seen) = watch::channel(Outcome::default());
        let (rests, mut resting) = watch::channel(false);
        let served = Arc::<Mutex<Vec<_>>>::default();
        let task = tokio::spawn(client::run(self.options.clone(), snapshots, seen));
        let (report, list) = (outcomes.clone(), served.clone());
        let serving = tokio::spawn(async move {
            while given.changed().await.is_ok() {
                let _ = resting.wait_for(|rests| !rests).await;
                let snapshot = given.borrow_and_update().clone();
                let version = Some(snapshot.version());
                list.lock().unwrap().push(snapshot);
                report.send_modify(|outcome| outcome.version = version);
            }
        });
        Running { task, serving, outcomes, rests, served, _folder: self.folder.clone() }
    }
}

impl Running {
    fn served(&self) -> Vec<Snapshot> {
        self.served.lock().unwrap().iter().map(|snapshot| snapshot.as_ref().clone()).collect()
    }

    /// Waits until the data plane serves this.
    async fn serves(&self, snapshot: &Snapshot) {
        let version = Some(snapshot.version());
        let mut outcomes = self.outcomes.subscribe();
        let found = outcomes.wait_for(|outcome| outcome.version == version);
        tokio::time::timeout(SOON, found).await.expect("it is served soon").unwrap();
    }

    fn says(&self, faults: &[(&str, &str)]) {
        let faults: BTreeMap<_, _> = faults.iter().map(|(name, fault)| ((*name).to_owned(), (*fault).to_owned())).collect();
        self.outcomes.send_modify(|outcome| outcome.faults = faults);
    }
}

/// As if killed.
impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.serving.abort();
    }
}
