//! `cargo xtask cluster`: a real single-node Kubernetes cluster on this machine, without Docker and without a registry; or one that the
//! user has, where `ISTHMUS_KUBECONFIG` or `KUBECONFIG` names one.

mod before;
mod binaries;
mod certificates;
mod clock;
mod host_ports;
pub(crate) mod image;
pub(crate) mod images;
mod install;
mod lifecycle;
mod network;
mod node;
mod place;
mod processes;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::binaries::Binaries;
use crate::cluster::clock::Clock;
use crate::fault::Fault;
use crate::{cluster_tests, process, workspace};

pub(crate) use crate::cluster::place::POOLS;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make the cluster, or use that of ISTHMUS_KUBECONFIG or KUBECONFIG; then install the Gateway API and Isthmus on it.
    Up {
        /// Only the cluster itself, with DNS.
        #[arg(long)]
        bare: bool,
        #[command(flatten)]
        install: install::Arguments,
    },
    /// End it and leave nothing behind.
    Down,
    /// What runs, and how to talk to it.
    Status,
    /// Build the images of this project again, hand them to the cluster, and restart what runs older ones.
    Images,
    /// Install the Gateway API's CRDs and the Helm chart, or upgrade to what the project has now.
    Install(install::Arguments),
    /// Tests on it, with what the project has now.
    Test(cluster_tests::Arguments),
    /// The cluster's own kubectl, with its kubeconfig.
    Kubectl {
        /// What kubectl takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Fault> {
    match &arguments.what {
        What::Up { bare, install } => {
            let cluster = if *bare { Cluster::bare()? } else { Cluster::up_with(install)? };
            cluster.describe();
            Ok(())
        }
        What::Down => down(),
        What::Status => Cluster::running()?.status(),
        What::Images => Cluster::running()?.images(),
        What::Install(arguments) => Cluster::running()?.install(arguments),
        What::Test(arguments) => cluster_tests::run(arguments),
        What::Kubectl { arguments } => {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            process::run(&mut Cluster::running()?.kubectl(&arguments))
        }
    }
}

/// The pinned helm, for no cluster.
pub(crate) fn helm() -> Result<Command, Fault> {
    Ok(Binaries::client()?.command("helm"))
}

/// Ends the cluster of this machine; one that the user has stays as it is.
pub(crate) fn down() -> Result<(), Fault> {
    match elsewhere() {
        Some(kubeconfig) => Err(Fault::said(format!(
            "the cluster of {} is not ours to end; `helm uninstall --namespace isthmus-system isthmus` takes Isthmus out of it. \
             Without ISTHMUS_KUBECONFIG and KUBECONFIG this command ends the one that `up` made.",
            kubeconfig.display()
        ))),
        None => lifecycle::down(),
    }
}

/// A cluster that serves.
#[derive(Debug)]
pub(crate) struct Cluster {
    kubeconfig: PathBuf,
    binaries: Binaries,
    /// Whether `up` made it.
    ours: bool,
}

impl Cluster {
    /// Makes the cluster if it is not there, installs the Gateway API, our images and the chart. Twice is the same as once.
    pub(crate) fn up() -> Result<Self, Fault> {
        Self::up_with(&install::Arguments::default())
    }

    fn up_with(arguments: &install::Arguments) -> Result<Self, Fault> {
        let cluster = Self::bare()?;
        let clock = Clock::start();
        if cluster.ours {
            clock.step("our images", || cluster.images())?;
        }
        clock.step("Gateway API and chart", || cluster.install(arguments))?;
        clock.sum("Isthmus");
        Ok(cluster)
    }

    /// The same with nothing on it but DNS.
    pub(crate) fn bare() -> Result<Self, Fault> {
        match elsewhere() {
            Some(kubeconfig) => Self::existing(kubeconfig),
            None => Self::made(lifecycle::up()?),
        }
    }

    /// The one that runs; a fault if there is none.
    pub(crate) fn running() -> Result<Self, Fault> {
        if let Some(kubeconfig) = elsewhere() {
            return Self::existing(kubeconfig);
        }
        lifecycle::running()?;
        Self::made(Binaries::all()?)
    }

