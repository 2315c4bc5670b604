//! Everything that a proxy needs at one moment.

mod item;
mod model;
mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::name::{InvalidName, as_text};
use crate::{
    Backend, BackendKey, Bundle, BundleKey, Certificate, CertificateKey, Frontend, FrontendKey, Gateway, GatewayKey, Identity,
    Inbound, Mesh, Route, RouteKey, ServiceParent, Workloads,
};

pub use item::{Changes, Item, ItemKey, UnknownItem};
pub use model::{Lacking, ModelVersion, Models};

/// A set of keyed items. Two snapshots with equal items are equal, have the same bytes and the same [`Version`].
///
/// Items refer to each other by key. A reference whose item is absent is not an error: a listener without its
/// certificate fails handshakes, a backend without its item has no endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Gateways with their listeners.
    pub gateways: BTreeMap<GatewayKey, Arc<Gateway>>,
    /// Routes that at least one listener refers to, and those of Services that Gateways evaluate ([`Gateway::service_routes`]): as they are
    /// where backends of other namespaces need a permission.
    pub routes: BTreeMap<RouteKey, Arc<Route>>,
    /// Service ports that clients call, those without routes too. Each is also in `backends`, for clients whose calls no route takes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<BackendKey, Arc<ServiceParent>>,
    /// Routes that at least one of `services` refers to, as they are there. One that a listener refers to as well is in `routes` too, and
    /// may differ: there a backend of another namespace needs its permission.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_routes: BTreeMap<RouteKey, Arc<Route>>,
    /// Service ports that at least one rule refers to, and those of `services`.
    pub backends: BTreeMap<BackendKey, Arc<Backend>>,
    /// Certificates that at least one listener or Gateway refers to.
    pub certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
    /// Certificates of authorities that at least one listener or backend refers to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bundles: BTreeMap<BundleKey, Arc<Bundle>>,
    /// References of listeners whose content is malformed at the moment: whoever holds a certificate for one goes on with it, see
    /// [`Snapshot::keeping`]. None of them is in `certificates` until then.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kept: BTreeSet<CertificateKey>,
    /// The same of certificates of authorities.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kept_bundles: BTreeSet<BundleKey>,
    /// Whose certificates workloads take from each other; none: nobody is in a mesh, or, if there are workloads, it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<Arc<Mesh>>,
    /// Where workloads are that have sidecars, each address once: connections to them are made as [`Snapshot::mesh`] says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub workloads: BTreeMap<Identity, Arc<Workloads>>,
    /// Every Service that clients of a sidecar may call. What is called is in `services`, as soon as the sidecar has asked for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frontends: BTreeMap<FrontendKey, Arc<Frontend>>,
    /// What the workload of this sidecar asks of those who call it; none: this is no sidecar's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Arc<Inbound>>,
}

/// A content hash: equal snapshots have equal versions on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version([u8; 8]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Version {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let bad = || InvalidName::new(s, "0123456789abcdef");
        let digits = s.len() == 16 && s.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u64::from_str_radix(s, 16).ok().filter(|_| digits).ok_or_else(bad)?;
        Ok(Self(number.to_be_bytes()))
    }
}

as_text!(Version);

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
        let mut other = full.clone();
        other.kept.clear();
        assert_ne!(full.version(), other.version());
    }

    #[test]
    fn versions_are_read_as_they_are_shown() {
        let version = Snapshot::default().version();
        assert_eq!(version.to_string().parse(), Ok(version));
        assert_eq!(serde_json::to_string(&version).unwrap(), format!("\"{version}\""));
        for text in ["", "+123456789abcdef", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
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
