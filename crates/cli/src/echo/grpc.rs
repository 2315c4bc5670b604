//! gRPC calls: `GrpcEcho` as in the conformance suite's `echo-basic`, and for every other method its messages back, unary or streaming.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use super::Identity;
use super::answer::{Body, set_headers};
use super::report::host;

/// The service that is answered with a report.
const ECHO_SERVICE: &str = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/";

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

pub(super) async fn answer(identity: &Identity, parts: &Parts, body: Incoming) -> Response<Body> {
    let body = match parts.uri.path().strip_prefix(ECHO_SERVICE) {
        Some("Echo" | "EchoTwo") => {
            let request = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            finished(Some(echo_response(identity, parts, request.get(5..).unwrap_or_default())), "0", None)
        }
        Some(_) => finished(None, "12", Some("not a method of GrpcEcho that is implemented")),
        None => Messages { body, ended: false }.boxed_unsync(),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    for (name, value) in
        [("x-echo-namespace", &identity.namespace), ("x-echo-service", &identity.service), ("x-echo-pod", &identity.pod)]
    {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    set_headers(&parts.headers, response.headers_mut());
    response
}

/// At most one message, then a status.
fn finished(message: Option<Bytes>, status: &'static str, text: Option<&'static str>) -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    if let Some(text) = text {
        trailers.insert("grpc-message", HeaderValue::from_static(text));
    }
    let frames = message.map(Frame::data).into_iter().chain([Frame::trailers(trailers)]).map(Ok::<_, Infallible>);
    StreamBody::new(futures_util::stream::iter(frames)).map_err(|never| match never {}).boxed_unsync()
}

/// The bytes of a request as they come, then status 0.
struct Messages {
    body: Incoming,
    ended: bool,
}

impl hyper::body::Body for Messages {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        while !self.ended {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
                // A request has no trailers in gRPC.
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.ended = true;
                    let trailers =
                        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
        }
        Poll::Ready(None)
    }
}

/// An `EchoResponse` of `echo-basic`'s protocol, with the five bytes in front that gRPC has.
fn echo_response(identity: &Identity, request: &Parts, message: &[u8]) -> Bytes {
    let mut assertions = Message::default();
    assertions.text(1, request.uri.path());
    for (name, value) in &request.headers {
        let mut header = Message::default();
        header.text(1, name.as_str());
        header.text(2, &String::from_utf8_lossy(value.as_bytes()));
        assertions.bytes(2, &header.0);
    }
    assertions.text(3, &host(request));
    let mut context = Message::default();
    context.text(1, &identity.namespace);
    context.text(3, &identity.service);
    context.text(4, &identity.pod);
    assertions.bytes(4, &context.0);
    let mut response = Message::default();
    response.bytes(1, &assertions.0);
    response.bytes(2, message);
    let mut framed = BytesMut::with_capacity(5 + response.0.len());
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&u32::try_from(response.0.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(&response.0);
    framed.freeze()
}

/// The little of the protocol buffer encoding that an `EchoResponse` needs: fields of bytes.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn text(&mut self, field: u8, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn bytes(&mut self, field: u8, bytes: &[u8]) {
        self.0.push(field << 3 | 2);
        let mut length = bytes.len();
        while length > 0x7f {
            self.0.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        self.0.push((length & 0x7f) as u8);
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_response_is_a_framed_protocol_buffer() {
        let long = "v".repeat(200);
        let request = http::Request::post("http://a.example/p").header("x", &long).body(()).unwrap().into_parts().0;
        let identity = Identity { namespace: "n".into(), service: "s".into(), pod: "p".into() };
        let got = echo_response(&identity, &request, b"\x0a\x01z");
        let header = [b"\x0a\x01x\x12\xc8\x01".as_slice(), long.as_bytes()].concat();
        let assertions = [
            b"\x0a\x02/p\x12".as_slice(),
            &[0x80 | (header.len() & 0x7f) as u8, 1],
            &header,
            b"\x1a\x09a.example",
            b"\x22\x09\x0a\x01n\x1a\x01s\x22\x01p",
        ]
        .concat();
        let message =
            [b"\x0a".as_slice(), &[0x80 | (assertions.len() & 0x7f) as u8, 1], &assertions, b"\x12\x03\x0a\x01z"].concat();
        assert_eq!(got[..5], [0, 0, 0, 0, message.len() as u8]);
        assert_eq!(got[5..], message);
    }
}
