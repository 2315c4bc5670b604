//! Handshakes with a rustls client, against listeners that follow snapshots.

mod clients;
mod kept;

use std::net::Ipv4Addr;

use isthmus_routing::{Gateway, Hostname};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, Instant};

use super::accept::{Hosts, Taker, TlsError, greet};
use super::*;
use crate::connection::{Alpn, TlsInfo};
use crate::limits::Limits;

fn gateway() -> GatewayKey {
    GatewayKey { namespace: "infra".to_owned(), name: "edge".to_owned() }
}

fn secret(name: &str) -> CertificateKey {
    CertificateKey { namespace: "infra".to_owned(), name: name.to_owned() }
}

fn certificate(names: &[&str]) -> Arc<Certificate> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    Arc::new(Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() })
}

fn listener(name: &str, hostname: Option<&str>, certificates: &[&str]) -> Listener {
    Listener {
        hostname: hostname.map(|name| name.parse::<Hostname>().expect("a hostname")),
        certificates: certificates.iter().map(|name| secret(name)).collect(),
        ..Listener::new(name.to_owned(), 443, Protocol::Https)
    }
}

fn snapshot(listeners: &[Listener], certificates: &[(&str, &Arc<Certificate>)]) -> Snapshot {
    let edge = Gateway { addresses: vec![Ipv4Addr::LOCALHOST.into()], listeners: listeners.to_vec(), ..Gateway::default() };
    Snapshot {
        gateways: [(gateway(), Arc::new(edge))].into(),
        certificates: certificates.iter().map(|(name, certificate)| (secret(name), (*certificate).clone())).collect(),
        ..Snapshot::default()
    }
}

fn hosts(listeners: &Listeners, source: &[Listener]) -> Hosts {
    let config = |listener: &Listener| listeners.config(&gateway(), &listener.name).expect("it is HTTPS");
    source.iter().map(|listener| (listener.hostname.as_ref(), Taker::Http(config(listener)))).collect()
}

/// All the way to a listener of HTTPS.
async fn accept(
    socket: TcpStream,
    hosts: &Hosts,
    deadline: Instant,
    limits: &Limits,
) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, TlsInfo), TlsError> {
    let greeted = greet(socket, hosts, deadline, limits).await?;
    let Taker::Http(ending) = greeted.taker else { panic!("only HTTPS here") };
    ending.shake((greeted.accepted, greeted.name), greeted.socket, deadline, limits).await
}

/// Takes any certificate: which one it is, is what the tests look at.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client(alpn: &[&str]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

struct Shaken {
    server: Result<TlsInfo, TlsError>,
    client: Result<(Vec<u8>, bool), std::io::Error>,
}

/// One connection: what the server knows; the leaf that the client saw and whether the session was resumed.
async fn shake(hosts: &Hosts, config: &Arc<ClientConfig>, name: &'static str) -> Shaken {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let client = async move {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name).expect("a name");
        let mut stream = connector.connect(name, socket).await?;
        // Tickets of TLS 1.3 come after the handshake.
        stream.read_u8().await?;
        let session = stream.get_ref().1;
        let leaf = session.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
        Ok((leaf.unwrap_or_default(), session.handshake_kind() == Some(rustls::HandshakeKind::Resumed)))
    };
    let server = async {
        let (socket, _) = listener.accept().await?;
        let deadline = Instant::now() + Duration::from_secs(5);
        let (mut stream, info) = accept(socket, hosts, deadline, &Limits::default()).await?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        Ok(info)
    };
    let (server, client) = tokio::join!(server, client);
    Shaken { server, client }
}

fn leaf(certificate: &Certificate) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(certificate.chain.as_bytes()).expect("PEM").to_vec()
}

