//! The images of the cluster: all of them are made here, of static programs and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::cluster::binaries::Binaries;
use crate::cluster::{image, node, place};
use crate::fault::{Context as _, Fault};
use crate::{cache, process, workspace};

/// Clear of the ids of other projects; see the table in docs/kubernetes.md.
const CONTROLLER_USER: &str = "21410:21410";
const GATEWAY_USER: &str = "21420:21420";

/// What holds a pod's namespaces, and DNS.
pub(super) fn of_cluster(binaries: &Binaries) -> Result<Vec<PathBuf>, Fault> {
    let pause = image::build(place::PAUSE, &[(pause()?, "pause", 0o755)], &["/pause"], "65535:65535", &[])?;
    let coredns = image::build(place::COREDNS, &[(binaries.path("coredns"), "coredns", 0o755)], &["/coredns"], "", &[])?;
    Ok(vec![pause, coredns])
}

/// The controller and the gateway of this project, built as they are now.
pub(super) fn of_project() -> Result<Vec<PathBuf>, Fault> {
    let folder = programs()?;
    let authorities = (system_authorities()?, "etc/ssl/certs/ca-certificates.crt", 0o644);
    let image = |name: &str, program: &'static str, user: &str, files: &[(PathBuf, &'static str, u32)]| {
        let entrypoint = format!("/{program}");
        let files: Vec<_> = [(folder.join(program), program, 0o755)].into_iter().chain(files.iter().cloned()).collect();
        image::build(name, &files, &[&entrypoint], user, &[])
    };
    Ok(vec![
        image(place::CONTROLLER, "isthmus-controller", CONTROLLER_USER, &[])?,
        image(place::GATEWAY, "isthmus-gateway", GATEWAY_USER, &[authorities])?,
    ])
}

/// What `wellKnownCACertificates: System` of a BackendTLSPolicy means in the image.
fn system_authorities() -> Result<PathBuf, Fault> {
    process::packages(&["ca-certificates"])?;
    let bundle = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");
    if !bundle.is_file() {
        let what = "is not there, and the gateway's image needs it: install your system's package of CA certificates, or copy its bundle there";
        return Err(Fault::said(format!("{} {what}", bundle.display())));
    }
    Ok(bundle)
}

/// What containerd has under a name; empty if it has nothing.
pub(super) fn known(binaries: &Binaries, name: &str) -> Result<String, Fault> {
    process::capture(node::ctr(binaries).args(["images", "list", &format!("name=={name}")]))
}

/// Hands an archive to containerd.
pub(super) fn import(binaries: &Binaries, archive: &Path) -> Result<(), Fault> {
    process::capture(node::ctr(binaries).args(["images", "import"]).arg(archive)).map(drop)
}

/// Builds static programs; returns their folder.
fn programs() -> Result<PathBuf, Fault> {
    let host = process::capture(Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).ok_or_else(|| Fault::said("rustc -vV names no host"))?;
    let mut cargo = workspace::cargo(&["build", "--quiet", "--profile", "image", "--package", "isthmus-controller"]);
    cargo.args(["--package", "isthmus-gateway", "--target", host]);
    // Only with a target named do flags for it not reach build scripts, which cannot be static. These two would win over it.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env(format!("CARGO_TARGET_{}_RUSTFLAGS", host.to_uppercase().replace('-', "_")), "-C target-feature=+crt-static");
    process::run(&mut cargo)?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from);
    Ok(target.join(host).join("image"))
}

fn pause() -> Result<PathBuf, Fault> {
    let (source, target) = (place::source("pause/pause.c"), cache::sub("images")?.join("pause"));
    let built = fs::metadata(&target).and_then(|data| data.modified()).ok();
    let changed = fs::metadata(&source).and_then(|data| data.modified()).context(|| format!("reading {}", source.display()))?;
    if built.is_none_or(|built| built < changed) {
        process::capture(Command::new("gcc").args(["-static", "-Os", "-s", "-o"]).arg(&target).arg(&source))?;
    }
    Ok(target)
}
