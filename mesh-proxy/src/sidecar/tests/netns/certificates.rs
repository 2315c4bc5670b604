//! Certificates that are none of a workload's, served at the address of one and shown by one.

use std::net::TcpStream as Plain;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use tokio_rustls::TlsAcceptor;

use super::super::*;
use super::Faults;
use super::apps::{GREETING, HTTP, Seen};
use super::client::{self, Came};
use super::net::{APPLICATION, Net};
use super::town::{Name, Town, Version};

/// What a certificate says.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    uris: Vec<String>,
    /// The DNS name.
    name: String,
    /// Seconds from now.
    valid: (i64, i64),
    is_authority: bool,
    usage: KeyUsagePurpose,
}

impl Leaf {
    /// As the controller signs it for an account of `shop`.
    pub(super) fn of(account: &str) -> Self {
        Self::by(&identity(account), &TrustDomain::default())
    }

    /// As that of this trust domain does.
    fn by(identity: &Identity, domain: &TrustDomain) -> Self {
        Self {
            uris: vec![identity.spiffe(domain)],
            name: identity.dns_name(domain),
            valid: (-600, 3600),
            is_authority: false,
            usage: KeyUsagePurpose::DigitalSignature,
        }
    }

    fn with(&self, edit: impl FnOnce(&mut Self)) -> Self {
        let mut other = self.clone();
        edit(&mut other);
        other
    }

    pub(super) fn signed(&self, authority: &Authority) -> Certificate {
        let at = |seconds: i64| {
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
        };
        let mut params = CertificateParams::new(vec![self.name.clone()]).unwrap();
        let uris = self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        (params.not_before, params.not_after) = (at(self.valid.0).into(), at(self.valid.1).into());
        params.is_ca = if self.is_authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.key_usages = vec![self.usage];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        Certificate { chain: params.signed_by(&key, authority).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A server that shows what it is told to.
pub(super) struct Rogue {
    shown: Arc<Mutex<Arc<ServerConfig>>>,
    /// How many requests it has been given.
    requests: Arc<AtomicUsize>,
}

impl Rogue {
    /// In the runtime in which this is called.
    pub(super) fn serve(net: &Net, shown: &Certificate) -> Self {
        let rogue = Self { shown: Arc::new(Mutex::new(server(shown))), requests: Arc::default() };
        for port in [HTTP, GREETING] {
            let listener = TcpListener::from_std(net.listen(APPLICATION, port)).unwrap();
            tokio::spawn(Self::accept(listener, rogue.shown.clone(), rogue.requests.clone()));
        }
        rogue
    }

    async fn accept(listener: TcpListener, shown: Arc<Mutex<Arc<ServerConfig>>>, requests: Arc<AtomicUsize>) {
        while let Ok((socket, peer)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(shown.lock().unwrap().clone());
            let requests = requests.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(socket).await?;
                let mut bytes = [0; 2048];
                if stream.read(&mut bytes).await? > 0 {
                    requests.fetch_add(1, Ordering::Relaxed);
                    let (pod, path) = ("rogue".to_owned(), String::new());
                    let seen = Seen { pod, peer: peer.ip().to_canonical(), path, headers: Vec::new() };
                    let body = serde_json::to_string(&seen).unwrap();
                    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all(format!("{head}{body}").as_bytes()).await?;
                    stream.shutdown().await?;
                }
                std::io::Result::Ok(())
            });
        }
    }
}

fn pair(certificate: &Certificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap())
}

/// Asks for no certificate: whoever shows one to it has made up their mind already.
fn server(shown: &Certificate) -> Arc<ServerConfig> {
    let (chain, key) = pair(shown);
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

/// Shows this to whoever has a certificate of the authority.
fn client(shown: Option<&Certificate>, authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots);
    Arc::new(match shown.map(pair) {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        None => config.with_no_client_auth(),
    })
}

/// What is shown.
struct Case {
    what: &'static str,
    shown: Option<Certificate>,
    /// Why it is refused to a client; none: it is taken.
    refusal: Option<&'static str>,
}

