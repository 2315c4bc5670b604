//! Redirects.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::PathModifier;

/// Where a client is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`; absent: the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Absent: the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Absent: the request's, unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// Absent: the scheme's own port if a scheme is given, else the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A URL scheme of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// `http`, port 80.
    Http,
    /// `https`, port 443.
    Https,
}

impl Redirect {
    /// The Location of the answer. `scheme`, `host` (in its normal form), `path` and `query` are the request's, `parent_port`
    /// is the port of the listener as its object has it, or of the Service that is the parent, whose scheme is `http`, and `prefix` is
    /// [`crate::Found::prefix`]. The query stays.
    ///
    /// > If no port is specified, the redirect port MUST be derived using the
    /// > following rules:
    /// >
    /// > * If redirect scheme is not-empty, the redirect port MUST be the well-known
    /// >   port associated with the redirect scheme. Specifically "http" to port 80
    /// >   and "https" to port 443. If the redirect scheme does not have a
    /// >   well-known port, the listener port of the Gateway SHOULD be used.
    /// > * If redirect scheme is empty, the redirect port MUST be the Gateway
    /// >   Listener port.
    /// >
    /// > Implementations SHOULD NOT add the port number in the 'Location'
    /// > header in the following cases:
    /// >
    /// > * A Location header that will use HTTP (whether that is determined via
    /// >   the Listener protocol or the Scheme field) _and_ use port 80.
    /// > * A Location header that will use HTTPS (whether that is determined via
    /// >   the Listener protocol or the Scheme field) _and_ use port 443.
    pub fn location(
        &self,
        scheme: Scheme,
        host: &str,
        parent_port: u16,
        path: &str,
        query: Option<&str>,
        prefix: Option<usize>,
    ) -> String {
        let port = self.port.or(self.scheme.map(Scheme::port)).unwrap_or(parent_port);
        let scheme = self.scheme.unwrap_or(scheme);
        let host = self.hostname.as_deref().unwrap_or(host);
        let path = match &self.path {
            Some(modifier) => modifier.apply(path, prefix),
            None => Cow::Borrowed(path),
        };
        let mut location = format!("{scheme}://{host}");
        if port != scheme.port() {
            location.push_str(&format!(":{port}"));
        }
        // `*` (of `OPTIONS *`) stands for the whole server, and so does a URL without a path.
        location.push_str(if *path == *"*" { "" } else { &path });
        if let Some(query) = query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

impl Scheme {
    /// Its well-known port.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        use Scheme::{Http, Https};
        // The rows of HTTPRouteRedirectPortAndScheme, and those in which a port and a scheme cross.
        let rows = [
            (Http, 80, None, None, "http://a.example/p"),
            (Http, 80, None, Some(80), "http://a.example/p"),
            (Http, 80, None, Some(8080), "http://a.example:8080/p"),
            (Http, 80, Some(Https), None, "https://a.example/p"),
            (Http, 80, Some(Https), Some(443), "https://a.example/p"),
            (Http, 80, Some(Https), Some(8443), "https://a.example:8443/p"),
            (Http, 8080, None, None, "http://a.example:8080/p"),
            (Http, 8080, None, Some(80), "http://a.example/p"),
            (Http, 8080, None, Some(8080), "http://a.example:8080/p"),
            (Http, 8080, Some(Https), None, "https://a.example/p"),
            (Http, 8080, Some(Http), None, "http://a.example/p"),
            (Https, 443, None, None, "https://a.example/p"),
            (Https, 443, None, Some(443), "https://a.example/p"),
            (Https, 443, None, Some(8443), "https://a.example:8443/p"),
            (Https, 443, None, Some(80), "https://a.example:80/p"),
            (Https, 443, Some(Http), None, "http://a.example/p"),
            (Https, 443, Some(Http), Some(80), "http://a.example/p"),
            (Https, 443, Some(Http), Some(443), "http://a.example:443/p"),
            (Https, 443, Some(Http), Some(8080), "http://a.example:8080/p"),
        ];
        for (of_request, listener_port, scheme, port, expected) in rows {
            let redirect = Redirect { scheme, hostname: None, path: None, port, status: 302 };
            let location = redirect.location(of_request, "a.example", listener_port, "/p", None, None);
            assert_eq!(location, expected, "{of_request} listener {listener_port}, {scheme:?} {port:?}");
        }
    }

    #[test]
    fn host_path_and_query() {
        let redirect = |hostname: Option<&str>, path| Redirect {
            scheme: None,
            hostname: hostname.map(str::to_owned),
            path,
            port: None,
            status: 301,
        };
        let prefix = |to: &str| Some(PathModifier::Prefix(to.to_owned()));
        let full = |to: &str| Some(PathModifier::Full(to.to_owned()));
        let rows = [
            (redirect(None, None), "/p/q", None, "http://h/p/q"),
            (redirect(None, None), "/p/q", Some("a=1&b"), "http://h/p/q?a=1&b"),
            (redirect(None, None), "/p", Some(""), "http://h/p?"),
            (redirect(Some("example.org"), None), "/p", None, "http://example.org/p"),
            (redirect(None, prefix("/x")), "/p/q", Some("a=1"), "http://h/x/q?a=1"),
            (redirect(None, prefix("/")), "/p", None, "http://h/"),
            (redirect(Some("example.org"), full("/x")), "/p/q", None, "http://example.org/x"),
            (redirect(None, None), "*", None, "http://h"),
        ];
        for (redirect, path, query, expected) in rows {
            let location = redirect.location(Scheme::Http, "h", 80, path, query, Some(2));
            assert_eq!(location, expected, "{redirect:?} {path} {query:?}");
        }
        let location = redirect(None, None).location(Scheme::Http, "[::1]", 8080, "/", None, None);
        assert_eq!(location, "http://[::1]:8080/");
    }
}
