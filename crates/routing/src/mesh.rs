//! Workloads of the mesh: who they are, where they are, and what is asked of those who call them.

mod pods;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Hostname;
use crate::name::{InvalidName, as_text};

pub use pods::Pods;

/// Who a workload is: its ServiceAccount. Its text is `ServiceAccount/namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The namespace of the ServiceAccount.
    pub namespace: String,
    /// The name of the ServiceAccount.
    pub account: String,
}

/// Within which names of workloads mean something: a DNS name such as `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustDomain(Hostname);

/// The label before the trust domain in the DNS name of an identity, as `svc` is in that of a Service.
const ACCOUNTS: &str = "sa";
/// The same, where the account does not fit into a DNS name and its hash stands for it.
const HASHED: &str = "sa-sha256";
/// The longest DNS name, and the longest label of one.
const LONGEST: (usize, usize) = (253, 63);

impl Identity {
    /// The URI in its certificate: `spiffe://cluster.local/ns/shop/sa/cart`.
    pub fn spiffe(&self, domain: &TrustDomain) -> String {
        format!("spiffe://{domain}/ns/{}/sa/{}", self.namespace, self.account)
    }

    /// Reads what [`Identity::spiffe`] has written. None: it is of another domain, or not the name of a workload.
    pub fn of_spiffe(uri: &str, domain: &TrustDomain) -> Option<Self> {
        let path = uri.strip_prefix("spiffe://")?.strip_prefix(domain.as_str())?.strip_prefix("/ns/")?;
        let (namespace, account) = path.split_once("/sa/")?;
        let is_segment = |text: &str| !text.is_empty() && !text.contains('/');
        (is_segment(namespace) && is_segment(account))
            .then(|| Self { namespace: namespace.to_owned(), account: account.to_owned() })
    }

    /// The DNS name in its certificate, and the server name by which it is called: `cart.shop.sa.cluster.local`. Where that would be no DNS
    /// name because the account's is too long, the first 32 hexadecimal digits of the SHA-256 of `namespace/account` take its place, under
    /// another label.
    pub fn dns_name(&self, domain: &TrustDomain) -> String {
        let name = format!("{}.{}.{ACCOUNTS}.{domain}", self.account, self.namespace);
        let (longest, label) = LONGEST;
        if name.len() <= longest && name.split('.').all(|part| part.len() <= label) {
            return name;
        }
        let hash = Sha256::digest(format!("{}/{}", self.namespace, self.account));
        let hash: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{hash}.{}.{HASHED}.{domain}", self.namespace)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceAccount/{}/{}", self.namespace, self.account)
    }
}

impl FromStr for Identity {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let parts = s.strip_prefix("ServiceAccount/").and_then(|rest| rest.split_once('/'));
        match parts.filter(|(namespace, account)| !namespace.is_empty() && !account.is_empty() && !account.contains('/')) {
            Some((namespace, account)) => Ok(Self { namespace: namespace.to_owned(), account: account.to_owned() }),
            None => Err(InvalidName::new(s, "ServiceAccount/namespace/name")),
        }
    }
}

impl TrustDomain {
    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether a server name (lower-case, without a trailing dot) is one by which workloads call each other.
    pub fn is_identity(&self, server_name: &str) -> bool {
        let name = server_name.strip_suffix(self.as_str()).and_then(|rest| rest.strip_suffix('.'));
        name.and_then(|rest| rest.rsplit_once('.')).is_some_and(|(_, kind)| kind == ACCOUNTS || kind == HASHED)
    }
}

impl Default for TrustDomain {
    /// `cluster.local`
    fn default() -> Self {
        Self("cluster.local".parse().expect("it is a DNS name"))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no trust domain: it has to be a DNS name in lower case, of at most 100 characters and without a wildcard")]
pub struct InvalidTrustDomain(String);

/// Leaves room for a namespace and an account, or its hash.
const LONGEST_DOMAIN: usize = 100;

impl FromStr for TrustDomain {
    type Err = InvalidTrustDomain;
    fn from_str(s: &str) -> Result<Self, InvalidTrustDomain> {
        let name: Option<Hostname> = s.parse().ok();
        let name = name.filter(|name| s.len() <= LONGEST_DOMAIN && name.as_str() == s && !s.contains('*'));
        name.map(Self).ok_or_else(|| InvalidTrustDomain(s.to_owned()))
    }
}

as_text!(Identity, TrustDomain);

/// Whose certificates workloads take from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// Within which their names mean something.
    pub trust_domain: TrustDomain,
    /// PEM: the certificates of the authorities, at least one; while the authority changes, the old and the new. The first is the one below
    /// which certificates are given now.
    pub authorities: String,
}

/// Where the workloads of one identity are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workloads {
    /// Their pods, by address.
    pub pods: Pods,
}

/// A pod with a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshedPod {
    /// Ports of which the sidecar does not take what comes in, so that they are called as if there were none; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plain_ports: Vec<u16>,
}

