//! `isthmus run`

mod once;
mod serve;

use std::process::ExitCode;

use crate::args::Run;

/// Everything is good.
const GOOD: u8 = 0;
/// Something of the folder is not in force.
const NOT_GOOD: u8 = 1;
/// It could not be tried: nothing to read, no admin address, no log.
const FAILED: u8 = 2;
/// A second signal cut the drain short.
const CUT: u8 = 130;

/// Serves until it is told to end, or judges the folder once.
pub fn run(args: &Run) -> ExitCode {
    let threads = args.threads.map_or_else(|| std::thread::available_parallelism().map_or(2, usize::from), usize::from);
    // Each connection is a file. What the system allows at most is what a gateway wants; if even that is refused, the usual limit holds.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = match threads {
        // A single worker has nobody to share with, so it need not pay for sharing.
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    };
    let outcome = match runtime {
        Ok(runtime) if args.once => runtime.block_on(once::once(args)),
        Ok(runtime) => runtime.block_on(serve::serve(args, threads)),
        Err(error) => Err(format!("no threads can be had: {error}")),
    };
    ExitCode::from(outcome.unwrap_or_else(|fault| {
        eprintln!("isthmus: {fault}");
        FAILED
    }))
}
