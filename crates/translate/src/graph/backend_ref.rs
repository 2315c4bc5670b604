//! `backendRef` -> a port of a Service, or why it is none.

use isthmus_api::NamespacedName;
use isthmus_api::shared::{BackendRef, GATEWAY_GROUP};
use isthmus_routing::{BackendKey, BackendProtocol, RouteKey, RouteKind, Transport};

use super::backend_tls::Policies;
use super::endpoint::{self, Services};
use super::of_group;
use super::reference_grant::{From, ReferenceGrants, To};

/// Why a backendRef is invalid. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BackendFault {
    #[error("{kind} {group} is not a kind of backend that is supported; refer to a Service", group = of_group(.group))]
    Kind { group: String, kind: String },
    #[error(
        "filter {kind} `{name}` {group} is not a kind of filter that is known; requests get status 500 until it is removed",
        group = of_group(.group)
    )]
    FilterKind { group: String, kind: String, name: String },
    #[error(
        "Service {0} is of type ExternalName, which is not supported because a name can lead anywhere; use a Service with an EndpointSlice"
    )]
    ExternalName(NamespacedName),
    #[error(
        "Service {to} is in another namespace and no ReferenceGrant there permits {kind}s of namespace `{from}` to refer to it; create one"
    )]
    NotPermitted { to: NamespacedName, kind: RouteKind, from: String },
    #[error("Service {0} does not exist; create it or correct the name")]
    NotFound(NamespacedName),
    #[error("the reference to Service {0} has no port; add one of the Service's ports")]
    NoPort(NamespacedName),
    #[error("Service {service} has no {transport} port {port}; add it there or refer to another port")]
    PortNotFound { service: NamespacedName, port: i32, transport: Transport },
    #[error(
        "port {port} of Service {service} has appProtocol `{protocol}`, which cannot be spoken for {kind}s {}; use {usable} or none",
        if *.encrypted { "with a BackendTLSPolicy" } else { "without a BackendTLSPolicy" }
    )]
    Protocol { service: NamespacedName, port: u16, protocol: String, kind: RouteKind, encrypted: bool, usable: &'static str },
    #[error("Service {service} has annotation isthmus.dev/proxy-protocol with `{value}`; use v1 or v2, or remove it")]
    ProxyProtocol { service: NamespacedName, value: String },
}

impl BackendFault {
    /// The reason of `ResolvedRefs=False`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Kind { .. } | Self::FilterKind { .. } | Self::ExternalName(_) => "InvalidKind",
            Self::NotPermitted { .. } => "RefNotPermitted",
            Self::NotFound(_) | Self::NoPort(_) | Self::PortNotFound { .. } => "BackendNotFound",
            Self::Protocol { .. } | Self::ProxyProtocol { .. } => "UnsupportedProtocol",
        }
    }

    /// The Service that is referred to in vain, if it may be referred to.
    pub(crate) fn service(&self) -> Option<&NamespacedName> {
        match self {
            Self::ExternalName(service)
            | Self::NotFound(service)
            | Self::NoPort(service)
            | Self::PortNotFound { service, .. }
            | Self::Protocol { service, .. }
            | Self::ProxyProtocol { service, .. } => Some(service),
            Self::Kind { .. } | Self::FilterKind { .. } | Self::NotPermitted { .. } => None,
        }
    }
}

/// What backendRefs are looked up in.
#[derive(Debug)]
pub(crate) struct Backends<'g, 'a> {
    pub(crate) services: &'g Services<'a>,
    /// None: nothing has to be granted, as it is for routes of Services (GEP-1294):
    ///
    /// > Routes of either type can send traffic to `backendRefs` in any namespace. Unlike `Gateway` bound routes, this is allowed without a `ReferenceGrant`.
    pub(crate) grants: Option<&'g ReferenceGrants<'a>>,
    pub(crate) policies: &'g Policies<'a>,
}

