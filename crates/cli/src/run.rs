//! `isthmus run`

mod once;
mod serve;

use std::process::ExitCode;

use isthmus_dataplane::process;

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
    let threads = args.threads.map_or_else(process::cores, usize::from);
    let work = async { if args.once { once::once(args).await } else { serve::serve(args, threads).await } };
    let outcome = process::block_on(threads, work).map_err(|error| error.to_string());
    ExitCode::from(outcome.flatten().unwrap_or_else(|fault| {
        eprintln!("isthmus: {fault}");
        FAILED
    }))
}
