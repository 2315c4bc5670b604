//! What the Secret holds.

use std::collections::BTreeMap;

use x509_parser::certificate::X509Certificate;

use crate::authority::keep::Entries;
use crate::authority::{Ca, Malformed, der, parsed, split, text, validity};

/// The name of roots that are made here, before the time at which they were.
pub(super) const OWN: &str = "Isthmus mesh CA";

/// The entries of the Secret, as cert-manager writes them too.
///
/// - `tls.crt`: the certificate that signs, then those between it and a root.
/// - `tls.key`: its key.
/// - `ca.crt`: the roots that workloads trust, neither more nor fewer.
/// - `next.key`: where the root that signs is our own, the key of the one that will follow it, whose certificate is in `ca.crt`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// PEM, each one certificate; the first is the one that signs.
    pub(super) chain: Vec<String>,
    pub(super) key: String,
    /// PEM, each one certificate.
    pub(super) roots: Vec<String>,
    pub(super) next: Option<Ca>,
}

impl Content {
    /// Reads the entries of a Secret. Whether what they hold can be used is for [`Issuer`](super::issuer::Issuer) to say.
    pub(super) fn read(entries: &Entries) -> Result<Self, Malformed> {
        let (chain, roots) = (split(&text(entries, "tls.crt")?), split(&text(entries, "ca.crt")?));
        for (entry, certificates) in [("tls.crt", &chain), ("ca.crt", &roots)] {
            if certificates.is_empty() {
                return Err(Malformed::Missing(entry));
            }
            for certificate in certificates {
                validity(entry, certificate)?;
            }
        }
        let next = text(entries, "next.key").ok().and_then(|key| next(key, &roots));
        Ok(Self { chain, key: text(entries, "tls.key")?, roots, next })
    }

    /// Our own root, which signs.
    pub(super) fn of(ca: Ca) -> Self {
        Self { chain: vec![ca.certificate.clone()], key: ca.key, roots: vec![ca.certificate], next: None }
    }

    /// What the Secret should hold.
    pub(super) fn entries(&self) -> Entries {
        let mut entries =
            BTreeMap::from([("tls.crt", self.chain.concat()), ("tls.key", self.key.clone()), ("ca.crt", self.authorities())]);
        entries.extend(self.next.as_ref().map(|next| ("next.key", next.key.clone())));
        entries.into_iter().map(|(entry, text)| (entry.to_owned(), text.into_bytes())).collect()
    }

    /// The roots, PEM.
    pub(super) fn authorities(&self) -> String {
        self.roots.concat()
    }

    /// Whether the certificate that signs was made here, so that it is ours to replace.
    pub(super) fn is_own(&self) -> bool {
        matches!(&*self.chain, [only] if is_own(only))
    }
}

/// Whether a certificate is a root that was made here.
pub(super) fn is_own(certificate: &str) -> bool {
    let Ok(der) = der("ca.crt", certificate) else { return false };
    let Ok(certificate) = parsed("ca.crt", &der) else { return false };
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    is_root(&certificate) && name.is_some_and(|name| name.starts_with(OWN))
}

/// Whether a certificate names itself as its issuer.
pub(super) fn is_root(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

/// The root that waits. None: its key is not readable or its certificate has left `ca.crt`, then another one is made in time.
fn next(key: String, roots: &[String]) -> Option<Ca> {
    let public = rcgen::KeyPair::from_pem(&key).ok()?;
    let public = rcgen::PublicKeyData::der_bytes(&public);
    let is_its = |certificate: &&String| {
        let der = der("ca.crt", certificate).ok();
        let certificate = der.as_ref().and_then(|der| parsed("ca.crt", der).ok());
        certificate.is_some_and(|certificate| certificate.public_key().subject_public_key.data.as_ref() == public)
    };
    let certificate = roots.iter().find(is_its)?.clone();
    Some(Ca { certificate, key })
}

/// Never shows the keys.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("tls.crt", &self.chain).field("ca.crt", &self.roots).finish_non_exhaustive()
    }
}