impl Backends<'_, '_> {
    /// > * It refers to an unknown or unsupported kind of resource. In this
    /// >   case, the Reason must be set to `InvalidKind` and Message of the
    /// >   Condition must explain which kind of resource is unknown or unsupported.
    ///
    /// > * It refers to a resource that does not exist. In this case, the Reason must
    /// >   be set to `BackendNotFound` and the Message of the Condition must explain
    /// >   which resource does not exist.
    ///
    /// > * It refers a resource in another namespace when the reference has not been
    /// >   explicitly allowed by a ReferenceGrant (or equivalent concept). In this
    /// >   case, the Reason must be set to `RefNotPermitted` and the Message of the
    /// >   Condition must explain which cross-namespace reference is not allowed.
    ///
    /// Permission is asked before existence, so that a route learns nothing of a namespace that does not trust it.
    pub(crate) fn resolve(&self, route: &RouteKey, backend: &BackendRef) -> Result<BackendKey, BackendFault> {
        if !backend.group.is_empty() || backend.kind != "Service" {
            return Err(BackendFault::Kind { group: backend.group.clone(), kind: backend.kind.clone() });
        }
        let namespace = backend.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(&route.namespace);
        let name = NamespacedName::new(namespace, backend.name.as_str());
        let from = From { group: GATEWAY_GROUP, kind: route.kind.as_str(), namespace: &route.namespace };
        let to = To { group: "", kind: "Service", namespace, name: &backend.name };
        if self.grants.is_some_and(|grants| !grants.permits(from, to)) {
            return Err(BackendFault::NotPermitted { to: name, kind: route.kind, from: route.namespace.clone() });
        }
        let Some(service) = self.services.get(&name) else { return Err(BackendFault::NotFound(name)) };
        // > ExternalName services can refer to CNAME DNS records that may live
        // > outside of the cluster and as such are difficult to reason about in
        // > terms of conformance. They also may not be safe to forward to (see
        // > CVE-2021-25740 for more information). Implementations SHOULD NOT
        // > support ExternalName Services.
        if service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName")) {
            return Err(BackendFault::ExternalName(name));
        }
        let Some(number) = backend.port else { return Err(BackendFault::NoPort(name)) };
        let transport = if route.kind == RouteKind::Udp { Transport::Udp } else { Transport::Tcp };
        let found = u16::try_from(number).ok().and_then(|port| Some((port, endpoint::find_port(service, port, transport)?)));
        let Some((port, found)) = found else {
            return Err(BackendFault::PortNotFound { service: name, port: number, transport });
        };
        let encrypted = self.policies.deciding(&name, found.name.as_deref()).is_some();
        check_protocol(route.kind, endpoint::protocol(found, encrypted)).map_err(|protocol| BackendFault::Protocol {
            service: name.clone(),
            port,
            protocol,
            kind: route.kind,
            encrypted,
            usable: usable(route.kind, encrypted),
        })?;
        if let (Err(value), Transport::Tcp) = (endpoint::proxy_protocol(service), transport) {
            return Err(BackendFault::ProxyProtocol { service: name, value: value.to_owned() });
        }
        Ok(BackendKey { namespace: name.namespace, name: name.name, port, transport })
    }
}

/// > * It refers to a Kubernetes Service that has an incompatible appProtocol
/// >   for the given Route type
///
/// Routes of connections and datagrams carry whatever is spoken.
fn check_protocol(kind: RouteKind, protocol: Result<BackendProtocol, &str>) -> Result<(), String> {
    match (kind, protocol) {
        (RouteKind::Grpc, Ok(BackendProtocol::WebSocket)) => Err("kubernetes.io/ws".to_owned()),
        (RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp, _) | (_, Ok(_)) => Ok(()),
        (RouteKind::Grpc | RouteKind::Http, Err(other)) => Err(other.to_owned()),
    }
}

