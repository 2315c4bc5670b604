//! Bundles -> the roots that certificates of backends are verified against.

use std::sync::{Arc, LazyLock};

use isthmus_routing::Bundle;
use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::WrappedX509;
use rustls::RootCertStore;
use x509_parser_of_pingora::prelude::{FromDer, X509Certificate};

use crate::tls::client::certificates_of;

/// The same roots as rustls and as Pingora take them.
pub(crate) struct Authorities {
    pub(crate) store: Arc<RootCertStore>,
    /// None: the system's, which Pingora has read itself.
    pub(crate) pingora: Option<Arc<CaType>>,
}

/// Read when the first policy asks for them; `SSL_CERT_FILE` and `SSL_CERT_DIR` say from where, as they do for Pingora.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    for fault in &found.errors {
        tracing::warn!("the system's certificates of authorities: {fault}");
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    Arc::new(store)
});

impl Authorities {
    /// Those of the machine.
    pub(crate) fn system() -> Self {
        Self { store: SYSTEM.clone(), pingora: None }
    }

    /// Those of all these together. What does not parse is left out, so fewer certificates are valid and never more; without any root none is.
    pub(crate) fn of<'b>(bundles: impl Iterator<Item = &'b Bundle>) -> Self {
        let mut store = RootCertStore::empty();
        let mut pingora = Vec::new();
        for bundle in bundles {
            for der in certificates_of(bundle) {
                // Pingora adds each to a store for every connection, and gives up the connection if one cannot be added.
                match parse(&der) {
                    Some(parsed) if store.add(der).is_ok() => pingora.push(parsed),
                    _ => tracing::warn!(
                        "a bundle of authorities has a certificate that cannot be one of an authority; it is left out"
                    ),
                }
            }
        }
        Self { store: Arc::new(store), pingora: Some(pingora.into()) }
    }
}

/// As Pingora keeps a certificate; its own way to make one panics if it does not parse.
pub(super) fn parse(der: &[u8]) -> Option<WrappedX509> {
    WrappedX509::try_new(der.to_vec(), |raw| X509Certificate::from_der(raw).map(|(_, parsed)| parsed)).ok()
}
