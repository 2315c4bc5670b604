//! Where the time went: a line for each step as it ends, and a sum.

use std::time::{Duration, Instant};

use crate::fault::Fault;

/// Runs steps and says how long each took.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Runs a step; steps may run beside each other.
    pub(super) fn step<T>(&self, name: &str, what: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        let start = Instant::now();
        let outcome = what();
        let word = if outcome.is_ok() { "" } else { "  FAILED" };
        line(name, start.elapsed(), word);
        outcome
    }

    /// Says how long all of it took.
    pub(super) fn sum(&self, name: &str) {
        line(name, self.start.elapsed(), "");
    }
}

fn line(name: &str, took: Duration, word: &str) {
    eprintln!("  {name:<36} {:>6.1} s{word}", took.as_secs_f32());
}
