//! Headers by which a proxy tells backends who asked. A client's own are not trusted: they are dropped, and ours are made from the
//! connection. Only behind trusted proxies those that they have written count, which are the last ones of a chain.

mod chain;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use http::header::{FORWARDED, HeaderName};
use pingora_error::Result;
use pingora_http::RequestHeader;

use super::wire;
use chain::Chain;

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const REQUEST_ID: &str = "X-Request-Id";

/// What is known of a client from its connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Truth {
    /// Its address, or that of the last proxy before us.
    pub(super) peer: SocketAddr,
    /// Whether it came under TLS.
    pub(super) https: bool,
    /// The port that it dialled.
    pub(super) port: u16,
    /// How many proxies before us are trusted.
    pub(super) trusted_hops: u8,
}

/// The client as everything after this sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    /// Its address; the port is 0 if trusted proxies tell of it, since they do not tell of ports.
    pub(super) address: SocketAddr,
    /// Whether it speaks under TLS, be it with us or with a trusted proxy.
    pub(super) https: bool,
    /// The port that it dialled; behind trusted proxies, if they speak another scheme with us than with it, that scheme's port.
    pub(super) port: u16,
}

/// Drops what a client might deceive backends with, and adds the truth. Rules match what is there afterwards.
pub(super) fn vouch(request: &mut RequestHeader, truth: &Truth) -> Result<Client> {
    let chain = if truth.trusted_hops == 0 { None } else { Chain::read(&request.headers, truth.trusted_hops) };
    drop_claims(request);
    keep_or_make_request_id(request)?;
    let client = Client::of(truth, chain.as_ref());
    let host = wire::authority(request);
    let hops = chain.as_ref().map_or(&[][..], |chain| &chain.hops);
    request.insert_header(FORWARDED, forwarded(hops, truth.peer.ip(), host.as_ref(), client.https))?;
    request.insert_header("X-Forwarded-For", value(chain.map(|chain| chain.text), truth.peer.ip())?)?;
    request.insert_header("X-Forwarded-Proto", if client.https { HTTPS } else { HTTP })?;
    request.insert_header("X-Forwarded-Port", HeaderValue::from(client.port))?;
    if let Some(host) = host {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    Ok(client)
}

impl Client {
    fn of(truth: &Truth, chain: Option<&Chain>) -> Self {
        let Some(chain) = chain else {
            return Self { address: truth.peer, https: truth.https, port: truth.port };
        };
        let address = chain.hops.first().map_or(truth.peer, |client| SocketAddr::new(*client, 0));
        let https = chain.https.unwrap_or(truth.https);
        let port = match https {
            _ if https == truth.https => truth.port,
            true => 443,
            false => 80,
        };
        Self { address, https, port }
    }
}

/// Whether a client may not take this header away by naming it in Connection.
pub(super) fn is_protected(name: &[u8]) -> bool {
    let mut lower = [0; 32];
    let Some(lower) = lower.get_mut(..name.len()) else { return false };
    for (to, from) in lower.iter_mut().zip(name) {
        *to = from.to_ascii_lowercase();
    }
    is_claim(lower) || matches!(&*lower, b"x-request-id" | b"traceparent" | b"tracestate" | b"host")
}

/// Whether a header (lower-case) is believed by backends though anybody can write it. `_` counts as `-`, because CGI and its heirs
/// cannot tell them apart.
fn is_claim(name: &[u8]) -> bool {
    // Most headers are told apart by two bytes.
    match name {
        [b'x', b'-' | b'_', rest @ ..] => {
            starts_with(rest, b"forwarded-")
                || starts_with(rest, b"envoy-")
                || is(rest, b"real-ip")
                || is(rest, b"original-url")
                || is(rest, b"original-host")
                || is(rest, b"rewrite-url")
        }
        // `Proxy` becomes HTTP_PROXY in CGI, and is obeyed (CVE-2016-5385 and its relatives).
        [b'f', ..] => name == b"forwarded",
        [b'p', ..] => name == b"proxy",
        _ => false,
    }
}

fn is(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len() && starts_with(name, other)
}

fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.len() >= prefix.len() && name.iter().zip(prefix).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
}

/// Drops what a client might deceive backends, or readers of the access log, with.
pub(super) fn drop_claims(request: &mut RequestHeader) {
    let claim = |name: &&HeaderName| {
        let name = name.as_str().as_bytes();
        is_claim(name) || name == b"x_request_id" || name == b"x-request_id" || name == b"x_request-id"
    };
    let claims: Vec<_> = request.headers.keys().filter(claim).cloned().collect();
    for name in &claims {
        request.remove_header(name);
    }
}

/// Logs of several hops are joined by it, so one that a client sends stays if it is fit for a log.
fn keep_or_make_request_id(request: &mut RequestHeader) -> Result<()> {
    let fit = |id: &HeaderValue| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    let mut ids = request.headers.get_all(REQUEST_ID).iter();
    // Of two, each hop might believe another one.
    if ids.next().is_some_and(fit) && ids.next().is_none() {
        return Ok(());
    }
    request.insert_header(REQUEST_ID, request_id(fastrand::u128(..)))
}

