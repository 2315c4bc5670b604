//! The sessions of one listener by client, bounded for all and for each client.
//!
//! UDP has no handshake, so anybody can make a session under anybody's address with one datagram. What tells a client from a forged
//! address is that it sends again: a session that has seen one datagram only is fresh, and where there is no room the oldest fresh
//! one makes it. So a flood takes the place of its own sessions, and those of clients that speak go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

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
    fresh: Fresh,
    clients: HashMap<IpAddr, usize, foldhash::fast::RandomState>,
    bounds: Bounds,
}

/// How many sessions there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Of all clients.
    pub(super) all: usize,
    /// Of one client: an IPv4 address, or a network of 64 bits, since that is what one IPv6 client has.
    pub(super) client: usize,
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
    /// Its age among the fresh ones; none: it is not fresh.
    fresh: Option<u64>,
}

/// The fresh sessions, oldest first: all, and those of each client.
#[derive(Debug, Default)]
struct Fresh {
    next: u64,
    all: BTreeMap<u64, Pair>,
    by_client: BTreeSet<(IpAddr, u64)>,
}

impl<S> Table<S> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { sessions: HashMap::default(), fresh: Fresh::default(), clients: HashMap::default(), bounds }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The session of a datagram that has come; it is fresh no more.
    pub(super) fn receive(&mut self, pair: &Pair) -> Option<&mut S> {
        let slot = self.sessions.get_mut(pair)?;
        if let Some(age) = slot.fresh.take() {
            self.fresh.remove(pair, age);
        }
        Some(&mut slot.session)
    }

    /// Makes room for a session: gives the one that has to go for it, if one has to.
    ///
    /// # Errors
    /// If no session may go for it.
    pub(super) fn make_room(&mut self, pair: &Pair) -> Result<Option<S>, Full> {
        let victim = if self.clients.get(&client_of(pair)).is_some_and(|count| *count >= self.bounds.client) {
            self.fresh.oldest_of(client_of(pair)).ok_or(Full::Client)?
        } else if self.sessions.len() >= self.bounds.all {
            self.fresh.oldest().ok_or(Full::All)?
        } else {
            return Ok(None);
        };
        Ok(self.remove(&victim))
    }

    /// Adds a session of a pair that has none.
    pub(super) fn insert(&mut self, pair: Pair, session: S) {
        let fresh = Some(self.fresh.add(&pair));
        *self.clients.entry(client_of(&pair)).or_default() += 1;
        let before = self.sessions.insert(pair, Slot { session, fresh });
        debug_assert!(before.is_none(), "whoever inserts has looked");
    }

    pub(super) fn remove(&mut self, pair: &Pair) -> Option<S> {
        let slot = self.sessions.remove(pair)?;
        forget(&mut self.fresh, &mut self.clients, pair, &slot);
        Some(slot.session)
    }

    /// Keeps the sessions that `keep` wants, in no particular order; it is told whether a session is fresh.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut S, bool) -> bool) {
        let Self { sessions, fresh, clients, .. } = self;
        sessions.retain(|pair, slot| {
            let kept = keep(&mut slot.session, slot.fresh.is_some());
            if !kept {
                forget(fresh, clients, pair, slot);
            }
            kept
        });
    }
}