#[tokio::test]
async fn the_name_chooses_listener_and_certificate() {
    let (a, b, any) = (certificate(&["a.test"]), certificate(&["*.b.test"]), certificate(&["other.test"]));
    let source = [
        listener("a", Some("a.test"), &["a"]),
        listener("b", Some("*.b.test"), &["any", "b"]),
        listener("any", None, &["any", "a"]),
    ];
    let mut listeners = Listeners::default();
    listeners.update(&snapshot(&source, &[("a", &a), ("b", &b), ("any", &any)]));
    let hosts = hosts(&listeners, &source);
    for (name, server_name, expected) in [
        ("a.test", Some("a.test"), &a),
        ("A.Test", Some("a.test"), &a),
        ("x.b.test", Some("x.b.test"), &b),
        ("x.y.b.test", Some("x.y.b.test"), &any),
        ("unknown.test", Some("unknown.test"), &any),
        ("127.0.0.1", None, &any),
    ] {
        let shaken = shake(&hosts, &client(&["h2", "http/1.1"]), name).await;
        let info = shaken.server.expect("a handshake");
        assert_eq!((info.server_name.as_deref(), info.alpn, info.version), (server_name, Some(Alpn::Http2), "TLSv1.3"), "{name}");
        assert_eq!(shaken.client.expect("a handshake").0, leaf(expected), "{name}");
    }
    let shaken = shake(&hosts, &client(&[]), "a.test").await;
    assert_eq!(shaken.server.expect("a handshake").alpn, None);
    assert!(shake(&hosts, &client(&["spdy/3"]), "a.test").await.server.is_err(), "no protocol in common");
}

