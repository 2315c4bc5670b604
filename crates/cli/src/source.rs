//! Folders and files of YAML: reading them, and following their edits.

pub mod document;
pub mod entry;
pub mod read;
pub mod watch;
