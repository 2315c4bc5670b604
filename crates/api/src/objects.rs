//! The store: what an API server (or a folder) says at this moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    BackendTlsPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass, GatewayParameters, GrpcRoute, HttpRoute, Kind,
    ListenerSet, Namespace, NamespacedName, ObjectMeta, ObjectRef, Pod, ReferenceGrant, Secret, Service, TcpRoute, TlsRoute,
    UdpRoute, Unreadable, XMesh,
};

/// One object of a kind that Isthmus reads. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// `GatewayClass`
    GatewayClass(Arc<GatewayClass>),
    /// `Gateway`
    Gateway(Arc<Gateway>),
    /// `ListenerSet`
    ListenerSet(Arc<ListenerSet>),
    /// `HTTPRoute`
    HttpRoute(Arc<HttpRoute>),
    /// `GRPCRoute`
    GrpcRoute(Arc<GrpcRoute>),
    /// `TLSRoute`
    TlsRoute(Arc<TlsRoute>),
    /// `TCPRoute`
    TcpRoute(Arc<TcpRoute>),
    /// `UDPRoute`
    UdpRoute(Arc<UdpRoute>),
    /// `BackendTLSPolicy`
    BackendTlsPolicy(Arc<BackendTlsPolicy>),
    /// `ReferenceGrant`
    ReferenceGrant(Arc<ReferenceGrant>),
    /// `Namespace`
    Namespace(Arc<Namespace>),
    /// `Service`
    Service(Arc<Service>),
    /// `EndpointSlice`
    EndpointSlice(Arc<EndpointSlice>),
    /// `Secret`
    Secret(Arc<Secret>),
    /// `ConfigMap`
    ConfigMap(Arc<ConfigMap>),
    /// `GatewayParameters`
    GatewayParameters(Arc<GatewayParameters>),
    /// `Pod`
    Pod(Arc<Pod>),
    /// `XMesh`
    XMesh(Arc<XMesh>),
}

/// Every object that is known, by kind and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    /// By name.
    pub gateway_classes: BTreeMap<String, Arc<GatewayClass>>,
    /// By namespace and name.
    pub gateways: BTreeMap<NamespacedName, Arc<Gateway>>,
    /// By namespace and name.
    pub listener_sets: BTreeMap<NamespacedName, Arc<ListenerSet>>,
    /// By namespace and name.
    pub http_routes: BTreeMap<NamespacedName, Arc<HttpRoute>>,
    /// By namespace and name.
    pub grpc_routes: BTreeMap<NamespacedName, Arc<GrpcRoute>>,
    /// By namespace and name.
    pub tls_routes: BTreeMap<NamespacedName, Arc<TlsRoute>>,
    /// By namespace and name.
    pub tcp_routes: BTreeMap<NamespacedName, Arc<TcpRoute>>,
    /// By namespace and name.
    pub udp_routes: BTreeMap<NamespacedName, Arc<UdpRoute>>,
    /// By namespace and name.
    pub backend_tls_policies: BTreeMap<NamespacedName, Arc<BackendTlsPolicy>>,
    /// By namespace and name.
    pub reference_grants: BTreeMap<NamespacedName, Arc<ReferenceGrant>>,
    /// By name.
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    /// By namespace and name.
    pub services: BTreeMap<NamespacedName, Arc<Service>>,
    /// By namespace and name.
    pub endpoint_slices: BTreeMap<NamespacedName, Arc<EndpointSlice>>,
    /// By namespace and name.
    pub secrets: BTreeMap<NamespacedName, Arc<Secret>>,
    /// By namespace and name.
    pub config_maps: BTreeMap<NamespacedName, Arc<ConfigMap>>,
    /// By namespace and name.
    pub gateway_parameters: BTreeMap<NamespacedName, Arc<GatewayParameters>>,
    /// By namespace and name.
    pub pods: BTreeMap<NamespacedName, Arc<Pod>>,
    /// By name.
    pub x_meshes: BTreeMap<String, Arc<XMesh>>,
    /// Objects of the kinds above of which only a part was read ([`crate::Stored::Unreadable`]), and why.
    pub unreadable: BTreeMap<ObjectRef, Unreadable>,
}

