//! Tries: the endpoint of the next one, and what is made of one that failed.

use std::sync::Arc;
use std::time::Instant;

use pingora_core::protocols::Digest;
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result, RetryType};
use pingora_http::ResponseHeader;

use super::context::{RequestContext, answered};
use super::deadline::Passed;
use super::defaults;
use super::local_response::GRPC_STATUS;
use super::retry::{Cause, Verdict};
use super::timed::DEADLINE;
use crate::balance::Unchosen;
use crate::telemetry::Flags;
use crate::upstream::{UpstreamTlsError, is_refusal};

/// What a try fails with when its response is one that is tried again.
const UNWANTED: ErrorType = ErrorType::Custom("UnwantedResponse");

/// What it fails with when the endpoint is a workload of the mesh, and we have no certificate to show.
pub(super) const NO_IDENTITY: ErrorType = ErrorType::Custom("NoIdentity");

/// The endpoint for the next try, after the wait that a retry takes.
pub(super) async fn next(ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
    let no_endpoint = || Error::new_in(ErrorType::HTTPStatus(503));
    let (rule, patience) = ctx.retrying().cloned().zip(ctx.patience()).ok_or_else(no_endpoint)?;
    ctx.in_flight = None;
    let made = ctx.record.as_ref().map_or(0, |record| record.attempts);
    if made > 0 {
        ctx.deadlines.end_try();
        let wait = rule.retry.wait(made, fastrand::u32(..));
        let left = ctx.deadlines.remaining(Instant::now()).unwrap_or(wait);
        tokio::time::sleep(wait.min(left)).await;
    }
    let now = Instant::now();
    if ctx.deadlines.passed(now).is_some() {
        return Err(Error::new_up(DEADLINE));
    }
    let destination = ctx.destination.as_ref().ok_or_else(no_endpoint)?;
    let endpoint = match destination.backend.choose_for(&destination.caller, &mut ctx.tried) {
        Ok(endpoint) => endpoint,
        Err(Unchosen::Nobody) => return Err(no_endpoint()),
        Err(Unchosen::Refused(failure)) => {
            if failure.is_refusal() {
                ctx.count_refused_certificate();
            }
            return Err(unproven(failure));
        }
    };
    let mut peer = endpoint.peer(destination.wire, &destination.caller);
    ctx.deadlines.begin_try(&patience, now);
    ctx.deadlines.apply(&mut peer, &patience, destination.manner, now);
    if let Some(record) = &mut ctx.record {
        record.attempts += 1;
        record.endpoint = Some(*endpoint.address());
    }
    if let Some(copies) = &mut ctx.copies {
        copies.rewind();
    }
    ctx.try_started = Some(now);
    ctx.in_flight = Some(endpoint);
    Ok(peer)
}

/// There is a connection, fresh or kept, and nothing of the request has been sent on it.
///
/// # Errors
/// When it must not be used, because its certificate is not known to fulfil the backend's policy.
pub(super) async fn connected(ctx: &RequestContext, digest: Option<&Digest>) -> Result<()> {
    let (Some(endpoint), Some(destination)) = (&ctx.in_flight, &ctx.destination) else { return Ok(()) };
    let left = ctx.deadlines.remaining(Instant::now()).unwrap_or(defaults::CONNECT);
    endpoint.admit(digest, &destination.caller, left.min(defaults::CONNECT)).await.map_err(unproven)
}

/// The endpoint was asked for its certificate, and it is not one that is taken.
fn unproven(failure: Arc<UpstreamTlsError>) -> Box<Error> {
    let etype = match *failure {
        UpstreamTlsError::NoIdentity => NO_IDENTITY,
        _ if failure.is_refusal() => ErrorType::InvalidCert,
        _ => ErrorType::TLSHandshakeFailure,
    };
    Error::because(etype, "verifying the endpoint's certificate", failure).into_up()
}

/// No connection was made.
pub(super) fn not_connected(session: &ServerSession, ctx: &mut RequestContext, mut error: Box<Error>) -> Box<Error> {
    error.retry.decide_reuse(false);
    if is_refusal(&error) || is_another(ctx, &error) {
        error.etype = ErrorType::InvalidCert;
        refused(ctx, &error);
    }
    let again = judge(session, ctx, passed_or(ctx, Some(Cause::NotConnected)));
    error.set_retry(again);
    error
}

