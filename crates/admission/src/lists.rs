//! `x-kubernetes-list-type`: a set has no value twice, a map no key.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::Finding;
use crate::path::Path;
use crate::schema::{ListType, Schema};

/// Checks every list in the object.
pub(crate) fn check_object(object: &Map<String, Value>, schema: &Schema, findings: &mut Vec<Finding>) {
    fields(object, schema, &Path::Root, findings);
}

fn fields(object: &Map<String, Value>, schema: &Schema, path: &Path<'_>, findings: &mut Vec<Finding>) {
    for (name, value) in object {
        if let Some(property) = schema.properties.get(name) {
            check(value, property, &path.field(name), findings);
        } else if let Some(values) = &schema.additional_properties {
            check(value, values, &path.key(name), findings);
        }
    }
}

fn check(value: &Value, schema: &Schema, path: &Path<'_>, findings: &mut Vec<Finding>) {
    match value {
        Value::Object(object) => fields(object, schema, path, findings),
        Value::Array(items) => {
            if schema.list_type != ListType::Atomic && items.len() > 1 {
                unique(items, schema, path, findings);
            }
            if let Some(schema) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    check(item, schema, &path.index(index), findings);
                }
            }
        }
        _ => {}
    }
}

fn unique(items: &[Value], schema: &Schema, path: &Path<'_>, findings: &mut Vec<Finding>) {
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let key = match schema.list_type {
            ListType::Map => {
                let keys = schema.list_map_keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
                Value::Object(keys.collect())
            }
            ListType::Set | ListType::Atomic => item.clone(),
        };
        if !seen.insert(key.to_string()) {
            findings.push(path.index(index).duplicate(&key));
        }
    }
}
