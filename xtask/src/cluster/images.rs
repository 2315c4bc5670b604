//! The images of the cluster: all of them are made here, of static programs and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::binaries::Binaries;
use crate::cluster::{image, node, place};
use crate::fault::{Context as _, Fault};
use crate::programs::{self, Profile};
use crate::suites::tools;
use crate::{cache, process};

/// Clear of the ids of other projects; see the table in docs/kubernetes.md.
const CONTROLLER_USER: &str = "21410:21410";
const GATEWAY_USER: &str = "21420:21420";
/// Whose connections a pod does not redirect.
const MESH_PROXY_USER: &str = "15420:15420";

/// What holds a pod's namespaces, and DNS.
pub(super) fn of_cluster(binaries: &Binaries) -> Result<Vec<PathBuf>, Fault> {
    let pause = image::build(place::PAUSE, &[(pause()?, "pause", 0o755)], &["/pause"], "65535:65535", &[])?;
    let coredns = image::build(place::COREDNS, &[(binaries.path("coredns"), "coredns", 0o755)], &["/coredns"], "", &[])?;
    Ok(vec![pause, coredns])
}

/// The controller, the gateway and the sidecar of this project, built as they are now, and what redirects to the sidecar.
pub(super) fn of_project() -> Result<Vec<PathBuf>, Fault> {
    let folder = programs::build(Profile::Image, &["isthmus-controller", "isthmus-gateway", "isthmus-mesh-proxy"])?;
    let authorities = (system_authorities()?, "etc/ssl/certs/ca-certificates.crt", 0o644);
    let image = |name: &str, program: &'static str, user: &str, files: &[(PathBuf, &'static str, u32)]| {
        let entrypoint = format!("/{program}");
        let files: Vec<_> = [(folder.join(program), program, 0o755)].into_iter().chain(files.iter().cloned()).collect();
        image::build(name, &files, &[&entrypoint], user, &[])
    };
    Ok(vec![
        image(place::CONTROLLER, "isthmus-controller", CONTROLLER_USER, &[])?,
        image(place::GATEWAY, "isthmus-gateway", GATEWAY_USER, std::slice::from_ref(&authorities))?,
        image(place::MESH_PROXY, "isthmus-mesh-proxy", MESH_PROXY_USER, &[authorities])?,
        mesh_redirect(&folder.join("isthmus-mesh-proxy"))?,
    ])
}

/// `nft` at the place where the system has it, with the libraries that it asks for; root, since only root gets capabilities from a pod.
fn mesh_redirect(program: &Path) -> Result<PathBuf, Fault> {
    let nft = tools::nft()?;
    let nft = PathBuf::from(process::capture(Command::new("sh").args(["-c", "command -v \"$0\""]).arg(nft))?.trim());
    let mut system = libraries(&nft)?;
    system.push(nft);
    let inside: Vec<String> = system.iter().map(|path| path.display().to_string()).collect();
    let mut files: Vec<(PathBuf, &str, u32)> =
        system.iter().zip(&inside).map(|(path, inside)| (path.clone(), inside.trim_start_matches('/'), 0o755)).collect();
    files.push((program.to_owned(), "isthmus-mesh-proxy", 0o755));
    image::build(place::MESH_REDIRECT, &files, &["/isthmus-mesh-proxy"], "0:0", &[("PATH", place::SEARCH_PATH)])
}

/// The shared libraries of a program, its loader among them, by the paths at which it looks for them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Fault> {
    let listed = process::capture(Command::new("ldd").arg(program))?;
    Ok(of_ldd(&listed).map(PathBuf::from).collect())
}

/// `name => path (address)`, or the loader's `path (address)`; the kernel's own library has no path.
fn of_ldd(listed: &str) -> impl Iterator<Item = &str> {
    listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
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

fn pause() -> Result<PathBuf, Fault> {
    let (source, target) = (place::source("pause/pause.c"), cache::sub("images")?.join("pause"));
    let built = fs::metadata(&target).and_then(|data| data.modified()).ok();
    let changed = fs::metadata(&source).and_then(|data| data.modified()).context(|| format!("reading {}", source.display()))?;
    if built.is_none_or(|built| built < changed) {
        process::capture(Command::new("gcc").args(["-static", "-Os", "-s", "-o"]).arg(&target).arg(&source))?;
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f9d)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f9e)\n";
        assert_eq!(of_ldd(listed).collect::<Vec<_>>(), ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
