//! What every schema says of conditions, and of lists that controllers share: a status -> what is wrong with it.

use serde_json::Value;

/// The first fault, in the words of an API server. Only lists named `conditions`, `parents` and `ancestors` are looked at, wherever they
/// are.
pub(super) fn fault(status: &Value) -> Option<String> {
    walk(status, "status")
}

fn walk(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(object) => object.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            let own = value.as_array().filter(|_| key == "conditions").and_then(|list| conditions(list, &path));
            own.or_else(|| too_many(key, value, &path)).or_else(|| walk(value, &path))
        }),
        Value::Array(list) => list.iter().enumerate().find_map(|(index, value)| walk(value, &format!("{path}[{index}]"))),
        _ => None,
    }
}

/// The lists of the Gateway API's statuses that hold what several controllers write.
fn too_many(key: &str, value: &Value, path: &str) -> Option<String> {
    let most = match key {
        "parents" => 32,
        "ancestors" => 16,
        _ => return None,
    };
    let found = value.as_array()?.len();
    (found > most).then(|| format!("{path}: Too many: {found}: must have at most {most} items"))
}

fn conditions(list: &[Value], path: &str) -> Option<String> {
    for (index, condition) in list.iter().enumerate() {
        let at = |field: &str| format!("{path}[{index}].{field}");
        let text = |field: &str| condition[field].as_str();
        let Some(kind) = text("type") else { return Some(format!("{}: Required value", at("type"))) };
        if list[..index].iter().any(|other| other["type"] == kind) {
            return Some(format!("{path}[{index}]: Duplicate value: {{\"type\":\"{kind}\"}}"));
        }
        if !text("status").is_some_and(|status| ["True", "False", "Unknown"].contains(&status)) {
            let found = &condition["status"];
            return Some(format!(
                "{}: Unsupported value: {found}: supported values: \"True\", \"False\", \"Unknown\"",
                at("status")
            ));
        }
        if !text("reason").is_some_and(is_reason) && !is_built_in(condition) {
            return Some(format!("{}: Invalid value: {}: should match a CamelCase word", at("reason"), condition["reason"]));
        }
        if text("message").is_some_and(|message| message.len() > 32_768) {
            return Some(format!("{}: Too long: may not be more than 32768 bytes", at("message")));
        }
        let transition = text("lastTransitionTime").and_then(|time| time.parse::<jiff::Timestamp>().ok());
        if transition.is_none() && !is_built_in(condition) {
            return Some(format!("{}: Required value", at("lastTransitionTime")));
        }
    }
    None
}

/// Conditions of Deployments and pods may leave out most of it.
fn is_built_in(condition: &Value) -> bool {
    ["Available", "Progressing", "Ready", "ContainersReady", "Established", "NamesAccepted"]
        .iter()
        .any(|kind| condition["type"] == *kind)
}

fn is_reason(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 1024
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(word)
        && text.chars().all(|c| word(c) || ",:".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_checked() {
        let condition = |change: Value| {
            let mut condition = json!({
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-11-25T09:00:00Z",
            });
            json_patch::merge(&mut condition, &change);
            condition
        };
        for (list, expected) in [
            (vec![condition(json!({}))], None),
            (vec![condition(json!({"type": null}))], Some("status.parents[0].conditions[0].type: Required value")),
            (vec![condition(json!({"status": "Yes"}))], Some("Unsupported value: \"Yes\"")),
            (vec![condition(json!({"reason": "no word"}))], Some("Invalid value: \"no word\"")),
            (vec![condition(json!({"lastTransitionTime": null}))], Some("lastTransitionTime: Required value")),
            (vec![condition(json!({})), condition(json!({}))], Some("Duplicate value")),
        ] {
            let found = fault(&json!({"parents": [{"conditions": list}]}));
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
        for (field, most) in [("parents", 32), ("ancestors", 16)] {
            let full = |length: usize| fault(&json!({field: vec![json!({"conditions": [condition(json!({}))]}); length]}));
            assert_eq!(full(most), None);
            assert_eq!(full(most + 1), Some(format!("status.{field}: Too many: {}: must have at most {most} items", most + 1)));
        }
    }
}
