//! A session of ours in the place of the client's, where Pingora needs to be helped.
//!
//! **An alarm.** While a request is under way, Pingora always waits for the client too (for its body, or for its going away), in one
//! task with the endpoint. So a failure of the client's side that comes at the deadline stops the exchange at once, cancels
//! the stream to the endpoint, and leaves the real session as it was: nothing was lost from it, and the answer can still be
//! written.
//!
//! **Upgrades.** Pingora 0.9.1 passes the end of a WebSocket request's (empty) body to the endpoint's side as a message. If the
//! endpoint's 101 is read before that message is, it is taken for the end of the upgraded stream, and the connection is
//! closed: seen in one of twenty upgrades by an endpoint on the same machine. So that message is not sent.
//!
//! Sessions are exchanged only where a rule has a timeout or a request asks for an upgrade, and given back before anything else
//! needs the real one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session as CustomSession;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::deadline::Due;

/// What a session fails with at the deadline.
pub(crate) const DEADLINE: ErrorType = ErrorType::Custom("Deadline");

/// The way back to the real session.
#[derive(Debug)]
pub(crate) struct Loan {
    home: oneshot::Receiver<Returned>,
    wishes: Arc<Wishes>,
}

/// What the phases want of the session that is in the place.
#[derive(Debug, Default)]
struct Wishes {
    /// The connection is to be closed after the response, on HTTP/1.
    close: AtomicBool,
    /// Pingora has asked in this try whether there is a body: see [`CustomSession::is_body_empty`].
    asked: AtomicBool,
}

struct TimedSession {
    /// None only while it is dropped.
    inner: Option<Box<ServerSession>>,
    home: Option<oneshot::Sender<Returned>>,
    due: Option<Due>,
    alarm: Pin<Box<Sleep>>,
    upgrade: bool,
    wishes: Arc<Wishes>,
}

struct Returned(ServerSession);

/// Puts a session of ours in the place of `session`: with an alarm at `due`, and fit for an upgrade if the request asks for one.
pub(crate) fn lend(session: &mut ServerSession, due: Option<Due>, upgrade: bool) -> Loan {
    let (sender, home) = oneshot::channel();
    let wishes = Arc::<Wishes>::default();
    let inner = std::mem::replace(session, nobody());
    *session = ServerSession::new_custom(Box::new(TimedSession {
        inner: Some(Box::new(inner)),
        home: Some(sender),
        due,
        alarm: Box::pin(tokio::time::sleep(Duration::from_secs(3600))),
        upgrade,
        wishes: wishes.clone(),
    }));
    Loan { home, wishes }
}

impl Loan {
    /// Puts the real session back.
    pub(crate) fn give_back(mut self, session: &mut ServerSession) {
        drop(std::mem::replace(session, nobody()));
        if let Ok(Returned(inner)) = self.home.try_recv() {
            *session = inner;
        }
    }

    /// The connection is to be closed after the response, on HTTP/1.
    pub(crate) fn close(&self) {
        self.wishes.close.store(true, Relaxed);
    }

    /// A try's request is about to be sent.
    pub(crate) fn begin_try(&self) {
        self.wishes.asked.store(false, Relaxed);
    }
}

/// Stands where a session is for the moment that it is moved.
fn nobody() -> ServerSession {
    ServerSession::new_custom(Box::new(()))
}

impl std::fmt::Debug for Returned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Returned")
    }
}

impl Drop for TimedSession {
    fn drop(&mut self) {
        if let (Some(inner), Some(home)) = (self.inner.take(), self.home.take()) {
            // Nobody waits for it when the whole request is dropped, and then it goes as well.
            let _ = home.send(Returned(*inner));
        }
    }
}

impl TimedSession {
    fn inner(&self) -> &ServerSession {
        self.inner.as_ref().expect("only dropping takes the session away")
    }

    fn inner_mut(&mut self) -> &mut ServerSession {
        self.inner.as_mut().expect("only dropping takes the session away")
    }

    /// Does `work`, but not beyond the deadline. Cancel safe if the work is.
    async fn until_due<'s, T, F>(&'s mut self, work: impl FnOnce(&'s mut ServerSession) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
        T: Send,
    {
        let due = self.due.as_ref().and_then(Due::at);
        if let Some(due) = due
            && self.alarm.deadline() != due.into()
        {
            self.alarm.as_mut().reset(due.into());
        }
        let inner = self.inner.as_mut().expect("only dropping takes the session away");
        tokio::select! {
            biased;
            () = self.alarm.as_mut(), if due.is_some() => Error::e_explain(DEADLINE, "the deadline has passed"),
            done = work(inner) => done,
        }
    }
}

#[async_trait]
impl CustomSession for TimedSession {
    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        self.until_due(|inner| inner.read_body_or_idle(no_body_expected)).await
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.until_due(ServerSession::read_request_body).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        if self.wishes.close.load(Relaxed) {
            self.inner_mut().set_keepalive(None);
        }
        self.until_due(|inner| inner.response_duplex_vec(tasks)).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.until_due(|inner| inner.write_response_body(data, end)).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner_mut().drain_request_body().await
    }

    async fn write_response_header(&mut self, resp: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header(resp).await
    }

    async fn write_response_header_ref(&mut self, resp: &ResponseHeader, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header_ref(resp).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner_mut().write_response_trailers(trailers).await
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        self.inner_mut().shutdown().await;
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner_mut().finish_body().await
    }

    fn req_header(&self) -> &RequestHeader {
        self.inner().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner_mut().req_header_mut()
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner().get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner().get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner().get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner().request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner().response_written()
    }

    fn is_body_done(&mut self) -> bool {
        self.inner_mut().is_body_done()
    }

    /// In each try Pingora asks twice: first how to frame the request (an empty body needs nothing), then whether to send the
    /// message that the body is over, which is better not sent before an upgrade.
    fn is_body_empty(&mut self) -> bool {
        let empty = self.inner_mut().is_body_empty();
        if self.upgrade && empty { !self.wishes.asked.swap(true, Relaxed) } else { empty }
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner().body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner().body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner().digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner_mut().digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner().client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner().server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner().to_h1_raw()
    }

    fn enable_retry_buffering(&mut self) {
        self.inner_mut().enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.inner().retry_buffer_truncated()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.inner().get_retry_buffer()
    }

    fn is_upgrade_req(&self) -> bool {
        self.inner().is_upgrade_req()
    }

    fn was_upgraded(&self) -> bool {
        self.inner().was_upgraded()
    }

    // Messages beside the body are of protocols that are not spoken here.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
