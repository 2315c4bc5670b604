//! The stream that Pingora gets: a socket, perhaps under TLS, that holds back what is not this request's, writes header and
//! body together, and costs little while it is idle.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

use crate::connection::Connection;
use crate::connection::linger::linger;
use crate::connection::transport::Transport;

/// One read of a request header.
const READ: usize = 4096;
/// What may stay allocated between requests.
const KEEP: usize = 1024;

/// A client's connection as Pingora's `IO`.
///
/// Bytes that [`Io::fill`] has read are handed to Pingora up to what [`Io::admit`] has set, and the rest stays for the
/// next request: so Pingora never sees a header that has not been judged, and pipelined requests need no more.
pub(crate) struct Io {
    /// None only while it is dropped.
    transport: Option<Transport>,
    fd: UniqueIDType,
    connection: Arc<Connection>,
    proxy_digest: Arc<ProxyDigest>,
    socket_digest: Arc<SocketDigest>,
    ssl_digest: Option<Arc<SslDigest>>,
    /// Read and not yet handed over, from `start` on.
    input: Vec<u8>,
    start: usize,
    admitted: Admitted,
    output: Vec<u8>,
    output_limit: usize,
    /// Runs while the client takes nothing of what is written.
    stalled: Option<Pin<Box<Sleep>>>,
    http2: bool,
    ended: bool,
}

/// What Pingora may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admitted {
    /// So many bytes: a header, or a header with its body.
    Bytes(u64),
    /// Everything: bodies without a known length, upgraded connections, HTTP/2.
    All,
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("connection", &self.connection).field("admitted", &self.admitted).finish_non_exhaustive()
    }
}

impl Io {
    pub(crate) fn new(transport: Transport, connection: Arc<Connection>, output_limit: usize) -> Self {
        let fd = transport.socket().as_raw_fd();
        let socket_digest = SocketDigest::from_raw_fd(fd);
        // The cells are empty: they were made in the line above.
        let _ = socket_digest.peer_addr.set(Some(connection.peer.into()));
        Self {
            fd,
            proxy_digest: Arc::new(connection.digest()),
            socket_digest: Arc::new(socket_digest),
            ssl_digest: connection.tls.as_ref().map(|tls| Arc::new(tls.digest())),
            transport: Some(transport),
            connection,
            input: Vec::new(),
            start: 0,
            admitted: Admitted::Bytes(0),
            output: Vec::new(),
            output_limit,
            stalled: None,
            http2: false,
            ended: false,
        }
    }

    /// With what was read of the connection before.
    pub(crate) fn after(mut self, read: Vec<u8>) -> Self {
        self.input = read;
        self
    }

