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
}

impl RouteKind {
    /// The Gateway API's name of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
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
        write!(f, "Service/{}/{}:{}", self.namespace, self.name, self.port)
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
        let kind = match kind {
            "HTTPRoute" => RouteKind::Http,
            "GRPCRoute" => RouteKind::Grpc,
            _ => return Err(InvalidName { text: s.to_owned(), like: LIKE }),
        };
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), kind })
    }
}

impl std::str::FromStr for BackendKey {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        const LIKE: &str = "Service/namespace/name:port";
        let (_, namespace, rest) = split3(s, Some("Service"), LIKE)?;
        let (name, port) = rest
            .rsplit_once(':')
            .and_then(|(name, port)| Some((name, port.parse().ok()?)))
            .ok_or_else(|| InvalidName { text: s.to_owned(), like: LIKE })?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port })
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

as_text!(GatewayKey, RouteKey, BackendKey, CertificateKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for text in ["HTTPRoute/default/shop", "GRPCRoute/a/b"] {
            assert_eq!(text.parse::<RouteKey>().map(|key| key.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("Service/a/b:80".parse::<BackendKey>().map(|key| key.to_string()), Ok("Service/a/b:80".to_owned()));
        for text in ["", "HTTPRoute/a", "TCPRoute/a/b", "HTTPRoute/a/b/c", "HTTPRoute//b", "Gateway/a/b"] {
            assert!(text.parse::<RouteKey>().is_err(), "{text}");
        }
        for text in ["Service/a/b", "Service/a/b:", "Service/a/b:65536"] {
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
