//! `isthmus`: hands the command line over to the library.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use isthmus_cli::args::{Args, Command};
use tracing_subscriber::EnvFilter;

/// A proxy allocates small things on every thread; the system's allocator makes the threads wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // What a folder gives rise to is in the table already; `ISTHMUS_LOG=warn` says it again, `debug` more.
    let filter = EnvFilter::try_from_env("ISTHMUS_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(terminal).with_writer(std::io::stderr).init();
    match Args::parse().command {
        Command::Run(args) => isthmus_cli::run::run(&args),
        Command::Wait(args) => isthmus_cli::wait::run(&args),
        Command::Inject(args) => isthmus_cli::inject::run(&args),
        Command::Version => {
            println!("isthmus {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}
