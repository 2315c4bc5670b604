//! Which version of each object was seen, so that an answer from an API server that lags is told from news.
//!
//! Resource versions of one kind are numbers that grow with each write, so an event that is not newer than what was seen is old
//! news, and an object that a list does not have was deleted only if the list is not older than the object. The objects' end
//! state is right whatever order answers come in, and on the way there nothing that was deleted comes back and nothing that is
//! there goes away.

use std::collections::BTreeMap;

/// Namespace (empty for kinds that have none) and name.
pub(crate) type Key = (String, String);

/// What was seen of the objects of one list.
#[derive(Debug, Default)]
pub(crate) struct Known {
    objects: BTreeMap<Key, Seen>,
    /// The newest complete list: what it did not have and what has not changed since does not exist.
    floor: u64,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    /// With its version.
    There(u64),
    /// Deleted by a write of at least this version.
    Gone(u64),
}

impl Known {
    /// Whether nothing is there.
    pub(crate) fn is_empty(&self) -> bool {
        !self.objects.values().any(|seen| matches!(seen, Seen::There(_)))
    }

    /// Whether an object of this version says anything that was not known. A version that is no number is always news.
    pub(crate) fn is_news(&self, key: &Key, version: Option<u64>) -> bool {
        let Some(version) = version else { return true };
        match self.objects.get(key) {
            Some(Seen::There(seen) | Seen::Gone(seen)) => version > *seen,
            None => version > self.floor,
        }
    }

    /// Notes an object that is there; false if it was not news.
    pub(crate) fn applied(&mut self, key: Key, version: Option<u64>) -> bool {
        let news = self.is_news(&key, version);
        if news {
            self.objects.insert(key, Seen::There(version.unwrap_or_default()));
        }
        news
    }

    /// Notes a deletion; false if the object was not known to be there, or a newer one of its name is.
    pub(crate) fn removed(&mut self, key: Key, version: Option<u64>) -> bool {
        match self.objects.get(&key) {
            Some(Seen::There(seen)) if version.is_none_or(|version| version >= *seen) => {
                let version = version.unwrap_or(*seen);
                self.objects.insert(key, Seen::Gone(version));
                true
            }
            _ => false,
        }
    }

    /// Notes a complete list and returns what it shows to be gone. `restored`: the API server's past is another one now, so
    /// the list is right whatever was seen.
    pub(crate) fn listed(&mut self, list: Option<u64>, items: BTreeMap<Key, Option<u64>>, restored: bool) -> Vec<Key> {
        let is_gone = |seen: u64| restored || list.is_none_or(|list| seen <= list);
        let there = |(key, seen): (&Key, &Seen)| match seen {
            Seen::There(seen) if !items.contains_key(key) && is_gone(*seen) => Some(key.clone()),
            Seen::There(_) | Seen::Gone(_) => None,
        };
        let gone: Vec<Key> = self.objects.iter().filter_map(there).collect();
        let list = list.unwrap_or_default();
        for key in &gone {
            self.objects.insert(key.clone(), Seen::Gone(list));
        }
        for (key, version) in items {
            if restored || self.is_news(&key, version) {
                self.objects.insert(key, Seen::There(version.unwrap_or_default()));
            }
        }
        if restored || list > self.floor {
            self.floor = list;
            self.objects
                .retain(|_, seen| matches!(seen, Seen::There(_)) || matches!(seen, Seen::Gone(at) if *at > list && !restored));
        }
        gone
    }

    /// Everything that is there, which is forgotten: the kind itself is gone.
    pub(crate) fn clear(&mut self) -> Vec<Key> {
        let objects = std::mem::take(self).objects;
        objects.into_iter().filter(|(_, seen)| matches!(seen, Seen::There(_))).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("shop".to_owned(), name.to_owned())
    }

    fn items(list: &[(&str, u64)]) -> BTreeMap<Key, Option<u64>> {
        list.iter().map(|(name, version)| (key(name), Some(*version))).collect()
    }

    fn names(mut keys: Vec<Key>) -> String {
        keys.sort();
        keys.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(" ")
    }

    /// `a` of version 5 and `b` of version 8, listed at 10; then `a` changed at 12, `b` was deleted at 13, `c` was made at 14.
    fn known() -> Known {
        let mut known = Known::default();
        assert_eq!(known.listed(Some(10), items(&[("a", 5), ("b", 8)]), false), Vec::new());
        assert!(known.applied(key("a"), Some(12)));
        assert!(known.removed(key("b"), Some(13)));
        assert!(known.applied(key("c"), Some(14)));
        known
    }

    #[test]
    fn events_that_are_old_or_doubled_are_no_news() {
        for (name, version, expected) in [
            ("a", Some(12), false),
            ("a", Some(11), false),
            ("a", Some(15), true),
            ("a", None, true),
            ("b", Some(8), false),
            ("b", Some(16), true),
            ("c", Some(14), false),
            ("never seen, older than the list", Some(9), false),
            ("never seen", Some(11), true),
        ] {
            assert_eq!(known().applied(key(name), version), expected, "{name} {version:?}");
        }
        for (name, version, expected) in [
            ("a", Some(16), true),
            ("a", Some(12), true),
            ("a", Some(11), false),
            ("a", None, true),
            ("b", Some(16), false),
            ("d", Some(16), false),
        ] {
            assert_eq!(known().removed(key(name), version), expected, "{name} {version:?}");
        }
    }

    #[test]
    fn a_list_removes_only_what_it_can_know_of() {
        for (what, list, of, restored, gone, news) in [
            ("current", 15, &[("a", 12), ("c", 14)][..], false, "", ""),
            ("current, all deleted", 15, &[], false, "a c", ""),
            ("before c, with b still there", 12, &[("a", 12), ("b", 8)], false, "", ""),
            ("before the change of a", 10, &[("a", 5), ("b", 8)], false, "", ""),
            ("between: a is deleted, c not yet made", 13, &[], false, "a", ""),
            ("the past is another one", 9, &[("a", 5), ("b", 8)], true, "c", "a b"),
        ] {
            let mut known = known();
            assert_eq!(names(known.listed(Some(list), items(of), restored)), gone, "{what}");
            let replaced = of
                .iter()
                .filter(|(name, version)| matches!(known.objects.get(&key(name)), Some(Seen::There(seen)) if seen == version));
            let replaced: Vec<_> = replaced.map(|(name, _)| *name).filter(|name| restored || *name == "b").collect();
            assert_eq!(replaced.join(" "), news, "{what}");
        }
    }

    #[test]
    fn a_stale_list_and_its_replay_end_where_the_truth_is() {
        let mut known = known();
        assert_eq!(names(known.listed(Some(9), items(&[("a", 5), ("b", 8), ("old", 3)]), false)), "");
        assert!(!known.applied(key("a"), Some(12)));
        assert!(!known.removed(key("old"), Some(10)), "what the list at 10 did not have was never taken up");
        assert!(!known.removed(key("b"), Some(13)));
        assert!(!known.applied(key("c"), Some(14)));
        assert!(known.applied(key("b"), Some(15)), "made again");
        assert!(known.removed(key("a"), Some(16)));
    }

    #[test]
    fn versions_that_are_no_numbers_are_taken_as_they_come() {
        let mut known = Known::default();
        known.listed(None, BTreeMap::from([(key("a"), None), (key("b"), None)]), false);
        assert!(known.applied(key("a"), None));
        assert_eq!(names(known.listed(None, BTreeMap::from([(key("b"), None)]), false)), "a");
        assert_eq!(names(known.clear()), "b");
        assert_eq!(names(known.clear()), "");
    }
}
