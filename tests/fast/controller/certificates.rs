//! Certificates of workloads: two sidecars that were given them know each other, and nobody else.

use std::sync::Arc;

use isthmus_routing::{Certificate, Identity, Mesh};
use isthmus_tests::api_server::Bundle;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use serde_json::json;

use super::scenario;
use super::sidecar::{Sidecar, pod};
use super::stage::Stage;

fn roots(mesh: &Mesh) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(mesh.authorities.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    Arc::new(roots)
}

fn own(certificate: &Certificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap())
}

/// A handshake in which both show who they are. The error is that of whoever ends it.
fn handshake(mesh: &Mesh, client: &Certificate, server: &Certificate, name: &str) -> Result<(), String> {
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(mesh), provider.clone()).build().unwrap();
    let (chain, key) = own(server);
    let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let (chain, key) = own(client);
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots(mesh)).with_client_auth_cert(chain, key).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &*bytes).unwrap();
        server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &*bytes).unwrap();
        client.process_new_packets().map_err(|error| format!("client: {error}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workloads_know_each_other_by_their_certificates() {
    let stage = Stage::of_mesh(Bundle::V1_7).await;
    scenario::start(&stage.server);
    stage.server.apply(pod("shop/client", "10.244.9.1", json!({}), true));
    let _controller = stage.controller("a", "one").await;
    let at = stage.controllers();
    let client = Sidecar::start(&stage.server, at, "shop/client", &[]).await;
    let server = Sidecar::start(&stage.server, at, "bank/server", &[]).await;
    let given = client.is_given("whom to trust", |snapshot| snapshot.mesh.is_some()).await;
    let mesh = given.mesh.as_deref().unwrap();
    let (client, server) = (client.certificate().await, server.certificate().await);
    let named = |namespace: &str| {
        let identity = Identity { namespace: namespace.to_owned(), account: "default".to_owned() };
        identity.dns_name(&mesh.trust_domain)
    };
    handshake(mesh, &client, &server, &named("bank")).unwrap();
    handshake(mesh, &server, &client, &named("shop")).unwrap();
    let error = handshake(mesh, &client, &server, &named("shop")).unwrap_err();
    assert!(error.starts_with("client: invalid peer certificate"), "{error}");

    // Another mesh of the same names: its root is not ours, whoever asks.
    let other = Stage::of_mesh(Bundle::V1_7).await;
    scenario::start(&other.server);
    let _other = other.controller("a", "one").await;
    let stranger = Sidecar::start(&other.server, other.controllers(), "bank/server", &[]).await.certificate().await;
    let error = handshake(mesh, &client, &stranger, &named("bank")).unwrap_err();
    assert!(error.starts_with("client: invalid peer certificate"), "{error}");
    let error = handshake(mesh, &stranger, &server, &named("bank")).unwrap_err();
    assert!(error.starts_with("server: invalid peer certificate"), "{error}");
}
