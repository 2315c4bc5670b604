//! The first bytes of a connection -> whether it is HTTP.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::head::PREFACE;

/// How long a client may be silent before it is taken for one that waits for the server's word. 10 ms: clients of HTTP have their request
/// ready when they connect, and MySQL's should not notice. A client of HTTP that is later than that is served all the same, with its
/// connection as one.
const SILENCE: Duration = Duration::from_millis(10);
/// How long what begins like HTTP may take until that is certain.
const DOUBT: Duration = Duration::from_secs(1);
/// The longest line that is waited for. What is longer and begins as a request does is one.
const LINE: usize = 8 * 1024;

/// What begins a request: the methods that are registered, in IANA's order. A Service whose clients use others says that it speaks HTTP.
const METHODS: [&str; 40] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// What a connection says, and what has been read of it to know that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Detected {
    pub(super) http: bool,
    pub(super) read: Vec<u8>,
}

/// Looks at the first bytes. A client that says nothing for a moment, or ends its half, does not speak HTTP.
///
/// # Errors
/// When the connection is broken off.
pub(super) async fn detect(socket: &mut TcpStream) -> io::Result<Detected> {
    let mut read = Vec::new();
    match timeout(SILENCE, more(socket, &mut read)).await {
        Ok(more) => more?,
        Err(_) => return Ok(Detected { http: false, read }),
    };
    let doubt = async {
        loop {
            if let Some(http) = judge(&read) {
                return io::Result::Ok(http);
            }
            if !more(socket, &mut read).await? {
                return Ok(begins_a_request(&read));
            }
        }
    };
    let http = match timeout(DOUBT, doubt).await {
        Ok(http) => http?,
        Err(_) => begins_a_request(&read),
    };
    Ok(Detected { http, read })
}

/// False at the end of the client's half. Cancel safe.
async fn more(socket: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<bool> {
    Ok(socket.read_buf(read).await? > 0)
}

/// Whether it is HTTP; none: more has to come.
fn judge(bytes: &[u8]) -> Option<bool> {
    if bytes.is_empty() {
        return Some(false);
    }
    if bytes.starts_with(b"PRI ") || b"PRI ".starts_with(bytes) {
        let n = bytes.len().min(PREFACE.len());
        return if bytes[..n] == PREFACE[..n] { (n == PREFACE.len()).then_some(true) } else { Some(false) };
    }
    if !begins_a_request(bytes) {
        let may_become = METHODS.iter().any(|method| method.as_bytes().starts_with(bytes));
        return if may_become { None } else { Some(false) };
    }
    // A target that is a whole URL is one for a forward proxy, which wants it as it is.
    match bytes.iter().position(|byte| *byte == b' ').and_then(|end| bytes.get(end + 1)) {
        None => return None,
        Some(b'/' | b'*') => {}
        Some(_) => return Some(false),
    }
    let line = match memchr::memchr(b'\n', bytes) {
        Some(end) => &bytes[..end],
        None if bytes.len() > LINE => return Some(true),
        None => {
            let rest = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            return if rest.iter().any(u8::is_ascii_control) { Some(false) } else { None };
        }
    };
    // Others have such methods too, and a request without a version is none of today's.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(line.rsplit(|byte| *byte == b' ').next().is_some_and(|version| version.starts_with(b"HTTP/1.")))
}

/// A method, and the space after it.
fn begins_a_request(bytes: &[u8]) -> bool {
    let method = bytes.iter().position(|byte| *byte == b' ').map(|end| &bytes[..end]);
    method.is_some_and(|method| METHODS.iter().any(|known| known.as_bytes() == method))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_first_bytes_decide() {
        let long = format!("GET /{}", "x".repeat(LINE));
        let cases: &[(&[u8], Option<bool>)] = &[
            (b"", Some(false)),
            (b"G", None),
            (b"GET ", None),
            (b"GET", None),
            (b"GET /", None),
            (b"GET / HTTP/1.1\r", None),
            (b"GET / HTTP/1.1\r\n", Some(true)),
            (b"GET / HTTP/1.0\nHost: a\r\n", Some(true)),
            (b"POST /a?b=c HTTP/1.1\r\nHost: a\r\n\r\nbody", Some(true)),
            (long.as_bytes(), Some(true)),
            (b"PRI", None),
            (&PREFACE[..23], None),
            (PREFACE, Some(true)),
            (b"PRI * HTTP/1.1\r\n", Some(false)),
            (b"PROPFIND / HTTP/1.1\r\n", Some(true)),
            (b"OPTIONS rtsp://a/b RTSP/1.0\r\n", Some(false)),
            (b"OPTIONS sip:a@b SIP/2.0\r\n", Some(false)),
            (b"GET /\r\n", Some(false)),
            (b"GET key\r\n", Some(false)),
            (b"GET \x00\x01", Some(false)),
            (b"GET http://a/ HTTP/1.1\r\n", Some(false)),
            (b"CONNECT a:443 HTTP/1.1\r\n", Some(false)),
            (b"CONNECT {\"verbose\":false}\r\n", Some(false)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(true)),
            (b"OPTIONS * SIP/2.0\r\n", Some(false)),
            (b"get key\r\n", Some(false)),
            (b"HELLO", Some(false)),
            (b"*1\r\n$4\r\nPING\r\n", Some(false)),
            (b"\x16\x03\x01\x02\x00\x01", Some(false)),
            (b"SSH-2.0-OpenSSH_9.9\r\n", Some(false)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(judge(bytes), *expected, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert!(METHODS.is_sorted(), "each is there once, and easy to find");
    }

    #[tokio::test]
    async fn what_was_read_is_handed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let cases: &[(&[&[u8]], bool, bool)] = &[
            (&[], false, false),
            (&[], true, false),
            (&[b"GET / HT", b"TP/1.1\r\n\r\n"], false, true),
            (&[b"GET / HT"], true, true),
            (&[b"GE"], true, false),
            (&[b"\x16\x03"], false, false),
        ];
        for (pieces, ends, http) in cases {
            let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listening");
            let (mut socket, _) = listener.accept().await.expect("connected");
            let sent = async {
                for piece in *pieces {
                    client.write_all(piece).await.expect("is taken");
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                if *ends {
                    client.shutdown().await.expect("is taken");
                }
            };
            let (detected, ()) = tokio::join!(detect(&mut socket), sent);
            let expected = Detected { http: *http, read: pieces.concat() };
            assert_eq!(detected.expect("not broken off"), expected, "{pieces:?}");
        }
    }
}
