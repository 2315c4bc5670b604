//! What a controller is to sidecars, without a cluster: the stream, an authority that signs, and a mesh that is made up. For benchmarks:
//! `bench_controller ADDRESS FOLDER SERVICES ROUTES ENDPOINTS FIRST_POD`.
//!
//! The mesh has Services `team-N/service-M`, each with a ClusterIP, an account of its own, this many HTTPRoutes and this many endpoints, which
//! are pods with sidecars; the pods' addresses are counted from the first one. Everybody has to prove who they are.
//!
//! `FOLDER` has the authority of the mesh (`mesh-ca.crt`, `mesh-ca.key`); the authority of the stream is written to it as `ca.crt`, which says
//! that there is a server now. A token is taken for what it says: `NAMESPACE/ACCOUNT/POD`.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_push::server::{self, Denied, MeshPublication, Peer, Publication, Role, Server, Subject};
use isthmus_routing::filter::{Filter, HeaderModifier};
use isthmus_routing::snapshot::Models;
use isthmus_routing::{
    Attachment, Backend, BackendKey, Certificate, Endpoint, Frontend, FrontendKey, HttpMatch, Identity, Inbound, Matches, Mesh,
    MeshedPod, MtlsMode, PathMatch, Route, RouteKey, Rule, ServiceParent, Snapshot, Spoken, Target, Timeouts, TrustDomain,
    WeightedBackend, Workloads,
};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The first Service's ClusterIP; the others follow.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Of every Service, and of every endpoint.
const PORTS: (u16, u16) = (80, 8080);
/// Namespaces that the Services are in, one after the other.
const TEAMS: u32 = 50;
/// How old a certificate is when it is made, and how long it is good for.
const LIFE: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(24 * 3600));

type Fault = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, folder, services, routes, endpoints, first_pod] = &words[..] else {
        return Err("bench_controller ADDRESS FOLDER SERVICES ROUTES ENDPOINTS FIRST_POD".into());
    };
    let (address, folder): (SocketAddr, _) = (address.parse()?, Path::new(folder));
    let cluster = Cluster {
        services: services.parse()?,
        routes: routes.parse()?,
        endpoints: endpoints.parse()?,
        first_pod: first_pod.parse()?,
    };
    let authorities = std::fs::read_to_string(folder.join("mesh-ca.crt"))?;
    let key = KeyPair::from_pem(&std::fs::read_to_string(folder.join("mesh-ca.key"))?)?;
    let issuer = Arc::new(Issuer::from_ca_cert_pem(&authorities, key)?);

    let own = rcgen::generate_simple_self_signed(vec![isthmus_push::SERVER_NAME.to_owned()])?;
    let certificate = Certificate { chain: own.cert.pem(), key: own.signing_key.serialize_pem() };
    // Kept until the end: their receivers take an end for one of the controller.
    let (_tls, tls) = watch::channel(Arc::new(certificate));
    let (_role, role) = watch::channel(Role::Leader);
    let options = server::Options {
        tls,
        authenticate: Arc::new(|token| Box::pin(std::future::ready(peer(&token)))),
        sign: Arc::new(move |identity, csr| {
            let signed = sign(&issuer, &identity, &csr).map_err(|error| Denied::Unavailable(error.to_string()));
            Box::pin(std::future::ready(signed))
        }),
        role,
        models: Models::default(),
        limits: server::Limits::default(),
    };
    let server = Server::start(TcpListener::bind(address).await?, options)?;
    let mesh = Mesh { trust_domain: TrustDomain::default(), authorities };
    let strict = Arc::new(Inbound { mode: MtlsMode::Strict, ..Inbound::default() });
    let snapshot = Arc::new(Snapshot { mesh: Some(Arc::new(mesh)), ..cluster.snapshot()? });
    let mesh = MeshPublication { snapshot, unseen: strict, ..MeshPublication::default() };
    server.publish(Publication { mesh: Some(mesh), ..Publication::default() });
    // Whole, or not there: somebody waits for it.
    std::fs::write(folder.join("ca.crt.new"), own.cert.pem())?;
    std::fs::rename(folder.join("ca.crt.new"), folder.join("ca.crt"))?;
    std::future::pending().await
}

