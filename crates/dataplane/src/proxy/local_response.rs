//! Responses that are made here: one way for all of them.
//!
//! A client may still be sending when it is answered. If the connection were closed, or the stream reset, at once, some clients
//! would never see the response. So what is small is read before, and what is left is read and dropped after it, within
//! bounds (on HTTP/1 by the connection when it closes).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, SERVER};
use http::{Method, Version};
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::context::RequestContext;
use super::{defaults, grpc, response};
use crate::telemetry::Flags;

/// A response to be made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    code: u16,
    /// What happened, for a person; none: there is nothing to say.
    text: Option<Cow<'static, str>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    flags: Flags,
    close: bool,
}

impl Reply {
    /// An error. `text` says what happened; the client sees it.
    pub(crate) fn error(code: u16, flags: Flags, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: Some(text.into()), headers: Vec::new(), flags, close: false }
    }

    /// A response that says all with its code and headers.
    pub(crate) fn plain(code: u16) -> Self {
        Self { code, text: None, headers: Vec::new(), flags: Flags::default(), close: false }
    }

    /// With one more header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With more headers.
    pub(crate) fn with_headers(mut self, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        self.headers.extend(headers);
        self
    }

    /// The connection is not used again.
    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Whether the connection is not used again.
    pub(crate) fn is_closing(&self) -> bool {
        self.close
    }

    /// The HTTP code (gRPC calls get another).
    pub(crate) fn code(&self) -> u16 {
        self.code
    }

    /// What the access log says.
    pub(crate) fn flags(&self) -> Flags {
        self.flags
    }

    /// The first header of this name.
    #[cfg(test)]
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The header and the body that say this to a client; `grpc`: in gRPC's form, which is a response of trailers only.
    fn render(&self, grpc: bool, version: Version) -> Result<(ResponseHeader, Bytes)> {
        if grpc && self.code >= 400 {
            return self.render_grpc(version);
        }
        let body = self.text.as_ref().map(|text| Bytes::from([text, "\n"].concat())).unwrap_or_default();
        let mut header = ResponseHeader::build(self.code, Some(self.headers.len() + 4))?;
        header.insert_header(SERVER, NAME)?;
        if self.text.is_some() {
            header.insert_header(CONTENT_TYPE, TEXT)?;
            // A fault of the moment.
            header.insert_header(CACHE_CONTROL, NO_STORE)?;
        }
        if self.code != 204 {
            header.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
        }
        for (name, value) in &self.headers {
            header.append_header(name, value)?;
        }
        Ok((header, body))
    }

    fn render_grpc(&self, version: Version) -> Result<(ResponseHeader, Bytes)> {
        let mut header = ResponseHeader::build(200, Some(5))?;
        header.insert_header(SERVER, NAME)?;
        header.insert_header(CONTENT_TYPE, GRPC)?;
        header.insert_header(GRPC_STATUS, HeaderValue::from(grpc::code_of(self.code) as u16))?;
        if let Some(text) = &self.text {
            header.insert_header(GRPC_MESSAGE, grpc::message(text))?;
        }
        if version != Version::HTTP_2 {
            header.insert_header(CONTENT_LENGTH, HeaderValue::from(0))?;
        }
        Ok((header, Bytes::new()))
    }
}

const NAME: HeaderValue = HeaderValue::from_static("isthmus");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Answers a request that no backend has answered. `reusable`: the connection may take another request.
///
/// # Errors
/// When the client cannot be written to.
pub(super) async fn send(session: &mut ServerSession, ctx: &mut RequestContext, reply: &Reply, reusable: bool) -> Result<()> {
    ctx.flag(reply.flags);
    let request = session.req_header();
    let (is_head, version) = (request.method == Method::HEAD, request.version);
    let (mut header, body) = reply.render(ctx.grpc, version)?;
    response::decorate(&mut header, ctx)?;
    if reusable && !reply.close {
        drain_before(session).await;
    }
    if !reusable || reply.close || ctx.is_ending() {
        session.set_keepalive(None);
    }
    // One header that ends the stream is what gRPC takes for trailers only; an empty frame after it would not do.
    let tasks = if is_head || body.is_empty() {
        vec![HttpTask::Header(Box::new(header), true)]
    } else {
        vec![HttpTask::Header(Box::new(header), false), HttpTask::Body(Some(body), true)]
    };
    session.response_duplex_vec(tasks).await?;
    if version == Version::HTTP_2 {
        drain(session, defaults::DRAIN_AFTER, defaults::DRAIN_AFTER_TIME).await;
    }
    Ok(())
}

