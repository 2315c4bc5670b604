//! TLS of an echo: a certificate for whatever name the client asks for.

use std::io;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use super::Identity;
use crate::authority::Authority;

/// The first byte of a TLS connection: a handshake record.
pub(super) const HANDSHAKE: u8 = 22;

/// Accepts with certificates that `authority` signs; HTTP/1.1 and HTTP/2 by ALPN.
pub(super) fn acceptor(identity: &Identity, authority: Arc<Authority>) -> io::Result<TlsAcceptor> {
    let provider = Arc::new(default_provider());
    let certificates = Certificates {
        provider: Arc::clone(&provider),
        authority,
        key: KeyPair::generate().map_err(io::Error::other)?,
        service: format!("{}.{}", identity.service, identity.namespace),
        common_name: format!("{} (isthmus echo)", identity.pod),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// One key, and a certificate of it for each handshake.
#[derive(Debug)]
struct Certificates {
    provider: Arc<CryptoProvider>,
    authority: Arc<Authority>,
    key: KeyPair,
    /// The name of clients that ask for none.
    service: String,
    common_name: String,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or(&self.service);
        let certificate = self.authority.sign(name, &self.common_name, &self.key).ok()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        CertifiedKey::from_der(vec![certificate.der().clone()], key, &self.provider).ok().map(Arc::new)
    }
}
