//! Structural validation: what a schema says of one value, without CEL.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value};

use crate::Finding;
use crate::path::Path;
use crate::schema::{Format, Schema, Type};

/// A fault, and whether it is of the sort that keeps an API server from evaluating CEL rules (which expect the shape to be right).
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) finding: Finding,
    pub(crate) blocks: bool,
}

/// Every fault of an object.
pub(crate) fn object(object: &Map<String, Value>, schema: &Schema) -> Vec<Fault> {
    let mut faults = Vec::new();
    fields(object, schema, &Path::Root, &mut faults);
    faults
}

fn value(value: &Value, schema: &Schema, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let either = if schema.int_or_string { &[Type::Integer, Type::String][..] } else { &[] };
    let expected = schema.r#type.as_ref().map_or(either, std::slice::from_ref);
    if !expected.is_empty() && !expected.iter().any(|expected| expected.is_of(value)) {
        let is = type_name(value);
        let names = expected.iter().map(|expected| expected.name()).collect::<Vec<_>>().join(",");
        let why = format!("{path} in body must be of type {names}: \"{is}\"");
        faults.push(blocking(path.says(format!("Invalid value: \"{is}\": {why}"))));
        return;
    }
    if !schema.r#enum.is_empty() && !schema.r#enum.contains(value) {
        faults.push(blocking(path.unsupported(value, schema.r#enum.iter())));
    }
    match value {
        Value::Object(object) => fields(object, schema, path, faults),
        Value::Array(array) => items(array, schema, path, faults),
        Value::String(string) => text(string, schema, path, faults),
        Value::Number(_) => number(value, schema, path, faults),
        Value::Bool(_) | Value::Null => {}
    }
    combinations(value, schema, path, faults);
}

fn fields(object: &Map<String, Value>, schema: &Schema, path: &Path<'_>, faults: &mut Vec<Fault>) {
    for name in &schema.required {
        if !object.contains_key(name) {
            faults.push(blocking(path.field(name).required("")));
        }
    }
    if let Some(max) = schema.max_properties
        && object.len() > max
    {
        faults.push(blocking(path.says(format!("Too many: {}: must have at most {max} items", object.len()))));
    }
    for (name, nested) in object {
        if let Some(property) = schema.properties.get(name) {
            value(nested, property, &path.field(name), faults);
        } else if let Some(values) = &schema.additional_properties {
            value(nested, values, &path.key(name), faults);
        }
    }
}

fn items(array: &[Value], schema: &Schema, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let count = array.len();
    if let Some(max) = schema.max_items
        && count > max
    {
        faults.push(blocking(path.says(format!("Too many: {count}: must have at most {max} items"))));
    }
    if let Some(min) = schema.min_items
        && count < min
    {
        let why = format!("{path} in body should have at least {min} items");
        faults.push(other(path.says(format!("Invalid value: {count}: {why}"))));
    }
    if let Some(schema) = &schema.items {
        for (index, item) in array.iter().enumerate() {
            value(item, schema, &path.index(index), faults);
        }
    }
}

fn text(string: &str, schema: &Schema, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut invalid =
        |why: String| faults.push(other(path.says(format!("Invalid value: {}: {path} in body {why}", quoted(string)))));
    if let Some(min) = schema.min_length
        && string.chars().count() < min
    {
        invalid(format!("should be at least {min} chars long"));
    }
    if let Some(pattern) = &schema.pattern
        && !pattern.is_match(string)
    {
        invalid(format!("should match '{}'", pattern.as_str()));
    }
    match schema.format {
        Some(Format::Ipv4) if string.parse::<Ipv4Addr>().is_err() => invalid("must be of type ipv4".to_owned()),
        Some(Format::Ipv6) if string.parse::<Ipv6Addr>().is_err() => invalid("must be of type ipv6".to_owned()),
        _ => {}
    }
    if let Some(max) = schema.max_length
        && string.chars().count() > max
    {
        faults.push(blocking(path.says(format!("Too long: may not be more than {max} bytes"))));
    }
}

fn number(value: &Value, schema: &Schema, path: &Path<'_>, faults: &mut Vec<Fault>) {
    // What does not fit into i64 is above every maximum.
    let integer = value.as_i64().unwrap_or(i64::MAX);
    let mut invalid = |why: String| faults.push(other(path.invalid(value, &format!("{path} in body {why}"))));
    if let Some(min) = schema.minimum
        && integer < min
    {
        invalid(format!("should be greater than or equal to {min}"));
    }
    if let Some(max) = schema.maximum
        && integer > max
    {
        invalid(format!("should be less than or equal to {max}"));
    }
    if schema.format == Some(Format::Int32) && i32::try_from(integer).is_err() {
        invalid("must be of type int32".to_owned());
    }
    if schema.format == Some(Format::Int64) && !value.is_i64() {
        invalid("must be of type int64".to_owned());
    }
}

fn combinations(value: &Value, schema: &Schema, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let valid = |schema: &&Schema| is_valid(value, schema);
    let mut invalid = |why: String| {
        let why = format!("{path} in body {why}");
        faults.push(other(path.says(format!("Invalid value: \"{}\": {why}", type_name(value)))));
    };
    if !schema.any_of.is_empty() && !schema.any_of.iter().any(|schema| valid(&schema)) {
        invalid("must validate at least one schema (anyOf)".to_owned());
    }
    match schema.one_of.iter().filter(valid).count() {
        _ if schema.one_of.is_empty() => {}
        0 => invalid("must validate one and only one schema (oneOf). Found none valid".to_owned()),
        1 => {}
        count => invalid(format!("must validate one and only one schema (oneOf). Found {count} valid alternatives")),
    }
    if schema.not.as_deref().is_some_and(|schema| is_valid(value, schema)) {
        invalid("must not validate the schema (not)".to_owned());
    }
}

fn is_valid(nested: &Value, schema: &Schema) -> bool {
    let mut faults = Vec::new();
    value(nested, schema, &Path::Root, &mut faults);
    faults.is_empty()
}

fn blocking(finding: Finding) -> Fault {
    Fault { finding, blocks: true }
}

fn other(finding: Finding) -> Fault {
    Fault { finding, blocks: false }
}

fn quoted(text: &str) -> Value {
    Value::String(text.to_owned())
}

impl Type {
    fn is_of(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Boolean => value.is_boolean(),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    }
}
