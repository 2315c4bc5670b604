//! Which of many hostnames intersect with one, without looking at each.

use std::collections::BTreeMap;

use isthmus_routing::Hostname;

/// Hostnames with a value for each; the first value for a hostname stays.
///
/// Hostnames are kept with their bytes reversed, so that everything below `*.example.com` is one range.
#[derive(Debug)]
pub(crate) struct HostnameIndex<V> {
    any: Option<V>,
    first: Option<V>,
    exact: BTreeMap<Vec<u8>, V>,
    wildcard: BTreeMap<Vec<u8>, V>,
}

impl<V: Copy> HostnameIndex<V> {
    pub(crate) fn new() -> Self {
        Self { any: None, first: None, exact: BTreeMap::new(), wildcard: BTreeMap::new() }
    }

    /// Adds all hostnames of a route; none means every host.
    pub(crate) fn insert(&mut self, hostnames: &[Hostname], value: V) {
        self.first.get_or_insert(value);
        if hostnames.is_empty() {
            self.any.get_or_insert(value);
        }
        for hostname in hostnames {
            let map = if hostname.is_wildcard() { &mut self.wildcard } else { &mut self.exact };
            map.entry(reversed(hostname)).or_insert(value);
        }
    }

    /// The value of some hostname that intersects with one of these (none means every host).
    pub(crate) fn intersecting(&self, hostnames: &[Hostname]) -> Option<V> {
        if hostnames.is_empty() {
            return self.first;
        }
        self.any.or_else(|| hostnames.iter().find_map(|hostname| self.intersecting_one(hostname)))
    }

    /// The values of all that intersect with this one (none means every host), each as often as it was added with another hostname.
    pub(crate) fn all_intersecting(&self, hostname: Option<&Hostname>) -> Vec<V> {
        let Some(hostname) = hostname else {
            return self.any.iter().chain(self.exact.values()).chain(self.wildcard.values()).copied().collect();
        };
        let key = reversed(hostname);
        let mut found: Vec<V> = self.any.into_iter().collect();
        if hostname.is_wildcard() {
            for map in [&self.exact, &self.wildcard] {
                found.extend(map.range(key.clone()..).take_while(|(found, _)| found.starts_with(&key)).map(|(_, value)| *value));
            }
        } else {
            found.extend(self.exact.get(&key).copied());
        }
        let above = key.iter().enumerate().filter(|(at, byte)| **byte == b'.' && at + 1 < key.len());
        found.extend(above.filter_map(|(at, _)| self.wildcard.get(&key[..=at])).copied());
        found
    }

    fn intersecting_one(&self, hostname: &Hostname) -> Option<V> {
        let key = reversed(hostname);
        let above = || {
            let dots = key.iter().enumerate().filter(|(_, byte)| **byte == b'.');
            dots.filter_map(|(at, _)| self.wildcard.get(&key[..=at])).next().copied()
        };
        if !hostname.is_wildcard() {
            return self.exact.get(&key).copied().or_else(above);
        }
        let below = |map: &BTreeMap<Vec<u8>, V>| {
            map.range(key.clone()..).next().filter(|(found, _)| found.starts_with(&key)).map(|(_, value)| *value)
        };
        below(&self.exact).or_else(|| below(&self.wildcard)).or_else(above)
    }
}

fn reversed(hostname: &Hostname) -> Vec<u8> {
    hostname.suffix().unwrap_or(hostname.as_str()).bytes().rev().collect()
}

#[cfg(test)]
mod tests {
    use isthmus_routing::Hostname;
    use proptest::prelude::*;

    use super::HostnameIndex;

    fn hostname() -> impl Strategy<Value = Hostname> {
        let label = prop::sample::select(vec!["a", "b", "ab", "c"]);
        (any::<bool>(), prop::collection::vec(label, 1..4)).prop_map(|(wildcard, labels)| {
            let text = format!("{}{}", if wildcard { "*." } else { "" }, labels.join("."));
            text.parse().expect("labels make a hostname")
        })
    }

    proptest! {
        #[test]
        fn finds_what_comparing_each_finds(
            indexed in prop::collection::vec(prop::collection::vec(hostname(), 0..3), 0..6),
            asked in prop::collection::vec(hostname(), 0..3),
        ) {
            let mut index = HostnameIndex::new();
            for (value, hostnames) in indexed.iter().enumerate() {
                index.insert(hostnames, value);
            }
            let intersects = |hostnames: &[Hostname]| {
                hostnames.is_empty() || asked.is_empty() || hostnames.iter().any(|a| asked.iter().any(|b| a.intersects(b)))
            };
            match index.intersecting(&asked) {
                Some(value) => prop_assert!(intersects(&indexed[value])),
                None => prop_assert!(!indexed.iter().any(|hostnames| intersects(hostnames))),
            }
        }

        #[test]
        fn finds_all_that_comparing_each_finds(
            indexed in prop::collection::btree_set(prop::option::of(hostname()), 0..6),
            asked in prop::option::of(hostname()),
        ) {
            let indexed: Vec<_> = indexed.into_iter().collect();
            let mut index = HostnameIndex::new();
            for (value, hostname) in indexed.iter().enumerate() {
                index.insert(hostname.as_slice(), value);
            }
            let mut found = index.all_intersecting(asked.as_ref());
            found.sort_unstable();
            let intersects = |own: &Option<Hostname>| own.as_ref().zip(asked.as_ref()).is_none_or(|(a, b)| a.intersects(b));
            let expected: Vec<_> = (0..indexed.len()).filter(|at| intersects(&indexed[*at])).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
