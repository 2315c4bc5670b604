//! Absolute deadlines of a request and of each of its tries.
//!
//! Pingora's timeouts start anew with every read, so an endpoint that sends a byte now and then would never meet one. What
//! counts here is the clock: [`super::timed`] ends whatever is going on when the deadline passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use isthmus_routing::Timeouts;
use pingora_core::upstreams::peer::HttpPeer;

use super::defaults;

/// Pingora's own timeouts fire this long after the deadline: they only step in where the deadline is not watched, as in a write to
/// an endpoint that takes nothing.
const BACKSTOP: Duration = Duration::from_millis(20);

/// How long a rule lets things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// > Request specifies the maximum duration for a gateway to respond to an HTTP request.
    request: Option<Duration>,
    /// > BackendRequest specifies a timeout for an individual request from the gateway to a backend.
    attempt: Option<Duration>,
    /// > Setting a timeout to the zero duration (e.g. "0s") SHOULD disable the timeout completely.
    idle: bool,
}

/// Which deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// Of the whole request.
    Request,
    /// Of one try.
    Attempt,
}

/// The deadlines of one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deadlines {
    request: Option<Instant>,
    attempt: Option<Instant>,
    /// None: there is nothing to wait for.
    due: Option<Due>,
}

/// The earlier one, shared with whoever waits for it.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    epoch: Instant,
    /// After the epoch, in nanoseconds; `u64::MAX`: never.
    nanos: Arc<AtomicU64>,
}

impl Patience {
    /// Of a rule.
    pub(crate) fn of(timeouts: &Timeouts) -> Self {
        let set = |timeout: Option<Duration>| timeout.filter(|timeout| !timeout.is_zero());
        let (request, attempt) = (set(timeouts.request), set(timeouts.backend_request));
        Self { request, attempt, idle: timeouts.request.is_none() && timeouts.backend_request.is_none() }
    }

    /// Both: the shorter of each time, and silence is watched only if neither says anything.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        let shorter = |one: Option<Duration>, other: Option<Duration>| one.into_iter().chain(other).min();
        Self {
            request: shorter(self.request, other.request),
            attempt: shorter(self.attempt, other.attempt),
            idle: self.idle && other.idle,
        }
    }

    /// Whether there is any deadline to watch.
    pub(crate) fn has_deadline(&self) -> bool {
        self.request.is_some() || self.attempt.is_some()
    }

    /// How long an endpoint may stay silent, if there is no deadline.
    fn idle(&self, manner: Manner) -> Option<Duration> {
        match (self.idle, manner) {
            (_, Manner::Upgrade) | (true, Manner::Stream) => Some(defaults::STREAM_IDLE),
            (true, Manner::Plain) => Some(defaults::IDLE),
            (false, _) => None,
        }
    }
}

/// What silence means on a connection to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Something is wrong.
    Plain,
    /// Nothing (gRPC).
    Stream,
    /// Nothing, and it goes on after the request has been answered.
    Upgrade,
}

impl Deadlines {
    /// The deadline of a request that arrived at `started`.
    pub(crate) fn new(patience: &Patience, started: Instant) -> Self {
        // Too far to be an instant is never.
        let request = patience.request.and_then(|timeout| started.checked_add(timeout));
        let due = patience.has_deadline().then(|| Due { epoch: started, nanos: Arc::default() });
        let deadlines = Self { request, attempt: None, due };
        deadlines.share();
        deadlines
    }

    /// A try begins now.
    pub(crate) fn begin_try(&mut self, patience: &Patience, now: Instant) {
        self.attempt = patience.attempt.and_then(|timeout| now.checked_add(timeout));
        self.share();
    }

    /// A try is over, and the next has not begun.
    pub(crate) fn end_try(&mut self) {
        self.attempt = None;
        self.share();
    }

    /// What was asked for has been answered; what follows (an upgraded connection) is not bound by it.
    pub(crate) fn lift(&mut self) {
        (self.request, self.attempt) = (None, None);
        self.share();
    }

    /// The deadline that has passed; the request's before the try's.
    pub(crate) fn passed(&self, now: Instant) -> Option<Passed> {
        let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        match (over(self.request), over(self.attempt)) {
            (true, _) => Some(Passed::Request),
            (false, true) => Some(Passed::Attempt),
            (false, false) => None,
        }
    }

