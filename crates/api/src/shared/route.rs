//! A route of any kind, read through one shape.

use super::{BackendRef, Filter, Matches, ParentRef};
use crate::generated::{grpcroutes as grpc, httproutes as http, tlsroutes as tls};
use crate::stream_route::StreamRouteRule;
use crate::{GrpcRoute, HttpRoute, Kind, NamespacedName, ObjectMeta, TcpRoute, TlsRoute, UdpRoute};

/// A route of any kind.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteView<'a> {
    /// One of the five kinds of route.
    pub kind: Kind,
    /// As the object has it.
    pub metadata: &'a ObjectMeta,
    /// In the order of the spec.
    pub parent_refs: Vec<ParentRef>,
    /// In the order of the spec; empty: every hostname of the listener.
    pub hostnames: &'a [String],
    /// In the order of the spec.
    pub rules: Vec<RuleView>,
}

/// A rule of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleView {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// At least one, but for routes of connections and datagrams.
    pub matches: Matches,
    /// In the order of the spec.
    pub filters: Vec<Filter>,
    /// In the order of the spec.
    pub backend_refs: Vec<RouteBackendRef>,
    /// HTTPRoute only.
    pub timeouts: Timeouts,
    /// HTTPRoute only.
    pub retry: Option<Retry>,
}

/// A backendRef with filters of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteBackendRef {
    /// Where to and with which weight.
    pub backend_ref: BackendRef,
    /// For requests that go there, after the rule's.
    pub filters: Vec<Filter>,
}

/// How long things may take: texts for [`crate::duration::parse`]; none: the implementation's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the client's request to the end of its response.
    pub request: Option<String>,
    /// One try at a backend.
    pub backend_request: Option<String>,
}

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Status codes that ask for another try.
    pub codes: Vec<i64>,
    /// Tries after the first.
    pub attempts: Option<i64>,
    /// Least time between two tries: a text for [`crate::duration::parse`].
    pub backoff: Option<String>,
}

impl RouteView<'_> {
    /// Its namespace and name.
    pub fn namespaced_name(&self) -> NamespacedName {
        NamespacedName::of(self.metadata)
    }
}

impl<'a> From<&'a HttpRoute> for RouteView<'a> {
    fn from(from: &'a HttpRoute) -> Self {
        Self {
            kind: Kind::HttpRoute,
            metadata: &from.metadata,
            parent_refs: from.spec.parent_refs.iter().flatten().map(Into::into).collect(),
            hostnames: from.spec.hostnames.as_deref().unwrap_or_default(),
            rules: from.spec.rules.iter().flatten().map(Into::into).collect(),
        }
    }
}

impl<'a> From<&'a GrpcRoute> for RouteView<'a> {
    fn from(from: &'a GrpcRoute) -> Self {
        Self {
            kind: Kind::GrpcRoute,
            metadata: &from.metadata,
            parent_refs: from.spec.parent_refs.iter().flatten().map(Into::into).collect(),
            hostnames: from.spec.hostnames.as_deref().unwrap_or_default(),
            rules: from.spec.rules.iter().flatten().map(Into::into).collect(),
        }
    }
}

impl<'a> From<&'a TlsRoute> for RouteView<'a> {
    fn from(from: &'a TlsRoute) -> Self {
        Self {
            kind: Kind::TlsRoute,
            metadata: &from.metadata,
            parent_refs: from.spec.parent_refs.iter().flatten().map(Into::into).collect(),
            hostnames: &from.spec.hostnames,
            rules: from.spec.rules.iter().map(Into::into).collect(),
        }
    }
}

macro_rules! stream_route_view_from {
    ($($route:ident, $kind:ident;)*) => {$(
        impl<'a> From<&'a $route> for RouteView<'a> {
            fn from(from: &'a $route) -> Self {
                Self {
                    kind: Kind::$kind,
                    metadata: &from.metadata,
                    parent_refs: from.spec.parent_refs.clone().unwrap_or_default(),
                    hostnames: &[],
                    rules: from.spec.rules.iter().map(Into::into).collect(),
                }
            }
        }
    )*};
}
stream_route_view_from!(TcpRoute, TcpRoute; UdpRoute, UdpRoute;);

impl RuleView {
    /// A rule that takes whatever reaches it.
    fn of_any(name: Option<String>, backend_refs: impl Iterator<Item = BackendRef>) -> Self {
        let backend_refs = backend_refs.map(|backend_ref| RouteBackendRef { backend_ref, filters: Vec::new() });
        Self {
            name,
            matches: Matches::Any,
            filters: Vec::new(),
            backend_refs: backend_refs.collect(),
            timeouts: Timeouts::default(),
            retry: None,
        }
    }
}

