//! Label and field selectors: text of a query -> which objects.

use serde_json::Value;

use super::refusal::Refusal;

/// Which objects of a resource a list or watch is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    /// Only this namespace.
    pub(super) namespace: Option<String>,
    labels: Vec<Label>,
    fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Label {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    /// `metadata.name`
    path: String,
    equal: bool,
    value: String,
}

/// Fields that every kind can be selected by, and those of single kinds.
const FIELDS: [(&str, &str); 6] = [
    ("", "metadata.name"),
    ("", "metadata.namespace"),
    ("secrets", "type"),
    ("pods", "spec.nodeName"),
    ("pods", "status.phase"),
    ("pods", "spec.serviceAccountName"),
];

impl Selector {
    /// Reads the two selectors of a query.
    pub(super) fn parse(namespace: Option<String>, labels: &str, fields: &str, plural: &str) -> Result<Self, Refusal> {
        let labels = split(labels).into_iter().map(label).collect::<Option<_>>();
        let labels = labels.ok_or_else(|| Refusal::bad_request("unable to parse requirement of the label selector"))?;
        let fields = split(fields).into_iter().map(|text| field(text, plural)).collect::<Result<_, _>>()?;
        Ok(Self { namespace, labels, fields })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.namespace.as_ref().is_none_or(|namespace| metadata["namespace"] == namespace.as_str())
            && self.labels.iter().all(|label| label.matches(&metadata["labels"]))
            && self.fields.iter().all(|field| field.matches(object))
    }
}

impl Label {
    fn matches(&self, labels: &Value) -> bool {
        let value = |key: &String| labels.get(key).and_then(Value::as_str);
        match self {
            Self::In(key, values) => value(key).is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(key, values) => value(key).is_none_or(|value| values.iter().all(|one| one != value)),
            Self::Exists(key) => value(key).is_some(),
            Self::Absent(key) => value(key).is_none(),
        }
    }
}

impl Field {
    fn matches(&self, object: &Value) -> bool {
        let value = self.path.split('.').try_fold(object, |value, part| value.get(part)).and_then(Value::as_str);
        (value.unwrap_or_default() == self.value) == self.equal
    }
}

/// Parts between commas that are not within parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = text.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn label(text: &str) -> Option<Label> {
    if let Some((key, values)) = text.split_once('(') {
        let values = values.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect();
        let (key, operator) = key.trim().rsplit_once(' ')?;
        return match operator {
            "in" => Some(Label::In(key.trim().to_owned(), values)),
            "notin" => Some(Label::NotIn(key.trim().to_owned(), values)),
            _ => None,
        };
    }
    let pair = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    Some(if let Some((key, value)) = text.split_once("!=") {
        let (key, values) = pair(key, value);
        Label::NotIn(key, values)
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        let (key, values) = pair(key, value);
        Label::In(key, values)
    } else if let Some(key) = text.strip_prefix('!') {
        Label::Absent(key.trim().to_owned())
    } else {
        Label::Exists(text.to_owned())
    })
}

fn field(text: &str, plural: &str) -> Result<Field, Refusal> {
    let (path, equal, value) = if let Some((path, value)) = text.split_once("!=") {
        (path, false, value)
    } else if let Some((path, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (path, true, value)
    } else {
        return Err(Refusal::bad_request(format!("invalid field selector: {text}")));
    };
    if FIELDS.iter().any(|(of, known)| *known == path && (of.is_empty() || *of == plural)) {
        Ok(Field { path: path.to_owned(), equal, value: value.to_owned() })
    } else {
        Err(Refusal::bad_request(format!("field label not supported: {path}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selects() {
        let object =
            json!({"metadata": {"name": "x", "namespace": "shop", "labels": {"app": "a", "tier": "front"}}, "type": "Opaque"});
        for (labels, fields, expected) in [
            ("", "", Some(true)),
            ("app=a", "", Some(true)),
            ("app==a,tier=front", "metadata.name=x", Some(true)),
            ("app=a,tier=back", "", Some(false)),
            ("app!=a", "", Some(false)),
            ("other!=a", "", Some(true)),
            ("app in (b, a),tier", "", Some(true)),
            ("app notin (b,a)", "", Some(false)),
            ("!app", "", Some(false)),
            ("!other", "type!=kubernetes.io/tls", Some(true)),
            ("", "type=kubernetes.io/tls", Some(false)),
            ("", "metadata.namespace=other", Some(false)),
            ("", "spec.size=3", None),
            ("app of (a)", "", None),
        ] {
            let selector = Selector::parse(None, labels, fields, "secrets");
            assert_eq!(selector.ok().map(|selector| selector.matches(&object)), expected, "{labels:?} {fields:?}");
        }
    }
}
