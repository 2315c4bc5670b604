//! Small objects for tests.

use std::sync::Arc;

use isthmus_api::status::Condition;
use isthmus_api::{Objects, Stored, decode_stored};
use isthmus_routing::{GatewayKey, Mesh, TrustDomain};
use serde_json::{Value, json};

use crate::{Address, CONTROLLER_NAME, Options, Translation, translate};

/// Decodes and applies all of these, or what can be read of them.
pub(crate) fn objects(list: impl IntoIterator<Item = Value>) -> Objects {
    let mut objects = Objects::default();
    for object in list {
        match decode_stored(&object).expect("test objects decode") {
            Stored::Whole(object) => objects.apply(object),
            Stored::Unreadable(part, why) => objects.apply_unreadable(part, why),
        };
    }
    objects
}

/// Translates these with a class of ours, namespace `other` labelled `team: b`, and the address 127.0.0.1 for `Gateway/shop/edge`.
pub(crate) fn translated(list: impl IntoIterator<Item = Value>) -> Translation {
    translate(&objects(base().into_iter().chain(list)), &options())
}

pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.addresses.insert(edge(), vec![Address::Ip("127.0.0.1".parse().expect("an address"))]);
    options
}

/// The same with clients in the mesh.
pub(crate) fn mesh_options() -> Options {
    Options { mesh: true, authority: Some(mesh_authority()), ..options() }
}

pub(crate) fn edge() -> GatewayKey {
    GatewayKey { namespace: "shop".to_owned(), name: "edge".to_owned() }
}

pub(crate) fn base() -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "isthmus", "generation": 1},
            "spec": {"controllerName": CONTROLLER_NAME},
        }),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "b"}}}),
    ]
}

/// `Gateway/shop/edge` of generation 3.
pub(crate) fn gateway(listeners: &Value) -> Value {
    gateway_with(json!({"gatewayClassName": "isthmus", "listeners": listeners}))
}

pub(crate) fn gateway_with(spec: Value) -> Value {
    object("gateway.networking.k8s.io/v1", "Gateway", "shop", "edge", json!({"generation": 3}), spec)
}

/// One HTTP listener on port 80 that takes everything.
pub(crate) fn plain_listener() -> Value {
    json!([{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}])
}

/// A route of generation 7 in namespace `shop`.
pub(crate) fn route(kind: &str, name: &str, spec: Value) -> Value {
    object("gateway.networking.k8s.io/v1", kind, "shop", name, json!({"generation": 7}), spec)
}

/// A Service in namespace `shop` with one port.
pub(crate) fn service(name: &str, port: u16) -> Value {
    object("v1", "Service", "shop", name, json!({}), json!({"ports": [{"name": "http", "port": port}]}))
}

/// A running pod with these annotations at these addresses, which started in this second.
pub(crate) fn pod((namespace, name): (&str, &str), account: &str, second: u8, annotations: &Value, addresses: &[&str]) -> Value {
    let started = format!("2026-01-01T00:00:{second:02}Z");
    let metadata = json!({"creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations});
    let mut pod = object("v1", "Pod", namespace, name, metadata, json!({"serviceAccountName": account}));
    let addresses: Vec<_> = addresses.iter().map(|address| json!({"ip": address})).collect();
    pod["status"] = json!({"phase": "Running", "startTime": started, "podIPs": addresses});
    pod
}

/// The pod with a sidecar that leaves these ports alone: `80,443`.
pub(crate) fn with_sidecar(mut pod: Value, plain_ports: &str) -> Value {
    let exclude = format!("--exclude-inbound-ports={plain_ports}");
    pod["spec"]["initContainers"] = json!([
        {"name": "isthmus-redirect", "args": ["redirect", exclude]},
        {"name": "isthmus-proxy", "args": ["run"], "restartPolicy": "Always"},
    ]);
    pod
}

/// Whose certificates workloads take.
pub(crate) fn mesh_authority() -> Arc<Mesh> {
    Arc::new(Mesh { trust_domain: TrustDomain::default(), authorities: "PEM".to_owned() })
}

/// A TLS Secret in namespace `shop` with a good pair.
pub(crate) fn secret(name: &str) -> Value {
    let made = rcgen::generate_simple_self_signed(vec!["example.com".to_owned()]).expect("a name is enough");
    let base64 =
        |text: &str| serde_json::to_value(isthmus_api::core::ByteString(text.as_bytes().to_vec())).expect("bytes have a form");
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "shop"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": base64(&made.cert.pem()), "tls.key": base64(&made.signing_key.serialize_pem())},
    })
}

/// The certificate of an authority, in PEM form.
pub(crate) fn authority() -> String {
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no name is needed");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").pem()
}

/// A ConfigMap with this `ca.crt`, or without one.
pub(crate) fn bundle(namespace: &str, name: &str, content: Option<&str>) -> Value {
    let data = content.map_or_else(|| json!({}), |content| json!({"ca.crt": content}));
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data})
}

pub(crate) fn object(api_version: &str, kind: &str, namespace: &str, name: &str, mut metadata: Value, spec: Value) -> Value {
    metadata["namespace"] = namespace.into();
    metadata["name"] = name.into();
    let mut object = json!({"apiVersion": api_version, "kind": kind});
    object["metadata"] = metadata;
    object["spec"] = spec;
    object
}

/// `Accepted=True/Accepted`, ... in their order; all of the same generation.
pub(crate) fn shown(conditions: &[Condition], generation: i64) -> Vec<String> {
    assert!(conditions.iter().all(|condition| condition.observed_generation == generation), "{conditions:?}");
    conditions.iter().map(|condition| format!("{}={:?}/{}", condition.r#type, condition.status, condition.reason)).collect()
}
