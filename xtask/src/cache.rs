//! The folder for what is fetched or built besides the project: never in the project itself.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::fault::{Context as _, Fault};

/// `$ISTHMUS_CACHE`, else `$XDG_CACHE_HOME/isthmus`, else `~/.cache/isthmus`; made if absent.
pub(crate) fn root() -> Result<PathBuf, Fault> {
    folder(&path()?)
}

/// A folder in it.
pub(crate) fn sub(name: &str) -> Result<PathBuf, Fault> {
    folder(&path()?.join(name))
}

fn path() -> Result<PathBuf, Fault> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("ISTHMUS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("isthmus")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/isthmus")))
        .ok_or_else(|| Fault::said("no folder for tools: set ISTHMUS_CACHE to one"))
}

fn folder(path: &Path) -> Result<PathBuf, Fault> {
    fs::create_dir_all(path).context(|| format!("making the folder {}", path.display()))?;
    Ok(path.to_owned())
}
