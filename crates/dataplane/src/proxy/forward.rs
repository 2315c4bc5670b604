//! What an endpoint is sent.

use std::borrow::Cow;

use http::header::{COOKIE, HOST, TE};
use http::{HeaderValue, Version};
use isthmus_routing::path;
use pingora_error::{Error, ErrorType, ErrorType::InternalError, OrErr, Result};
use pingora_http::RequestHeader;

use super::context::{RequestContext, Stage};
use super::wire;
use crate::balance::Wire;
use crate::filter::{Filters, header, rewrite};

/// Makes the client's request (a copy of it, for each try) the one that is sent.
pub(super) fn prepare(request: &mut RequestHeader, ctx: &RequestContext) -> Result<()> {
    let Some(destination) = &ctx.destination else { return Ok(()) };
    if let Some(loan) = &ctx.loan {
        loan.begin_try();
    }
    if destination.wire == Wire::H2 && request.version != Version::HTTP_2 {
        // Pingora falls back to HTTP/1 then, which gRPC is not.
        return Err(Error::explain(ErrorType::H2Downgrade, "the endpoint did not choose HTTP/2 by ALPN").into_up());
    }
    // Pingora makes the target of Host, if there is one: with it the scheme is the connection's, not the client's.
    if !request.headers.contains_key(HOST)
        && let Some(host) = wire::authority(request)
    {
        request.insert_header(HOST, host)?;
    }
    if destination.wire == Wire::H1 {
        join_cookies(request)?;
    }
    for (position, stage) in ctx.stages().enumerate() {
        if position > 0 {
            hand_on(request)?;
        }
        pass(request, stage)?;
    }
    if ctx.grpc && destination.wire == Wire::H2 {
        // Pingora takes it for hop-by-hop, and it is; but gRPC servers ask for it.
        request.insert_header(TE, HeaderValue::from_static("trailers"))?;
    }
    if let Some(record) = &ctx.record {
        record.trace.apply(request);
    }
    Ok(())
}

/// RFC 9113, 8.2.3: HTTP/2 clients may send each cookie in a line of its own, which servers of HTTP/1 do not understand.
pub(crate) fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let mut lines = request.headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return Ok(()) };
    let mut joined = [first.as_bytes(), b"; ", second.as_bytes()].concat();
    for line in lines {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    let joined =
        HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).or_err(InternalError, "cookies are fit for a header")?;
    request.insert_header(COOKIE, joined)
}

/// What the filters of a stage do to a request.
pub(super) fn pass(request: &mut RequestHeader, stage: &Stage) -> Result<()> {
    stage.filters().try_for_each(|filters| apply_filters(request, filters, stage.matched.prefix))
}

/// Between two stages: a rewrite may have left another form of a path than the one that rules match, and count their prefixes in.
///
/// # Errors
/// When the path has no normal form.
pub(super) fn hand_on(request: &mut RequestHeader) -> Result<()> {
    let normal = path::normalise(request.uri.path()).or_err(InternalError, "a rewrite leaves a path that no rule can match")?;
    let Cow::Owned(normal) = normal else { return Ok(()) };
    wire::set_path(request, &normal).or_err(InternalError, "while normalising a rewritten path")
}

/// What filters do to a request; `prefix` is what the rule's match took of the path.
pub(super) fn apply_filters(request: &mut RequestHeader, filters: &Filters, prefix: Option<usize>) -> Result<()> {
    header::modify_request(request, &filters.request_headers)?;
    if let Some(filter) = &filters.rewrite {
        rewrite::rewrite(request, filter, prefix)?;
    }
    Ok(())
}
