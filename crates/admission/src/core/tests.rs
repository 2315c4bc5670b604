use serde_json::{Value, json};

use crate::{Finding, admit};

fn object(api_version: &str, kind: &str, rest: &Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}});
    for (field, value) in rest.as_object().unwrap() {
        object[field] = value.clone();
    }
    object
}

fn service(spec: &Value) -> Value {
    object("v1", "Service", &json!({"spec": spec}))
}

fn slice(rest: &Value) -> Value {
    object("discovery.k8s.io/v1", "EndpointSlice", rest)
}

fn secret(rest: &Value) -> Value {
    object("v1", "Secret", rest)
}

/// The fields that something is wrong with.
fn faults(object: Value) -> Vec<String> {
    let findings: Vec<Finding> = admit(object).err().unwrap_or_default();
    findings.into_iter().map(|finding| finding.field).collect()
}

#[test]
fn services_are_completed() {
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 53, "protocol": "UDP", "targetPort": "dns"}]);
    assert_eq!(
        admit(service(&json!({"ports": ports}))).unwrap().object["spec"],
        json!({"type": "ClusterIP", "ports": [
            {"name": "a", "port": 80, "protocol": "TCP", "targetPort": 80},
            {"name": "b", "port": 53, "protocol": "UDP", "targetPort": "dns"},
        ]})
    );
}

#[test]
fn pods_have_an_account_and_keep_where_they_are() {
    let containers = json!([{"name": "app", "image": "app"}]);
    for (rest, account, expected) in [
        (json!({"spec": {"containers": containers}}), "default", vec![]),
        (json!({"spec": {"containers": containers, "serviceAccountName": "cart"}}), "cart", vec![]),
        (json!({"spec": {"containers": []}}), "", vec!["spec.containers"]),
        (json!({"spec": {"containers": [{"name": 5}]}}), "", vec!["spec.containers[0].name"]),
        (json!({}), "", vec!["spec"]),
        (json!({"spec": {"containers": containers, "hostNetwork": "yes"}}), "", vec!["spec.hostNetwork"]),
    ] {
        let mut pod = object("v1", "Pod", &rest);
        pod["status"] = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]});
        let admitted = admit(pod.clone());
        assert_eq!(faults(pod.clone()), expected, "{rest}");
        if let Ok(admitted) = admitted {
            assert_eq!(
                (&admitted.object["spec"]["serviceAccountName"], &admitted.object["status"]),
                (&json!(account), &pod["status"])
            );
        }
    }
}

#[test]
fn services_are_checked() {
    let http = json!({"name": "a", "port": 80});
    for (spec, expected) in [
        (json!({}), vec!["spec.ports"]),
        (json!({"clusterIP": "None"}), vec![]),
        (json!({"type": "ExternalName"}), vec!["spec.externalName"]),
        (json!({"type": "ExternalName", "externalName": "example.com"}), vec![]),
        (json!({"type": "Internal", "ports": [http]}), vec!["spec.type"]),
        (json!({"ports": [{"port": 0}]}), vec!["spec.ports[0].port", "spec.ports[0].targetPort"]),
        (json!({"ports": [{"port": 80, "targetPort": 65_536}]}), vec!["spec.ports[0].targetPort"]),
        (json!({"ports": [{"port": 80, "protocol": "HTTP"}]}), vec!["spec.ports[0].protocol"]),
        (json!({"ports": [http, {"port": 81}]}), vec!["spec.ports[1].name"]),
        (json!({"ports": [http, {"name": "a", "port": 81}]}), vec!["spec.ports[1].name"]),
        (json!({"ports": [http, {"name": "b", "port": 80}]}), vec!["spec.ports[1]"]),
        (json!({"ports": [{"name": "A b", "port": 80}]}), vec!["spec.ports[0].name"]),
        (json!({"ports": [{"port": "http"}]}), vec!["spec.ports[0].port"]),
    ] {
        assert_eq!(faults(service(&spec)), expected, "{spec}");
    }
    let mut numbered = service(&json!({"ports": [http]}));
    numbered["metadata"]["name"] = json!("1a");
    assert_eq!(faults(numbered), ["metadata.name"]);
}

