//! `./dev bench`: what a request costs, and how long a route takes.

mod edge;
mod envoy;
mod l4;
mod memory;
mod mesh;
mod objects;

use crate::fault::Fault;
use crate::{cluster_tests, process, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Real processes beside each other: this gateway, nginx, haproxy and Envoy.
    Edge {
        /// Flags of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// The same without HTTP: bytes, round trips and TLS handshakes, beside haproxy and nginx.
    L4 {
        /// Flags of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// A pair of sidecars beside a pair of Envoys and beside none, at a fixed rate. As root.
    Mesh {
        /// Flags of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// What a sidecar needs in a cluster of 1,000 Services and 5,000 routes. As root.
    Memory {
        /// Flags of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// A cluster: from the API server accepting an HTTPRoute to the first 200 through the gateway, 200 times.
    Propagation,
    /// The match function at 10 to 100,000 routes, and translation of 10,000 HTTPRoutes.
    Routes,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Fault> {
    match &arguments.what {
        What::Edge { flags } => edge::run(flags),
        What::L4 { flags } => l4::run(flags),
        What::Mesh { flags } => mesh::run(flags),
        What::Memory { flags } => memory::run(flags),
        What::Propagation => cluster_tests::propagation(),
        What::Routes => {
            process::run(&mut workspace::cargo(&[
                "run",
                "--release",
                "--package",
                "isthmus-routing",
                "--example",
                "bench_routes",
            ]))?;
            process::run(&mut workspace::cargo(&[
                "run",
                "--release",
                "--package",
                "isthmus-translate",
                "--example",
                "bench_translate",
            ]))
        }
    }
}
