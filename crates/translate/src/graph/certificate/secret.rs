//! A Secret -> the certificate in it, or what is wrong with it.

use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use isthmus_routing::Certificate;

/// The type of Secret that holds a certificate.
pub(crate) const SECRET_TYPE: &str = "kubernetes.io/tls";

/// The bytes of a Secret as far as they matter here.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SecretContent<'a> {
    /// `type`
    pub(crate) kind: &'a str,
    /// `tls.crt`
    pub(crate) chain: Option<&'a [u8]>,
    /// `tls.key`
    pub(crate) key: Option<&'a [u8]>,
}

/// Why a Secret holds no certificate that can be served. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretFault {
    #[error("is of type `{0}`; create it as `kubernetes.io/tls`")]
    Type(String),
    #[error("has no `{0}`; add it in PEM form")]
    Absent(&'static str),
    #[error("has an empty `{0}`; fill it in PEM form")]
    Empty(&'static str),
    #[error("has a `{field}` that is not PEM ({fault}); expected `-----BEGIN {label}-----`")]
    NotPem { field: &'static str, label: &'static str, fault: String },
    #[error("has a `tls.crt` that no certificate can be read from ({0}); put the leaf first, in PEM form")]
    BadCertificate(String),
    #[error("has an encrypted `tls.key`; store it without a passphrase")]
    EncryptedKey,
    #[error("has a `tls.key` of an unsupported kind or size; use RSA with 2048 to 4096 bits, ECDSA P-256 or P-384, or Ed25519")]
    UnsupportedKey,
    #[error("has a `tls.key` that does not belong to the first certificate of `tls.crt`; store the key of that certificate")]
    Mismatch,
}

impl SecretFault {
    /// Whether the Secret is the right one and what is in it is not. A type never changes: a Secret of another type is another Secret.
    pub(crate) fn is_of_content(&self) -> bool {
        !matches!(self, Self::Type(_))
    }
}

/// Checks that chain and key parse and belong together. Time is of no matter, so an expired certificate is served: a client
/// can tell its user so, while a listener that vanishes tells nobody anything.
pub(crate) fn read(secret: SecretContent<'_>) -> Result<Arc<Certificate>, SecretFault> {
    if secret.kind != SECRET_TYPE {
        return Err(SecretFault::Type(secret.kind.to_owned()));
    }
    let chain = text(secret.chain, "tls.crt", "CERTIFICATE")?;
    let key = text(secret.key, "tls.key", "PRIVATE KEY")?;
    if key.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || key.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(SecretFault::EncryptedKey);
    }
    let certificates = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|fault| not_pem("tls.crt", "CERTIFICATE", &fault))?;
    if certificates.is_empty() {
        return Err(not_pem("tls.crt", "CERTIFICATE", &pem::Error::NoItemsFound));
    }
    let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|fault| not_pem("tls.key", "PRIVATE KEY", &fault))?;
    let signing = any_supported_type(&private).map_err(|_| SecretFault::UnsupportedKey)?;
    match CertifiedKey::new(certificates, signing).keys_match() {
        Ok(()) => Ok(Arc::new(Certificate { chain: chain.to_owned(), key: key.to_owned() })),
        Err(rustls::Error::InconsistentKeys(_)) => Err(SecretFault::Mismatch),
        Err(fault) => Err(SecretFault::BadCertificate(fault.to_string())),
    }
}

fn text<'a>(bytes: Option<&'a [u8]>, field: &'static str, label: &'static str) -> Result<&'a str, SecretFault> {
    let bytes = bytes.ok_or(SecretFault::Absent(field))?;
    if bytes.trim_ascii().is_empty() {
        return Err(SecretFault::Empty(field));
    }
    std::str::from_utf8(bytes).map_err(|_| SecretFault::NotPem { field, label, fault: "it is binary".to_owned() })
}

fn not_pem(field: &'static str, label: &'static str, fault: &pem::Error) -> SecretFault {
    SecretFault::NotPem { field, label, fault: in_words(fault).to_owned() }
}