impl MeshedPod {
    /// The port of every sidecar itself (metrics and probes), of which it does not take what comes in either.
    pub const ADMIN_PORT: u16 = 15423;

    /// Whether a port is called as if there were no sidecar.
    pub fn is_plain(&self, port: u16) -> bool {
        port == Self::ADMIN_PORT || self.plain_ports.binary_search(&port).is_ok()
    }
}

/// What of a Service every sidecar knows, called or not: whether an address is a Service's is asked of nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// The Service's own addresses (`clusterIPs`).
    pub addresses: Vec<IpAddr>,
    /// Its TCP ports, sorted.
    pub ports: Vec<u16>,
}

/// A Service, as every sidecar knows it. Its text is `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for FrontendKey {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        match s.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/')) {
            Some((namespace, name)) => Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() }),
            None => Err(InvalidName::new(s, "namespace/name")),
        }
    }
}

as_text!(FrontendKey);

/// What a workload asks of those who call it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// Whether they have to prove who they are.
    pub mode: MtlsMode,
    /// Ports of the workload where that is different.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, MtlsMode>,
}

impl Inbound {
    /// What is asked on a port of the workload.
    pub fn mode_of(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

/// Whether callers have to prove who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MtlsMode {
    /// Those outside of the mesh are served as well.
    #[default]
    Permissive,
    /// They are not.
    Strict,
}

/// What is known of what clients of a Service's port say, without looking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spoken {
    /// Nothing: their first bytes decide.
    #[default]
    Unknown,
    /// HTTP/1 or HTTP/2 in cleartext.
    Http,
    /// Something else: bytes are passed on as they come.
    Stream,
}

impl Spoken {
    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(namespace: &str, account: &str) -> Identity {
        Identity { namespace: namespace.to_owned(), account: account.to_owned() }
    }

    #[test]
    fn an_identity_has_two_names_that_say_the_same() {
        let domain = TrustDomain::default();
        let long = "a".repeat(253);
        for (identity, dns) in [
            (identity("shop", "cart"), Some("cart.shop.sa.cluster.local")),
            (identity("shop", "cart.v2"), Some("cart.v2.shop.sa.cluster.local")),
            (identity("shop", &long), None),
        ] {
            let spiffe = identity.spiffe(&domain);
            assert_eq!(Identity::of_spiffe(&spiffe, &domain), Some(identity.clone()));
            let name = identity.dns_name(&domain);
            assert!(domain.is_identity(&name), "{name}");
            assert!(name.parse::<Hostname>().is_ok());
            match dns {
                Some(dns) => assert_eq!(name, dns),
                None => assert!(name.ends_with(".shop.sa-sha256.cluster.local") && name.find('.') == Some(32), "{name}"),
            }
        }
    }

    #[test]
    fn other_names_are_no_identities() {
        let domain = TrustDomain::default();
        for uri in [
            "spiffe://other/ns/shop/sa/cart",
            "spiffe://cluster.local.evil/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/cart",
            "spiffe://cluster.local/ns/shop/sa/cart/more",
            "spiffe://cluster.local/ns/shop/x/sa/cart",
            "https://cluster.local/ns/shop/sa/cart",
        ] {
            assert_eq!(Identity::of_spiffe(uri, &domain), None, "{uri}");
        }
        for name in ["", "cluster.local", "cart.shop.svc.cluster.local", "sa.cluster.local", "cart.shop.sa.cluster.local.evil"] {
            assert!(!domain.is_identity(name), "{name}");
        }
    }

    #[test]
    fn texts_are_read_as_they_are_shown() {
        assert_eq!("ServiceAccount/a/b".parse(), Ok(identity("a", "b")));
        assert_eq!(identity("a", "b").to_string(), "ServiceAccount/a/b");
        for text in ["", "a/b", "ServiceAccount/a", "ServiceAccount//b", "ServiceAccount/a/", "ServiceAccount/a/b/c"] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
        for text in ["", "*.local", "UPPER.local", "a..b", "with/slash", &"a.".repeat(80)] {
            assert!(text.parse::<TrustDomain>().is_err(), "{text}");
        }
        for text in ["", "a", "a/", "/b", "a/b/c"] {
            assert!(text.parse::<FrontendKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn some_ports_are_called_as_if_there_were_no_sidecar() {
        let pod = MeshedPod { plain_ports: vec![22, 443] };
        let plain = [22, 80, 443, 15_422, 15_423].map(|port| pod.is_plain(port));
        assert_eq!(plain, [true, false, true, false, true]);
        assert!(MeshedPod::default().is_plain(MeshedPod::ADMIN_PORT));
    }

    #[test]
    fn a_port_may_be_an_exception() {
        let inbound = Inbound { mode: MtlsMode::Strict, ports: BTreeMap::from([(9090, MtlsMode::Permissive)]) };
        assert_eq!((inbound.mode_of(80), inbound.mode_of(9090)), (MtlsMode::Strict, MtlsMode::Permissive));
    }
}
