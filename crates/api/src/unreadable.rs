//! Objects that are there and that this release cannot read: a newer release of the CRDs has values that nobody here knows.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::backendtlspolicies::BackendTlsPolicyTargetRefs;
use crate::shared::ParentRef;
use crate::{DecodeError, Kind, Object, decode};

/// Why the rest of an object cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} cannot be read: {message}; correct it, or update Isthmus to a release that knows it")]
pub struct Unreadable {
    /// Path of the field: `spec.rules[0].filters[0].type`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// An object as an API server holds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// It is read.
    Whole(Object),
    /// Only who it is and what it belongs to is read: metadata, and the parents of a route, the class of a Gateway, the Gateway of a
    /// ListenerSet, the targets of a BackendTLSPolicy. It has no rule, no listener, no permission.
    Unreadable(Object, Unreadable),
}

/// Reads an object as [`decode`] does, or what can be read of it, if it is of a kind whose objects have a part in routing.
///
/// # Errors
/// Those of [`decode`], where not even that can be read.
pub fn decode_stored(value: &Value) -> Result<Stored, DecodeError> {
    let error = match decode(value.clone()) {
        Ok(object) => return Ok(Stored::Whole(object)),
        Err(error) => error,
    };
    let DecodeError::Field { kind, field, message } = &error else { return Err(error) };
    let object = remains(*kind, value).into_iter().find_map(|remains| decode(remains).ok()).ok_or_else(|| error.clone())?;
    Ok(Stored::Unreadable(object, Unreadable { field: field.clone(), message: message.clone() }))
}

/// What may be read of an object, the most first.
fn remains(kind: Kind, value: &Value) -> Vec<Value> {
    let field = |name: &str| value.get("spec").and_then(|spec| spec.get(name)).cloned().unwrap_or_default();
    let parents = || readable::<ParentRef>(field("parentRefs"));
    let spec = match kind {
        Kind::HttpRoute | Kind::GrpcRoute => json!({"parentRefs": parents()}),
        Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => json!({"parentRefs": parents(), "hostnames": [], "rules": []}),
        Kind::Gateway => json!({"gatewayClassName": field("gatewayClassName"), "listeners": []}),
        Kind::ListenerSet => json!({"parentRef": field("parentRef"), "listeners": []}),
        Kind::BackendTlsPolicy => {
            let targets = readable::<BackendTlsPolicyTargetRefs>(field("targetRefs"));
            json!({"targetRefs": targets, "validation": {"hostname": ""}})
        }
        Kind::ReferenceGrant => json!({"from": [], "to": []}),
        Kind::GatewayClass
        | Kind::Namespace
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Secret
        | Kind::ConfigMap
        | Kind::GatewayParameters
        | Kind::Pod
        | Kind::XMesh => return Vec::new(),
    };
    let metadata = value.get("metadata");
    let named = metadata.and_then(Value::as_object).map(identity).map(Value::Object);
    let whole = |metadata| json!({"apiVersion": value["apiVersion"], "kind": value["kind"], "metadata": metadata, "spec": spec});
    metadata.cloned().into_iter().chain(named).map(whole).collect()
}

/// The items of a list that can be read.
fn readable<T: DeserializeOwned>(list: Value) -> Vec<Value> {
    let Value::Array(items) = list else { return Vec::new() };
    items.into_iter().filter(|item| serde_json::from_value::<T>(item.clone()).is_ok()).collect()
}

