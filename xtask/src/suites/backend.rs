//! A small HTTP/1.1 backend with a name. It says what it received, and never closes a connection by itself.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::fault::{Context as _, Fault};
use crate::suites::client;

/// It lives as long as this tool: dropping it changes nothing.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
}

impl Backend {
    /// Serves on a free port.
    ///
    /// `GET /bytes/N` answers [`pattern`] of N bytes; everything else answers the SHA-256 of the body that it received, in
    /// hexadecimal. Responses have `x-backend: name`.
    pub(crate) fn start(name: &'static str) -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(|| "opening a backend".to_owned())?;
        let address = listener.local_addr().context(|| "opening a backend".to_owned())?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that breaks is the client's affair: it counts what it lost.
                thread::spawn(move || drop(serve(stream, name)));
            }
        });
        Ok(Self { address })
    }
}

/// N bytes that no two positions near each other share, always the same.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// In hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What matters of a request's head.
#[derive(Default)]
struct Head {
    path: String,
    length: usize,
    chunked: bool,
    expects_continue: bool,
}

fn serve(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    // The end of the stream between two requests is the usual end.
    while !connection.fill_buf()?.is_empty() {
        let head = head(&mut connection)?;
        if head.expects_continue {
            connection.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let received = if head.chunked {
            client::chunks(&mut connection)?
        } else {
            let mut body = vec![0; head.length];
            connection.read_exact(&mut body)?;
            body
        };
        let body = match head.path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
            Some(count) => pattern(count),
            None => sha256(&received).into_bytes(),
        };
        let mut response = format!("HTTP/1.1 200 OK\r\nx-backend: {name}\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        response.extend(body);
        connection.get_mut().write_all(&response)?;
    }
    Ok(())
}

fn head(connection: &mut BufReader<TcpStream>) -> io::Result<Head> {
    let first = client::line(connection)?;
    let mut head = Head { path: first.split(' ').nth(1).unwrap_or_default().to_owned(), ..Head::default() };
    loop {
        let line = client::line(connection)?.to_ascii_lowercase();
        match line.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => return Ok(head),
            Some(("content-length", value)) => head.length = value.parse().map_err(io::Error::other)?,
            Some(("transfer-encoding", value)) => head.chunked = value == "chunked",
            Some(("expect", value)) => head.expects_continue = value == "100-continue",
            Some(_) => {}
        }
    }
}
