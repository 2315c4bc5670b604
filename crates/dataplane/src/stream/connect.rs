//! A backend -> a connection to one of its endpoints.

use std::net::SocketAddr;

use isthmus_routing::ProxyProtocol;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::balance::{BackendState, InFlight, Tried};
use crate::connection::transport::Transport;
use crate::proxy::defaults;
use crate::telemetry::{StreamEnd, StreamRecord};
use crate::upstream::{Caller, UpstreamTls, UpstreamTlsError, dial};

/// Connects to an endpoint, with TLS if it is a workload of the mesh, or if the backend has a policy and `encrypt` is set. When one cannot
/// be had another one is asked, as long as there is one: no byte of the client's has been sent. Dropping it gives up.
///
/// # Errors
/// When the last of them could not be had either.
pub(crate) async fn connect(
    backend: &BackendState,
    (caller, encrypt): (&Caller, bool),
    record: &mut StreamRecord,
) -> Result<(Transport, InFlight), StreamEnd> {
    let mut tried = Tried::default();
    let mut asked: Vec<SocketAddr> = Vec::new();
    let mut end = StreamEnd::NoEndpoint;
    for _ in 0..=defaults::FAILOVERS {
        let Some(endpoint) = backend.choose(&mut tried).filter(|endpoint| !asked.contains(endpoint.address())) else { break };
        asked.push(*endpoint.address());
        let tls = endpoint.tls().map(AsRef::as_ref).filter(|tls| encrypt || tls.is_mesh());
        match connect_to((*endpoint.address(), endpoint.proxy_protocol()), tls, caller, record).await {
            Ok(transport) => return Ok((transport, endpoint)),
            Err(error) => end = error,
        }
    }
    Err(end)
}

/// Connects to this address. Dropping it gives up.
///
/// # Errors
/// When it cannot be had, or does not show the certificate that it should.
pub(crate) async fn connect_to(
    (address, version): (SocketAddr, Option<ProxyProtocol>),
    tls: Option<&UpstreamTls>,
    caller: &Caller,
    record: &mut StreamRecord,
) -> Result<Transport, StreamEnd> {
    record.endpoint = Some(address);
    record.attempts += 1;
    let error = match timeout(defaults::CONNECT, open((address, version), tls, caller)).await {
        Ok(Ok(transport)) => return Ok(transport),
        Ok(Err(error)) => error,
        Err(_) => UpstreamTlsError::Timeout,
    };
    tracing::debug!(endpoint = %address, %error, "no connection");
    if let Some(tls) = tls.filter(|_| error.is_refusal()) {
        tls.complain(&address, &error);
    }
    Err(match error {
        UpstreamTlsError::NoIdentity => StreamEnd::NoIdentity,
        error if error.is_refusal() => StreamEnd::Certificate,
        _ => StreamEnd::Unreachable,
    })
}

async fn open(
    (address, version): (SocketAddr, Option<ProxyProtocol>),
    tls: Option<&UpstreamTls>,
    caller: &Caller,
) -> Result<Transport, UpstreamTlsError> {
    let header = caller.header(version);
    // A sidecar looks for TLS before all else, and its application for the header.
    let (before, within) = if tls.is_some_and(UpstreamTls::is_mesh) { (&[][..], &header[..]) } else { (&header[..], &[][..]) };
    let connected = async || dial(address, before).await.map_err(UpstreamTlsError::Unreachable);
    let Some(tls) = tls else { return Ok(Transport::Plain(connected().await?)) };
    let mut stream = match tls.connect(connected().await?, caller.certificate()).await {
        Err(UpstreamTlsError::Outlived) => tls.connect(connected().await?, caller.certificate()).await?,
        shaken => shaken?,
    };
    stream.write_all(within).await.map_err(UpstreamTlsError::Unreachable)?;
    Ok(Transport::Tls(Box::new(stream.into())))
}
