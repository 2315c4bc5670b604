//! The Gateway API's CRDs and our chart.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, place};
use crate::fault::{Context as _, Fault};
use crate::{go, process, workspace};

/// In upstream's module.
const CRDS: &str = "gateway-api@v1.7.0/config/crd/standard";

const NAMESPACE: &str = "isthmus-system";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// A value for the chart, as Helm's `--set`. Where the cluster is not made by `up`, images are named so.
    #[arg(long)]
    set: Vec<String>,
    /// A file of values for the chart.
    #[arg(long)]
    values: Vec<PathBuf>,
}

/// Applies both; twice is the same as once.
pub(super) fn run(cluster: &Cluster, arguments: &Arguments) -> Result<(), Fault> {
    crds(cluster)?;
    chart(cluster, arguments)
}

/// Restarts our Deployments, the controller's first, and waits for it. Where nothing is installed yet, nothing happens.
pub(super) fn restart(cluster: &Cluster) -> Result<(), Fault> {
    for label in ["app.kubernetes.io/name=isthmus-controller", "app.kubernetes.io/managed-by=isthmus-controller"] {
        let columns = "--output=jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{\"\\n\"}{end}";
        let found =
            process::capture(&mut cluster.kubectl(&["get", "deployments", "--all-namespaces", "--selector", label, columns]))?;
        for (namespace, name) in found.lines().filter_map(|line| line.split_once(' ')) {
            process::capture(&mut cluster.kubectl(&["rollout", "restart", "--namespace", namespace, "deployment", name]))?;
            process::capture(&mut cluster.kubectl(&[
                "rollout",
                "status",
                "--namespace",
                namespace,
                "deployment",
                name,
                "--timeout=3m",
            ]))?;
        }
    }
    Ok(())
}

fn crds(cluster: &Cluster) -> Result<(), Fault> {
    let folder = go::upstream()?.join(CRDS);
    let entries = fs::read_dir(&folder).context(|| format!("reading the folder {}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| is_manifest(path)).collect();
    files.sort();
    let mut apply = cluster.kubectl(&["apply", "--server-side", "--force-conflicts"]);
    for file in &files {
        apply.arg("--filename").arg(file);
    }
    process::capture(&mut apply)?;
    process::capture(&mut cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])).map(drop)
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml") && !path.ends_with("kustomization.yaml")
}

fn chart(cluster: &Cluster, arguments: &Arguments) -> Result<(), Fault> {
    let mut helm = cluster.helm();
    helm.args(["upgrade", "--install", "isthmus"]).arg(workspace::root().join("charts/isthmus"));
    helm.args(["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "3m"]);
    if cluster.is_ours() {
        helm.arg("--values").arg(place::place("values.yaml", "values.yaml")?);
    }
    for file in &arguments.values {
        helm.arg("--values").arg(workspace::caller().join(file));
    }
    for value in &arguments.set {
        helm.arg("--set").arg(value);
    }
    process::capture(&mut helm).map(drop)
}
