//! Names, namespaces, labels and annotations.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use crate::path::Path;
use crate::{Finding, typed};

/// What a kind's names look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// DNS-1123 subdomain: most kinds.
    Subdomain,
    /// DNS-1123 label: Namespace.
    Label,
    /// DNS-1035 label: Service.
    Label1035,
}

const NAMESPACE: &str = "default";
const ANNOTATIONS_BYTES: usize = 256 * 1024;

/// Completes `metadata` (a namespaced object without a namespace is in `default`) and says what is wrong with it.
pub(crate) fn admit(
    object: &mut Map<String, Value>,
    namespaced: bool,
    naming: Naming,
    findings: &mut Vec<Finding>,
    warnings: &mut Vec<Finding>,
) {
    let path = Path::Root.field("metadata");
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
        findings.push(path.field("name").required("name or generateName is required"));
        return;
    };
    // Exports have `creationTimestamp: null`.
    metadata.retain(|_, value| !value.is_null());
    if !namespaced {
        metadata.remove("namespace");
    } else if metadata.get("namespace").is_none_or(|namespace| namespace == "") {
        metadata.insert("namespace".to_owned(), json!(NAMESPACE));
    }
    let metadata = &*metadata;
    match metadata.get("name") {
        Some(Value::String(name)) if !name.is_empty() => {
            findings.extend(naming.fault(name).map(|why| path.field("name").invalid(&json!(name), &why)));
        }
        _ if metadata.contains_key("generateName") => {
            findings.push(path.field("name").required("generateName would give another name at every reading; give a name"));
        }
        Some(Value::String(_)) | None => findings.push(path.field("name").required("name or generateName is required")),
        Some(_) => {}
    }
    if let Some(Value::String(namespace)) = metadata.get("namespace")
        && let Some(why) = Naming::Label.fault(namespace)
    {
        findings.push(path.field("namespace").invalid(&json!(namespace), &why));
    }
    labels(metadata, &path, findings);
    annotations(metadata, &path, findings);
    if let Some(metadata) = object.get("metadata")
        && let Err(fault) = typed::check::<ObjectMeta>(metadata, "metadata", warnings)
    {
        findings.push(fault);
    }
}

fn labels(metadata: &Map<String, Value>, path: &Path<'_>, findings: &mut Vec<Finding>) {
    let path = path.field("labels");
    for (key, value) in metadata.get("labels").and_then(Value::as_object).into_iter().flatten() {
        findings.extend(qualified_name_fault(key).map(|why| path.invalid(&json!(key), &why)));
        if let Value::String(text) = value {
            findings.extend(label_value_fault(text).map(|why| path.key(key).invalid(value, &why)));
        }
    }
}

fn annotations(metadata: &Map<String, Value>, path: &Path<'_>, findings: &mut Vec<Finding>) {
    let path = path.field("annotations");
    let mut bytes = 0;
    for (key, value) in metadata.get("annotations").and_then(Value::as_object).into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        findings.extend(qualified_name_fault(&key.to_lowercase()).map(|why| path.invalid(&json!(key), &why)));
    }
    if bytes > ANNOTATIONS_BYTES {
        findings.push(path.says(format!("Too long: may not be more than {ANNOTATIONS_BYTES} bytes")));
    }
}

impl Naming {
    /// Why a text is no such name.
    pub(crate) fn fault(self, name: &str) -> Option<String> {
        let (max, fits) = match self {
            Self::Subdomain => (253, name.split('.').all(is_label)),
            Self::Label => (63, is_label(name)),
            Self::Label1035 => (63, is_label(name) && name.starts_with(|first: char| first.is_ascii_lowercase())),
        };
        if name.len() > max {
            return Some(format!("must be no more than {max} bytes"));
        }
        let what = match self {
            Self::Subdomain => {
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with \
                 an alphanumeric character (e.g. 'example.com')"
            }
            Self::Label => {
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
                 alphanumeric character (e.g. 'my-name' or '123-abc')"
            }
            Self::Label1035 => {
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end \
                 with an alphanumeric character (e.g. 'my-name' or 'abc-123')"
            }
        };
        (!fits).then(|| what.to_owned())
    }
}

fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if inner(*first) && inner(*last))
        && bytes.iter().all(|c| inner(*c) || *c == b'-')
}

/// Why a text is no label or annotation key: `name` or `prefix/name`.
fn qualified_name_fault(key: &str) -> Option<String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if prefix.is_some_and(|prefix| Naming::Subdomain.fault(prefix).is_some()) {
        return Some("prefix part must be a DNS subdomain (e.g. 'example.com') followed by '/' and a name".to_owned());
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 bytes".to_owned());
    }
    (name.is_empty() || !is_label_text(name)).then(|| {
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
         'MyName' or 'my.name')"
            .to_owned()
    })
}

/// Why a text is no value of a label.
fn label_value_fault(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some("must be no more than 63 bytes".to_owned());
    }
    (!value.is_empty() && !is_label_text(value)).then(|| {
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
         alphanumeric character (e.g. 'MyValue' or 'my_value')"
            .to_owned()
    })
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(metadata: &Value, namespaced: bool) -> (Value, Vec<String>) {
        let Value::Object(mut object) = json!({"metadata": metadata}) else { unreachable!() };
        let mut findings = Vec::new();
        admit(&mut object, namespaced, Naming::Subdomain, &mut findings, &mut Vec::new());
        (object.remove("metadata").unwrap_or_default(), findings.into_iter().map(|finding| finding.field).collect())
    }

    #[test]
    fn namespaces_are_completed() {
        for (metadata, namespaced, expected) in [
            (json!({"name": "a", "creationTimestamp": null}), true, json!({"name": "a", "namespace": "default"})),
            (json!({"name": "a", "namespace": "b"}), true, json!({"name": "a", "namespace": "b"})),
            (json!({"name": "a", "namespace": "b"}), false, json!({"name": "a"})),
        ] {
            assert_eq!(says(&metadata, namespaced), (expected, Vec::new()));
        }
    }

    #[test]
    fn faults_are_found() {
        for (metadata, expected) in [
            (json!(null), "metadata.name"),
            (json!({}), "metadata.name"),
            (json!({"name": ""}), "metadata.name"),
            (json!({"generateName": "a-"}), "metadata.name"),
            (json!({"name": "Upper"}), "metadata.name"),
            (json!({"name": "-a"}), "metadata.name"),
            (json!({"name": "a..b"}), "metadata.name"),
            (json!({"name": "a".repeat(254)}), "metadata.name"),
            (json!({"name": 5}), "metadata.name"),
            (json!({"name": "a", "namespace": "a.b"}), "metadata.namespace"),
            (json!({"name": "a", "namespace": "a".repeat(64)}), "metadata.namespace"),
            (json!({"name": "a", "labels": {"a b": "c"}}), "metadata.labels"),
            (json!({"name": "a", "labels": {"/b": "c"}}), "metadata.labels"),
            (json!({"name": "a", "labels": {"a": "c d"}}), "metadata.labels[a]"),
            (json!({"name": "a", "labels": {"a": 5}}), "metadata.labels.a"),
            (json!({"name": "a", "annotations": {"a/b/c": "d"}}), "metadata.annotations"),
            (json!({"name": "a", "annotations": {"a": "d".repeat(ANNOTATIONS_BYTES)}}), "metadata.annotations"),
            (json!({"name": "a", "annotations": "x"}), "metadata.annotations"),
        ] {
            assert_eq!(says(&metadata, true).1, [expected], "{metadata}");
        }
        let fine = json!({"name": "a.b-1", "namespace": "n", "generation": 3, "annotations": {"Example.com/A_b": "any\ntext"},
            "labels": {"app.kubernetes.io/name": "a.b_c", "empty": ""}});
        assert_eq!(says(&fine, true), (fine, Vec::new()));
    }

    #[test]
    fn services_start_with_a_letter() {
        assert!(Naming::Label1035.fault("1a").is_some());
        assert!(Naming::Label1035.fault("a1").is_none());
        assert!(Naming::Label.fault("1a").is_none());
    }
}
