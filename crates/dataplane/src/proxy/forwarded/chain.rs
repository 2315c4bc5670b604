//! X-Forwarded-For and X-Forwarded-Proto of a request that came through proxies which are trusted.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What trusted proxies say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// X-Forwarded-For as it came, in one line: left of the client anybody may have written anything.
    pub(super) text: Vec<u8>,
    /// The part of it that trusted proxies have written: the client, then each of them but the last one, which is the peer.
    pub(super) hops: Vec<IpAddr>,
    /// The scheme that the client used, if the last proxy says it.
    pub(super) https: Option<bool>,
}

impl Chain {
    /// Reads the chain behind `trusted` proxies. Each of them has added whoever was connected to it, so the client is entry number
    /// `trusted` from the right. None: there are fewer entries, or one of these is no address, so the request has not come through
    /// all of them, and nothing of it can be believed.
    pub(super) fn read(headers: &HeaderMap, trusted: u8) -> Option<Self> {
        let lines = || headers.get_all(&X_FORWARDED_FOR).iter();
        let entries = lines().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii));
        let mut hops = entries
            .filter(|entry| !entry.is_empty())
            .take(usize::from(trusted))
            .map(address)
            .collect::<Option<Vec<_>>>()
            .filter(|hops| hops.len() == usize::from(trusted))?;
        hops.reverse();
        let text = lines().map(http::HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
        Some(Self { text, hops, https: https(headers) })
    }
}

/// Some proxies add the port: `192.0.2.1:4660`, `[2001:db8::1]:4660`.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    ip.ok().map(|ip| ip.to_canonical())
}

/// Of two values nobody knows which one is the last proxy's.
fn https(headers: &HeaderMap) -> Option<bool> {
    let mut values = headers.get_all(&X_FORWARDED_PROTO).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    match value.as_bytes() {
        value if value.eq_ignore_ascii_case(b"https") => Some(true),
        value if value.eq_ignore_ascii_case(b"http") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of X-Forwarded-For, how many proxies are trusted, and the part that these have written.
    type Case<'a> = (&'a [&'a str], u8, Option<&'a [&'a str]>);

    fn read(lines: &[&str], trusted: u8) -> Option<Vec<String>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().expect("a value"));
        }
        Chain::read(&headers, trusted).map(|chain| chain.hops.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_client_is_so_many_from_the_right() {
        let cases: &[Case<'_>] = &[
            (&["192.0.2.1"], 1, Some(&["192.0.2.1"])),
            (&["6.6.6.6, 192.0.2.1"], 1, Some(&["192.0.2.1"])),
            (&["6.6.6.6, 192.0.2.1, 10.0.0.1"], 2, Some(&["192.0.2.1", "10.0.0.1"])),
            (&["6.6.6.6,192.0.2.1 ,\t10.0.0.1"], 3, Some(&["6.6.6.6", "192.0.2.1", "10.0.0.1"])),
            // Several lines are one list, and empty entries are none.
            (&["6.6.6.6", "192.0.2.1", "10.0.0.1"], 2, Some(&["192.0.2.1", "10.0.0.1"])),
            (&["192.0.2.1,, ", "10.0.0.1,"], 2, Some(&["192.0.2.1", "10.0.0.1"])),
            (
                &["192.0.2.1:4660, [2001:db8::1]:4660, [2001:db8::2], 2001:db8::3"],
                4,
                Some(&["192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3"]),
            ),
            (&["::ffff:192.0.2.1"], 1, Some(&["192.0.2.1"])),
            // What is left of the client may be anything.
            (&["unknown, '; DROP TABLE, 192.0.2.1"], 1, Some(&["192.0.2.1"])),
            (&["unknown, 192.0.2.1"], 2, None),
            (&["192.0.2.1, _hidden"], 2, None),
            (&["192.0.2.1, 10.0.0.1.2"], 1, None),
            (&["192.0.2.1"], 2, None),
            (&[""], 1, None),
            (&[], 1, None),
        ];
        for (lines, trusted, expected) in cases {
            let expected = expected.map(|hops| hops.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(read(lines, *trusted), expected, "{lines:?} behind {trusted}");
        }
    }

    #[test]
    fn a_scheme_is_believed_if_there_is_one() {
        let cases: &[(&[&str], Option<bool>)] = &[
            (&[], None),
            (&["https"], Some(true)),
            (&["HTTP"], Some(false)),
            (&["wss"], None),
            (&["https, http"], None),
            (&["https", "http"], None),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(X_FORWARDED_PROTO, value.parse().expect("a value"));
            }
            assert_eq!(https(&headers), *expected, "{values:?}");
        }
    }
}