fn cases(town: &Town) -> Vec<Case> {
    const INVALID: &str = "client_certificate_invalid";
    const EXPIRED: &str = "client_certificate_expired";
    const EARLY: &str = "client_certificate_not_yet_valid";
    let right = Leaf::of("rogue");
    let elsewhere = Leaf::by(&identity("rogue"), &"other.example".parse().unwrap());
    let namesake = Identity { namespace: "other".to_owned(), account: "rogue".to_owned() };
    let namesake = Leaf::by(&namesake, &TrustDomain::default());
    let as_well = Leaf::of("web").uris;
    let case = |what, leaf: Leaf, refusal| Case { what, shown: Some(leaf.signed(&town.authority)), refusal };
    vec![
        case("another trust domain", elsewhere, Some(INVALID)),
        case("expired", right.with(|leaf| leaf.valid = (-7200, -1)), Some(EXPIRED)),
        case("not valid for ten minutes", right.with(|leaf| leaf.valid = (600, 7200)), Some(EARLY)),
        case("clocks differ by a day", right.with(|leaf| leaf.valid = (86_400, 172_800)), Some(EARLY)),
        case("two URIs", right.with(|leaf| leaf.uris.extend(as_well)), Some(INVALID)),
        case("no URI", right.with(|leaf| leaf.uris.clear()), Some(INVALID)),
        case("an authority's", right.with(|leaf| leaf.is_authority = true), Some(INVALID)),
        case("for signing others", right.with(|leaf| leaf.usage = KeyUsagePurpose::KeyCertSign), Some(INVALID)),
        // The address was another pod's a moment ago. As a client it is who it proves to be.
        case("another namespace's", namesake, None),
        Case {
            what: "another authority's",
            shown: Some(right.signed(&authority())),
            refusal: Some("client_certificate_unknown_authority"),
        },
        Case { what: "none", shown: None, refusal: Some("client_certificate_absent") },
    ]
}

/// A little longer than a sidecar goes by a refusal without asking again, where it calls by HTTP.
const FORGOTTEN: Duration = Duration::from_millis(1050);

/// Served at the address of a workload: nobody there gets a request, by Service or by address.
pub(super) fn served(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    let requests = || town.rogue.requests.load(Ordering::Relaxed);
    let right = Leaf::of("rogue").signed(&town.authority);
    let shown = cases(town).into_iter().filter_map(|case| Some((case.what, case.shown?, false)));
    for (what, shown, is_taken) in shown.chain([("right", right, true)]) {
        // What was refused before must not answer for this one.
        std::thread::sleep(FORGOTTEN);
        *town.rogue.shown.lock().unwrap() = server(&shown);
        // Whoever was refused is not asked again for a second.
        std::thread::sleep(Duration::from_millis(1050));
        let by_service = [Name::Rogue.service(Version::V4, 80), Name::Rogue.service(Version::V6, 81)];
        let by_address = [Name::Rogue.at(Version::V6, HTTP), Name::Rogue.service(Version::V4, GREETING)];
        for to in by_service.iter().chain(&by_address) {
            let before = requests();
            let outcome = town.get(Name::Web, *to, "/");
            let as_expected = match is_taken {
                true => outcome.pod() == Some("rogue") && requests() == before + 1,
                false => matches!(outcome.code(), None | Some(503)) && requests() == before,
            };
            if !as_expected || matches!(outcome.came, Came::Waiting) {
                faults.push(format!("{what}, to {to}: {outcome}, {} requests", requests() - before));
            }
        }
    }
    faults
}

/// Shown by a client, to permissive workloads and to strict ones: whoever calls by the mesh is not served otherwise.
pub(super) fn shown(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    for mode in [MtlsMode::Strict, MtlsMode::Permissive] {
        town.set_mode(mode);
        let right = Leaf::of("rogue").signed(&town.authority);
        let mut cases: Vec<_> = cases(town).into_iter().map(|case| (case.what, case.shown, Name::Cart, case.refusal)).collect();
        cases.push(("right", Some(right.clone()), Name::Cart, None));
        cases.push(("right, for another workload", Some(right), Name::Web, Some("other_identity")));
        for (what, shown, called, refusal) in cases {
            let counted = |reason: &str| town.faults(Name::Cart, reason);
            let before = refusal.map(counted);
            let outcome = call(town, shown.as_ref(), called);
            let as_expected = match refusal {
                None => outcome.as_deref() == Ok("cart"),
                Some(reason) => outcome.is_err() && town.soon(|| Some(counted(reason)) > before),
            };
            if !as_expected {
                faults.push(format!("{mode:?}, {what}: {outcome:?}"));
            }
        }
    }
    for (namespace, at_least) in [("other", 2), ("shop", 2)] {
        let labels = [&format!("source_namespace=\"{namespace}\""), "source_account=\"rogue\""];
        let counted = || town.count(Name::Cart, "isthmus_stream_connections_total", &[labels[0], labels[1]], &[]);
        if !town.soon(|| counted() == at_least) {
            faults.push(format!("as of {namespace}, where that is what the certificate says: {}", counted()));
        }
    }
    faults
}

/// A request to `cart`, by the server name of this workload; who answers.
fn call(town: &Town, shown: Option<&Certificate>, called: Name) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let net = town.net(Name::Rogue);
    let socket: Plain = net.connect(APPLICATION, Name::Cart.at(Version::V4, HTTP)).map_err(|error| text(&error))?;
    socket.set_read_timeout(Some(SOON)).map_err(|error| text(&error))?;
    let name = identity(called.as_str()).dns_name(&TrustDomain::default()).try_into().map_err(|error| text(&error))?;
    let connection = ClientConnection::new(client(shown, &town.authority), name).map_err(|error| text(&error))?;
    let outcome = client::get_on(&mut StreamOwned::new(connection, socket), "/");
    outcome.pod().map(str::to_owned).ok_or_else(|| outcome.to_string())
}
