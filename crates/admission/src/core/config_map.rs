//! ConfigMap: texts and bytes, with the same rules for keys and size.

use serde_json::{Map, Value, json};

use super::secret::{BYTES, check_keys};
use crate::Finding;
use crate::path::Path;

/// Keys are file names, each in one of the two places; together they have a limit.
pub(super) fn admit(object: &Map<String, Value>, findings: &mut Vec<Finding>) {
    check_keys(object, "data", findings);
    check_keys(object, "binaryData", findings);
    let entries = |field: &str| object.get(field).and_then(Value::as_object).into_iter().flatten();
    let path = Path::Root.field("data");
    let twice = entries("data").filter(|(key, _)| entries("binaryData").any(|(other, _)| other == *key));
    findings.extend(twice.map(|(key, _)| path.key(key).invalid(&json!(key), "duplicate of key present in binaryData")));
    let texts: usize = entries("data").map(|(_, text)| text.as_str().map_or(0, str::len)).sum();
    // Base64 makes three bytes four.
    let bytes: usize = entries("binaryData").map(|(_, text)| text.as_str().map_or(0, str::len) / 4 * 3).sum();
    if texts + bytes > BYTES {
        findings.push(Path::Root.says(format!("Too long: may not be more than {BYTES} bytes")));
    }
}