/// A version 4 UUID of random bits.
fn request_id(random: u128) -> HeaderValue {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let mut text = [0; 36];
    let mut nibble = 32;
    for (at, byte) in text.iter_mut().enumerate() {
        *byte = if matches!(at, 8 | 13 | 18 | 23) {
            b'-'
        } else {
            nibble -= 1;
            b"0123456789abcdef"[(bits >> (4 * nibble)) as usize & 15]
        };
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are fit for a header")
}

/// RFC 7239: one element for each hop, of which the first one knows the client's scheme and host. Values with a colon are quoted, IPv6
/// addresses are in brackets.
fn forwarded(hops: &[IpAddr], peer: IpAddr, host: Option<&HeaderValue>, https: bool) -> HeaderValue {
    let mut text = String::with_capacity(96);
    for (position, hop) in hops.iter().chain([&peer]).enumerate() {
        // Writing to a string cannot fail.
        let _ = match hop {
            _ if position > 0 => write!(text, ", {}", Node(*hop)),
            hop => write!(text, "{};proto={}", Node(*hop), if https { "https" } else { "http" }),
        };
        // Hosts have passed `path::host_of`, so they have no quotes; a colon makes quotes necessary.
        if position == 0
            && let Some(host) = host.and_then(|host| host.to_str().ok())
        {
            let _ = if host.contains(':') { write!(text, ";host=\"{host}\"") } else { write!(text, ";host={host}") };
        }
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("for=unknown"))
}

/// The `for` of an element.
struct Node(IpAddr);

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => write!(f, "for={ip}"),
            IpAddr::V6(ip) => write!(f, "for=\"[{ip}]\""),
        }
    }
}

