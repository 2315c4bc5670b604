//! Values by hostname: exact, wildcard, none.

use hashbrown::HashMap;

use super::Hostname;
use crate::hash::State;
use crate::lengths::Lengths;

/// Values that are keyed by a hostname or by none, looked up by the host of a request, the most specific one first:
///
/// > * Characters in a matching non-wildcard hostname.
/// > * Characters in a matching hostname.
///
/// So an exact hostname goes before wildcards, a longer wildcard before a shorter one, and no hostname comes last. A look-up
/// probes once for the exact hostname and once for each length of wildcard that is in the map, however many labels the host has.
#[derive(Debug, Clone)]
pub struct HostMap<T> {
    exact: HashMap<Box<str>, T, State>,
    /// Keyed by [`Hostname::suffix`].
    wildcard: HashMap<Box<str>, T, State>,
    /// Of the keys of `wildcard`.
    lengths: Lengths,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::default(), wildcard: HashMap::default(), lengths: Lengths::default(), any: None }
    }
}

impl<T> HostMap<T> {
    /// Sets the value for a hostname, or for none; gives back the one that was there.
    pub fn insert(&mut self, hostname: Option<&Hostname>, value: T) -> Option<T> {
        let Some(hostname) = hostname else { return self.any.replace(value) };
        let Some(suffix) = hostname.suffix() else { return self.exact.insert(hostname.as_str().into(), value) };
        self.lengths.note(suffix.len());
        self.wildcard.insert(suffix.into(), value)
    }

    /// The value for exactly this hostname, or for none; made if it is not there.
    pub fn entry(&mut self, hostname: Option<&Hostname>, make: impl FnOnce() -> T) -> &mut T {
        let Some(hostname) = hostname else { return self.any.get_or_insert_with(make) };
        let Some(suffix) = hostname.suffix() else {
            return self.exact.entry(hostname.as_str().into()).or_insert_with(make);
        };
        self.lengths.note(suffix.len());
        self.wildcard.entry(suffix.into()).or_insert_with(make)
    }

    /// The value of the most specific hostname that matches the host of a request (lower-case, no port, no trailing dot).
    pub fn get(&self, host: &str) -> Option<&T> {
        self.matches(host).next()
    }

    /// The values of all hostnames that match, from most to least specific.
    pub fn matches<'m, 'h>(&'m self, host: &'h str) -> impl Iterator<Item = &'m T> + use<'m, 'h, T> {
        let wildcards = self.lengths.up_to(host.len().saturating_sub(1)).filter_map(move |length| {
            let start = host.len() - length;
            // The byte is looked at first because it is cheap, and makes the slice safe: a dot is a whole character.
            if host.as_bytes()[start] == b'.' { self.wildcard.get(&host[start..]) } else { None }
        });
        self.exact.get(host).into_iter().chain(wildcards).chain(self.any.as_ref())
    }
}

impl<'h, T> FromIterator<(Option<&'h Hostname>, T)> for HostMap<T> {
    fn from_iter<I: IntoIterator<Item = (Option<&'h Hostname>, T)>>(values: I) -> Self {
        let mut map = Self::default();
        for (hostname, value) in values {
            map.insert(hostname, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(hostnames: &[&str]) -> HostMap<String> {
        let parsed: Vec<_> = hostnames.iter().map(|text| (text.parse::<Hostname>().ok(), (*text).to_owned())).collect();
        parsed.iter().map(|(hostname, text)| (hostname.as_ref(), text.clone())).collect()
    }

    #[test]
    fn from_most_to_least_specific() {
        let map = map(&["", "*.com", "*.example.com", "a.example.com", "*.a.example.com", "example.com"]);
        let cases: &[(&str, &[&str])] = &[
            ("a.example.com", &["a.example.com", "*.example.com", "*.com", ""]),
            ("b.a.example.com", &["*.a.example.com", "*.example.com", "*.com", ""]),
            ("c.b.a.example.com", &["*.a.example.com", "*.example.com", "*.com", ""]),
            ("example.com", &["example.com", "*.com", ""]),
            ("xexample.com", &["*.com", ""]),
            (".com", &[""]),
            ("com", &[""]),
            ("", &[""]),
            ("é.com", &["*.com", ""]),
            ("[::1]", &[""]),
        ];
        for (host, found) in cases {
            assert_eq!(map.matches(host).collect::<Vec<_>>(), *found, "{host}");
            assert_eq!(map.get(host).map(String::as_str), found.first().copied());
        }
    }

    #[test]
    fn nothing_without_a_value_for_no_hostname() {
        let map = map(&["*.example.com"]);
        assert_eq!(map.get("example.com"), None);
        assert_eq!(map.get("example.org"), None);
    }

    #[test]
    fn entry_and_insert_agree_on_keys() {
        let mut map = HostMap::default();
        for text in ["", "*.a.b", "a.b"] {
            let hostname = text.parse::<Hostname>().ok();
            *map.entry(hostname.as_ref(), || 0) += 1;
            *map.entry(hostname.as_ref(), || 0) += 1;
            assert_eq!(map.insert(hostname.as_ref(), 7), Some(2), "{text}");
        }
        assert_eq!(map.matches("x.a.b").count(), 2);
    }
}
