//! Files in the folder of a proxy, which a restarted one finds again.
//!
//! A line with the format and a SHA-256 of the rest, then JSON. They hold private keys, so only their owner may read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// What the first line begins with; another number is another format.
const FORMAT: &str = "isthmus-config 1 ";

/// What is there; none if there is no such file.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
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
pub(super) fn save(folder: &Path, name: &str, content: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(content)?;
    let temporary = folder.join(format!("{name}.{}", std::process::id()));
    let written = write(&temporary, &[FORMAT.as_bytes(), checksum(&body).as_bytes(), b"\n", &body])
        .and_then(|()| fs::rename(&temporary, folder.join(name)));
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
    use std::sync::Arc;

    use super::*;
    use crate::client::store::Stored;
    use crate::tests::{Folder, snapshot};

    const FILE: &str = "last-good";

    fn stored(n: u16) -> Stored {
        Stored { version: snapshot(n).version(), snapshot: Arc::new(snapshot(n)) }
    }

    #[test]
    fn what_is_stored_is_loaded_and_only_its_owner_may_read_it() {
        let folder = Folder::new();
        let path = folder.path().join(FILE);
        assert_eq!(load::<Stored>(&path), Ok(None));
        for n in [1, 2] {
            save(folder.path(), FILE, &stored(n)).unwrap();
            assert_eq!(load(&path), Ok(Some(stored(n))));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_broken_file_says_how() {
        let folder = Folder::new();
        let path = folder.path().join(FILE);
        save(folder.path(), FILE, &stored(1)).unwrap();
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
            let error = load::<Stored>(&path).unwrap_err();
            assert!(error.contains(fault), "{error}");
        }
    }

    /// As a store does that is still writing when its test is over.
    #[test]
    fn a_folder_of_a_test_is_gone_whoever_writes_into_it() {
        for _ in 0..20 {
            let folder = Folder::new();
            let path = folder.path().to_owned();
            save(&path, FILE, &stored(1)).unwrap();
            let target = path.clone();
            let writer = std::thread::spawn(move || while save(&target, FILE, &stored(2)).is_ok() {});
            std::thread::sleep(std::time::Duration::from_millis(2));
            drop(folder);
            writer.join().unwrap();
            assert!(!path.exists() && !path.with_extension("gone").exists(), "{}", path.display());
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_and_no_panic() {
        assert!(save(Path::new("/nonexistent/folder"), FILE, &stored(1)).is_err());
    }
}
