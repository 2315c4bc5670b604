//! Connections that begin with a header of the PROXY protocol.

use std::io;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_error::{Error, ErrorType, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

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

/// A connection on which `header` has been sent.
pub(super) async fn dial(address: std::net::SocketAddr, header: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
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
