//! Bytes on a socket: what no HTTP library would send, and what it would not show.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a response may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(15);

/// A client connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    /// Bytes that were read and not yet used.
    pending: Vec<u8>,
}

/// A response, as it came.
#[derive(Debug, Clone)]
pub struct RawResponse {
    /// The status code.
    pub status: u16,
    /// Header lines in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without chunking.
    pub body: Vec<u8>,
}

impl RawResponse {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the connection is to be closed after it.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Raw {
    /// Opens a connection.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the listener accepts");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, pending: Vec::new() }
    }

    /// Sends bytes. A peer that has closed is no error here: what it answered is still to be read.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Ends the sending half.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads one response to the end, of a request that was no HEAD.
    ///
    /// # Errors
    /// When the connection ends or stalls before the response does, with what had come.
    pub async fn response(&mut self) -> Result<RawResponse, String> {
        self.response_to("GET").await
    }

    /// Reads one response to the end; responses to HEAD have no body.
    ///
    /// # Errors
    /// As [`Raw::response`].
    pub async fn response_to(&mut self, method: &str) -> Result<RawResponse, String> {
        tokio::time::timeout(PATIENCE, self.read_response(method))
            .await
            .map_err(|_| format!("no response within {PATIENCE:?}; so far: {:?}", String::from_utf8_lossy(&self.pending)))?
    }

    async fn read_response(&mut self, method: &str) -> Result<RawResponse, String> {
        let end = loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                break at + 4;
            }
            if self.more().await == 0 {
                return Err(format!("closed before a whole header: {:?}", String::from_utf8_lossy(&self.pending)));
            }
        };
        let head = String::from_utf8_lossy(&self.pending[..end]).into_owned();
        self.pending.drain(..end);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(|| format!("no status line: {head:?}"))?;
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = RawResponse { status, headers, body: Vec::new() };
        if method == "HEAD" || status == 204 || status == 304 || status < 200 {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            self.read_chunks(&mut response).await?;
        } else if let Some(length) = response.header("content-length").and_then(|value| value.parse::<usize>().ok()) {
            while self.pending.len() < length {
                if self.more().await == 0 {
                    return Err(format!("closed after {} of {length} bytes of the body", self.pending.len()));
                }
            }
            response.body = self.pending.drain(..length).collect();
        } else {
            while self.more().await > 0 {}
            response.body = std::mem::take(&mut self.pending);
        }
        Ok(response)
    }

    async fn read_chunks(&mut self, response: &mut RawResponse) -> Result<(), String> {
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| format!("no chunk size: {line:?}"))?;
            while self.pending.len() < size + 2 {
                if self.more().await == 0 {
                    return Err("closed within a chunk".to_owned());
                }
            }
            response.body.extend(self.pending.drain(..size));
            self.pending.drain(..2);
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(at) = find(&self.pending, b"\r\n") {
                let line = self.pending.drain(..at + 2).collect();
                return String::from_utf8(line).map_err(|_| "a line that is no text".to_owned());
            }
            if self.more().await == 0 {
                return Err("closed before a chunk".to_owned());
            }
        }
    }

    /// Reads once; 0 for the end or a reset.
    async fn more(&mut self) -> usize {
        // Enough that what was sent in one write comes in one read.
        self.pending.reserve(64 * 1024);
        self.stream.read_buf(&mut self.pending).await.unwrap_or(0)
    }

    /// Whatever the next read gives.
    pub async fn bytes(&mut self) -> Vec<u8> {
        if self.pending.is_empty() {
            let _ = tokio::time::timeout(PATIENCE, self.more()).await;
        }
        std::mem::take(&mut self.pending)
    }

    /// Waits for the end of the connection and says whether it came in time. What is sent before it is thrown away.
    pub async fn ends_within(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, async { while self.more().await > 0 {} }).await.is_ok()
    }
}

/// Where a pattern starts.
pub fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}
