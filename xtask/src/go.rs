//! Go: the toolchain for programs written elsewhere, and upstream's sources, which are Go modules.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::fault::Fault;
use crate::{process, workspace};

/// Upstream's modules at the release that is implemented.
const UPSTREAM: [&str; 2] = ["sigs.k8s.io/gateway-api@v1.7.0", "sigs.k8s.io/gateway-api/conformance@v1.7.0"];

/// The toolchain that upstream's modules and the tools want; an older Go fetches it by itself.
pub(crate) const TOOLCHAIN: &str = "go1.27.4";

const MISSING: &str = "Go 1.21 or newer is needed (it fetches the version it wants by itself): https://go.dev/dl, or on Debian 13 and \
                       Ubuntu 24.04 `apt-get install golang-go`. Debian 12's own golang-go (1.19) is too old. Then run this again.";

/// The folder that holds `gateway-api@v1.7.0` and `gateway-api/conformance@v1.7.0`: `$ISTHMUS_UPSTREAM` if it is set, else they are fetched.
pub(crate) fn upstream() -> Result<PathBuf, Fault> {
    if let Some(set) = env::var_os("ISTHMUS_UPSTREAM") {
        return Ok(PathBuf::from(set));
    }
    let folder = PathBuf::from(process::capture(command()?.args(["env", "GOMODCACHE"]))?.trim()).join("sigs.k8s.io");
    if UPSTREAM.iter().any(|module| !folder.join(module.trim_start_matches("sigs.k8s.io/")).is_dir()) {
        eprintln!("fetching upstream's sources: {}", UPSTREAM.join(", "));
        process::capture(command()?.args(["mod", "download"]).args(UPSTREAM))?;
    }
    Ok(folder)
}

/// Builds a program of the pinned set (`tests/suites/tools/go.mod`) into `folder` as `name`. Go's build cache makes this quick when
/// nothing changed.
pub(crate) fn build(package: &str, folder: &Path, name: &str) -> Result<PathBuf, Fault> {
    let target = folder.join(name);
    process::capture(in_module(&workspace::root().join("tests/suites/tools"))?.arg("build").arg("-o").arg(&target).arg(package))?;
    Ok(target)
}

/// A `go` command in the folder of a module.
pub(crate) fn in_module(folder: &Path) -> Result<Command, Fault> {
    let mut command = command()?;
    command.current_dir(folder);
    Ok(command)
}

fn command() -> Result<Command, Fault> {
    let go = find()?;
    let mut command = Command::new(go);
    // Outside the project, so that no go.mod of ours is in the way of `go mod download`.
    command.env("GOTOOLCHAIN", TOOLCHAIN).env_remove("GOFLAGS").current_dir(env::temp_dir());
    Ok(command)
}

/// `go`, new enough to fetch the toolchain that is wanted; installed where the distribution's is new enough.
fn find() -> Result<PathBuf, Fault> {
    let usual = Path::new("/usr/local/go/bin/go");
    let found = if process::exists("go") {
        Some(PathBuf::from("go"))
    } else if fs::exists(usual).unwrap_or(false) {
        Some(usual.to_owned())
    } else {
        None
    };
    let found = match found {
        Some(found) => found,
        None if distribution_is_new_enough() => {
            process::packages(&["golang-go"])?;
            PathBuf::from("go")
        }
        None => return Err(Fault::said(MISSING)),
    };
    let version = process::capture(Command::new(&found).env("GOTOOLCHAIN", "local").args(["env", "GOVERSION"]))?;
    if new_enough(version.trim().trim_start_matches("go")) { Ok(found) } else { Err(Fault::said(MISSING)) }
}

fn distribution_is_new_enough() -> bool {
    let policy = process::capture(Command::new("apt-cache").args(["policy", "golang-go"])).unwrap_or_default();
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    candidate.is_some_and(|version| new_enough(version.split_once(':').map_or(version, |(_, rest)| rest)))
}

/// From 1.21 on, Go fetches the toolchain that it is told to use.
fn new_enough(version: &str) -> bool {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().and_then(digits), parts.next().and_then(digits));
    matches!((major, minor), (Some(major), Some(minor)) if (major, minor) >= (1, 21))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_fetch_a_toolchain() {
        for (version, expected) in
            [("1.26.8", true), ("1.21", true), ("1.19~1", false), ("1.24~2", true), ("2.0", true), ("", false)]
        {
            assert_eq!(new_enough(version), expected, "{version}");
        }
    }
}