fn forget<S>(fresh: &mut Fresh, clients: &mut HashMap<IpAddr, usize, foldhash::fast::RandomState>, pair: &Pair, slot: &Slot<S>) {
    if let Some(age) = slot.fresh {
        fresh.remove(pair, age);
    }
    if let Entry::Occupied(mut count) = clients.entry(client_of(pair)) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
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

impl Fresh {
    fn add(&mut self, pair: &Pair) -> u64 {
        self.next += 1;
        self.all.insert(self.next, *pair);
        self.by_client.insert((client_of(pair), self.next));
        self.next
    }

    fn remove(&mut self, pair: &Pair, age: u64) {
        self.all.remove(&age);
        self.by_client.remove(&(client_of(pair), age));
    }

    fn oldest(&self) -> Option<Pair> {
        self.all.first_key_value().map(|(_, pair)| *pair)
    }

    fn oldest_of(&self, client: IpAddr) -> Option<Pair> {
        let (_, age) = self.by_client.range((client, 0)..=(client, u64::MAX)).next()?;
        self.all.get(age).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(text: &str) -> Pair {
        Pair { client: text.parse().expect("an address"), local: None }
    }

    /// Adds a session as the listener does, and says which one went for it.
    fn add(table: &mut Table<String>, text: &str) -> Result<Option<String>, Full> {
        let gone = table.make_room(&pair(text))?;
        table.insert(pair(text), text.to_owned());
        Ok(gone)
    }

    #[test]
    fn the_oldest_session_without_a_second_datagram_goes_first() {
        let mut table = Table::new(Bounds { all: 3, client: 9 });
        for text in ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"] {
            assert_eq!(add(&mut table, text), Ok(None));
        }
        assert!(table.receive(&pair("10.0.0.1:1")).is_some(), "it speaks again");
        assert_eq!(add(&mut table, "10.0.0.4:1"), Ok(Some("10.0.0.2:1".to_owned())));
        assert_eq!(add(&mut table, "10.0.0.5:1"), Ok(Some("10.0.0.3:1".to_owned())));
        for text in ["10.0.0.4:1", "10.0.0.5:1"] {
            assert!(table.receive(&pair(text)).is_some());
        }
        assert_eq!(add(&mut table, "10.0.0.6:1"), Err(Full::All));
        assert_eq!(table.remove(&pair("10.0.0.4:1")).as_deref(), Some("10.0.0.4:1"));
        assert_eq!(add(&mut table, "10.0.0.6:1"), Ok(None));
    }

    #[test]
    fn a_client_replaces_sessions_of_its_own_only() {
        for (first, second, third, other) in [
            ("10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.2:1"),
            // All that share their first 64 bits are one client.
            ("[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::ffff:1]:1", "[2001:db8:0:1::1]:1"),
        ] {
            let mut table = Table::new(Bounds { all: 9, client: 2 });
            for text in [other, first, second] {
                assert_eq!(add(&mut table, text), Ok(None));
            }
            assert_eq!(add(&mut table, third), Ok(Some(first.to_owned())));
            assert!(table.receive(&pair(second)).is_some() && table.receive(&pair(third)).is_some());
            assert_eq!(add(&mut table, first), Err(Full::Client));
            assert!(table.receive(&pair(other)).is_some(), "it is not touched");
            table.retain(|session, _| session != third);
            assert_eq!(add(&mut table, first), Ok(None));
        }
    }

    proptest! {
        #[test]
        fn the_indexes_agree_with_the_sessions(steps in proptest::collection::vec((0..4_u8, 0..4_u8, 0..4_u16), 1..200)) {
            let mut table = Table::new(Bounds { all: 7, client: 3 });
            for (step, ip, port) in steps {
                let pair = Pair { client: ([10, 0, 0, ip], port).into(), local: None };
                match step {
                    0 => drop(table.remove(&pair)),
                    1 => table.retain(|(client, _), _| *client != ip),
                    _ if table.receive(&pair).is_some() => {}
                    _ => if table.make_room(&pair).is_ok() {
                        table.insert(pair, (ip, port));
                    },
                }
                prop_assert!(table.len() <= 7);
                prop_assert!(table.clients.values().all(|count| (1..=3).contains(count)));
                prop_assert_eq!(table.clients.values().sum::<usize>(), table.len());
                let mut fresh: Vec<_> = table.sessions.values().filter_map(|slot| slot.fresh).collect();
                fresh.sort_unstable();
                prop_assert!(table.fresh.all.keys().eq(&fresh));
                prop_assert_eq!(table.fresh.by_client.len(), fresh.len());
                for (age, pair) in &table.fresh.all {
                    prop_assert_eq!(table.sessions.get(pair).and_then(|slot| slot.fresh), Some(*age));
                }
            }
        }
    }
}
