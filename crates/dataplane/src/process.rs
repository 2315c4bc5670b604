//! What every process has around a data plane: worker threads, signals, and times on its command line.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix;

/// Threads where the system does not say how many cores there are.
const THREADS: usize = 2;
/// How long the runtime may take to end: a lookup of an address may block for longer than anybody waits.
const END: Duration = Duration::from_secs(1);

/// Why a process cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There are no threads for it.
    #[error("no threads can be had: {0}")]
    Threads(std::io::Error),
    /// It would not hear when it is to end.
    #[error("signals cannot be waited for: {0}")]
    Signals(std::io::Error),
}

/// How many cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(THREADS, usize::from)
}

/// Runs this on so many worker threads, with as many open files as the system allows.
///
/// # Errors
/// When the threads cannot be had.
pub fn block_on<T>(threads: usize, work: impl Future<Output = T>) -> Result<T, ProcessError> {
    // Each connection is a file, or two. What the system allows at most is what a proxy wants; if even that is refused, the usual limit holds.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = runtime(threads).map_err(ProcessError::Threads)?;
    let ended = runtime.block_on(work);
    runtime.shutdown_timeout(END);
    Ok(ended)
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    match threads {
        // A single worker has nobody to share with, so it need not pay for sharing.
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

/// By which a process is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT, which is Ctrl-C.
    Interrupt,
}

/// Signals are taken while this is there; after that they do nothing.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// Takes them from now on.
    ///
    /// # Errors
    /// When the system refuses that.
    pub fn new() -> Result<Self, ProcessError> {
        let take = |kind| unix::signal(kind).map_err(ProcessError::Signals);
        Ok(Self { terminate: take(unix::SignalKind::terminate())?, interrupt: take(unix::SignalKind::interrupt())? })
    }

    /// Waits for the next one. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}

/// A port on all addresses: of both families or, without IPv6, of IPv4. For [`Options::admin`](crate::Options::admin).
pub fn everywhere(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

/// A time on a command line: seconds, with a fraction or without.
///
/// # Errors
/// When it is no number, or none that a time can be.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_times() {
        for (text, expected) in [
            ("0", Ok(Duration::ZERO)),
            ("34", Ok(Duration::from_secs(34))),
            ("0.5", Ok(Duration::from_millis(500))),
            ("-1", Err("negative")),
            ("1e30", Err("too big")),
            ("NaN", Err("NaN")),
            ("5s", Err("not a number of seconds")),
            ("", Err("not a number of seconds")),
        ] {
            match (parse_seconds(text), expected) {
                (Ok(time), Ok(expected)) => assert_eq!(time, expected, "{text}"),
                (Err(fault), Err(part)) => assert!(fault.contains(part), "{text}: {fault}"),
                (said, _) => panic!("{text}: {said:?}"),
            }
        }
    }

    #[test]
    fn work_ends_with_what_it_said_and_waits_for_nobody() {
        for threads in [1, 2] {
            let begun = std::time::Instant::now();
            let said = block_on(threads, async {
                tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(4)));
                "said"
            });
            assert_eq!(said.expect("there are threads"), "said");
            assert!(begun.elapsed() < Duration::from_secs(3), "{threads}");
        }
    }
}
