//! Objects of a kind that a CRD defines.

use serde_json::{Map, Value, json};

use crate::path::Path;
use crate::schema::Found;
use crate::{Finding, lists, metadata, rules, shape, validate};

/// What is said besides the faults that kept the rest from being looked at.
pub const NOT_ALL_CHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete \
                       validation";

/// Defaults and prunes the object in place; says what is wrong with it.
pub(crate) fn admit(object: &mut Map<String, Value>, found: &Found, warnings: &mut Vec<Finding>) -> Vec<Finding> {
    let mut findings = Vec::new();
    // An API server drops it at creation, because it is a subresource.
    object.remove("status");
    metadata::admit(object, found.namespaced, metadata::Naming::Subdomain, &mut findings, warnings);
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.entry("generation").or_insert_with(|| json!(1));
    }
    // The schema says nothing about what is within `metadata`.
    let metadata = object.remove("metadata");
    shape::complete(object, found.schema, &Path::Root, warnings);

    let schema_findings = validate::object(object, found.schema);
    let blocked = schema_findings.iter().any(|fault| fault.blocks);
    findings.extend(schema_findings.into_iter().map(|fault| fault.finding));
    lists::check_object(object, found.schema, &mut findings);
    if blocked {
        findings.push(Path::Root.says(NOT_ALL_CHECKED));
    } else {
        rules::check(object, found.schema, &mut findings);
    }
    object.extend(metadata.map(|metadata| ("metadata".to_owned(), metadata)));
    findings
}

#[cfg(test)]
mod tests;
