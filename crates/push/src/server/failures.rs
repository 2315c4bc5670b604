//! Tokens that were not taken: how many there may be, from one address and in all, before no more of them are looked at.
//!
//! Somebody else is asked about each token, and whoever reaches the port can show as many as they like. Each one that was not taken counts,
//! and they are forgotten one after the other, so that in the long run no more are looked at than are forgotten. One address at its limit
//! costs the others nothing. Where all together are at theirs, a good token may have to be shown several times until its turn comes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Addresses that are remembered before those whose tokens are forgotten are let go.
const KEPT: usize = 1024;

/// What was not taken lately.
#[derive(Debug)]
pub(super) struct Failures {
    most: usize,
    most_each: usize,
    /// How long a full number takes to be forgotten.
    forget: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    all: Count,
    each: HashMap<IpAddr, Count>,
}

/// A number that is forgotten at an even rate.
#[derive(Debug)]
struct Count {
    number: f64,
    at: Instant,
    /// When it was told last that it is at its limit.
    told: Option<Instant>,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// That of one address.
    Address,
    /// That of all together.
    All,
}

impl Failures {
    pub(super) fn new(most: usize, most_each: usize, forget: Duration) -> Self {
        let state = State { all: Count::new(), each: HashMap::new() };
        Self { most, most_each, forget, state: Mutex::new(state) }
    }

    /// Why no token from there is looked at now; none: it is.
    pub(super) fn excess(&self, peer: IpAddr) -> Option<Excess> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = peer.to_canonical();
        if state.each.get_mut(&peer).is_some_and(|count| count.is_full(self.most_each, self.forget)) {
            return Some(Excess::Address);
        }
        state.all.is_full(self.most, self.forget).then_some(Excess::All)
    }

    /// A token from there was not taken. Says so where a limit was reached by it, once in a while.
    pub(super) fn count(&self, peer: IpAddr) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { all, each } = &mut *state;
        let peer = peer.to_canonical();
        if each.len() >= KEPT {
            each.retain(|_, count| !count.is_forgotten(self.most_each, self.forget));
        }
        all.add(self.most, self.forget);
        let of_peer = each.entry(peer).or_insert_with(Count::new);
        of_peer.add(self.most_each, self.forget);
        let seconds = self.forget.as_secs_f32();
        if of_peer.is_news(self.most_each, self.forget) {
            tracing::warn!(
                %peer,
                "{} tokens from one address were not taken within {seconds} s, so hardly any from there is looked at until they stop. Is \
                 it a pod of yours? `kubectl get pods -A -o wide` names it: its token has to be its own, with the audience \
                 isthmus.dev/push, and its log says why it was not taken. If not, keep it away from this port by a NetworkPolicy",
                self.most_each
            );
        }
        if all.is_news(self.most, self.forget) {
            tracing::warn!(
                "{} tokens from {} addresses were not taken within {seconds} s: new proxies have to wait until these stop. A NetworkPolicy \
                 has to keep away from this port who is no gateway and no sidecar",
                self.most,
                each.len()
            );
        }
    }
}

impl Count {
    fn new() -> Self {
        Self { number: 0.0, at: Instant::now(), told: None }
    }

    /// Forgets what is due.
    fn current(&mut self, most: usize, forget: Duration) -> f64 {
        let now = Instant::now();
        let forgotten = now.saturating_duration_since(self.at).as_secs_f64() / forget.as_secs_f64() * as_number(most);
        (self.number, self.at) = ((self.number - forgotten).max(0.0), now);
        self.number
    }

    fn add(&mut self, most: usize, forget: Duration) {
        self.number = self.current(most, forget) + 1.0;
    }

    /// Whether there is room for less than one more.
    fn is_full(&mut self, most: usize, forget: Duration) -> bool {
        self.current(most, forget) > as_number(most) - 1.0
    }

    fn is_forgotten(&mut self, most: usize, forget: Duration) -> bool {
        self.current(most, forget) <= 0.0
    }

    /// Whether it is full, and that was not told for as long as all of it takes to be forgotten.
    fn is_news(&mut self, most: usize, forget: Duration) -> bool {
        let is_news = self.is_full(most, forget) && self.told.is_none_or(|told| told.elapsed() >= forget);
        if is_news {
            self.told = Some(Instant::now());
        }
        is_news
    }
}

fn as_number(most: usize) -> f64 {
    f64::from(u32::try_from(most).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn address(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_looked_at_again_as_its_tokens_are_forgotten() {
        let failures = Failures::new(1000, 30, MINUTE);
        let mut looked_at = 0;
        for _ in 0..600 {
            if failures.excess(address(1)).is_none() {
                failures.count(address(1));
                looked_at += 1;
            }
            tokio::time::advance(MINUTE / 60).await;
        }
        // 30 at once, and one each two seconds of ten minutes.
        assert!((325..=331).contains(&looked_at), "{looked_at}");
        assert_eq!(failures.excess("::ffff:10.0.0.1".parse().unwrap()), failures.excess(address(1)), "it is the same address");
        assert_eq!(failures.excess(address(2)), None);
        for _ in 0..100 {
            failures.count(address(1));
        }
        assert_eq!(failures.excess(address(1)), Some(Excess::Address));
        tokio::time::advance(MINUTE * 2).await;
        assert_eq!(failures.excess(address(1)), Some(Excess::Address), "what was looked at all the same counts as well");
        tokio::time::advance(MINUTE * 2).await;
        assert_eq!(failures.excess(address(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_have_a_limit_and_are_not_remembered_for_ever() {
        let failures = Failures::new(3000, 30, MINUTE);
        let number_of = |failures: &Failures| failures.state.lock().unwrap().each.len();
        for number in 0..3000_u16 {
            let [high, low] = number.to_be_bytes();
            let peer = IpAddr::from([10, 0, high, low]);
            assert_eq!(failures.excess(peer), None);
            failures.count(peer);
        }
        assert_eq!((failures.excess(address(1)), failures.excess([10, 1, 1, 1].into())), (Some(Excess::All), Some(Excess::All)));
        assert_eq!(number_of(&failures), 3000);
        tokio::time::advance(MINUTE).await;
        assert_eq!(failures.excess(address(1)), None);
        failures.count(address(1));
        assert_eq!(number_of(&failures), 1);
    }
}
