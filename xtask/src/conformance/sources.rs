//! Go modules of the project whose results are kept in the cache for as long as their sources are the same.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::fault::{Context as _, Fault};
use crate::{cache, go};

/// The folder in the cache that holds what was built from `module`, made if absent. Those of other sources are removed.
pub(super) fn folder(name: &str, module: &Path) -> Result<PathBuf, Fault> {
    let all = cache::sub("conformance")?;
    let wanted = format!("{name}-{}", fingerprint(module)?);
    for entry in fs::read_dir(&all).context(|| format!("reading {}", all.display()))?.flatten() {
        let other = entry.file_name().into_string().unwrap_or_default();
        if other != wanted && other.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')) {
            fs::remove_dir_all(entry.path()).context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    cache::sub(&format!("conformance/{wanted}"))
}

/// Of the files that a build reads, with their names, and of the toolchain.
fn fingerprint(module: &Path) -> Result<String, Fault> {
    let what = || format!("reading {}", module.display());
    let mut files: Vec<PathBuf> = fs::read_dir(module).context(what)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "go" || kind == "mod" || kind == "sum"));
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        digest.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        digest.update(fs::read(&file).context(what)?);
    }
    digest.update(go::TOOLCHAIN);
    Ok(digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}
