//! Requests through Pingora's phases. A phase calls; what it calls decides.

pub(crate) mod attempt;
pub(crate) mod context;
pub(crate) mod deadline;
pub(crate) mod defaults;
pub(crate) mod failure;
pub(crate) mod forward;
pub(crate) mod forwarded;
pub(crate) mod grpc;
pub(crate) mod hop;
pub(crate) mod local_response;
pub(crate) mod response;
pub(crate) mod retry;
pub(crate) mod route;
pub(crate) mod timed;
pub(crate) mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::HeaderMap;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::Options;
use crate::config::Shared;
use crate::filter::mirror::Mirrors;
use crate::telemetry::{Exchange, Telemetry};
use context::{RequestContext, answered};
use failure::Failure;

/// Routes requests and forwards them.
#[derive(Debug)]
pub(crate) struct Proxy {
    config: Shared,
    telemetry: Arc<Telemetry>,
    mirrors: Arc<Mirrors>,
}

/// The one proxy of the process: its pools of connections are its own.
pub(crate) fn http_proxy(options: &Options, config: Shared, telemetry: Arc<Telemetry>) -> HttpProxy<Proxy> {
    let conf = ServerConf {
        threads: options.threads,
        max_retries: defaults::MAX_TRIES,
        upstream_keepalive_pool_size: defaults::POOL_SIZE,
        ..ServerConf::default()
    };
    pingora_proxy::http_proxy(&Arc::new(conf), Proxy { config, telemetry, mirrors: Mirrors::new() })
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext::default()
    }

    /// None: the default one is compression, which nobody asked for.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<bool> {
        ctx.begin(session, self.config.load_full(), &self.telemetry);
        match route::decide(session, ctx) {
            Ok(()) => route::prepare(session, ctx, &self.mirrors).await.map(|()| false),
            Err(reply) => {
                ctx.attribute(&self.telemetry);
                local_response::send(session, ctx, &reply, true).await.map(|()| true)
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
        attempt::next(ctx).await
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _socket: std::os::fd::RawFd,
        digest: Option<&Digest>,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        attempt::connected(ctx, digest).await
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        forward::prepare(request, ctx)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        if let Some(copies) = &mut ctx.copies {
            copies.push(body.as_ref(), end);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        attempt::answer(session, ctx, response)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        response::pass(session, ctx, response)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut RequestContext,
        error: Box<Error>,
    ) -> Box<Error> {
        attempt::not_connected(session, ctx, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut RequestContext,
        reused: bool,
    ) -> Box<Error> {
        attempt::failed(session, ctx, error, reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut RequestContext) -> FailToProxy {
        ctx.give_back(session);
        ctx.in_flight = None;
        fail(session, ctx, &Failure::of(error, ctx)).await;
        FailToProxy { error_code: answered(session).map_or(0, |status| status.as_u16()), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut RequestContext) {
        ctx.give_back(session);
        let Some(record) = &ctx.record else { return };
        self.telemetry.record(record, &exchange(session, ctx));
    }

    /// Every failure is in the access log, with a flag that says whose it was.
    fn suppress_error_log(&self, _session: &Session, _ctx: &RequestContext, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &RequestContext,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// Tells the client, if it is there and has not been told anything yet.
async fn fail(session: &mut Session, ctx: &mut RequestContext, failure: &Failure) {
    ctx.flag(failure.flags());
    let Failure::Answer(reply) = failure else { return };
    if answered(session).is_none() {
        // The connection cannot be used again: Pingora closes it after an error.
        if let Err(error) = local_response::send(session, ctx, reply, false).await {
            tracing::debug!(%error, "the client could not be told of a failure");
        }
    } else if ctx.grpc && session.is_http2() {
        // A gRPC stream that is cut by us ends with the reason for it.
        if let Err(error) = session.write_response_trailers(trailers(reply)).await {
            tracing::debug!(%error, "the client could not be told of a failure");
        }
    } else {
        local_response::cut(session).await;
    }
}

fn trailers(reply: &local_response::Reply) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(local_response::GRPC_STATUS, (grpc::code_of(reply.code()) as u16).into());
    trailers
}

fn exchange<'s>(session: &'s Session, ctx: &'s RequestContext) -> Exchange<'s> {
    let tls = ctx.connection.as_ref().and_then(|connection| connection.tls.as_ref());
    let count = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    Exchange {
        request: session.req_header(),
        code: answered(session).map_or(0, |status| status.as_u16()),
        bytes_received: count(session.body_bytes_read()),
        bytes_sent: count(session.body_bytes_sent()),
        client: ctx.client.or_else(|| ctx.connection.as_ref().map(|connection| connection.peer)),
        local: ctx.connection.as_ref().map(|connection| connection.local),
        tls: tls.is_some(),
        client_certificate: tls.and_then(|tls| tls.client_certificate.as_deref()),
    }
}
