//! What comes to a workload, from real sockets.

pub(crate) mod bed;

use std::sync::Arc;
use std::time::Instant;

use isthmus_routing::Certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::identity::tests::pki::{Authority, Leaf, pair, shown, stolen};
use crate::identity::tests::{cases, snapshot};
use crate::telemetry::heard::Heard;
use crate::upstream::PROVIDER;
use bed::Bed;

const OWN: &str = "cart.shop.sa.cluster.local";

/// Whoever the server is.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

fn client(certificate: Option<&Certificate>, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(versions)
        .expect("ring has suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match certificate.map(shown) {
        Some(shown) => builder.with_client_cert_resolver(shown),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn shake(bed: &Bed, name: &'static str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(bed.address).await?;
    TlsConnector::from(config).connect(name.try_into().expect("a name"), socket).await
}

async fn call(bed: &Bed, name: &'static str, certificate: Option<&Certificate>) -> io::Result<()> {
    ping(&mut shake(bed, name, client(certificate, rustls::ALL_VERSIONS, &[])).await?).await
}

/// There and back.
async fn ping<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// An application that sends back what it gets, after a greeting.
async fn application(greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                socket.write_all(greeting.as_bytes()).await?;
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

async fn echo() -> SocketAddr {
    application("").await
}

#[tokio::test]
async fn clients_are_served_if_they_are_workloads() {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let heard = Heard::listen();
    let bed = Bed::start(echo().await, Limits::default()).await;
    bed.serve(snapshot(&right.pem, &[]), MtlsMode::Strict, Some(&right.sign(&Leaf::of("cart"))));
    let check = async |what: &str, certificate: Option<Certificate>, fault: Option<&str>| {
        let before = bed.faults(fault.unwrap_or("none"));
        let served = call(&bed, OWN, certificate.as_ref()).await;
        match fault {
            None => served.unwrap_or_else(|error| panic!("{what}: {error}")),
            Some(fault) => {
                assert!(served.is_err(), "{what} is served");
                bed.refused(before, fault).await;
            }
        }
    };
    for (what, leaf, refusal) in cases() {
        let fault = match refusal {
            Some("expired") => Some("client_certificate_expired"),
            Some("not valid yet") => Some("client_certificate_not_yet_valid"),
            Some(_) => Some("client_certificate_invalid"),
            None => None,
        };
        check(what, Some(right.sign(&leaf)), fault).await;
    }
    let server_only = Leaf::of("cart").with(|leaf| leaf.purposes.truncate(1));
    for (what, certificate, fault) in [
        ("anybody of the mesh", Some(right.sign(&Leaf::of("other"))), None),
        ("an authority between", Some(right.below("between").sign(&Leaf::of("other"))), None),
        ("another's certificate", Some(stolen(right.sign(&Leaf::of("other")))), Some("client_certificate_invalid")),
        (
            "an authority for other names",
            Some(right.below_for("other.example").sign(&Leaf::of("other"))),
            Some("client_certificate_invalid"),
        ),
        ("another authority", Some(wrong.sign(&Leaf::of("other"))), Some("client_certificate_unknown_authority")),
        ("no certificate", None, Some("client_certificate_absent")),
        ("for servers only", Some(right.sign(&server_only)), Some("client_certificate_invalid")),
    ] {
        check(what, certificate, fault).await;
    }
    let served = ["isthmus_stream_connections_total", "direction=\"inbound\"", "source_namespace=\"shop\""];
    while bed.count(&[&served[..], &["source_account=\"other\"", "result=\""]].concat()) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bed.count(&["isthmus_stream_connections_total", "source_account=\"other\""]), 2, "by source");
    for (reason, why, what_to_do) in [
        ("client_certificate_expired", "it has expired", "its own log says why; or the clocks of the two nodes differ"),
        ("client_certificate_not_yet_valid", "it is not valid yet", "set it (NTP)"),
        ("client_certificate_unknown_authority", "no authority of the mesh has signed it", "docs/mesh-identity.md"),
        ("client_certificate_absent", "", "let whoever calls do so without the server name"),
        ("client_certificate_invalid", "is not one of a workload of the trust domain", "find out who has"),
    ] {
        let line = [&format!("reason=\"{reason}\"")[..], why, what_to_do];
        heard.line(&line).await;
        assert_eq!(heard.count(&line[..1]), 1, "not for each: {reason}");
    }
}

#[tokio::test]
async fn what_is_asked_of_clients_is_for_the_mode_to_say() {
    use MtlsMode::{Permissive, Strict};
    let heard = Heard::listen();
    let authority = Authority::new("one");
    let bed = Bed::start(echo().await, Limits { handshake: Duration::from_millis(500), ..Limits::default() }).await;
    let (own, caller) = (authority.sign(&Leaf::of("cart")), authority.sign(&Leaf::of("caller")));
    let plain = async |bytes: &[u8]| {
        let mut socket = TcpStream::connect(bed.address).await.expect("it listens");
        socket.write_all(bytes).await?;
        let mut answer = vec![0; bytes.len()];
        socket.read_exact(&mut answer).await.map(|_| assert_eq!(answer, bytes))
    };
    let mesh = Some(&authority.pem);
    for (what, mesh, mode, certificate, name, bytes, fault) in [
        ("mTLS", mesh, Strict, Some(&own), OWN, "", None),
        ("mTLS", mesh, Permissive, Some(&own), OWN, "", None),
        ("another's identity", mesh, Strict, Some(&own), "other.shop.sa.cluster.local", "", Some("other_identity")),
        ("another's identity", mesh, Permissive, Some(&own), "other.shop.sa.cluster.local", "", Some("other_identity")),
        ("we have no certificate", mesh, Strict, None, OWN, "", Some("no_certificate")),
        ("we have no certificate", mesh, Permissive, None, OWN, "", Some("no_certificate")),
        ("plaintext, and we have no certificate", mesh, Strict, None, "", "GET / HTTP/1.1\r\n\r\n", Some("plaintext")),
        ("plaintext, and we have no certificate", mesh, Permissive, None, "", "GET / HTTP/1.1\r\n\r\n", None),
        ("we know no authority", None, Strict, Some(&own), OWN, "", Some("no_certificate")),
        ("plaintext", mesh, Strict, Some(&own), "", "GET / HTTP/1.1\r\n\r\n", Some("plaintext")),
        ("plaintext", mesh, Permissive, Some(&own), "", "GET / HTTP/1.1\r\n\r\n", None),
        ("plaintext without a mesh", None, Permissive, Some(&own), "", "GET / HTTP/1.1\r\n\r\n", None),
        ("no ClientHello at all", mesh, Permissive, Some(&own), "", "\x16\x03\x01\x00\x05hello", None),
        ("no ClientHello at all", mesh, Strict, Some(&own), "", "\x16\x03\x01\x00\x05hello", Some("plaintext")),
        ("half of one", mesh, Permissive, Some(&own), "", "\x16\x03\x01\x01\x00\x01\x00\x00", None),
        ("half of one", mesh, Strict, Some(&own), "", "\x16\x03\x01\x01\x00\x01\x00\x00", Some("plaintext")),
    ] {
        let snapshot = mesh.map_or_else(Default::default, |authorities| snapshot(authorities, &[]));
        bed.idle().await;
        bed.serve(snapshot, mode, certificate);
        let before = bed.faults(fault.unwrap_or("none"));
        let served = if name.is_empty() { plain(bytes.as_bytes()).await } else { call(&bed, name, Some(&caller)).await };
        match fault {
            None => served.unwrap_or_else(|error| panic!("{what} {mode:?}: {error}")),
            Some(fault) => {
                assert!(served.is_err(), "{what} {mode:?} is served");
                bed.refused(before, fault).await;
            }
        }
    }
    bed.serve(snapshot(&authority.pem, &[]), Strict, Some(&own));
    let before = bed.faults("client_hello_timeout");
    let mut silent = TcpStream::connect(bed.address).await.expect("it listens");
    assert!(silent.read_u8().await.is_err());
    bed.refused(before, "client_hello_timeout").await;
    for (reason, why, what_to_do) in [
        (
            "other_identity",
            "`other.shop.sa.cluster.local`, and this is `cart.shop.sa.cluster.local`",
            "isthmus_controller_sidecars_waiting",
        ),
        ("no_certificate", "there is no certificate", "of the controller and of the certificate is why"),
        ("plaintext", "has not proved to be a workload", "isthmus.dev/mtls-ports"),
        ("client_hello_timeout", "has said nothing", "isthmus.dev/inject: enabled"),
    ] {
        let line = [&format!("reason=\"{reason}\"")[..], why, what_to_do];
        heard.line(&line).await;
        assert_eq!(heard.count(&line[..1]), 1, "not for each: {reason}");
    }
}

#[tokio::test]
async fn who_is_served_in_the_clear_is_cut_off_when_that_is_forbidden() {
    let authority = Authority::new("one");
    let bed = Bed::start(echo().await, Limits::default()).await;
    let (own, caller) = (authority.sign(&Leaf::of("cart")), authority.sign(&Leaf::of("caller")));
    let serve = |mode, certificate| bed.serve(snapshot(&authority.pem, &[]), mode, certificate);
    serve(MtlsMode::Permissive, Some(&own));
    let mut plain = TcpStream::connect(bed.address).await.expect("it listens");
    let mut proven = shake(&bed, OWN, client(Some(&caller), rustls::ALL_VERSIONS, &[])).await.expect("served");
    for certificate in [Some(&own), None] {
        ping(&mut plain).await.expect("served in the clear");
        ping(&mut proven).await.expect("served by mTLS");
        serve(MtlsMode::Permissive, certificate);
    }
    let before = bed.faults("plaintext");
    serve(MtlsMode::Strict, Some(&own));
    assert!(plain.read_u8().await.is_err());
    bed.refused(before, "plaintext").await;
    assert_eq!(bed.count(&["isthmus_stream_connections_total", "result=\"plaintext\""]), 1);
    ping(&mut proven).await.expect("served by mTLS");
}

#[tokio::test]
async fn the_applications_own_tls_passes_where_it_may() {
    let authority = Authority::new("one");
    let (chain, key) = pair(&authority.sign(&Leaf::of("application")));
    let config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()
        .expect("both versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they fit");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(acceptor.accept(socket).await?);
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let bed = Bed::start(address, Limits::default()).await;
    let own = authority.sign(&Leaf::of("cart"));
    bed.serve(snapshot(&authority.pem, &[]), MtlsMode::Permissive, Some(&own));
    for name in ["shop.example", "sa.cluster.local"] {
        call(&bed, name, None).await.expect("it is the application's");
    }
    bed.idle().await;
    bed.serve(snapshot(&authority.pem, &[]), MtlsMode::Strict, Some(&own));
    let before = bed.faults("plaintext");
    assert!(call(&bed, "shop.example", None).await.is_err());
    bed.refused(before, "plaintext").await;
}

#[tokio::test]
async fn mtls_is_tls_1_3_without_sessions_and_agrees_on_what_the_client_speaks() {
    let authority = Authority::new("one");
    let bed = Bed::start(echo().await, Limits::default()).await;
    let (own, caller) = (authority.sign(&Leaf::of("cart")), authority.sign(&Leaf::of("caller")));
    bed.serve(snapshot(&authority.pem, &[]), MtlsMode::Strict, Some(&own));
    let before = bed.faults("handshake");
    assert!(shake(&bed, OWN, client(Some(&caller), &[&rustls::version::TLS12], &[])).await.is_err());
    bed.refused(before, "handshake").await;
    for alpn in [&["h2"][..], &["http/1.1"], &[]] {
        let mut stream = shake(&bed, OWN, client(Some(&caller), rustls::ALL_VERSIONS, alpn)).await.expect("agreed");
        ping(&mut stream).await.expect("served");
        assert_eq!(stream.get_ref().1.alpn_protocol(), alpn.first().map(|name| name.as_bytes()));
    }
    let config = client(Some(&caller), rustls::ALL_VERSIONS, &[]);
    for _ in 0..3 {
        let mut stream = shake(&bed, OWN, config.clone()).await.expect("served");
        ping(&mut stream).await.expect("served");
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let authority = Authority::new("one");
    let bed = Bed::start(application("220 ready\r\n").await, Limits::default()).await;
    let (own, caller) = (authority.sign(&Leaf::of("cart")), authority.sign(&Leaf::of("caller")));
    let greeting = async |stream: &mut (dyn AsyncRead + Unpin + Send)| {
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).await.map(|_| assert_eq!(&greeting, b"220 ready\r\n"))
    };
    // A stranger, and somebody who is known to have a sidecar and does without.
    for (workloads, atleast, most) in [(&[][..], STRANGER, MEMBER), (&[("caller", "127.0.0.1")], MEMBER, MEMBER * 4)] {
        bed.serve(snapshot(&authority.pem, workloads), MtlsMode::Permissive, Some(&own));
        let started = Instant::now();
        let mut socket = TcpStream::connect(bed.address).await.expect("it listens");
        greeting(&mut socket).await.expect("served");
        assert!((atleast..most).contains(&started.elapsed()), "{:?}", started.elapsed());
        ping(&mut socket).await.expect("served");
    }
    for mode in [MtlsMode::Permissive, MtlsMode::Strict] {
        bed.serve(snapshot(&authority.pem, &[]), mode, Some(&own));
        let mut stream = shake(&bed, OWN, client(Some(&caller), rustls::ALL_VERSIONS, &[])).await.expect("served");
        greeting(&mut stream).await.expect("served");
        ping(&mut stream).await.expect("served");
    }
}

/// Packets are lost, and nobody is in a hurry.
#[tokio::test]
async fn who_is_late_is_served_as_he_asks_to_be() {
    let authority = Authority::new("one");
    let bed = Bed::start(echo().await, Limits::default()).await;
    let (own, caller) = (authority.sign(&Leaf::of("cart")), authority.sign(&Leaf::of("caller")));
    bed.serve(snapshot(&authority.pem, &[]), MtlsMode::Permissive, Some(&own));
    let late = async || {
        let socket = TcpStream::connect(bed.address).await.expect("it listens");
        tokio::time::sleep(STRANGER * 4).await;
        socket
    };
    ping(&mut late().await).await.expect("served in the clear");
    let connector = TlsConnector::from(client(Some(&caller), rustls::ALL_VERSIONS, &[]));
    let mut stream = connector.connect(OWN.try_into().expect("a name"), late().await).await.expect("served");
    ping(&mut stream).await.expect("served by mTLS");
}

#[tokio::test]
async fn connections_outlive_certificates_and_authorities_that_overlap() {
    // Of one name, as an authority is that is made anew.
    let (old, new) = (Authority::new("root"), Authority::new("root"));
    let bed = Bed::start(echo().await, Limits::default()).await;
    let both = format!("{}{}", old.pem, new.pem);
    let sign = |authority: &Authority, account| authority.sign(&Leaf::of(account));
    let mut open = Vec::new();
    // What is believed, who has signed the server's certificate and the client's: the roots are there first, and go last.
    for (believed, server, caller) in [
        (&old.pem, &old, &old),
        (&both, &old, &old),
        (&both, &new, &old),
        (&both, &old, &new),
        (&both, &new, &new),
        (&new.pem, &new, &new),
    ] {
        bed.serve(snapshot(believed, &[]), MtlsMode::Strict, Some(&sign(server, "cart")));
        let config = client(Some(&sign(caller, "caller")), rustls::ALL_VERSIONS, &[]);
        open.push(shake(&bed, OWN, config).await.expect("served"));
        for stream in &mut open {
            ping(stream).await.expect("what is open stays");
        }
    }
    let before = bed.faults("client_certificate_unknown_authority");
    assert!(call(&bed, OWN, Some(&sign(&old, "caller"))).await.is_err());
    bed.refused(before, "client_certificate_unknown_authority").await;
}

/// The caller knows an address as another pod's, whose it was a moment ago: by streams here, by HTTP in `upstream/tests/mesh`.
#[tokio::test]
async fn an_address_that_is_anothers_by_now_is_told_on_both_sides() {
    let heard = Heard::listen();
    let authority = Authority::new("one");
    let bed = Bed::start(echo().await, Limits::default()).await;
    bed.serve(snapshot(&authority.pem, &[]), MtlsMode::Permissive, Some(&authority.sign(&Leaf::of("cart"))));
    let before = bed.faults("other_identity");
    let own = Arc::new(authority.sign(&Leaf::of("caller")));
    let former = snapshot(&authority.pem, &[("former", "127.0.0.1")]);
    let membership = Membership::compile(&former, Some(own), &[], None).expect("there is a mesh");
    let tls = membership.upstream(&bed.address).expect("it is a workload's");
    let refused = tls.connect(TcpStream::connect(bed.address).await.expect("it listens"), None).await.map(drop);
    let error = refused.expect_err("it is another one");
    assert!(error.is_refusal() && error.to_string().contains("says that it is another one"), "{error}");
    bed.refused(before, "other_identity").await;
    for _ in 0..2 {
        tls.complain(&bed.address, &error);
    }
    let told = ["for `former.shop.sa.cluster.local`, is refused", "Nothing was sent", "the controller tells within seconds"];
    assert_eq!(heard.count(&told), 1);
    heard
        .line(&["`former.shop.sa.cluster.local`, and this is `cart.shop.sa.cluster.local`", "within seconds: if this goes on"])
        .await;
}

#[tokio::test]
async fn a_workload_that_is_not_there_resets_its_clients() {
    let authority = Authority::new("one");
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    let bed = Bed::start(nobody, Limits::default()).await;
    bed.serve(snapshot(&authority.pem, &[]), MtlsMode::Permissive, Some(&authority.sign(&Leaf::of("cart"))));
    assert!(call(&bed, OWN, Some(&authority.sign(&Leaf::of("caller")))).await.is_err());
    let mut socket = TcpStream::connect(bed.address).await.expect("it listens");
    assert!(ping(&mut socket).await.is_err());
    assert_eq!(bed.count(&["isthmus_stream_connections_total", "result=\"unreachable\""]), 2);
}
