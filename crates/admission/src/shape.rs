//! Defaults in, unknown fields and nulls out.

use serde_json::{Map, Value};

use crate::Finding;
use crate::path::Path;
use crate::schema::Schema;

/// Adds what is absent and has a default, and drops what the schema neither has nor keeps (with a warning) and what is null (without: a null
/// is an absent field). Values of another type than the schema's are left for validation to find.
pub(crate) fn complete(object: &mut Map<String, Value>, schema: &Schema, path: &Path<'_>, warnings: &mut Vec<Finding>) {
    for (name, property) in &schema.properties {
        if let Some(default) = &property.default
            && object.get(name).is_none_or(Value::is_null)
        {
            object.insert(name.clone(), default.clone());
        }
    }
    if let Some(values) = &schema.additional_properties {
        for (key, value) in object.iter_mut() {
            within(value, values, &path.key(key), warnings);
        }
        return;
    }
    object.retain(|name, value| {
        let Some(property) = schema.properties.get(name) else {
            if schema.keeps_unknown_fields {
                return true;
            }
            warnings.push(path.field(name).says("unknown field: dropped, because this kind does not have it"));
            return false;
        };
        within(value, property, &path.field(name), warnings);
        !value.is_null()
    });
}

fn within(value: &mut Value, schema: &Schema, path: &Path<'_>, warnings: &mut Vec<Finding>) {
    match value {
        Value::Object(object) => complete(object, schema, path, warnings),
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for (index, item) in items.iter_mut().enumerate() {
                    within(item, schema, &path.index(index), warnings);
                }
            }
        }
        _ => {}
    }
}
