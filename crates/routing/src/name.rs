//! Names of things: one newtype for each, shown as `Kind/namespace/name`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The kinds of route that this model carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    /// `HTTPRoute`
    #[serde(rename = "HTTPRoute")]
    Http,
    /// `GRPCRoute`
    #[serde(rename = "GRPCRoute")]
    Grpc,
    /// `TLSRoute`
    #[serde(rename = "TLSRoute")]
    Tls,
    /// `TCPRoute`
    #[serde(rename = "TCPRoute")]
    Tcp,
    /// `UDPRoute`
    #[serde(rename = "UDPRoute")]
    Udp,
}

impl RouteKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Http, Self::Grpc, Self::Tls, Self::Tcp, Self::Udp];

    /// The Gateway API's name of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }
}

/// A route object. Its order is the one in which the specification breaks ties of age:
///
/// > The Route appearing first in alphabetical order by "{namespace}/{name}".
///
/// It is the order of that text, not of its two parts: `a-b/x` is before `a/x`, because `-` is before `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: RouteKind,
}

impl Ord for RouteKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        fn text(key: &RouteKey) -> impl Iterator<Item = u8> {
            key.namespace.bytes().chain([b'/']).chain(key.name.bytes())
        }
        let by_text = if self.namespace == other.namespace { self.name.cmp(&other.name) } else { text(self).cmp(text(other)) };
        by_text.then_with(|| (self.kind, &self.namespace).cmp(&(other.kind, &other.namespace)))
    }
}

impl PartialOrd for RouteKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The Service's port, not the endpoints'.
    pub port: u16,
    /// What carries it: a Service may have the same port for both.
    pub transport: Transport,
}

/// What carries a protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    /// Connections.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// Datagrams.
    #[serde(rename = "UDP")]
    Udp,
}

impl Transport {
    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object that holds certificates of authorities. Its text is `Kind/namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BundleKey {
    /// What it is.
    pub kind: BundleKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Kinds that can hold certificates of authorities, each in `ca.crt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BundleKind {
    /// `ConfigMap`
    ConfigMap,
    /// `Secret`
    Secret,
}

/// A Secret that holds a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateKey {
    /// The Secret's namespace.
    pub namespace: String,
    /// The Secret's name.
    pub name: String,
}

impl fmt::Display for GatewayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gateway/{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service/{}/{}:{}", self.namespace, self.name, self.port)?;
        match self.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/UDP"),
        }
    }
}

impl fmt::Display for BundleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            BundleKind::ConfigMap => "ConfigMap",
            BundleKind::Secret => "Secret",
        };
        write!(f, "{kind}/{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for CertificateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret/{}/{}", self.namespace, self.name)
    }
}

/// A text that is not the name of what it should name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a name like `{like}`")]
pub struct InvalidName {
    text: String,
    like: &'static str,
}

impl InvalidName {
    pub(crate) fn new(text: &str, like: &'static str) -> Self {
        Self { text: text.to_owned(), like }
    }
}

fn split3<'a>(text: &'a str, kind: Option<&str>, like: &'static str) -> Result<(&'a str, &'a str, &'a str), InvalidName> {
    let mut parts = text.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(k), Some(namespace), Some(name))
            if kind.is_none_or(|kind| kind == k) && !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok((k, namespace, name))
        }
        _ => Err(InvalidName { text: text.to_owned(), like }),
    }
}

impl std::str::FromStr for GatewayKey {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let (_, namespace, name) = split3(s, Some("Gateway"), "Gateway/namespace/name")?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl std::str::FromStr for RouteKey {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        const LIKE: &str = "HTTPRoute/namespace/name";
        let (kind, namespace, name) = split3(s, None, LIKE)?;
        let known = RouteKind::ALL.into_iter().find(|known| known.as_str() == kind);
        let kind = known.ok_or_else(|| InvalidName { text: s.to_owned(), like: LIKE })?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), kind })
    }
}

impl std::str::FromStr for BackendKey {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        const LIKE: &str = "Service/namespace/name:port";
        let (text, transport) = match s.strip_suffix("/UDP") {
            Some(text) => (text, Transport::Udp),
            None => (s, Transport::Tcp),
        };
        let (_, namespace, rest) = split3(text, Some("Service"), LIKE)?;
        let (name, port) = rest
            .rsplit_once(':')
            .and_then(|(name, port)| Some((name, port.parse().ok()?)))
            .ok_or_else(|| InvalidName { text: s.to_owned(), like: LIKE })?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port, transport })
    }
}

impl std::str::FromStr for BundleKey {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        const LIKE: &str = "ConfigMap/namespace/name";
        let (kind, namespace, name) = split3(s, None, LIKE)?;
        let kind = match kind {
            "ConfigMap" => BundleKind::ConfigMap,
            "Secret" => BundleKind::Secret,
            _ => return Err(InvalidName { text: s.to_owned(), like: LIKE }),
        };
        Ok(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl std::str::FromStr for CertificateKey {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let (_, namespace, name) = split3(s, Some("Secret"), "Secret/namespace/name")?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// Serialises a type as its `Display` form and parses it back with `FromStr`.
macro_rules! as_text {
    ($($type:ty),+) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_str(self) }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use as_text;

as_text!(GatewayKey, RouteKey, BackendKey, CertificateKey, BundleKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for text in ["HTTPRoute/default/shop", "GRPCRoute/a/b", "TLSRoute/a/b", "TCPRoute/a/b", "UDPRoute/a/b"] {
            assert_eq!(text.parse::<RouteKey>().map(|key| key.to_string()), Ok(text.to_owned()));
        }
        for text in ["Service/a/b:80", "Service/a/b:80/UDP"] {
            assert_eq!(text.parse::<BackendKey>().map(|key| key.to_string()), Ok(text.to_owned()));
        }
        for text in ["ConfigMap/a/b", "Secret/a/b"] {
            assert_eq!(text.parse::<BundleKey>().map(|key| key.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "HTTPRoute/a", "Route/a/b", "HTTPRoute/a/b/c", "HTTPRoute//b", "Gateway/a/b"] {
            assert!(text.parse::<RouteKey>().is_err(), "{text}");
        }
        for text in ["Service/a/b", "Service/a/b:", "Service/a/b:65536", "Service/a/b:80/TCP", "Service/a/b/UDP"] {
            assert!(text.parse::<BackendKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn routes_are_ordered_as_their_text() {
        let key = |namespace: &str, name: &str, kind| RouteKey { namespace: namespace.into(), name: name.into(), kind };
        let ordered = [
            key("a-b", "a", RouteKind::Http),
            key("a", "b", RouteKind::Http),
            key("a", "b", RouteKind::Grpc),
            key("a", "b-c", RouteKind::Http),
            key("a", "bb", RouteKind::Http),
            key("b", "a", RouteKind::Http),
        ];
        assert!(ordered.is_sorted());
    }
}
