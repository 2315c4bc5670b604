//! `isthmus-gateway`: the data plane of one Gateway, fed by the controller. Wiring only.
//!
//! It runs without privileges and writes to one folder, for the last good configuration. It answers `/livez` and `/metrics` from the start,
//! `/readyz` with 200 from the first configuration on, stored or received, and then goes on without the controller.

#![forbid(unsafe_code)]

mod args;
mod families;
mod gateway;

use std::process::ExitCode;

use clap::Parser;
use isthmus_dataplane::process::{self, Signals};
use tracing_subscriber::EnvFilter;

use crate::args::Args;
use crate::gateway::Gateway;

/// A proxy allocates small things on every thread; the system's allocator makes the threads wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// It could not start.
const FAILED: u8 = 2;
/// A second signal cut the drain short.
const CUT: u8 = 130;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("ISTHMUS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let threads = args.threads.map_or_else(process::cores, usize::from);
    let ended = process::block_on(threads, run(&args, threads)).map_err(|error| error.to_string()).flatten();
    ended.unwrap_or_else(|fault| {
        tracing::error!("{fault}");
        ExitCode::from(FAILED)
    })
}

/// Serves until a signal, then drains.
async fn run(args: &Args, threads: usize) -> Result<ExitCode, String> {
    // First, so that a signal during the start is not fatal.
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    let gateway = Gateway::start(args, threads).await.map_err(|error| error.to_string())?;
    let version = env!("CARGO_PKG_VERSION");
    let admin = gateway.admin().map(|address| address.to_string());
    tracing::info!(version, gateway = args.gateway(), pod = args.pod(), controller = args.controller, admin, "started");
    signals.next().await;
    let (lame_duck, deadline) = (args.lame_duck, args.drain);
    tracing::info!(?lame_duck, ?deadline, "draining: not ready; a second signal cuts what is left");
    Ok(tokio::select! {
        () = gateway.drain(lame_duck, deadline) => ExitCode::SUCCESS,
        _ = signals.next() => ExitCode::from(CUT),
    })
}
