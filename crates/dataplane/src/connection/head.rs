//! Bytes as they arrive -> where an HTTP/1 request header ends, and how many bytes of body follow.
//!
//! Pingora parses the header; this only finds its end, in one pass however the bytes are cut up, and refuses what Pingora would
//! take too much of (1 MiB, 256 fields) or read differently from its neighbours (lone CR or LF, folded lines, control characters in
//! the request line).

use http::StatusCode;

use crate::limits::Limits;

/// How a connection with prior knowledge of HTTP/2 begins.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether what has come is the beginning of [`PREFACE`]: `None` while more bytes have to tell.
pub(crate) fn is_preface(bytes: &[u8]) -> Option<bool> {
    let n = bytes.len().min(PREFACE.len());
    if bytes[..n] != PREFACE[..n] {
        return Some(false);
    }
    (n == PREFACE.len()).then_some(true)
}

/// Follows the header of one request. Make a new one for each.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// Where the line that is not complete yet begins.
    line: usize,
    /// Up to where no line feed is.
    searched: usize,
    /// Complete lines that are not empty.
    lines: usize,
    framing: Framing,
    upgrade: bool,
}

/// A complete header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its length, the empty line included.
    pub(crate) len: usize,
    /// The length of the body; none: it cannot be told from the header alone (chunked, an upgrade, contradictions that Pingora judges).
    pub(crate) body: Option<u64>,
    /// Whether the client asks to go on in another protocol, in which silence is normal.
    pub(crate) upgrade: bool,
}

/// Why a request does not get as far as Pingora.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused with this status.
    Status(StatusCode),
    /// The first line names a protocol that is not HTTP, so an answer in HTTP would mean nothing.
    NotHttp,
}

impl From<StatusCode> for Fault {
    fn from(status: StatusCode) -> Self {
        Self::Status(status)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Framing {
    #[default]
    NoBody,
    Length(u64),
    Unknown,
}

impl Scanner {
    /// Looks at `bytes`, everything of the request so far: those of the last call with more at the end.
    /// `None`: more has to come.
    ///
    /// # Errors
    /// The request cannot become one, whatever follows.
    pub(crate) fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Fault> {
        while let Some(at) = memchr::memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + at;
            let line = bytes[self.line..end].strip_suffix(b"\r").ok_or(StatusCode::BAD_REQUEST)?;
            self.line = end + 1;
            self.searched = end + 1;
            if self.line > limits.header_bytes {
                return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into());
            }
            if line.is_empty() && self.lines > 0 {
                let body = match self.framing {
                    Framing::NoBody => Some(0),
                    Framing::Length(n) => Some(n),
                    Framing::Unknown => None,
                };
                return Ok(Some(Head { len: self.line, body, upgrade: self.upgrade }));
            }
            if !line.is_empty() {
                self.take(line, limits)?;
            }
        }
        self.searched = bytes.len();
        self.judge_rest(&bytes[self.line..], limits)?;
        if bytes.len() > limits.header_bytes {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into());
        }
        Ok(None)
    }

    /// A whole line without its CRLF.
    fn take(&mut self, line: &[u8], limits: &Limits) -> Result<(), Fault> {
        if memchr::memchr(b'\r', line).is_some() {
            return Err(StatusCode::BAD_REQUEST.into());
        }
        self.lines += 1;
        if self.lines == 1 {
            return request_line(line, limits);
        }
        if self.lines - 1 > limits.header_fields {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into());
        }
        // A folded line; RFC 9112 section 5.2 lets a server refuse it.
        if matches!(line[0], b' ' | b'\t') {
            return Err(StatusCode::BAD_REQUEST.into());
        }
        let colon = memchr::memchr(b':', line).ok_or(StatusCode::BAD_REQUEST)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        self.framing.see(name, value);
        self.upgrade |= name.eq_ignore_ascii_case(b"upgrade");
        Ok(())
    }

    /// An endless line is refused before it ends.
    fn judge_rest(&self, rest: &[u8], limits: &Limits) -> Result<(), Fault> {
        // Method, two spaces and version.
        const AROUND_TARGET: usize = 64;
        if self.lines > 0 {
            return Ok(());
        }
        if rest.len() > limits.target_bytes + AROUND_TARGET {
            return Err(StatusCode::URI_TOO_LONG.into());
        }
        // A client that speaks something else (TLS above all) hears so at once; only the last byte may be a CR.
        let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
        if rest.iter().any(u8::is_ascii_control) { Err(StatusCode::BAD_REQUEST.into()) } else { Ok(()) }
    }
}

