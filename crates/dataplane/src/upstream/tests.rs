//! Policies against real TLS servers: by themselves, and through the whole proxy.

mod mesh;
mod pki;
mod requests;
mod server;

use isthmus_routing::{BundleKey, SubjectAltName};

use super::*;
use pki::{Authority, Leaf as Names, bundle_key};
use server::Server;

/// A backend's validation: its hostname, its bundles by name (none: the system's) and its names.
fn validation(hostname: &str, bundles: Option<&[&str]>, names: &[&str]) -> BackendValidation {
    let name = |name: &&str| match name.split_once(':') {
        Some(_) => SubjectAltName::Uri((*name).to_owned()),
        None => SubjectAltName::Hostname(name.parse().expect("a hostname")),
    };
    BackendValidation {
        hostname: hostname.parse().expect("a hostname"),
        roots: bundles.map_or(Roots::System, |names| Roots::Bundles(names.iter().map(|name| bundle_key(name)).collect())),
        subject_alt_names: names.iter().map(name).collect(),
    }
}

fn compile(
    validation: &BackendValidation,
    bundles: &[(&str, &Authority)],
    previous: Option<&Arc<UpstreamTls>>,
) -> Arc<UpstreamTls> {
    let key = "Service/a/b:443".parse().expect("a key");
    let bundle = |(name, authority): &(&str, &Authority)| -> (BundleKey, Arc<Bundle>) { (bundle_key(name), authority.bundle()) };
    let snapshot = Snapshot { bundles: bundles.iter().map(bundle).collect(), ..Snapshot::default() };
    UpstreamTls::compile(&key, validation, &snapshot, previous)
}

async fn shake(tls: &UpstreamTls, server: &Server) -> Result<TlsStream<TcpStream>, UpstreamTlsError> {
    tls.connect(TcpStream::connect(server.address).await.expect("it listens"), None).await
}

/// What a certificate has to fulfil: the policy, the certificate, and what the refusal says.
type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Names<'a>, Option<&'a str>);

/// Bundles `right` and `wrong` exist; the server's certificate is signed by `right`.
const CASES: &[Case<'static>] = &[
    ("a.example", &["right"], &[], Names::of(&["a.example"]), None),
    ("a.x.example", &["right"], &[], Names::of(&["*.x.example"]), None),
    ("a.example", &["right"], &[], Names::of(&["b.example"]), Some("not valid for the policy's hostname")),
    ("a.example", &["right"], &[], Names::of(&["URI:spiffe://a.example/x"]), Some("not valid for the policy's hostname")),
    ("a.example", &["wrong"], &[], Names::of(&["a.example"]), Some("none of the policy's authorities")),
    ("a.example", &["wrong", "right"], &[], Names::of(&["a.example"]), None),
    ("a.example", &["gone", "right"], &[], Names::of(&["a.example"]), None),
    ("a.example", &["gone"], &[], Names::of(&["a.example"]), Some("every bundle of the policy is missing")),
    ("a.example", &["right"], &[], Names::of(&["a.example"]).expired(), Some("it has expired")),
    ("a.example", &["right"], &[], Names::of(&["a.example"]).not_yet(), Some("it is not valid yet")),
    ("a.example", &["right"], &["b.example"], Names::of(&["b.example"]), None),
    ("a.example", &["right"], &["b.example"], Names::of(&["B.Example"]), None),
    ("a.example", &["right"], &["b.x.example"], Names::of(&["*.x.example"]), None),
    ("a.example", &["right"], &["c.b.x.example"], Names::of(&["*.x.example"]), Some("its names are *.x.example")),
    ("a.example", &["right"], &["*.x.example"], Names::of(&["*.x.example"]), None),
    ("a.example", &["right"], &["*.x.example"], Names::of(&["b.x.example"]), Some("its names are b.x.example")),
    ("a.example", &["right"], &["b.example"], Names::of(&["a.example"]), Some("its names are a.example")),
    ("a.example", &["right"], &["b.example", "a.example"], Names::of(&["a.example"]), None),
    ("a.example", &["right"], &["spiffe://x/ns/a"], Names::of(&["URI:spiffe://x/ns/a"]), None),
    ("a.example", &["right"], &["spiffe://x/ns/a"], Names::of(&["a.example", "URI:spiffe://x/ns/a"]), None),
    ("a.example", &["right"], &["spiffe://x/ns/a"], Names::of(&["URI:spiffe://x/ns/A"]), Some("its names are spiffe://x/ns/A")),
    ("a.example", &["right"], &["spiffe://x/ns/a"], Names::of(&["URI:spiffe://x/ns/a/b"]), Some("its names are spiffe")),
    ("a.example", &["right"], &["spiffe://x/ns/a"], Names::of(&["a.example"]), Some("its names are a.example")),
    ("a.example", &["right"], &["spiffe://x/ns/a"], Names::of(&["URI:spiffe://x/ns/a"]).expired(), Some("it has expired")),
    (
        "a.example",
        &["wrong"],
        &["spiffe://x/ns/a"],
        Names::of(&["URI:spiffe://x/ns/a"]),
        Some("none of the policy's authorities"),
    ),
    ("a.example", &["gone"], &["b.example"], Names::of(&["b.example"]), Some("every bundle of the policy is missing")),
];

