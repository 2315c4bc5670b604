//! What an object is and what it is called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ObjectMeta;

/// The kinds that Isthmus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `GatewayClass`
    GatewayClass,
    /// `Gateway`
    Gateway,
    /// `ListenerSet`
    ListenerSet,
    /// `HTTPRoute`
    HttpRoute,
    /// `GRPCRoute`
    GrpcRoute,
    /// `TLSRoute`
    TlsRoute,
    /// `TCPRoute`
    TcpRoute,
    /// `UDPRoute`
    UdpRoute,
    /// `BackendTLSPolicy`
    BackendTlsPolicy,
    /// `ReferenceGrant`
    ReferenceGrant,
    /// `Namespace`
    Namespace,
    /// `Service`
    Service,
    /// `EndpointSlice`
    EndpointSlice,
    /// `Secret`
    Secret,
    /// `ConfigMap`
    ConfigMap,
    /// `GatewayParameters`
    GatewayParameters,
    /// `Pod`, of which only a part is read
    Pod,
    /// `XMesh`, which only the experimental channel has
    XMesh,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::GatewayClass,
        Self::Gateway,
        Self::ListenerSet,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::UdpRoute,
        Self::BackendTlsPolicy,
        Self::ReferenceGrant,
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::Secret,
        Self::ConfigMap,
        Self::GatewayParameters,
        Self::Pod,
        Self::XMesh,
    ];

    /// The kind as objects spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::UdpRoute => "UDPRoute",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::GatewayParameters => "GatewayParameters",
            Self::Pod => "Pod",
            Self::XMesh => "XMesh",
        }
    }

    /// The plural that resources and CRDs are named with.
    pub fn plural(self) -> &'static str {
        match self {
            Self::GatewayClass => "gatewayclasses",
            Self::Gateway => "gateways",
            Self::ListenerSet => "listenersets",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TlsRoute => "tlsroutes",
            Self::TcpRoute => "tcproutes",
            Self::UdpRoute => "udproutes",
            Self::BackendTlsPolicy => "backendtlspolicies",
            Self::ReferenceGrant => "referencegrants",
            Self::Namespace => "namespaces",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::GatewayParameters => "gatewayparameters",
            Self::Pod => "pods",
            Self::XMesh => "xmeshes",
        }
    }

    /// The API group; empty for the core.
    pub fn group(self) -> &'static str {
        match self {
            Self::GatewayClass
            | Self::Gateway
            | Self::ListenerSet
            | Self::HttpRoute
            | Self::GrpcRoute
            | Self::TlsRoute
            | Self::TcpRoute
            | Self::UdpRoute
            | Self::BackendTlsPolicy
            | Self::ReferenceGrant => "gateway.networking.k8s.io",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::GatewayParameters => "isthmus.dev",
            Self::XMesh => "gateway.networking.x-k8s.io",
            Self::Namespace | Self::Service | Self::Secret | Self::ConfigMap | Self::Pod => "",
        }
    }

    /// The versions that decode, the preferred one first.
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::GatewayClass | Self::Gateway | Self::HttpRoute | Self::ReferenceGrant => &["v1", "v1beta1"],
            Self::ListenerSet
            | Self::GrpcRoute
            | Self::TlsRoute
            | Self::TcpRoute
            | Self::UdpRoute
            | Self::BackendTlsPolicy
            | Self::Namespace
            | Self::Service
            | Self::EndpointSlice
            | Self::Secret
            | Self::ConfigMap
            | Self::Pod => &["v1"],
            Self::GatewayParameters | Self::XMesh => &["v1alpha1"],
        }
    }

    /// Whether its objects live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::GatewayClass | Self::Namespace | Self::XMesh)
    }

    /// The kind of an object with this `apiVersion` and `kind`, if Isthmus reads it.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        Self::ALL.into_iter().find(|k| k.as_str() == kind && k.group() == group && k.versions().contains(&version))
    }
}

