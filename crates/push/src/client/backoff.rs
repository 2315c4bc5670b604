//! Waits between tries, and what is said of failures to connect.

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

    pub(super) fn next(&mut self) -> Duration {
        let wait = drawn(self.span);
        self.span = self.span.saturating_mul(2).min(self.longest);
        wait
    }

    pub(super) fn reset(&mut self) {
        self.span = self.first;
    }
}

/// Evenly from nothing to this.
fn drawn(span: Duration) -> Duration {
    span.mul_f64(fastrand::f64())
}

/// What a failure to connect says of the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// A controller has answered that nobody leads yet, or that it has not read the cluster yet: there will be a leader soon.
    Soon,
    /// No controller was reached, as it is for a moment when one takes another's place; or one has answered that others come first.
    Unknown,
    /// A controller has answered, and nothing says that it will say anything else soon.
    Poor,
}

/// Waits between tries to connect.
///
/// Soon after a stream that was a good one, and after the start, a controller is expected at any moment: then it is tried about once a
/// [`Limits::pace`], from the first try on at a moment that is drawn, so that a thousand proxies whose leader has gone are as many tries in
/// each, and not all at once. Later, and where a controller has said no, waits double.
#[derive(Debug)]
pub(super) struct Tries {
    pace: Duration,
    patience: Duration,
    backoff: Backoff,
    /// Until when a controller is expected at any moment.
    until: Instant,
    /// Whether one was there before.
    again: bool,
}

impl Tries {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            pace: limits.pace.min(limits.longest_wait),
            patience: limits.expected,
            backoff: Backoff::new(limits),
            until: Instant::now() + limits.expected,
            again: false,
        }
    }

    /// A stream has ended as streams do, so that there will be a controller again.
    pub(super) fn are_due_anew(&mut self) {
        self.backoff.span = self.pace;
        self.until = Instant::now() + self.patience;
        self.again = true;
    }

    /// The wait before the first try after a stream, whatever has ended it.
    pub(super) fn after_stream(&mut self) -> Duration {
        if self.is_expected() { drawn(self.pace) } else { self.backoff.next() }
    }

    /// The wait before the next try after one that has failed.
    pub(super) fn after_failure(&mut self, outlook: Outlook) -> Duration {
        let is_paced = match outlook {
            Outlook::Soon => true,
            Outlook::Unknown => self.is_expected(),
            Outlook::Poor => false,
        };
        if is_paced && self.backoff.span >= self.pace { self.pace / 2 + drawn(self.pace / 2) } else { self.backoff.next() }
    }

    /// Whether there was a controller, and is expected to be one again.
    pub(super) fn are_for_its_return(&self) -> bool {
        self.again && self.is_expected()
    }

    fn is_expected(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Failures to connect, each said once in a while.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// What was said lately, and when.
    said: Vec<(String, Instant)>,
}

impl Complaints {
    /// `serving`: something is. `returns`: a controller was there a moment ago, and is expected back.
    pub(super) fn say(&mut self, complaint: &str, serving: bool, returns: bool) {
        let meanwhile = if serving { "what is served stays" } else { "nothing is served yet" };
        self.said.retain(|(_, at)| at.elapsed() < SAY_AGAIN);
        if self.said.iter().any(|(said, _)| said == complaint) {
            tracing::debug!("no stream from the controller: {complaint}");
            return;
        }
        if returns {
            tracing::info!(
                "no stream from the controller yet, which was there a moment ago: {complaint} ({meanwhile}; it is tried again)"
            );
        } else {
            tracing::warn!("no stream from the controller: {complaint} ({meanwhile}; it is tried again)");
        }
        self.said.push((complaint.to_owned(), Instant::now()));
    }

    pub(super) fn forget(&mut self) {
        self.said.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { first_wait: Duration::from_millis(100), ..Limits::default() }
    }

