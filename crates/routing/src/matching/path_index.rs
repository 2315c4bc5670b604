//! Candidates by hostname and path.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;

use super::candidate::Candidate;
use crate::hash::State;

/// Candidates by what they are found by: a hostname (by its number), a kind of path match and a path.
///
/// It is one table for all hostnames and not one for each, and the texts of all keys are one string: so what look-ups read lies
/// close together. With many routes it is memory that a look-up waits for.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    slots: HashTable<Slot>,
    texts: String,
    /// The candidates that are not the first of their key.
    more: Vec<Vec<Candidate>>,
    state: State,
}

/// What a path in a match is to be for a request's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Exact,
    Prefix,
}

#[derive(Debug)]
struct Slot {
    /// Its path is `texts[start..][..length]`.
    start: usize,
    length: u32,
    host_and_kind: u32,
    /// The one with the highest precedence. It is here because mostly it is the only one.
    first: Candidate,
    /// One more than the place of the others in [`PathIndex::more`]; 0: there are no others.
    more: u32,
}

impl PathIndex {
    /// To be called in the order of precedence.
    pub(super) fn add(&mut self, host: u32, kind: Kind, path: &str, candidate: Candidate) {
        let (tag, texts) = (tag(host, kind), &mut self.texts);
        let hash = hash(&self.state, tag, path);
        if let Some(slot) = self.slots.find_mut(hash, |slot| slot.is(tag, path, texts)) {
            if slot.more == 0 {
                self.more.push(Vec::new());
                slot.more = to_u32(self.more.len());
            }
            self.more[slot.more as usize - 1].push(candidate);
            return;
        }
        let slot = Slot { start: texts.len(), length: to_u32(path.len()), host_and_kind: tag, first: candidate, more: 0 };
        texts.push_str(path);
        self.slots.insert_unique(hash, slot, |slot| self::hash(&self.state, slot.host_and_kind, slot.path(texts)));
    }

    /// The first candidate of a key that passes.
    pub(super) fn find(&self, host: u32, kind: Kind, path: &str, passes: impl Fn(&Candidate) -> bool) -> Option<Candidate> {
        let tag = tag(host, kind);
        let slot = self.slots.find(hash(&self.state, tag, path), |slot| slot.is(tag, path, &self.texts))?;
        if passes(&slot.first) {
            return Some(slot.first);
        }
        let more = (slot.more as usize).checked_sub(1).map_or(&[][..], |place| &self.more[place]);
        more.iter().find(|candidate| passes(candidate)).copied()
    }
}

impl Slot {
    fn path<'t>(&self, texts: &'t str) -> &'t str {
        &texts[self.start..][..self.length as usize]
    }

    fn is(&self, tag: u32, path: &str, texts: &str) -> bool {
        self.host_and_kind == tag && self.length as usize == path.len() && self.path(texts) == path
    }
}

fn tag(host: u32, kind: Kind) -> u32 {
    host << 1 | u32::from(kind == Kind::Exact)
}

fn hash(state: &State, tag: u32, path: &str) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u32(tag);
    hasher.write(path.as_bytes());
    hasher.finish()
}

/// For counts and lengths of what is in memory with more than a byte each.
fn to_u32(number: usize) -> u32 {
    u32::try_from(number).expect("a path or the number of paths is below 2^32")
}