/// The chain so far, if it is believed, and whoever is connected to us.
fn value(chain: Option<Vec<u8>>, peer: IpAddr) -> Result<HeaderValue> {
    use pingora_error::{ErrorType::InternalError, OrErr};
    let mut text = chain.unwrap_or_default();
    if !text.is_empty() {
        text.extend_from_slice(b", ");
    }
    // Writing to a vector cannot fail.
    let _ = write!(text, "{peer}");
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).or_err(InternalError, "addresses are fit for a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many proxies are trusted, headers as they came, the client, whether it uses TLS, and headers as they go.
    type Case<'a> = (u8, &'a [(&'a str, &'a str)], &'a str, bool, &'a [(&'a str, &'a str)]);

    #[test]
    fn claims_of_clients_are_dropped_in_every_spelling() {
        let kept =
            ["accept", "x-forward", "x-requested-with", "proxy-authorization", "x-realm", "forwarded-by", "x-api-key", "x"];
        let dropped = [
            "x-forwarded-for",
            "X-Forwarded-Client-Cert",
            "x_forwarded_for",
            "X-Forwarded_Host",
            "x-forwarded-prefix",
            "x-envoy-original-path",
            "forwarded",
            "x-real-ip",
            "X_Real_IP",
            "x-original-url",
            "x-rewrite-url",
            "proxy",
            "x_request_id",
        ];
        let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
        for name in kept.iter().chain(&dropped) {
            request.append_header(*name, "evil").expect("a header");
            request.append_header(*name, "twice").expect("a header");
        }
        drop_claims(&mut request);
        let mut left: Vec<_> = request.headers.keys().map(|name| name.as_str().to_owned()).collect();
        left.sort_unstable();
        let mut expected: Vec<_> = kept.map(str::to_owned).to_vec();
        expected.sort_unstable();
        assert_eq!(left, expected);
    }

    #[test]
    fn the_truth_takes_the_place_of_claims() {
        let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
        for (name, value) in [("Host", "a.example:8443"), ("x-forwarded-for", "6.6.6.6"), ("X-Forwarded-Proto", "http")] {
            request.append_header(name, value).expect("a header");
        }
        let truth = Truth { peer: ([10, 0, 0, 1], 5).into(), https: true, port: 443, trusted_hops: 0 };
        let client = vouch(&mut request, &truth).expect("vouched");
        assert_eq!(client, Client { address: truth.peer, https: true, port: 443 });
        for (name, expected) in [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.example:8443"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=10.0.0.1;proto=https;host=\"a.example:8443\""),
        ] {
            let values: Vec<_> = request.headers.get_all(name).iter().collect();
            assert_eq!(values, [expected], "{name}");
        }
    }

    #[test]
    fn what_trusted_proxies_say_is_kept_and_added_to() {
        const FOR: (&str, &str) = ("x-forwarded-for", "10.0.0.9");
        const PROTO: (&str, &str) = ("x-forwarded-proto", "http");
        const PORT: (&str, &str) = ("x-forwarded-port", "8080");
        const ALONE: (&str, &str) = ("forwarded", "for=10.0.0.9;proto=http;host=a.example");
        let cases: &[Case<'_>] = &[
            (
                1,
                &[("X-Forwarded-For", "6.6.6.6, 192.0.2.1"), ("X-Forwarded-Proto", "https"), ("Forwarded", "for=evil")],
                "192.0.2.1:0",
                true,
                &[
                    ("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.0.0.9"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-port", "443"),
                    ("x-forwarded-host", "a.example"),
                    ("forwarded", "for=192.0.2.1;proto=https;host=a.example, for=10.0.0.9"),
                ],
            ),
            (
                2,
                &[("X-Forwarded-For", "evil"), ("x-forwarded-for", "2001:db8::1"), ("x-forwarded-for", "10.0.0.8")],
                "[2001:db8::1]:0",
                false,
                &[
                    ("x-forwarded-for", "evil, 2001:db8::1, 10.0.0.8, 10.0.0.9"),
                    ("x-forwarded-proto", "http"),
                    ("x-forwarded-port", "8080"),
                    ("forwarded", "for=\"[2001:db8::1]\";proto=http;host=a.example, for=10.0.0.8, for=10.0.0.9"),
                ],
            ),
            // Nobody vouches for these.
            (
                1,
                &[("X-Real-IP", "6.6.6.6"), ("X-Forwarded-Host", "evil.example"), ("x-forwarded-for", "192.0.2.1")],
                "192.0.2.1:0",
                false,
                &[("x-forwarded-for", "192.0.2.1, 10.0.0.9"), ("x-forwarded-host", "a.example")],
            ),
            // A chain that is too short, or is none, has not come through all proxies: nothing of it counts.
            (2, &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")], "10.0.0.9:5", false, &[FOR, PROTO, PORT]),
            (
                1,
                &[("x-forwarded-for", "192.0.2.1, evil"), ("x-forwarded-proto", "https")],
                "10.0.0.9:5",
                false,
                &[FOR, PROTO, PORT],
            ),
            (1, &[("x-forwarded-proto", "https")], "10.0.0.9:5", false, &[FOR, PROTO, PORT, ALONE]),
            (0, &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")], "10.0.0.9:5", false, &[FOR, PROTO, PORT]),
        ];
        for (trusted_hops, sent, address, https, expected) in cases {
            let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
            for (name, value) in [("Host", "a.example")].iter().chain(*sent) {
                request.append_header(*name, *value).expect("a header");
            }
            let truth = Truth { peer: ([10, 0, 0, 9], 5).into(), https: false, port: 8080, trusted_hops: *trusted_hops };
            let client = vouch(&mut request, &truth).expect("vouched");
            assert_eq!((client.address.to_string(), client.https), ((*address).to_owned(), *https), "{sent:?}");
            for (name, expected) in *expected {
                let values: Vec<_> = request.headers.get_all(*name).iter().collect();
                assert_eq!(values, [expected], "{name} of {sent:?}");
            }
            assert!(request.headers.get("x-real-ip").is_none());
        }
    }

    #[test]
    fn a_request_id_is_kept_if_it_is_fit_and_else_made() {
        for (sent, kept) in
            [(Some("abc-123"), true), (Some(""), false), (Some("a b"), false), (Some(&*"x".repeat(129)), false), (None, false)]
        {
            let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
            if let Some(sent) = sent {
                request.insert_header(REQUEST_ID, sent).expect("a header");
            }
            keep_or_make_request_id(&mut request).expect("an id");
            let id = request.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).expect("an id").to_owned();
            assert_eq!(Some(&*id) == sent, kept, "{sent:?} became {id}");
            assert!(kept || id.len() == 36);
        }
        let mut two = RequestHeader::build("GET", b"/", None).expect("a request");
        for id in ["fit", "another one"] {
            two.append_header(REQUEST_ID, id).expect("a header");
        }
        keep_or_make_request_id(&mut two).expect("an id");
        let left: Vec<_> = two.headers.get_all(REQUEST_ID).iter().map(HeaderValue::len).collect();
        assert_eq!(left, [36], "neither of two is believed");
    }

    #[test]
    fn made_ids_are_uuids() {
        assert_eq!(request_id(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(request_id(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(request_id(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), "01234567-89ab-4def-8123-456789abcdef");
    }

    #[test]
    fn forwarded_quotes_what_has_colons() {
        let host = HeaderValue::from_static("a.example:8080");
        for (peer, host, https, expected) in [
            ("10.0.0.1", None, false, "for=10.0.0.1;proto=http"),
            ("2001:db8::1", Some(&host), true, "for=\"[2001:db8::1]\";proto=https;host=\"a.example:8080\""),
            ("10.0.0.1", Some(&HeaderValue::from_static("a.example")), true, "for=10.0.0.1;proto=https;host=a.example"),
        ] {
            assert_eq!(forwarded(&[], peer.parse().expect("an address"), host, https), expected);
        }
    }

    #[test]
    fn protected_names_are_known_in_any_case() {
        for (name, protected) in [
            ("X-Forwarded-For", true),
            ("x_forwarded_proto", true),
            ("FORWARDED", true),
            ("TraceParent", true),
            ("X-Request-ID", true),
            ("authorization", false),
            ("", false),
            ("x-a-header-name-that-is-longer-than-thirty-two-bytes", false),
        ] {
            assert_eq!(is_protected(name.as_bytes()), protected, "{name}");
        }
    }
}
