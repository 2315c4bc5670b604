//! Server-side apply: the object as it is, what managers applied before and what one applies now -> the object as it becomes.
//!
//! Ownership is what managers have applied, field by field. A plain update or patch owns nothing here, so applying over one is no
//! conflict; between managers that apply, it is.

use serde_json::{Map, Value, json};

use super::store::Applied;

/// How the entries of a list are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListKind {
    /// The list is one value.
    Atomic,
    /// Each entry is a value of its own.
    Set,
    /// These fields name an entry.
    Keyed(&'static [&'static str]),
}

/// Merges what `manager` applies. `live` has no managed part taken away that another manager applied too.
///
/// # Errors
/// The fields that another manager has applied with another value, unless `force`.
pub(super) fn apply(
    live: &Value,
    applied: &Applied,
    manager: &(String, String),
    config: &Value,
    force: bool,
) -> Result<Value, Vec<String>> {
    let others: Vec<&Value> = applied.iter().filter(|(other, _)| *other != manager).map(|(_, config)| config).collect();
    if !force {
        let strangers = applied.iter().filter(|(other, _)| other.0 != manager.0);
        let conflicts: Vec<String> = strangers.flat_map(|((name, _), theirs)| conflicts(live, config, theirs, name)).collect();
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
    }
    let mut result = live.clone();
    if let Some(before) = applied.get(manager) {
        prune(&mut result, before, Some(config), &others, "");
    }
    merge(&mut result, config, "");
    Ok(result)
}

/// What of a configuration is owned: no identity, no preconditions.
pub(super) fn owned_part(mut config: Value) -> Value {
    if let Value::Object(object) = &mut config {
        object.remove("apiVersion");
        object.remove("kind");
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.retain(|field, _| ["labels", "annotations", "finalizers", "ownerReferences"].contains(&field.as_str()));
        }
    }
    config
}

fn conflicts(live: &Value, config: &Value, theirs: &Value, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect_conflicts(live, config, theirs, "", "", &mut found);
    found.into_iter().map(|path| format!("conflict with \"{name}\": {path}")).collect()
}

fn collect_conflicts(live: &Value, config: &Value, theirs: &Value, field: &str, path: &str, found: &mut Vec<String>) {
    match (config, theirs) {
        (Value::Object(config), Value::Object(theirs)) => {
            for (key, value) in config {
                if let Some(their) = theirs.get(key) {
                    let live = live.get(key).unwrap_or(&Value::Null);
                    collect_conflicts(live, value, their, key, &format!("{path}.{key}"), found);
                }
            }
        }
        (Value::Array(config), Value::Array(theirs)) => match list_kind(field, config) {
            ListKind::Keyed(keys) => {
                for item in config {
                    if let Some(their) = find(theirs, item, keys) {
                        let live = live.as_array().and_then(|live| find(live, item, keys)).unwrap_or(&Value::Null);
                        collect_conflicts(live, item, their, "", &format!("{path}[{}]", identity(item, keys)), found);
                    }
                }
            }
            ListKind::Set => {}
            ListKind::Atomic => found.extend((*live != Value::Array(config.clone())).then(|| path.to_owned())),
        },
        (config, _) => found.extend((live != config).then(|| path.to_owned())),
    }
}

