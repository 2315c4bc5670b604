//! The sessions of one listener by client, and which of them make room for others.
//!
//! UDP has no handshake, so anybody can make sessions under any address, with as many datagrams as he likes, and a backend may answer
//! all of them. Nothing tells such a session from a client's but that keeping it costs its maker datagrams. So where there is no room,
//! the one whose client has been silent longest makes it. Two things are held against floods: sessions that have had one datagram
//! (fresh ones) go first as long as they are more than a quarter, so a flood of single datagrams costs no others their sessions; and
//! one with several datagrams stays while its client speaks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use tokio::time::Instant;

/// Who speaks with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    /// The client.
    pub(super) client: SocketAddr,
    /// The address of ours that it speaks to; none if there is only one.
    pub(super) local: Option<IpAddr>,
}

/// The sessions.
#[derive(Debug)]
pub(super) struct Table<S> {
    sessions: HashMap<Pair, Slot<S>, foldhash::fast::RandomState>,
    all: Queues,
    clients: Clients,
    bounds: Bounds,
    begun: u64,
}

type Clients = HashMap<IpAddr, Queues, foldhash::fast::RandomState>;

/// What sessions may take of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Sessions of one client: an IPv4 address, or a network of 64 bits, since that is what one IPv6 client has.
    pub(super) client: usize,
    /// How long after a datagram of its client a session that is not fresh makes no room, give or take an eighth.
    pub(super) in_use: Duration,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The client has as many sessions as it may have, and uses them all.
    Client,
    /// All places are taken, by sessions that are used.
    All,
}

#[derive(Debug)]
struct Slot<S> {
    session: S,
    fresh: bool,
    turn: Turn,
}

/// When a session's client spoke last, and a number of the session's own.
type Turn = (Instant, u64);

/// Sessions in the order in which their clients spoke.
#[derive(Debug, Default)]
struct Queues {
    fresh: BTreeMap<Turn, Pair>,
    used: BTreeMap<Turn, Pair>,
}

impl<S> Table<S> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { sessions: HashMap::default(), all: Queues::default(), clients: HashMap::default(), bounds, begun: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The session of a datagram that has come from its client.
    pub(super) fn receive(&mut self, pair: &Pair, now: Instant) -> Option<&mut S> {
        let slot = self.sessions.get_mut(pair)?;
        // Not for each datagram: it costs some hundred nanoseconds.
        if slot.fresh || now.saturating_duration_since(slot.turn.0) >= self.bounds.in_use / 8 {
            let turn = (now, slot.turn.1);
            for queues in [Some(&mut self.all), self.clients.get_mut(&client_of(pair))].into_iter().flatten() {
                queues.of(slot.fresh).remove(&slot.turn);
                queues.used.insert(turn, *pair);
            }
            (slot.fresh, slot.turn) = (false, turn);
        }
        Some(&mut slot.session)
    }

    /// Makes room for a session: gives the one that has to go for it, if one has to. `has_place` says whether there is a place for one
    /// more than so many.
    ///
    /// # Errors
    /// If no session may go for it.
    pub(super) fn make_room(
        &mut self,
        pair: &Pair,
        now: Instant,
        has_place: impl FnOnce(usize) -> bool,
    ) -> Result<Option<S>, Full> {
        let victim = match self.clients.get(&client_of(pair)) {
            Some(own) if own.len() >= self.bounds.client => own.first(now, self.bounds.in_use).ok_or(Full::Client)?,
            _ if has_place(self.len()) => return Ok(None),
            _ => self.all.first(now, self.bounds.in_use).ok_or(Full::All)?,
        };
        Ok(self.remove(&victim))
    }

    /// Takes out the session that is the first to make room, if one may.
    pub(super) fn give_up(&mut self, now: Instant) -> Option<S> {
        let victim = self.all.first(now, self.bounds.in_use)?;
        self.remove(&victim)
    }

    /// Adds a session of a pair that has none.
    pub(super) fn insert(&mut self, pair: Pair, session: S, now: Instant) {
        self.begun += 1;
        let turn = (now, self.begun);
        for queues in [&mut self.all, self.clients.entry(client_of(&pair)).or_default()] {
            queues.fresh.insert(turn, pair);
        }
        let before = self.sessions.insert(pair, Slot { session, fresh: true, turn });
        debug_assert!(before.is_none(), "whoever inserts has looked");
    }