    /// How long until the next deadline; none: there is none.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        Some(self.next()?.saturating_duration_since(now))
    }

    /// For whoever has to stop when the deadline passes; none: the rule has no timeout.
    pub(crate) fn due(&self) -> Option<Due> {
        self.due.clone()
    }

    /// Sets the timeouts of a try.
    pub(crate) fn apply(&self, peer: &mut HttpPeer, patience: &Patience, manner: Manner, now: Instant) {
        let options = &mut peer.options;
        let remaining = self.remaining(now);
        if let Some(remaining) = remaining {
            let connect = Some(remaining.min(defaults::CONNECT));
            (options.connection_timeout, options.total_connection_timeout) = (connect, connect);
        }
        let silence = match remaining {
            // Timeouts of the connection outlive the answer that the deadline is for.
            Some(remaining) if manner != Manner::Upgrade => Some(remaining + BACKSTOP),
            _ => patience.idle(manner),
        };
        (options.read_timeout, options.write_timeout) = (silence, silence);
    }

    fn next(&self) -> Option<Instant> {
        [self.request, self.attempt].into_iter().flatten().min()
    }

    fn share(&self) {
        let Some(due) = &self.due else { return };
        let after = self.next().map(|next| next.saturating_duration_since(due.epoch).as_nanos());
        due.nanos.store(after.and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Due {
    /// The moment; none: never.
    pub(crate) fn at(&self) -> Option<Instant> {
        match self.nanos.load(Relaxed) {
            u64::MAX => None,
            nanos => self.epoch.checked_add(Duration::from_nanos(nanos)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn patience(request: Option<u64>, attempt: Option<u64>) -> Patience {
        Patience::of(&Timeouts { request: request.map(ms), backend_request: attempt.map(ms) })
    }

    #[test]
    fn the_earlier_deadline_counts_and_a_try_begins_anew() {
        let start = Instant::now();
        for (request, attempt, begun, at, remaining, passed) in [
            (None, None, 0, 900, None, None),
            (Some(0), Some(0), 0, 900, None, None),
            (Some(500), None, 0, 100, Some(400), None),
            (Some(500), None, 400, 500, Some(0), Some(Passed::Request)),
            (None, Some(100), 300, 350, Some(50), None),
            (None, Some(100), 300, 400, Some(0), Some(Passed::Attempt)),
            (Some(500), Some(100), 0, 50, Some(50), None),
            (Some(500), Some(100), 0, 100, Some(0), Some(Passed::Attempt)),
            (Some(500), Some(100), 450, 470, Some(30), None),
            (Some(500), Some(100), 450, 500, Some(0), Some(Passed::Request)),
            (Some(500), Some(100), 450, 600, Some(0), Some(Passed::Request)),
        ] {
            let patience = patience(request, attempt);
            let mut deadlines = Deadlines::new(&patience, start);
            let due = deadlines.due();
            let due = || due.as_ref().and_then(Due::at);
            deadlines.begin_try(&patience, start + ms(begun));
            let now = start + ms(at);
            let case = format!("{request:?} {attempt:?} {begun} {at}");
            assert_eq!(deadlines.remaining(now), remaining.map(ms), "{case}");
            assert_eq!(deadlines.passed(now), passed, "{case}");
            assert_eq!(due().map(|at| at.saturating_duration_since(now)), remaining.map(ms), "{case}");
            deadlines.lift();
            assert_eq!((deadlines.passed(now), due()), (None, None), "{case}");
        }
    }

    #[test]
    fn of_two_rules_the_more_impatient_counts() {
        for (one, other, both) in [
            ((None, None), (None, None), (None, None)),
            ((Some(500), None), (None, Some(100)), (Some(500), Some(100))),
            ((Some(500), Some(50)), (Some(300), Some(100)), (Some(300), Some(50))),
        ] {
            let [one, other, both] = [one, other, both].map(|(request, attempt)| patience(request, attempt));
            assert_eq!((one.and(other), other.and(one)), (both, both));
        }
        // Zero takes the limit away, and that nothing is said on the other side does not bring it back.
        assert_eq!(patience(Some(0), None).and(patience(None, None)), patience(Some(0), None));
    }

    #[test]
    fn absent_timeouts_leave_the_default_silence_and_zero_leaves_none() {
        let now = Instant::now();
        use Manner::{Plain, Stream, Upgrade};
        for (request, attempt, manner, read) in [
            (None, None, Plain, Some(defaults::IDLE)),
            (None, None, Stream, Some(defaults::STREAM_IDLE)),
            (None, None, Upgrade, Some(defaults::STREAM_IDLE)),
            (Some(0), None, Plain, None),
            (None, Some(0), Stream, None),
            (Some(600_000), None, Plain, Some(ms(600_000) + BACKSTOP)),
            (Some(0), Some(80), Plain, Some(ms(80) + BACKSTOP)),
            (Some(80), None, Upgrade, Some(defaults::STREAM_IDLE)),
        ] {
            let patience = patience(request, attempt);
            let mut deadlines = Deadlines::new(&patience, now);
            deadlines.begin_try(&patience, now);
            let mut peer = HttpPeer::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)), false, String::new());
            deadlines.apply(&mut peer, &patience, manner, now);
            assert_eq!(peer.options.read_timeout, read, "{request:?} {attempt:?} {manner:?}");
            assert_eq!(peer.options.write_timeout, read, "{request:?} {attempt:?}");
            let connect = peer.options.total_connection_timeout.unwrap_or(defaults::CONNECT);
            assert!(connect <= defaults::CONNECT);
            assert_eq!(patience.has_deadline(), deadlines.due().is_some_and(|due| due.at().is_some()));
        }
    }

    #[test]
    fn a_timeout_beyond_time_is_never() {
        let start = Instant::now();
        let patience = Patience::of(&Timeouts { request: Some(Duration::MAX), backend_request: Some(Duration::MAX) });
        let mut deadlines = Deadlines::new(&patience, start);
        deadlines.begin_try(&patience, start);
        assert_eq!((deadlines.passed(start), deadlines.due().and_then(|due| due.at())), (None, None));
    }
}