#[tokio::test]
async fn a_name_that_nobody_takes_gets_an_alert() {
    let source = [listener("a", Some("a.test"), &["a"])];
    let mut listeners = Listeners::default();
    listeners.update(&snapshot(&source, &[("a", &certificate(&["a.test"]))]));
    let shaken = shake(&hosts(&listeners, &source), &client(&[]), "b.test").await;
    assert!(matches!(shaken.server, Err(TlsError::Name(Some(name))) if name == "b.test"));
    let error = shaken.client.expect_err("refused").to_string();
    assert!(error.contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn plain_http_gets_a_plain_answer() {
    let bound = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut client = TcpStream::connect(bound.local_addr().expect("bound")).await.expect("listening");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("is taken");
    let (socket, _) = bound.accept().await.expect("connected");
    let talk = async {
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("an end, not a reset");
        drop(client);
        text
    };
    let source = [listener("a", None, &[])];
    let mut listeners = Listeners::default();
    listeners.update(&snapshot(&source, &[]));
    let hosts = hosts(&listeners, &source);
    let limits = Limits::default();
    let (server, text) = tokio::join!(accept(socket, &hosts, Instant::now() + Duration::from_secs(5), &limits), talk);
    assert!(matches!(server, Err(TlsError::NotTls)));
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n") && text.ends_with("use https:// for the URL"), "{text}");
}

/// What a client says first may be long, and rustls has it already.
#[tokio::test]
async fn a_hello_is_kept_only_where_it_may_be_passed_on() {
    let source = [listener("a", Some("a.test"), &[])];
    let mut listeners = Listeners::default();
    listeners.update(&snapshot(&source, &[]));
    let ending = Taker::Http(listeners.config(&gateway(), "a").expect("it is HTTPS"));
    let other: Hostname = "b.test".parse().expect("a hostname");
    let long = client(&["x".repeat(200).as_str(); 200]);
    for (name, with_passthrough, kept) in [("a.test", false, false), ("a.test", true, false), ("b.test", true, true)] {
        let mut hello = Vec::new();
        let mut connection = rustls::ClientConnection::new(long.clone(), name.try_into().expect("a name")).expect("a client");
        while connection.wants_write() {
            connection.write_tls(&mut hello).expect("into memory");
        }
        assert!(hello.len() > 40_000, "{}", hello.len());
        let takers = [(source[0].hostname.as_ref(), ending.clone()), (Some(&other), Taker::PassThrough)];
        let hosts: Hosts = takers.into_iter().take(1 + usize::from(with_passthrough)).collect();
        let bound = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut client = TcpStream::connect(bound.local_addr().expect("bound")).await.expect("listening");
        client.write_all(&hello).await.expect("is taken");
        let (mut socket, _) = bound.accept().await.expect("connected");
        if !with_passthrough {
            let mut read = Vec::with_capacity(2048);
            let peeked = socket.peek(&mut [0; 1]).await.expect("it has come");
            assert_eq!(peeked, 1);
            super::accept::read_hello(&mut socket, &mut read, false, &Limits::default()).await.expect("open").expect("a hello");
            assert!(read.capacity() <= 2048, "{}", read.capacity());
            continue;
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        let greeted = greet(socket, &hosts, deadline, &Limits::default()).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(greeted.read, if kept { hello } else { Vec::new() }, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_handshake_ends_at_the_deadline() {
    for (sent, expected) in [(&[0x16, 0x03, 0x01, 0x02, 0x00][..], "HelloTimeout"), (&[], "HelloTimeout")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listening");
        client.write_all(sent).await.expect("is taken");
        let (socket, _) = listener.accept().await.expect("connected");
        let start = Instant::now();
        let result = accept(socket, &Hosts::default(), start + Duration::from_secs(10), &Limits::default()).await;
        assert_eq!(format!("{:?}", result.expect_err("no handshake")), expected);
        assert_eq!(start.elapsed().as_secs(), 10);
    }
}

#[tokio::test]
async fn certificates_are_swapped_and_the_last_good_one_is_kept() {
    let (old, new) = (certificate(&["a.test"]), certificate(&["a.test"]));
    let broken = Arc::new(Certificate { chain: new.chain.clone(), key: old.key.clone() });
    let source = [listener("a", Some("a.test"), &["a"])];
    let mut listeners = Listeners::default();

    listeners.update(&snapshot(&source, &[]));
    let hosts = hosts(&listeners, &source);
    let fault = listeners.fault(&gateway(), "a").expect("nothing to show");
    assert!(fault.starts_with("every handshake fails: Secret/infra/a is not there"), "{fault}");
    assert!(shake(&hosts, &client(&[]), "a.test").await.client.is_err());

    // `hosts` stays: a listener's config lives as long as the listener.
    type Step<'a> = (&'a [(&'a str, &'a Arc<Certificate>)], &'a Arc<Certificate>, Option<&'a str>);
    let steps: [Step<'_>; 5] = [
        (&[("a", &old)], &old, None),
        (&[("a", &broken)], &old, Some("Secret/infra/a cannot be used: tls.key does not fit tls.crt")),
        (&[], &old, Some("Secret/infra/a is not there")),
        (&[("a", &new)], &new, None),
        (&[], &new, Some("the last good one is still shown")),
    ];
    for (number, (certificates, shown, fault)) in steps.into_iter().enumerate() {
        listeners.update(&snapshot(&source, certificates));
        assert_eq!(shake(&hosts, &client(&[]), "a.test").await.client.expect("a handshake").0, leaf(shown), "step {number}");
        let said = listeners.fault(&gateway(), "a");
        assert_eq!(said.is_some(), fault.is_some(), "step {number}: {said:?}");
        assert!(said.unwrap_or_default().contains(fault.unwrap_or_default()), "step {number}");
    }

    listeners.update(&snapshot(&[listener("a", Some("a.test"), &[])], &[]));
    assert!(shake(&hosts, &client(&[]), "a.test").await.client.is_err(), "not referred to any more");
}

#[tokio::test]
async fn a_ticket_permits_no_early_data() {
    let shown = certificate(&["a.test"]);
    let source = [listener("a", Some("a.test"), &["a"])];
    let mut listeners = Listeners::default();
    listeners.update(&snapshot(&source, &[("a", &shown)]));
    let hosts = hosts(&listeners, &source);
    let mut config = Arc::unwrap_or_clone(client(&[]));
    config.enable_early_data = true;
    let config = Arc::new(config);
    for resumed in [false, true] {
        assert_eq!(shake(&hosts, &config, "a.test").await.client.expect("a handshake").1, resumed);
    }
    let name = "a.test".try_into().expect("a name");
    let mut next = rustls::ClientConnection::new(config, name).expect("a client");
    assert!(next.early_data().is_none(), "what is sent before the handshake can be sent again by anybody");
}

#[tokio::test]
async fn a_session_is_resumed_on_its_own_listener_only() {
    let shared = certificate(&["a.test", "b.test"]);
    let source = [listener("a", Some("a.test"), &["shared"])];
    let mut listeners = Listeners::default();
    listeners.update(&snapshot(&source, &[("shared", &shared)]));
    let first = hosts(&listeners, &source);
    let config = client(&[]);
    assert!(!shake(&first, &config, "a.test").await.client.expect("a handshake").1);
    assert!(shake(&first, &config, "a.test").await.client.expect("a handshake").1, "the second one is resumed");
    // The same name on another listener, as when the hostname moves.
    let source = [listener("other", Some("a.test"), &["shared"])];
    listeners.update(&snapshot(&source, &[("shared", &shared)]));
    let second = hosts(&listeners, &source);
    assert!(!shake(&second, &config, "a.test").await.client.expect("a handshake").1);
}
