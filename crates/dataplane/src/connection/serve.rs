//! From an open stream to its last response: which protocol, when the next request begins, how long all of it may take.
//!
//! HTTP/1 keep-alive is our own loop around Pingora's one-request call, not Pingora's: a header is complete and judged before a
//! session exists, so its deadline and size bound every request alike, and an idle connection holds no session.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use crate::connection::head::{Fault, Head, Scanner, is_preface};
use crate::connection::io::Io;
use crate::connection::timer::poll_until;
use crate::connection::{Alpn, Connection};
use crate::drain::{Signals, raised};
use crate::limits::Limits;
use crate::telemetry::ConnectionFault;

/// How long a connection that was accepted at the very end of a drain has for its first request.
const LAST_CALL: Duration = Duration::from_secs(1);
/// How long an idle connection stays open after its end was ordered: a request that has arrived, or is on its way in the
/// same datacentre, is still served.
const LAST_GLANCE: Duration = Duration::from_millis(20);

/// The HTTP application of the process with what this side wants of it.
pub(crate) struct Front<A> {
    app: Arc<A>,
    limits: Arc<Limits>,
    options: HttpServerOptions,
}

impl<A: HttpServerApp + Send + Sync + 'static> Front<A> {
    pub(crate) fn new(app: Arc<A>, limits: Arc<Limits>) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(limits.http2_idle);
        Self { app, limits, options }
    }

    /// Serves a connection to its end: the client's, a deadline's, or `signals`'.
    pub(crate) async fn serve(self: &Arc<Self>, io: Box<Io>, signals: Signals) {
        let Signals { ending, mut cut } = signals;
        let connection = io.connection().clone();
        tokio::select! {
            () = raised(&mut cut) => connection.fault(ConnectionFault::DrainDeadline),
            () = self.run(io, &ending) => {}
        }
    }

    async fn run(self: &Arc<Self>, mut io: Box<Io>, ending: &ShutdownWatch) {
        let fresh = Instant::now() + self.limits.fresh;
        let mut sleep = pin!(tokio::time::sleep_until(fresh));
        let mut ended = ending.clone();
        let mut waits = Waits { sleep: sleep.as_mut(), due: fresh, first: true, ending: false };
        let mut ended = pin!(async move { raised(&mut ended).await });
        let mut settings: Option<HttpPersistentSettings> = None;
        loop {
            let head = match waits.next(&mut io, ended.as_mut(), &self.limits).await {
                Next::Request(head) => head,
                Next::Http2 => return self.run_http2(io, fresh).await,
                Next::Refuse(status) => return refuse(io, status, &self.limits).await,
                Next::Close => return close(io, &self.limits).await,
            };
            io.admit(head.body.map(|body| body.saturating_add(head.len as u64)));
            let mut session = ServerSession::new_http1(io);
            if let Some(settings) = settings.take() {
                settings.apply_to_session(&mut session);
            }
            self.prepare(&mut session, head.upgrade);
            let Some(reused) = self.app.process_new_http(session, ending).await else { return };
            let (stream, next) = reused.consume();
            let Ok(stream) = stream.into_any().downcast::<Io>() else { return };
            (io, settings) = (stream, next);
            io.rest();
            waits.due = Instant::now() + self.limits.idle;
            waits.first = false;
        }
    }

    /// Pingora drives the connection and spawns its streams. It would wait for ever for a first request.
    async fn run_http2(self: &Arc<Self>, mut io: Box<Io>, due: Instant) {
        io.switch_to_http2();
        let connection = io.connection().clone();
        // Pingora's signal for this connection alone.
        let (end, ending) = watch::channel(false);
        let told = async {
            connection.wait_for_end().await;
            end.send_replace(true);
            std::future::pending::<()>().await;
        };
        let silent = async {
            tokio::time::sleep_until(due).await;
            if connection.requests() > 0 {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = self.process_new(io, &ending) => {}
            () = told => {}
            () = silent => connection.fault(ConnectionFault::HeaderTimeout),
        }
    }

    fn prepare(&self, session: &mut ServerSession, upgrade: bool) {
        session.set_read_timeout(Some(if upgrade { self.limits.upgraded_read } else { self.limits.body_read }));
        session.set_write_timeout(Some(self.limits.write));
        if let Some(connection) = session.digest().and_then(Connection::of_digest) {
            connection.count_request();
        }
    }
}

/// One stream of HTTP/2.
#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Front<A> {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.prepare(&mut session, false);
        match refusal(&session, &self.limits) {
            Some(status) => refuse_stream(session, status).await,
            None => self.app.process_new_http(session, shutdown).await,
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.limits.http2())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// What a connection waits with between two requests.
struct Waits<'a> {
    sleep: Pin<&'a mut Sleep>,
    due: Instant,
    first: bool,
    /// No further request is wanted.
    ending: bool,
}

enum Next {
    Request(Head),
    Http2,
    Refuse(StatusCode),
    Close,
}

enum Event {
    Read(std::io::Result<bool>),
    Ending,
    Late,
}

