//! The script: which calls go wrong, when, and how.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::calls::{Call, Select};
use super::refusal::Refusal;

/// A rule. Of several that hold for a call the one that was made first counts.
#[derive(Debug, Clone)]
pub struct Fault {
    calls: Select,
    when: When,
    action: Action,
}

/// Which of the calls that are selected, counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Every(u64),
    Nth(u64),
    First(u64),
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Action {
    /// It is refused and has no effect.
    Refuse(Refusal),
    /// The connection is reset; there was no effect.
    Reset,
    /// The connection is reset after the effect: the answer is lost.
    ResetAfter,
    /// The client dies before the call: nothing of it comes through any more.
    Crash,
    /// The client dies after the call.
    CrashAfter,
    /// It comes later.
    Delay(Duration),
    /// Reads show what was there at this version; a watch goes no further until the rule is lifted.
    Stale(u64),
    /// A watch is opened and at once ended by an event that says 410 Gone.
    GoneEvent,
}

/// A rule that was made.
#[derive(Debug, Clone)]
pub struct Rule(pub(super) Arc<Live>);

#[derive(Debug)]
pub(super) struct Live {
    fault: Fault,
    calls: AtomicU64,
    hits: AtomicU64,
    lifted: AtomicBool,
}

impl Fault {
    /// Does this to each of the calls.
    pub fn new(calls: Select, action: Action) -> Self {
        Self { calls, when: When::Always, action }
    }

    /// Only to every `n`-th of them.
    #[must_use]
    pub fn every(mut self, n: u64) -> Self {
        self.when = When::Every(n);
        self
    }

    /// Only to the `n`-th of them.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.when = When::Nth(n);
        self
    }

    /// Only to the first `n` of them.
    #[must_use]
    pub fn first(mut self, n: u64) -> Self {
        self.when = When::First(n);
        self
    }
}

impl Rule {
    /// How often it did something.
    pub fn hits(&self) -> u64 {
        self.0.hits.load(Ordering::SeqCst)
    }

    /// How many calls it could have done something to.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// Ends it. What it holds back goes on.
    pub fn lift(&self) {
        self.0.lifted.store(true, Ordering::SeqCst);
    }
}

impl Live {
    pub(super) fn new(fault: Fault) -> Self {
        Self { fault, calls: AtomicU64::new(0), hits: AtomicU64::new(0), lifted: AtomicBool::new(false) }
    }

    pub(super) fn is_lifted(&self) -> bool {
        self.lifted.load(Ordering::SeqCst)
    }

    pub(super) fn action(&self) -> &Action {
        &self.fault.action
    }

    /// Counts a call and says whether the rule holds for it.
    pub(super) fn holds_for(&self, call: &Call) -> bool {
        if self.is_lifted() || !self.fault.calls.matches(call) {
            return false;
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        match self.fault.when {
            When::Always => true,
            When::Every(n) => number.is_multiple_of(n),
            When::Nth(n) => number == n,
            When::First(n) => number <= n,
        }
    }

    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::SeqCst);
    }
}

/// The rule that counts for a call. Every rule that it could have been counts it.
pub(super) fn judge(rules: &[Arc<Live>], call: &Call) -> Option<Arc<Live>> {
    let holding: Vec<_> = rules.iter().filter(|rule| rule.holds_for(call)).collect();
    let first = holding.first()?;
    first.hit();
    Some(Arc::clone(first))
}
