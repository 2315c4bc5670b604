//! Which changes of an object matter.

use isthmus_api::{Object, ObjectMeta};

/// Whether translation can tell `new` from `old`, two states of one object. What cannot matter: the resource version, the
/// managed fields, and the status of every kind whose status is written by controllers like us (a Service's is read: it has
/// the load balancer's addresses).
pub fn is_relevant(old: &Object, new: &Object) -> bool {
    use Object as O;
    let same = match (old, new) {
        (O::GatewayClass(old), O::GatewayClass(new)) => old.spec == new.spec,
        (O::Gateway(old), O::Gateway(new)) => old.spec == new.spec,
        (O::ListenerSet(old), O::ListenerSet(new)) => old.spec == new.spec,
        (O::HttpRoute(old), O::HttpRoute(new)) => old.spec == new.spec,
        (O::GrpcRoute(old), O::GrpcRoute(new)) => old.spec == new.spec,
        (O::TlsRoute(old), O::TlsRoute(new)) => old.spec == new.spec,
        (O::TcpRoute(old), O::TcpRoute(new)) => old.spec == new.spec,
        (O::UdpRoute(old), O::UdpRoute(new)) => old.spec == new.spec,
        (O::BackendTlsPolicy(old), O::BackendTlsPolicy(new)) => old.spec == new.spec,
        (O::ReferenceGrant(old), O::ReferenceGrant(new)) => old.spec == new.spec,
        (O::GatewayParameters(old), O::GatewayParameters(new)) => old.spec == new.spec,
        // A namespace is read for its labels; its status tells of its end, as its deletion time does.
        (O::Namespace(_), O::Namespace(_)) => true,
        (O::Service(old), O::Service(new)) => old.spec == new.spec && old.status == new.status,
        (O::EndpointSlice(old), O::EndpointSlice(new)) => {
            old.address_type == new.address_type && old.endpoints == new.endpoints && old.ports == new.ports
        }
        (O::Secret(old), O::Secret(new)) => old.data == new.data && old.string_data == new.string_data && old.type_ == new.type_,
        (O::ConfigMap(old), O::ConfigMap(new)) => old.data == new.data && old.binary_data == new.binary_data,
        // What was read of a Pod is what matters.
        (O::Pod(old), O::Pod(new)) => old.spec == new.spec && old.status == new.status,
        (O::XMesh(old), O::XMesh(new)) => old.spec == new.spec,
        _ => false,
    };
    !same || has_other_metadata(old.metadata(), new.metadata())
}

fn has_other_metadata(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    old.uid != new.uid
        || old.generation != new.generation
        || old.labels != new.labels
        || old.annotations != new.annotations
        || old.creation_timestamp != new.creation_timestamp
        || old.deletion_timestamp != new.deletion_timestamp
        || old.owner_references != new.owner_references
}

#[cfg(test)]
mod tests {
    use isthmus_api::decode;
    use serde_json::{Value, json};

    use super::*;

    const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

    fn changed(object: &Value, pointer: &str, value: Value) -> bool {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let mut new = object.clone();
        new.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(field.to_owned(), value);
        is_relevant(&decode(object.clone()).unwrap(), &decode(new).unwrap())
    }

