//! Cross-origin resource sharing.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

/// Who may read responses from another origin.
///
/// What it answers are response headers. Each replaces what the backend has sent under its name, except `vary`, which is added to
/// it; and of [`Self::HEADERS`], those that are not in the answer are removed, so that a backend cannot allow what the filter
/// does not.
///
/// Origins are parsed when a request is compared with them: there are at most 64, only requests with an Origin are compared, and
/// it takes a few nanoseconds each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// Origins as written: `*`, `https://*.example.com`, `http://a.example:8080`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    /// Whether credentials may be sent.
    #[serde(default)]
    pub allow_credentials: bool,
    /// Methods, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Header names, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// Header names, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// How long a preflight's answer may be kept, in seconds.
    pub max_age: u32,
}

impl Cors {
    /// The response headers that this filter alone decides about.
    pub const HEADERS: [HeaderName; 6] = [
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        header::ACCESS_CONTROL_MAX_AGE,
    ];

    /// Whether a request is a preflight, which is answered here (with 204) and goes to no backend: OPTIONS, with an Origin and
    /// an Access-Control-Request-Method, as the Fetch standard has it. Any other OPTIONS request goes to the backend.
    pub fn is_preflight(method: &http::Method, headers: &HeaderMap) -> bool {
        method == http::Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The headers of the answer to a preflight, given its Origin, Access-Control-Request-Method and -Headers.
    ///
    /// > If the request `Origin` does not match the configured allowed origins,
    /// > the gateway returns 204/200 response but doesn't set the relevant
    /// > cross-origin response headers.
    ///
    /// A wildcard is echoed as what was asked for where the specification leaves the choice, because a browser does not take `*`
    /// to cover `Authorization`; methods have no such exception, so theirs stays `*`.
    ///
    /// > If the configuration contains the wildcard `*` in `allowMethods` and
    /// > `allowCredentials` is set to `true`, the gateway must not return `*`
    /// > in the `Access-Control-Allow-Methods` response header. Instead, it must
    /// > return a single HTTP method matching the value of the
    /// > `Access-Control-Request-Method` request header.
    ///
    /// > If the configuration contains the wildcard `*` in `allowHeaders` and
    /// > `allowCredentials` is set to `true`, the gateway must not return `*`
    /// > in the `Access-Control-Allow-Headers` response header. Instead, it must
    /// > return one or more header names matching the value of the
    /// > `Access-Control-Request-Headers` request header.
    /// > If the `Access-Control-Request-Headers` header is not present in the
    /// > request, the gateway must omit the `Access-Control-Allow-Headers`
    /// > response header.
    pub fn preflight(
        &self,
        origin: &str,
        requested_method: &str,
        requested_headers: Option<&str>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut answer = self.actual(origin);
        if !self.allows(origin) {
            return answer;
        }
        let any_method = if self.allow_credentials { Some(requested_method) } else { Some(ANY) };
        let any_header = requested_headers.or(if self.allow_credentials { None } else { Some(ANY) });
        push(&mut answer, header::ACCESS_CONTROL_ALLOW_METHODS, list(&self.allow_methods, any_method));
        push(&mut answer, header::ACCESS_CONTROL_ALLOW_HEADERS, list(&self.allow_headers, any_header));
        answer.push((header::ACCESS_CONTROL_MAX_AGE, self.max_age.into()));
        answer
    }

    /// The headers of the response to any other request, given its Origin (`""`: it has none).
    ///
    /// > If the configuration contains the wildcard `*` in `allowOrigins` and
    /// > `allowCredentials` is set to `true`, the gateway must not return `*`
    /// > in the `Access-Control-Allow-Origin` response header. Instead, it must
    /// > return a single origin matching the value of the `Origin` request header.
    ///
    /// > If the configuration contains the wildcard `*` in `exposeHeaders` and
    /// > `allowCredentials` is set to `true`, the gateway cannot use the `*`
    /// > in the `Access-Control-Expose-Headers` response header.
    ///
    /// (It is left out then.) `Vary` tells caches that the response depends on the Origin, even if this one got nothing.
    pub fn actual(&self, origin: &str) -> Vec<(HeaderName, HeaderValue)> {
        let mut answer = Vec::with_capacity(7);
        let any = is_any(&self.allow_origins) && !self.allow_credentials;
        if !any {
            answer.push((header::VARY, HeaderValue::from_static("origin")));
        }
        if !self.allows(origin) {
            return answer;
        }
        push(&mut answer, header::ACCESS_CONTROL_ALLOW_ORIGIN, Some(if any { ANY } else { origin }.to_owned()));
        if self.allow_credentials {
            answer.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        let any_exposed = if self.allow_credentials { None } else { Some(ANY) };
        push(&mut answer, header::ACCESS_CONTROL_EXPOSE_HEADERS, list(&self.expose_headers, any_exposed));
        answer
    }

    fn allows(&self, origin: &str) -> bool {
        if is_any(&self.allow_origins) {
            return !origin.is_empty();
        }
        let Some(origin) = Origin::parse(origin) else { return false };
        self.allow_origins.iter().filter_map(|allowed| Origin::parse(allowed)).any(|allowed| allowed.covers(&origin))
    }
}

const ANY: &str = "*";

fn is_any(values: &[String]) -> bool {
    values.iter().any(|value| value == ANY)
}

/// Values as a header's, with `any` for a wildcard; `None`: the header is left out.
fn list(values: &[String], any: Option<&str>) -> Option<String> {
    if is_any(values) { any.map(str::to_owned) } else { (!values.is_empty()).then(|| values.join(", ")) }
}

fn push(answer: &mut Vec<(HeaderName, HeaderValue)>, name: HeaderName, value: Option<String>) {
    if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
        answer.push((name, value));
    }
}

/// > The `Origin` consists of a scheme and a host, with an optional port, and
/// > takes the form `<scheme>://<host>(:<port>)`.
#[derive(Debug, PartialEq, Eq)]
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: u16,
}

