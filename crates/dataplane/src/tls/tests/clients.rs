//! Certificates of clients, versions and ciphers, and where sessions are resumed: over memory, with rustls on the other end.

use std::time::SystemTime;

use isthmus_routing::{Bundle, BundleKey, BundleKind, ClientValidation, TlsSettings, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::client::Resumption;
use rustls::{HandshakeKind, ProtocolVersion};
use rustls_pki_types::PrivateKeyDer;

use super::*;
use crate::tls::client::Refusal;

/// Signs certificates of clients.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    bundle: Arc<Bundle>,
}

/// A certificate of a client with its key.
struct Client {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no name is a name");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let bundle = Bundle { certificates: params.self_signed(&key).expect("a certificate").pem() };
        Self { issuer: Issuer::new(params, key), bundle: Arc::new(bundle) }
    }

    fn client(&self, edit: impl FnOnce(&mut CertificateParams)) -> Client {
        let mut params = CertificateParams::new(["client.test".to_owned()]).expect("a name");
        params.distinguished_name.push(rcgen::DnType::CommonName, "a client");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        Client { chain: vec![leaf.der().clone()], key }
    }

    fn good(&self) -> Client {
        self.client(|_| {})
    }
}

fn bundle_key(name: &str) -> BundleKey {
    BundleKey { kind: BundleKind::ConfigMap, namespace: "infra".to_owned(), name: name.to_owned() }
}

/// A listener with the certificate `shown`, which wants certificates that the bundles of these names have signed.
fn asking(name: &str, bundles: &[&str], optional: bool) -> Listener {
    let authorities = bundles.iter().map(|name| bundle_key(name)).collect();
    Listener { client_validation: Some(ClientValidation { authorities, optional }), ..listener(name, Some("a.test"), &["shown"]) }
}

/// Listeners that follow snapshots with one certificate of a server.
struct Bench {
    shown: Arc<Certificate>,
    listeners: Listeners,
}

impl Bench {
    fn new() -> Self {
        Self { shown: certificate(&["a.test"]), listeners: Listeners::default() }
    }

    fn update(&mut self, source: &[Listener], bundles: &[(&str, &Authority)]) {
        let mut snapshot = snapshot(source, &[("shown", &self.shown)]);
        snapshot.bundles = bundles.iter().map(|(name, authority)| (bundle_key(name), authority.bundle.clone())).collect();
        self.listeners.update(&snapshot);
    }

    /// One connection of a client to a listener.
    async fn shake(&self, listener: &str, client: &Arc<ClientConfig>) -> Outcome {
        let Ending { config, clients, .. } = self.listeners.config(&gateway(), listener).expect("it ends TLS");
        let (far, near) = tokio::io::duplex(64 * 1024);
        let connector = tokio_rustls::TlsConnector::from(client.clone());
        let talk = async move {
            let mut stream = connector.connect("a.test".try_into().expect("a name"), far).await?;
            // Tickets of TLS 1.3 come after the handshake, and so does a refusal.
            stream.read_u8().await?;
            std::io::Result::Ok(())
        };
        let serve = async {
            let mut stream = tokio_rustls::TlsAcceptor::from(config).accept(near).await.map_err(|error| {
                let inner = error.into_inner().and_then(|inner| inner.downcast::<rustls::Error>().ok());
                inner.map_or(Failure::Io, |error| Failure::Tls(*error))
            })?;
            let session = stream.get_ref().1;
            let kind = session.handshake_kind();
            let facts = Facts {
                client: clients.map(|clients| clients.identify(session)).transpose().map_err(Failure::Later)?.flatten(),
                resumed: kind == Some(HandshakeKind::Resumed),
                version: session.protocol_version().expect("the handshake is over"),
                cipher: settings::iana_name(session.negotiated_cipher_suite().expect("the handshake is over")),
                alpn: session.alpn_protocol().is_some(),
            };
            stream.write_u8(1).await.map_err(|_| Failure::Io)?;
            stream.flush().await.map_err(|_| Failure::Io)?;
            Ok(facts)
        };
        let (server, client) = tokio::join!(serve, talk);
        assert_eq!(server.is_ok(), client.is_ok(), "both ends agree: {server:?} {client:?}");
        server
    }
}

type Outcome = Result<Facts, Failure>;

