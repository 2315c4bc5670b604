//! A backend -> a connection to one of its endpoints.

use std::net::SocketAddr;

use crate::balance::{BackendState, InFlight, Tried};
use crate::connection::transport::Transport;
use crate::proxy::defaults;
use crate::telemetry::{StreamEnd, StreamRecord};
use crate::upstream::{Caller, UpstreamTlsError, dial};

/// Connects to an endpoint, with TLS if the backend has a policy and `encrypt` is set. When one cannot be had another one is asked, as long as there is one: no
/// byte of the client's has been sent. Dropping it gives up.
///
/// # Errors
/// When the last of them could not be had either.
pub(super) async fn connect(
    backend: &BackendState,
    (caller, encrypt): (&Caller, bool),
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
        let error = match tokio::time::timeout(defaults::CONNECT, open(backend, address, (caller, encrypt))).await {
            Ok(Ok(transport)) => return Ok((transport, endpoint)),
            Ok(Err(error)) => error,
            Err(_) => UpstreamTlsError::Timeout,
        };
        tracing::debug!(backend = %backend.key(), endpoint = %address, %error, "no connection");
        end = if error.is_refusal() { StreamEnd::Certificate } else { StreamEnd::Unreachable };
        if error.is_refusal() {
            endpoint.complain(&error);
        }
    }
    Err(end)
}

async fn open(
    backend: &BackendState,
    address: SocketAddr,
    (caller, encrypt): (&Caller, bool),
) -> Result<Transport, UpstreamTlsError> {
    let header = caller.header(backend.proxy_protocol());
    let connected = async || dial(address, &header).await.map_err(UpstreamTlsError::Unreachable);
    let Some(tls) = backend.tls().filter(|_| encrypt) else { return Ok(Transport::Plain(connected().await?)) };
    let stream = match tls.connect(connected().await?, caller.certificate()).await {
        Err(UpstreamTlsError::Outlived) => tls.connect(connected().await?, caller.certificate()).await?,
        shaken => shaken?,
    };
    Ok(Transport::Tls(Box::new(stream.into())))
}
