//! Service.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{check_one_of, check_port, default_to, entries};
use crate::Finding;
use crate::metadata::Naming;
use crate::path::Path;

/// Ports get protocol and target port; names and ports have to be unique.
pub(super) fn admit(service: &mut Map<String, Value>, findings: &mut Vec<Finding>) {
    let path = Path::Root.field("spec");
    default_to(service, "spec", || json!({}));
    let Some(Value::Object(spec)) = service.get_mut("spec") else { return };
    default_to(spec, "type", || json!("ClusterIP"));
    check_one_of(spec, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &path, findings);

    let external = spec.get("type").is_some_and(|kind| kind == "ExternalName");
    if external && spec.get("externalName").and_then(Value::as_str).is_none_or(str::is_empty) {
        findings.push(path.field("externalName").required(""));
    }
    let headless = spec.get("clusterIP").is_some_and(|address| address == "None");
    let count = spec.get("ports").and_then(Value::as_array).map_or(0, Vec::len);
    if count == 0 && !external && !headless {
        findings.push(path.field("ports").required(""));
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let ports = path.field("ports");
    for (index, port) in entries(spec, "ports") {
        check(port, count > 1, &ports.index(index), &mut names, &mut numbers, findings);
    }
}

fn check(
    port: &mut Map<String, Value>,
    needs_name: bool,
    path: &Path<'_>,
    names: &mut BTreeSet<String>,
    numbers: &mut BTreeSet<String>,
    findings: &mut Vec<Finding>,
) {
    default_to(port, "protocol", || json!("TCP"));
    let number = port.get("port").cloned().unwrap_or_default();
    default_to(port, "targetPort", || number.clone());
    check_one_of(port, "protocol", &["TCP", "UDP", "SCTP"], path, findings);
    check_port(port, "port", path, findings);
    check_port(port, "targetPort", path, findings);
    match port.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) {
        Some(name) => {
            if let Some(why) = Naming::Label.fault(name) {
                findings.push(path.field("name").invalid(&json!(name), &why));
            }
            if !names.insert(name.to_owned()) {
                findings.push(path.field("name").duplicate(&json!(name)));
            }
        }
        None if needs_name => findings.push(path.field("name").required("a Service with several ports names each")),
        None => {}
    }
    let key = json!({"port": number, "protocol": port.get("protocol")});
    if !numbers.insert(key.to_string()) {
        findings.push(path.duplicate(&key));
    }
}
