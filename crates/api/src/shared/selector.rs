//! Label selectors.

use std::collections::BTreeMap;

/// Which labels an object has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<(String, Requirement)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

/// A selector that says nothing that can be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelector {
    /// An operator that Kubernetes does not have.
    #[error("`{0}` is not an operator of a label selector; use In, NotIn, Exists or DoesNotExist")]
    Operator(String),
    /// `In` or `NotIn` without values, or `Exists` or `DoesNotExist` with some.
    #[error("the operator {operator} of the label `{key}` {fault}")]
    Values {
        /// The label.
        key: String,
        /// The operator.
        operator: String,
        /// What is wrong.
        fault: &'static str,
    },
}

impl LabelSelector {
    /// From the two parts that the API gives it: labels that must be equal, and expressions of key, operator and values. Without
    /// either it selects everything.
    ///
    /// # Errors
    /// When an expression is none that Kubernetes knows.
    pub fn new<'a>(
        match_labels: &BTreeMap<String, String>,
        match_expressions: impl IntoIterator<Item = (&'a str, &'a str, &'a [String])>,
    ) -> Result<Self, InvalidSelector> {
        let mut requirements: Vec<_> =
            match_labels.iter().map(|(key, value)| (key.clone(), Requirement::In(vec![value.clone()]))).collect();
        for (key, operator, values) in match_expressions {
            let fault = |fault| InvalidSelector::Values { key: key.to_owned(), operator: operator.to_owned(), fault };
            let requirement = match operator {
                "In" | "NotIn" if values.is_empty() => return Err(fault("needs values")),
                "Exists" | "DoesNotExist" if !values.is_empty() => return Err(fault("takes no values")),
                "In" => Requirement::In(values.to_vec()),
                "NotIn" => Requirement::NotIn(values.to_vec()),
                "Exists" => Requirement::Exists,
                "DoesNotExist" => Requirement::DoesNotExist,
                unknown => return Err(InvalidSelector::Operator(unknown.to_owned())),
            };
            requirements.push((key.to_owned(), requirement));
        }
        Ok(Self { requirements })
    }

    /// Whether an object with these labels is selected. As in Kubernetes, `NotIn` holds for an absent label.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|(key, requirement)| match (requirement, labels.get(key)) {
            (Requirement::In(values), Some(value)) => values.contains(value),
            (Requirement::In(_) | Requirement::Exists, None) | (Requirement::DoesNotExist, Some(_)) => false,
            (Requirement::NotIn(values), Some(value)) => !values.contains(value),
            (Requirement::Exists, Some(_)) | (Requirement::NotIn(_) | Requirement::DoesNotExist, None) => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_as_kubernetes_does() {
        let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let values = ["prod".to_owned(), "test".to_owned()];
        for (key, operator, values, expected) in [
            ("env", "In", &values[..], Some(true)),
            ("env", "In", &values[1..], Some(false)),
            ("team", "In", &values[..], Some(false)),
            ("env", "NotIn", &values[..], Some(false)),
            ("team", "NotIn", &values[..], Some(true)),
            ("env", "Exists", &[], Some(true)),
            ("team", "Exists", &[], Some(false)),
            ("env", "DoesNotExist", &[], Some(false)),
            ("team", "DoesNotExist", &[], Some(true)),
            ("env", "In", &[], None),
            ("env", "Exists", &values[..], None),
            ("env", "Like", &values[..], None),
        ] {
            let selector = LabelSelector::new(&BTreeMap::new(), [(key, operator, values)]);
            assert_eq!(selector.ok().map(|s| s.matches(&labels)), expected, "{key} {operator} {values:?}");
        }
        assert!(LabelSelector::new(&labels, []).unwrap().matches(&labels));
        assert!(!LabelSelector::new(&labels, []).unwrap().matches(&BTreeMap::new()));
        assert!(LabelSelector::new(&BTreeMap::new(), []).unwrap().matches(&BTreeMap::new()));
    }
}