#[tokio::test]
async fn a_certificate_is_taken_if_its_chain_its_time_and_one_name_are_right() {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let server = Server::start(right.server(&Names::of(&["a.example"]))).await;
    for (hostname, bundles, names, shown, refusal) in CASES {
        server.show(right.server(shown));
        let tls = compile(&validation(hostname, Some(bundles), names), &[("right", &right), ("wrong", &wrong)], None);
        let said = shake(&tls, &server).await.map(drop).map_err(|error| error.to_string());
        let what = format!("{hostname} {bundles:?} {names:?} {shown:?}: {said:?}");
        match refusal {
            None => assert_eq!(said, Ok(()), "{what}"),
            Some(text) => assert!(said.is_err_and(|said| said.contains("is refused") && said.contains(text)), "{what}"),
        }
    }
}

#[tokio::test]
async fn what_is_not_tls_fails_and_the_systems_authorities_know_nothing_of_ours() {
    let authority = Authority::new("right");
    let server = Server::start(authority.server(&Names::of(&["a.example"]))).await;
    let system = compile(&validation("a.example", None, &[]), &[], None);
    assert!(matches!(shake(&system, &server).await, Err(UpstreamTlsError::Refused(_))));
    let wildcard = compile(&validation("*.example", None, &[]), &[], None);
    assert!(matches!(shake(&wildcard, &server).await, Err(UpstreamTlsError::Name(_))));
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = plain.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut socket, _) = plain.accept().await.expect("a connection");
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("sent");
    });
    let error = system.connect(TcpStream::connect(address).await.expect("it listens"), None).await.expect_err("no TLS");
    assert!(matches!(error, UpstreamTlsError::Handshake(_)), "{error}");
}

#[test]
fn what_a_policy_is_made_of_decides_whether_it_is_kept() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let policy = validation("a.example", Some(&["ca"]), &[]);
    let first = compile(&policy, &[("ca", &one)], None);
    let again = compile(&policy, &[("ca", &one), ("other", &two)], Some(&first));
    assert!(Arc::ptr_eq(&first, &again));
    for (validation, bundle) in [
        (policy.clone(), &two),
        (validation("b.example", Some(&["ca"]), &[]), &one),
        (validation("a.example", Some(&["ca"]), &["a.example"]), &one),
        (validation("a.example", None, &[]), &one),
    ] {
        let changed = compile(&validation, &[("ca", bundle)], Some(&first));
        assert!(!Arc::ptr_eq(&first, &changed) && first.id != changed.id);
    }
    assert!(!Arc::ptr_eq(&first, &compile(&policy, &[], Some(&first))), "its bundle has gone");
}

#[test]
fn a_bundle_with_a_broken_certificate_is_the_others() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_base64 = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n-----BEGIN CERT\n";
    let bundle = Bundle { certificates: [&one.pem, broken, no_base64, &two.pem].concat() };
    assert_eq!(crate::tls::client::certificates_of(&bundle).count(), 3, "for clients and backends alike");
    let authorities = Authorities::of([&bundle].into_iter());
    assert_eq!((authorities.store.len(), authorities.pingora.map(|list| list.len())), (2, Some(2)));
    let none = Authorities::of([&Bundle { certificates: "no PEM".to_owned() }].into_iter());
    assert!(none.store.is_empty() && none.pingora.is_some_and(|list| list.is_empty()));
}