impl From<&tls::TlsRouteRules> for RuleView {
    fn from(from: &tls::TlsRouteRules) -> Self {
        Self::of_any(from.name.clone(), from.backend_refs.iter().map(Into::into))
    }
}

impl From<&StreamRouteRule> for RuleView {
    fn from(from: &StreamRouteRule) -> Self {
        Self::of_any(from.name.clone(), from.backend_refs.iter().cloned())
    }
}

impl From<&http::HttpRouteRules> for RuleView {
    fn from(from: &http::HttpRouteRules) -> Self {
        Self {
            name: from.name.clone(),
            matches: Matches::http(from.matches.as_deref()),
            filters: from.filters.iter().flatten().map(Into::into).collect(),
            backend_refs: from.backend_refs.iter().flatten().map(Into::into).collect(),
            timeouts: from.timeouts.as_ref().map_or_else(Timeouts::default, |timeouts| Timeouts {
                request: timeouts.request.clone(),
                backend_request: timeouts.backend_request.clone(),
            }),
            retry: from.retry.as_ref().map(|retry| Retry {
                codes: retry.codes.clone().unwrap_or_default(),
                attempts: retry.attempts,
                backoff: retry.backoff.clone(),
            }),
        }
    }
}

impl From<&grpc::GrpcRouteRules> for RuleView {
    fn from(from: &grpc::GrpcRouteRules) -> Self {
        Self {
            name: from.name.clone(),
            matches: Matches::grpc(from.matches.as_deref()),
            filters: from.filters.iter().flatten().map(Into::into).collect(),
            backend_refs: from.backend_refs.iter().flatten().map(Into::into).collect(),
            timeouts: Timeouts::default(),
            retry: None,
        }
    }
}

