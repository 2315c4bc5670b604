//! What is said of an object.

use std::fmt;

use serde_json::Value;

/// An object as a cluster would hold it.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Its JSON.
    pub object: Value,
    /// What was dropped: fields that the kind does not have.
    pub warnings: Vec<Finding>,
}

/// One thing that is to be said of one field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path of the field: `spec.rules[0].name`; empty for the object as a whole.
    pub field: String,
    /// `Required value`, `Invalid value: "x": must be ...`
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}
