//! Reading a pod's JSON. What is absent, or not of its type, reads as nothing.

use serde_json::Value;

/// The value of a label or annotation.
pub(crate) fn note<'p>(pod: &'p Value, of: &str, key: &str) -> Option<&'p str> {
    pod.get("metadata")?.get(of)?.get(key)?.as_str()
}

/// The value of an annotation.
pub(crate) fn annotation<'p>(pod: &'p Value, key: &str) -> Option<&'p str> {
    note(pod, "annotations", key)
}

/// The items of a list in the spec.
pub(crate) fn items<'p>(pod: &'p Value, list: &str) -> &'p [Value] {
    pod.get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// All containers, in the order in which they start.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    items(pod, "initContainers").iter().chain(items(pod, "containers"))
}

/// The name of a container or volume.
pub(crate) fn name(item: &Value) -> &str {
    item.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The ports that a container declares, with their names: those of TCP.
pub(crate) fn ports(container: &Value) -> impl Iterator<Item = (&str, u64)> {
    let ports = container.get("ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_tcp = |port: &&Value| port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP");
    ports.iter().filter(is_tcp).filter_map(|port| Some((name(port), port.get("containerPort")?.as_u64()?)))
}
