//! Static programs: what containers run, built once for all systems.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::fault::Fault;
use crate::{process, workspace};

/// How programs are built.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    /// For images of the test cluster: quickly.
    Image,
    /// As the controller and the gateway are shipped: fast.
    Release,
    /// As a sidecar is shipped: small.
    Sidecar,
}

impl Profile {
    fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Release => "release",
            Self::Sidecar => "sidecar",
        }
    }
}

/// Builds the programs of these packages; returns the folder that they are in.
pub(crate) fn build(profile: Profile, packages: &[&str]) -> Result<PathBuf, Fault> {
    let host = host()?;
    let mut cargo = workspace::cargo(&["build", "--quiet", "--profile", profile.as_str(), "--target", &host]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    // Only with a target named do flags for it not reach build scripts, which cannot be static. These two would win over it.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env(format!("CARGO_TARGET_{}_RUSTFLAGS", host.to_uppercase().replace('-', "_")), "-C target-feature=+crt-static");
    process::run(&mut cargo)?;
    folder(profile)
}

/// Where they are, built or not.
pub(crate) fn folder(profile: Profile) -> Result<PathBuf, Fault> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from);
    Ok(target.join(host()?).join(profile.as_str()))
}

fn host() -> Result<String, Fault> {
    let said = process::capture(Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| Fault::said("rustc -vV names no host"))
}
