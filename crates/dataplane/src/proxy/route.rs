//! A request -> the backend that it goes to, or the answer that it gets here.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::EXPECT;
use isthmus_routing::{BackendKey, Request};
use pingora_core::protocols::http::ServerSession;
use pingora_error::{Error, Result};
use pingora_http::RequestHeader;

use super::context::{Destination, RequestContext, Stage, is_websocket, wire_of};
use super::deadline::{Deadlines, Manner};
use super::local_response::Reply;
use super::{forward, forwarded, timed, wire};
use crate::balance::Tried;
use crate::config::{Bind, CompiledParent, Config, Fronted, Port, Speech};
use crate::connection::TlsInfo;
use crate::filter::mirror::{Copies, Mirrors};
use crate::filter::redirect::Arrival;
use crate::filter::{Answering, Filters, cors, redirect};
use crate::proxy_protocol::Ends;
use crate::telemetry::Flags;
use crate::upstream::Caller;

/// Decides where the request goes.
///
/// # Errors
/// The answer that it gets instead.
pub(super) fn decide(session: &mut ServerSession, ctx: &mut RequestContext) -> Result<(), Reply> {
    let admitted = wire::admit(session);
    if admitted.is_err() {
        // The access log shows what is in the header now.
        forwarded::drop_claims(session.req_header_mut());
    }
    let host = admitted?;
    let (Some(config), Some(connection)) = (ctx.config.clone(), ctx.connection.clone()) else {
        return Err(Reply::error(500, Flags::default(), "the request did not come over a listener"));
    };
    let port = config.ports.get(&Bind::tcp(connection.local));
    let truth = forwarded::Truth {
        peer: connection.peer,
        https: connection.tls.is_some(),
        port: port.map_or(connection.local.port(), |port| port.dialled()),
        trusted_hops: port.map_or(0, |port| port.trusted_hops),
    };
    let Ok(client) = forwarded::vouch(session.req_header_mut(), &truth) else {
        return Err(Reply::error(431, Flags::DOWNSTREAM_PROTOCOL_ERROR, "the request has too many headers"));
    };
    ctx.client = Some(client.address);
    let parent = match port {
        None if config.site().pod.is_some() => Err(unheld(&config, connection.local)),
        _ => parent(port, connection.tls.as_ref(), &host),
    };
    let parent = parent.inspect_err(|reply| {
        if reply.is_closing() {
            connection.retire();
        }
    })?;
    if let Some(record) = &mut ctx.record {
        record.parent = Some(parent.metrics().clone());
    }
    let stage = find(parent, session.req_header(), &host);
    if let (Some(record), Ok(stage)) = (&mut ctx.record, &stage) {
        record.rule = Some(stage.matched.rule.metrics.clone());
    }
    ctx.matched = Some(stage?);
    // Where proxies speak another scheme with clients than with us, clients do not know our port.
    let arrived_port = if client.https == truth.https { parent.source().port() } else { client.port };
    let arrived = Arrived { host: &host, https: client.https, port: arrived_port };
    let certificate = port.and_then(|port| port.client_certificate.clone());
    let caller = Caller::new(Ends { source: client.address, destination: connection.destination }, certificate);
    let key = draw(session.req_header(), ctx, &arrived, |ctx| &mut ctx.matched)?;
    if let Some(record) = &mut ctx.record {
        record.backend = ctx.matched.as_ref().and_then(|stage| stage.position);
    }
    let Some(service) = port.and_then(|port| config.routes_of(&port.owner, &key)) else {
        ctx.destination = Some(destination(&key, session, ctx, (&config, caller))?);
        return answer_of_backend(session.req_header(), ctx, &arrived, |ctx| &ctx.matched);
    };
    answer_of_backend(session.req_header(), ctx, &arrived, |ctx| &ctx.matched)?;
    // The Service's rules see the request as the Gateway's leave it.
    let mut request = session.req_header().clone();
    let passed = ctx.matched.as_ref().map_or(Ok(()), |stage| forward::pass(&mut request, stage));
    passed.map_err(|_| Reply::error(500, Flags::default(), "the filters of the route cannot be carried out"))?;
    forward::hand_on(&mut request).map_err(|error| {
        tracing::debug!(%error, "the routes of a Service cannot be asked");
        Reply::error(500, Flags::default(), "the route's rewrite leaves a path that no route of the Service can match")
    })?;
    ctx.onward = Some(find(service, &request, &host)?);
    let key = draw(&request, ctx, &arrived, |ctx| &mut ctx.onward)?;
    ctx.destination = Some(destination(&key, session, ctx, (&config, caller))?);
    answer_of_backend(&request, ctx, &arrived, |ctx| &ctx.onward)
}