#[tokio::test]
async fn sessions_are_resumed_but_not_by_probes_and_not_with_another_certificate() {
    let authority = Authority::new("right");
    let server = Server::start(authority.server(&Names::of(&["a.example"]))).await;
    let tls = compile(&validation("a.example", Some(&["ca"]), &[]), &[("ca", &authority)], None);
    let certificate = pki::client_certificate(&authority, "one", 7);
    let mut resumed = Vec::new();
    for client in [None, None, Some(&certificate), Some(&certificate), None] {
        let stream = TcpStream::connect(server.address).await.expect("it listens");
        let mut stream = tls.connect(stream, client.map(AsRef::as_ref)).await.expect("it is right");
        // Tickets come with the first answer.
        server::ask(&mut stream).await;
        resumed.push(stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed));
    }
    assert_eq!(resumed, [false, true, false, true, true]);
    for _ in 0..2 {
        tls.probe(server.address, &Caller::of_nobody(), None).await.expect("it is right");
    }
    // The server may be the last to know.
    while server.handshakes().0 + server.handshakes().1 < 7 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.handshakes(), (4, 3), "full and resumed ones");
}

/// A session keeps the certificate of its first handshake.
#[tokio::test]
async fn no_session_outlives_its_certificate() {
    let authority = Authority::new("right");
    let names = Names::of(&["a.example"]);
    let tls = compile(&validation("a.example", Some(&["ca"]), &[]), &[("ca", &authority)], None);
    // Certificates know whole seconds only.
    let end = std::time::SystemTime::now() + Duration::from_secs(3);
    let server = Server::start(authority.server_until(&names, end)).await;
    for expected in [false, true] {
        let mut stream = shake(&tls, &server).await.expect("it is right");
        server::ask(&mut stream).await;
        assert_eq!(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed), expected);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let error = shake(&tls, &server).await.expect_err("it has expired");
    assert!(matches!(error, UpstreamTlsError::Outlived) && error.is_refusal(), "{error}");
    let error = shake(&tls, &server).await.expect_err("it has expired").to_string();
    assert!(error.contains("it has expired"), "a full handshake: {error}");
    server.show(authority.server(&names));
    shake(&tls, &server).await.expect("it is right again");
}

#[tokio::test]
async fn those_who_wait_for_a_probe_share_it_and_a_failure_is_remembered() {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let server = Server::start(right.server(&Names::of(&["a.example"]))).await;
    let policy = |bundle| {
        let bundles = [("right", &right), ("wrong", &wrong)];
        compile(&validation("a.example", Some(&[bundle]), &["a.example"]), &bundles, None)
    };
    let leaf = policy("right").probe(server.address, &Caller::of_nobody(), None).await.expect("it is right");
    let admit = |tls: &Arc<UpstreamTls>| {
        let (tls, address) = (tls.clone(), server.address);
        async move {
            let caller = Caller::of_nobody();
            let probe = tls.probe(address, &caller, None);
            tls.proofs.admit(&leaf, (address, None), probe, Duration::from_secs(5)).await.is_ok()
        }
    };
    let (good, bad) = (policy("right"), policy("wrong"));
    let all = |tls: &Arc<UpstreamTls>| {
        let admissions: Vec<_> = (0..20).map(|_| admit(tls)).collect();
        futures_of(admissions.into_iter())
    };
    assert!(all(&good).await.into_iter().all(|admitted| admitted));
    assert!(admit(&good).await);
    assert_eq!(server.connections(), 2);
    assert!(all(&bad).await.into_iter().all(|admitted| !admitted));
    assert!(!admit(&bad).await);
    assert_eq!(server.connections(), 3);
    assert!(bad.failure(server.address, (&Caller::of_nobody(), None)).is_some_and(|failure| failure.is_refusal()));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(bad.failure(server.address, (&Caller::of_nobody(), None)).is_none());
    assert!(!admit(&bad).await);
    assert_eq!(server.connections(), 4);
}

