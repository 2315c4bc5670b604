//! Certificates, and what TLS has to fulfil on both sides.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::as_text;
use crate::{BundleKey, Hostname};

/// A certificate chain with its key, as a `kubernetes.io/tls` Secret holds them. `translate` has checked that both parse and
/// belong together.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// PEM, leaf first.
    pub chain: String,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: String,
}

/// Never shows the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.chain).field("key", &"<secret>").finish()
    }
}

/// Certificates of authorities, as `ca.crt` of an object holds them. `translate` has checked that each parses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// PEM, at least one.
    pub certificates: String,
}

/// Which certificates clients of a listener have to show (`spec.tls.frontend`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientValidation {
    /// Whose certificates are taken: those of all of these together, in the order of the object. If none of them is in the snapshot, no
    /// certificate is valid.
    pub authorities: Vec<BundleKey>,
    /// Whether clients without a certificate, or with one that is not valid, are served all the same (`AllowInsecureFallback`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// Versions and ciphers of a listener (`tls.options`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSettings {
    /// The oldest version that is spoken; none: 1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
    /// The ciphers that are used, most preferred first, of whatever version; empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ciphers: Vec<CipherSuite>,
}

impl TlsSettings {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Versions of TLS that can be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// 1.2
    #[serde(rename = "1.2")]
    V1_2,
    /// 1.3
    #[serde(rename = "1.3")]
    V1_3,
}

impl FromStr for TlsVersion {
    type Err = UnknownTlsValue;
    fn from_str(s: &str) -> Result<Self, UnknownTlsValue> {
        match s {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err(UnknownTlsValue { text: s.to_owned(), known: "1.2, 1.3".to_owned() }),
        }
    }
}

/// A cipher suite that can be used. Its text is IANA's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CipherSuite(&'static str);

/// IANA's names, the most preferred first.
const SUITES: [&str; 9] = [
    "TLS_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

impl CipherSuite {
    /// Every one, the most preferred first.
    pub fn all() -> impl Iterator<Item = Self> {
        SUITES.into_iter().map(Self)
    }

    /// IANA's name.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// The version of TLS that has it.
    pub fn version(self) -> TlsVersion {
        if self.0.contains("_WITH_") { TlsVersion::V1_2 } else { TlsVersion::V1_3 }
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl FromStr for CipherSuite {
    type Err = UnknownTlsValue;
    fn from_str(s: &str) -> Result<Self, UnknownTlsValue> {
        let unknown = || UnknownTlsValue { text: s.to_owned(), known: SUITES.join(", ") };
        SUITES.into_iter().find(|name| *name == s).map(Self).ok_or_else(unknown)
    }
}

as_text!(CipherSuite);

/// A version or cipher that cannot be spoken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not known; use one of {known}")]
pub struct UnknownTlsValue {
    text: String,
    known: String,
}

/// How connections to a backend are encrypted (BackendTLSPolicy).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendTls {
    /// With TLS, when the backend's certificate fulfils this.
    Verified(BackendValidation),
    /// There is a policy, and it cannot be carried out: nothing is sent, neither in the clear nor unverified.
    Invalid,
}

/// What the certificate of a backend has to fulfil.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendValidation {
    /// The server name that is asked for (SNI); without `subject_alt_names` the certificate has to be valid for it.
    ///
    /// > 1. Hostname MUST be used as the SNI to connect to the backend (RFC 6066).
    pub hostname: Hostname,
    /// Who may have signed it.
    pub roots: Roots,
    /// If not empty, the certificate has to be valid for one of these, and `hostname` is not compared with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// Authorities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Roots {
    /// Those of the machine that the proxy runs on.
    System,
    /// Those of all these together. If none of them is in the snapshot, no certificate is valid.
    Bundles(Vec<BundleKey>),
}

/// A name that a certificate is valid for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectAltName {
    /// A DNS name; the certificate may have a wildcard that covers it.
    Hostname(Hostname),
    /// A URI, compared byte for byte (`spiffe://...`).
    Uri(String),
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Roots {
    /// Objects that it refers to.
    pub fn bundles(&self) -> &[BundleKey] {
        match self {
            Self::System => &[],
            Self::Bundles(bundles) => bundles,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphers_have_the_version_that_knows_them() {
        let of = |version| CipherSuite::all().filter(|suite| suite.version() == version).count();
        assert_eq!((of(TlsVersion::V1_3), of(TlsVersion::V1_2)), (3, 6));
        for suite in CipherSuite::all() {
            assert_eq!(suite.as_str().parse(), Ok(suite));
        }
        assert!("TLS_RSA_WITH_AES_128_CBC_SHA".parse::<CipherSuite>().is_err());
        assert!("1.1".parse::<TlsVersion>().is_err());
    }

    #[test]
    fn a_key_is_never_shown() {
        let certificate = Certificate { chain: "chain".to_owned(), key: "hidden".to_owned() };
        assert!(!format!("{certificate:?}").contains("hidden"));
    }
}
