//! The test binary `cluster`, on the cluster.

use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::{conformance, go, process, workspace};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out what restarts or stops the controller.
    #[arg(long)]
    calm: bool,
    /// How many tests run beside each other.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Only tests whose name contains one of these.
    filters: Vec<String>,
}

/// Makes the cluster if it is not there, and runs them: a row for each.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Fault> {
    on(&Cluster::up()?, arguments)
}

/// How long a route takes to the proxies. On the cluster as it is, if there is one.
pub(crate) fn propagation() -> Result<(), Fault> {
    let cluster = Cluster::running().or_else(|_| Cluster::up())?;
    on(&cluster, &Arguments { filters: vec!["propagation::bench".to_owned()], ..Arguments::default() })
}

/// Runs them on a cluster that has Isthmus.
pub(crate) fn on(cluster: &Cluster, arguments: &Arguments) -> Result<(), Fault> {
    // The backends of these tests are upstream's.
    conformance::images(cluster)?;
    // One of them runs the command, which `cargo test` does not build.
    process::run(&mut workspace::cargo(&["build", "--workspace", "--bin", "isthmus", "--quiet"]))?;
    let mut tests = workspace::cargo(&["test", "--workspace", "--quiet", "--test", "cluster", "--"]);
    tests.env("ISTHMUS_CLUSTER_KUBECONFIG", cluster.kubeconfig());
    // One installs a CRD that is not of the standard channel.
    tests.env("ISTHMUS_UPSTREAM", go::upstream()?);
    if arguments.calm {
        tests.arg("--calm");
    }
    if let Some(jobs) = arguments.jobs {
        tests.args(["--jobs", &jobs.to_string()]);
    }
    process::run(tests.args(&arguments.filters))
}
