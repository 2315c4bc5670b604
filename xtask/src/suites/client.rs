//! A strict HTTP/1.1 client: it keeps its connection as long as the server allows, never retries, and takes nothing but a whole response.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

const PATIENCE: Duration = Duration::from_secs(10);

/// One client with at most one connection.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    connection: Option<BufReader<Connection>>,
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header's first value; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

impl Client {
    /// For HTTP.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, connection: None }
    }

    /// For HTTPS; the host of each request is also its SNI.
    pub(crate) fn tls(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self { address, tls: Some(config), connection: None }
    }

    /// Closes the connection: the next request opens a new one.
    pub(crate) fn close(&mut self) {
        self.connection = None;
    }

    /// The server's certificate on the present connection.
    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        match self.connection.as_ref()?.get_ref() {
            Connection::Plain(_) => None,
            Connection::Tls(stream) => stream.conn.peer_certificates()?.first().map(|leaf| leaf.to_vec()),
        }
    }

    /// One exchange, sent once. Whatever keeps the whole response from arriving is an error.
    pub(crate) fn get(&mut self, host: &str, path: &str) -> io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(self.connect(host)?),
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: isthmus-suites\r\n\r\n");
        connection.get_mut().write_all(request.as_bytes())?;
        connection.get_mut().flush()?;
        let answer = read(&mut connection)?;
        if !answer.header("connection").eq_ignore_ascii_case("close") {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    fn connect(&self, host: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let Some(config) = &self.tls else { return Ok(Connection::Plain(stream)) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Connection::Tls(Box::new(stream)))
    }
}

fn read(connection: &mut BufReader<Connection>) -> io::Result<Answer> {
    let first = line(connection)?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| wrong(format!("not a status line: {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let header = line(connection)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| wrong(format!("not a header: {header:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if answer.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        answer.body = chunks(connection)?;
    } else {
        let length: usize = answer.header("content-length").parse().map_err(|_| wrong("no framing of the body".to_owned()))?;
        answer.body.resize(length, 0);
        connection.read_exact(&mut answer.body)?;
    }
    Ok(answer)
}

/// A chunked body, of a request or a response.
pub(super) fn chunks(connection: &mut impl io::BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(connection)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| wrong(format!("not a chunk size: {size:?}")))?;
        let start = body.len();
        body.resize(start + size, 0);
        connection.read_exact(&mut body[start..])?;
        // The line end after a chunk; after the last one, the end of the (empty) trailers.
        if !line(connection)?.is_empty() {
            return Err(wrong("a chunk is longer than it says".to_owned()));
        }
        if size == 0 {
            return Ok(body);
        }
    }
}

/// A line without its end; the end of the stream is an error.
pub(super) fn line(connection: &mut impl io::BufRead) -> io::Result<String> {
    let mut line = String::new();
    connection.take(64 * 1024).read_line(&mut line)?;
    let whole = line.strip_suffix("\r\n");
    whole.map(str::to_owned).ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"))
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[derive(Debug)]
enum Connection {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunked_bodies() {
        let whole = chunks(&mut &b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"[..]);
        assert_eq!(whole.expect("it is well formed"), b"abcde");
        for bad in ["3\r\nabcd\r\n0\r\n\r\n", "3\r\nab", "x\r\n", "0\r\n"] {
            assert!(chunks(&mut bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
