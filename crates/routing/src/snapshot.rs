//! Everything that a proxy needs at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Backend, BackendKey, Certificate, CertificateKey, Gateway, GatewayKey, Route, RouteKey};

/// A set of keyed items. Two snapshots with equal items are equal, have the same bytes and the same [`Version`].
///
/// Items refer to each other by key. A reference whose item is absent is not an error: a listener without its
/// certificate fails handshakes, a backend without its item has no endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Gateways with their listeners.
    pub gateways: BTreeMap<GatewayKey, Arc<Gateway>>,
    /// Routes that at least one listener refers to.
    pub routes: BTreeMap<RouteKey, Arc<Route>>,
    /// Service ports that at least one rule refers to.
    pub backends: BTreeMap<BackendKey, Arc<Backend>>,
    /// Certificates that at least one listener refers to.
    pub certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
}

/// A content hash: equal snapshots have equal versions on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version([u8; 8]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Snapshot {
    /// Hashes the serialised snapshot; costs about as much as serialising it, so keep the result.
    pub fn version(&self) -> Version {
        struct Hasher(Sha256);
        impl std::io::Write for Hasher {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut hasher = Hasher(Sha256::new());
        serde_json::to_writer(std::io::BufWriter::new(&mut hasher), self)
            .expect("every key of a snapshot is serialised as a string, and a hasher takes all bytes");
        let digest = hasher.0.finalize();
        let mut version = [0; 8];
        version.copy_from_slice(&digest[..8]);
        Version(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a snapshot can hold, in its serialised form.
    const FULL: &str = include_str!("snapshot/full.json");

    #[test]
    fn round_trip_is_byte_for_byte() {
        let snapshot: Snapshot = serde_json::from_str(FULL).unwrap();
        assert_eq!(serde_json::to_string_pretty(&snapshot).unwrap(), FULL.trim_end());
        let again: Snapshot = serde_json::from_slice(&serde_json::to_vec(&snapshot).unwrap()).unwrap();
        assert_eq!(again, snapshot);
        assert_eq!(again.version(), snapshot.version());
    }

    #[test]
    fn version_is_of_the_content() {
        let full: Snapshot = serde_json::from_str(FULL).unwrap();
        let mut other = full.clone();
        other.routes.pop_last();
        assert_ne!(full.version(), other.version());
        assert_eq!(Snapshot::default().version().to_string().len(), 16);
    }

    #[test]
    fn deserialising_is_parsing() {
        let faults = [
            ("\"shop.example.com\"", "\"shop..example.com\""),
            ("HTTPRoute/default/shop", "HTTPRoute/default"),
            ("/v[0-9]+/.*", "/v[0-9+/.*"),
            ("x-version", "x version"),
            ("\"GET\"", "\"G T\""),
            ("10.0.0.7:8080", "10.0.0.7"),
        ];
        for (valid, invalid) in faults {
            assert!(FULL.contains(valid), "{valid}");
            let text = FULL.replace(valid, invalid);
            assert!(serde_json::from_str::<Snapshot>(&text).is_err(), "{invalid} is taken");
        }
    }
}
