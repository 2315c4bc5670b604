//! Versions and ciphers of a listener -> what is offered to its clients.

use std::sync::Arc;

use isthmus_routing::{CipherSuite, TlsSettings, TlsVersion};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// What is offered.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    /// Whether our order of ciphers counts. If not, the client's does: it knows whether its processor has AES instructions.
    pub(super) ordered: bool,
}

impl Offer {
    /// None: no cipher is left that a version could be spoken with.
    pub(super) fn of(settings: &TlsSettings) -> Option<Self> {
        let mut provider = ring::default_provider();
        if !settings.ciphers.is_empty() {
            provider.cipher_suites = settings.ciphers.iter().filter_map(|wanted| implemented(*wanted)).collect();
        }
        let oldest = settings.min_version.unwrap_or(TlsVersion::V1_2);
        let spoken = [(TlsVersion::V1_3, &rustls::version::TLS13), (TlsVersion::V1_2, &rustls::version::TLS12)];
        let has_cipher =
            |version: &SupportedProtocolVersion| provider.cipher_suites.iter().any(|suite| suite.version() == version);
        let versions: Vec<_> = spoken
            .into_iter()
            .filter(|(version, spoken)| *version >= oldest && has_cipher(spoken))
            .map(|(_, spoken)| spoken)
            .collect();
        let ordered = !settings.ciphers.is_empty();
        (!versions.is_empty()).then(|| Self { provider: Arc::new(provider), versions, ordered })
    }
}

impl Default for Offer {
    fn default() -> Self {
        let versions = vec![&rustls::version::TLS13, &rustls::version::TLS12];
        Self { provider: Arc::new(ring::default_provider()), versions, ordered: false }
    }
}

fn implemented(wanted: CipherSuite) -> Option<SupportedCipherSuite> {
    ring::ALL_CIPHER_SUITES.iter().find(|suite| iana_name(**suite) == wanted.as_str()).copied()
}

/// IANA's name of a cipher suite; rustls has one of its own for those of TLS 1.3.
pub(crate) fn iana_name(suite: SupportedCipherSuite) -> &'static str {
    let name = suite.suite().as_str().unwrap_or_default();
    let own = name.strip_prefix("TLS13_").unwrap_or_default();
    let known = CipherSuite::all().map(CipherSuite::as_str);
    let of_1_3 = known.into_iter().find(|known| !own.is_empty() && known.strip_prefix("TLS_") == Some(own));
    of_1_3.unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cipher_of_the_model_is_implemented() {
        for wanted in CipherSuite::all() {
            assert!(implemented(wanted).is_some(), "{wanted}");
        }
        assert_eq!(CipherSuite::all().count(), ring::ALL_CIPHER_SUITES.len(), "and the model knows every one");
    }

    #[test]
    fn a_version_without_ciphers_is_off() {
        let (old, new) = ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256");
        let cases: &[(Option<TlsVersion>, &[&str], &[&str])] = &[
            (None, &[], &["1.3", "1.2"]),
            (Some(TlsVersion::V1_2), &[], &["1.3", "1.2"]),
            (Some(TlsVersion::V1_3), &[], &["1.3"]),
            (None, &[old, new], &["1.3", "1.2"]),
            (None, &[old], &["1.2"]),
            (None, &[new], &["1.3"]),
            (Some(TlsVersion::V1_3), &[new, old], &["1.3"]),
            (Some(TlsVersion::V1_3), &[old], &[]),
        ];
        for (min_version, ciphers, expected) in cases {
            let ciphers: Vec<CipherSuite> = ciphers.iter().map(|name| name.parse().expect("a cipher")).collect();
            let offer = Offer::of(&TlsSettings { min_version: *min_version, ciphers: ciphers.clone() });
            let name = |version: &&SupportedProtocolVersion| if **version == rustls::version::TLS13 { "1.3" } else { "1.2" };
            let versions: Vec<_> = offer.iter().flat_map(|offer| &offer.versions).map(name).collect();
            assert_eq!(versions, *expected, "{min_version:?} {ciphers:?}");
            if let Some(offer) = offer.filter(|_| !ciphers.is_empty()) {
                let names: Vec<_> = offer.provider.cipher_suites.iter().map(|suite| iana_name(*suite)).collect();
                let wanted: Vec<_> = ciphers.iter().map(|cipher| cipher.as_str()).collect();
                assert_eq!(names, wanted, "in the listener's order");
                assert!(offer.ordered);
            }
        }
    }
}
