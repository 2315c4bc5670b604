//! Tokens that were not taken: how many there may be, from one address and in all, before no more of them are looked at.
//!
//! Somebody else is asked about each token, and whoever reaches the port can show as many as they like. Each one that was not taken counts
//! against its address, and they are forgotten one after the other, so that in the long run no more are looked at than are forgotten. One
//! address at its limit costs the others nothing. In all only those count that prove nobody and about which somebody was asked: honest pods
//! that may not connect, and come again and again, keep nobody out. Where all together are at their limit, a good token may have to be shown
//! several times until its turn comes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Denied;

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
    /// By [`network`] where a token proved nobody, by the address itself otherwise.
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
        for key in [peer.to_canonical(), network(peer)] {
            if state.each.get_mut(&key).is_some_and(|count| count.is_full(self.most_each, self.forget)) {
                return Some(Excess::Address);
            }
        }
        state.all.is_full(self.most, self.forget).then_some(Excess::All)
    }

    /// A token from there was not taken, for this reason. Says so where a limit was reached by it, once in a while.
    pub(super) fn count(&self, peer: IpAddr, denied: &Denied) {
        let (key, counts_in_all) = match denied {
            Denied::Unauthorized(_) => (network(peer), true),
            Denied::Unasked(_) => (network(peer), false),
            // Who it is was proven: nobody else of its network is meant.
            Denied::Forbidden(_) => (peer.to_canonical(), false),
            Denied::Unavailable(_) => return,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { all, each } = &mut *state;
        if each.len() >= KEPT {
            each.retain(|_, count| !count.is_forgotten(self.most_each, self.forget));
        }
        let of_peer = each.entry(key).or_insert_with(Count::new);
        of_peer.add(self.most_each, self.forget);
        let seconds = self.forget.as_secs_f32();
        if of_peer.is_news(self.most_each, self.forget) {
            tracing::warn!(
                peer = %peer.to_canonical(),
                "{} tokens from one address (of IPv6 one /64) were not taken within {seconds} s, so hardly any from there is looked at until \
                 they stop. Is it a pod of yours? `kubectl get pods -A -o wide` names it: its token has to be its own, with the audience \
                 isthmus.dev/push, and its log says why it was not taken. If not, keep it away from this port by a NetworkPolicy",
                self.most_each
            );
        }
        if !counts_in_all {
            return;
        }
        all.add(self.most, self.forget);
        if all.is_news(self.most, self.forget) {
            let forgotten = each.values_mut().map(|count| count.is_forgotten(self.most_each, self.forget));
            let addresses = forgotten.filter(|is_forgotten| !is_forgotten).count();
            tracing::warn!(
                "{} tokens that prove nobody were shown within {seconds} s, at last from {addresses} addresses: new proxies have to wait \
                 until these stop. A NetworkPolicy has to keep away from this port who is no gateway and no sidecar",
                self.most
            );
        }
    }
}

/// Who has one address of IPv6 mostly has all of its /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
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
    use crate::tests::heard::Heard;

    const MINUTE: Duration = Duration::from_secs(60);

    fn address(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn unauthorized() -> Denied {
        Denied::Unauthorized(String::new())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_looked_at_again_as_its_tokens_are_forgotten() {
        let failures = Failures::new(1000, 30, MINUTE);
        let mut looked_at = 0;
        for _ in 0..600 {
            if failures.excess(address(1)).is_none() {
                failures.count(address(1), &unauthorized());
                looked_at += 1;
            }
            tokio::time::advance(MINUTE / 60).await;
        }
        // 30 at once, and one each two seconds of ten minutes.
        assert!((325..=331).contains(&looked_at), "{looked_at}");
        assert_eq!(failures.excess("::ffff:10.0.0.1".parse().unwrap()), failures.excess(address(1)), "it is the same address");
        assert_eq!(failures.excess(address(2)), None);
        for _ in 0..100 {
            failures.count(address(1), &unauthorized());
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
            failures.count(peer, &unauthorized());
        }
        assert_eq!((failures.excess(address(1)), failures.excess([10, 1, 1, 1].into())), (Some(Excess::All), Some(Excess::All)));
        assert_eq!(number_of(&failures), 3000);
        tokio::time::advance(MINUTE).await;
        assert_eq!(failures.excess(address(1)), None);
        failures.count(address(1), &unauthorized());
        assert_eq!(number_of(&failures), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_asks_nobody_or_proves_somebody_keeps_no_other_out() {
        let word = String::new;
        for (denied, in_all, of_address, of_network) in [
            (Denied::Unauthorized(word()), true, true, true),
            (Denied::Unasked(word()), false, true, true),
            (Denied::Forbidden(word()), false, true, false),
            (Denied::Unavailable(word()), false, false, false),
        ] {
            let failures = Failures::new(100, 5, MINUTE);
            for number in 0..250 {
                failures.count(address(number), &denied);
            }
            assert_eq!(failures.excess(address(255)), in_all.then_some(Excess::All), "{denied:?}");
            let failures = Failures::new(100, 5, MINUTE);
            let [first, near, far] =
                ["2001:db8:0:1::1", "2001:db8:0:1:2::2", "2001:db8:0:2::1"].map(|text| text.parse().unwrap());
            for _ in 0..5 {
                failures.count(first, &denied);
            }
            let at_limit = [first, near, far].map(|peer| failures.excess(peer) == Some(Excess::Address));
            assert_eq!(at_limit, [of_address, of_network, false], "{denied:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_counts_the_addresses_of_now() {
        let heard = Heard::listen();
        let failures = Failures::new(100, 30, MINUTE);
        for number in 0..50 {
            failures.count(address(number), &unauthorized());
        }
        tokio::time::advance(MINUTE).await;
        for _ in 0..25 {
            (100..104).for_each(|number| failures.count(address(number), &unauthorized()));
        }
        let lines = heard.lines();
        assert!(matches!(&lines[..], [line] if line.contains("100 tokens") && line.contains("from 4 addresses")), "{lines:?}");
    }
}