/// What of its metadata says which object it is.
fn identity(metadata: &Map<String, Value>) -> Map<String, Value> {
    let fields = ["name", "namespace", "uid", "generation", "resourceVersion"];
    metadata.iter().filter(|(field, _)| fields.contains(&field.as_str())).map(|(field, of)| (field.clone(), of.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Objects;

    fn stored(kind: &str, spec: &Value) -> Stored {
        let metadata = json!({"name": "x", "namespace": "shop", "generation": 4, "uid": "u", "labels": {"a": "b"}});
        decode_stored(&json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn what_an_object_belongs_to_can_be_read_of_it() {
        let parents = json!([{"name": "edge"}, {"name": 5}, {"name": "other", "sectionName": "http"}]);
        let kept = json!([{"name": "edge"}, {"name": "other", "sectionName": "http"}]);
        let listener = json!({"name": "a", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Mars"}}});
        let target = json!({"group": "", "kind": "Service", "name": "s"});
        let rules = json!([{"filters": [{"type": "Teleport"}]}]);
        for (kind, spec, field, expected) in [
            (
                "HTTPRoute",
                json!({"parentRefs": kept, "rules": rules}),
                "spec.rules[0].filters[0].type",
                json!({"parentRefs": kept}),
            ),
            ("HTTPRoute", json!({"parentRefs": parents}), "spec.parentRefs[1].name", json!({"parentRefs": kept})),
            ("GRPCRoute", json!({"rules": rules}), "spec.rules[0].filters[0].type", json!({"parentRefs": []})),
            (
                "TLSRoute",
                json!({"parentRefs": kept, "hostnames": ["a.example.com"], "rules": [{"name": 5}]}),
                "spec.rules[0].name",
                json!({"parentRefs": kept, "hostnames": [], "rules": []}),
            ),
            (
                "Gateway",
                json!({"gatewayClassName": "edge", "listeners": [listener]}),
                "spec.listeners[0].allowedRoutes.namespaces.from",
                json!({"gatewayClassName": "edge", "listeners": []}),
            ),
            (
                "ListenerSet",
                json!({"parentRef": {"name": "edge"}, "listeners": [listener]}),
                "spec.listeners[0].allowedRoutes.namespaces.from",
                json!({"parentRef": {"name": "edge"}, "listeners": []}),
            ),
            (
                "BackendTLSPolicy",
                json!({"targetRefs": [target], "validation": {"hostname": "a.example.com", "subjectAltNames": [{"type": "Mars"}]}}),
                "spec.validation.subjectAltNames[0].type",
                json!({"targetRefs": [target], "validation": {"hostname": ""}}),
            ),
            ("ReferenceGrant", json!({"from": [5], "to": []}), "spec.from[0]", json!({"from": [], "to": []})),
        ] {
            let Stored::Unreadable(object, why) = stored(kind, &spec) else { panic!("{kind} is read") };
            assert_eq!(why.field, field);
            let mut read = object.to_json().unwrap()["spec"].clone();
            // Our TCPRoute and the generated types write absent lists in their own ways.
            if let Some(fields) = read.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
            assert_eq!(read, expected, "{kind}");
            assert_eq!(object.metadata().labels.as_ref().unwrap()["a"], "b");
        }
    }

    #[test]
    fn metadata_that_cannot_be_read_leaves_the_name() {
        let metadata = json!({"name": "x", "namespace": "shop", "generation": 4, "creationTimestamp": "never"});
        let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata, "spec": {}});
        let Stored::Unreadable(object, why) = decode_stored(&route).unwrap() else { panic!("it is read") };
        assert_eq!((why.field.as_str(), object.metadata().generation), ("metadata.creationTimestamp", Some(4)));
        let service =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "y"}, "spec": {"ports": 5}});
        assert!(matches!(decode_stored(&service), Err(DecodeError::Field { .. })), "whoever it is, nothing can be made of it");
    }

    #[test]
    fn it_takes_the_place_of_what_was_there_until_it_is_read_again() {
        let (good, bad) = (json!({"rules": [{}]}), json!({"rules": [{"name": 5}]}));
        let Stored::Whole(whole) = stored("HTTPRoute", &good) else { panic!("it is not read") };
        let Stored::Unreadable(part, why) = stored("HTTPRoute", &bad) else { panic!("it is read") };
        let mut objects = Objects::default();
        objects.apply(whole.clone());
        assert_eq!(objects.apply_unreadable(part.clone(), why.clone()), Some(whole.clone()));
        assert_eq!(objects.http_routes.values().next().unwrap().spec.rules, None);
        assert_eq!(objects.unreadable.get(&part.object_ref()), Some(&why));
        assert_eq!(objects.apply(whole), Some(part.clone()));
        assert!(objects.unreadable.is_empty());
        objects.apply_unreadable(part.clone(), why);
        assert!(objects.remove(&part.object_ref()).is_some());
        assert_eq!(objects, Objects::default());
    }
}
