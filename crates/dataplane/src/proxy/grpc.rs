//! What gRPC needs that HTTP does not.

use std::fmt::Write as _;

use http::header::{CONTENT_TYPE, HeaderMap};

/// Status codes of gRPC that are answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// 2
    Unknown = 2,
    /// 4
    DeadlineExceeded = 4,
    /// 7
    PermissionDenied = 7,
    /// 8
    ResourceExhausted = 8,
    /// 12
    Unimplemented = 12,
    /// 13
    Internal = 13,
    /// 14
    Unavailable = 14,
    /// 16
    Unauthenticated = 16,
}

/// Whether a request is gRPC: POST with the content type `application/grpc`, or that with a `+` or `;` after it. gRPC-Web is not.
pub(crate) fn is_grpc(method: &http::Method, headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    *method == http::Method::POST
        && headers.get(CONTENT_TYPE).is_some_and(|value| {
            let value = value.as_bytes();
            value.len() >= TYPE.len()
                && value[..TYPE.len()].eq_ignore_ascii_case(TYPE)
                && matches!(value.get(TYPE.len()), None | Some(b'+' | b';'))
        })
}

/// What gRPC calls get where others get this HTTP code. As in the table of gRPC's `http-grpc-status-mapping`, which Envoy follows too,
/// but for two: an invalid backend (500) is UNAVAILABLE as the Gateway API's GRPCRoute has it, and a timeout of ours (504) is
/// DEADLINE_EXCEEDED, since we know that it was one.
pub(crate) fn code_of(http: u16) -> Code {
    match http {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        413 | 431 => Code::ResourceExhausted,
        429 | 500 | 502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Unknown,
    }
}

/// A `grpc-message`: what is not printable ASCII, and `%`, is escaped.
pub(crate) fn message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;

    #[test]
    fn what_is_grpc() {
        for (method, content_type, grpc) in [
            (Method::POST, "application/grpc", true),
            (Method::POST, "application/grpc+proto", true),
            (Method::POST, "Application/GRPC;charset=x", true),
            (Method::POST, "application/grpc-web", false),
            (Method::POST, "application/grpcfoo", false),
            (Method::POST, "application/json", false),
            (Method::POST, "app", false),
            (Method::GET, "application/grpc", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_grpc(&method, &headers), grpc, "{method} {content_type}");
        }
        assert!(!is_grpc(&Method::POST, &HeaderMap::new()));
    }

    #[test]
    fn codes_of_what_is_answered_here() {
        for (http, grpc) in [(404, 12), (500, 14), (502, 14), (503, 14), (504, 4), (400, 13), (403, 7), (431, 8), (421, 2)] {
            assert_eq!(code_of(http) as u8, grpc, "{http}");
        }
    }

    #[test]
    fn messages_are_escaped() {
        assert_eq!(message("100% of \"x\"\n\u{fc}"), "100%25 of \"x\"%0A%C3%BC");
    }
}