/// Why JSON is not an object that Isthmus reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Somebody else's object: name it and go on.
    #[error("kind {kind} of {api_version} is not one that Isthmus reads")]
    UnknownKind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// No object at all.
    #[error("{field} is missing or not text; every object of the Kubernetes API has it")]
    Missing {
        /// `apiVersion`, `kind`, `metadata.name` or `metadata.namespace`.
        field: &'static str,
    },
    /// A field does not have the shape that the kind gives it.
    #[error("{kind}: {field}: {message}")]
    Field {
        /// The kind.
        kind: Kind,
        /// Path of the field: `spec.rules[0].name`.
        field: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Reads an object that was admitted (by an API server or by `isthmus-admission`): a namespaced one names its namespace.
///
/// # Errors
/// [`DecodeError::UnknownKind`] for a group, version or kind that Isthmus does not read; the rest are faults of the object.
pub fn decode(value: Value) -> Result<Object, DecodeError> {
    let api_version = text(&value, "/apiVersion").ok_or(DecodeError::Missing { field: "apiVersion" })?;
    let kind = text(&value, "/kind").ok_or(DecodeError::Missing { field: "kind" })?;
    let Some(kind) = Kind::of(api_version, kind) else {
        return Err(DecodeError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() });
    };
    text(&value, "/metadata/name").ok_or(DecodeError::Missing { field: "metadata.name" })?;
    if kind.is_namespaced() {
        text(&value, "/metadata/namespace").ok_or(DecodeError::Missing { field: "metadata.namespace" })?;
    }
    Ok(match kind {
        Kind::GatewayClass => Object::GatewayClass(typed(kind, value)?),
        Kind::Gateway => Object::Gateway(typed(kind, value)?),
        Kind::ListenerSet => Object::ListenerSet(typed(kind, value)?),
        Kind::HttpRoute => Object::HttpRoute(typed(kind, value)?),
        Kind::GrpcRoute => Object::GrpcRoute(typed(kind, value)?),
        Kind::TlsRoute => Object::TlsRoute(typed(kind, value)?),
        Kind::TcpRoute => Object::TcpRoute(typed(kind, value)?),
        Kind::UdpRoute => Object::UdpRoute(typed(kind, value)?),
        Kind::BackendTlsPolicy => Object::BackendTlsPolicy(typed(kind, value)?),
        Kind::ReferenceGrant => Object::ReferenceGrant(typed(kind, value)?),
        Kind::Namespace => Object::Namespace(typed(kind, value)?),
        Kind::Service => Object::Service(typed(kind, value)?),
        Kind::EndpointSlice => Object::EndpointSlice(typed(kind, value)?),
        Kind::Secret => Object::Secret(typed(kind, value)?),
        Kind::ConfigMap => Object::ConfigMap(typed(kind, value)?),
        Kind::GatewayParameters => Object::GatewayParameters(typed(kind, value)?),
        Kind::Pod => Object::Pod(Arc::new(Arc::unwrap_or_clone(typed::<Pod>(kind, value)?).trimmed())),
        Kind::XMesh => Object::XMesh(typed(kind, value)?),
    })
}

impl Object {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::GatewayClass(_) => Kind::GatewayClass,
            Self::Gateway(_) => Kind::Gateway,
            Self::ListenerSet(_) => Kind::ListenerSet,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::GrpcRoute(_) => Kind::GrpcRoute,
            Self::TlsRoute(_) => Kind::TlsRoute,
            Self::TcpRoute(_) => Kind::TcpRoute,
            Self::UdpRoute(_) => Kind::UdpRoute,
            Self::BackendTlsPolicy(_) => Kind::BackendTlsPolicy,
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::Namespace(_) => Kind::Namespace,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Secret(_) => Kind::Secret,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::GatewayParameters(_) => Kind::GatewayParameters,
            Self::Pod(_) => Kind::Pod,
            Self::XMesh(_) => Kind::XMesh,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::GatewayClass(object) => &object.metadata,
            Self::Gateway(object) => &object.metadata,
            Self::ListenerSet(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::GrpcRoute(object) => &object.metadata,
            Self::TlsRoute(object) => &object.metadata,
            Self::TcpRoute(object) => &object.metadata,
            Self::UdpRoute(object) => &object.metadata,
            Self::BackendTlsPolicy(object) => &object.metadata,
            Self::ReferenceGrant(object) => &object.metadata,
            Self::Namespace(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::Secret(object) => &object.metadata,
            Self::ConfigMap(object) => &object.metadata,
            Self::GatewayParameters(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::XMesh(object) => &object.metadata,
        }
    }

    /// What names it.
    pub fn object_ref(&self) -> ObjectRef {
        let kind = self.kind();
        let NamespacedName { namespace, name } = NamespacedName::of(self.metadata());
        ObjectRef { kind, namespace: kind.is_namespaced().then_some(namespace), name }
    }

    /// The JSON of it, with the preferred version of its kind; of a Pod, what was read.
    ///
    /// # Errors
    /// When a value has no JSON form; the types that [`decode`] fills all have one.
    pub fn to_json(&self) -> Result<Value, serde_json::Error> {
        match self {
            Self::GatewayClass(object) => serde_json::to_value(object),
            Self::Gateway(object) => serde_json::to_value(object),
            Self::ListenerSet(object) => serde_json::to_value(object),
            Self::HttpRoute(object) => serde_json::to_value(object),
            Self::GrpcRoute(object) => serde_json::to_value(object),
            Self::TlsRoute(object) => serde_json::to_value(object),
            Self::TcpRoute(object) => serde_json::to_value(object),
            Self::UdpRoute(object) => serde_json::to_value(object),
            Self::BackendTlsPolicy(object) => serde_json::to_value(object),
            Self::ReferenceGrant(object) => serde_json::to_value(object),
            Self::Namespace(object) => serde_json::to_value(object),
            Self::Service(object) => serde_json::to_value(object),
            Self::EndpointSlice(object) => serde_json::to_value(object),
            Self::Secret(object) => serde_json::to_value(object),
            Self::ConfigMap(object) => serde_json::to_value(object),
            Self::GatewayParameters(object) => serde_json::to_value(object),
            Self::Pod(object) => serde_json::to_value(object),
            Self::XMesh(object) => serde_json::to_value(object),
        }
    }
}

impl Objects {
    /// Adds an object or replaces the one of the same kind and name, which is returned.
    pub fn apply(&mut self, object: Object) -> Option<Object> {
        if !self.unreadable.is_empty() {
            self.unreadable.remove(&object.object_ref());
        }
        self.insert(object)
    }