impl<'a> Origin<'a> {
    /// > Note that, if not included, port `80` is
    /// > assumed for `http` scheme origins, and port `443` is assumed for `https`
    /// > origins.
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (rest, default),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*[]:".contains(&byte);
        (!host.is_empty() && host.bytes().all(allowed)).then_some(Self { scheme, host, port })
    }

    /// > The host part of the origin may contain the wildcard character `*`. These
    /// > wildcard characters behave as follows:
    /// >
    /// > * `*` is a greedy match to the _left_, including any number of
    /// >   DNS labels to the left of its position. This also means that
    /// >   `*` will include any number of period `.` characters to the
    /// >   left of its position.
    /// > * A wildcard by itself matches all hosts.
    fn covers(&self, other: &Origin<'_>) -> bool {
        let host = match self.host.strip_prefix('*') {
            None => self.host.eq_ignore_ascii_case(other.host),
            Some(suffix) => other
                .host
                .len()
                .checked_sub(suffix.len())
                .is_some_and(|start| start > 0 && other.host[start..].eq_ignore_ascii_case(suffix)),
        };
        host && (self.scheme, self.port) == (other.scheme, other.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], methods: &[&str], headers: &[&str], expose: &[&str], allow_credentials: bool) -> Cors {
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        Cors {
            allow_origins: owned(origins),
            allow_credentials,
            allow_methods: owned(methods),
            allow_headers: owned(headers),
            expose_headers: owned(expose),
            max_age: 5,
        }
    }

    fn text(answer: &[(HeaderName, HeaderValue)]) -> String {
        let short = |name: &HeaderName| name.as_str().trim_start_matches("access-control-").to_owned();
        let lines: Vec<_> = answer.iter().map(|(name, value)| format!("{}: {}", short(name), value.to_str().unwrap())).collect();
        lines.join("; ")
    }

    #[test]
    fn origins() {
        let cases = [
            ("https://www.foo.com", "https://www.foo.com", true),
            ("https://www.foo.com", "https://WWW.foo.com", true),
            ("https://www.foo.com", "https://www.foo.com:443", true),
            ("https://www.foo.com:443", "https://www.foo.com", true),
            ("https://www.foo.com", "https://www.foo.com:8443", false),
            ("https://www.foo.com", "http://www.foo.com", false),
            ("http://www.foo.com", "http://www.foo.com:80", true),
            ("https://www.foo.com", "https://foo.com", false),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://xpto.www.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://foobar.com", false),
            ("https://*.bar.com", "https://www.bar.com:8443", false),
            ("https://*.bar.com:8443", "https://www.bar.com:8443", true),
            ("https://*", "https://anything.example", true),
            ("https://*", "http://anything.example", false),
            ("https://*", "https://evil.com/", false),
            ("http://*", "http://[::1]", true),
            ("http://*", "http://[::1]:8080", false),
            ("*", "https://foobar.com:12345", true),
            ("*", "null", true),
            ("*", "chrome-extension://abc", true),
            ("*", "", false),
            ("https://*", "null", false),
            ("https://*", "", false),
            ("https://www.foo.com", "https://www.foo.com:x", false),
            ("https://www.foo.com", "www.foo.com", false),
        ];
        for (allowed, origin, expected) in cases {
            assert_eq!(cors(&[allowed], &[], &[], &[], false).allows(origin), expected, "{allowed} {origin}");
        }
        assert!(cors(&["https://a", "https://b"], &[], &[], &[], false).allows("https://b"));
        assert!(!cors(&[], &[], &[], &[], false).allows("https://b"));
    }

    #[test]
    fn preflights() {
        let names = ["x-header-1", "x-header-2"];
        let listed = cors(&["https://www.foo.com"], &["GET", "OPTIONS"], &names, &["x-header-3"], true);
        let asked = Some("x-header-1, x-header-2");
        assert_eq!(
            text(&listed.preflight("https://www.foo.com", "GET", asked)),
            "vary: origin; allow-origin: https://www.foo.com; allow-credentials: true; expose-headers: x-header-3; \
             allow-methods: GET, OPTIONS; allow-headers: x-header-1, x-header-2; max-age: 5"
        );
        assert_eq!(text(&listed.preflight("https://foobar.com", "GET", asked)), "vary: origin");

        let with = cors(&["*"], &["*"], &["*"], &["*"], true);
        assert_eq!(
            text(&with.preflight("https://a.b", "PUT", asked)),
            "vary: origin; allow-origin: https://a.b; allow-credentials: true; allow-methods: PUT; \
             allow-headers: x-header-1, x-header-2; max-age: 5"
        );
        assert_eq!(
            text(&with.preflight("https://a.b", "PUT", None)),
            "vary: origin; allow-origin: https://a.b; allow-credentials: true; allow-methods: PUT; max-age: 5"
        );

        let without = cors(&["*"], &["*"], &["*"], &["*"], false);
        assert_eq!(
            text(&without.preflight("https://a.b", "PUT", asked)),
            "allow-origin: *; expose-headers: *; allow-methods: *; allow-headers: x-header-1, x-header-2; max-age: 5"
        );
        assert_eq!(
            text(&without.preflight("https://a.b", "PUT", None)),
            "allow-origin: *; expose-headers: *; allow-methods: *; allow-headers: *; max-age: 5"
        );

        let bare = cors(&["https://www.foo.com"], &[], &[], &[], false);
        assert_eq!(
            text(&bare.preflight("https://www.foo.com", "GET", None)),
            "vary: origin; allow-origin: https://www.foo.com; max-age: 5"
        );
    }

    #[test]
    fn actual_responses() {
        let listed = cors(&["https://*.bar.com"], &["GET"], &["x"], &["x-header-3", "x-header-4"], true);
        assert_eq!(
            text(&listed.actual("https://www.bar.com")),
            "vary: origin; allow-origin: https://www.bar.com; allow-credentials: true; expose-headers: x-header-3, x-header-4"
        );
        assert_eq!(text(&listed.actual("https://foobar.com")), "vary: origin");
        assert_eq!(text(&listed.actual("")), "vary: origin");
        let any = cors(&["*"], &["PUT"], &[], &[], false);
        assert_eq!(text(&any.actual("https://foobar.com:12345")), "allow-origin: *");
        assert_eq!(text(&any.actual("")), "");
    }

    #[test]
    fn what_is_a_preflight() {
        let cases = [
            ("OPTIONS", &["origin", "access-control-request-method"][..], true),
            ("OPTIONS", &["origin"], false),
            ("OPTIONS", &["access-control-request-method"], false),
            ("GET", &["origin", "access-control-request-method"], false),
        ];
        for (method, names, expected) in cases {
            let headers = names.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("x"))).collect();
            assert_eq!(Cors::is_preflight(&method.parse().unwrap(), &headers), expected, "{method} {names:?}");
        }
    }
}
