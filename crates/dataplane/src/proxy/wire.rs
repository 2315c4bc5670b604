//! A request as it came -> one that has a single meaning, or a refusal.
//!
//! Pingora has refused what cannot be parsed, several Hosts, and a target whose authority is another than Host's. What is refused here
//! is what it lets pass although two servers could read it in two ways.

use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Uri, Version};
use isthmus_routing::path;
use pingora_core::protocols::http::ServerSession;
use pingora_http::RequestHeader;

use super::forwarded;
use super::local_response::Reply;
use crate::telemetry::Flags;

/// Checks the request and gives its target its normal form; returns the normal form of its host.
///
/// # Errors
/// The answer to a request that is refused.
pub(super) fn admit(session: &mut ServerSession) -> Result<String, Reply> {
    framing(session)?;
    let request = session.req_header();
    if matches!(request.method, Method::TRACE | Method::CONNECT) {
        return Err(method_not_allowed(&request.method));
    }
    nominations(request)?;
    let host = host(request)?;
    normalise_target(session.req_header_mut())?;
    Ok(host)
}

/// The authority as the client wrote it.
pub(super) fn authority(request: &RequestHeader) -> Option<HeaderValue> {
    match request.headers.get(HOST) {
        Some(host) => Some(host.clone()),
        None => HeaderValue::from_str(request.uri.authority()?.as_str()).ok(),
    }
}

/// Sets a request's path; the query stays. Both have to be in their normal form.
pub(crate) fn set_path(request: &mut RequestHeader, path: &str) -> Result<(), InvalidTarget> {
    let target = match request.uri.query() {
        Some(query) => [path, "?", query].concat(),
        None => path.to_owned(),
    };
    if request.uri.authority().is_none() {
        return request.set_raw_path(target.as_bytes()).map_err(|_| InvalidTarget);
    }
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().map_err(|_| InvalidTarget)?);
    request.set_uri(Uri::from_parts(parts).map_err(|_| InvalidTarget)?);
    Ok(())
}

/// A path that cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path cannot be sent as a request target")]
pub(crate) struct InvalidTarget;

fn refused(text: impl Into<String>) -> Reply {
    Reply::error(400, Flags::DOWNSTREAM_PROTOCOL_ERROR, text.into())
}

fn method_not_allowed(method: &Method) -> Reply {
    let text = format!("the method {method} is not served here");
    let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    Reply::error(405, Flags::DOWNSTREAM_PROTOCOL_ERROR, text).with_header(ALLOW, allowed)
}

/// One coding is understood, and it says where the body ends only if it is the only one (RFC 9112, 6.1). Pingora drops
/// Content-Length beside it, as it may. A server that does not is then out of step with us: so that is looked for in what the
/// client sent.
///
/// Lengths are said once. Pingora takes several that are equal, and forwards them as they came.
fn framing(session: &ServerSession) -> Result<(), Reply> {
    let request = session.req_header();
    let mut lengths = request.headers.get_all(CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(|length| length.as_bytes().contains(&b',')) || lengths.next().is_some() {
        return Err(refused("the request has several Content-Lengths; send one").closing());
    }
    let mut codings = request.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next().filter(|_| request.version != Version::HTTP_2) else { return Ok(()) };
    if codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
        let text = "the only transfer coding that is understood is chunked, once";
        return Err(Reply::error(501, Flags::DOWNSTREAM_PROTOCOL_ERROR, text).closing());
    }
    if request.version != Version::HTTP_11 {
        return Err(refused("HTTP/1.0 has no transfer codings").closing());
    }
    const NAME: &[u8] = b"content-length:";
    let raw = session.to_h1_raw();
    let has_length = raw
        .split(|byte| *byte == b'\n')
        .skip(1)
        .any(|line| line.len() >= NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME));
    if has_length {
        return Err(refused("the request has both Content-Length and Transfer-Encoding; send one of them").closing());
    }
    Ok(())
}

/// Hop-by-hop rules must not take away what this proxy adds. (Pingora strips what Connection names before it forwards.)
fn nominations(request: &RequestHeader) -> Result<(), Reply> {
    for value in request.headers.get_all(CONNECTION) {
        if matches!(value.as_bytes(), b"keep-alive" | b"close" | b"Upgrade" | b"upgrade") {
            continue;
        }
        for name in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if forwarded::is_protected(name) {
                let name = name.escape_ascii();
                return Err(refused(format!("the Connection header names `{name}`, which is not the client's to remove")));
            }
        }
    }
    Ok(())
}

fn host(request: &RequestHeader) -> Result<String, Reply> {
    let authority = match request.headers.get(HOST) {
        Some(host) => host.to_str().map_err(|_| refused("the Host header has characters that no host has"))?,
        None if request.version == Version::HTTP_2 => request.uri.authority().map_or("", |authority| authority.as_str()),
        None => return Err(refused("the request has no Host header")),
    };
    path::host_of(authority).map(std::borrow::Cow::into_owned).map_err(|fault| refused(fault.to_string()))
}

