//! Where things are in the project, and cargo commands in it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's top folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The folder that `./dev` was called in: what a relative path on its command line is relative to.
pub(crate) fn caller() -> PathBuf {
    env::var_os("ISTHMUS_CALLER_DIR").map_or_else(|| env::current_dir().unwrap_or_default(), PathBuf::from)
}

/// The cargo that runs this tool, in the project's folder.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    // What `cargo run` says of this package: ring's build script watches such variables and would be built again for each change.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// The `isthmus` binary of a profile.
pub(crate) fn isthmus(release: bool) -> PathBuf {
    program("isthmus", release)
}

/// A binary of the workspace. This tool was built by `cargo run`, so it lies beside it.
pub(crate) fn program(name: &str, release: bool) -> PathBuf {
    let beside = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let debug = beside.unwrap_or_else(|| root().join("target/debug"));
    if release { debug.with_file_name("release").join(name) } else { debug.join(name) }
}