/// Says what is wrong without quoting the file: it may be a key.
pub(crate) fn in_words(fault: &pem::Error) -> &'static str {
    match fault {
        pem::Error::NoItemsFound => "nothing of that kind is in it",
        pem::Error::MissingSectionEnd { .. } => "its last section has no end",
        pem::Error::Base64Decode(_) => "its base64 is broken",
        _ => "its sections are broken",
    }
}

#[cfg(test)]
mod tests {
    use super::{SecretContent, SecretFault, read};

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a name is enough");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn fault(kind: &str, chain: Option<&str>, key: Option<&str>) -> Option<SecretFault> {
        let content = SecretContent { kind, chain: chain.map(str::as_bytes), key: key.map(str::as_bytes) };
        read(content).err()
    }

    #[test]
    fn each_fault_has_its_own_message() {
        let (chain, key) = pair("example.com");
        let (other_chain, _) = pair("example.org");
        let chain2 = format!("{chain}{other_chain}");
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIB\n-----END RSA PRIVATE KEY-----\n";
        let tls = "kubernetes.io/tls";
        let not_pem = |field, label, fault: &str| SecretFault::NotPem { field, label, fault: fault.to_owned() };
        let empty_der = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        for (kind, chain, key, expected) in [
            (tls, Some(chain.as_str()), Some(key.as_str()), None),
            (tls, Some(chain2.as_str()), Some(key.as_str()), None),
            ("Opaque", Some(chain.as_str()), Some(key.as_str()), Some(SecretFault::Type("Opaque".to_owned()))),
            (tls, None, Some(key.as_str()), Some(SecretFault::Absent("tls.crt"))),
            (tls, Some(chain.as_str()), None, Some(SecretFault::Absent("tls.key"))),
            (tls, Some(" \n"), Some(key.as_str()), Some(SecretFault::Empty("tls.crt"))),
            (tls, Some(chain.as_str()), Some(""), Some(SecretFault::Empty("tls.key"))),
            (
                tls,
                Some("Hello world"),
                Some(key.as_str()),
                Some(not_pem("tls.crt", "CERTIFICATE", "nothing of that kind is in it")),
            ),
            (
                tls,
                Some(key.as_str()),
                Some(key.as_str()),
                Some(not_pem("tls.crt", "CERTIFICATE", "nothing of that kind is in it")),
            ),
            (
                tls,
                Some(chain.as_str()),
                Some(chain.as_str()),
                Some(not_pem("tls.key", "PRIVATE KEY", "nothing of that kind is in it")),
            ),
            (tls, Some(&chain[..80]), Some(key.as_str()), Some(not_pem("tls.crt", "CERTIFICATE", "its last section has no end"))),
            (tls, Some(chain.as_str()), Some(encrypted), Some(SecretFault::EncryptedKey)),
            (tls, Some(chain.as_str()), Some(legacy), Some(SecretFault::EncryptedKey)),
            (tls, Some(other_chain.as_str()), Some(key.as_str()), Some(SecretFault::Mismatch)),
        ] {
            assert_eq!(fault(kind, chain, key), expected);
        }
        assert!(matches!(fault(tls, Some(empty_der), Some(key.as_str())), Some(SecretFault::BadCertificate(_))));
    }

    #[test]
    fn a_key_that_cannot_sign_is_told_from_one_that_cannot_be_read() {
        let (chain, _) = pair("example.com");
        let odd = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        assert_eq!(fault("kubernetes.io/tls", Some(chain.as_str()), Some(odd)), Some(SecretFault::UnsupportedKey));
    }

    #[test]
    fn binary_content_is_not_pem() {
        let content = SecretContent { kind: "kubernetes.io/tls", chain: Some(&[0xff, 0xfe]), key: Some(b"x") };
        assert!(matches!(read(content), Err(SecretFault::NotPem { field: "tls.crt", .. })));
    }
}
