//! Whether a pod gets a sidecar at all.

use serde_json::Value;

use crate::outcome::{Refusal, Skip};
use crate::{INJECT, INJECTED, PROXY, pod};

/// Labels of the pods of a Gateway: they are no workloads, but clients of them with an identity of their own.
const GATEWAY: (&str, &str) = ("app.kubernetes.io/name", "isthmus-gateway");
/// What the kubelet annotates the images of its static pods with.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Why the pod gets none; none: it gets one.
pub(crate) fn skip(pod: &Value, namespace: &Value) -> Result<Option<Skip>, Refusal> {
    let label = wish(pod::note(pod, "labels", INJECT))?;
    let annotation = wish(pod::annotation(pod, INJECT))?;
    if label.zip(annotation).is_some_and(|(label, annotation)| label != annotation) {
        return Err(Refusal::Contradiction);
    }
    match label.or(annotation) {
        Some(false) => return Ok(Some(Skip::OptedOut)),
        None if pod::note(namespace, "labels", INJECT) != Some("enabled") => return Ok(Some(Skip::NotAsked)),
        Some(true) | None => {}
    }
    let spec = |pointer: &str| pod.get("spec").and_then(|spec| spec.pointer(pointer));
    let has_proxy = pod::containers(pod).any(|container| pod::name(container) == PROXY);
    let skips = [
        (pod::annotation(pod, INJECTED).is_some() && has_proxy, Skip::AlreadyInjected),
        (spec("/hostNetwork").and_then(Value::as_bool) == Some(true), Skip::HostNetwork),
        (pod::annotation(pod, MIRROR).is_some(), Skip::Static),
        (spec("/os/name").and_then(Value::as_str) == Some("windows"), Skip::Windows),
        (pod::note(pod, "labels", GATEWAY.0) == Some(GATEWAY.1), Skip::Gateway),
    ];
    Ok(skips.into_iter().find(|(applies, _)| *applies).map(|(_, skip)| skip))
}

fn wish(value: Option<&str>) -> Result<Option<bool>, Refusal> {
    match value {
        None => Ok(None),
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        Some(other) => Err(Refusal::Choice(other.to_owned())),
    }
}
