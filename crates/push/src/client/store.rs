//! The last good configuration, in a folder that a restarted proxy finds again.
//!
//! One file: a line with the format and a SHA-256 of the rest, then JSON. It holds private keys, so only its owner may read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isthmus_routing::{Snapshot, Version};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

/// What the first line begins with; another number is another format.
const FORMAT: &str = "isthmus-config 1 ";
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
        let loaded = tokio::task::spawn_blocking(move || load(&read)).await;
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
        let saved = tokio::task::spawn_blocking(move || save(&target, &stored)).await;
        if let Err(fault) = saved.unwrap_or_else(|error| Err(io::Error::other(error))) {
            let folder = folder.display();
            tracing::warn!(
                "the last good configuration cannot be stored in {folder}: {fault}; a restart will have to wait for the controller"
            );
        }
    }
}

fn load(path: &Path) -> Result<Option<Stored>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let (head, body) = text.split_once('\n').ok_or("it is cut off")?;
    let checksum = head.strip_prefix(FORMAT).ok_or("it is of another format")?;
    if checksum != self::checksum(body.as_bytes()) {
        return Err("its checksum is wrong".to_owned());
    }
    serde_json::from_str(body).map(Some).map_err(|error| error.to_string())
}

/// Whole or not at all: a reader sees the old file or the new one.
fn save(folder: &Path, stored: &Stored) -> io::Result<()> {
    let body = serde_json::to_vec(stored)?;
    let temporary = folder.join(format!("{FILE}.{}", std::process::id()));
    let written = write(&temporary, &[FORMAT.as_bytes(), checksum(&body).as_bytes(), b"\n", &body])
        .and_then(|()| fs::rename(&temporary, folder.join(FILE)));
    if written.is_err() {
        // It may not be there.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    // One that a crash has left may have other rights.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tests::{Folder, snapshot};

    fn stored(n: u16) -> Stored {
        Stored { version: snapshot(n).version(), snapshot: Arc::new(snapshot(n)) }
    }

    #[test]
    fn what_is_stored_is_loaded_and_only_its_owner_may_read_it() {
        let folder = Folder::new();
        let path = folder.path().join(FILE);
        assert_eq!(load(&path), Ok(None));
        for n in [1, 2] {
            save(folder.path(), &stored(n)).unwrap();
            assert_eq!(load(&path), Ok(Some(stored(n))));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_broken_file_says_how() {
        let folder = Folder::new();
        let path = folder.path().join(FILE);
        save(folder.path(), &stored(1)).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let body = good.split_once('\n').unwrap().1;
        for (text, fault) in [
            (String::new(), "cut off"),
            (good[..40].to_owned(), "cut off"),
            (good[..good.len() - 1].to_owned(), "checksum"),
            (good.replace("10.0.0.1", "10.0.0.2"), "checksum"),
            (good.replacen(FORMAT, "isthmus-config 2 ", 1), "another format"),
            (format!("{FORMAT}{}\n{}", checksum(b"{}"), "{}"), "missing field"),
            (format!("{}\n{body}", checksum(body.as_bytes())), "another format"),
        ] {
            assert_ne!(text, good);
            fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_and_no_panic() {
        assert!(save(Path::new("/nonexistent/folder"), &stored(1)).is_err());
    }
}
