//! A sidecar with a controller's server in the same process, over real sockets. What the kernel redirects is tested where there are network
//! namespaces; here nothing is redirected.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Parser;
use isthmus_push::server::{self, MeshPublication, Peer, Publication, Role, Server, Subject};
use isthmus_routing::{Identity, Inbound, Mesh, MtlsMode, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData, SanType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

mod netns;

const SOON: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    run: Run,
}

/// A controller that takes a token for the name of the ServiceAccount, and a folder with what its sidecars need.
struct Bed {
    /// None: it is away.
    server: Option<Server>,
    folder: PathBuf,
    /// PEM, of those who sign workloads' certificates.
    authorities: String,
    /// PEM, of the controller's own.
    ca: String,
    _role: watch::Sender<Role>,
    _tls: watch::Sender<Arc<Certificate>>,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn identity(account: &str) -> Identity {
    Identity { namespace: "shop".to_owned(), account: account.to_owned() }
}

fn authority() -> Arc<Authority> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Arc::new(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
}

/// For whatever key is asked for: the identity's certificate.
fn issue(authority: &Authority, identity: &Identity, csr: &str) -> String {
    let domain = TrustDomain::default();
    let mut params = CertificateParams::new(vec![identity.dns_name(&domain)]).unwrap();
    params.subject_alt_names.push(SanType::URI(identity.spiffe(&domain).try_into().unwrap()));
    let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
    assert!(!request.public_key.der_bytes().is_empty());
    params.signed_by(&request.public_key, authority).unwrap().pem()
}

impl Bed {
    async fn start() -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), &authority())
    }

    /// One that listens here.
    fn on(listener: TcpListener, authority: &Arc<Authority>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isthmus-mesh-proxy-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let made = rcgen::generate_simple_self_signed(vec![isthmus_push::SERVER_NAME.to_owned()]).unwrap();
        let certificate = Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() };

        let authorities = authority.pem();
        let authority = authority.clone();

        let (role, role_seen) = watch::channel(Role::Leader);
        let (tls, tls_seen) = watch::channel(Arc::new(certificate));
        let peer = |token: &str| Peer { subject: Subject::Workload { identity: identity(token) }, pod: format!("{token}-1") };
        let options = server::Options {
            tls: tls_seen,
            authenticate: Arc::new(move |token| Box::pin(std::future::ready(Ok(peer(&token))))),
            sign: Arc::new(move |who, csr| {
                let chain = issue(&authority, &who, &csr);
                Box::pin(std::future::ready(Ok(chain)))
            }),
            role: role_seen,
            models: Models::default(),
            limits: server::Limits::default(),
        };
        let server = Server::start(listener, options).unwrap();
        Self { server: Some(server), folder, authorities, ca: made.cert.pem(), _role: role, _tls: tls }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it is there")
    }

    /// What a sidecar of this account keeps.
    fn store(&self, account: &str) -> PathBuf {
        self.folder.join(account)
    }

    /// A sidecar of the controller at this address, whose application answers at this port.
    async fn sidecar(&self, controller: SocketAddr, application: u16) -> Sidecar {
        let probes = format!(r#"[{{"http": {{"port": {application}, "path": "/", "scheme": "HTTP"}}, "timeout": 5}}]"#);
        let probes = format!("--probes={probes}");
        let words = ["--pod-ips=127.0.0.1", "--admin=127.0.0.1:0", "--outbound-port=0", "--inbound-port=0", &probes];
        Sidecar::start(&self.arguments("cart", controller, &words), 1).await.unwrap()
    }

    /// What a sidecar of this account is started with.
    fn arguments(&self, account: &str, controller: SocketAddr, more: &[&str]) -> Run {
        let (store, ca) = (self.store(account), &self.ca);
        std::fs::create_dir_all(&store).unwrap();
        std::fs::write(store.join("token"), account).unwrap();
        let store = store.display();
        let mut words = vec![
            "run".to_owned(),
            format!("--controller={controller}"),
            format!("--ca={ca}"),
            format!("--token={store}/token"),
            format!("--store={store}"),
            "--pod-namespace=shop".to_owned(),
        ];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        Line::try_parse_from(words).unwrap().run
    }

    /// An empty mesh; returns its number.
    fn publish(&self) -> u64 {
        self.publish_with(Snapshot::default(), MtlsMode::Permissive)
    }

    /// A mesh with this in it, where workloads ask this of their callers.
    fn publish_with(&self, snapshot: Snapshot, mode: MtlsMode) -> u64 {
        let mesh = Mesh { trust_domain: TrustDomain::default(), authorities: self.authorities.clone() };
        let snapshot = Arc::new(Snapshot { mesh: Some(Arc::new(mesh)), ..snapshot });
        let unseen = Arc::new(Inbound { mode, ..Inbound::default() });
        let mesh = MeshPublication { snapshot, inbound: BTreeMap::new(), unseen };
        self.server().publish(Publication { mesh: Some(mesh), ..Publication::default() }).mesh
    }

    /// Waits until every sidecar serves its part of that.
    async fn acked(&self, mesh: u64) {
        let mut sidecars = self.server().sidecars();
        let found =
            sidecars.wait_for(|sidecars| !sidecars.is_empty() && sidecars.values().all(|sidecar| sidecar.acked >= Some(mesh)));
        tokio::time::timeout(SOON, found).await.expect("it is acknowledged soon").unwrap();
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

async fn ready(sidecar: &Sidecar) {
    let admin = sidecar.admin().unwrap();
    let ready = async {
        while get(admin, "/readyz").await != Some(200) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, ready).await.expect("it is ready soon");
}

/// One that says 200 to everybody; its port.
async fn application() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "well" }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

#[tokio::test]
async fn it_is_ready_with_a_configuration_and_a_certificate_and_probes_before() {
    let bed = Bed::start().await;
    let sidecar = bed.sidecar(bed.server().address(), application().await).await;
    let admin = sidecar.admin().unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (path, code) in [("/livez", 200), ("/metrics", 200), ("/probe/0", 200), ("/readyz", 503), ("/probe/1", 404)] {
        assert_eq!(get(admin, path).await, Some(code), "{path} before");
    }
    bed.acked(bed.publish()).await;
    ready(&sidecar).await;
    for (path, code) in [("/livez", 200), ("/debug/snapshot", 200), ("/probe/0", 200), ("/app-metrics", 404)] {
        assert_eq!(get(admin, path).await, Some(code), "{path} after");
    }
}

#[tokio::test]
async fn a_restarted_sidecar_is_ready_without_its_controller() {
    let bed = Bed::start().await;
    let sidecar = bed.sidecar(bed.server().address(), free()).await;
    bed.acked(bed.publish()).await;
    ready(&sidecar).await;
    while !bed.store("cart").join("last-good").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sidecar.drain(Duration::ZERO, Duration::from_secs(1)).await;
    drop(sidecar);

    let nobody = (Ipv4Addr::LOCALHOST, free()).into();
    let sidecar = bed.sidecar(nobody, free()).await;
    ready(&sidecar).await;
    let admin = sidecar.admin().unwrap();
    assert_eq!(get(admin, "/probe/0").await, Some(503), "its application is down, and that is not the sidecar's readiness");
}

#[tokio::test]
async fn a_drain_without_connections_is_over_at_once() {
    let bed = Bed::start().await;
    let sidecar = bed.sidecar(bed.server().address(), free()).await;
    bed.acked(bed.publish()).await;
    ready(&sidecar).await;
    let start = Instant::now();
    sidecar.drain(Duration::ZERO, Duration::from_secs(5)).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_to_is_named() {
    let words = ["run", "--controller=c:1", "--ca=PEM", "--pod-ips=127.0.0.1", "--pod-namespace=shop", "--store=/proc/nowhere"];
    let error = Sidecar::start(&Line::try_parse_from(words).unwrap().run, 1).await.err().expect("it is not there");
    assert!(error.to_string().contains("/proc/nowhere"), "{error}");
}