    /// What has come and has not been handed over.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.input[self.start..]
    }

    /// Reads what is there into [`Io::unread`]; false at the stream's end. Cancel safe.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [std::mem::MaybeUninit::<u8>::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut bytes);
        ready!(self.poll_transport(cx, &mut read))?;
        if self.start == self.input.len() {
            self.input.clear();
            self.start = 0;
        }
        self.input.extend_from_slice(read.filled());
        Poll::Ready(Ok(!self.ended))
    }

    /// Lets Pingora read the next `bytes` bytes, or all that comes.
    pub(crate) fn admit(&mut self, bytes: Option<u64>) {
        self.admitted = bytes.map_or(Admitted::All, Admitted::Bytes);
    }

    /// From now on this is HTTP/2, all of it Pingora's.
    pub(crate) fn switch_to_http2(&mut self) {
        self.http2 = true;
        self.admitted = Admitted::All;
    }

    /// The request is over: gives memory back, and keeps what belongs to the next one.
    pub(crate) fn rest(&mut self) {
        self.admitted = Admitted::Bytes(0);
        if self.start == self.input.len() {
            self.start = 0;
            self.input.clear();
            self.input.shrink_to(KEEP);
        } else if self.start > 0 {
            self.input.drain(..self.start);
            self.start = 0;
        }
        if self.output.is_empty() {
            self.output.shrink_to(KEEP);
        }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    fn transport(&mut self) -> io::Result<Pin<&mut Transport>> {
        self.transport.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll_transport(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(self.transport()?.poll_read(cx, buf));
        self.ended |= result.is_err() || buf.filled().len() == before;
        Poll::Ready(result)
    }

    /// Pingora looks whether the client is still there; a request that comes meanwhile is kept for later.
    fn poll_presence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.unread().is_empty() {
                // Nothing to wake for: whoever polls does so beside the response, and the next request is read after it.
                return Poll::Pending;
            }
            if !ready!(self.poll_fill(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Bounds how long a write may wait. Pingora does so for bodies only: not for a header without a body, nor for a last chunk or
    /// what HTTP/2 has in its buffers, and a client that never reads would keep its connection for ever.
    fn poll_patience<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.connection.limits.write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Writes `output`, and `more` behind it in the same call; returns how much of `more` was written, with `output` empty.
    fn poll_write_out(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        while !self.output.is_empty() {
            let transport = self.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let transport = Pin::new(transport);
            // The plain call is the cheaper one for the usual response, which fits the buffer.
            let written = if more.is_empty() {
                transport.poll_write(cx, &self.output)
            } else {
                transport.poll_write_vectored(cx, &[io::IoSlice::new(&self.output), io::IoSlice::new(more)])
            };
            let written = ready!(self.poll_patience(cx, written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let own = self.output.len();
            self.output.drain(..written.min(own));
            if written > own {
                return Poll::Ready(Ok(written - own));
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Pingora flushes neither a response's header nor a body of known length before its end. When it waits for the client again,
        // it has written what it had.
        if !this.output.is_empty()
            && let Poll::Ready(written) = Pin::new(&mut *this).poll_flush(cx)
        {
            written?;
        }
        let allowed = match this.admitted {
            Admitted::Bytes(0) => return this.poll_presence(cx),
            Admitted::Bytes(n) => usize::try_from(n).unwrap_or(usize::MAX),
            Admitted::All => usize::MAX,
        };
        let before = buf.filled().len();
        if this.start < this.input.len() {
            let n = allowed.min(buf.remaining()).min(this.input.len() - this.start);
            buf.put_slice(&this.input[this.start..this.start + n]);
            this.start += n;
        } else {
            ready!(this.poll_transport(cx, buf))?;
            if buf.filled().len() - before > allowed {
                this.input.clear();
                this.start = 0;
                this.input.extend_from_slice(&buf.filled()[before + allowed..]);
                buf.set_filled(before + allowed);
            }
        }
        if let Admitted::Bytes(n) = &mut this.admitted {
            *n -= (buf.filled().len() - before) as u64;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.output.len() + bytes.len() <= this.output_limit {
            this.output.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(this.poll_write_out(cx, bytes))?;
        if written > 0 {
            return Poll::Ready(Ok(written));
        }
        let written = this.transport()?.poll_write(cx, bytes);
        this.poll_patience(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx, &[]))?;
        let flushed = self.transport()?.poll_flush(cx);
        self.poll_patience(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let shut = self.transport()?.poll_shutdown(cx);
        self.poll_patience(cx, shut)
    }
}

/// A client that still sends while its connection is closed would get a reset, and might lose the response by it. A response that
/// fails in the middle is dropped with what was not flushed.
impl Drop for Io {
    fn drop(&mut self) {
        let over = self.http2 || self.ended || self.connection.is_cut();
        let sending = self.admitted != Admitted::Bytes(0) || !self.unread().is_empty();
        let wanted = !over && (sending || !self.output.is_empty());
        if let Some(transport) = self.transport.take().filter(|_| wanted) {
            linger(transport, std::mem::take(&mut self.output), self.connection.clone());
        }
    }
}

#[async_trait]
impl Shutdown for Io {
    async fn shutdown(&mut self) {
        // The client may be gone, which is where this leads anyway.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Io {
    fn id(&self) -> UniqueIDType {
        self.fd
    }
}

impl Ssl for Io {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl_digest.clone()
    }

    /// Pingora takes this for its choice of protocol, so it is ours: ALPN under TLS, the preface without.
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.http2 { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for Io {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Io {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.proxy_digest.clone())
    }
}

impl GetSocketDigest for Io {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket_digest.clone())
    }
}

/// Nobody peeks: [`Ssl::selected_alpn_proto`] has the answer.
impl Peek for Io {}
