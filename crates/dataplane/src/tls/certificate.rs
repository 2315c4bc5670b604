//! PEM -> what rustls shows, and which of several to show.

use std::sync::Arc;

use isthmus_routing::Certificate;
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::Certificates;

/// A certificate chain with its key, ready to be shown.
#[derive(Debug)]
pub(crate) struct Loaded {
    key: Arc<CertifiedKey>,
    /// DNS names of the leaf, lower-case.
    names: Vec<String>,
}

/// What is wrong with a certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// `tls.crt` holds no certificate.
    #[error("tls.crt holds no PEM certificate")]
    NoCertificate,
    /// `tls.crt` is not PEM.
    #[error("tls.crt is not PEM: {0}")]
    Chain(rustls_pki_types::pem::Error),
    /// `tls.key` is not PEM.
    #[error("tls.key is not a PEM private key: {0}")]
    Key(rustls_pki_types::pem::Error),
    /// The key is of a kind that cannot sign here, or not the certificate's.
    #[error("tls.key does not fit tls.crt: {0}")]
    Pair(rustls::Error),
}

impl Loaded {
    pub(crate) fn parse(certificate: &Certificate) -> Result<Self, CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(CertificateError::Chain)?;
        let leaf = chain.first().ok_or(CertificateError::NoCertificate)?;
        // A leaf that webpki cannot read (X.509 v1) is shown all the same, but never chosen by its name.
        let names = webpki::EndEntityCert::try_from(leaf)
            .map(|leaf| leaf.valid_dns_names().map(str::to_ascii_lowercase).collect())
            .unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(CertificateError::Key)?;
        let key = CertifiedKey::new(chain, any_supported_type(&key).map_err(CertificateError::Pair)?);
        match key.keys_match() {
            // Unknown: the kind of key does not tell its public half.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Self { key: Arc::new(key), names })
            }
            Err(error) => Err(CertificateError::Pair(error)),
        }
    }

    /// The chain, leaf first, with what signs for it.
    pub(crate) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }
}

/// The certificates of one listener.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    certificates: Certificates,
}

impl Resolver {
    pub(crate) fn replace(&self, certificates: Vec<Arc<Loaded>>) {
        self.certificates.store(Arc::new(certificates));
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.certificates.load();
        choose(&certificates, hello.server_name(), hello.signature_schemes(), |loaded| &loaded.names, Loaded::suits)
            .map(|loaded| loaded.key.clone())
    }
}

/// The first with the best name among those that the client can verify; else the first with the best name.
fn choose<'a, T>(
    certificates: &'a [Arc<T>],
    name: Option<&str>,
    schemes: &[SignatureScheme],
    names: impl Fn(&T) -> &[String],
    suits: impl Fn(&T, &[SignatureScheme]) -> bool,
) -> Option<&'a Arc<T>> {
    let name = name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    let rank = |certificate: &T| name.as_ref().map_or(Fit::No, |name| fit(names(certificate), name));
    // `min_by_key` takes the first of equals.
    certificates.iter().min_by_key(|certificate| std::cmp::Reverse((suits(certificate, schemes), rank(certificate))))
}

/// How well a certificate's names fit a name; better is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    No,
    Wildcard,
    Exact,
}

/// A wildcard in a certificate stands for one label, unlike a Gateway's.
fn fit(names: &[String], name: &str) -> Fit {
    let parent = name.split_once('.').map(|(_, parent)| parent);
    let one = |pattern: &String| match pattern.strip_prefix("*.") {
        Some(suffix) if parent == Some(suffix) => Fit::Wildcard,
        None if pattern == name => Fit::Exact,
        _ => Fit::No,
    };
    names.iter().map(one).max().unwrap_or(Fit::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        names: Vec<String>,
        scheme: SignatureScheme,
    }

    fn fake(names: &[&str], scheme: SignatureScheme) -> Arc<Fake> {
        Arc::new(Fake { names: names.iter().map(|name| (*name).to_owned()).collect(), scheme })
    }

    #[test]
    fn the_best_name_that_the_client_can_verify() {
        use SignatureScheme::{ECDSA_NISTP256_SHA256 as EC, RSA_PSS_SHA256 as RSA};
        let certificates = [
            fake(&["first.test"], EC),
            fake(&["*.shop.test"], EC),
            fake(&["a.shop.test", "b.shop.test"], EC),
            fake(&["a.shop.test"], RSA),
        ];
        let cases: &[(Option<&str>, &[SignatureScheme], usize)] = &[
            (None, &[EC, RSA], 0),
            (Some("other.test"), &[EC, RSA], 0),
            (Some("c.shop.test"), &[EC, RSA], 1),
            (Some("C.Shop.Test."), &[EC, RSA], 1),
            (Some("x.c.shop.test"), &[EC, RSA], 0),
            (Some("shop.test"), &[EC, RSA], 0),
            (Some("a.shop.test"), &[EC, RSA], 2),
            (Some("a.shop.test"), &[RSA], 3),
            (Some("c.shop.test"), &[RSA], 3),
            (Some("c.shop.test"), &[], 1),
        ];
        for (name, schemes, expected) in cases {
            let chosen =
                choose(&certificates, *name, schemes, |fake| &fake.names, |fake, schemes| schemes.contains(&fake.scheme));
            assert!(Arc::ptr_eq(chosen.expect("there are some"), &certificates[*expected]), "{name:?} {schemes:?}");
        }
        assert!(choose::<Fake>(&[], None, &[EC], |fake| &fake.names, |_, _| true).is_none());
    }
}
