//! `grpc.health.v1.Health/Check`, of which a probe needs one request and one byte of the answer.

use std::net::SocketAddr;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::{BufMut as _, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};

use super::ask::{self, AskError};

const METHOD: &str = "grpc.health.v1.Health/Check";
/// A HealthCheckResponse with `status: SERVING`: field 1, a varint of value 1.
const SERVING: [u8; 2] = [0x08, 0x01];
/// Not compressed, and four bytes of the length.
const PREFIX: usize = 5;
/// More than any answer has.
const LONGEST: usize = 4096;

/// 200 only if the server says that it serves; otherwise what it said instead.
pub(super) async fn probe(address: SocketAddr, service: &str) -> Result<Response, AskError> {
    let request = Request::post(format!("http://{address}/{METHOD}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/isthmus")
        .body(Body::from(message(service).freeze()))?;
    let (head, body) = ask::http2(address, request).await?.into_parts();
    let collected = Limited::new(body, LONGEST).collect().await;
    let (trailers, bytes) = match collected {
        Ok(collected) => (collected.trailers().cloned().unwrap_or_default(), collected.to_bytes()),
        // Cut off: what came before does not count.
        Err(error) => return Ok(unwell(&format!("its answer broke off: {error}"))),
    };
    let code = status(&trailers).or_else(|| status(&head.headers));
    Ok(match code {
        Some("0") if bytes.get(PREFIX..) == Some(&SERVING) => "the application serves\n".into_response(),
        Some("0") => unwell("it says that it does not serve"),
        Some(code) => unwell(&format!("grpc-status {code}")),
        None => unwell(&format!("no gRPC, but {}", head.status)),
    })
}

fn status(headers: &HeaderMap) -> Option<&str> {
    headers.get("grpc-status").and_then(|value| value.to_str().ok())
}

fn unwell(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("the application's {METHOD}: {why}\n")).into_response()
}

/// A HealthCheckRequest with its prefix: field 1, the service's name.
fn message(service: &str) -> BytesMut {
    let mut length = BytesMut::new();
    let mut left = service.len();
    while left >= 0x80 {
        // Seven bits a byte, the lowest first; the eighth says that there are more.
        length.put_u8(0x80 | u8::try_from(left & 0x7f).unwrap_or_default());
        left >>= 7;
    }
    length.put_u8(u8::try_from(left).unwrap_or_default());
    let size = if service.is_empty() { 0 } else { 1 + length.len() + service.len() };
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    if !service.is_empty() {
        out.put_u8(0x0a);
        out.put(length);
        out.put_slice(service.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_message_with_its_length() {
        assert_eq!(message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = message(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(long.len(), 5 + 303);
    }
}
