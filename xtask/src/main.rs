//! What `./dev` hands over to: running an example, the tests, the suites written elsewhere, the benchmarks.
//!
//! It changes nothing in the project except where a command says so (`schemas`); what it fetches goes to a cache folder of the user.

#![forbid(unsafe_code)]

mod bench;
mod cache;
mod chart;
mod checks;
mod cluster;
mod cluster_tests;
mod conformance;
mod fault;
mod go;
mod process;
mod programs;
mod run;
mod schemas;
mod suites;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::fault::Fault;

#[derive(Debug, Parser)]
#[command(name = "./dev", bin_name = "./dev", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build, then route real traffic on this machine as the YAML in a folder says.
    Run(run::Arguments),
    /// Formatting, lints and every test that needs no root.
    Test(checks::Arguments),
    /// Drive the gateway with programs written elsewhere: all of them, or those that are named.
    Suites(suites::Arguments),
    /// What a request costs beside other gateways (`edge`), what bytes, round trips and handshakes without HTTP cost (`l4`), what a pair of
    /// sidecars costs (`mesh`) and needs (`memory`), what finding a route costs (`routes`), and how long a route takes to the proxies of a
    /// cluster (`propagation`).
    Bench(bench::Arguments),
    /// A real Kubernetes cluster on this machine, or on yours: `up`, `down`, `status`, `images`, `install`, `test`.
    Cluster(cluster::Arguments),
    /// The images as they are shipped, as OCI archives.
    Images(cluster::images::Arguments),
    /// What Helm makes of the chart.
    Chart(chart::Arguments),
    /// Upstream's conformance suite on that cluster.
    Conformance(conformance::Arguments),
    /// Write the schemas of the pinned CRDs into the project, or compare them with `--check`.
    Schemas {
        /// Change nothing; fail if they differ.
        #[arg(long)]
        check: bool,
    },
    /// Fetch and build now what the tests would fetch later.
    Setup,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Test(arguments) => checks::run(&arguments),
        Command::Suites(arguments) => suites::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Images(arguments) => cluster::images::ship(&arguments),
        Command::Chart(arguments) => chart::run(&arguments),
        Command::Conformance(arguments) => conformance::run(&arguments),
        Command::Schemas { check } => schemas::run(check),
        Command::Setup => setup(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

fn setup() -> Result<(), Fault> {
    println!("upstream's sources: {}", go::upstream()?.display());
    suites::tools::all()
}
