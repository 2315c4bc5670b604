//! A listener of a Gateway.

use std::collections::BTreeMap;

use super::{InvalidSelector, LabelSelector, SecretRef, reference};
use crate::generated::gateways as generated;

/// A listener, defaults included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerView<'a> {
    /// Its name, unique in the Gateway.
    pub name: &'a str,
    /// None: every hostname.
    pub hostname: Option<&'a str>,
    /// Where it listens.
    pub port: i32,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP` or somebody's own.
    pub protocol: &'a str,
    /// For `HTTPS` and `TLS`.
    pub tls: Option<ListenerTls<'a>>,
    /// Kinds of route that may attach; empty: those of the protocol.
    pub allowed_kinds: Vec<RouteGroupKind<'a>>,
    /// Namespaces whose routes may attach; `Same` by default.
    pub allowed_namespaces: FromNamespaces,
}

/// `tls` of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls<'a> {
    /// `Terminate` by default.
    pub mode: TlsMode,
    /// In the order of the spec.
    pub certificate_refs: Vec<SecretRef>,
    /// Implementation's own.
    pub options: Option<&'a BTreeMap<String, String>>,
}

/// Who ends TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// The Gateway.
    Terminate,
    /// The backend.
    Passthrough,
}

/// A kind of route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteGroupKind<'a> {
    /// `gateway.networking.k8s.io` by default.
    pub group: &'a str,
    /// `HTTPRoute`, ...
    pub kind: &'a str,
}

/// `from` of `allowedRoutes.namespaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromNamespaces {
    /// Every namespace.
    All,
    /// The Gateway's.
    Same,
    /// Those whose labels match; none if no selector is given, as in Kubernetes.
    Selector(Option<Result<LabelSelector, InvalidSelector>>),
}

impl<'a> From<&'a generated::GatewayListeners> for ListenerView<'a> {
    fn from(from: &'a generated::GatewayListeners) -> Self {
        let allowed = from.allowed_routes.as_ref();
        Self {
            name: &from.name,
            hostname: from.hostname.as_deref().filter(|hostname| !hostname.is_empty()),
            port: from.port,
            protocol: &from.protocol,
            tls: from.tls.as_ref().map(Into::into),
            allowed_kinds: allowed
                .and_then(|allowed| allowed.kinds.as_ref())
                .into_iter()
                .flatten()
                .map(|kind| RouteGroupKind { group: kind.group.as_deref().unwrap_or(super::GATEWAY_GROUP), kind: &kind.kind })
                .collect(),
            allowed_namespaces: allowed.and_then(|allowed| allowed.namespaces.as_ref()).map_or(FromNamespaces::Same, Into::into),
        }
    }
}

impl<'a> From<&'a generated::GatewayListenersTls> for ListenerTls<'a> {
    fn from(from: &'a generated::GatewayListenersTls) -> Self {
        Self {
            mode: match from.mode {
                Some(generated::GatewayListenersTlsMode::Terminate) | None => TlsMode::Terminate,
                Some(generated::GatewayListenersTlsMode::Passthrough) => TlsMode::Passthrough,
            },
            certificate_refs: from
                .certificate_refs
                .iter()
                .flatten()
                .map(|from| SecretRef {
                    group: from.group.clone().unwrap_or_default(),
                    kind: from.kind.clone().unwrap_or_else(reference::secret_kind),
                    name: from.name.clone(),
                    namespace: from.namespace.clone(),
                })
                .collect(),
            options: from.options.as_ref(),
        }
    }
}

impl From<&generated::GatewayListenersAllowedRoutesNamespaces> for FromNamespaces {
    fn from(from: &generated::GatewayListenersAllowedRoutesNamespaces) -> Self {
        use generated::GatewayListenersAllowedRoutesNamespacesFrom as From;
        match from.from {
            Some(From::All) => Self::All,
            Some(From::Same) | None => Self::Same,
            Some(From::Selector) => Self::Selector(from.selector.as_ref().map(|selector| {
                LabelSelector::new(
                    selector.match_labels.as_ref().unwrap_or(&BTreeMap::new()),
                    selector.match_expressions.iter().flatten().map(|expression| {
                        (expression.key.as_str(), expression.operator.as_str(), expression.values.as_deref().unwrap_or_default())
                    }),
                )
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listener(value: serde_json::Value) -> generated::GatewayListeners {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn absent_fields_have_the_apis_defaults() {
        let from = listener(json!({"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "", "tls": {
            "certificateRefs": [{"name": "cert"}]}, "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}]}}));
        let view = ListenerView::from(&from);
        let tls = view.tls.unwrap();
        assert_eq!((view.hostname, tls.mode, view.allowed_namespaces), (None, TlsMode::Terminate, FromNamespaces::Same));
        assert_eq!((tls.certificate_refs[0].group.as_str(), tls.certificate_refs[0].kind.as_str()), ("", "Secret"));
        assert_eq!(view.allowed_kinds, [RouteGroupKind { group: "gateway.networking.k8s.io", kind: "HTTPRoute" }]);
    }

    #[test]
    fn selectors_are_read() {
        for (namespaces, expected) in [
            (json!({"from": "All"}), FromNamespaces::All),
            (json!({}), FromNamespaces::Same),
            (json!({"from": "Selector"}), FromNamespaces::Selector(None)),
            (
                json!({"from": "Selector", "selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
                FromNamespaces::Selector(Some(Err(InvalidSelector::Operator("Like".to_owned())))),
            ),
        ] {
            let from =
                listener(json!({"name": "a", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": namespaces}}));
            assert_eq!(ListenerView::from(&from).allowed_namespaces, expected);
        }
    }
}
