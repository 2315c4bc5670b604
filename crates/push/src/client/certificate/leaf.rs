//! A certificate that fits its key, and its life.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_routing::{Certificate, Identity, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

/// Life is counted from when it came, because it says itself that it began earlier, for those whose clock is late.
#[derive(Debug)]
pub(super) struct Leaf {
    certificate: Arc<Certificate>,
    identity: String,
    received: SystemTime,
    begin: SystemTime,
    end: SystemTime,
}

/// As it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    certificate: Arc<Certificate>,
    /// Milliseconds since 1970.
    received: u64,
}

impl Leaf {
    /// What came at `received`.
    ///
    /// # Errors
    /// When it is malformed, for another key, or expired then.
    pub(super) fn read(certificate: Certificate, received: SystemTime) -> Result<Self, String> {
        let first = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).next();
        let first = first.ok_or("it holds no certificate")?.map_err(|error| error.to_string())?;
        let (_, leaf) = x509_parser::parse_x509_certificate(&first).map_err(|error| error.to_string())?;
        let key = KeyPair::from_pem(&certificate.key).map_err(|error| format!("its key is none: {error}"))?;
        if leaf.public_key().raw != key.subject_public_key_info() {
            return Err("it is for another key".to_owned());
        }
        let at = |time: ASN1Time| u64::try_from(time.timestamp()).map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let begin = at(leaf.validity().not_before).unwrap_or(UNIX_EPOCH);
        let end = at(leaf.validity().not_after).map_err(|_| "it ended before 1970")?;
        if end <= received {
            return Err("it has expired; is the clock of this node right?".to_owned());
        }
        let names = leaf.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
        let uri = names.into_iter().flatten().find_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
        let identity = uri.unwrap_or_default();
        Ok(Self { certificate: Arc::new(certificate), identity, received, begin, end })
    }

    /// # Errors
    /// As [`Leaf::read`].
    pub(super) fn restore(stored: Stored) -> Result<Self, String> {
        let received = UNIX_EPOCH + Duration::from_millis(stored.received);
        Self::read(Arc::unwrap_or_clone(stored.certificate), received)
    }

    pub(super) fn stored(&self) -> Stored {
        let received = self.received.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Stored { certificate: self.certificate.clone(), received: u64::try_from(received).unwrap_or_default() }
    }

    pub(super) fn certificate(&self) -> &Arc<Certificate> {
        &self.certificate
    }

    /// Whether it says who this proxy is within a trust domain.
    pub(super) fn is_of(&self, domain: &TrustDomain) -> bool {
        Identity::of_spiffe(&self.identity, domain).is_some()
    }

    /// Its first URI.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    pub(super) fn end(&self) -> SystemTime {
        self.end
    }

    /// The moment of its life, as it says itself, that is next to this one.
    pub(super) fn within(&self, now: SystemTime) -> SystemTime {
        now.min(self.end - Duration::from_secs(1)).max(self.begin)
    }

    /// When this share of its life is over.
    pub(super) fn at(&self, share: f64) -> SystemTime {
        self.received + self.end.duration_since(self.received).unwrap_or_default().mul_f64(share)
    }

    /// What is left of its life; none: it has expired.
    pub(super) fn left(&self, now: SystemTime) -> Option<Duration> {
        self.end.duration_since(now).ok().filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::issued;

    #[test]
    fn life_is_counted_from_when_it_came() {
        let key = KeyPair::generate().unwrap();
        let now = SystemTime::now();
        let chain = issued(&key, Duration::from_secs(1000));
        let leaf = Leaf::read(Certificate { chain, key: key.serialize_pem() }, now).unwrap();
        assert_eq!(leaf.identity(), "spiffe://cluster.local/ns/shop/sa/app");
        assert!(leaf.is_of(&TrustDomain::default()) && !leaf.is_of(&"other.local".parse().unwrap()));
        let half = leaf.at(0.5).duration_since(now).unwrap();
        assert!((499..=501).contains(&half.as_secs()), "{half:?}");
        assert!(leaf.left(now).is_some_and(|left| left.as_secs() >= 998));
        assert!(leaf.left(now + Duration::from_secs(1001)).is_none());
        let again = Leaf::restore(leaf.stored()).unwrap();
        assert_eq!((again.certificate(), again.end()), (leaf.certificate(), leaf.end()));
        assert!(again.at(0.0).duration_since(now).unwrap_or_else(|error| error.duration()) < Duration::from_millis(2));
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (own, now) = (key.serialize_pem(), SystemTime::now());
        let hour = Duration::from_secs(3600);
        for (chain, key, at, fault) in [
            (String::new(), own.clone(), now, "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), own.clone(), now, ""),
            (issued(&other, hour), own.clone(), now, "another key"),
            (issued(&key, hour), String::new(), now, "its key is none"),
            (issued(&key, hour), own, now + 2 * hour, "expired"),
        ] {
            let error = Leaf::read(Certificate { chain, key }, at).unwrap_err();
            assert!(error.contains(fault), "{error}");
        }
    }
}
