//! Where the API server keeps objects of a kind.

use isthmus_api::{Kind, ObjectRef};
use kube::core::Request;

/// The requests for objects of `kind` in `version`; in one namespace, or (none) in all of them or outside of any.
pub(crate) fn requests(kind: Kind, version: &str, namespace: Option<&str>) -> Request {
    let group = kind.group();
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let namespace = namespace.filter(|_| kind.is_namespaced()).map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    Request::new(format!("{root}{namespace}/{}", kind.plural()))
}

/// The requests for one object; its name is still an argument of each.
pub(crate) fn requests_of(object: &ObjectRef, version: &str) -> Request {
    requests(object.kind, version, object.namespace.as_deref())
}

/// `httproutes.gateway.networking.k8s.io`: the name that RBAC messages and CRDs use.
pub(crate) fn full_name(kind: Kind) -> String {
    if kind.group().is_empty() { kind.plural().to_owned() } else { format!("{}.{}", kind.plural(), kind.group()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_api_servers() {
        for (kind, version, namespace, expected) in [
            (Kind::Service, "v1", None, "/api/v1/services"),
            (Kind::Secret, "v1", Some("shop"), "/api/v1/namespaces/shop/secrets"),
            (Kind::Namespace, "v1", None, "/api/v1/namespaces"),
            (Kind::Namespace, "v1", Some("shop"), "/api/v1/namespaces"),
            (Kind::GatewayClass, "v1", Some("shop"), "/apis/gateway.networking.k8s.io/v1/gatewayclasses"),
            (
                Kind::ReferenceGrant,
                "v1beta1",
                Some("shop"),
                "/apis/gateway.networking.k8s.io/v1beta1/namespaces/shop/referencegrants",
            ),
            (Kind::EndpointSlice, "v1", None, "/apis/discovery.k8s.io/v1/endpointslices"),
        ] {
            assert_eq!(requests(kind, version, namespace).url_path, expected);
        }
        assert_eq!(full_name(Kind::HttpRoute), "httproutes.gateway.networking.k8s.io");
        assert_eq!(full_name(Kind::Service), "services");
    }
}
