//! What a client is sent.

use http::StatusCode;
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::context::RequestContext;
use super::hop;
use crate::filter::{cors, header};

/// Makes an endpoint's response the client's.
pub(super) fn pass(session: &mut ServerSession, ctx: &RequestContext, response: &mut ResponseHeader) -> Result<()> {
    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    hop::strip_response(response);
    decorate(response, ctx)?;
    if ctx.is_ending() {
        match &ctx.loan {
            Some(loan) => loan.close(),
            None => session.set_keepalive(None),
        }
    }
    Ok(())
}

/// What filters do to a response, whoever made it. The backendRef's go first, so that the rule has the last word.
pub(super) fn decorate(response: &mut ResponseHeader, ctx: &RequestContext) -> Result<()> {
    let Some(matched) = &ctx.matched else { return Ok(()) };
    let of_backend = ctx.destination.as_ref().and_then(|destination| matched.rule.backend_filters(destination.position));
    if let Some(filters) = of_backend {
        header::modify_response(response, &filters.response_headers)?;
    }
    header::modify_response(response, &matched.rule.filters.response_headers)?;
    if let Some(granted) = &ctx.cors {
        cors::grant(response, granted)?;
    }
    Ok(())
}
