//! The last good configuration, in a folder that a restarted proxy finds again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use isthmus_routing::{Snapshot, Version};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::file;

const FILE: &str = "last-good";

/// What was committed and served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    /// As the commit named it.
    pub(super) version: Version,
    /// Complete: with what was held for kept references.
    pub(super) snapshot: Arc<Snapshot>,
}

/// A folder with the last good configuration. Writing goes on behind; dropping this ends it after the newest.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    newest: watch::Sender<Option<Stored>>,
}

impl Store {
    /// Writes in a task of the current tokio runtime.
    pub(super) fn open(folder: PathBuf) -> Self {
        let (newest, receiver) = watch::channel(None);
        tokio::spawn(write_newest(folder.clone(), receiver));
        Self { folder, newest }
    }

    /// What is there; none, with a message, if it cannot be used.
    pub(super) async fn load(&self) -> Option<Stored> {
        let path = self.folder.join(FILE);
        let read = path.clone();
        let loaded = tokio::task::spawn_blocking(move || file::load(&read)).await;
        match loaded.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(stored) => stored,
            Err(fault) => {
                tracing::warn!("the last good configuration in {} cannot be used and is passed over: {fault}", path.display());
                None
            }
        }
    }

    /// Writes it soon, unless something newer comes first.
    pub(super) fn save(&self, stored: Stored) {
        self.newest.send_replace(Some(stored));
    }
}

async fn write_newest(folder: PathBuf, mut newest: watch::Receiver<Option<Stored>>) {
    while newest.changed().await.is_ok() {
        let Some(stored) = newest.borrow_and_update().clone() else { continue };
        let target = folder.clone();
        let saved = tokio::task::spawn_blocking(move || file::save(&target, FILE, &stored)).await;
        if let Err(fault) = saved.unwrap_or_else(|error| Err(io::Error::other(error))) {
            let folder = folder.display();
            tracing::warn!(
                "the last good configuration cannot be stored in {folder}: {fault}; a restart will have to wait for the controller"
            );
        }
    }
}