#[test]
fn strangers_are_named() {
    let admitted = admit(service(&json!({"ports": [{"port": 80, "appProtokol": "h2c"}]}))).unwrap();
    assert_eq!(admitted.warnings[0].field, "spec.ports[0].appProtokol");
}

#[test]
fn endpoint_slices_are_completed_and_checked() {
    let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
    let fine = slice(&json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 80}]}));
    assert_eq!(admit(fine).unwrap().object["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    for (rest, expected) in [
        (json!({"addressType": "IPv5", "endpoints": []}), vec!["addressType"]),
        (json!({"endpoints": []}), vec!["addressType"]),
        (json!({"addressType": "IPv6", "endpoints": endpoints}), vec!["endpoints[0].addresses[0]"]),
        (json!({"addressType": "IPv6", "endpoints": [{"addresses": ["::1"]}]}), vec![]),
        (json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example.com", "_"]}]}), vec!["endpoints[0].addresses[1]"]),
        (json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}), vec!["endpoints[0].addresses"]),
        (json!({"addressType": "IPv4", "endpoints": [], "ports": [{}, {"port": 0}]}), vec!["ports[1].port", "ports[1].name"]),
    ] {
        assert_eq!(faults(slice(&rest)), expected, "{rest}");
    }
}

#[test]
fn secrets_are_completed_and_checked() {
    let admitted = admit(secret(&json!({"stringData": {"a": "hello", "b": "x"}, "data": {"a": "AA=="}}))).unwrap().object;
    assert_eq!(admitted["data"], json!({"a": "aGVsbG8=", "b": "eA=="}));
    assert_eq!((admitted["type"].as_str(), admitted.get("stringData")), (Some("Opaque"), None));
    for (rest, expected) in [
        (json!({"type": "kubernetes.io/tls"}), vec!["data[tls.crt]", "data[tls.key]"]),
        (json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": "", "tls.key": ""}}), vec![]),
        (json!({"data": {"a/b": ""}}), vec!["data[a/b]"]),
        (json!({"data": {"..": ""}}), vec!["data[..]"]),
        (json!({"data": {"a": "not base64!"}}), vec!["data.a"]),
        (json!({"data": {"a": "A".repeat(2 << 20)}}), vec!["data"]),
        (json!({"stringData": {"a": 5}}), vec!["stringData.a"]),
    ] {
        let said = faults(secret(&rest));
        assert_eq!(said, expected, "{}", &rest.to_string()[..rest.to_string().len().min(80)]);
    }
}

#[test]
fn namespaces_carry_their_name_as_a_label() {
    let admitted = admit(object("v1", "Namespace", &json!({}))).unwrap().object;
    assert_eq!(admitted["metadata"], json!({"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}}));
}

#[test]
fn config_maps_are_checked() {
    let half = "x".repeat(600 * 1024);
    for (content, expected) in [
        (json!({"data": {"ca.crt": "x"}}), &[] as &[&str]),
        (json!({"binaryData": {"ca.crt": "AA=="}}), &[]),
        (json!({"data": {"ca.crt": "x"}, "binaryData": {"other": "AA=="}, "immutable": true}), &[]),
        (json!({"data": {"a b": "x"}}), &["data[a b]"]),
        (json!({"binaryData": {"..": "AA=="}}), &["binaryData[..]"]),
        (json!({"data": {"ca.crt": "x"}, "binaryData": {"ca.crt": "AA=="}}), &["data[ca.crt]"]),
        (json!({"data": {"a": half}}), &[]),
        (json!({"data": {"a": half, "b": half}}), &[""]),
        (json!({"binaryData": {"ca.crt": "no base64"}}), &["binaryData.ca.crt"]),
        (json!({"data": {"ca.crt": 5}}), &["data.ca.crt"]),
    ] {
        let said = faults(object("v1", "ConfigMap", &content));
        assert_eq!(said, expected, "{}", &content.to_string()[..content.to_string().len().min(80)]);
    }
}
