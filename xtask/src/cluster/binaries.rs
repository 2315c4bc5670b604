//! The cluster's programs, built from pinned Go modules into the cache: once for each version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::cluster::clock::Clock;
use crate::cluster::place;
use crate::fault::{Context as _, Fault};
use crate::{cache, go, process};

/// The module with Kubernetes, and that with containerd: their dependencies do not fit together.
const MODULES: [&str; 2] = ["", "containerd"];

/// Name, module, package.
const PROGRAMS: [(&str, &str, &str); 12] = [
    ("etcd", "", "./etcd"),
    ("coredns", "", "./coredns"),
    ("kubectl", "", "k8s.io/kubernetes/cmd/kubectl"),
    ("helm", "", "helm.sh/helm/v4/cmd/helm"),
    ("kube-apiserver", "", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-scheduler", "", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kube-proxy", "", "k8s.io/kubernetes/cmd/kube-proxy"),
    ("kubelet", "", "k8s.io/kubernetes/cmd/kubelet"),
    ("containerd", "containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    ("containerd-shim-runc-v2", "containerd", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    ("ctr", "containerd", "github.com/containerd/containerd/v2/cmd/ctr"),
];

/// What a client of any cluster needs.
const CLIENT: [&str; 2] = ["kubectl", "helm"];

/// The folder with the programs.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Builds those that are not there.
    pub(super) fn all() -> Result<Self, Fault> {
        Self::build(|_| true)
    }

    /// The same for the two that a client needs.
    pub(super) fn client() -> Result<Self, Fault> {
        Self::build(|name| CLIENT.contains(&name))
    }

    /// A command that runs one of them.
    pub(super) fn command(&self, name: &str) -> Command {
        Command::new(self.path(name))
    }

    /// What they find each other by.
    pub(super) fn search_path(&self) -> String {
        format!("{}:{}", self.folder.display(), place::SEARCH_PATH)
    }

    /// The path of one.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn build(wanted: impl Fn(&str) -> bool) -> Result<Self, Fault> {
        let binaries = Self { folder: cache::sub(&format!("cluster-{}", fingerprint()?))? };
        let missing: Vec<_> =
            PROGRAMS.iter().filter(|(name, ..)| wanted(name)).filter(|(name, ..)| !binaries.path(name).exists()).collect();
        if missing.is_empty() {
            return Ok(binaries);
        }
        eprintln!(
            "building {} programs into {} (once: minutes, or half an hour where Go has built nothing before)",
            missing.len(),
            binaries.folder.display()
        );
        let flags = [flags(&kubernetes()?), containerd_flags()];
        let clock = Clock::start();
        for (name, module, package) in missing {
            let flags = &flags[usize::from(!module.is_empty())];
            clock.step(name, || build(&place::source(module), package, flags, &binaries.path(name)))?;
        }
        Ok(binaries)
    }
}

/// Under another name first: whoever is killed half way leaves no half program.
fn build(module: &Path, package: &str, flags: &[String], target: &Path) -> Result<(), Fault> {
    let half = target.with_extension("half");
    let mut command = go::in_module(module)?;
    command.args(["build", "-trimpath", "-buildvcs=false"]).args(flags).arg("-o").arg(&half).arg(package).env("CGO_ENABLED", "0");
    process::capture(&mut command)?;
    fs::rename(&half, target).context(|| format!("renaming to {}", target.display()))
}

/// Kubernetes' programs say which version they are only if they are told.
fn flags(version: &str) -> Vec<String> {
    let numbers: Vec<&str> = version.trim_start_matches('v').split('.').collect();
    let (major, minor) = (numbers.first().unwrap_or(&"0"), numbers.get(1).unwrap_or(&"0"));
    let values = [
        ("gitVersion", version),
        ("gitMajor", major),
        ("gitMinor", minor),
        ("gitTreeState", "clean"),
        ("gitCommit", "0000000000000000000000000000000000000000"),
        ("buildDate", "1970-01-01T00:00:00Z"),
    ];
    let values: String = values.iter().map(|(name, value)| format!(" -X k8s.io/component-base/version.{name}={value}")).collect();
    vec!["-ldflags".to_owned(), format!("-s -w{values}")]
}

/// Without what needs libraries of the system.
fn containerd_flags() -> Vec<String> {
    ["-tags", "no_btrfs no_devmapper no_zfs", "-ldflags", "-s -w"].map(str::to_owned).to_vec()
}

/// The version that the module asks for.
pub(super) fn kubernetes() -> Result<String, Fault> {
    let path = place::source("go.mod");
    let text = fs::read_to_string(&path).context(|| format!("reading {}", path.display()))?;
    let version = text.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    version.map(str::to_owned).ok_or_else(|| Fault::said(format!("{} does not ask for k8s.io/kubernetes", path.display())))
}

/// Of all that the programs are built from.
fn fingerprint() -> Result<String, Fault> {
    let mut digest = Sha256::new();
    let sources = MODULES.iter().flat_map(|module| ["go.mod", "go.sum"].map(|file| Path::new(module).join(file)));
    for file in sources.chain(["etcd/main.go", "coredns/main.go"].map(PathBuf::from)) {
        let path = place::source("").join(file);
        digest.update(fs::read(&path).context(|| format!("reading {}", path.display()))?);
    }
    digest.update(go::TOOLCHAIN);
    digest.update(format!("{:?}{:?}{PROGRAMS:?}", flags(""), containerd_flags()));
    Ok(digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}