impl Kind {
    /// The kind that was meant by an `apiVersion` and `kind` that no API server knows: another version or no version at all, or another
    /// case.
    pub fn meant(api_version: &str, kind: &str) -> Option<Self> {
        let group = match api_version.split_once('/') {
            Some((group, _)) => group,
            None if api_version.contains('.') => api_version,
            None => "",
        };
        let meant = |of: &Self| of.as_str().eq_ignore_ascii_case(kind) && of.group() == group;
        Self::ALL.into_iter().find(meant).filter(|_| Self::of(api_version, kind).is_none())
    }

    /// The `apiVersion` to write.
    pub fn api_version(self) -> String {
        let version = self.versions().first().copied().unwrap_or("v1");
        if self.group().is_empty() { version.to_owned() } else { format!("{}/{version}", self.group()) }
    }
}

/// The namespace and name of an object; as text `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl NamespacedName {
    /// From its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Of an object. What [`crate::decode`] returned has both parts; here an absent one is empty.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
    }
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// What it is.
    pub kind: Kind,
    /// Its namespace; none for kinds that have none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}

/// A text that is not `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name like `namespace/name`")]
pub struct InvalidNamespacedName(String);

impl FromStr for NamespacedName {
    type Err = InvalidNamespacedName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(InvalidNamespacedName(text.to_owned())),
        }
    }
}

impl Serialize for NamespacedName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NamespacedName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_group_version_and_kind() {
        for (api_version, kind, expected) in [
            ("v1", "Service", Some(Kind::Service)),
            ("gateway.networking.k8s.io/v1", "HTTPRoute", Some(Kind::HttpRoute)),
            ("gateway.networking.k8s.io/v1beta1", "HTTPRoute", Some(Kind::HttpRoute)),
            ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", Some(Kind::ReferenceGrant)),
            ("gateway.networking.k8s.io/v1", "ListenerSet", Some(Kind::ListenerSet)),
            ("gateway.networking.k8s.io/v1beta1", "ListenerSet", None),
            ("gateway.networking.k8s.io/v1beta1", "GRPCRoute", None),
            ("gateway.networking.k8s.io/v1", "Service", None),
            ("gateway.networking.k8s.io/v1alpha2", "HTTPRoute", None),
            ("v1", "Pod", Some(Kind::Pod)),
            ("v1", "Node", None),
            ("gateway.networking.x-k8s.io/v1alpha1", "XMesh", Some(Kind::XMesh)),
            ("gateway.networking.k8s.io/v1", "XMesh", None),
        ] {
            assert_eq!(Kind::of(api_version, kind), expected, "{api_version} {kind}");
        }
    }

    #[test]
    fn near_misses_are_told_from_strangers() {
        for (api_version, kind, expected) in [
            ("gateway.networking.k8s.io/v1alpha2", "HTTPRoute", Some("HTTPRoute of gateway.networking.k8s.io/v1")),
            ("gateway.networking.k8s.io", "Gateway", Some("Gateway of gateway.networking.k8s.io/v1")),
            ("gateway.networking.k8s.io/v1", "httproute", Some("HTTPRoute of gateway.networking.k8s.io/v1")),
            ("gateway.networking.k8s.io/v1alpha1", "ListenerSet", Some("ListenerSet of gateway.networking.k8s.io/v1")),
            ("v1", "service", Some("Service of v1")),
            ("gateway.networking.k8s.io/v1", "HTTPRoute", None),
            ("networking.istio.io/v1", "Gateway", None),
            ("serving.knative.dev/v1", "Service", None),
            ("gateway.networking.k8s.io/v1alpha2", "TCPRoute", Some("TCPRoute of gateway.networking.k8s.io/v1")),
            ("gateway.networking.k8s.io/v1", "XMesh", None),
        ] {
            let meant = Kind::meant(api_version, kind).map(|kind| format!("{kind} of {}", kind.api_version()));
            assert_eq!(meant.as_deref(), expected, "{api_version} {kind}");
        }
    }

    #[test]
    fn names_are_text() {
        let name: NamespacedName = serde_json::from_str("\"shop/front\"").unwrap();
        assert_eq!(name, NamespacedName::new("shop", "front"));
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"shop/front\"");
        for wrong in ["shop", "/front", "shop/", "a/b/c", ""] {
            assert!(wrong.parse::<NamespacedName>().is_err(), "{wrong}");
        }
    }
}
