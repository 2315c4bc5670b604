//! Secret, and the keys of a ConfigMap.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::default_to;
use crate::Finding;
use crate::path::Path;

/// What a Secret or a ConfigMap may have at most.
pub(super) const BYTES: usize = 1024 * 1024;

/// `stringData` becomes `data`; a `kubernetes.io/tls` Secret has to have both of its keys.
pub(super) fn admit(secret: &mut Map<String, Value>, findings: &mut Vec<Finding>) {
    default_to(secret, "type", || json!("Opaque"));
    if let Some(Value::Object(texts)) = secret.remove("stringData") {
        let data = secret.entry("data").or_insert_with(|| json!({}));
        if let Value::Object(data) = data {
            data.extend(texts.into_iter().map(|(key, text)| (key, json!(STANDARD.encode(text.as_str().unwrap_or_default())))));
        }
    }
    check_keys(secret, "data", findings);
    let path = Path::Root.field("data");
    let data = secret.get("data").and_then(Value::as_object);
    // Base64 makes three bytes four.
    let bytes: usize = data.into_iter().flatten().map(|(_, value)| value.as_str().map_or(0, str::len) / 4 * 3).sum();
    if bytes > BYTES {
        findings.push(path.says(format!("Too long: may not be more than {BYTES} bytes")));
    }
    if secret.get("type").is_some_and(|of| of == "kubernetes.io/tls") {
        let missing = ["tls.crt", "tls.key"].into_iter().filter(|key| data.is_none_or(|data| !data.contains_key(*key)));
        findings.extend(missing.map(|key| path.key(key).required("")));
    }
}

/// What people write most often where base64 is wanted is plain text.
pub(super) fn explain(fault: Finding) -> Finding {
    if !fault.field.starts_with("data.") {
        return fault;
    }
    Finding { message: format!("{} It has to be base64; plain text belongs into `stringData`", fault.message), ..fault }
}

/// Keys of a Secret or ConfigMap could be file names.
pub(super) fn check_keys(object: &Map<String, Value>, field: &str, findings: &mut Vec<Finding>) {
    let path = Path::Root.field(field);
    for key in object.get(field).and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        let is_key = key.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
        if key.is_empty() || key.len() > 253 || !is_key || key == "." || key.starts_with("..") {
            let why =
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name' or 'KEY_NAME')";
            findings.push(path.key(key).invalid(&json!(key), why));
        }
    }
}
