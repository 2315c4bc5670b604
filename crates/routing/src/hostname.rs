//! Hostnames with an optional wildcard label.

use std::fmt;
use std::str::FromStr;

use crate::name::as_text;

/// A hostname of a Listener or a route: lower-case, without a trailing dot, perhaps with a wildcard as its first label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname {
    /// With `*.` for a wildcard.
    text: String,
}

/// A text that is not a hostname.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a hostname: lower-case labels of letters, digits and `-`, a `*` only as the whole first label, no IP address")]
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