    pub(super) fn remove(&mut self, pair: &Pair) -> Option<S> {
        let slot = self.sessions.remove(pair)?;
        forget(&mut self.all, &mut self.clients, pair, &slot);
        Some(slot.session)
    }

    /// Keeps the sessions that `keep` wants, in no particular order.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut S) -> bool) {
        let Self { sessions, all, clients, .. } = self;
        sessions.retain(|pair, slot| {
            let kept = keep(&mut slot.session);
            if !kept {
                forget(all, clients, pair, slot);
            }
            kept
        });
    }
}

fn forget<S>(all: &mut Queues, clients: &mut Clients, pair: &Pair, slot: &Slot<S>) {
    all.of(slot.fresh).remove(&slot.turn);
    if let Entry::Occupied(mut own) = clients.entry(client_of(pair)) {
        own.get_mut().of(slot.fresh).remove(&slot.turn);
        if own.get().len() == 0 {
            own.remove();
        }
    }
}

/// Whose share a session is of.
fn client_of(pair: &Pair) -> IpAddr {
    match pair.client.ip() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
    }
}

impl Queues {
    fn of(&mut self, fresh: bool) -> &mut BTreeMap<Turn, Pair> {
        if fresh { &mut self.fresh } else { &mut self.used }
    }

    fn len(&self) -> usize {
        self.fresh.len() + self.used.len()
    }

