//! Headers that belong to one connection and go no further (RFC 9110, 7.6.1).

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName};
use pingora_http::{RequestHeader, ResponseHeader};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Strips a response. Pingora sets Connection anew and needs Transfer-Encoding for the framing; it leaves the rest on HTTP/1.
pub(super) fn strip_response(response: &mut ResponseHeader) {
    for name in nominated(&response.headers) {
        response.remove_header(&name);
    }
    response.remove_header(&KEEP_ALIVE);
    response.remove_header(&PROXY_CONNECTION);
    response.remove_header(&header::TE);
    response.remove_header(&header::TRAILER);
    // 426 says by it which protocol is wanted, 101 which one it is now.
    if !matches!(response.status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED) {
        response.remove_header(&header::UPGRADE);
    }
}

/// Strips a request that does not go through Pingora's proxy, which strips on its own: a mirrored one.
pub(crate) fn strip_request(request: &mut RequestHeader) {
    for name in nominated(&request.headers) {
        request.remove_header(&name);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        request.remove_header(&name);
    }
}

/// What a Connection header names besides options of its own. Framing is not for it to name.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        if matches!(value.as_bytes(), b"keep-alive" | b"close" | b"Keep-Alive" | b"Upgrade") {
            continue;
        }
        let parsed =
            value.as_bytes().split(|byte| *byte == b',').filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
        let ends_here = |name: &HeaderName| {
            ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE, header::HOST].contains(name)
        };
        names.extend(parsed.filter(ends_here));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_connection_ends_there() {
        for (status, upgrade_stays) in [(200, false), (101, true), (426, true)] {
            let mut response = ResponseHeader::build(status, None).expect("a response");
            for (name, value) in [
                ("Connection", "keep-alive, X-Hop, Content-Length"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "keep-alive"),
                ("Trailer", "x"),
                ("TE", "trailers"),
                ("Upgrade", "websocket"),
                ("X-Hop", "1"),
                ("X-End", "1"),
                ("Content-Length", "3"),
                ("Transfer-Encoding", "chunked"),
            ] {
                response.append_header(name, value).expect("a header");
            }
            strip_response(&mut response);
            let mut left: Vec<_> = response.headers.keys().map(HeaderName::as_str).collect();
            left.sort_unstable();
            let mut expected = vec!["connection", "content-length", "transfer-encoding", "x-end"];
            if upgrade_stays {
                expected.insert(3, "upgrade");
            }
            assert_eq!(left, expected, "{status}");
        }
    }

    #[test]
    fn a_mirrored_request_is_stripped_of_its_hop() {
        let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
        for (name, value) in
            [("Connection", "Upgrade, x-hop"), ("Upgrade", "websocket"), ("X-Hop", "1"), ("TE", "gzip"), ("Host", "a")]
        {
            request.append_header(name, value).expect("a header");
        }
        strip_request(&mut request);
        assert_eq!(request.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["host"]);
    }
}
