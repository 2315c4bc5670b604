//! Bodies that are written while they are sent, and read frame by frame.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use tokio::sync::mpsc;

use crate::frame::{FrameError, Frames};

/// A body of whatever is sent to it; it ends when its sender goes.
#[derive(Debug)]
pub(crate) struct Outgoing(mpsc::Receiver<Bytes>);

impl Outgoing {
    /// Holds at most `chunks` that HTTP/2 has not taken yet.
    pub(crate) fn new(chunks: usize) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(chunks);
        (sender, Self(receiver))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// The peer does not speak this protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer ended in the middle of a frame.
    #[error("the stream ended in the middle of a message")]
    Cut,
}

/// The frames of a body.
#[derive(Debug)]
pub(crate) struct Reader {
    body: Incoming,
    frames: Frames,
}

impl Reader {
    pub(crate) fn new(body: Incoming, limit: usize) -> Self {
        Self { body, frames: Frames::new(limit) }
    }

    /// The next frame's content; none at the end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some(frame) = self.frames.next()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    // Trailers say nothing here.
                    if let Ok(data) = frame.into_data() {
                        self.frames.push(&data);
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                None if self.frames.is_empty() => return Ok(None),
                None => return Err(ReadError::Cut),
            }
        }
    }
}

/// Why a chunk was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The stream is over.
    Over,
    /// The peer has taken nothing for as long as it may.
    Slow,
}

/// Sends a chunk to a peer that may take `deadline` to make room for it. Cancel safe: the chunk is sent whole or not at all.
pub(crate) async fn send(chunks: &mpsc::Sender<Bytes>, chunk: Bytes, deadline: Duration) -> Result<(), Unsent> {
    match tokio::time::timeout(deadline, chunks.send(chunk)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Unsent::Over),
        Err(_) => Err(Unsent::Slow),
    }
}
