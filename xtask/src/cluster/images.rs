//! Images: all of the cluster, and ours as they are shipped, are made here, of static programs and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::cluster::binaries::Binaries;
use crate::cluster::{image, node, place};
use crate::fault::{Context as _, Fault};
use crate::programs::{self, Profile};
use crate::suites::tools;
use crate::{cache, process, workspace};

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

/// How our images are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'n> {
    pub(super) repository: &'n str,
    pub(super) tag: &'n str,
}

impl Names<'_> {
    /// The whole name of one of them.
    pub(super) fn of(&self, image: &str) -> String {
        format!("{}/{image}:{}", self.repository, self.tag)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder that the archives are written to.
    #[arg(long)]
    out: PathBuf,
    /// What their names begin with, such as registry.example.com/isthmus.
    #[arg(long, default_value = place::OURS.repository)]
    repository: String,
    /// Their tag; the chart asks for its own version by itself.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
}

/// Writes the images as they are shipped: OCI archives, for whatever pushes such to a registry.
pub(crate) fn ship(arguments: &Arguments) -> Result<(), Fault> {
    let names = Names { repository: &arguments.repository, tag: &arguments.tag };
    let out = workspace::caller().join(&arguments.out);
    fs::create_dir_all(&out).context(|| format!("making the folder {}", out.display()))?;
    let programs = programs::build(Profile::Release, &["isthmus-controller", "isthmus-gateway"])?;
    let sidecar = programs::build(Profile::Sidecar, &["isthmus-mesh-proxy"])?;
    for archive in ours(names, &programs, &sidecar)? {
        let to = out.join(archive.file_name().unwrap_or_default());
        fs::copy(&archive, &to).context(|| format!("writing {}", to.display()))?;
        println!("{}", to.display());
    }
    Ok(())
}

/// The controller, the gateway and the sidecar of this project, built as they are now, and what redirects to the sidecar.
pub(super) fn of_project() -> Result<Vec<PathBuf>, Fault> {
    let folder = programs::build(Profile::Image, &["isthmus-controller", "isthmus-gateway", "isthmus-mesh-proxy"])?;
    ours(place::OURS, &folder, &folder)
}

/// Of the programs in these folders.
fn ours(names: Names<'_>, programs: &Path, sidecar: &Path) -> Result<Vec<PathBuf>, Fault> {
    let authorities = (system_authorities()?, "etc/ssl/certs/ca-certificates.crt", 0o644);
    let sidecar = sidecar.join("isthmus-mesh-proxy");
    let image = |name: &str, program: PathBuf, user: &str, files: &[(PathBuf, &'static str, u32)]| {
        let inside = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files: Vec<_> = [(program, inside.as_str(), 0o755)].into_iter().chain(files.iter().cloned()).collect();
        image::build(&names.of(name), &files, &[&format!("/{inside}")], user, &[])
    };
    Ok(vec![
        image("controller", programs.join("isthmus-controller"), CONTROLLER_USER, &[])?,
        image("gateway", programs.join("isthmus-gateway"), GATEWAY_USER, std::slice::from_ref(&authorities))?,
        image("mesh-proxy", sidecar.clone(), MESH_PROXY_USER, &[authorities])?,
        mesh_redirect(&names.of("mesh-redirect"), &sidecar)?,
    ])
}

/// `nft` at the place where the system has it, with the libraries that it asks for; root, since only root gets capabilities from a pod.
fn mesh_redirect(name: &str, program: &Path) -> Result<PathBuf, Fault> {
    let nft = tools::nft()?;
    let nft = PathBuf::from(process::capture(Command::new("sh").args(["-c", "command -v \"$0\""]).arg(nft))?.trim());
    let mut system = libraries(&nft)?;
    system.push(nft);
    let inside: Vec<String> = system.iter().map(|path| path.display().to_string()).collect();
    let mut files: Vec<(PathBuf, &str, u32)> =
        system.iter().zip(&inside).map(|(path, inside)| (path.clone(), inside.trim_start_matches('/'), 0o755)).collect();
    files.push((program.to_owned(), "isthmus-mesh-proxy", 0o755));
    image::build(name, &files, &["/isthmus-mesh-proxy"], "0:0", &[("PATH", place::SEARCH_PATH)])
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
