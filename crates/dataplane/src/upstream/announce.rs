//! Connections that begin with a header of the PROXY protocol.

use std::io;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_error::{Error, ErrorType, Result};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::proxy::defaults;

/// Connects for Pingora and says who the client is before anything else. The time is bounded by the peer's `total_connection_timeout`.
#[derive(Debug)]
pub(super) struct Announcing {
    header: Vec<u8>,
}

impl Announcing {
    pub(super) fn new(header: Vec<u8>) -> Self {
        Self { header }
    }
}

#[async_trait]
impl L4Connect for Announcing {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let address =
            address.as_inet().ok_or_else(|| Error::explain(ErrorType::ConnectError, "an endpoint has an IP address"))?;
        Ok(dial(*address, &self.header).await.map_err(explain)?.into())
    }
}

/// A connection on which `header` has been sent. Takes as long as the system does: the caller has a timeout.
pub(crate) async fn dial(address: std::net::SocketAddr, header: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (idle, interval, count) = defaults::TCP_KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive.with_retries(u32::try_from(count).unwrap_or(u32::MAX)))?;
    stream.write_all(header).await?;
    Ok(stream)
}

fn explain(error: io::Error) -> Box<Error> {
    let etype = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ErrorType::ConnectNoRoute,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        _ => ErrorType::ConnectError,
    };
    Error::because(etype, "connecting with the PROXY protocol", error)
}