/// What has to be done before the first try, once it is decided that there is one.
pub(super) async fn prepare(session: &mut ServerSession, ctx: &mut RequestContext, mirrors: &Arc<Mirrors>) -> Result<()> {
    let Some(patience) = ctx.patience() else { return Ok(()) };
    permit_body(session).await.map_err(Error::into_down)?;
    if let Err(error) = mirror(session, ctx, mirrors) {
        tracing::debug!(%error, "a request could not be mirrored");
    }
    if let Some(record) = &ctx.record {
        ctx.deadlines = Deadlines::new(&patience, record.started);
    }
    let upgrade = ctx.asks_for_upgrade();
    let due = ctx.deadlines.due();
    if upgrade || due.is_some() {
        ctx.loan = Some(timed::lend(session, due, upgrade));
    }
    Ok(())
}

struct Arrived<'a> {
    host: &'a str,
    https: bool,
    port: u16,
}

/// The listener that a host belongs to, or the Service that owns the port. Under TLS it has to be the one whose certificate the client has
/// been shown and whose rules it has fulfilled, since a client may use one connection for every name in a certificate (RFC 9110, 15.5.20),
/// and keep it for longer than the rules last. A plain connection of before the port spoke TLS has been shown none. One that is not even for
/// its own server name any more is closed, since many clients would come back on it.
fn parent<'c>(port: Option<&'c Arc<Port>>, tls: Option<&TlsInfo>, host: &str) -> Result<&'c Arc<CompiledParent>, Reply> {
    let none = || Reply::error(404, Flags::NO_ROUTE, format!("no listener here takes the host `{host}`"));
    let port = port.ok_or_else(none)?;
    let parent = port.parents.get(host).ok_or_else(none)?;
    let is_its_own = match tls {
        Some(tls) => port.is_of(&tls.listener, parent),
        None => port.speech != Speech::Tls,
    };
    if is_its_own {
        return Ok(parent);
    }
    let text = format!("the host `{host}` is not of the listener that this connection was made to; open another one");
    let reply = Reply::error(421, Flags::DOWNSTREAM_PROTOCOL_ERROR, text);
    let is_of_use = tls.is_some_and(|tls| {
        let now = port.parents.get(tls.server_name.as_deref().unwrap_or_default());
        now.is_some_and(|now| port.is_of(&tls.listener, now))
    });
    Err(if is_of_use { reply } else { reply.closing() })
}

/// The answer to a call of a Service that the configuration does not hold. The next connection waits for it, or goes elsewhere.
fn unheld(config: &Config, address: SocketAddr) -> Reply {
    let text = match config.frontends.find(address) {
        Some(Fronted::Port(service)) => format!("the routes of {service} have not come from the controller; try again"),
        _ => format!("there is no Service at {address} any more"),
    };
    Reply::error(503, Flags::NO_ROUTE, text).closing()
}

/// The rule that takes the request.
fn find(parent: &CompiledParent, header: &RequestHeader, host: &str) -> Result<Stage, Reply> {
    let (path, query) = (header.uri.path(), header.uri.query());
    let request = Request { method: &header.method, host, path, query, headers: &header.headers };
    let matched = parent.find(&request);
    let none = || Reply::error(404, Flags::NO_ROUTE, parent.source().no_match(&header.method, host));
    Ok(Stage { matched: matched.ok_or_else(none)?, position: None })
}

/// Which of the stages.
type Which = fn(&mut RequestContext) -> &mut Option<Stage>;

/// Asks the rule's filters that may answer, then draws a backend by the weights.
fn draw(header: &RequestHeader, ctx: &mut RequestContext, arrived: &Arrived<'_>, which: Which) -> Result<BackendKey, Reply> {
    let invalid = |text: &'static str| Reply::error(500, Flags::NO_BACKEND, text);
    let Some(Stage { matched, .. }) = which(ctx) else { return Err(invalid("the request has no rule")) };
    let (rule, prefix) = (matched.rule.clone(), matched.prefix);
    if rule.is_invalid() {
        return Err(invalid("the route's rule cannot be carried out; see the route's status"));
    }
    filter(&rule.filters, header, ctx, (arrived, prefix))?;
    let share = rule.share().ok_or_else(|| invalid("the route's rule has no backend with a weight"))?;
    if let Some(stage) = which(ctx) {
        stage.position = Some(share.position);
    }
    if let Some(record) = &mut ctx.record {
        record.backend = record.backend.or(Some(share.position));
    }
    share.backend.cloned().ok_or_else(|| invalid("the route's backend is invalid; see the route's status"))
}

/// Asks the filters of the chosen backendRef that may answer.
fn answer_of_backend(
    header: &RequestHeader,
    ctx: &mut RequestContext,
    arrived: &Arrived<'_>,
    which: fn(&RequestContext) -> &Option<Stage>,
) -> Result<(), Reply> {
    let Some(Stage { matched, position: Some(position) }) = which(ctx) else { return Ok(()) };
    let (rule, prefix, position) = (matched.rule.clone(), matched.prefix, *position);
    rule.backend_filters(position).map_or(Ok(()), |filters| filter(filters, header, ctx, (arrived, prefix)))
}