async fn futures_of<T: Send + 'static>(all: impl Iterator<Item = impl Future<Output = T> + Send + 'static>) -> Vec<T> {
    let tasks: Vec<_> = all.map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.expect("it ends"));
    }
    results
}

#[test]
fn a_client_certificate_is_kept_while_it_is_the_same_and_replaced_by_none_that_is_broken() {
    let authority = Authority::new("one");
    let (one, two) = (pki::pair(&authority, "one", 7), pki::pair(&authority, "two", 7));
    let key: isthmus_routing::CertificateKey = "Secret/a/b".parse().expect("a key");
    let gateway = isthmus_routing::Gateway { client_certificate: Some(key.clone()), ..isthmus_routing::Gateway::default() };
    let of = |certificate: Option<&isthmus_routing::Certificate>, previous: Option<&Arc<ClientCertificate>>| {
        let certificates = certificate.map(|certificate| (key.clone(), Arc::new(certificate.clone()))).into_iter().collect();
        ClientCertificate::of(&gateway, &Snapshot { certificates, ..Snapshot::default() }, previous)
    };
    let first = of(Some(&one), None).expect("it is right");
    let same = of(Some(&one), Some(&first)).expect("it is right");
    assert!(Arc::ptr_eq(&first, &same));
    let second = of(Some(&two), Some(&first)).expect("it is right");
    assert!(second.id() != first.id());
    let broken = isthmus_routing::Certificate { chain: one.chain.clone(), key: two.key.clone() };
    assert!(of(Some(&broken), Some(&first)).is_some_and(|kept| Arc::ptr_eq(&kept, &first)));
    assert!(of(Some(&broken), None).is_none());
    assert!(of(None, Some(&first)).is_none(), "what is deleted is not shown");
    let nothing = isthmus_routing::Gateway::default();
    assert!(ClientCertificate::of(&nothing, &Snapshot::default(), Some(&first)).is_none());
}

#[test]
fn connections_are_shared_only_between_equals() {
    let authority = Authority::new("one");
    let tls = |names: &[&str]| compile(&validation("a.example", Some(&["ca"]), names), &[("ca", &authority)], None);
    let (one, two, with_names) = (tls(&[]), tls(&[]), tls(&["a.example"]));
    // Pingora tells certificates apart by these serial numbers only.
    let (first, second) = (pki::client_certificate(&authority, "one", 7), pki::client_certificate(&authority, "two", 7));
    let caller = |certificate: Option<&Arc<ClientCertificate>>, port| Caller {
        certificate: certificate.cloned(),
        ends: Ends { source: ([192, 0, 2, 1], port).into(), ..Caller::of_nobody().ends },
    };
    let v1 = Some(ProxyProtocol::V1);
    let variants = [
        (Some(&one), None, caller(None, 1), 0),
        (Some(&two), None, caller(None, 1), 0),
        (Some(&with_names), None, caller(None, 1), 0),
        (Some(&one), None, caller(Some(&first), 1), 0),
        (Some(&one), None, caller(Some(&second), 1), 0),
        (Some(&one), None, caller(None, 1), 1),
        (Some(&one), v1, caller(None, 1), 0),
        (Some(&one), v1, caller(None, 2), 0),
        (None, v1, caller(None, 1), 0),
        (None, Some(ProxyProtocol::V2), caller(None, 1), 0),
    ];
    let hash = |(tls, version, caller, kind): &(Option<&Arc<UpstreamTls>>, Option<ProxyProtocol>, Caller, i32)| {
        use pingora_core::upstreams::peer::Peer;
        let mut peer = HttpPeer::new(SocketAddr::from(([127, 0, 0, 1], 1)), tls.is_some(), "a.example".to_owned());
        personalise(&mut peer, (tls.map(AsRef::as_ref), *version), caller, kind);
        peer.reuse_hash()
    };
    for (i, one) in variants.iter().enumerate() {
        assert_eq!(hash(one), hash(&one.clone()));
        assert!(variants[i + 1..].iter().all(|other| hash(one) != hash(other)), "{i}");
    }
    // Who the client is, and what it is shown, is of no matter where nobody is told.
    let plain = |caller: &Caller| hash(&(Some(&one), None, caller.clone(), 0));
    assert_eq!(plain(&caller(None, 1)), plain(&caller(None, 2)));
}
