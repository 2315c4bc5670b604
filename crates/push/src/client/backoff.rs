//! Waits between tries to connect, and what is said of their failures.

use std::time::Duration;

use tokio::time::Instant;

use super::Limits;

/// The same complaint is repeated no sooner.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Waits that are drawn evenly from a span that doubles ("full jitter"), so that proxies do not come back all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    span: Duration,
}

impl Backoff {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { first: limits.first_wait, longest: limits.longest_wait, span: limits.first_wait }
    }

    /// The next wait, drawn from a span of `longest` at most.
    pub(super) fn next(&mut self, longest: Duration) -> Duration {
        let wait = self.span.min(longest).mul_f64(fastrand::f64());
        self.span = self.span.saturating_mul(2).min(self.longest);
        wait
    }

    pub(super) fn reset(&mut self) {
        self.span = self.first;
    }
}

/// Failures to connect, each said once in a while.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<(String, Instant)>,
}

impl Complaints {
    pub(super) fn say(&mut self, complaint: &str, serving: bool) {
        let meanwhile = if serving { "what is served stays" } else { "nothing is served yet" };
        let repeated = self.last.as_ref().is_some_and(|(last, at)| last == complaint && at.elapsed() < SAY_AGAIN);
        if repeated {
            tracing::debug!("no stream from the controller: {complaint}");
            return;
        }
        tracing::warn!("no stream from the controller: {complaint} ({meanwhile}; it is tried again)");
        self.last = Some((complaint.to_owned(), Instant::now()));
    }

    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest_and_begin_anew() {
        let limits = Limits { first_wait: Duration::from_millis(100), longest_wait: Duration::from_secs(1), ..Limits::default() };
        let mut backoff = Backoff::new(&limits);
        for span in [100, 200, 400, 800, 1000, 1000] {
            assert_eq!(backoff.span, Duration::from_millis(span));
            assert!(backoff.next(Duration::MAX) < Duration::from_millis(span));
        }
        backoff.reset();
        assert_eq!(backoff.span, Duration::from_millis(100));
        assert!(backoff.next(Duration::from_millis(1)) < Duration::from_millis(1));
        let waits: Vec<_> = (0..10).map(|_| Backoff::new(&limits).next(Duration::MAX)).collect();
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]), "they are drawn: {waits:?}");
    }
}