/// Asks the filters that may answer, in their order.
fn filter(
    filters: &Filters,
    header: &RequestHeader,
    ctx: &mut RequestContext,
    (arrived, prefix): (&Arrived<'_>, Option<usize>),
) -> Result<(), Reply> {
    for filter in &filters.answering {
        match filter {
            Answering::Cors(filter) => {
                if let Some(answer) = cors::preflight(filter, &header.method, &header.headers) {
                    return Err(Reply::plain(204).with_headers(answer));
                }
                // The first is the one that answers preflights.
                ctx.cors.get_or_insert_with(|| cors::actual(filter, &header.headers));
            }
            Answering::Redirect(filter) => {
                let arrival = Arrival { https: arrived.https, host: arrived.host, port: arrived.port, prefix };
                return Err(redirect::answer(filter, header, &arrival));
            }
        }
    }
    Ok(())
}

/// How a backend is spoken to.
fn destination(
    key: &BackendKey,
    session: &ServerSession,
    ctx: &RequestContext,
    (config, caller): (&Config, Caller),
) -> Result<Destination, Reply> {
    let backend = config.backend(key);
    if backend.is_some_and(|backend| backend.is_refused()) {
        let text = "the backend's BackendTLSPolicy cannot be carried out; see the policy's status";
        return Err(Reply::error(500, Flags::NO_BACKEND, text));
    }
    let Some(backend) = backend.filter(|backend| !backend.is_empty()) else {
        return Err(Reply::error(503, Flags::NO_HEALTHY_UPSTREAM, "the backend has no ready endpoint"));
    };
    let header = session.req_header();
    let upgrade = is_websocket(&header.method, header.version, &header.headers);
    Ok(Destination {
        backend: backend.clone(),
        caller,
        wire: wire_of(backend.protocol(), ctx.grpc, upgrade),
        manner: match (upgrade, ctx.grpc) {
            (true, _) => Manner::Upgrade,
            (false, true) => Manner::Stream,
            (false, false) => Manner::Plain,
        },
    })
}

/// Answers `Expect: 100-continue` here. If it were forwarded, the endpoint's 100 would take the client's connection with it (Pingora
/// then believes that the response was early), and over HTTP/2 no 100 would ever come.
async fn permit_body(session: &mut ServerSession) -> Result<()> {
    let expects = |header: &RequestHeader| {
        header.headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    };
    if !expects(session.req_header()) {
        return Ok(());
    }
    session.req_header_mut().remove_header(&EXPECT);
    if session.req_header().version == http::Version::HTTP_11 && !session.is_body_done() {
        session.set_close_on_response_before_downstream_finish(false);
        session.write_continue_response().await?;
        session.set_close_on_response_before_downstream_finish(true);
    }
    Ok(())
}

/// Sends copies to the mirrors of rules and of the chosen backendRefs.
fn mirror(session: &mut ServerSession, ctx: &mut RequestContext, mirrors: &Arc<Mirrors>) -> Result<()> {
    if ctx.stages().flat_map(Stage::filters).all(|filters| filters.mirrors.is_empty()) {
        return Ok(());
    }
    let header = session.req_header();
    let (Some(config), false) = (&ctx.config, is_websocket(&header.method, header.version, &header.headers)) else {
        return Ok(());
    };
    let Some(caller) = ctx.destination.as_ref().map(|destination| &destination.caller) else { return Ok(()) };
    let mut request = header.clone();
    let mut copies = Copies::default();
    let has_body = !session.is_body_empty();
    for (position, stage) in ctx.stages().enumerate() {
        if position > 0 {
            forward::hand_on(&mut request)?;
        }
        // As the rule leaves the request; what its backendRef does to it is for that backend only.
        forward::apply_filters(&mut request, &stage.matched.rule.filters, stage.matched.prefix)?;
        let drawn = stage.filters().flat_map(|filters| &filters.mirrors).filter_map(|mirror| config.backend(mirror.draw()?));
        for backend in drawn.filter(|backend| !backend.is_refused()) {
            let Ok(endpoint) = backend.choose_for(caller, &mut Tried::default()) else { continue };
            let wire = wire_of(backend.protocol(), ctx.grpc, false);
            mirrors.send((endpoint, wire, caller), request.clone(), has_body.then_some(&mut copies));
        }
        if let Some(filters) = stage.position.and_then(|position| stage.matched.rule.backend_filters(position)) {
            forward::apply_filters(&mut request, filters, stage.matched.prefix)?;
        }
    }
    ctx.copies = (!copies.is_empty()).then_some(copies);
    Ok(())
}

#[cfg(test)]
mod tests;