/// Ends a response that cannot be completed. What has come of it is sent: Pingora leaves it in the buffer, and the client would then
/// see no response at all where there was a part of one.
pub(super) async fn cut(session: &mut ServerSession) {
    let fault = Error::new(ErrorType::ConnectionClosed);
    // Pingora flushes before it fails with what it was given; a client that cannot be written to is gone.
    let _ = session.response_duplex_vec(vec![HttpTask::Body(None, false), HttpTask::Failed(fault)]).await;
}

/// Reads a body that is known to be small, if the client is not waiting for leave to send it.
async fn drain_before(session: &mut ServerSession) {
    let headers = &session.req_header().headers;
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if !headers.contains_key(EXPECT) && declared.is_some_and(|length| length <= defaults::DRAIN_BEFORE) {
        drain(session, defaults::DRAIN_BEFORE, defaults::DRAIN_BEFORE_TIME).await;
    }
}

/// Reads and drops what the client sends, at most so much for at most so long.
async fn drain(session: &mut ServerSession, bytes: usize, time: Duration) {
    if session.is_body_done() {
        return;
    }
    let mut left = bytes;
    let read = async {
        while let Ok(Some(data)) = session.read_request_body().await {
            match left.checked_sub(data.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // Either way the client has had its chance.
    let _ = tokio::time::timeout(time, read).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'h>(header: &'h ResponseHeader, name: &str) -> Option<&'h str> {
        header.headers.get(name).and_then(|value| value.to_str().ok())
    }

    #[test]
    fn errors_say_what_happened() {
        let reply = Reply::error(503, Flags::NO_HEALTHY_UPSTREAM, "no endpoint");
        let (header, body) = reply.render(false, Version::HTTP_11).expect("rendered");
        assert_eq!((header.status.as_u16(), &body[..]), (503, &b"no endpoint\n"[..]));
        assert_eq!(get(&header, "content-length"), Some("12"));
        assert_eq!(get(&header, "server"), Some("isthmus"));
        assert_eq!(get(&header, "cache-control"), Some("no-store"));
    }

    #[test]
    fn grpc_gets_trailers_only() {
        let reply = Reply::error(404, Flags::NO_ROUTE, "no route: 100%");
        for (version, length) in [(Version::HTTP_2, None), (Version::HTTP_11, Some("0"))] {
            let (header, body) = reply.render(true, version).expect("rendered");
            assert_eq!((header.status.as_u16(), body.len()), (200, 0));
            assert_eq!(get(&header, "grpc-status"), Some("12"));
            assert_eq!(get(&header, "grpc-message"), Some("no route: 100%25"));
            assert_eq!(get(&header, "content-type"), Some("application/grpc"));
            assert_eq!(get(&header, "content-length"), length);
        }
    }

    #[test]
    fn redirects_and_preflights_are_no_errors() {
        for (code, grpc, length) in [(302, false, Some("0")), (302, true, Some("0")), (204, false, None)] {
            let reply = Reply::plain(code).with_header(http::header::LOCATION, HeaderValue::from_static("/x"));
            let (header, body) = reply.render(grpc, Version::HTTP_11).expect("rendered");
            assert_eq!((header.status.as_u16(), body.len(), get(&header, "content-length")), (code, 0, length));
            assert_eq!(get(&header, "location"), Some("/x"));
            assert_eq!(get(&header, "cache-control"), None);
        }
    }
}