    #[test]
    fn waits_grow_up_to_the_longest_and_begin_anew() {
        let limits = Limits { longest_wait: Duration::from_secs(1), ..limits() };
        let mut backoff = Backoff::new(&limits);
        for span in [100, 200, 400, 800, 1000, 1000] {
            assert_eq!(backoff.span, Duration::from_millis(span));
            assert!(backoff.next() < Duration::from_millis(span));
        }
        backoff.reset();
        assert_eq!(backoff.span, Duration::from_millis(100));
        let waits: Vec<_> = (0..10).map(|_| Backoff::new(&limits).next()).collect();
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]), "they are drawn: {waits:?}");
    }

    /// When a thousand proxies try, whose streams end at once, if each failure has this outlook. In milliseconds, sorted.
    async fn thousand(outlook: Outlook, leader: Duration) -> Vec<u64> {
        let start = Instant::now();
        let proxy = |_| {
            tokio::spawn(async move {
                let mut tries = Tries::new(&Limits::default());
                tries.are_due_anew();
                let mut tried = Vec::new();
                let mut wait = tries.after_stream();
                loop {
                    tokio::time::sleep(wait).await;
                    tried.push(u64::try_from(start.elapsed().as_millis()).unwrap());
                    if start.elapsed() >= leader {
                        return tried;
                    }
                    wait = tries.after_failure(outlook);
                }
            })
        };
        let proxies: Vec<_> = (0..1000).map(proxy).collect();
        let mut tried = Vec::new();
        for proxy in proxies {
            tried.extend(proxy.await.unwrap());
        }
        tried.sort_unstable();
        tried
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_proxies_are_back_within_a_second_of_a_leader_and_never_try_all_at_once() {
        for outlook in [Outlook::Soon, Outlook::Unknown] {
            for leader in [0, 1, 3, 20] {
                let leader = Duration::from_secs(leader);
                let tried = thousand(outlook, leader).await;
                let last = Duration::from_millis(*tried.last().unwrap());
                assert!(
                    last <= leader + Duration::from_millis(1010),
                    "{outlook:?}, a leader after {leader:?}: back after {last:?}"
                );
                let within = |from: u64, length: u64| tried.iter().filter(|at| (from..from + length).contains(*at)).count();
                let most =
                    (0..=last.as_millis()).step_by(50).map(|from| within(u64::try_from(from).unwrap(), 100)).max().unwrap();
                assert!(most < 250, "{most} tries in a tenth of a second");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_is_really_away_is_waited_for_for_long() {
        let gaps = |tried: &[u64], from: u64| tried.iter().filter(|at| **at >= from).count();
        let tried = thousand(Outlook::Unknown, Duration::from_secs(600)).await;
        // Half of 10 s is what a wait is on average.
        let later = gaps(&tried, 200_000);
        assert!((60_000..100_000).contains(&later), "{later} tries of a thousand in 400 s");
        let tried = thousand(Outlook::Poor, Duration::from_secs(600)).await;
        assert!(gaps(&tried, 30_000) < 140_000, "whoever is told no does not ask each second");
        let tried = thousand(Outlook::Soon, Duration::from_secs(120)).await;
        assert!(gaps(&tried, 100_000) > 20_000, "where controllers say that there will be a leader, there will be one");
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_start_the_first_tries_are_quick() {
        let mut tries = Tries::new(&limits());
        assert!(!tries.are_for_its_return());
        for outlook in [Outlook::Unknown, Outlook::Soon, Outlook::Poor, Outlook::Unknown] {
            let span = tries.backoff.span;
            assert!(span < tries.pace && tries.after_failure(outlook) < span);
        }
        tries.backoff.span = Duration::from_secs(1);
        for _ in 0..100 {
            let wait = tries.after_failure(Outlook::Unknown);
            assert!((Duration::from_millis(500)..Duration::from_secs(1)).contains(&wait), "{wait:?}");
        }
        tokio::time::advance(Limits::default().expected).await;
        tries.after_failure(Outlook::Unknown);
        assert_eq!(tries.backoff.span, Duration::from_secs(2));
        tries.are_due_anew();
        assert!(tries.are_for_its_return() && tries.after_stream() < Duration::from_secs(1));
    }
}