fn normalise_target(request: &mut RequestHeader) -> Result<(), Reply> {
    if !request.raw_path_is_utf8() {
        return Err(refused("the request target is not UTF-8; escape it"));
    }
    if request.uri.path() == "*" && request.method != Method::OPTIONS {
        return Err(refused("the target `*` is for OPTIONS"));
    }
    let normal = path::normalise(request.uri.path()).map_err(|fault| refused(fault.to_string()))?;
    let is_absolute_form = request.uri.authority().is_none() && !matches!(request.raw_path().first(), Some(b'/' | b'*'));
    // Of anything else Pingora makes a path as well.
    if is_absolute_form && !is_url(request.raw_path()) {
        return Err(refused("the request target is neither a path nor an http URL"));
    }
    let std::borrow::Cow::Owned(normal) = normal else {
        if !is_absolute_form {
            return Ok(());
        }
        let path = request.uri.path().to_owned();
        return set_path(request, &path).map_err(|fault| refused(fault.to_string()));
    };
    set_path(request, &normal).map_err(|fault| refused(fault.to_string()))
}

/// Whether it begins as a URL of this protocol does.
fn is_url(target: &[u8]) -> bool {
    [&b"http://"[..], b"https://"]
        .iter()
        .any(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).expect("a target");
        for (name, value) in headers {
            request.append_header(*name, *value).expect("a header");
        }
        request
    }

    #[test]
    fn targets_get_their_normal_form_with_the_query_as_it_was() {
        for (raw, normal) in [
            ("/a/b?x=%2e%2e//", "/a/b?x=%2e%2e//"),
            ("/a/../b//c?x", "/b/c?x"),
            ("/%41", "/A"),
            ("http://a.example/b/./c?d=/e/../", "/b/c?d=/e/../"),
            ("http://a.example", "/"),
            ("http://a.example?q", "/?q"),
        ] {
            let mut request = request(raw, &[]);
            normalise_target(&mut request).unwrap_or_else(|reply| panic!("{raw}: {reply:?}"));
            assert_eq!(String::from_utf8_lossy(request.raw_path()), normal, "{raw}");
        }
        let mut server = request("*", &[]);
        assert_eq!(normalise_target(&mut server).expect_err("not for GET").code(), 400);
        server.set_method(Method::OPTIONS);
        assert_eq!((normalise_target(&mut server), server.raw_path()), (Ok(()), &b"*"[..]));
        for raw in ["a/b", "a:80/b", "ftp://a.example/b", "http:/b", "?b"] {
            let Ok(mut odd) = RequestHeader::build("GET", raw.as_bytes(), None) else { continue };
            assert_eq!(normalise_target(&mut odd).expect_err(raw).code(), 400, "{raw}");
        }
        for raw in ["/a%2fb", "/a%00", "/a/..;/b", "/%ff", "/a\\b"] {
            assert_eq!(normalise_target(&mut request(raw, &[])).expect_err(raw).code(), 400, "{raw}");
        }
        let mut bytes = RequestHeader::build("GET", b"/\xff", None).expect("bytes");
        assert_eq!(normalise_target(&mut bytes).expect_err("not UTF-8").code(), 400);
    }

    #[test]
    fn a_path_is_set_in_both_forms() {
        let mut h1 = request("/a?b=c", &[]);
        set_path(&mut h1, "/d").expect("a path");
        assert_eq!(h1.raw_path(), b"/d?b=c");
        let mut h2 = RequestHeader::build("GET", b"/", None).expect("a target");
        h2.set_uri("https://a.example:8443/a?b=c".parse().expect("a URI"));
        set_path(&mut h2, "/d").expect("a path");
        assert_eq!(h2.uri, "https://a.example:8443/d?b=c");
        assert_eq!(set_path(&mut h2, "/ \0"), Err(InvalidTarget));
    }

    #[test]
    fn hosts_are_normal_and_one() {
        for (headers, host_or_code) in [
            (&[("Host", "Shop.Example.com:80")][..], Ok("shop.example.com")),
            (&[("Host", "[::1]:80")], Ok("[::1]")),
            (&[("Host", "")], Err(400)),
            (&[("Host", "a, b")], Err(400)),
            (&[], Err(400)),
        ] {
            let found = host(&request("/", headers));
            assert_eq!(found.as_deref().map_err(Reply::code), host_or_code, "{headers:?}");
        }
    }

    #[test]
    fn connection_cannot_name_what_we_add() {
        for (value, refused) in [
            ("keep-alive", false),
            ("Upgrade, HTTP2-Settings", false),
            ("close, authorization", false),
            ("close, X-Forwarded-Port", true),
            ("x_forwarded_for", true),
            ("Forwarded", true),
            ("traceparent", true),
            ("keep-alive,X-Request-Id", true),
        ] {
            assert_eq!(nominations(&request("/", &[("Connection", value)])).is_err(), refused, "{value}");
        }
    }
}
