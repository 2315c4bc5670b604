//! Two connections that are one: bytes, ends and resets of either side are passed on to the other.
//!
//! Nothing is read that cannot be written: bytes go through one buffer of the thread's, and only what the other side does not take at
//! once is kept, up to the size of that buffer, while no more is read. So an idle connection holds no buffer at all.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::connection::timer::poll_until;
use crate::connection::transport::Transport;
use crate::limits::Limits;
use crate::telemetry::{StreamEnd, StreamMetrics};

/// One read, and all that may wait to be written in one direction.
const BUFFER: usize = 64 * 1024;
/// Reads of one direction before the other one has its turn.
const TURNS: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// A client and an endpoint.
pub(crate) struct Splice {
    client: Transport,
    endpoint: Transport,
    up: Half,
    down: Half,
    /// When bytes were last moved.
    active: Instant,
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    /// Read and not yet written, from `start` on.
    waiting: Vec<u8>,
    start: usize,
    state: State,
    moved: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Its source has said that no more comes; its target has not been told.
    Ended,
    /// Its target knows.
    Done,
    /// Its target takes no more.
    Broken,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Endpoint,
}

/// Which side of a direction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Source,
    Target,
}

impl Splice {
    /// `first` is what was read from the client already, and goes to the endpoint before all else.
    pub(crate) fn new(client: Transport, endpoint: Transport, first: Vec<u8>) -> Self {
        let up = Half { waiting: first, ..Half::default() };
        Self { client, endpoint, up, down: Half::default(), active: Instant::now() }
    }

    /// Passes everything on until both sides have ended, one is reset, or nothing has gone either way for too long. Cancel safe: what
    /// was moved until then is in [`Splice::moved`].
    pub(super) async fn run(&mut self, limits: &Limits, metrics: &StreamMetrics) -> StreamEnd {
        let mut sleep = pin!(tokio::time::sleep(limits.stream_idle));
        poll_fn(|cx| {
            match self.poll(cx, metrics) {
                Err(end) => return Poll::Ready(end),
                Ok(true) => self.active = Instant::now(),
                Ok(false) => {}
            }
            if self.up.is_over() && self.down.is_over() {
                return Poll::Ready(self.over());
            }
            poll_until(sleep.as_mut(), cx, self.active + self.patience(limits)).map(|()| StreamEnd::Idle)
        })
        .await
    }

    /// Bytes that were passed on, of the client and of the endpoint.
    pub(super) fn moved(&self) -> (u64, u64) {
        (self.up.moved, self.down.moved)
    }

    /// Ends it as if the network had: both sides see a reset, since neither of them has ended what it had to say.
    pub(super) fn reset(self) {
        reset(self.client.socket());
        reset(self.endpoint.socket());
    }

