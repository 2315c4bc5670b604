//! JSON of a pod -> JSON of the pod with a sidecar, or why it has none.
//!
//! Two init containers come first: one redirects the pod's TCP to the sidecar and ends, the other one is the sidecar and stays
//! (`restartPolicy: Always`). Probes of the kubelet, and what Prometheus is told to scrape, lead to the sidecar, which asks the application
//! for them: the kubelet has no certificate.
//!
//! Fields that are not touched stay as they are, those that Isthmus does not know among them.

#![forbid(unsafe_code)]

mod annotations;
mod check;
mod choice;
mod containers;
mod outcome;
mod patch;
mod pod;
mod probes;
mod scrape;
mod template;
#[cfg(test)]
mod tests;
mod version;

use serde_json::{Map, Value, json};

pub use isthmus_api::pod::{INJECTED, PROXY, REDIRECT};
pub use outcome::{Outcome, Refusal, Skip};
pub use patch::patch;
pub use template::inject_object;
pub use version::{KubernetesVersion, NotAVersion};

/// Label of a namespace; label or annotation of a pod, which wins: `enabled` or `disabled`.
pub const INJECT: &str = "isthmus.dev/inject";
/// The user and group that the sidecar runs as, whose connections are not redirected: clear of 65532 (distroless), 1337 (Istio) and
/// 2102 (Linkerd).
pub const UID: u32 = 15420;
/// Ports that the sidecar takes in the pod: outbound, inbound, admin.
pub const PORTS: [u16; 3] = [15421, 15422, ADMIN];
/// `/readyz`, `/probe/<index>`, `/app-metrics` of the sidecar.
const ADMIN: u16 = 15423;

/// What every sidecar has in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Goes into [`INJECTED`].
    pub version: String,
    /// The sidecar's image.
    pub proxy: Image,
    /// The image of the container that redirects.
    pub redirect: Image,
    /// Where sidecars find the controller: `host:port`.
    pub controller: String,
    /// PEM: the certificates of the authorities by which they know it.
    pub ca: String,
    /// What the sidecar logs: a level or a filter.
    pub log: String,
    /// `resources` of both containers, as in a pod.
    pub resources: Value,
    /// The version of the API server; none: unknown, and not looked at.
    pub kubernetes: Option<KubernetesVersion>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name, in full.
    pub name: String,
    /// When nodes pull it, as in a pod.
    pub pull_policy: String,
}

/// Gives a pod its sidecar. `namespace` is the pod's Namespace; of it only the label [`INJECT`] is read.
pub fn inject(pod: &Value, namespace: &Value, settings: &Settings) -> Outcome {
    match try_inject(pod, namespace, settings) {
        Ok(Ok(pod)) => Outcome::Patched(pod),
        Ok(Err(skip)) => Outcome::Skipped(skip),
        Err(refusal) => Outcome::Refused(refusal),
    }
}

/// A Namespace whose pods get a sidecar unless they say otherwise: for callers who know that it is one.
pub fn enabled_namespace() -> Value {
    json!({ "metadata": { "labels": { (INJECT): "enabled" } } })
}

fn try_inject(pod: &Value, namespace: &Value, settings: &Settings) -> Result<Result<Value, Skip>, Refusal> {
    if let Some(skip) = choice::skip(pod, namespace)? {
        return Ok(Err(skip));
    }
    check::check(pod, settings)?;
    let annotations = annotations::read(pod)?;
    let mut pod = pod.clone();
    let probes = probes::rewrite(&mut pod)?;
    let scrape = scrape::rewrite(&mut pod);
    let proxy = containers::proxy(settings, &annotations, (&probes, scrape.as_ref()));
    let own = [containers::redirect(settings, &annotations), proxy];
    list(&mut pod, "initContainers").splice(0..0, own);
    list(&mut pod, "volumes").extend(containers::volumes());
    object(object(&mut pod, "metadata"), "annotations")[INJECTED] = settings.version.as_str().into();
    Ok(Ok(pod))
}

/// A list of the pod's spec, made if it is not there.
fn list<'p>(pod: &'p mut Value, name: &str) -> &'p mut Vec<Value> {
    let list = &mut object(pod, "spec")[name];
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    match list {
        Value::Array(items) => items,
        _ => unreachable!("it was made a list"),
    }
}

/// A field that is an object, made if it is not there.
fn object<'p>(value: &'p mut Value, name: &str) -> &'p mut Value {
    let field = &mut value[name];
    if !field.is_object() {
        *field = Value::Object(Map::new());
    }
    field
}
