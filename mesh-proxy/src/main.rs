//! `isthmus-mesh-proxy`: the sidecar of a pod, fed by the controller, and the step before it that captures the pod's traffic. Wiring only.
//!
//! `run` has no privileges and writes to one folder, for its certificate and the last good configuration. It answers `/livez`, `/metrics` and
//! the application's probes from the start, `/readyz` with 200 once it has a configuration and a certificate, and then goes on without the
//! controller. `redirect` runs once, as root with the capability NET_ADMIN, in the pod's network namespace.

#![forbid(unsafe_code)]

mod args;
mod probes;
mod redirect;
mod sidecar;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use isthmus_dataplane::process::{self, Signals};
use tracing_subscriber::EnvFilter;

use crate::sidecar::Sidecar;

/// As in the gateway: the system's allocator makes threads wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// It could not start, or the traffic could not be captured.
const FAILED: u8 = 2;
/// A second signal cut the drain short.
const CUT: u8 = 130;

/// The mesh proxy of a pod.
#[derive(Debug, Parser)]
#[command(name = "isthmus-mesh-proxy", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take the pod's captured connections: route what goes out, end the mesh's mTLS of what comes in.
    Run(Box<args::Run>),
    /// Have the kernel hand the TCP connections of this network namespace to the sidecar: one nftables table, replaced whole.
    Redirect(redirect::Arguments),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("ISTHMUS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let ended = match Arguments::parse().command {
        Command::Run(args) => serve(&args),
        Command::Redirect(arguments) => redirect::run(&arguments).map_err(|error| error.to_string()),
    };
    ended.unwrap_or_else(|fault| {
        tracing::error!("{fault}");
        ExitCode::from(FAILED)
    })
}

fn serve(args: &args::Run) -> Result<ExitCode, String> {
    let threads = usize::from(args.threads);
    process::block_on(threads, until_drained(args, threads)).map_err(|error| error.to_string())?
}

/// Serves until a signal, then drains.
async fn until_drained(args: &args::Run, threads: usize) -> Result<ExitCode, String> {
    // First, so that a signal during the start is not fatal.
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    let sidecar = Sidecar::start(args, threads).await.map_err(|error| error.to_string())?;
    let version = env!("CARGO_PKG_VERSION");
    let admin = sidecar.admin().map(|address| address.to_string());
    tracing::info!(version, pod = args.pod(), account = args.account(), controller = args.controller, admin, "started");
    signals.next().await;
    let (lame_duck, deadline) = (args.lame_duck, args.drain);
    tracing::info!(?lame_duck, ?deadline, "draining: not ready; a second signal cuts what is left");
    Ok(tokio::select! {
        () = sidecar.drain(lame_duck, deadline) => ExitCode::SUCCESS,
        _ = signals.next() => ExitCode::from(CUT),
    })
}