    #[test]
    fn what_translation_reads_is_relevant() {
        let metadata = json!({"name": "x", "namespace": "shop", "uid": "1", "generation": 1, "resourceVersion": "5"});
        let object = |api_version: &str, kind: &str, rest: Value| {
            let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
            object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            object
        };
        let route = object(GATEWAY_API, "HTTPRoute", json!({"spec": {}, "status": {"parents": []}}));
        let stream = |kind: &str| {
            object(GATEWAY_API, kind, json!({"spec": {"hostnames": ["a.example"], "rules": []}, "status": {"parents": []}}))
        };
        let streams = ["TLSRoute", "TCPRoute", "UDPRoute"].map(stream);
        let policy = object(
            GATEWAY_API,
            "BackendTLSPolicy",
            json!({"spec": {"targetRefs": [], "validation": {"hostname": "a.example"}}, "status": {"ancestors": []}}),
        );
        let gateway = object(GATEWAY_API, "Gateway", json!({"spec": {"gatewayClassName": "a", "listeners": []}}));
        let set = object(GATEWAY_API, "ListenerSet", json!({"spec": {"parentRef": {"name": "a"}, "listeners": []}}));
        let class = object(GATEWAY_API, "GatewayClass", json!({"spec": {"controllerName": "a/b"}}));
        let service = object("v1", "Service", json!({"spec": {}, "status": {}}));
        let slice = object("discovery.k8s.io/v1", "EndpointSlice", json!({"addressType": "IPv4", "endpoints": []}));
        let secret = object("v1", "Secret", json!({"data": {"tls.crt": "AA=="}}));
        let namespace = object("v1", "Namespace", json!({"status": {"phase": "Active"}}));
        let pod = object("v1", "Pod", json!({"spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
        let mesh = object("gateway.networking.x-k8s.io/v1alpha1", "XMesh", json!({"spec": {"controllerName": "a/b"}}));
        let condition = json!([{"type": "Accepted", "status": "True", "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
        let (edge, rule) = (json!({"name": "edge"}), json!([{"backendRefs": [{"name": "a", "port": 53}]}]));
        let ancestors = json!([{"ancestorRef": edge, "controllerName": "a/b", "conditions": condition}]);
        for route in &streams {
            let parents = json!([{"parentRef": edge, "controllerName": "a/b", "conditions": condition}]);
            assert!(!changed(route, "/status/parents", parents), "{}", route["kind"]);
            assert!(changed(route, "/spec/rules", rule.clone()), "{}", route["kind"]);
        }
        for (object, pointer, value, expected) in [
            (&route, "/metadata/resourceVersion", json!("6"), false),
            (&route, "/metadata/managedFields", json!([{"manager": "m"}]), false),
            (&route, "/metadata/labels", json!({"a": "b"}), true),
            (&route, "/metadata/annotations", json!({"a": "b"}), true),
            (&route, "/metadata/generation", json!(2), true),
            (&route, "/metadata/uid", json!("2"), true),
            (&route, "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"), true),
            (&route, "/spec/hostnames", json!(["a.example"]), true),
            (&policy, "/status/ancestors", ancestors, false),
            (&policy, "/spec/validation/hostname", json!("b.example"), true),
            (&gateway, "/status", json!({"conditions": condition}), false),
            (&gateway, "/spec/gatewayClassName", json!("b"), true),
            (&set, "/status", json!({"conditions": condition}), false),
            (&set, "/spec/parentRef", json!({"name": "b"}), true),
            (&class, "/status", json!({"conditions": condition}), false),
            (&class, "/spec/controllerName", json!("a/c"), true),
            (&service, "/metadata/resourceVersion", json!("6"), false),
            (&service, "/status/loadBalancer", json!({"ingress": [{"ip": "10.0.0.1"}]}), true),
            (&service, "/spec/clusterIP", json!("10.0.0.1"), true),
            (&service, "/metadata/annotations", json!({"isthmus.dev/proxy-protocol": "v2"}), true),
            (&slice, "/metadata/resourceVersion", json!("6"), false),
            (&slice, "/endpoints", endpoints, true),
            (&secret, "/metadata/resourceVersion", json!("6"), false),
            (&secret, "/data/tls.crt", json!("AAA="), true),
            (&namespace, "/status/phase", json!("Terminating"), false),
            (&pod, "/metadata/resourceVersion", json!("6"), false),
            (&pod, "/metadata/labels", json!({"a": "b"}), false),
            (&pod, "/metadata/annotations", json!({"example.com/a": "b"}), false),
            (&pod, "/metadata/annotations", json!({"isthmus.dev/mtls": "strict"}), true),
            (&pod, "/spec/nodeName", json!("n"), false),
            (&pod, "/spec/serviceAccountName", json!("a"), true),
            (
                &pod,
                "/status/conditions",
                json!([{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]),
                false,
            ),
            (&pod, "/status/conditions", json!([{"type": "Ready", "status": "False"}]), true),
            (&pod, "/status/podIPs", json!([{"ip": "10.0.0.1"}]), true),
            (&pod, "/status/containerStatuses", json!([]), false),
            (&mesh, "/status", json!({"conditions": condition}), false),
            (&mesh, "/spec/controllerName", json!("a/c"), true),
            (&namespace, "/metadata/labels", json!({"a": "b"}), true),
        ] {
            assert_eq!(changed(object, pointer, value), expected, "{} {pointer}", object["kind"]);
        }
        assert!(is_relevant(&decode(route).unwrap(), &decode(gateway).unwrap()));
    }
}
