//! A backend -> a connection to one of its endpoints.

use std::io;
use std::net::SocketAddr;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::balance::{BackendState, InFlight, Tried};
use crate::connection::transport::Transport;
use crate::proxy::defaults;
use crate::proxy_protocol::{Ends, header};
use crate::telemetry::{StreamEnd, StreamRecord};
use crate::upstream::{ClientCertificate, UpstreamTlsError};

/// For whom a connection is made.
pub(super) struct Caller<'c> {
    pub(super) ends: Ends,
    /// What the Gateway shows to backends that ask for it.
    pub(super) certificate: Option<&'c ClientCertificate>,
    /// The client's TLS goes to the backend as it is.
    pub(super) is_passthrough: bool,
}

/// Connects to an endpoint, with TLS if the backend has a policy. When one cannot be had another one is asked, as long as there is one: no
/// byte of the client's has been sent. Dropping it gives up.
///
/// # Errors
/// When the last of them could not be had either.
pub(super) async fn connect(
    backend: &BackendState,
    caller: &Caller<'_>,
    record: &mut StreamRecord,
) -> Result<(Transport, InFlight), StreamEnd> {
    let mut tried = Tried::default();
    let mut asked: Vec<SocketAddr> = Vec::new();
    let mut end = StreamEnd::NoEndpoint;
    for _ in 0..=defaults::FAILOVERS {
        let Some(endpoint) = backend.choose(&mut tried).filter(|endpoint| !asked.contains(endpoint.address())) else { break };
        let address = *endpoint.address();
        asked.push(address);
        record.endpoint = Some(address);
        record.attempts += 1;
        let error = match tokio::time::timeout(defaults::CONNECT, dial(backend, address, caller)).await {
            Ok(Ok(transport)) => return Ok((transport, endpoint)),
            Ok(Err(error)) => error,
            Err(_) => UpstreamTlsError::Timeout,
        };
        tracing::debug!(backend = %backend.key(), endpoint = %address, %error, "no connection");
        end = if error.is_refusal() { StreamEnd::Certificate } else { StreamEnd::Unreachable };
    }
    Err(end)
}

async fn dial(backend: &BackendState, address: SocketAddr, caller: &Caller<'_>) -> Result<Transport, UpstreamTlsError> {
    let stream = open(backend, address, &caller.ends).await.map_err(UpstreamTlsError::Unreachable)?;
    match backend.tls().filter(|_| !caller.is_passthrough) {
        None => Ok(Transport::Plain(stream)),
        Some(tls) => Ok(Transport::Tls(Box::new(tls.connect(stream, caller.certificate).await?.into()))),
    }
}

async fn open(backend: &BackendState, address: SocketAddr, ends: &Ends) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (idle, interval, count) = defaults::TCP_KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive.with_retries(u32::try_from(count).unwrap_or(u32::MAX)))?;
    if let Some(version) = backend.proxy_protocol() {
        stream.write_all(&header(version, ends.source, ends.destination)).await?;
    }
    Ok(stream)
}
