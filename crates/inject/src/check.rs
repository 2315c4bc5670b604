//! What a pod with a sidecar must not have.

use serde_json::Value;

use crate::outcome::Refusal;
use crate::{INJECTED, KubernetesVersion, PORTS, PROXY, REDIRECT, Settings, UID, containers, pod};

/// Sidecars of other meshes.
const OTHERS: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// Finds the first thing that forbids a sidecar.
pub(crate) fn check(pod: &Value, settings: &Settings) -> Result<(), Refusal> {
    if let Some(version) = settings.kubernetes.filter(|version| *version < KubernetesVersion::OLDEST) {
        return Err(Refusal::Kubernetes(version));
    }
    if pod::items(pod, "containers").is_empty() {
        return Err(Refusal::NoContainers);
    }
    if pod::annotation(pod, INJECTED).is_some() {
        return Err(Refusal::Claim);
    }
    let runs_as = |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_u64) == Some(u64::from(UID));
    if pod.get("spec").is_some_and(runs_as) {
        return Err(Refusal::Uid("the pod (spec.securityContext)".to_owned()));
    }
    for container in pod::containers(pod) {
        let name = pod::name(container);
        if [PROXY, REDIRECT].contains(&name) {
            return Err(Refusal::Name { what: "container", name: name.to_owned() });
        }
        if OTHERS.contains(&name) {
            return Err(Refusal::OtherMesh(name.to_owned()));
        }
        if runs_as(container) {
            return Err(Refusal::Uid(format!("container `{name}`")));
        }
        let is_ours = |port: u64| PORTS.iter().any(|ours| u64::from(*ours) == port);
        if let Some((_, port)) = pod::ports(container).find(|(_, port)| is_ours(*port)) {
            return Err(Refusal::Port { container: name.to_owned(), port });
        }
    }
    let volumes = pod::items(pod, "volumes").iter().map(pod::name);
    if let Some(name) = volumes.into_iter().find(|name| [containers::TOKEN, containers::CONFIG].contains(name)) {
        return Err(Refusal::Name { what: "volume", name: name.to_owned() });
    }
    if pod.pointer("/spec/dnsPolicy").and_then(Value::as_str) == Some("Default") {
        return Err(Refusal::Dns);
    }
    Ok(())
}
