//! Lines for the person in front of the folder: where, what, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something of the folder is not in force.
    Fault,
    /// It is, but perhaps not as it was meant.
    Warning,
    /// Good to know.
    Notice,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// From 1.
    pub line: u32,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// How much it matters.
    pub severity: Severity,
    /// Where it comes from.
    pub place: Option<Place>,
    /// What it says.
    pub text: String,
}

impl Place {
    /// A line of a file.
    pub fn new(path: &Path, line: u32) -> Self {
        Self { path: path.to_owned(), line }
    }
}

impl Message {
    /// Something is not in force.
    pub fn fault(place: Option<Place>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Fault, place, text: text.into() }
    }

    /// Something may not be as it was meant.
    pub fn warning(place: Option<Place>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, place, text: text.into() }
    }

    /// Good to know.
    pub fn notice(place: Option<Place>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Notice, place, text: text.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.text)
    }
}