#[derive(Debug)]
enum Failure {
    Io,
    Tls(rustls::Error),
    /// After the handshake.
    Later(rustls::Error),
}

impl Failure {
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Io => None,
            Self::Tls(error) | Self::Later(error) => Refusal::of(error),
        }
    }
}

#[derive(Debug)]
struct Facts {
    client: Option<Box<str>>,
    resumed: bool,
    version: ProtocolVersion,
    cipher: &'static str,
    alpn: bool,
}

const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

fn client_with(version: &'static rustls::SupportedProtocolVersion, certificate: Option<&Client>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("ring has suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate));
    let config = match certificate {
        Some(Client { chain, key }) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
            builder.with_client_auth_cert(chain.clone(), key).expect("a pair")
        }
        None => builder.with_no_client_auth(),
    };
    Arc::new(config)
}

/// The same client that has forgotten its sessions.
fn fresh(client: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = (**client).clone();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

#[tokio::test]
async fn each_kind_of_wrong_certificate() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let year = rcgen::date_time_ymd;
    let cases = [
        ("right", Some(ours.good()), None),
        ("without purpose", Some(ours.client(|params| params.extended_key_usages.clear())), None),
        ("absent", None, Some(Refusal::Absent)),
        ("of another authority", Some(theirs.good()), Some(Refusal::UnknownAuthority)),
        ("expired", Some(ours.client(|params| params.not_after = year(2021, 1, 1))), Some(Refusal::Expired)),
        ("not valid yet", Some(ours.client(|params| params.not_before = year(4000, 1, 1))), Some(Refusal::NotYetValid)),
        (
            "of a server",
            Some(ours.client(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
            Some(Refusal::Invalid),
        ),
        (
            "of an authority",
            Some(ours.client(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
            Some(Refusal::Invalid),
        ),
    ];
    let mut bench = Bench::new();
    bench.update(&[asking("strict", &["gone", "ours"], false), asking("optional", &["ours"], true)], &[("ours", &ours)]);
    assert_eq!((bench.listeners.fault(&gateway(), "strict"), bench.listeners.fault(&gateway(), "optional")), (None, None));
    for version in BOTH {
        for (name, certificate, refusal) in &cases {
            let client = client_with(version, certificate.as_ref());
            let strict = bench.shake("strict", &client).await;
            assert_eq!(strict.as_ref().err().and_then(Failure::refusal), *refusal, "{name} {version:?}: {strict:?}");
            let optional = bench.shake("optional", &client).await.expect("served whatever it shows");
            assert_eq!(optional.client.is_some(), refusal.is_none(), "{name} {version:?}: {optional:?}");
            if let Ok(facts) = strict {
                assert_eq!(facts.client, optional.client);
                assert_eq!(facts.client.as_deref(), Some("DNS:client.test, CN=a client"));
            }
            // A session keeps the certificate; what it is worth is judged again.
            let again = bench.shake("optional", &client).await.expect("served whatever it shows");
            assert_eq!((again.resumed, again.client), (true, optional.client), "{name} {version:?}");
        }
    }
}

#[tokio::test]
async fn a_name_of_a_client_is_told_in_full_up_to_a_length() {
    let ours = Authority::new("ours");
    let mut bench = Bench::new();
    bench.update(&[asking("strict", &["ours"], false)], &[("ours", &ours)]);
    let many = ours.client(|params| {
        params.subject_alt_names = vec![SanType::URI("spiffe://a.test/b".try_into().expect("ASCII"))];
        params.subject_alt_names.extend((0..1000).map(|n| SanType::DnsName(format!("{n}.test").try_into().expect("ASCII"))));
    });
    let told = bench.shake("strict", &client_with(BOTH[0], Some(&many))).await.expect("a handshake").client.expect("it is valid");
    assert!(told.starts_with("URI:spiffe://a.test/b, DNS:0.test, DNS:1.test, ") && told.ends_with("..."), "{told}");
    assert!(told.len() < 520, "{}", told.len());
}

/// A session is judged by the certificate of its first handshake, so that has to be the client's own.
#[tokio::test]
async fn nobody_shows_the_certificate_of_another() {
    #[derive(Debug)]
    struct Stolen(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Stolen {
        fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let ours = Authority::new("ours");
    let mut bench = Bench::new();
    bench.update(&[asking("optional", &["ours"], true)], &[("ours", &ours)]);
    let own = PrivateKeyDer::try_from(KeyPair::generate().expect("a key").serialize_der()).expect("PKCS#8");
    let key = rustls::crypto::ring::sign::any_supported_type(&own).expect("a key that signs");
    let stolen = Arc::new(rustls::sign::CertifiedKey::new(ours.good().chain, key));
    for version in BOTH {
        let mut config = Arc::unwrap_or_clone(client_with(version, None));
        config.client_auth_cert_resolver = Arc::new(Stolen(stolen.clone()));
        bench.shake("optional", &Arc::new(config)).await.expect_err("the signature is another's");
    }
}

/// Their names would not fit into a message: none are told, and it is served all the same.
#[tokio::test]
async fn authorities_by_the_hundred() {
    let ours = Authority::new("ours");
    let key = KeyPair::generate().expect("a key");
    let other = |number: usize| {
        let mut params = CertificateParams::new([]).expect("no name is a name");
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("{} {number}", "x".repeat(50)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&key).expect("a certificate").pem()
    };
    let others: String = (0..1_000).map(other).collect();
    let all = Authority { bundle: Arc::new(Bundle { certificates: others + &ours.bundle.certificates }), ..ours };
    let mut bench = Bench::new();
    bench.update(&[asking("strict", &["all"], false)], &[("all", &all)]);
    for version in BOTH {
        bench.shake("strict", &client_with(version, Some(&all.good()))).await.expect("the last of them has signed it");
    }
}

#[tokio::test]
async fn without_an_authority_nothing_is_valid() {
    let ours = Authority::new("ours");
    let broken = Authority { bundle: Arc::new(Bundle { certificates: "no PEM".to_owned() }), ..Authority::new("broken") };
    let mut bench = Bench::new();
    for bundles in [&[][..], &[("ours", &broken)]] {
        bench.update(&[asking("strict", &["ours"], false), asking("optional", &["ours"], true)], bundles);
        let fault = bench.listeners.fault(&gateway(), "strict").expect("nobody gets through");
        assert!(fault.starts_with("every handshake fails: no client certificate can be valid"), "{fault}");
        assert_eq!(bench.listeners.fault(&gateway(), "optional"), None);
        for (certificate, refusal) in [(Some(ours.good()), Refusal::UnknownAuthority), (None, Refusal::Absent)] {
            let client = client_with(BOTH[0], certificate.as_ref());
            let strict = bench.shake("strict", &client).await.expect_err("nothing is valid");
            assert_eq!(strict.refusal(), Some(refusal));
            assert_eq!(bench.shake("optional", &client).await.expect("served whatever it shows").client, None);
        }
    }
    bench.update(&[asking("strict", &["ours"], false)], &[("ours", &ours)]);
    bench.shake("strict", &client_with(BOTH[0], Some(&ours.good()))).await.expect("the authority has come");
}

/// Connections that were made before may be used after what does not concern their clients, and after nothing else.
#[test]
fn what_kept_connections_outlive() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let bundles = [("ours", &ours), ("theirs", &theirs)];
    let plain = || listener("a", Some("a.test"), &["shown"]);
    let settings = TlsSettings { min_version: Some(TlsVersion::V1_3), ..TlsSettings::default() };
    let hostname = Some("b.test".parse().expect("a hostname"));
    let passed = Listener { protocol: Protocol::Tls, passthrough: true, ..plain() };
    for (change, before, after, bundles_after, outlives) in [
        ("nothing", asking("a", &["ours"], false), Some(asking("a", &["ours"], false)), bundles, true),
        ("other versions", plain(), Some(Listener { tls: settings, ..plain() }), bundles, true),
        ("another hostname", plain(), Some(Listener { hostname, ..plain() }), bundles, true),
        ("another certificate", plain(), Some(listener("a", Some("a.test"), &["other"])), bundles, true),
        ("a certificate is wanted", plain(), Some(asking("a", &["ours"], false)), bundles, false),
        ("none is wanted any more", asking("a", &["ours"], false), Some(plain()), bundles, false),
        ("it becomes required", asking("a", &["ours"], true), Some(asking("a", &["ours"], false)), bundles, false),
        ("one authority less", asking("a", &["ours", "theirs"], true), Some(asking("a", &["ours"], true)), bundles, false),
        ("other bytes", asking("a", &["ours"], false), Some(asking("a", &["ours"], false)), [("ours", &theirs); 2], false),
        ("another protocol", plain(), Some(Listener { protocol: Protocol::Tls, ..plain() }), bundles, false),
        ("it is passed on", plain(), Some(passed), bundles, false),
        ("it is gone", plain(), None, bundles, false),
        ("it is renamed", plain(), Some(listener("b", Some("a.test"), &["shown"])), bundles, false),
    ] {
        let mut bench = Bench::new();
        bench.update(std::slice::from_ref(&before), &bundles);
        let ending = bench.listeners.config(&gateway(), "a").expect("it ends TLS");
        let is = |ending: &Ending, name| ending.listener().is(&gateway(), name);
        assert!(is(&ending, "a") && !is(&ending, "b"), "{change}");
        bench.update(after.as_slice(), &bundles_after);
        assert_eq!(is(&ending, "a"), outlives, "{change}");
        // A change that is taken back brings no connection back.
        bench.update(std::slice::from_ref(&before), &bundles);
        assert_eq!(is(&ending, "a"), outlives, "{change}, and back");
        let now = bench.listeners.config(&gateway(), "a").expect("it ends TLS");
        assert!(is(&now, "a"), "{change}");
        bench.update(&[], &bundles);
        assert!(!is(&ending, "a") && !is(&now, "a"), "{change}, and gone");
    }
}

/// A client of any version that has a session of the first state does not get it resumed in the second.
#[tokio::test]
async fn no_session_crosses_to_other_terms() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let client = ours.good();
    let bundles = [("ours", &ours), ("theirs", &theirs)];
    let plain = || listener("a", Some("a.test"), &["shown"]);
    let settings = TlsSettings { ciphers: isthmus_routing::CipherSuite::all().collect(), ..TlsSettings::default() };
    let other_name = |name: &str| Listener { name: name.to_owned(), ..asking("a", &["ours"], false) };
    for (change, before, after, bundles_after) in [
        ("a certificate is wanted", plain(), asking("a", &["ours"], false), bundles),
        ("no certificate is wanted any more", asking("a", &["ours"], false), plain(), bundles),
        ("it becomes optional", asking("a", &["ours"], false), asking("a", &["ours"], true), bundles),
        ("it becomes required", asking("a", &["ours"], true), asking("a", &["ours"], false), bundles),
        ("one authority more", asking("a", &["ours"], false), asking("a", &["ours", "theirs"], false), bundles),
        ("one authority less", asking("a", &["ours", "theirs"], false), asking("a", &["ours"], false), bundles),
        (
            "other bytes of an authority",
            asking("a", &["ours", "theirs"], false),
            asking("a", &["ours", "theirs"], false),
            [("ours", &ours), ("theirs", &ours)],
        ),
        ("other ciphers", asking("a", &["ours"], false), Listener { tls: settings, ..asking("a", &["ours"], false) }, bundles),
        ("another protocol", plain(), Listener { protocol: Protocol::Tls, ..plain() }, bundles),
        ("another listener", other_name("a"), other_name("b"), bundles),
    ] {
        for version in BOTH {
            let client = client_with(version, Some(&client));
            let mut bench = Bench::new();
            bench.update(std::slice::from_ref(&before), &bundles);
            let resumed = |outcome: Outcome| outcome.unwrap_or_else(|failure| panic!("{change}: {failure:?}")).resumed;
            assert!(!resumed(bench.shake("a", &client).await), "{change}: the first one");
            assert!(resumed(bench.shake("a", &client).await), "{change}: the second one");
            // An edit of something else, and another certificate: it goes on.
            bench.shown = certificate(&["a.test"]);
            bench.update(&[before.clone(), listener("neighbour", Some("b.test"), &["shown"])], &bundles);
            assert!(resumed(bench.shake("a", &client).await), "{change}: nothing has changed for it");
            bench.update(std::slice::from_ref(&after), &bundles_after);
            assert!(!resumed(bench.shake(&after.name, &client).await), "{change} {version:?}");
            bench.update(std::slice::from_ref(&before), &bundles);
            assert!(!resumed(bench.shake("a", &fresh(&client)).await));
        }
    }
}

/// One client that came in on the weaker of two listeners.
#[tokio::test]
async fn no_session_crosses_to_another_listener() {
    let ours = Authority::new("ours");
    let mut bench = Bench::new();
    bench.update(&[asking("strict", &["ours"], false), asking("optional", &["ours"], true)], &[("ours", &ours)]);
    for version in BOTH {
        let client = client_with(version, None);
        assert!(!bench.shake("optional", &client).await.expect("a handshake").resumed);
        assert!(bench.shake("optional", &client).await.expect("a handshake").resumed);
        let refused = bench.shake("strict", &client).await.expect_err("a session of another listener is none");
        assert_eq!(refused.refusal(), Some(Refusal::Absent));
    }
}

#[tokio::test]
async fn a_session_ends_with_its_certificate() {
    let ours = Authority::new("ours");
    let mut bench = Bench::new();
    bench.update(&[asking("strict", &["ours"], false)], &[("ours", &ours)]);
    let soon = SystemTime::now() + Duration::from_secs(3);
    let short = ours.client(|params| params.not_after = soon.into());
    for version in BOTH {
        let client = client_with(version, Some(&short));
        for resumed in [false, true] {
            assert_eq!(bench.shake("strict", &client).await.expect("a handshake").resumed, resumed);
        }
        if version == BOTH[1] {
            tokio::time::sleep(Duration::from_secs(4)).await;
            let late = bench.shake("strict", &client).await.expect_err("its certificate has expired");
            assert!(matches!(late, Failure::Later(_)), "the session itself is good: {late:?}");
            assert_eq!(late.refusal(), Some(Refusal::Expired));
        }
    }
}

#[tokio::test]
async fn versions_and_ciphers_of_a_listener() {
    let cipher = |name: &str| name.parse().expect("a cipher");
    let (small_12, large_12) = ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
    let (chacha_13, small_13) = ("TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256");
    // The oldest version, the ciphers; what a client of TLS 1.3 and one of 1.2 agree on.
    type Case<'c> = (Option<TlsVersion>, &'c [&'c str], Option<&'c str>, Option<&'c str>);
    let mut bench = Bench::new();
    let cases: &[Case<'_>] = &[
        (None, &[], Some("TLS_AES_256_GCM_SHA384"), Some(large_12)),
        (Some(TlsVersion::V1_3), &[], Some("TLS_AES_256_GCM_SHA384"), None),
        (None, &[small_12, large_12, chacha_13, small_13], Some(chacha_13), Some(small_12)),
        (None, &[small_12], None, Some(small_12)),
        (None, &[small_13], Some(small_13), None),
        (Some(TlsVersion::V1_3), &[small_12], None, None),
    ];
    for (min_version, ciphers, new, old) in cases {
        let tls = TlsSettings { min_version: *min_version, ciphers: ciphers.iter().map(|name| cipher(name)).collect() };
        bench.update(&[Listener { tls, ..listener("a", Some("a.test"), &["shown"]) }], &[]);
        for (version, expected, protocol) in [(BOTH[0], new, ProtocolVersion::TLSv1_3), (BOTH[1], old, ProtocolVersion::TLSv1_2)]
        {
            let found = bench.shake("a", &client_with(version, None)).await.ok();
            let found = found.map(|facts| (facts.cipher, facts.version));
            assert_eq!(found, expected.map(|cipher| (cipher, protocol)), "{min_version:?} {ciphers:?}");
        }
        let fault = bench.listeners.fault(&gateway(), "a");
        assert_eq!(fault.is_some(), new.is_none() && old.is_none(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_tls_listener_agrees_on_no_protocol() {
    let mut bench = Bench::new();
    let of = |name: &str, passthrough: bool| Listener {
        protocol: Protocol::Tls,
        passthrough,
        ..listener(name, Some("a.test"), if passthrough { &[] } else { &["shown"] })
    };
    bench.update(&[of("ends", false), of("passes", true)], &[]);
    let mut client = Arc::unwrap_or_clone(client_with(BOTH[0], None));
    client.alpn_protocols = vec![b"postgresql".to_vec()];
    assert!(!bench.shake("ends", &Arc::new(client)).await.expect("a handshake").alpn);
    assert!(bench.listeners.config(&gateway(), "passes").is_none());
    assert_eq!(bench.listeners.fault(&gateway(), "passes"), None);
}
