//! Hostnames with an optional wildcard label.

mod map;

use std::fmt;
use std::str::FromStr;

pub use map::HostMap;

use crate::name::as_text;

/// A hostname of a Listener or a route: lower-case, without a trailing dot, perhaps with a wildcard as its first label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname {
    /// With `*.` for a wildcard.
    text: String,
}

/// A text that is not a hostname.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a hostname: lower-case labels of letters, digits and `-`, a `*` only as the whole first label, no IP address"
)]
pub struct InvalidHostname(String);

impl Hostname {
    /// Whether the first label is `*`.
    pub fn is_wildcard(&self) -> bool {
        self.text.starts_with("*.")
    }

    /// As written, `*.` included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// For a wildcard: what follows the `*`, with its dot (`.example.com`).
    pub fn suffix(&self) -> Option<&str> {
        self.text.strip_prefix('*')
    }

    /// Whether a request for `host` (normalised: lower-case, no port, no trailing dot) is for this hostname.
    ///
    /// > Hostnames that are prefixed with a wildcard label (`*.`) are interpreted as a suffix match. That means that a
    /// > match for `*.example.com` would match both `test.example.com`, and `foo.test.example.com`, but not `example.com`.
    pub fn matches(&self, host: &str) -> bool {
        match self.suffix() {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == self.text,
        }
    }

    /// Whether some host is for both.
    pub fn intersects(&self, other: &Self) -> bool {
        match (self.suffix(), other.suffix()) {
            (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
            (Some(_), None) => self.matches(&other.text),
            (None, _) => other.matches(&self.text),
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Hostname {
    type Err = InvalidHostname;
    fn from_str(s: &str) -> Result<Self, InvalidHostname> {
        let rest = s.strip_prefix("*.").unwrap_or(s);
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let ip = rest.parse::<std::net::Ipv4Addr>().is_ok();
        if s.len() > 253 || ip || !rest.split('.').all(label) {
            return Err(InvalidHostname(s.chars().take(260).collect()));
        }
        Ok(Self { text: s.to_owned() })
    }
}

as_text!(Hostname);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_a_hostname() {
        let long = format!("{}.example", "a".repeat(64));
        let too_long = format!("{}a", "a.".repeat(127));
        for text in ["a", "a.b", "*.a", "*.a.b", "a-b.c1", "1.a", "xn--bcher-kva.example", "1.2.3.4.5"] {
            assert_eq!(text.parse::<Hostname>().map(|hostname| hostname.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "*",
            "*.",
            ".a",
            "a.",
            "a..b",
            "A.b",
            "a_b",
            "-a",
            "a-",
            "a.*.b",
            "**.a",
            "*a.b",
            "1.2.3.4",
            "*.1.2.3.4",
            "[::1]",
            "a:80",
            &long,
            &too_long,
        ] {
            assert!(text.parse::<Hostname>().is_err(), "{text}");
        }
    }

    #[test]
    fn wildcards_are_suffixes() {
        let cases = [
            ("*.example.com", "test.example.com", true),
            ("*.example.com", "foo.test.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "testexample.com", false),
            ("test.example.com", "test.example.com", true),
            ("test.example.com", "foo.test.example.com", false),
        ];
        for (hostname, host, expected) in cases {
            assert_eq!(hostname.parse::<Hostname>().unwrap().matches(host), expected, "{hostname} {host}");
        }
    }

    fn hostname() -> impl Strategy<Value = Hostname> {
        "(\\*\\.)?[ab](\\.[ab]){0,2}".prop_map(|text| text.parse().unwrap())
    }

    proptest! {
        #[test]
        fn intersections_are_hosts_of_both(a in hostname(), b in hostname()) {
            prop_assert_eq!(a.intersects(&b), b.intersects(&a));
            // Every host of up to four labels, which is one more than a hostname of the alphabet has besides its wildcard.
            let mut hosts = vec![String::from("a"), String::from("b")];
            for length in 1..4 {
                let longest: Vec<_> = hosts.iter().filter(|host| host.len() == 2 * length - 1).cloned().collect();
                hosts.extend(longest.iter().flat_map(|host| [format!("a.{host}"), format!("b.{host}")]));
            }
            let common = hosts.iter().any(|host| a.matches(host) && b.matches(host));
            prop_assert_eq!(a.intersects(&b), common, "{} {}", a, b);
        }

        #[test]
        fn any_text_is_taken(text in ".{0,16}|[*.a-]{0,8}", host in ".{0,16}|[.a]{0,8}") {
            if let Ok(hostname) = text.parse::<Hostname>() {
                hostname.matches(&host);
                prop_assert_eq!(hostname.to_string(), text);
            }
        }

        #[test]
        fn map_finds_what_matches(hostnames in proptest::collection::vec(hostname(), 0..8), host in "[ab](\\.[ab]){0,4}|[ab.]{0,5}") {
            let map: HostMap<&Hostname> = hostnames.iter().map(|hostname| (Some(hostname), hostname)).collect();
            let mut matching: Vec<_> = hostnames.iter().filter(|hostname| hostname.matches(&host)).collect();
            matching.sort_by_key(|hostname| std::cmp::Reverse((!hostname.is_wildcard(), hostname.as_str().len())));
            matching.dedup();
            prop_assert_eq!(map.matches(&host).copied().collect::<Vec<_>>(), matching);
        }
    }
}
