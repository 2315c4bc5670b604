//! Which objects are to be written, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isthmus_api::ObjectRef;
use tokio::time::Instant;

use crate::watch::fault::Backoff;

/// Objects by the time at which their turn comes; each is in it once. An object that is being written waits until it was.
#[derive(Debug)]
pub(super) struct Queue {
    due: BTreeMap<ObjectRef, Instant>,
    order: BTreeSet<(Instant, ObjectRef)>,
    busy: BTreeSet<ObjectRef>,
    failures: BTreeMap<ObjectRef, Backoff>,
    rates: BTreeMap<ObjectRef, Rate>,
    limit: Limit,
    backoff: Backoff,
}

/// How often one object is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Writes that may follow each other at once.
    pub(super) burst: u32,
    /// The time between writes when they are used up.
    pub(super) interval: Duration,
}

#[derive(Debug)]
struct Rate {
    left: u32,
    since: Instant,
}

impl Queue {
    pub(super) fn new(limit: Limit, backoff: Backoff) -> Self {
        Self {
            due: BTreeMap::new(),
            order: BTreeSet::new(),
            busy: BTreeSet::new(),
            failures: BTreeMap::new(),
            rates: BTreeMap::new(),
            limit,
            backoff,
        }
    }

    /// Something about the object changed: its turn comes now, unless it waits because of a failure.
    pub(super) fn push(&mut self, object: ObjectRef, now: Instant) {
        if !self.due.contains_key(&object) {
            self.put(object, now);
        }
    }

    /// The next object whose turn it is.
    pub(super) fn pop(&mut self, now: Instant) -> Option<ObjectRef> {
        let next =
            self.order.iter().take_while(|(due, _)| *due <= now).find(|(_, object)| !self.busy.contains(object)).cloned()?;
        self.order.remove(&next);
        self.due.remove(&next.1);
        Some(next.1)
    }

    /// A write of the object begins. False: it was written too often; its turn comes later.
    pub(super) fn begin(&mut self, object: &ObjectRef, now: Instant) -> bool {
        let Limit { burst, interval } = self.limit;
        if self.rates.len() > 4096 {
            self.rates.retain(|_, rate| now.saturating_duration_since(rate.since) < interval.saturating_mul(burst));
        }
        let rate = self.rates.entry(object.clone()).or_insert(Rate { left: burst, since: now });
        let earned = now.saturating_duration_since(rate.since).as_nanos() / interval.as_nanos().max(1);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            rate.left = rate.left.saturating_add(earned).min(burst);
            rate.since = if rate.left == burst { now } else { rate.since + interval * earned };
        }
        if rate.left == 0 {
            let due = rate.since + interval;
            self.put(object.clone(), due);
            return false;
        }
        if rate.left == burst {
            rate.since = now;
        }
        rate.left -= 1;
        self.busy.insert(object.clone());
        true
    }

    /// The write ended and there is nothing to repeat.
    pub(super) fn done(&mut self, object: &ObjectRef) {
        self.busy.remove(object);
        self.failures.remove(object);
    }

    /// The write failed and is to be repeated, not before `after` if that is given.
    pub(super) fn failed(&mut self, object: ObjectRef, after: Option<Duration>, now: Instant) {
        self.busy.remove(&object);
        let wait = self.failures.entry(object.clone()).or_insert_with(|| self.backoff.clone()).next();
        if let Some(due) = self.due.remove(&object) {
            self.order.remove(&(due, object.clone()));
        }
        self.put(object, now + after.unwrap_or(wait));
    }

    /// When the next turn comes, if that needs no write to end before.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.iter().find(|(_, object)| !self.busy.contains(object)).map(|(due, _)| *due)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty() && self.busy.is_empty()
    }

    /// Forgets what is to be done, and what failed.
    pub(super) fn clear(&mut self) {
        self.due.clear();
        self.order.clear();
        self.busy.clear();
        self.failures.clear();
    }

    fn put(&mut self, object: ObjectRef, due: Instant) {
        self.order.insert((due, object.clone()));
        self.due.insert(object, due);
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::Kind;

    use super::*;

    fn route(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::HttpRoute, namespace: Some("shop".to_owned()), name: name.to_owned() }
    }

    fn queue() -> Queue {
        let limit = Limit { burst: 3, interval: Duration::from_secs(1) };
        Queue::new(limit, Backoff::new(Duration::from_secs(1), Duration::from_secs(8)))
    }

    #[tokio::test(start_paused = true)]
    async fn each_object_once_and_never_twice_at_a_time() {
        let (mut queue, now) = (queue(), Instant::now());
        queue.push(route("a"), now);
        queue.push(route("a"), now);
        queue.push(route("b"), now);
        assert_eq!(queue.pop(now), Some(route("a")));
        assert!(queue.begin(&route("a"), now));
        queue.push(route("a"), now);
        assert_eq!(queue.pop(now), Some(route("b")));
        assert_eq!(queue.pop(now), None);
        assert_eq!(queue.next_due(), None, "nothing is due while `a` is being written");
        queue.done(&route("a"));
        assert_eq!(queue.next_due(), Some(now));
        assert_eq!(queue.pop(now), Some(route("a")));
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_and_changes_do_not_shorten_the_wait() {
        let (mut queue, now) = (queue(), Instant::now());
        queue.push(route("a"), now);
        queue.pop(now);
        assert!(queue.begin(&route("a"), now));
        queue.push(route("a"), now);
        queue.failed(route("a"), None, now);
        queue.push(route("a"), now);
        assert_eq!(queue.pop(now), None);
        assert!(queue.next_due().unwrap() >= now + Duration::from_millis(500));
        assert_eq!(queue.pop(now + Duration::from_secs(1)), Some(route("a")));
        queue.failed(route("a"), Some(Duration::from_secs(5)), now);
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(5)), "as long as the API server asks");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_flaps_is_written_at_a_bounded_rate() {
        let (mut queue, start) = (queue(), Instant::now());
        let mut writes = 0;
        for step in 0..1000_u64 {
            let now = start + Duration::from_millis(10 * step);
            queue.push(route("a"), now);
            if queue.pop(now).is_some() && queue.begin(&route("a"), now) {
                writes += 1;
                queue.done(&route("a"));
            }
        }
        assert_eq!(writes, 3 + 9, "a burst, then one each second of ten");
        let later = start + Duration::from_mins(1);
        queue.push(route("a"), later);
        queue.pop(later);
        assert!(queue.begin(&route("a"), later));
    }
}
