//! A listener of a Gateway or of a ListenerSet.

use std::collections::BTreeMap;

use super::{InvalidSelector, LabelSelector, SecretRef, reference};
use crate::generated::{gateways, listenersets};

/// A listener, defaults included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerView<'a> {
    /// Its name, unique in the Gateway or the ListenerSet.
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

/// `from` of `allowedRoutes.namespaces` and `allowedListeners.namespaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromNamespaces {
    /// Every namespace.
    All,
    /// That of the object itself.
    Same,
    /// No namespace; only `allowedListeners` has it.
    None,
    /// Those whose labels match; none if no selector is given, as in Kubernetes.
    Selector(Option<Result<LabelSelector, InvalidSelector>>),
}

impl FromNamespaces {
    /// Where ListenerSets of a Gateway may be.
    ///
    /// > The default value is to allow no ListenerSets.
    pub fn of_listener_sets(gateway: &gateways::GatewaySpec) -> Self {
        gateway.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref()).map_or(Self::None, Into::into)
    }
}

macro_rules! listener_view_from {
    ($($listener:ty, $tls:ty, $mode:ty;)*) => {$(
        impl<'a> From<&'a $listener> for ListenerView<'a> {
            fn from(from: &'a $listener) -> Self {
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
                        .map(|kind| RouteGroupKind {
                            group: kind.group.as_deref().unwrap_or(super::GATEWAY_GROUP),
                            kind: &kind.kind,
                        })
                        .collect(),
                    allowed_namespaces: allowed
                        .and_then(|allowed| allowed.namespaces.as_ref())
                        .map_or(FromNamespaces::Same, Into::into),
                }
            }
        }

        impl<'a> From<&'a $tls> for ListenerTls<'a> {
            fn from(from: &'a $tls) -> Self {
                Self {
                    mode: match from.mode {
                        Some(<$mode>::Terminate) | None => TlsMode::Terminate,
                        Some(<$mode>::Passthrough) => TlsMode::Passthrough,
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
    )*};
}
listener_view_from!(
    gateways::GatewayListeners, gateways::GatewayListenersTls, gateways::GatewayListenersTlsMode;
    listenersets::ListenerSetListeners, listenersets::ListenerSetListenersTls, listenersets::ListenerSetListenersTlsMode;
);

macro_rules! from_namespaces_from {
    ($default:ident; $namespaces:ty, $from:ty $(, $more:ident)*) => {
        impl From<&$namespaces> for FromNamespaces {
            fn from(from: &$namespaces) -> Self {
                match from.from {
                    None => Self::$default,
                    Some(<$from>::All) => Self::All,
                    Some(<$from>::Same) => Self::Same,
                    $(Some(<$from>::$more) => Self::$more,)*
                    Some(<$from>::Selector) => Self::Selector(from.selector.as_ref().map(|selector| {
                        LabelSelector::new(
                            selector.match_labels.as_ref().unwrap_or(&BTreeMap::new()),
                            selector.match_expressions.iter().flatten().map(|expression| {
                                let values = expression.values.as_deref().unwrap_or_default();
                                (expression.key.as_str(), expression.operator.as_str(), values)
                            }),
                        )
                    })),
                }
            }
        }
    };
}
from_namespaces_from!(
    Same; gateways::GatewayListenersAllowedRoutesNamespaces, gateways::GatewayListenersAllowedRoutesNamespacesFrom
);
from_namespaces_from!(
    Same; listenersets::ListenerSetListenersAllowedRoutesNamespaces, listenersets::ListenerSetListenersAllowedRoutesNamespacesFrom
);
from_namespaces_from!(
    None; gateways::GatewayAllowedListenersNamespaces, gateways::GatewayAllowedListenersNamespacesFrom, None
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listener(value: serde_json::Value) -> gateways::GatewayListeners {
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

    #[test]
    fn a_listener_reads_alike_wherever_it_is() {
        let value = json!({"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "a.example.com",
            "tls": {"mode": "Passthrough", "certificateRefs": [{"name": "cert", "namespace": "z"}], "options": {"a/b": "c"}},
            "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}], "namespaces": {"from": "Selector", "selector": {"matchLabels": {"a": "b"}}}}});
        let of_gateway = listener(value.clone());
        let of_set: listenersets::ListenerSetListeners = serde_json::from_value(value).unwrap();
        assert_eq!(ListenerView::from(&of_set), ListenerView::from(&of_gateway));
    }

    #[test]
    fn listener_sets_are_allowed_by_namespace() {
        for (allowed, expected) in [
            (json!(null), FromNamespaces::None),
            (json!({}), FromNamespaces::None),
            (json!({"namespaces": {}}), FromNamespaces::None),
            (json!({"namespaces": {"from": "None"}}), FromNamespaces::None),
            (json!({"namespaces": {"from": "Same"}}), FromNamespaces::Same),
            (json!({"namespaces": {"from": "All"}}), FromNamespaces::All),
            (json!({"namespaces": {"from": "Selector"}}), FromNamespaces::Selector(None)),
        ] {
            let spec = json!({"gatewayClassName": "c", "listeners": [], "allowedListeners": allowed});
            let spec: gateways::GatewaySpec = serde_json::from_value(spec).unwrap();
            assert_eq!(FromNamespaces::of_listener_sets(&spec), expected, "{allowed}");
        }
    }
}
