//! HTTPS, TLS that is ended here and TLS that is passed on, on one port.

use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_routing::{Certificate, CertificateKey, Listener, Protocol, Route, RouteKind, Snapshot};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::SOON;
use super::bed::{Bed, attach, gateway, rule, snapshot};
use crate::limits::Limits;

/// Takes any certificate: who answers is what the tests look at.
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

pub(super) fn trusting_anybody() -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has suites").dangerous();
    Arc::new(builder.with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth())
}

fn certificate(name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

fn leaf(certificate: &Certificate) -> Vec<u8> {
    CertificateDer::from_pem_slice(certificate.chain.as_bytes()).expect("PEM").to_vec()
}

/// Answers each connection with what came, in capitals, until the client ends its half.
async fn shouting(tls: Option<&Certificate>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let acceptor = tls.map(|certificate| {
        let chain = vec![CertificateDer::from_pem_slice(certificate.chain.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("PEM");
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("ring has suites").with_no_client_auth();
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("they belong together")))
    });
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    Some(acceptor) => shout(acceptor.accept(socket).await.expect("a handshake")).await,
                    None => shout(socket).await,
                }
            });
        }
    });
    address
}

async fn shout(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("the client's half, ended in order");
    stream.write_all(text.to_uppercase().as_bytes()).await.expect("is taken");
    stream.shutdown().await.expect("ends");
}

/// Listeners `https` (`h.test`), `ended` (`e.test`) and `passed` (`p.test`) on one port.
fn mixed(port: u16, here: &Certificate, plain: SocketAddr, encrypted: SocketAddr) -> Snapshot {
    let mut snapshot = snapshot(port, Protocol::Tls, &[plain]);
    let key = CertificateKey { namespace: "infra".to_owned(), name: "here".to_owned() };
    snapshot.certificates.insert(key.clone(), Arc::new(here.clone()));
    let listener = |name: &str, hostname: &str, protocol| Listener {
        hostname: Some(hostname.parse().expect("a hostname")),
        certificates: vec![key.clone()],
        ..Listener::new(name, port, protocol)
    };
    let edge = Arc::make_mut(snapshot.gateways.get_mut(&gateway()).expect("the Gateway"));
    let routes = std::mem::take(&mut edge.listeners[0].routes);
    edge.listeners = vec![
        Listener { routes, ..listener("ended", "e.test", Protocol::Tls) },
        Listener { certificates: Vec::new(), passthrough: true, ..listener("passed", "p.test", Protocol::Tls) },
        listener("https", "h.test", Protocol::Https),
    ];
    // The first route of all by name is the one that backends are added to.
    let route = attach(&mut snapshot, 1, "a-passed", RouteKind::Tls);
    snapshot.routes.insert(route, Arc::new(Route { created: 0, rules: vec![rule()] }));
    super::bed::add_backend(&mut snapshot, "encrypted", 1, &[encrypted]);
    snapshot
}

async fn shake(address: SocketAddr, name: &'static str) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    let name = name.try_into().expect("a name");
    timeout(SOON, TlsConnector::from(trusting_anybody()).connect(name, socket)).await.expect("in time")
}

#[tokio::test]
async fn each_name_has_its_own_way() {
    let (here, theirs) = (certificate("here.test"), certificate("theirs.test"));
    let (plain, encrypted) = (shouting(None).await, shouting(Some(&theirs)).await);
    let bed = Bed::start(Limits::default(), |port| mixed(port, &here, plain, encrypted)).await;
    for (name, shown) in [("e.test", &here), ("p.test", &theirs)] {
        let mut stream = shake(bed.address, name).await.expect("a handshake");
        let certificates = stream.get_ref().1.peer_certificates().expect("a certificate");
        assert_eq!(certificates[0].to_vec(), leaf(shown), "{name}");
        stream.write_all(b"hello").await.expect("is taken");
        stream.shutdown().await.expect("ends its half");
        let mut text = String::new();
        // Not `UnexpectedEof`: the end comes with close_notify.
        timeout(SOON, stream.read_to_string(&mut text)).await.expect("in time").expect("an end in order");
        assert_eq!(text, "HELLO", "{name}");
    }
    bed.ended("closed").await;
    let mut stream = shake(bed.address, "h.test").await.expect("a handshake");
    stream.write_all(b"GET /get HTTP/1.1\r\nHost: h.test\r\n\r\n").await.expect("is taken");
    let mut answer = [0; 15];
    timeout(SOON, stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let refused = shake(bed.address, "other.test").await.expect_err("nobody's name");
    assert_eq!(refused.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_name_without_a_route_is_closed_without_a_word() {
    let here = certificate("here.test");
    let target = shouting(None).await;
    let bed = Bed::start(Limits::default(), |port| {
        let mut snapshot = mixed(port, &here, target, target);
        snapshot.routes.clear();
        snapshot
    })
    .await;
    for name in ["e.test", "p.test"] {
        let refused = shake(bed.address, name).await.expect_err("no route");
        assert_eq!(refused.kind(), std::io::ErrorKind::UnexpectedEof, "{name}");
    }
    bed.ended("no_route").await;
}

/// An end without close_notify is none: the backend must not take half of a message for all of it.
#[tokio::test]
async fn a_cut_is_not_an_end() {
    let here = certificate("here.test");
    let endpoint = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = endpoint.local_addr().expect("bound");
    let bed = Bed::start(Limits::default(), |port| mixed(port, &here, target, target)).await;
    let mut stream = shake(bed.address, "e.test").await.expect("a handshake");
    stream.write_all(b"half").await.expect("is taken");
    let (mut server, _) = timeout(SOON, endpoint.accept()).await.expect("in time").expect("connected");
    super::expect(&mut server, b"half").await;
    stream.into_inner().0.shutdown().await.expect("ends");
    assert_eq!(super::end(&mut server).await, Err(std::io::ErrorKind::ConnectionReset));
    bed.ended("client_reset").await;
}