/// Takes away what was applied `before`, is not applied `now`, and is applied by none of the `others`.
fn prune(live: &mut Value, before: &Value, now: Option<&Value>, others: &[&Value], field: &str) {
    match (live, before) {
        (Value::Object(live), Value::Object(before)) => {
            for (key, was) in before {
                let now = now.and_then(|now| now.get(key));
                let others: Vec<&Value> = others.iter().filter_map(|other| other.get(key)).collect();
                let Some(value) = live.get_mut(key) else { continue };
                prune(value, was, now, &others, key);
                let composite = was.is_object() || was.as_array().is_some_and(|list| list_kind(key, list) != ListKind::Atomic);
                let empty = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
                if now.is_none() && others.is_empty() && (!composite || empty) {
                    live.remove(key);
                }
            }
        }
        (Value::Array(live), Value::Array(before)) => {
            let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
            let now = list(now);
            let others: Vec<Vec<Value>> = others.iter().map(|other| list(Some(other))).collect();
            match list_kind(field, before) {
                ListKind::Atomic => {}
                ListKind::Set => live.retain(|item| {
                    !before.contains(item) || now.contains(item) || others.iter().any(|other| other.contains(item))
                }),
                ListKind::Keyed(keys) => live.retain_mut(|item| {
                    let Some(was) = find(before, item, keys).cloned() else { return true };
                    let now = find(&now, item, keys);
                    let others: Vec<&Value> = others.iter().filter_map(|other| find(other, item, keys)).collect();
                    if now.is_none() && others.is_empty() {
                        return false;
                    }
                    prune(item, &was, now, &others, "");
                    true
                }),
            }
        }
        _ => {}
    }
}

fn merge(live: &mut Value, config: &Value, field: &str) {
    match (&mut *live, config) {
        (Value::Object(live), Value::Object(config)) => {
            for (key, value) in config {
                if value.is_null() {
                    live.remove(key);
                } else if let Some(present) = live.get_mut(key) {
                    merge(present, value, key);
                } else {
                    live.insert(key.clone(), value.clone());
                }
            }
        }
        (Value::Array(present), Value::Array(config)) => match list_kind(field, config) {
            ListKind::Atomic => present.clone_from(config),
            ListKind::Set => {
                for item in config {
                    if !present.contains(item) {
                        present.push(item.clone());
                    }
                }
            }
            ListKind::Keyed(keys) => *present = joined(present, config, keys),
        },
        _ => *live = config.clone(),
    }
}

/// Entries in the order in which they are applied; those of others stay behind what they were behind.
fn joined(live: &[Value], config: &[Value], keys: &[&str]) -> Vec<Value> {
    let merged = config.iter().map(|item| {
        let mut entry = find(live, item, keys).cloned().unwrap_or_else(|| json!({}));
        merge(&mut entry, item, "");
        entry
    });
    let mut entries: Vec<Value> = merged.collect();
    for (index, one) in live.iter().enumerate().filter(|(_, one)| find(config, one, keys).is_none()) {
        let before = index.checked_sub(1).map(|before| identity(&live[before], keys));
        let place = entries.iter().position(|entry| Some(identity(entry, keys)) == before);
        entries.insert(place.map_or(0, |place| place + 1), one.clone());
    }
    entries
}

fn find<'a>(list: &'a [Value], like: &Value, keys: &[&str]) -> Option<&'a Value> {
    list.iter().find(|item| identity(item, keys) == identity(like, keys))
}

/// The values of the fields that name an entry; a port without a protocol is one of TCP.
fn identity(item: &Value, keys: &[&str]) -> Value {
    let value = |key: &&str| match item.get(key) {
        Some(value) => value.clone(),
        None if *key == "protocol" => json!("TCP"),
        None => Value::Null,
    };
    Value::Array(keys.iter().map(value).collect())
}

