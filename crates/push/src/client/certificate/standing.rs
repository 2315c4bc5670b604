//! Whether a leaf is one that the mesh takes, and by which of its authorities.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::leaf::Leaf;

/// What a leaf is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is of the authority under which certificates are given now; or it cannot be told, because none of the authorities can be read.
    Current,
    /// It is of another one that is still trusted.
    Former,
    /// It is of none that is trusted: whoever looks at it refuses it.
    Refused,
}

impl Standing {
    /// By the mesh's authorities (PEM), of which the first is the one under which certificates are given now. Whether the leaf has expired is
    /// no matter of this.
    pub(super) fn of(leaf: &Leaf, authorities: &str, now: SystemTime) -> Self {
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(authorities.as_bytes()).flatten().collect();
        let first = takes(authorities.get(..1).unwrap_or_default(), leaf, now);
        match (first, takes(&authorities, leaf, now)) {
            (Some(true), _) | (_, None) | (None, Some(true)) => Self::Current,
            (Some(false), Some(true)) => Self::Former,
            (_, Some(false)) => Self::Refused,
        }
    }
}

/// Whether a leaf is below one of these authorities; none: not one of them can be read.
fn takes(authorities: &[CertificateDer<'static>], leaf: &Leaf, now: SystemTime) -> Option<bool> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.iter().cloned());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider())).build().ok()?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.certificate().chain.as_bytes()).flatten().collect();
    let (first, above) = chain.split_first()?;
    // A clock that is wrong is another fault, and no renewal mends it.
    let within = leaf.within(now).duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(verifier.verify_client_cert(first, above, UnixTime::since_unix_epoch(within)).is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use isthmus_routing::Certificate;
    use rcgen::KeyPair;

    use super::*;
    use crate::tests::Authority;

    #[test]
    fn the_first_authority_gives_and_the_others_are_trusted() {
        let [one, other, third] = [(); 3].map(|()| Authority::new());
        let key = KeyPair::generate().unwrap();
        let now = SystemTime::now();
        let chain = one.workload(&key, Duration::from_secs(3600));
        let leaf = Leaf::read(Certificate { chain, key: key.serialize_pem() }, now).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (what, authorities, expected) in [
            ("alone", one.pem.clone(), Standing::Current),
            ("first", format!("{}{}", one.pem, other.pem), Standing::Current),
            ("not first", format!("{}{}{}", other.pem, third.pem, one.pem), Standing::Former),
            ("gone", format!("{}{}", other.pem, third.pem), Standing::Refused),
            ("none", String::new(), Standing::Current),
            ("words", "authorities".to_owned(), Standing::Current),
            ("none that can be read", broken.to_owned(), Standing::Current),
            ("behind one that cannot be read", format!("{broken}{}", one.pem), Standing::Current),
            ("gone, behind one that cannot be read", format!("{broken}{}", other.pem), Standing::Refused),
        ] {
            for clock in [now, now + day, now - day] {
                assert_eq!(Standing::of(&leaf, &authorities, clock), expected, "{what}");
            }
        }
    }
}
