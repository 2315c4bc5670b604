//! What a TLS handshake with a backend costs: full ones with a configuration that is kept, full ones with one that is made for each
//! connection (as Pingora does for peers with roots or a client certificate of their own), and resumed ones. Both ends run in one thread
//! without sockets, so the time of each end is its CPU time. `docs/defaults.md` has the result.
//!
//! `cargo run --profile image -p isthmus-dataplane --example backend_handshakes`

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

const ROUNDS: u32 = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    let (server, root) = server()?;
    let kept = Arc::new(client(&root, Resumption::default())?);
    let unresumed = Arc::new(client(&root, Resumption::disabled())?);
    // The first one has nothing to resume.
    shake(&kept, &server)?;
    println!("{:<40} {:>10} {:>10} {:>8}", "", "client us", "server us", "resumed");
    report("full, configuration kept", || shake(&unresumed, &server))?;
    report("full, configuration made anew", || {
        let begun = Instant::now();
        let config = Arc::new(client(&root, Resumption::disabled())?);
        let making = begun.elapsed();
        let cost = shake(&config, &server)?;
        Ok(Cost { client: cost.client + making, ..cost })
    })?;
    report("resumed", || shake(&kept, &server))
}

struct Cost {
    client: Duration,
    server: Duration,
    resumed: bool,
}

fn report(what: &str, mut once: impl FnMut() -> Result<Cost, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let (mut client, mut server, mut resumed) = (Duration::ZERO, Duration::ZERO, 0);
    for _ in 0..ROUNDS {
        let cost = once()?;
        client += cost.client;
        server += cost.server;
        resumed += u32::from(cost.resumed);
    }
    let micros = |total: Duration| (total / ROUNDS).as_micros();
    println!("{what:<40} {:>10} {:>10} {resumed:>8}", micros(client), micros(server));
    Ok(())
}

/// A handshake with all that follows it (session tickets), and what each end spent on it.
fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Cost, Box<dyn Error>> {
    let (mut at_client, mut at_server) = (Duration::ZERO, Duration::ZERO);
    let begun = Instant::now();
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from("a.example")?)?;
    at_client += begun.elapsed();
    let begun = Instant::now();
    let mut server = ServerConnection::new(server.clone())?;
    at_server += begun.elapsed();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        let begun = Instant::now();
        while client.wants_write() {
            client.write_tls(&mut bytes)?;
        }
        at_client += begun.elapsed();
        let begun = Instant::now();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets()?;
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer)?;
        }
        at_server += begun.elapsed();
        let begun = Instant::now();
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets()?;
        }
        at_client += begun.elapsed();
    }
    Ok(Cost { client: at_client, server: at_server, resumed: client.handshake_kind() == Some(HandshakeKind::Resumed) })
}

fn client(root: &CertificateDer<'static>, resumption: Resumption) -> Result<ClientConfig, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = resumption;
    Ok(config)
}

/// A leaf of an intermediate of a root, all with P-256 keys; and that root.
fn server() -> Result<(Arc<ServerConfig>, CertificateDer<'static>), Box<dyn Error>> {
    let authority = |name: &str| -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(params)
    };
    let (root_key, middle_key, leaf_key) = (KeyPair::generate()?, KeyPair::generate()?, KeyPair::generate()?);
    let root = authority("root")?;
    let root_der = root.self_signed(&root_key)?.der().clone();
    let root = Issuer::new(root, root_key);
    let middle = authority("middle")?;
    let middle_der = middle.signed_by(&middle_key, &root)?.der().clone();
    let middle = Issuer::new(middle, middle_key);
    let leaf_der = CertificateParams::new(vec!["a.example".to_owned()])?.signed_by(&leaf_key, &middle)?.der().clone();
    let key = PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf_der, middle_der], key)?;
    config.ticketer = ring::Ticketer::new()?;
    Ok((Arc::new(config), root_der))
}
