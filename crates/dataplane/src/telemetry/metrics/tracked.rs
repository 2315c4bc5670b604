//! Named things that are kept for as long as somebody uses them, and some minutes longer.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

/// How long a series stays after its last user went. Long enough for a scrape, or for a route that is removed and put back.
pub(crate) const KEEP: Duration = Duration::from_secs(600);

/// A table of shared things. A thing is in use while anybody but this table holds it.
#[derive(Debug)]
pub(super) struct Tracked<K, T> {
    entries: Mutex<HashMap<K, Entry<T>, foldhash::fast::RandomState>>,
}

#[derive(Debug)]
struct Entry<T> {
    item: Arc<T>,
    /// Since which sweep nobody uses it.
    unused_since: Option<Instant>,
}

impl<K: Hash + Eq, T> Tracked<K, T> {
    /// The thing of that name, else a new one.
    pub(super) fn get_or_insert<Q: Hash + Eq + ?Sized>(&self, name: &Q, make: impl FnOnce() -> (K, T)) -> Arc<T>
    where
        K: Borrow<Q>,
    {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(name) {
            return entry.item.clone();
        }
        let (key, item) = make();
        let item = Arc::new(item);
        entries.insert(key, Entry { item: item.clone(), unused_since: None });
        item
    }

    /// Forgets what has been unused for [`KEEP`], by the clock `now`. Nobody can begin to use a thing meanwhile: that takes the lock.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|_, entry| {
            if Arc::strong_count(&entry.item) > 1 {
                entry.unused_since = None;
                return true;
            }
            let since = *entry.unused_since.get_or_insert(now);
            now.saturating_duration_since(since) < KEEP
        });
    }

    /// Shows every thing, in no order.
    pub(super) fn each(&self, mut show: impl FnMut(&T)) {
        self.lock().values().for_each(|entry| show(&entry.item));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry<T>, foldhash::fast::RandomState>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> Default for Tracked<K, T> {
    fn default() -> Self {
        Self { entries: Mutex::new(HashMap::with_hasher(foldhash::fast::RandomState::default())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_goes_when_it_was_unused_for_long_enough() {
        let table = Tracked::<String, u8>::default();
        let get = || table.get_or_insert("a", || ("a".to_owned(), 1));
        let count = || {
            let mut count = 0;
            table.each(|_| count += 1);
            count
        };
        let start = Instant::now();
        let used = get();
        table.sweep(start);
        table.sweep(start + KEEP * 2);
        assert_eq!(count(), 1, "in use");
        drop(used);
        table.sweep(start + KEEP * 2);
        table.sweep(start + KEEP * 3 - Duration::from_secs(1));
        assert_eq!(count(), 1, "not long enough");
        let again = get();
        table.sweep(start + KEEP * 4);
        drop(again);
        table.sweep(start + KEEP * 4 + Duration::from_secs(1));
        assert_eq!(count(), 1, "used in between, so its time starts anew");
        table.sweep(start + KEEP * 5 + Duration::from_secs(1));
        assert_eq!(count(), 0);
    }
}
