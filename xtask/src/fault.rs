//! Why a command of the developer's tool failed.

use std::io;
use std::process::ExitStatus;

/// One fault, with what to do where that is not plain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program ended badly.
    #[error("`{command}` failed ({status}){output}")]
    Command {
        /// The program with its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said, on lines of its own; empty where it said it to the terminal already.
        output: String,
    },
    /// Something is missing, or a check failed.
    #[error("{0}")]
    Said(String),
}

impl Fault {
    /// A fault in words.
    pub(crate) fn said(words: impl Into<String>) -> Self {
        Self::Said(words.into())
    }
}

/// Names what was tried.
pub(crate) trait Context<T> {
    /// `what`: "reading FILE".
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Fault>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Fault> {
        self.map_err(|source| Fault::Io { what: what(), source })
    }
}
