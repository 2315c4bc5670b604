//! What a real server fills into the built-in kinds that a controller makes, so that a comparison with what was applied finds more there.

use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::kinds::Resource;

/// Fills in what the object leaves out. `old` is the object before, if there was one; `number` differs from write to write.
///
/// # Errors
/// Why a field that must not change did.
pub(super) fn fill(resource: &Resource, old: Option<&Value>, object: &mut Value, number: u64) -> Result<(), String> {
    match resource.kind.as_str() {
        "Service" => service(old, object, number),
        "Deployment" | "DaemonSet" => deployment(old, object)?,
        "HorizontalPodAutoscaler" => default(object, "/spec", "minReplicas", || json!(1)),
        _ => {}
    }
    Ok(())
}

fn default(object: &mut Value, at: &str, field: &str, value: impl FnOnce() -> Value) {
    if let Some(Value::Object(map)) = object.pointer_mut(at)
        && !map.contains_key(field)
    {
        map.insert(field.to_owned(), value());
    }
}

fn service(old: Option<&Value>, service: &mut Value, number: u64) {
    let kept = |field: &str| old.and_then(|old| old["spec"].get(field)).cloned();
    let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    if kind == "ExternalName" {
        return;
    }
    let [_, _, high, low] = u32::try_from(number).unwrap_or_default().to_be_bytes();
    default(service, "/spec", "clusterIP", || kept("clusterIP").unwrap_or_else(|| json!(Ipv4Addr::new(10, 96, high, low))));
    let address = service["spec"]["clusterIP"].clone();
    for (field, value) in [
        ("clusterIPs", json!([address])),
        ("sessionAffinity", json!("None")),
        ("ipFamilies", json!(["IPv4"])),
        ("ipFamilyPolicy", json!("SingleStack")),
        ("internalTrafficPolicy", json!("Cluster")),
    ] {
        default(service, "/spec", field, || value);
    }
    if kind == "LoadBalancer" {
        default(service, "/spec", "allocateLoadBalancerNodePorts", || json!(true));
    }
    if ["LoadBalancer", "NodePort"].contains(&kind.as_str()) {
        default(service, "/spec", "externalTrafficPolicy", || json!("Cluster"));
        if service["spec"]["allocateLoadBalancerNodePorts"] != false {
            node_ports(old, service, number);
        }
    }
}

/// Ports keep their node port; new ones get one that is free.
fn node_ports(old: Option<&Value>, service: &mut Value, number: u64) {
    let before = old.and_then(|old| old["spec"]["ports"].as_array()).cloned().unwrap_or_default();
    for (index, port) in service["spec"]["ports"].as_array_mut().into_iter().flatten().enumerate() {
        let same = before.iter().find(|one| one["port"] == port["port"] && one["protocol"] == port["protocol"]);
        let node_port = same.and_then(|one| one.get("nodePort")).cloned();
        let free = 30_000 + (number * 8 + index as u64) % 2_768;
        if port["nodePort"].is_null() || port["nodePort"] == 0 {
            port["nodePort"] = node_port.unwrap_or_else(|| json!(free));
        }
    }
}

fn deployment(old: Option<&Value>, deployment: &mut Value) -> Result<(), String> {
    let is_deployment = deployment["kind"] == "Deployment";
    if let Some(old) = old
        && old["spec"]["selector"] != deployment["spec"]["selector"]
    {
        return Err(format!("spec.selector: Invalid value: {}: field is immutable", deployment["spec"]["selector"]));
    }
    let labels = deployment["spec"]["template"]["metadata"]["labels"].clone();
    let selected = deployment["spec"]["selector"]["matchLabels"].as_object();
    if !selected
        .is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    {
        return Err(format!(
            "spec.template.metadata.labels: Invalid value: {labels}: `selector` does not match template `labels`"
        ));
    }
    default(deployment, "/spec", "revisionHistoryLimit", || json!(10));
    if is_deployment {
        default(deployment, "/spec", "replicas", || json!(1));
        default(deployment, "/spec", "progressDeadlineSeconds", || json!(600));
        default(
            deployment,
            "/spec",
            "strategy",
            || json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}),
        );
    }
    if let Some(Value::Object(template)) = deployment.pointer_mut("/spec/template/spec") {
        pod(template);
    }
    Ok(())
}

fn pod(pod: &mut Map<String, Value>) {
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
    ] {
        pod.entry(field).or_insert(value);
    }
    if let Some(account) = pod.get("serviceAccountName").cloned() {
        pod.entry("serviceAccount").or_insert(account);
    }
    for list in ["containers", "initContainers"] {
        for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(container) = container {
                complete_container(container);
            }
        }
    }
    for volume in pod.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        for kind in ["/configMap", "/secret", "/projected"] {
            default(volume, kind, "defaultMode", || json!(420));
        }
        for source in volume.pointer_mut("/projected/sources").and_then(Value::as_array_mut).into_iter().flatten() {
            default(source, "/serviceAccountToken", "expirationSeconds", || json!(3600));
        }
    }
}

fn complete_container(container: &mut Map<String, Value>) {
    for (field, value) in [
        ("resources", json!({})),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("imagePullPolicy", json!("IfNotPresent")),
    ] {
        container.entry(field).or_insert(value);
    }
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        default(port, "", "protocol", || json!("TCP"));
    }
    for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        default(variable, "/valueFrom/fieldRef", "apiVersion", || json!("v1"));
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe) else { continue };
        for (field, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
            default(probe, "", field, || json!(value));
        }
        default(probe, "/httpGet", "scheme", || json!("HTTP"));
    }
}
