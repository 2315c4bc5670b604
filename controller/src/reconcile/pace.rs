//! When statuses are handed over.

use std::time::{Duration, Instant};

/// How long statuses wait for proxies to acknowledge what they tell of.
const HOLD: Duration = Duration::from_millis(100);
/// How often statuses are written while proxies are waited for.
const PACE: Duration = Duration::from_millis(500);

/// When statuses are handed over.
#[derive(Debug, Default)]
pub(super) struct StatusPace {
    /// Since when they may have changed.
    stale: Option<Instant>,
    /// Not before, unless all proxies have acknowledged.
    hold: Option<Instant>,
}

impl StatusPace {
    /// They may have changed, and there is more to come until then.
    pub(super) fn held(now: Instant, until: Instant) -> Self {
        Self { stale: Some(now), hold: Some(until) }
    }

    /// Whether it is time.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.stale.is_some() && self.hold.is_none_or(|hold| now >= hold)
    }

    /// When it will be time; none: there is nothing to wait for.
    pub(super) fn due(&self) -> Option<Instant> {
        self.hold.filter(|_| self.stale.is_some())
    }

    /// They may have changed.
    pub(super) fn touch(&mut self, now: Instant) {
        self.stale.get_or_insert(now);
    }

    /// Proxies are to acknowledge something new: there is time for that, less what statuses have waited already. It may be held for longer.
    pub(super) fn hold(&mut self, now: Instant) {
        if self.hold.is_none_or(|hold| hold <= now) {
            self.hold = Some(self.stale.unwrap_or(now) + HOLD);
        }
    }

    /// Nobody is waited for.
    pub(super) fn settled(&mut self) {
        self.hold = None;
    }

    /// They are handed over now.
    pub(super) fn written(&mut self, now: Instant) {
        *self = Self { stale: None, hold: Some(now + PACE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::PATIENCE;

    #[test]
    fn statuses_wait_for_proxies_but_changes_that_never_end_do_not_hold_them_back() {
        let start = Instant::now();
        for settles in [false, true] {
            let mut pace = StatusPace::default();
            let mut due = Vec::new();
            // A change each 10 ms; acknowledged only when the next one is there already, or never.
            for step in 0..50_u32 {
                let now = start + step * Duration::from_millis(10);
                if settles {
                    pace.settled();
                }
                pace.hold(now);
                pace.touch(now);
                if pace.is_due(now) {
                    due.push(step);
                    pace.written(now);
                }
            }
            assert_eq!(due.first(), Some(&10), "{settles}");
        }
        let mut waits = StatusPace { stale: None, hold: Some(start) };
        waits.hold(start);
        assert_eq!(waits.hold, Some(start + HOLD));
        let mut longer = StatusPace::held(start, start + PATIENCE);
        longer.hold(start);
        assert_eq!(longer.hold, Some(start + PATIENCE));
    }
}