    /// The same with an object of which only a part was read: what it was before is replaced all the same.
    pub fn apply_unreadable(&mut self, part: Object, why: Unreadable) -> Option<Object> {
        self.unreadable.insert(part.object_ref(), why);
        self.insert(part)
    }

    /// Why the rest of an object could not be read; none: it was.
    pub fn unreadable(&self, kind: Kind, name: &NamespacedName) -> Option<&Unreadable> {
        if self.unreadable.is_empty() {
            return None;
        }
        let NamespacedName { namespace, name } = name.clone();
        self.unreadable.get(&ObjectRef { kind, namespace: kind.is_namespaced().then_some(namespace), name })
    }

    fn insert(&mut self, object: Object) -> Option<Object> {
        let key = NamespacedName::of(object.metadata());
        match object {
            Object::GatewayClass(o) => self.gateway_classes.insert(key.name, o).map(Object::GatewayClass),
            Object::Gateway(o) => self.gateways.insert(key, o).map(Object::Gateway),
            Object::ListenerSet(o) => self.listener_sets.insert(key, o).map(Object::ListenerSet),
            Object::HttpRoute(o) => self.http_routes.insert(key, o).map(Object::HttpRoute),
            Object::GrpcRoute(o) => self.grpc_routes.insert(key, o).map(Object::GrpcRoute),
            Object::TlsRoute(o) => self.tls_routes.insert(key, o).map(Object::TlsRoute),
            Object::TcpRoute(o) => self.tcp_routes.insert(key, o).map(Object::TcpRoute),
            Object::UdpRoute(o) => self.udp_routes.insert(key, o).map(Object::UdpRoute),
            Object::BackendTlsPolicy(o) => self.backend_tls_policies.insert(key, o).map(Object::BackendTlsPolicy),
            Object::ReferenceGrant(o) => self.reference_grants.insert(key, o).map(Object::ReferenceGrant),
            Object::Namespace(o) => self.namespaces.insert(key.name, o).map(Object::Namespace),
            Object::Service(o) => self.services.insert(key, o).map(Object::Service),
            Object::EndpointSlice(o) => self.endpoint_slices.insert(key, o).map(Object::EndpointSlice),
            Object::Secret(o) => self.secrets.insert(key, o).map(Object::Secret),
            Object::ConfigMap(o) => self.config_maps.insert(key, o).map(Object::ConfigMap),
            Object::GatewayParameters(o) => self.gateway_parameters.insert(key, o).map(Object::GatewayParameters),
            Object::Pod(o) => self.pods.insert(key, o).map(Object::Pod),
            Object::XMesh(o) => self.x_meshes.insert(key.name, o).map(Object::XMesh),
        }
    }

