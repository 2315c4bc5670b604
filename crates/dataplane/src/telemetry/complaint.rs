//! Lines of the log that whoever connects can cause: one at a time for each cause, however often it is met. Metrics tell of each.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ConnectionFault;

/// How long after a line the next one of the same cause comes at the earliest.
const AGAIN: Duration = Duration::from_secs(30);

/// When the log last said why connections are refused, by cause.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    last: [Mutex<Option<Instant>>; ConnectionFault::ALL.len()],
}

impl Complaints {
    /// Has it said, unless something of this cause was said a short time before `now`.
    pub(crate) fn make(&self, fault: ConnectionFault, now: Instant, say: impl FnOnce()) {
        let mut last = self.last[fault as usize].lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= AGAIN) {
            *last = Some(now);
            drop(last);
            say();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once_in_a_while() {
        let complaints = Complaints::default();
        let now = Instant::now();
        let mut said = Vec::new();
        for (after, fault, is_said) in [
            (0, ConnectionFault::Plaintext, true),
            (0, ConnectionFault::Plaintext, false),
            (29, ConnectionFault::Plaintext, false),
            (29, ConnectionFault::Loop, true),
            (30, ConnectionFault::Plaintext, true),
            (31, ConnectionFault::Plaintext, false),
            // Of a clock that is read before another one's lock is had.
            (0, ConnectionFault::Plaintext, false),
        ] {
            let before = said.len();
            complaints.make(fault, now + Duration::from_secs(after), || said.push(fault));
            assert_eq!(said.len() > before, is_said, "{fault:?} after {after} s");
        }
    }
}
