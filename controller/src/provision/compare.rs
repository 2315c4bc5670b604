//! An object as we apply it, and as the API server has it.

use serde_json::{Map, Value};

/// Whether `live` has all that `wanted` says. It may have more: fields of others, defaults, status.
pub(super) fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| match live.get(key) {
            Some(live) => contains(live, wanted),
            None => is_empty(wanted),
        }),
        (Value::Array(live), Value::Array(wanted)) => wanted.iter().all(|wanted| live.iter().any(|live| contains(live, wanted))),
        (live, wanted) => live == wanted,
    }
}

/// What `live` has at the places that `wanted` names. After an apply this is how the API server writes what was applied: `1000m` of CPU
/// becomes `1`. As long as it stays the same, nobody has edited it.
pub(super) fn project(live: &Value, wanted: &Value) -> Value {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            let fields = wanted.iter().filter_map(|(key, wanted)| Some((key.clone(), project(live.get(key)?, wanted))));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        (Value::Array(live), Value::Array(wanted)) if live.len() == wanted.len() => {
            Value::Array(live.iter().zip(wanted).map(|(live, wanted)| project(live, wanted)).collect())
        }
        (live, _) => live.clone(),
    }
}

/// The API server leaves empty maps and lists out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_contained() {
        for (live, wanted, expected) in [
            (json!({"a": 1, "b": 2}), json!({"a": 1}), true),
            (json!({"a": 2}), json!({"a": 1}), false),
            (json!({"b": 1}), json!({"a": 1}), false),
            (json!({"b": 1}), json!({"a": {}, "c": []}), true),
            (json!({"p": [{"port": 1, "nodePort": 9}, {"port": 2}]}), json!({"p": [{"port": 2}, {"port": 1}]}), true),
            (json!({"p": [{"port": 1}]}), json!({"p": [{"port": 1}, {"port": 2}]}), false),
            (json!({"drop": ["ALL"]}), json!({"drop": ["ALL"]}), true),
        ] {
            assert_eq!(contains(&live, &wanted), expected, "{live} {wanted}");
        }
    }

    #[test]
    fn projection_tells_an_edit_from_another_spelling() {
        let wanted = json!({"cpu": "1000m", "list": [{"port": 1}]});
        let applied = json!({"cpu": "1", "list": [{"port": 1, "protocol": "TCP"}], "status": 1});
        let later = json!({"cpu": "1", "list": [{"port": 1, "protocol": "TCP"}], "status": 2});
        let edited = json!({"cpu": "2", "list": [{"port": 1, "protocol": "TCP"}], "status": 2});
        assert_eq!(project(&applied, &wanted), json!({"cpu": "1", "list": [{"port": 1}]}));
        assert_eq!(project(&later, &wanted), project(&applied, &wanted));
        assert_ne!(project(&edited, &wanted), project(&applied, &wanted));
    }
}
