//! What a webhook answers: the difference of two objects.

use serde_json::{Map, Value, json};

/// The JSON Patch (RFC 6902) that makes `after` of `before`, as far as they differ in a field of `metadata` or `spec`; a field is replaced
/// as a whole.
pub fn patch(before: &Value, after: &Value) -> Value {
    let mut operations = Vec::new();
    let none = Map::new();
    for part in ["metadata", "spec"] {
        let fields = |value: &Value| value.get(part).and_then(Value::as_object).unwrap_or(&none).clone();
        let known = fields(before);
        for (name, value) in fields(after) {
            if known.get(&name) != Some(&value) {
                // It replaces what is there, too.
                let path = format!("/{part}/{}", name.replace('~', "~0").replace('/', "~1"));
                operations.push(json!({ "op": "add", "path": path, "value": value }));
            }
        }
    }
    Value::Array(operations)
}
