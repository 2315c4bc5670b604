//! What the Secret holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_routing::Certificate;
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;

use super::Material;

/// The entries of the Secret.
///
/// - `ca.crt`: what proxies trust. The first certificate is of the CA that signs; another may wait to take its place; others were before.
/// - `ca.key`: the key of the CA that signs.
/// - `next.key`: the key of the CA that waits, whose certificate is the second one; absent: none waits.
/// - `tls.crt`, `tls.key`: the leaf.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    pub(super) signer: Ca,
    pub(super) next: Option<Ca>,
    /// PEM, each one certificate.
    pub(super) former: Vec<String>,
    pub(super) leaf: Leaf,
}

/// A CA, PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Ca {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A leaf, PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) chain: String,
    pub(super) key: String,
}

/// Why entries are not what we would have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// An entry is missing.
    #[error("{0} is missing or not text")]
    Missing(&'static str),
    /// An entry is no PEM of what it should be.
    #[error("{entry} cannot be read: {why}")]
    Unreadable {
        /// Its key in the Secret.
        entry: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A key belongs to another certificate.
    #[error("{0} does not belong to its certificate")]
    Mismatch(&'static str),
    /// It can be read, and what it would sign would not be taken.
    #[error("{0}")]
    Unfit(String),
    /// One cannot be made here.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// When a certificate holds, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Content {
    /// Reads the entries of a Secret.
    ///
    /// # Errors
    /// When they are not what [`entries`](Self::entries) gives. Whether certificates have ended is not looked at.
    pub fn read(entries: &BTreeMap<String, Vec<u8>>) -> Result<Self, Malformed> {
        let text = |entry| text(entries, entry);
        let mut bundle = split(&text("ca.crt")?).into_iter();
        let mut ca = |key: &'static str| {
            let certificate = bundle.next().ok_or(Malformed::Missing("ca.crt"))?;
            let ca = Ca { certificate, key: text(key)? };
            check("ca.crt", key, &ca.certificate, &ca.key).map(|()| ca)
        };
        let signer = ca("ca.key")?;
        let next = entries.contains_key("next.key").then(|| ca("next.key")).transpose()?;
        let leaf = Leaf { chain: text("tls.crt")?, key: text("tls.key")? };
        check("tls.crt", "tls.key", &leaf.chain, &leaf.key)?;
        let former: Vec<_> = bundle.collect();
        for certificate in &former {
            validity("ca.crt", certificate)?;
        }
        Ok(Self { signer, next, former, leaf })
    }

    /// What the Secret should hold.
    pub fn entries(&self) -> BTreeMap<String, Vec<u8>> {
        let mut entries = BTreeMap::from([
            ("ca.crt", self.bundle()),
            ("ca.key", self.signer.key.clone()),
            ("tls.crt", self.leaf.chain.clone()),
            ("tls.key", self.leaf.key.clone()),
        ]);
        entries.extend(self.next.as_ref().map(|next| ("next.key", next.key.clone())));
        entries.into_iter().map(|(entry, text)| (entry.to_owned(), text.into_bytes())).collect()
    }

    /// What follows for the push server and the proxies.
    pub fn material(&self) -> Material {
        let certificate = Certificate { chain: self.leaf.chain.clone(), key: self.leaf.key.clone() };
        Material { certificate: Arc::new(certificate), bundle: self.bundle() }
    }

    fn bundle(&self) -> String {
        let next = self.next.iter().map(|next| &next.certificate);
        [&self.signer.certificate].into_iter().chain(next).chain(&self.former).map(String::as_str).collect()
    }
}

/// An entry that has to be there.
pub(crate) fn text(entries: &BTreeMap<String, Vec<u8>>, entry: &'static str) -> Result<String, Malformed> {
    let bytes = entries.get(entry).ok_or(Malformed::Missing(entry))?;
    String::from_utf8(bytes.clone()).map_err(|_| Malformed::Missing(entry))
}

/// The certificates of a PEM text, each for itself.
pub(crate) fn split(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let parts = text.split_inclusive(END).map(str::trim).filter(|part| part.ends_with(END));
    parts.map(|part| format!("{part}\n")).collect()
}

fn check(certificate_entry: &'static str, key_entry: &'static str, certificate: &str, key: &str) -> Result<(), Malformed> {
    let key = KeyPair::from_pem(key).map_err(|error| Malformed::Unreadable { entry: key_entry, why: error.to_string() })?;
    let der = der(certificate_entry, certificate)?;
    let same = parsed(certificate_entry, &der)?.public_key().subject_public_key.data.as_ref() == key.der_bytes();
    if same { Ok(()) } else { Err(Malformed::Mismatch(key_entry)) }
}

/// When the first certificate of a PEM text holds.
pub(crate) fn validity(entry: &'static str, certificate: &str) -> Result<Validity, Malformed> {
    let der = der(entry, certificate)?;
    let certificate = parsed(entry, &der)?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or_default();
    let validity = certificate.validity();
    Ok(Validity { from: seconds(validity.not_before), to: seconds(validity.not_after) })
}

/// Whether somebody who trusts only this CA would take this leaf at this time, by each of these names.
pub(super) fn is_trusted(ca: &str, chain: &str, names: &[String], now: UnixTime) -> bool {
    let verify = || -> Option<()> {
        let (ca, leaf) = (der("ca.crt", ca).ok()?, der("tls.crt", chain).ok()?);
        let anchor = webpki::anchor_from_trusted_cert(&ca).ok()?;
        let leaf = webpki::EndEntityCert::try_from(&leaf).ok()?;
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &[], now, usage, None, None).ok()?;
        let has = |name: &String| Some(leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name.as_str()).ok()?).is_ok());
        names.iter().all(|name| has(name) == Some(true)).then_some(())
    };
    verify().is_some()
}

pub(crate) fn der(entry: &'static str, pem: &str) -> Result<CertificateDer<'static>, Malformed> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| Malformed::Unreadable { entry, why: error.to_string() })
}

pub(crate) fn parsed<'d>(entry: &'static str, der: &'d CertificateDer<'_>) -> Result<X509Certificate<'d>, Malformed> {
    match x509_parser::parse_x509_certificate(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(error) => Err(Malformed::Unreadable { entry, why: error.to_string() }),
    }
}

/// Never shows the keys.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("ca.crt", &self.bundle()).field("tls.crt", &self.leaf.chain).finish_non_exhaustive()
    }
}
