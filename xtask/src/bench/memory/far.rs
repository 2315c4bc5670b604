//! The pods of all Services, as one server: for each account it has the certificate that its callers want to see, and wants to see theirs.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ResolvesServerCertUsingSni, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use crate::bench::mesh::authority::{Authority, Identity};
use crate::fault::Fault;

/// Of the pods of the first `services` Services.
pub(super) fn config(authority: &Authority, services: u32) -> Result<Arc<ServerConfig>, Fault> {
    let fault = |what: &str, error: &dyn std::fmt::Display| Fault::said(format!("{what}: {error}"));
    let tls = |error: rustls::Error| fault("making a TLS server", &error);
    let provider = Arc::new(ring::default_provider());
    let mut by_name = ResolvesServerCertUsingSni::new();
    for number in 0..services {
        let identity = Identity::of_service(number);
        let leaf = authority.issue(&identity)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key.serialize_der()));
        let key = provider.key_provider.load_private_key(key).map_err(tls)?;
        let chain = vec![leaf.certificate.der().clone()];
        by_name.add(&identity.dns_name(), CertifiedKey::new(chain, key)).map_err(tls)?;
    }
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).map_err(tls)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let verifier = verifier.map_err(|error| fault("making a TLS server", &error))?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(tls)?;
    Ok(Arc::new(builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(by_name))))
}
