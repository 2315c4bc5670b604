//! Where a value is in an object. A path is only written out when there is something to say about it.

use std::fmt;

use serde_json::Value;

use crate::Finding;

/// The way to a value, from the inside out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'a> {
    /// The object.
    Root,
    /// `parent.name`
    Field(&'a Self, &'a str),
    /// `parent[3]`
    Index(&'a Self, usize),
    /// `parent[key]`, of a mapping with free keys.
    Key(&'a Self, &'a str),
}

impl<'a> Path<'a> {
    pub(crate) fn field(&'a self, name: &'a str) -> Self {
        Path::Field(self, name)
    }

    pub(crate) fn index(&'a self, index: usize) -> Self {
        Path::Index(self, index)
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Self {
        Path::Key(self, key)
    }

    pub(crate) fn says(&self, message: impl Into<String>) -> Finding {
        Finding { field: self.to_string(), message: message.into() }
    }

    /// `why` may be empty.
    pub(crate) fn required(&self, why: &str) -> Finding {
        self.says(if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") })
    }

    pub(crate) fn invalid(&self, value: &Value, why: &str) -> Finding {
        self.says(format!("Invalid value: {value}: {why}"))
    }

    pub(crate) fn duplicate(&self, value: &Value) -> Finding {
        self.says(format!("Duplicate value: {value}"))
    }

    pub(crate) fn unsupported<'v>(&self, value: &Value, supported: impl Iterator<Item = &'v Value>) -> Finding {
        let supported: Vec<String> = supported.map(ToString::to_string).collect();
        self.says(format!("Unsupported value: {value}: supported values: {}", supported.join(", ")))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Path::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}