    /// One that the user has: nothing of it is made or ended here, and its images are the user's matter.
    pub(crate) fn existing(kubeconfig: PathBuf) -> Result<Self, Fault> {
        let cluster = Self { kubeconfig, binaries: Binaries::client()?, ours: false };
        process::capture(&mut cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=10s"]))?;
        eprintln!("using the cluster of {}", cluster.kubeconfig.display());
        Ok(cluster)
    }

    fn made(binaries: Binaries) -> Result<Self, Fault> {
        Ok(Self { kubeconfig: certificates::kubeconfig_path(), binaries, ours: true })
    }

    /// How to talk to it, as a cluster's administrator.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Whether `up` made it, so that images can be handed to it and addresses of [`POOLS`] lead to it.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours
    }

    /// A kubectl command.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = self.client("kubectl");
        command.args(arguments);
        command
    }

    /// A helm command, without arguments.
    pub(crate) fn helm(&self) -> Command {
        self.client("helm")
    }

    /// Hands an archive of [`image::build`] to the node.
    pub(crate) fn import(&self, archive: &Path) -> Result<(), Fault> {
        if self.ours {
            return images::import(&self.binaries, archive);
        }
        let (kubeconfig, archive) = (self.kubeconfig.display(), archive.display());
        Err(Fault::said(format!(
            "images reach the cluster of {kubeconfig} only by its own means, such as a registry or `kind load image-archive {archive}`"
        )))
    }

    /// Builds our images and hands them to the node; what runs older ones is started anew.
    pub(crate) fn images(&self) -> Result<(), Fault> {
        let archives = images::of_project()?;
        if !self.ours {
            println!(
                "Images of this tree, for a registry or `kind load image-archive`; then\n`install --set image.tag=dev,gateway.image.tag=dev,mesh.proxy.image.tag=dev,mesh.redirect.image.tag=dev`:"
            );
            archives.iter().for_each(|archive| println!("  {}", archive.display()));
            return Ok(());
        }
        let known = |name: &str| images::known(&self.binaries, name);
        let known = || Ok::<_, Fault>([known(&place::OURS.of("controller"))?, known(&place::OURS.of("gateway"))?]);
        let before = known()?;
        archives.iter().try_for_each(|archive| self.import(archive))?;
        if before == known()? {
            return Ok(());
        }
        install::restart(self)
    }

    /// Installs the Gateway API and the chart.
    pub(crate) fn install(&self, arguments: &install::Arguments) -> Result<(), Fault> {
        install::run(self, arguments)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.binaries.command(program);
        command.env("KUBECONFIG", &self.kubeconfig);
        if self.ours {
            // What they keep of a cluster goes with it.
            command.env("KUBECACHEDIR", place::of("clients/kubectl"));
            for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
                command.env(name, place::of("clients/helm"));
            }
        }
        command
    }

    fn describe(&self) {
        println!("export KUBECONFIG={}", self.kubeconfig.display());
        println!("kubectl: {}", self.binaries.path("kubectl").display());
    }

    fn status(&self) -> Result<(), Fault> {
        self.describe();
        if self.ours {
            println!("logs: {}; addresses for Gateways: {}", place::of("logs").display(), POOLS.join(", "));
            node::PROGRAMS
                .iter()
                .for_each(|name| println!("{name:<26} {}", if processes::runs(name) { "runs" } else { "ENDED" }));
        }
        process::run(&mut self.kubectl(&["get", "nodes,pods", "--all-namespaces", "--output", "wide"]))
    }
}

/// The kubeconfig of a cluster that the user has. That of our own does not count.
fn elsewhere() -> Option<PathBuf> {
    let named =
        ["ISTHMUS_KUBECONFIG", "KUBECONFIG"].iter().find_map(|name| env::var_os(name).filter(|value| !value.is_empty()))?;
    // Relative to where the user is; the variable may also list several files.
    let named = if named.to_string_lossy().contains(':') { PathBuf::from(named) } else { workspace::caller().join(named) };
    (named != certificates::kubeconfig_path()).then_some(named)
}
