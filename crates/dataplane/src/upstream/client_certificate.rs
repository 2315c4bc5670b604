//! What is shown to backends that ask who is there.

use std::sync::Arc;

use isthmus_routing::{Certificate, CertificateKey, Gateway, Snapshot};
use pingora_core::utils::tls::CertKey;
use rustls::client::ResolvesClientCert;
use rustls::server::ResolvesServerCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::{authorities, next_id};
use crate::tls::certificate::{CertificateError, Loaded};

/// The certificate of `spec.tls.backend.clientCertificateRef`, or our own in the mesh, as both TLS libraries take it.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    /// None: it is our own.
    reference: Option<CertificateKey>,
    source: Arc<Certificate>,
    id: u64,
    key: Arc<CertifiedKey>,
    resolver: Arc<SingleCertAndKey>,
    pingora: Arc<CertKey>,
}

/// Why it cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// It is broken.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// One of the two libraries does not take it.
    #[error("its chain or its key is of a kind that cannot be shown to backends")]
    Kind,
}

impl ClientCertificate {
    /// What a Gateway shows from this snapshot on; none: nothing, so backends that insist on a certificate refuse. One that is there and
    /// cannot be used stays as it was before.
    pub(crate) fn of(gateway: &Gateway, snapshot: &Snapshot, previous: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let reference = gateway.client_certificate.as_ref()?;
        let previous = previous.filter(|previous| previous.reference.as_ref() == Some(reference));
        let Some(source) = snapshot.certificates.get(reference) else {
            tracing::warn!("{reference}, which a Gateway shows to backends, is not there, so none is shown");
            return None;
        };
        if let Some(previous) = previous.filter(|previous| previous.source == *source) {
            return Some(previous.clone());
        }
        match Self::parse(Some(reference), source) {
            Ok(certificate) => Some(Arc::new(certificate)),
            Err(fault) => {
                let kept = if previous.is_some() { "; the last good one is still shown" } else { "" };
                tracing::warn!("{reference}, which a Gateway shows to backends, cannot be used: {fault}{kept}");
                previous.cloned()
            }
        }
    }

    /// Different for each certificate that this process has held: Pingora tells two apart by their serial numbers only.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        self.resolver.clone()
    }

    pub(super) fn pingora(&self) -> Arc<CertKey> {
        self.pingora.clone()
    }

    /// Our own in the mesh.
    ///
    /// # Errors
    /// When it cannot be shown.
    pub(crate) fn own(source: &Arc<Certificate>) -> Result<Self, Unusable> {
        Self::parse(None, source)
    }

    /// The chain, leaf first, with what signs for it.
    pub(crate) fn certified_key(&self) -> &CertifiedKey {
        &self.key
    }

    /// For whoever shows the same to those who connect to us.
    pub(crate) fn as_server(&self) -> Arc<dyn ResolvesServerCert> {
        self.resolver.clone()
    }

    fn parse(reference: Option<&CertificateKey>, source: &Arc<Certificate>) -> Result<Self, Unusable> {
        let loaded = Loaded::parse(source)?;
        let chain: Vec<Vec<u8>> = loaded.certified_key().cert.iter().map(|der| der.to_vec()).collect();
        let key = PrivateKeyDer::from_pem_slice(source.key.as_bytes()).map_err(CertificateError::Key)?.secret_der().to_vec();
        // Pingora panics on a certificate that its parser does not read, and on a key whose kind it cannot guess.
        let readable = chain.iter().all(|der| authorities::parse(der).is_some());
        if !readable || chain.is_empty() || PrivateKeyDer::try_from(key.as_slice()).is_err() {
            return Err(Unusable::Kind);
        }
        Ok(Self {
            reference: reference.cloned(),
            source: source.clone(),
            id: next_id(),
            key: loaded.certified_key().clone(),
            resolver: Arc::new(SingleCertAndKey::from(loaded.certified_key().as_ref().clone())),
            pingora: Arc::new(CertKey::new(chain, key)),
        })
    }
}