    /// Removes an object and returns it.
    pub fn remove(&mut self, object: &ObjectRef) -> Option<Object> {
        self.unreadable.remove(object);
        let key = NamespacedName::new(object.namespace.clone().unwrap_or_default(), object.name.clone());
        match object.kind {
            Kind::GatewayClass => self.gateway_classes.remove(&key.name).map(Object::GatewayClass),
            Kind::Gateway => self.gateways.remove(&key).map(Object::Gateway),
            Kind::ListenerSet => self.listener_sets.remove(&key).map(Object::ListenerSet),
            Kind::HttpRoute => self.http_routes.remove(&key).map(Object::HttpRoute),
            Kind::GrpcRoute => self.grpc_routes.remove(&key).map(Object::GrpcRoute),
            Kind::TlsRoute => self.tls_routes.remove(&key).map(Object::TlsRoute),
            Kind::TcpRoute => self.tcp_routes.remove(&key).map(Object::TcpRoute),
            Kind::UdpRoute => self.udp_routes.remove(&key).map(Object::UdpRoute),
            Kind::BackendTlsPolicy => self.backend_tls_policies.remove(&key).map(Object::BackendTlsPolicy),
            Kind::ReferenceGrant => self.reference_grants.remove(&key).map(Object::ReferenceGrant),
            Kind::Namespace => self.namespaces.remove(&key.name).map(Object::Namespace),
            Kind::Service => self.services.remove(&key).map(Object::Service),
            Kind::EndpointSlice => self.endpoint_slices.remove(&key).map(Object::EndpointSlice),
            Kind::Secret => self.secrets.remove(&key).map(Object::Secret),
            Kind::ConfigMap => self.config_maps.remove(&key).map(Object::ConfigMap),
            Kind::GatewayParameters => self.gateway_parameters.remove(&key).map(Object::GatewayParameters),
            Kind::Pod => self.pods.remove(&key).map(Object::Pod),
            Kind::XMesh => self.x_meshes.remove(&key.name).map(Object::XMesh),
        }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

fn typed<T: DeserializeOwned>(kind: Kind, value: Value) -> Result<Arc<T>, DecodeError> {
    serde_path_to_error::deserialize(value).map(Arc::new).map_err(|error| DecodeError::Field {
        kind,
        field: error.path().to_string(),
        message: error.inner().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, port: u16) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"ports": [{"port": port, "name": "http", "appProtocol": "kubernetes.io/h2c"}]}
        })
    }

    #[test]
    fn applies_replaces_and_removes() {
        let mut objects = Objects::default();
        let first = decode(service("front", 80)).unwrap();
        assert_eq!(objects.apply(first.clone()), None);
        assert_eq!(objects.apply(decode(service("front", 81)).unwrap()), Some(first.clone()));
        assert_eq!(objects.services.len(), 1);
        let key = first.object_ref();
        assert_eq!(key.to_string(), "Service/shop/front");
        assert!(objects.remove(&key).is_some());
        assert_eq!(objects.remove(&key), None);
        assert_eq!(objects, Objects::default());
    }