impl Waits<'_> {
    /// Waits for a whole request header, the preface of HTTP/2, or the reason why there is none.
    async fn next(&mut self, io: &mut Io, mut ended: Pin<&mut impl Future<Output = ()>>, limits: &Limits) -> Next {
        let mut scanner = Scanner::default();
        let mut begun = false;
        loop {
            if !io.unread().is_empty() {
                if !begun {
                    let due = Instant::now() + limits.header;
                    self.due = if self.first { self.due.min(due) } else { due };
                }
                begun = true;
                if let Some(next) = self.judge(io, &mut scanner, limits) {
                    return next;
                }
            }
            let event = std::future::poll_fn(|cx| {
                if let Poll::Ready(read) = io.poll_fill(cx) {
                    return Poll::Ready(Event::Read(read));
                }
                if !begun && !self.ending && ended.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Ending);
                }
                poll_until(self.sleep.as_mut(), cx, self.due).map(|()| Event::Late)
            });
            match event.await {
                Event::Read(Ok(true)) => {}
                Event::Ending => {
                    self.ending = true;
                    self.due = self.due.min(Instant::now() + if self.first { LAST_CALL } else { LAST_GLANCE });
                }
                Event::Late => return self.late(io, begun),
                Event::Read(_) => return Next::Close,
            }
        }
    }

    fn late(&self, io: &Io, begun: bool) -> Next {
        let (fault, next) = match (begun, self.first) {
            _ if self.ending && !begun => return Next::Close,
            (_, true) if expects_http2(io) => (ConnectionFault::PrefaceTimeout, Next::Close),
            (true, _) => (ConnectionFault::HeaderTimeout, Next::Refuse(StatusCode::REQUEST_TIMEOUT)),
            (false, true) => (ConnectionFault::PrefaceTimeout, Next::Close),
            (false, false) => (ConnectionFault::IdleTimeout, Next::Close),
        };
        io.connection().fault(fault);
        next
    }

    fn judge(&self, io: &Io, scanner: &mut Scanner, limits: &Limits) -> Option<Next> {
        let bytes = io.unread();
        if expects_http2(io) {
            return is_preface(bytes).map(|is| if is { Next::Http2 } else { Next::Close });
        }
        // Prior knowledge: only in the clear, only at the beginning.
        if self.first && io.connection().tls.is_none() {
            match is_preface(bytes) {
                Some(true) => return Some(Next::Http2),
                Some(false) => {}
                None => return None,
            }
        }
        match scanner.scan(bytes, limits) {
            Ok(head) => head.map(Next::Request),
            Err(Fault::Status(status)) => Some(Next::Refuse(status)),
            Err(Fault::NotHttp) => Some(Next::Close),
        }
    }
}

fn expects_http2(io: &Io) -> bool {
    io.connection().tls.as_ref().is_some_and(|tls| tls.alpn == Some(Alpn::Http2))
}

/// What HTTP/1 refuses before Pingora sees it; of HTTP/2, h2 has bounded the bytes.
fn refusal(session: &ServerSession, limits: &Limits) -> Option<StatusCode> {
    let request = session.req_header();
    if request.headers.len() > limits.header_fields {
        return Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    (target > limits.target_bytes).then_some(StatusCode::URI_TOO_LONG)
}

async fn refuse_stream(mut session: ServerSession, status: StatusCode) -> Option<ReusedHttpStream> {
    let header = ResponseHeader::build(status, Some(0)).ok()?;
    session.write_response_header(Box::new(header)).await.ok()?;
    session.write_response_body(Bytes::new(), true).await.ok()?;
    // A stream leaves nothing to be used again.
    None
}

/// Answers what never became a request. The stream then lingers: see [`Io`]'s drop.
async fn refuse(mut io: Box<Io>, status: StatusCode, limits: &Limits) {
    tracing::debug!(peer = %io.connection().peer, %status, "refused a request header");
    let reason = match status {
        StatusCode::REQUEST_TIMEOUT => format!("the request header was not complete within {:?}", limits.header),
        StatusCode::URI_TOO_LONG => format!("the request target is longer than {} bytes", limits.target_bytes),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            format!(
                "the request header is larger than {} bytes or has more than {} fields",
                limits.header_bytes, limits.header_fields
            )
        }
        StatusCode::METHOD_NOT_ALLOWED => "this is no forward proxy: CONNECT is not served here".to_owned(),
        _ => "the request header is not HTTP/1".to_owned(),
    };
    let date = get_cached_date();
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nDate: {}\r\nConnection: close\r\n\r\n{reason}\n",
        reason.len() + 1,
        date.to_str().unwrap_or_default(),
    );
    let answer = async {
        io.write_all(response.as_bytes()).await?;
        io.flush().await
    };
    if matches!(tokio::time::timeout(limits.linger, answer).await, Ok(Ok(()))) {
        close(io, limits).await;
    }
}

/// Says goodbye, under TLS with `close_notify`; a client that does not take it is left behind.
async fn close(mut io: Box<Io>, limits: &Limits) {
    let _ = tokio::time::timeout(limits.linger, io.shutdown()).await;
}

#[cfg(test)]
pub(crate) mod tests;
