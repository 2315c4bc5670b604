//! Pod: who it is. Its status stays, since where it is stands there and nobody else would say it.

use serde_json::{Map, Value, json};

use super::default_to;
use crate::Finding;
use crate::path::Path;

/// An account that is not named is the one that every namespace has.
pub(super) fn admit(pod: &mut Map<String, Value>, findings: &mut Vec<Finding>) {
    let path = Path::Root.field("spec");
    match pod.get_mut("spec").and_then(Value::as_object_mut) {
        Some(spec) => {
            if spec.get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
                findings.push(path.field("containers").required(""));
            }
            default_to(spec, "serviceAccountName", || json!("default"));
        }
        None => findings.push(path.required("")),
    }
}
