//! Frames: four bytes of length, big-endian, and as many bytes of JSON.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;

/// Bytes of a length.
const HEADER: usize = 4;

/// Why a frame is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// It would be too long.
    #[error("a message of {length} bytes is longer than the {limit} bytes that are allowed")]
    TooLong {
        /// What it says it has.
        length: usize,
        /// What it may have.
        limit: usize,
    },
    /// It cannot be written.
    #[error("a message cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

/// Appends a frame to `chunk`, or leaves it as it was.
///
/// # Errors
/// When the message is too long.
pub(crate) fn append(chunk: &mut Vec<u8>, message: &impl Serialize, limit: usize) -> Result<(), FrameError> {
    let start = chunk.len();
    chunk.extend_from_slice(&[0; HEADER]);
    let written = serde_json::to_writer(&mut *chunk, message);
    let length = chunk.len() - start - HEADER;
    match (written, u32::try_from(length).ok().filter(|_| length <= limit)) {
        (Ok(()), Some(header)) => {
            chunk[start..start + HEADER].copy_from_slice(&header.to_be_bytes());
            Ok(())
        }
        (written, _) => {
            chunk.truncate(start);
            written?;
            Err(FrameError::TooLong { length, limit })
        }
    }
}

/// One frame.
///
/// # Errors
/// When the message is too long.
pub(crate) fn frame(message: &impl Serialize, limit: usize) -> Result<Bytes, FrameError> {
    let mut chunk = Vec::new();
    append(&mut chunk, message, limit)?;
    Ok(chunk.into())
}

/// Puts frames together from chunks of any size. Holds at most one unfinished frame and one chunk.
#[derive(Debug)]
pub(crate) struct Frames {
    buffer: BytesMut,
    limit: usize,
}

impl Frames {
    pub(crate) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The content of the next frame; none if it has not come whole.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Whether nothing is unfinished.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_chunks() {
        let mut sent = Vec::new();
        for message in ["", "a", "bcd"] {
            append(&mut sent, &message, 100).unwrap();
        }
        for size in 1..=sent.len() {
            let (mut frames, mut seen) = (Frames::new(100), Vec::new());
            for chunk in sent.chunks(size) {
                frames.push(chunk);
                while let Some(frame) = frames.next().unwrap() {
                    seen.push(String::from_utf8(frame.to_vec()).unwrap());
                }
            }
            assert_eq!(seen, ["\"\"", "\"a\"", "\"bcd\""]);
            assert!(frames.is_empty());
        }
    }

    #[test]
    fn a_long_frame_is_refused_before_it_is_held() {
        let mut frames = Frames::new(10);
        frames.push(&11_u32.to_be_bytes());
        assert_eq!(frames.next().unwrap_err().to_string(), "a message of 11 bytes is longer than the 10 bytes that are allowed");
        let mut frames = Frames::new(10);
        frames.push(b"\0\0\0\x0a123456789");
        assert!(frames.next().unwrap().is_none() && !frames.is_empty());
        frames.push(b"0");
        assert_eq!(frames.next().unwrap().as_deref(), Some(b"1234567890".as_slice()));
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let mut chunk = b"before".to_vec();
        assert!(append(&mut chunk, &"12345", 6).is_err());
        assert_eq!(chunk, b"before");
        append(&mut chunk, &"1234", 6).unwrap();
        assert_eq!(chunk, b"before\0\0\0\x06\"1234\"");
    }
}
