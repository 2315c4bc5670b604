//! Whether a request is tried again, and after which wait.

use std::time::Duration;

use isthmus_routing::Retry;

use super::defaults;

/// What a rule says of retries, or the default if it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    configured: Option<Retry>,
}

/// Why a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No connection was made, so nothing was sent.
    NotConnected,
    /// The endpoint refused the stream before it looked at it, or was going away (HTTP/2).
    Refused,
    /// A connection that was kept from a request before turned out to be closed. Whether this request was read is not known.
    Stale,
    /// The endpoint answered with this code.
    Code(u16),
    /// The endpoint answered gRPC's UNAVAILABLE and nothing else.
    Unavailable,
    /// > any retry attempts which reach the configured BackendRequest timeout duration without a response SHOULD be canceled if
    /// > possible and the Gateway SHOULD schedule the next retry attempt according to the configured backoff.
    AttemptTimeout,
    /// The exchange failed when the request may have been processed:
    ///
    /// > Implementations SHOULD NOT retry by default on failures where the request may have been processed (e.g., a connection reset
    /// > after the request was sent).
    Broken,
}

/// What is to be done about a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again.
    Again,
    /// It would be tried again, but it was often enough.
    Exhausted,
    /// Not a case for a retry.
    Final,
}

impl RetryPolicy {
    /// Of a rule.
    pub(crate) fn of(retry: Option<&Retry>) -> Self {
        Self { configured: retry.cloned() }
    }

    /// Whether the rule says something of retries.
    pub(crate) fn is_configured(&self) -> bool {
        self.configured.is_some()
    }

    /// Whether a try is followed by another, when `retries` have been made already.
    pub(crate) fn judge(&self, cause: Cause, retries: u32, idempotent: bool) -> Verdict {
        let safe = match cause {
            Cause::NotConnected | Cause::Refused => true,
            Cause::Stale => idempotent,
            Cause::Code(_) | Cause::Unavailable | Cause::AttemptTimeout | Cause::Broken => false,
        };
        let (wanted, limit) = match &self.configured {
            None => (safe, defaults::FAILOVERS),
            Some(retry) => {
                let asked = match cause {
                    Cause::Code(code) => retry.on_code(code),
                    Cause::Unavailable | Cause::AttemptTimeout => true,
                    _ => safe,
                };
                (asked, retry.attempts)
            }
        };
        match (wanted, retries < limit) {
            (true, true) => Verdict::Again,
            // Who asked for no retries is not told that there were too few.
            (true, false) if retries > 0 && self.configured.is_some() => Verdict::Exhausted,
            _ => Verdict::Final,
        }
    }

    /// The wait before retry number `retry` (from 1): between a half and the whole of `base * 2^(retry-1)`, which is capped. `drawn` is
    /// random. Without a `retry` stanza there is none: another endpoint is asked, and only a few times.
    pub(crate) fn wait(&self, retry: u32, drawn: u32) -> Duration {
        let Some(configured) = &self.configured else { return Duration::ZERO };
        let base = configured.backoff.unwrap_or(defaults::BACKOFF);
        let cap = base.saturating_mul(defaults::BACKOFF_CAP);
        let doubled = base.saturating_mul(2_u32.saturating_pow(retry.saturating_sub(1)));
        let half = doubled.min(cap) / 2;
        half + half.mul_f64(f64::from(drawn) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(codes: &[u16], attempts: u32) -> RetryPolicy {
        RetryPolicy::of(Some(&Retry { codes: codes.to_vec(), attempts, backoff: None }))
    }

    #[test]
    fn what_is_tried_again() {
        use Verdict::{Again, Exhausted, Final};
        let (none, three, off) = (RetryPolicy::of(None), policy(&[500, 503], 3), policy(&[500, 503], 0));
        for (policy, cause, retries, idempotent, verdict) in [
            (&none, Cause::NotConnected, 0, false, Again),
            (&none, Cause::NotConnected, defaults::FAILOVERS, false, Final),
            (&none, Cause::Refused, 0, false, Again),
            (&none, Cause::Stale, 0, true, Again),
            (&none, Cause::Stale, 0, false, Final),
            (&none, Cause::Code(503), 0, true, Final),
            (&none, Cause::Unavailable, 0, true, Final),
            (&none, Cause::AttemptTimeout, 0, true, Final),
            (&none, Cause::Broken, 0, true, Final),
            (&three, Cause::NotConnected, 0, false, Again),
            (&three, Cause::Code(500), 2, false, Again),
            (&three, Cause::Code(500), 3, false, Exhausted),
            (&three, Cause::Code(502), 0, true, Final),
            (&three, Cause::Unavailable, 0, false, Again),
            (&three, Cause::AttemptTimeout, 0, false, Again),
            (&three, Cause::Stale, 0, true, Again),
            (&three, Cause::Stale, 0, false, Final),
            (&three, Cause::Broken, 0, true, Final),
            (&off, Cause::NotConnected, 0, true, Final),
            (&off, Cause::Code(500), 0, true, Final),
            (&off, Cause::Stale, 0, true, Final),
        ] {
            assert_eq!(policy.judge(cause, retries, idempotent), verdict, "{policy:?} {cause:?} {retries} {idempotent}");
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_never_fall_below_half() {
        let ms = Duration::from_millis;
        let default = policy(&[], 9);
        for (retry, least, most) in [(1, 12, 25), (2, 25, 50), (3, 50, 100), (4, 100, 200), (5, 125, 250), (60, 125, 250)] {
            assert_eq!(default.wait(retry, 0).as_millis(), least, "retry {retry}");
            assert_eq!(default.wait(retry, u32::MAX), ms(most), "retry {retry}");
        }
        let slow = RetryPolicy::of(Some(&Retry { codes: Vec::new(), attempts: 9, backoff: Some(ms(2000)) }));
        assert_eq!((slow.wait(1, 0), slow.wait(1, u32::MAX)), (ms(1000), ms(2000)));
        let endless = RetryPolicy::of(Some(&Retry { codes: Vec::new(), attempts: 9, backoff: Some(Duration::MAX) }));
        assert!(endless.wait(9, 0) > ms(1000));
        assert_eq!(RetryPolicy::of(None).wait(1, u32::MAX), Duration::ZERO);
    }
}
