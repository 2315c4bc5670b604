//! What an API server does to an object before it is stored.
//!
//! JSON of an object as somebody wrote it -> [`admit`] -> JSON of the object as a cluster would hold it, with what was dropped on the
//! way; or every reason why a cluster would refuse it. The kinds of the Gateway API and our own follow their CRDs (`schemas/`): defaults,
//! pruning, types, limits, list types and CEL rules. For the core kinds, what Isthmus reads of them is defaulted and checked.

#![forbid(unsafe_code)]

mod core;
mod crd;
mod finding;
mod lists;
mod metadata;
mod path;
mod rules;
mod schema;
mod shape;
mod typed;
mod validate;

pub use crd::NOT_ALL_CHECKED;
pub use finding::{Admitted, Finding};

use serde_json::Value;

use crate::path::Path;

/// Admits one object.
///
/// An object of a group, version or kind that Isthmus does not read comes back as it is: whoever decodes it can name it. Fields that an
/// API server sets and that a file may have from an export (`uid`, `creationTimestamp`, `generation`, ...) stay; `status` goes, but a
/// Pod's.
///
/// # Errors
/// Everything that is wrong with the object, in the words of an API server.
pub fn admit(value: Value) -> Result<Admitted, Vec<Finding>> {
    let Value::Object(mut object) = value else {
        return Err(vec![
            Path::Root.invalid(&value, "an object of the Kubernetes API is a mapping with apiVersion, kind and metadata"),
        ]);
    };
    let mut warnings = Vec::new();
    let missing: Vec<Finding> = ["apiVersion", "kind"]
        .into_iter()
        .filter(|field| object.get(*field).and_then(Value::as_str).is_none_or(str::is_empty))
        .map(|field| Path::Root.field(field).required(""))
        .collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    let api_version = text(&object, "apiVersion");
    let kind = text(&object, "kind");
    let findings = if let Some(crd) = schema::find(&api_version, &kind) {
        crd::admit(&mut object, &crd, &mut warnings)
    } else if let Some(kind) = core::Kind::find(&api_version, &kind) {
        core::admit(&mut object, kind, &mut warnings)
    } else {
        Vec::new()
    };
    if findings.is_empty() { Ok(Admitted { object: Value::Object(object), warnings }) } else { Err(findings) }
}

fn text(object: &serde_json::Map<String, Value>, field: &str) -> String {
    object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}