/// `method SP target SP version`, with nothing in it that could be read as another space or as the line's end.
fn request_line(line: &[u8], limits: &Limits) -> Result<(), Fault> {
    if line.iter().any(u8::is_ascii_control) {
        return Err(StatusCode::BAD_REQUEST.into());
    }
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(StatusCode::BAD_REQUEST.into());
    };
    if target.len() > limits.target_bytes {
        return Err(StatusCode::URI_TOO_LONG.into());
    }
    if !version.starts_with(b"HTTP/") {
        return Err(Fault::NotHttp);
    }
    // Pingora would refuse it too, in its own words.
    if method == b"CONNECT" {
        return Err(StatusCode::METHOD_NOT_ALLOWED.into());
    }
    if method.is_empty() || target.is_empty() { Err(StatusCode::BAD_REQUEST.into()) } else { Ok(()) }
}

impl Framing {
    fn see(&mut self, name: &[u8], value: &[u8]) {
        *self = if name.eq_ignore_ascii_case(b"content-length") {
            match (&self, length(value)) {
                (Self::NoBody, Some(n)) => Self::Length(n),
                _ => Self::Unknown,
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") || name.eq_ignore_ascii_case(b"upgrade") {
            Self::Unknown
        } else {
            return;
        }
    }
}

/// Digits only: anything else is for Pingora to refuse.
fn length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { target_bytes: 100, header_bytes: 400, header_fields: 3, ..Limits::default() }
    }

    /// Feeds `piece` bytes more at a time.
    fn scan(text: &[u8], piece: usize) -> Result<Option<Head>, Fault> {
        let (limits, mut scanner) = (limits(), Scanner::default());
        for end in (piece..text.len()).step_by(piece).chain([text.len()]) {
            let found = scanner.scan(&text[..end], &limits)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    #[test]
    fn finds_the_end_however_it_is_cut() {
        let head = |len, body| Ok(Some(Head { len, body, upgrade: false }));
        let long = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(400));
        let target = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100));
        let endless = "x".repeat(200);
        let cases: &[(&str, Result<Option<Head>, Fault>)] = &[
            ("GET / HTTP/1.1\r\n\r\n", head(18, Some(0))),
            ("\r\nGET / HTTP/1.1\r\n\r\n", head(20, Some(0))),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next", head(27, Some(0))),
            ("POST / HTTP/1.1\r\nContent-length:  5 \r\n\r\nhello", head(40, Some(5))),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", head(57, None)),
            ("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", head(39, None)),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", head(47, None)),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", head(66, None)),
            ("GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n", Ok(Some(Head { len: 38, body: None, upgrade: true }))),
            ("GET / HTTP/1.1\r\na: b\r\n", Ok(None)),
            ("GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n", head(36, Some(0))),
            (
                "GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n",
                Err(Fault::Status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)),
            ),
            (&long, Err(Fault::Status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE))),
            (&target, Err(Fault::Status(StatusCode::URI_TOO_LONG))),
            (&endless, Err(Fault::Status(StatusCode::URI_TOO_LONG))),
            ("GET / HTTP/1.1\n\n", Err(Fault::Status(StatusCode::BAD_REQUEST))),
            ("GET / HTTP/1.1\r\na: b\n\r\n", Err(Fault::Status(StatusCode::BAD_REQUEST))),
            ("GET / HTTP/1.1\r\na: b\r\r\n\r\n", Err(Fault::Status(StatusCode::BAD_REQUEST))),
            ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", Err(Fault::Status(StatusCode::BAD_REQUEST))),
            ("GET / HTTP/1.1\r\nab\r\n\r\n", Err(Fault::Status(StatusCode::BAD_REQUEST))),
            ("GET  / HTTP/1.1\r\n\r\n", Err(Fault::Status(StatusCode::BAD_REQUEST))),
            ("GET /a b HTTP/1.1\r\n\r\n", Err(Fault::Status(StatusCode::BAD_REQUEST))),
            ("GET /\0 HTTP/1.1\r\n\r\n", Err(Fault::Status(StatusCode::BAD_REQUEST))),
            ("INVALID CONNECTION PREFACE\r\n\r\n", Err(Fault::NotHttp)),
            ("GET / SIP/2.0\r\n\r\n", Err(Fault::NotHttp)),
            ("GET /\r\n\r\n", Err(Fault::Status(StatusCode::BAD_REQUEST))),
            ("\x16\x03\x01\x02", Err(Fault::Status(StatusCode::BAD_REQUEST))),
        ];
        for (text, expected) in cases {
            for piece in [1, 2, 7, text.len()] {
                assert_eq!(scan(text.as_bytes(), piece), *expected, "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn knows_the_preface() {
        for n in 0..PREFACE.len() {
            assert_eq!(is_preface(&PREFACE[..n]), None);
        }
        assert_eq!(is_preface(PREFACE), Some(true));
        assert_eq!(is_preface(b"PRI * HTTP/2.0\r\n\r\nSX"), Some(false));
        assert_eq!(is_preface(b"POST"), Some(false));
    }
}