/// What the schemas of the served kinds say of a list, by the name of its field.
fn list_kind(field: &str, items: &[Value]) -> ListKind {
    match field {
        "finalizers" => ListKind::Set,
        "ownerReferences" => ListKind::Keyed(&["uid"]),
        "conditions" => ListKind::Keyed(&["type"]),
        "containers" | "initContainers" | "volumes" | "env" | "listeners" | "supportedFeatures" | "imagePullSecrets" => {
            ListKind::Keyed(&["name"])
        }
        "volumeMounts" => ListKind::Keyed(&["mountPath"]),
        "topologySpreadConstraints" => ListKind::Keyed(&["topologyKey", "whenUnsatisfiable"]),
        "ports" if items.iter().any(|item| item.get("containerPort").is_some()) => {
            ListKind::Keyed(&["containerPort", "protocol"])
        }
        "ports" if items.iter().any(|item| item.get("port").is_some()) => ListKind::Keyed(&["port", "protocol"]),
        _ => ListKind::Atomic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str) -> (String, String) {
        (name.to_owned(), String::new())
    }

    #[test]
    fn removes_what_is_no_longer_applied() {
        let us = manager("us");
        for (name, live, others, before, now, expected) in [
            ("a field", json!({"a": 1, "b": 2}), json!({}), json!({"a": 1, "b": 2}), json!({"a": 1}), json!({"a": 1})),
            (
                "a foreign field stays",
                json!({"a": 1, "b": 2}),
                json!({}),
                json!({"a": 1}),
                json!({"a": 3}),
                json!({"a": 3, "b": 2}),
            ),
            ("shared", json!({"a": 1}), json!({"a": 1}), json!({"a": 1}), json!({}), json!({"a": 1})),
            (
                "a label of three",
                json!({"labels": {"a": "1", "b": "2", "c": "3"}}),
                json!({}),
                json!({"labels": {"a": "1", "b": "2"}}),
                json!({"labels": {"a": "1"}}),
                json!({"labels": {"a": "1", "c": "3"}}),
            ),
            (
                "an entry with its defaults",
                json!({"ports": [{"port": 80, "protocol": "TCP", "nodePort": 3}, {"port": 81, "protocol": "TCP"}]}),
                json!({}),
                json!({"ports": [{"port": 80}, {"port": 81}]}),
                json!({"ports": [{"port": 81}, {"port": 82}]}),
                json!({"ports": [{"port": 81, "protocol": "TCP"}, {"port": 82}]}),
            ),
            (
                "the order of what is applied",
                json!({"ports": [{"port": 80, "nodePort": 3}, {"port": 9}, {"port": 82, "nodePort": 4}]}),
                json!({}),
                json!({"ports": [{"port": 80}, {"port": 82}]}),
                json!({"ports": [{"port": 82}, {"port": 81}, {"port": 80}]}),
                json!({"ports": [{"port": 82, "nodePort": 4}, {"port": 81}, {"port": 80, "nodePort": 3}, {"port": 9}]}),
            ),
            (
                "a condition of somebody else",
                json!({"conditions": [{"type": "Theirs", "status": "True"}, {"type": "Ours", "status": "True"}]}),
                json!({}),
                json!({"conditions": [{"type": "Ours", "status": "True"}]}),
                json!({"conditions": [{"type": "Ours", "status": "False"}]}),
                json!({"conditions": [{"type": "Theirs", "status": "True"}, {"type": "Ours", "status": "False"}]}),
            ),
            (
                "an atomic list",
                json!({"args": ["a"]}),
                json!({}),
                json!({"args": ["a"]}),
                json!({"args": ["b", "c"]}),
                json!({"args": ["b", "c"]}),
            ),
            (
                "finalizers",
                json!({"finalizers": ["x", "y"]}),
                json!({}),
                json!({"finalizers": ["y"]}),
                json!({}),
                json!({"finalizers": ["x"]}),
            ),
        ] {
            let applied = Applied::from([(us.clone(), before), (manager("them"), others)]);
            assert_eq!(apply(&live, &applied, &us, &now, false), Ok(expected), "{name}");
        }
    }

    #[test]
    fn conflicts_are_named_and_can_be_forced() {
        let live = json!({"spec": {"replicas": 3, "ports": [{"port": 80, "name": "a"}]}});
        let applied = Applied::from([(manager("them"), live.clone())]);
        let config = json!({"spec": {"replicas": 4, "ports": [{"port": 80, "name": "b"}]}});
        let expected = [r#"conflict with "them": .spec.ports[[80,"TCP"]].name"#, r#"conflict with "them": .spec.replicas"#];
        let mut found = apply(&live, &applied, &manager("us"), &config, false).unwrap_err();
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(apply(&live, &applied, &manager("us"), &config, true), Ok(config));
        assert_eq!(apply(&live, &applied, &manager("us"), &live, false), Ok(live.clone()));
    }
}