    /// Ends it after one side has broken off. The other one is sent all that was read for it, and then sees that this is not the end: under
    /// TLS an end without `close_notify`, else a reset. The system throws away what a socket has not sent when that is reset, and does
    /// not say when it has sent all, so the reset comes [`Limits::linger`] after the last byte, and at once if there was none. Returns what
    /// was moved in all. Dropping it breaks off the other side at once.
    pub(super) async fn break_off(self, side: Side, limits: &Limits) -> (u64, u64) {
        let Self { client, endpoint, mut up, mut down, active } = self;
        let (broken, mut other, half) = match side {
            Side::Client => (client, endpoint, &mut up),
            Side::Endpoint => (endpoint, client, &mut down),
        };
        reset(broken.socket());
        drop(broken);
        let is_plain = matches!(other, Transport::Plain(_));
        if is_plain {
            reset(other.socket());
        }
        let waiting = std::mem::take(&mut half.waiting);
        let waiting = waiting.get(half.start..).unwrap_or_default();
        if is_plain && waiting.is_empty() && half.moved == 0 {
            return (up.moved, down.moved);
        }
        let since = if waiting.is_empty() { active } else { Instant::now() };
        let told = async {
            other.write_all(waiting).await?;
            half.moved += waiting.len() as u64;
            other.flush().await?;
            if !is_plain {
                SockRef::from(other.socket()).shutdown(Shutdown::Write)?;
            }
            // What it still says is dropped: bytes that nobody has read would make a reset of the end.
            let mut rest = [0; 1024];
            while other.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // Whatever became of it, the socket is closed now.
        let _ = tokio::time::timeout_at(since + limits.linger, told).await;
        (up.moved, down.moved)
    }

    /// Whether something happened.
    fn poll(&mut self, cx: &mut Context<'_>, metrics: &StreamMetrics) -> Result<bool, StreamEnd> {
        let Self { client, endpoint, up, down, .. } = self;
        SCRATCH.with_borrow_mut(|scratch| {
            let sent = up.poll(cx, (client, endpoint), down.state, scratch, |bytes| metrics.received(bytes));
            let sent = up.judge(sent, StreamEnd::ClientReset)?;
            let received = down.poll(cx, (endpoint, client), up.state, scratch, |bytes| metrics.sent(bytes));
            let received = down.judge(received, StreamEnd::EndpointReset)?;
            Ok(sent || received)
        })
    }

    fn over(&self) -> StreamEnd {
        match (self.up.state, self.down.state) {
            (State::Broken, _) => StreamEnd::EndpointReset,
            (_, State::Broken) => StreamEnd::ClientReset,
            _ => StreamEnd::Closed,
        }
    }

    fn patience(&self, limits: &Limits) -> Duration {
        if self.up.is_over() || self.down.is_over() { limits.stream_half_closed } else { limits.stream_idle }
    }
}

impl Half {
    fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Broken)
    }

    /// A target that takes no more may have sent something before it went: the other direction is read to its end.
    fn judge(&mut self, polled: Result<bool, Fault>, source_failed: StreamEnd) -> Result<bool, StreamEnd> {
        match polled {
            Ok(progress) => Ok(progress),
            Err(Fault::Source) => Err(source_failed),
            Err(Fault::Target) => {
                self.state = State::Broken;
                self.waiting = Vec::new();
                Ok(true)
            }
        }
    }

    /// Moves what can be moved; says whether anything was. `back` is the state of the other direction.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (source, target): (&mut Transport, &mut Transport),
        back: State,
        scratch: &mut [u8],
        count: impl Fn(usize),
    ) -> Result<bool, Fault> {
        let (mut source, mut target) = (Pin::new(source), Pin::new(target));
        let mut progress = false;
        for _ in 0..TURNS {
            if self.is_over() {
                return Ok(progress);
            }
            while self.start < self.waiting.len() {
                let Some(written) = write(&target.as_mut().poll_write(cx, &self.waiting[self.start..]))? else {
                    return Ok(progress);
                };
                self.start += written;
                self.moved += written as u64;
                count(written);
                progress = true;
            }
            if !self.waiting.is_empty() {
                (self.waiting, self.start) = (Vec::new(), 0);
            }
            match target.as_mut().poll_flush(cx) {
                Poll::Pending => return Ok(progress),
                Poll::Ready(flushed) => flushed.map_err(|_| Fault::Target)?,
            }
            if self.state == State::Ended {
                if let Poll::Ready(shut) = target.as_mut().poll_shutdown(cx) {
                    shut.map_err(|_| Fault::Target)?;
                    self.state = State::Done;
                    progress = true;
                }
                return Ok(progress);
            }
            let mut read = ReadBuf::new(scratch);
            match source.as_mut().poll_read(cx, &mut read) {
                Poll::Pending => return Ok(progress),
                // Many do not take leave in TLS of somebody who has taken leave of them.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof && back == State::Done => read.clear(),
                Poll::Ready(received) => received.map_err(|_| Fault::Source)?,
            }
            progress = true;
            let mut rest = read.filled();
            if rest.is_empty() {
                self.state = State::Ended;
            }
            while !rest.is_empty() {
                let Some(written) = write(&target.as_mut().poll_write(cx, rest))? else {
                    self.waiting = rest.to_vec();
                    break;
                };
                rest = &rest[written..];
                self.moved += written as u64;
                count(written);
            }
        }
        // There is more, and it is somebody else's turn.
        cx.waker().wake_by_ref();
        Ok(progress)
    }
}

/// None: nothing more is taken for now.
fn write(written: &Poll<io::Result<usize>>) -> Result<Option<usize>, Fault> {
    match written {
        Poll::Pending => Ok(None),
        Poll::Ready(Ok(0) | Err(_)) => Err(Fault::Target),
        Poll::Ready(Ok(written)) => Ok(Some(*written)),
    }
}

/// Makes dropping a socket a reset.
pub(crate) fn reset(socket: &TcpStream) {
    // It is closed in any case.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