/// An exchange failed. `reused`: on a connection that had been used before.
pub(super) fn failed(session: &ServerSession, ctx: &mut RequestContext, mut error: Box<Error>, reused: bool) -> Box<Error> {
    let maybe_stale = matches!(error.retry, RetryType::ReusedOnly) && reused;
    // Undecided, it would panic.
    error.retry.decide_reuse(reused);
    if error.etype == UNWANTED {
        error.set_retry(true);
        return error;
    }
    let cause = match (&error.esource, &error.etype) {
        (_, etype) if *etype == DEADLINE => None,
        (ErrorSource::Upstream, ErrorType::InvalidCert) => {
            refused(ctx, &error);
            Some(Cause::NotConnected)
        }
        (ErrorSource::Upstream, ErrorType::TLSHandshakeFailure) => Some(Cause::NotConnected),
        (ErrorSource::Upstream, _) if maybe_stale => Some(Cause::Stale),
        (ErrorSource::Upstream, ErrorType::WriteError) if reused => Some(Cause::Stale),
        (ErrorSource::Upstream, _) if error.retry() => Some(Cause::Refused),
        (ErrorSource::Upstream, _) => Some(Cause::Broken),
        _ => {
            error.set_retry(false);
            return error;
        }
    };
    let again = judge(session, ctx, passed_or(ctx, cause));
    error.set_retry(again);
    error
}

/// Whether a workload of the mesh says that it is not the one who was called: its address was that one's a moment ago. Pingora keeps no
/// more than the text of rustls's error.
fn is_another(ctx: &RequestContext, error: &Error) -> bool {
    let is_mesh = ctx.in_flight.as_ref().and_then(|endpoint| endpoint.tls()).is_some_and(|tls| tls.is_mesh());
    is_mesh && error.etype == ErrorType::TLSHandshakeFailure && error.to_string().contains("UnrecognisedName")
}

/// The certificate of the endpoint was refused.
fn refused(ctx: &mut RequestContext, error: &Error) {
    ctx.count_refused_certificate();
    if let Some(endpoint) = &ctx.in_flight {
        endpoint.complain(error);
    }
}

/// A response came.
///
/// # Errors
/// When it is not to be passed on, because the request is tried again.
pub(super) fn answer(session: &ServerSession, ctx: &mut RequestContext, response: &ResponseHeader) -> Result<()> {
    let status = response.status;
    if status == http::StatusCode::SWITCHING_PROTOCOLS {
        if !ctx.asks_for_upgrade() {
            let fault = "the endpoint switched protocols, which nobody had asked for";
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, fault).into_up());
        }
        ctx.deadlines.lift();
    } else if status.is_informational() {
        return Ok(());
    }
    if let (Some(record), Some(started)) = (&mut ctx.record, ctx.try_started) {
        record.upstream_service_time = Some(started.elapsed());
    }
    let unavailable = ctx.grpc && response.headers.get(GRPC_STATUS).is_some_and(|code| code.as_bytes() == b"14");
    let cause = if unavailable { Cause::Unavailable } else { Cause::Code(status.as_u16()) };
    if judge(session, ctx, Some(cause)) { Err(Error::new_up(UNWANTED)) } else { Ok(()) }
}

/// A deadline explains every failure that comes after it.
fn passed_or(ctx: &RequestContext, cause: Option<Cause>) -> Option<Cause> {
    match ctx.deadlines.passed(Instant::now()) {
        Some(Passed::Request) => None,
        Some(Passed::Attempt) => Some(Cause::AttemptTimeout),
        None => cause,
    }
}

/// Whether to try again: only if the rule says so, nothing has been answered, and what the client has sent can be sent again.
fn judge(session: &ServerSession, ctx: &mut RequestContext, cause: Option<Cause>) -> bool {
    let (Some(cause), Some(rule)) = (cause, ctx.retrying()) else { return false };
    let idempotent = session.req_header().method.is_idempotent();
    match rule.retry.judge(cause, ctx.retries(), idempotent) {
        Verdict::Again => answered(session).is_none() && !session.retry_buffer_truncated(),
        Verdict::Exhausted => {
            ctx.flag(Flags::RETRY_LIMIT);
            false
        }
        Verdict::Final => false,
    }
}
