//! A connection -> who it is from.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Ends;

/// What version 1 begins with.
const V1: &[u8] = b"PROXY ";
/// What version 2 begins with.
const V2: &[u8] = v2::PROTOCOL_PREFIX;
/// No header is shorter: `PROXY UNKNOWN` and the end of its line.
const SHORTEST: usize = 15;
/// Version 2 up to the length of the rest, which is what the length does not count.
const V2_FIXED: usize = 16;
/// Of version 1, with the end of the line: two IPv6 addresses that are written out, and their ports.
const V1_LONGEST: usize = 107;
/// Of version 2. The specification allows 64 KiB; what load balancers send, a client certificate's names among it, stays below 1 KiB.
const V2_LONGEST: usize = 4096;

/// Why a connection is not served. Each says what the connection began with or did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyProtocolError {
    /// The header was not complete in time.
    #[error("no complete PROXY protocol header came in time")]
    Timeout,
    /// The peer went away.
    #[error("the connection was closed before its PROXY protocol header was complete")]
    Closed,
    /// It is something else.
    #[error(
        "the connection does not begin with a PROXY protocol header: let the load balancer send one, or set proxyProtocol to Off"
    )]
    Absent,
    /// More than is read.
    #[error("the PROXY protocol header is longer than {0} bytes")]
    TooLong(usize),
    /// It begins well.
    #[error("the PROXY protocol header is malformed: {0}")]
    Malformed(String),
    /// The socket failed.
    #[error("the PROXY protocol header could not be read: {0}")]
    Io(#[from] io::Error),
}

/// Takes the header from the connection, and nothing that follows it. None: the connection is the proxy's own (`LOCAL`, a health check), or
/// the proxy does not tell whose it is (`UNKNOWN`, or neither IPv4 nor IPv6 over TCP); its own addresses count then. Not cancel
/// safe: a part of the header may have been taken.
///
/// # Errors
/// When no header has come until `deadline`, or what came is none. Nobody else can make sense of the connection then.
pub(crate) async fn read(stream: &mut TcpStream, deadline: Instant) -> Result<Option<Ends>, ProxyProtocolError> {
    timeout_at(deadline, read_header(stream)).await.unwrap_or(Err(ProxyProtocolError::Timeout))
}

async fn read_header(stream: &mut TcpStream) -> Result<Option<Ends>, ProxyProtocolError> {
    let mut start = [0; SHORTEST];
    let mut filled = 0;
    while filled < SHORTEST {
        match stream.read(&mut start[filled..]).await? {
            0 => return Err(ProxyProtocolError::Closed),
            read => filled += read,
        }
        // Whoever speaks first in another protocol is told at once, and does not wait for a deadline.
        let begins = |prefix: &[u8]| start[..filled].iter().zip(prefix).all(|(a, b)| a == b);
        if !begins(V1) && !begins(V2) {
            return Err(ProxyProtocolError::Absent);
        }
    }
    if start.starts_with(V1) { read_v1(stream, &start).await } else { read_v2(stream, &start).await }
}

async fn read_v1(stream: &mut TcpStream, start: &[u8]) -> Result<Option<Ends>, ProxyProtocolError> {
    let mut line = [0; V1_LONGEST];
    line[..start.len()].copy_from_slice(start);
    let mut filled = start.len();
    while line[filled - 1] != b'\n' {
        let rest = &mut line[filled..];
        if rest.is_empty() {
            return Err(ProxyProtocolError::TooLong(V1_LONGEST));
        }
        // Where the line ends is seen before it is taken. All that is seen before that is the header's, so it is taken at once:
        // a second look at the same bytes would not wait for more.
        let seen = stream.peek(rest).await?;
        let taken = memchr::memchr(b'\n', &rest[..seen]).map_or(seen, |end| end + 1);
        if taken == 0 {
            return Err(ProxyProtocolError::Closed);
        }
        take(stream, &mut rest[..taken]).await?;
        filled += taken;
    }
    parse_v1(&line[..filled])
}

async fn read_v2(stream: &mut TcpStream, start: &[u8]) -> Result<Option<Ends>, ProxyProtocolError> {
    let mut fixed = [0; V2_FIXED];
    fixed[..start.len()].copy_from_slice(start);
    take(stream, &mut fixed[start.len()..]).await?;
    let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > V2_LONGEST {
        return Err(ProxyProtocolError::TooLong(V2_LONGEST));
    }
    let mut header = vec![0; length];
    header[..V2_FIXED].copy_from_slice(&fixed);
    take(stream, &mut header[V2_FIXED..]).await?;
    parse_v2(&header)
}

async fn take(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(), ProxyProtocolError> {
    match stream.read_exact(buffer).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ProxyProtocolError::Closed),
        Err(error) => Err(error.into()),
    }
}

/// A whole line.
fn parse_v1(line: &[u8]) -> Result<Option<Ends>, ProxyProtocolError> {
    // Anything may follow on the line, and has to be ignored.
    let unknown = line.strip_prefix(b"PROXY UNKNOWN").is_some_and(|rest| matches!(rest, [b' ', .., b'\r', b'\n'] | b"\r\n"));
    if unknown {
        return Ok(None);
    }
    let header = v1::Header::try_from(line).map_err(malformed)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(ends) => Some(ends_of(
            (ends.source_address.into(), ends.source_port),
            (ends.destination_address.into(), ends.destination_port),
        )),
        v1::Addresses::Tcp6(ends) => Some(ends_of(
            (ends.source_address.into(), ends.source_port),
            (ends.destination_address.into(), ends.destination_port),
        )),
        v1::Addresses::Unknown => None,
    })
}

/// A whole header.
fn parse_v2(header: &[u8]) -> Result<Option<Ends>, ProxyProtocolError> {
    // Whatever else such a header says is of no matter, even if it makes no sense.
    if header[V2.len()] == v2::Version::Two | v2::Command::Local {
        return Ok(None);
    }
    let header = v2::Header::try_from(header).map_err(malformed)?;
    Ok(match (header.protocol, header.addresses) {
        (v2::Protocol::Stream, v2::Addresses::IPv4(ends)) => Some(ends_of(
            (ends.source_address.into(), ends.source_port),
            (ends.destination_address.into(), ends.destination_port),
        )),
        (v2::Protocol::Stream, v2::Addresses::IPv6(ends)) => Some(ends_of(
            (ends.source_address.into(), ends.source_port),
            (ends.destination_address.into(), ends.destination_port),
        )),
        _ => None,
    })
}

fn ends_of(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Ends {
    Ends::new(SocketAddr::from(source), SocketAddr::from(destination))
}

fn malformed(error: impl std::fmt::Display) -> ProxyProtocolError {
    ProxyProtocolError::Malformed(error.to_string())
}
