//! Objects that pods are made of.

use serde_json::Value;

use crate::{Outcome, Settings, inject};

/// Where pod templates are: of most kinds, of a CronJob, of a PodTemplate.
const TEMPLATES: [&str; 3] = ["/spec/template", "/spec/jobTemplate/spec/template", "/template"];

/// [`inject`] for a Pod, and for the pod template of any other object, whatever its kind is. None: it makes no pods.
pub fn inject_object(object: &Value, namespace: &Value, settings: &Settings) -> Option<Outcome> {
    if object.get("kind").and_then(Value::as_str) == Some("Pod") {
        return Some(inject(object, namespace, settings));
    }
    let has_containers = |at: &&str| object.pointer(&format!("{at}/spec/containers")).is_some_and(Value::is_array);
    let at = TEMPLATES.into_iter().find(has_containers)?;
    Some(match inject(object.pointer(at)?, namespace, settings) {
        Outcome::Patched(pod) => {
            let mut object = object.clone();
            if let Some(template) = object.pointer_mut(at) {
                *template = pod;
            }
            Outcome::Patched(object)
        }
        outcome @ (Outcome::Skipped(_) | Outcome::Refused(_)) => outcome,
    })
}