fn peer(token: &str) -> Result<Peer, Denied> {
    match token.trim().split('/').collect::<Vec<_>>()[..] {
        [namespace, account, pod] => {
            let identity = Identity { namespace: namespace.to_owned(), account: account.to_owned() };
            Ok(Peer { subject: Subject::Workload { identity }, pod: pod.to_owned() })
        }
        _ => Err(Denied::Unauthorized("a token is NAMESPACE/ACCOUNT/POD".to_owned())),
    }
}

/// As the controller's own authority does.
fn sign(issuer: &Issuer<'_, KeyPair>, identity: &Identity, csr: &str) -> Result<String, rcgen::Error> {
    let domain = TrustDomain::default();
    let request = CertificateSigningRequestParams::from_pem(csr)?;
    let mut params = CertificateParams::new(vec![identity.dns_name(&domain)])?;
    params.subject_alt_names.push(SanType::URI(identity.spiffe(&domain).try_into()?));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let (age, left) = LIFE;
    let now = SystemTime::now();
    params.not_before = (now - age).into();
    params.not_after = (now + left).into();
    Ok(params.signed_by(&request.public_key, issuer)?.pem())
}

struct Cluster {
    services: u32,
    /// Of each Service.
    routes: u32,
    /// Of each Service.
    endpoints: u32,
    first_pod: Ipv4Addr,
}

impl Cluster {
    fn snapshot(&self) -> Result<Snapshot, Fault> {
        let mut all = Snapshot::default();
        for number in 0..self.services {
            let (namespace, name) = (format!("team-{}", number % TEAMS), format!("service-{number}"));
            let service: BackendKey = format!("Service/{namespace}/{name}:{}", PORTS.0).parse()?;
            let frontend = Frontend { addresses: vec![nth(FIRST_ADDRESS, number)], ports: vec![PORTS.0] };
            let mut attachments = Vec::new();
            for route in 0..self.routes {
                let key: RouteKey = format!("HTTPRoute/{namespace}/{name}-{route}").parse()?;
                all.service_routes.insert(key.clone(), Arc::new(one_rule(route, &service)?));
                attachments.push(Attachment { route: key, hostnames: Vec::new() });
            }
            let addresses = frontend.addresses.clone();
            let parent = ServiceParent { addresses, spoken: Spoken::Http, routes: attachments, ..ServiceParent::default() };
            let pods = || (0..self.endpoints).map(|pod| nth(self.first_pod, number * self.endpoints + pod));
            let endpoints = pods().map(|pod| Endpoint { address: (pod, PORTS.1).into() }).collect();
            let workloads = Workloads { pods: pods().map(|pod| (pod, MeshedPod::default())).collect() };
            all.backends.insert(service.clone(), Arc::new(Backend { endpoints, ..Backend::default() }));
            all.services.insert(service, Arc::new(parent));
            let key = FrontendKey { namespace: namespace.clone(), name: name.clone() };
            all.frontends.insert(key, Arc::new(frontend));
            all.workloads.insert(Identity { namespace, account: name }, Arc::new(workloads));
        }
        Ok(all)
    }
}

fn nth(first: Ipv4Addr, number: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(first) + number).into()
}

/// `/items-N` to the Service itself, with a header that names the route.
fn one_rule(number: u32, service: &BackendKey) -> Result<Route, Fault> {
    let name = format!("items-{number}");
    let set = vec![("x-route".parse()?, name.parse()?)];
    let path = HttpMatch { path: PathMatch::Prefix(format!("/{name}")), headers: Vec::new(), query: Vec::new(), method: None };
    let backend = WeightedBackend { weight: 1, target: Target::Backend(service.clone()), filters: Vec::new() };
    let rule = Rule {
        name: None,
        matches: Matches::Http(vec![path]),
        filters: vec![Filter::RequestHeaderModifier(HeaderModifier { set, ..HeaderModifier::default() })],
        backends: vec![backend],
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    };
    Ok(Route { created: 1_700_000_000 + i64::from(number), rules: vec![rule] })
}
