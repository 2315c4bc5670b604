//! What happens in the cluster while the controller is disturbed: objects at the start, and edits.

use std::sync::OnceLock;
use std::time::Duration;

use isthmus_tests::api_server::ApiServer;
use serde_json::{Value, json};

/// Objects at the start: a Gateway with HTTPS and routes in `shop`, a neighbour with everything of its own in `bank`.
const START: &str = include_str!("start.yaml");

/// The time between edits, so that disturbances come in between.
const PAUSE: Duration = Duration::from_millis(30);

/// Puts the objects there.
pub(super) fn start(server: &ApiServer) {
    server.apply_yaml(START);
    server.apply(secret(0));
}

/// Makes the edits, one after the other.
pub(super) async fn edit(server: &ApiServer) {
    for step in 0..EDITS {
        make(server, step);
        tokio::time::sleep(PAUSE).await;
    }
}

/// How many edits there are.
pub(super) const EDITS: usize = 14;

fn make(server: &ApiServer, step: usize) {
    match step {
        0 => server.apply(route("late", "/late", "front", 10)),
        1 => server.patch("HTTPRoute", "shop/front", json!({"spec": {"hostnames": ["front.example.com"]}})),
        2 => server.patch(
            "EndpointSlice",
            "shop/front",
            json!({"endpoints": [
                {"addresses": ["10.244.1.8"], "conditions": {"ready": true}},
                {"addresses": ["10.244.1.9"], "conditions": {"ready": true}},
            ]}),
        ),
        3 => server.apply(secret(1)),
        4 => server.delete("ReferenceGrant", "bank/from-shop"),
        5 => server.delete("HTTPRoute", "shop/late"),
        // Another object of the same name.
        6 => server.apply(route("late", "/later", "front", 20)),
        7 => server.patch(
            "Gateway",
            "shop/edge",
            json!({"spec": {
                "infrastructure": {"labels": {"team": "shop"}, "annotations": {"note": "edited"}},
            }}),
        ),
        8 => server.patch(
            "Gateway",
            "shop/edge",
            json!({"spec": {"listeners": [
                {"name": "http", "port": 8080, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Same"}}},
                {"name": "https", "port": 8443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "cert"}]}},
                {"name": "more", "port": 8081, "protocol": "HTTP"},
            ]}}),
        ),
        9 => server.apply(route("broken", "/broken", "nowhere", 30)),
        10 => server.apply(gateway("passing")),
        11 => server.patch(
            "Service",
            "shop/front",
            json!({"spec": {"ports": [
                {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080},
                {"name": "more", "port": 81, "protocol": "TCP", "targetPort": 8081},
            ]}}),
        ),
        12 => server.delete("Gateway", "shop/passing"),
        _ => server.delete("HTTPRoute", "shop/gone"),
    }
}

fn gateway(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"gatewayClassName": "isthmus", "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}]},
    })
}

/// A route of `shop`. Its age is given, since it is part of what proxies get.
pub(super) fn route(name: &str, path: &str, backend: &str, second: u8) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": format!("2026-11-20T10:00:{second:02}Z")},
        "spec": {"parentRefs": [{"name": "edge", "sectionName": "http"}], "rules": [
            {"matches": [{"path": {"value": path}}], "backendRefs": [{"name": backend, "port": 80}]},
        ]},
    })
}

/// One of two certificates, the same ones in every run.
fn secret(which: usize) -> Value {
    static CERTIFICATES: OnceLock<[(String, String); 2]> = OnceLock::new();
    let make = || {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    };
    let (chain, key) = &CERTIFICATES.get_or_init(|| [make(), make()])[which];
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cert", "namespace": "shop"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": chain, "tls.key": key},
    })
}