    #[test]
    fn cluster_scoped_objects_have_no_namespace() {
        let class = json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "GatewayClass", "metadata": {"name": "edge"},
            "spec": {"controllerName": "isthmus.dev/gateway-controller"}
        });
        assert_eq!(decode(class).unwrap().object_ref().to_string(), "GatewayClass/edge");
    }

    #[test]
    fn faults_are_told_apart() {
        for (value, expected) in [
            (json!({"apiVersion": "v1", "kind": "Node"}), "kind Node of v1 is not one that Isthmus reads"),
            (json!({"kind": "Node"}), "apiVersion is missing or not text; every object of the Kubernetes API has it"),
            (
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}),
                "metadata.namespace is missing or not text; every object of the Kubernetes API has it",
            ),
            (
                json!({
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "x", "namespace": "y"},
                    "spec": {"rules": [{}, {"name": 5}]}
                }),
                "HTTPRoute: spec.rules[1].name: invalid type: integer `5`, expected a string",
            ),
        ] {
            assert_eq!(decode(value).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn decoding_loses_no_field() {
        let meta = json!({"name": "x", "namespace": "y", "labels": {"a": "b"}, "generation": 2});
        let gateway_api = "gateway.networking.k8s.io/v1";
        for object in [
            json!({"apiVersion": gateway_api, "kind": "Gateway", "metadata": meta, "spec": {
                "gatewayClassName": "edge",
                "addresses": [{"type": "IPAddress", "value": "127.0.0.5"}],
                "infrastructure": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                "allowedListeners": {"namespaces": {"from": "None"}},
                "listeners": [{"name": "https", "hostname": "*.example.com", "port": 443, "protocol": "HTTPS",
                    "tls": {"mode": "Terminate", "certificateRefs": [{"group": "", "kind": "Secret", "name": "c", "namespace": "z"}]},
                    "allowedRoutes": {"kinds": [{"group": "g", "kind": "HTTPRoute"}], "namespaces": {"from": "Selector", "selector": {
                        "matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}}}}],
                "tls": {"frontend": {"default": {"validation": {"mode": "AllowValidOnly",
                    "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}}}}}),
            json!({"apiVersion": gateway_api, "kind": "ListenerSet", "metadata": meta, "spec": {
                "parentRef": {"group": "g", "kind": "Gateway", "name": "edge", "namespace": "z"},
                "listeners": [{"name": "https", "hostname": "*.example.com", "port": 443, "protocol": "HTTPS",
                    "tls": {"mode": "Terminate", "certificateRefs": [{"group": "", "kind": "Secret", "name": "c", "namespace": "z"}]},
                    "allowedRoutes": {"kinds": [{"group": "g", "kind": "HTTPRoute"}], "namespaces": {"from": "Selector", "selector": {
                        "matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}}}}]}}),
            json!({"apiVersion": gateway_api, "kind": "HTTPRoute", "metadata": meta, "spec": {
                "parentRefs": [{"group": "g", "kind": "Gateway", "name": "edge", "namespace": "z", "sectionName": "https", "port": 443}],
                "hostnames": ["a.example.com"],
                "rules": [{
                    "name": "one",
                    "matches": [{"path": {"type": "RegularExpression", "value": "/a.*"}, "method": "PATCH",
                        "headers": [{"type": "Exact", "name": "a", "value": "b"}],
                        "queryParams": [{"type": "RegularExpression", "name": "a", "value": "b"}]}],
                    "filters": [
                        {"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "hostname": "h", "port": 1, "statusCode": 308,
                            "path": {"type": "ReplaceFullPath", "replaceFullPath": "/"}}},
                        {"type": "CORS", "cors": {"allowOrigins": ["*"], "allowCredentials": true, "allowMethods": ["GET"],
                            "allowHeaders": ["a"], "exposeHeaders": ["b"], "maxAge": 9}}],
                    "backendRefs": [{"group": "", "kind": "Service", "name": "s", "namespace": "z", "port": 80, "weight": 0, "filters": [
                        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "m", "port": 1},
                            "fraction": {"numerator": 1, "denominator": 3}}}]}],
                    "timeouts": {"request": "1s", "backendRequest": "1ms"},
                    "retry": {"codes": [503], "attempts": 2, "backoff": "1ms"}}]}}),
            json!({"apiVersion": gateway_api, "kind": "GRPCRoute", "metadata": meta, "spec": {"rules": [{
                "matches": [{"method": {"type": "Exact", "service": "s", "method": "m"}}],
                "filters": [{"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "k", "name": "n"}}]}]}}),
            json!({"apiVersion": gateway_api, "kind": "TLSRoute", "metadata": meta, "spec": {"hostnames": ["a.example.com"], "rules": [{
                "name": "one", "backendRefs": [{"group": "", "kind": "Service", "name": "s", "port": 443, "weight": 0}]}]}}),
            json!({"apiVersion": gateway_api, "kind": "TCPRoute", "metadata": meta, "spec": {
                "parentRefs": [{"group": "g", "kind": "Gateway", "name": "edge", "namespace": "z", "sectionName": "tcp", "port": 443}],
                "rules": [{"name": "one", "backendRefs": [
                    {"group": "", "kind": "Service", "name": "s", "namespace": "z", "port": 5432, "weight": 0}]}]}}),
            json!({"apiVersion": gateway_api, "kind": "UDPRoute", "metadata": meta, "spec": {"rules": [{
                "backendRefs": [{"group": "", "kind": "Service", "name": "s", "port": 53, "weight": 1}]}]}}),
            json!({"apiVersion": gateway_api, "kind": "BackendTLSPolicy", "metadata": meta, "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "s", "sectionName": "https"}],
                "options": {"a/b": "c"},
                "validation": {"hostname": "a.example.com", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}],
                    "subjectAltNames": [{"type": "URI", "uri": "spiffe://a/b"}, {"type": "Hostname", "hostname": "b.example.com"}]}}}),
            json!({"apiVersion": gateway_api, "kind": "ReferenceGrant", "metadata": meta, "spec": {
                "from": [{"group": "g", "kind": "k", "namespace": "n"}], "to": [{"group": "", "kind": "Service", "name": "s"}]}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta, "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
                    "nodeName": "n", "zone": "z"}],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"}]}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "data": {"tls.crt": "AA=="}}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"ca.crt": "x"}, "binaryData": {"b": "AA=="}}),
            service("front", 80),
        ] {
            assert_eq!(decode(object.clone()).unwrap().to_json().unwrap(), object);
        }
    }
}