macro_rules! route_backend_ref_from {
    ($($generated:ty),*) => {$(
        impl From<&$generated> for RouteBackendRef {
            fn from(from: &$generated) -> Self {
                Self { backend_ref: BackendRef::from(from), filters: from.filters.iter().flatten().map(Into::into).collect() }
            }
        }
    )*};
}
route_backend_ref_from!(http::HttpRouteRulesBackendRefs, grpc::GrpcRouteRulesBackendRefs);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::shared::{Fraction, GrpcMatch, GrpcMethodMatch, HeaderModifier, HttpMatch, MatchType, PathModifier};
    use crate::shared::{Header, RequestMirror, RequestRedirect};

    fn http(spec: &Value) -> HttpRoute {
        serde_json::from_value(json!({"metadata": {"name": "r", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn grpc(spec: &Value) -> GrpcRoute {
        serde_json::from_value(json!({"metadata": {"name": "r", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn absent_fields_have_the_apis_defaults() {
        let route = http(&json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "front", "port": 80}]}]}));
        let view = RouteView::from(&route);
        assert_eq!(view.namespaced_name().to_string(), "ns/r");
        assert_eq!(
            (view.parent_refs[0].group.as_str(), view.parent_refs[0].kind.as_str()),
            ("gateway.networking.k8s.io", "Gateway")
        );
        assert_eq!(view.rules[0].matches, Matches::Http(vec![HttpMatch::default()]));
        let backend = &view.rules[0].backend_refs[0].backend_ref;
        assert_eq!((backend.group.as_str(), backend.kind.as_str(), backend.weight), ("", "Service", 1));

        let route = grpc(&json!({"rules": [{}]}));
        assert_eq!(RouteView::from(&route).rules[0].matches, Matches::Grpc(vec![GrpcMatch::default()]));
    }

    #[test]
    fn both_kinds_and_both_levels_read_alike() {
        let modifier = json!({"set": [{"name": "a", "value": "1"}], "add": [{"name": "b", "value": "2"}], "remove": ["c"]});
        let filters = json!([
            {"type": "RequestHeaderModifier", "requestHeaderModifier": modifier},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": modifier},
            {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "shadow", "port": 80}, "percent": 5}},
            {"type": "ExtensionRef", "extensionRef": {"group": "example.com", "kind": "Filter", "name": "mine"}},
            {"type": "RequestMirror"},
        ]);
        let rules = json!({"rules": [{"filters": filters, "backendRefs": [{"name": "front", "port": 80, "filters": filters}]}]});
        let header = |name: &str, value: &str| vec![Header { name: name.to_owned(), value: value.to_owned() }];
        let modifier = HeaderModifier { set: header("a", "1"), add: header("b", "2"), remove: vec!["c".to_owned()] };
        let expected = vec![
            Filter::RequestHeaderModifier(modifier.clone()),
            Filter::ResponseHeaderModifier(modifier),
            Filter::RequestMirror(RequestMirror {
                backend_ref: BackendRef {
                    group: String::new(),
                    kind: "Service".to_owned(),
                    name: "shadow".to_owned(),
                    namespace: None,
                    port: Some(80),
                    weight: 1,
                },
                fraction: Some(Fraction { numerator: 5, denominator: 100 }),
            }),
            Filter::ExtensionRef { group: "example.com".to_owned(), kind: "Filter".to_owned(), name: "mine".to_owned() },
            Filter::Incomplete { r#type: "RequestMirror" },
        ];
        let (http, grpc) = (http(&rules), grpc(&rules));
        for view in [RouteView::from(&http), RouteView::from(&grpc)] {
            assert_eq!(view.rules[0].filters, expected);
            assert_eq!(view.rules[0].backend_refs[0].filters, expected);
        }
    }

    #[test]
    fn reads_what_only_http_has() {
        let route = http(&json!({"rules": [{
            "name": "all",
            "matches": [{"path": {"type": "Exact", "value": "/a"}, "method": "PATCH", "queryParams": [{"name": "q", "value": "1"}]}],
            "filters": [
                {"type": "RequestRedirect", "requestRedirect": {
                    "scheme": "https", "port": 8443, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}},
                {"type": "CORS", "cors": {"allowOrigins": ["*"]}},
                {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath"}}},
                {"type": "ExternalAuth"},
            ],
            "timeouts": {"request": "10s"},
            "retry": {"codes": [503], "backoff": "1ms"},
        }]}));
        let view = RouteView::from(&route);
        let rule = &view.rules[0];
        assert_eq!(rule.name.as_deref(), Some("all"));
        let Matches::Http(matches) = &rule.matches else { panic!("{:?}", rule.matches) };
        assert_eq!((matches[0].path.value.as_str(), matches[0].method.as_deref()), ("/a", Some("PATCH")));
        assert_eq!(matches[0].query_params[0].r#type, MatchType::Exact);
        assert_eq!(
            rule.filters[0],
            Filter::RequestRedirect(RequestRedirect {
                scheme: Some("https".to_owned()),
                hostname: None,
                path: Some(PathModifier::ReplacePrefixMatch("/b".to_owned())),
                port: Some(8443),
                status_code: 302,
            })
        );
        assert!(matches!(&rule.filters[1], Filter::Cors(cors) if cors.max_age == 5 && cors.allow_origins == ["*"]));
        assert_eq!(rule.filters[2], Filter::Incomplete { r#type: "URLRewrite" });
        assert_eq!(rule.filters[3].type_name(), "ExternalAuth");
        assert_eq!(rule.timeouts, Timeouts { request: Some("10s".to_owned()), backend_request: None });
        assert_eq!(rule.retry, Some(Retry { codes: vec![503], attempts: None, backoff: Some("1ms".to_owned()) }));
    }

    #[test]
    fn routes_of_connections_and_datagrams_read_alike() {
        let spec = json!({"parentRefs": [{"name": "edge"}], "hostnames": ["a.test"], "rules": [{"name": "one", "backendRefs": [
            {"name": "db", "port": 5432}]}]});
        let whole = |kind: &str| json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": "r"}, "spec": spec});
        let tls: TlsRoute = serde_json::from_value(whole("TLSRoute")).unwrap();
        let tcp: TcpRoute = serde_json::from_value(whole("TCPRoute")).unwrap();
        let udp: UdpRoute = serde_json::from_value(whole("UDPRoute")).unwrap();
        let views = [RouteView::from(&tls), RouteView::from(&tcp), RouteView::from(&udp)];
        for view in &views {
            assert_eq!((view.parent_refs[0].kind.as_str(), &view.rules), ("Gateway", &views[0].rules), "{}", view.kind);
        }
        assert_eq!((views[0].hostnames.len(), views[1].hostnames.len()), (1, 0));
        let rule = &views[0].rules[0];
        assert_eq!((&rule.matches, rule.backend_refs[0].backend_ref.weight), (&Matches::Any, 1));
    }

    #[test]
    fn reads_what_only_grpc_has() {
        let route = grpc(&json!({"rules": [{"matches": [{"method": {"type": "RegularExpression", "service": "a.*"}}]}]}));
        let expected = GrpcMethodMatch { r#type: MatchType::RegularExpression, service: Some("a.*".to_owned()), method: None };
        assert_eq!(
            RouteView::from(&route).rules[0].matches,
            Matches::Grpc(vec![GrpcMatch { method: Some(expected), headers: Vec::new() }])
        );
    }
}