    /// The first one to make room; none: all are in use.
    fn first(&self, now: Instant, in_use: Duration) -> Option<Pair> {
        let fresh = self.fresh.first_key_value().map(|(_, pair)| *pair);
        // A quarter is left to fresh ones, else a flood of sessions with two datagrams would have every new client make room at once.
        if self.fresh.len() > self.len() / 4 {
            return fresh;
        }
        let silent = |(last, _): &Turn| now.saturating_duration_since(*last) >= in_use;
        self.used.first_key_value().filter(|(turn, _)| silent(turn)).map(|(_, pair)| *pair).or(fresh)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(text: &str) -> Pair {
        Pair { client: text.parse().expect("an address"), local: None }
    }

    const IN_USE: Duration = Duration::from_secs(2);

    /// A table with a clock.
    struct Fixture {
        table: Table<String>,
        places: usize,
        now: Instant,
    }

    impl Fixture {
        fn new(places: usize, client: usize) -> Self {
            Self { table: Table::new(Bounds { client, in_use: IN_USE }), places, now: Instant::now() }
        }

        /// A datagram, 1 ms after the one before; says which session went for it.
        fn datagram(&mut self, text: &str) -> Result<Option<String>, Full> {
            self.now += Duration::from_millis(1);
            if self.table.receive(&pair(text), self.now).is_some() {
                return Ok(None);
            }
            let gone = self.table.make_room(&pair(text), self.now, |count| count < self.places)?;
            self.table.insert(pair(text), text.to_owned(), self.now);
            Ok(gone)
        }

        /// Datagrams that find a place.
        fn datagrams(&mut self, texts: &[&str]) {
            for text in texts {
                assert_eq!(self.datagram(text), Ok(None), "{text}");
            }
        }

        fn has(&self, text: &str) -> bool {
            self.table.sessions.contains_key(&pair(text))
        }
    }

    #[test]
    fn the_oldest_session_without_a_second_datagram_goes_first() {
        let mut f = Fixture::new(3, 9);
        f.datagrams(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.1:1"]);
        f.now += IN_USE * 9;
        assert_eq!(f.datagram("10.0.0.4:1"), Ok(Some("10.0.0.2:1".to_owned())));
        assert_eq!(f.datagram("10.0.0.5:1"), Ok(Some("10.0.0.3:1".to_owned())));
        assert!(f.has("10.0.0.1:1"));
    }

    #[test]
    fn where_all_speak_the_one_silent_longest_goes_unless_it_is_in_use() {
        let mut f = Fixture::new(2, 9);
        f.datagrams(&["10.0.0.1:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.2:1"]);
        assert_eq!(f.datagram("10.0.0.3:1"), Err(Full::All));
        f.now += IN_USE * 3 / 4;
        f.datagrams(&["10.0.0.1:1"]);
        assert_eq!(f.datagram("10.0.0.3:1"), Err(Full::All));
        f.now += IN_USE / 4;
        assert_eq!(f.datagram("10.0.0.3:1"), Ok(Some("10.0.0.2:1".to_owned())), "its client has been silent for longer");
        f.datagrams(&["10.0.0.3:1"]);
        assert_eq!(f.table.give_up(f.now), None);
        f.now += IN_USE;
        assert_eq!(f.table.give_up(f.now).as_deref(), Some("10.0.0.1:1"));
        f.datagrams(&["10.0.0.4:1"]);
    }

    #[test]
    fn a_flood_of_sessions_with_two_datagrams_spares_those_in_use_and_serves_new_ones() {
        let mut f = Fixture::new(4_000, 9);
        f.datagrams(&["10.0.0.1:1", "10.0.0.1:1"]);
        let mut replaced = 0;
        // 500 of them in a second, so each can be silent for eight seconds before its place is needed.
        for number in 0..20_000_u32 {
            let forged = format!("172.16.{}.{}:7", number / 250, number % 250);
            replaced += usize::from(f.datagram(&forged).expect("a place").is_some());
            f.datagrams(&[&forged]);
            if number % 1_000 == 0 {
                f.datagrams(&["10.0.0.1:1"]);
                // Its answer needs a second to come.
                let newcomer = format!("10.1.0.{}:1", number / 1_000);
                assert!(f.datagram(&newcomer).is_ok());
            }
            if number % 1_000 == 500 {
                assert!(f.has(&format!("10.1.0.{}:1", number / 1_000)), "{number}");
            }
        }
        assert!(f.has("10.0.0.1:1") && replaced > 15_000, "{replaced}");
        assert_eq!(f.table.len(), 4_000);
    }

    #[test]
    fn a_flood_of_single_datagrams_leaves_three_quarters_to_others() {
        let mut f = Fixture::new(100, 9);
        for number in 0..90 {
            let used = format!("10.0.0.{number}:1");
            f.datagrams(&[&used, &used]);
        }
        f.now += IN_USE * 5;
        for number in 0..9_000 {
            assert!(f.datagram(&format!("172.16.{}.{}:7", number / 250, number % 250)).is_ok());
        }
        let kept = (0..90).filter(|number| f.has(&format!("10.0.0.{number}:1"))).count();
        assert_eq!(kept, 74, "the others have been silent for longer");
    }

    #[test]
    fn a_client_replaces_sessions_of_its_own_only() {
        for (first, second, third, other) in [
            ("10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.2:1"),
            // All that share their first 64 bits are one client.
            ("[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::ffff:1]:1", "[2001:db8:0:1::1]:1"),
        ] {
            let mut f = Fixture::new(9, 2);
            f.datagrams(&[other, first, second]);
            assert_eq!(f.datagram(third), Ok(Some(first.to_owned())));
            f.datagrams(&[second, third]);
            assert_eq!(f.datagram(first), Err(Full::Client));
            assert!(f.has(other), "it is not touched");
            f.now += IN_USE;
            assert_eq!(f.datagram(first), Ok(Some(second.to_owned())));
            f.table.retain(|session| session != third);
            f.datagrams(&[second]);
        }
    }

    proptest! {
        #[test]
        fn the_indexes_agree_with_the_sessions(
            steps in proptest::collection::vec((0..4_u8, 0..4_u8, 0..4_u16, 0..900_u64), 1..200),
        ) {
            let mut table = Table::new(Bounds { client: 3, in_use: IN_USE });
            let mut now = Instant::now();
            for (step, ip, port, millis) in steps {
                let pair = Pair { client: ([10, 0, 0, ip], port).into(), local: None };
                now += Duration::from_millis(millis);
                match step {
                    0 => drop(table.remove(&pair)),
                    1 => table.retain(|(client, _)| *client != ip),
                    _ if table.receive(&pair, now).is_some() => {}
                    _ => if table.make_room(&pair, now, |count| count < 7).is_ok() {
                        table.insert(pair, (ip, port), now);
                    },
                }
                prop_assert!(table.len() <= 7);
                prop_assert_eq!(table.all.len(), table.len());
                prop_assert!(table.clients.values().all(|own| (1..=3).contains(&own.len())));
                prop_assert_eq!(table.clients.values().map(Queues::len).sum::<usize>(), table.len());
                for (pair, slot) in &table.sessions {
                    for queues in [&mut table.all, table.clients.get_mut(&client_of(pair)).expect("its client")] {
                        prop_assert_eq!(queues.of(slot.fresh).get(&slot.turn), Some(pair));
                    }
                }
            }
        }
    }
}