/// Values of `appProtocol` that can be spoken.
fn usable(kind: RouteKind, encrypted: bool) -> &'static str {
    match (kind, encrypted) {
        (RouteKind::Grpc, false) => "`kubernetes.io/h2c`",
        (RouteKind::Grpc, true) => "`grpc`, `https`",
        (_, false) => "`kubernetes.io/h2c`, `kubernetes.io/ws`",
        (_, true) => "`https`, `grpc`, `kubernetes.io/wss`",
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::shared::BackendRef;
    use isthmus_api::{Objects, decode};
    use isthmus_routing::{RouteKey, RouteKind};
    use serde_json::{Value, json};

    use super::{Backends, Policies, Services};
    use crate::graph::reference_grant::ReferenceGrants;

    #[test]
    fn each_fault_has_its_reason() {
        let service = |name: &str, namespace: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec});
        let mut objects = Objects::default();
        for object in [
            service("front", "shop", json!({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]})),
            service("ws", "shop", json!({"ports": [{"port": 80, "appProtocol": "kubernetes.io/ws"}]})),
            service("wss", "shop", json!({"ports": [{"port": 80, "appProtocol": "kubernetes.io/wss"}]})),
            service("h2c", "shop", json!({"ports": [{"port": 80, "appProtocol": "kubernetes.io/h2c"}]})),
            service(
                "tls",
                "shop",
                json!({"ports": [
                    {"name": "a", "port": 443, "appProtocol": "HTTPS"}, {"name": "b", "port": 444, "appProtocol": "kubernetes.io/wss"},
                    {"name": "c", "port": 445, "appProtocol": "kubernetes.io/h2c"}, {"name": "d", "port": 446},
                ]}),
            ),
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": {"name": "p", "namespace": "shop"},
                "spec": {
                    "targetRefs": [{"group": "", "kind": "Service", "name": "tls"}],
                    "validation": {"hostname": "a.example.com", "wellKnownCACertificates": "System"},
                }
            }),
            json!({
                "apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]},
                "metadata": {"name": "odd", "namespace": "shop", "annotations": {"isthmus.dev/proxy-protocol": "3"}},
            }),
            service("out", "shop", json!({"type": "ExternalName", "externalName": "example.com", "ports": [{"port": 80}]})),
            service("bare", "shop", json!({})),
            service("secret", "bank", json!({"ports": [{"port": 80}]})),
            service("open", "bank", json!({"ports": [{"port": 80}]})),
            service("streams", "bank", json!({"ports": [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]})),
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {"name": "s", "namespace": "bank"},
                "spec": {
                    "from": [
                        {"group": "gateway.networking.k8s.io", "kind": "TCPRoute", "namespace": "shop"},
                        {"group": "gateway.networking.k8s.io", "kind": "UDPRoute", "namespace": "shop"},
                    ],
                    "to": [{"group": "", "kind": "Service", "name": "streams"}],
                }
            }),
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {"name": "g", "namespace": "bank"},
                "spec": {
                    "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
                    "to": [{"group": "", "kind": "Service", "name": "open"}],
                }
            }),
        ] {
            objects.apply(decode(object).unwrap());
        }
        let (services, grants) = (Services::new(&objects), ReferenceGrants::new(&objects));
        let policies = Policies::new(&objects);
        let backends = Backends { services: &services, grants: Some(&grants), policies: &policies };
        let (http, grpc) = (RouteKind::Http, RouteKind::Grpc);
        let (tls, tcp, udp) = (RouteKind::Tls, RouteKind::Tcp, RouteKind::Udp);
        for (kind, reference, expected) in [
            (http, json!({"name": "front", "port": 80}), "Service/shop/front:80"),
            (http, json!({"name": "front", "port": 80, "namespace": "shop"}), "Service/shop/front:80"),
            (http, json!({"name": "ws", "port": 80}), "Service/shop/ws:80"),
            (grpc, json!({"name": "ws", "port": 80}), "UnsupportedProtocol"),
            (http, json!({"name": "wss", "port": 80}), "UnsupportedProtocol"),
            (grpc, json!({"name": "h2c", "port": 80}), "Service/shop/h2c:80"),
            (http, json!({"name": "tls", "port": 443}), "Service/shop/tls:443"),
            (http, json!({"name": "tls", "port": 444}), "Service/shop/tls:444"),
            (http, json!({"name": "tls", "port": 445}), "UnsupportedProtocol"),
            (grpc, json!({"name": "tls", "port": 444}), "UnsupportedProtocol"),
            (grpc, json!({"name": "tls", "port": 445}), "UnsupportedProtocol"),
            (grpc, json!({"name": "tls", "port": 446}), "Service/shop/tls:446"),
            (http, json!({"name": "odd", "port": 80}), "UnsupportedProtocol"),
            (http, json!({"name": "front", "port": 81}), "BackendNotFound"),
            (http, json!({"name": "front", "port": 53}), "BackendNotFound"),
            (http, json!({"name": "front", "port": -1}), "BackendNotFound"),
            (http, json!({"name": "front"}), "BackendNotFound"),
            (http, json!({"name": "bare", "port": 80}), "BackendNotFound"),
            (http, json!({"name": "none", "port": 80}), "BackendNotFound"),
            (http, json!({"name": "out", "port": 80}), "InvalidKind"),
            (http, json!({"name": "front", "kind": "Pod"}), "InvalidKind"),
            (http, json!({"name": "front", "group": "example.com", "port": 80}), "InvalidKind"),
            (http, json!({"name": "open", "namespace": "bank", "port": 80}), "Service/bank/open:80"),
            (grpc, json!({"name": "open", "namespace": "bank", "port": 80}), "RefNotPermitted"),
            (http, json!({"name": "secret", "namespace": "bank", "port": 80}), "RefNotPermitted"),
            (http, json!({"name": "none", "namespace": "bank", "port": 80}), "RefNotPermitted"),
            (tcp, json!({"name": "front", "port": 80}), "Service/shop/front:80"),
            (tcp, json!({"name": "front", "port": 53}), "BackendNotFound"),
            (udp, json!({"name": "front", "port": 53}), "Service/shop/front:53/UDP"),
            (udp, json!({"name": "front", "port": 80}), "BackendNotFound"),
            (tls, json!({"name": "wss", "port": 80}), "Service/shop/wss:80"),
            (tcp, json!({"name": "wss", "port": 80}), "Service/shop/wss:80"),
            (tls, json!({"name": "tls", "port": 445}), "Service/shop/tls:445"),
            (tls, json!({"name": "front", "kind": "Pod"}), "InvalidKind"),
            (udp, json!({"name": "none", "port": 53}), "BackendNotFound"),
            (tcp, json!({"name": "odd", "port": 80}), "UnsupportedProtocol"),
            // What is granted to one kind of route is granted to no other.
            (tcp, json!({"name": "streams", "namespace": "bank", "port": 80}), "Service/bank/streams:80"),
            (udp, json!({"name": "streams", "namespace": "bank", "port": 80}), "Service/bank/streams:80/UDP"),
            (tls, json!({"name": "streams", "namespace": "bank", "port": 80}), "RefNotPermitted"),
            (tcp, json!({"name": "open", "namespace": "bank", "port": 80}), "RefNotPermitted"),
        ] {
            let route = RouteKey { namespace: "shop".to_owned(), name: "r".to_owned(), kind };
            let parsed: BackendRef = serde_json::from_value(reference.clone()).unwrap();
            let found =
                backends.resolve(&route, &parsed).map(|key| key.to_string()).unwrap_or_else(|fault| fault.reason().to_owned());
            assert_eq!(found, expected, "{kind} {reference}");
            let anywhere = Backends { grants: None, ..backends };
            let found = anywhere.resolve(&route, &parsed).map_err(|fault| fault.reason());
            let name = reference["name"].as_str().unwrap_or_default();
            match expected {
                "RefNotPermitted" if name == "none" => assert_eq!(found, Err("BackendNotFound"), "{kind} {reference}"),
                "RefNotPermitted" => {
                    assert_eq!(found.unwrap().to_string(), format!("Service/bank/{name}:80"), "{kind} {reference}");
                }
                _ => assert_eq!(found.map_or_else(str::to_owned, |key| key.to_string()), expected, "{kind} {reference}"),
            }
        }
    }
}
