//! Connections without HTTP: TCP, TLS that is ended here, TLS that is passed on.

pub(crate) mod connect;
pub(crate) mod route;
mod splice;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use isthmus_routing::Protocol;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::balance::BackendState;
use crate::config::{Bind, CompiledParent, Config, Port, Shared};
use crate::connection::Addresses;
use crate::connection::transport::Transport;
use crate::drain::{Signals, raised};
use crate::limits::Limits;
use crate::proxy_protocol::Ends;
use crate::telemetry::{ConnectionFault, PortMetrics, StreamEnd, StreamRecord, StreamSummary, Telemetry};
use crate::tls::accept::{Greeted, Taker, unrecognized};
use crate::upstream::Caller;
use connect::connect;
use route::{Refused, draw};
use splice::Side;
pub(crate) use splice::{Splice, reset};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) config: Shared,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) limits: Arc<Limits>,
}

/// A connection of which nothing has been answered.
pub(crate) struct Arrived {
    pub(crate) client: Client,
    pub(crate) addresses: Addresses,
    pub(crate) started: Instant,
    pub(crate) start_time: SystemTime,
    /// Until when the handshake with the client has to be done.
    pub(crate) deadline: tokio::time::Instant,
}

/// Whose connection it is.
pub(crate) enum Client {
    /// Any bytes, of which these have been read.
    Tcp(TcpStream, Vec<u8>),
    /// TLS, to be ended here or passed on.
    Tls(Box<Greeted>),
}

impl Streams {
    /// Serves a connection to its end: that of its sides, of its patience, or `signals`' cut. The configuration of now decides, and no
    /// later one.
    pub(crate) async fn serve(&self, arrived: Arrived, port: &PortMetrics, signals: Signals) {
        let config = self.config.load_full();
        let bind = Bind::tcp(arrived.addresses.local);
        let name = arrived.client.server_name().map(str::to_owned);
        let found = config.ports.get(&bind).and_then(|port| Some((port, port.parents.get(name.as_deref().unwrap_or_default())?)));
        let Some((here, listener)) = found.filter(|(port, listener)| arrived.client.is_for(port, listener)) else {
            // The listener went away, or became another one, while the client spoke.
            port.fault(ConnectionFault::NoRoute);
            return arrived.client.refuse(&self.limits).await;
        };
        let (here, listener) = (here.clone(), listener.clone());
        let mut record = record(&arrived, &config, &listener, name);
        let backend = decide(&config, &listener, &mut record);
        drop(config);
        record.metrics().began();
        let mut cut = signals.cut;
        // Boxed, so that a connection does not carry the handshakes' state for all its life.
        let opening = Box::pin(self.open(arrived, (&here, &listener), backend, &mut record, port));
        let opened = tokio::select! {
            opened = opening => opened,
            () = raised(&mut cut) => Err(StreamEnd::DrainDeadline),
        };
        drop((here, listener));
        self.carry(opened, record, port, cut_off(cut)).await;
    }

    /// Carries bytes between two open connections to their end, or does not if there are none, and tells of it. What `record` counts by
    /// has been told that it began. `held` is kept while bytes are carried. `cut` ends it before its sides do.
    pub(crate) async fn carry<H>(
        &self,
        opened: Result<(Splice, H), StreamEnd>,
        record: StreamRecord,
        port: &PortMetrics,
        cut: impl Future<Output = StreamEnd>,
    ) {
        let mut cut = pin!(cut);
        let (end, moved) = match opened {
            Err(end) => (end, (0, 0)),
            Ok((mut splice, held)) => {
                let end = tokio::select! {
                    end = splice.run(&self.limits, record.metrics()) => end,
                    end = cut.as_mut() => end,
                };
                drop(held);
                let moved = splice.moved();
                let broken = match end {
                    StreamEnd::ClientReset => Some(Side::Client),
                    StreamEnd::EndpointReset => Some(Side::Endpoint),
                    _ => None,
                };
                let moved = match broken {
                    Some(side) => tokio::select! {
                        moved = splice.break_off(side, &self.limits) => moved,
                        _ = cut.as_mut() => moved,
                    },
                    None => {
                        if end != StreamEnd::Closed {
                            splice.reset();
                        }
                        moved
                    }
                };
                (end, moved)
            }
        };
        if let Some(fault) = fault(end) {
            port.fault(fault);
        }
        let (received, sent) = moved;
        self.telemetry.record_stream(&record, &StreamSummary { end, received, sent, duration: record.started.elapsed() });
    }

    /// From the choice of the backend to two open connections.
    async fn open(
        &self,
        arrived: Arrived,
        (here, listener): (&Port, &CompiledParent),
        backend: Result<Arc<BackendState>, Refused>,
        record: &mut StreamRecord,
        port: &PortMetrics,
    ) -> Result<(Splice, crate::balance::InFlight), StreamEnd> {
        let Arrived { client, addresses, deadline, .. } = arrived;
        let backend = match backend {
            Ok(backend) => backend,
            Err(Refused::NoRoute) => {
                client.refuse(&self.limits).await;
                return Err(StreamEnd::NoRoute);
            }
            Err(refused) => {
                client.close();
                return Err(if refused == Refused::Invalid { StreamEnd::Invalid } else { StreamEnd::NoEndpoint });
            }
        };
        let (transport, first) = match client {
            Client::Tcp(socket, read) => (Transport::Plain(socket), read),
            Client::Tls(greeted) => {
                let Greeted { socket, name, taker, accepted, read } = *greeted;
                match taker {
                    Taker::PassThrough => (Transport::Plain(socket), read),
                    Taker::Http(ending) | Taker::Stream(ending) => {
                        let shaken = ending.shake((accepted, name), socket, deadline, &self.limits).await;
                        let (stream, info) = shaken.map_err(|error| {
                            tracing::debug!(local = %addresses.local, peer = %addresses.peer, %error, "no TLS");
                            port.fault(error.fault());
                            StreamEnd::Handshake
                        })?;
                        if !info.listener.is_standing() {
                            // What its clients have to show has changed meanwhile.
                            reset(stream.get_ref().0);
                            return Err(StreamEnd::NoRoute);
                        }
                        record.client_certificate = info.client_certificate;
                        (Transport::Tls(Box::new(stream.into())), Vec::new())
                    }
                }
            }
        };
        let ends = Ends { source: addresses.peer, destination: addresses.destination };
        let caller = Caller::new(ends, here.client_certificate.clone());
        match connect(&backend, (&caller, !listener.source().is_passthrough()), record).await {
            Ok((endpoint, in_flight)) => Ok((Splice::new(transport, endpoint, first), in_flight)),
            Err(end) => {
                reset(transport.socket());
                Err(end)
            }
        }
    }
}

/// Waits for the cut at the end of a drain.
pub(crate) async fn cut_off(mut cut: watch::Receiver<bool>) -> StreamEnd {
    raised(&mut cut).await;
    StreamEnd::DrainDeadline
}

impl Client {
    /// As the access log has it.
    fn protocol(&self) -> Protocol {
        match self {
            Self::Tcp(..) => Protocol::Tcp,
            Self::Tls(_) => Protocol::Tls,
        }
    }

    fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tcp(..) => None,
            Self::Tls(greeted) => greeted.name.as_deref(),
        }
    }

    /// Whether the listener does with it what the one did that it was accepted for: what was to be passed on as it is must not be ended, and
    /// what is ended here must not go to a backend that is to get it under TLS.
    fn is_for(&self, port: &Port, listener: &CompiledParent) -> bool {
        match self {
            Self::Tcp(..) => listener.source().takes_bytes(),
            Self::Tls(greeted) if listener.source().protocol() == Protocol::Tls => match &greeted.taker {
                Taker::PassThrough => listener.source().is_passthrough(),
                Taker::Http(ending) | Taker::Stream(ending) => port.is_of(ending.listener(), listener),
            },
            Self::Tls(_) => false,
        }
    }

    /// Nobody takes it.
    async fn refuse(self, limits: &Limits) {
        match self {
            Self::Tcp(socket, _) => reset(&socket),
            Self::Tls(greeted) => {
                unrecognized(greeted.socket, greeted.name, limits).await;
            }
        }
    }

    /// Somebody would take it, and cannot.
    fn close(self) {
        match self {
            Self::Tcp(socket, _) => reset(&socket),
            Self::Tls(greeted) => reset(&greeted.socket),
        }
    }
}

fn record(arrived: &Arrived, config: &Config, listener: &CompiledParent, server_name: Option<String>) -> StreamRecord {
    let Arrived { client, addresses, started, start_time, .. } = arrived;
    let ends = (addresses.peer, addresses.local);
    let record = StreamRecord::new((*started, *start_time), listener.metrics().clone(), ends, config.version);
    StreamRecord { protocol: client.protocol().as_str(), server_name, ..record }
}

/// Where it goes; the record learns of it.
fn decide(config: &Config, listener: &CompiledParent, record: &mut StreamRecord) -> Result<Arc<BackendState>, Refused> {
    let rule = listener.stream(record.server_name.as_deref()).ok_or(Refused::NoRoute)?;
    let (position, backend) = draw(config, listener, &rule);
    (record.rule, record.backend) = (Some(rule.metrics.clone()), position);
    backend
}

/// What counts as a fault of the port; that of a handshake is counted where it is known.
fn fault(end: StreamEnd) -> Option<ConnectionFault> {
    match end {
        StreamEnd::Closed | StreamEnd::ClientReset | StreamEnd::EndpointReset | StreamEnd::Handshake => None,
        StreamEnd::Idle => Some(ConnectionFault::IdleTimeout),
        StreamEnd::DrainDeadline => Some(ConnectionFault::DrainDeadline),
        StreamEnd::NoRoute => Some(ConnectionFault::NoRoute),
        StreamEnd::Invalid | StreamEnd::NoEndpoint => Some(ConnectionFault::NoBackend),
        StreamEnd::Unreachable | StreamEnd::Certificate | StreamEnd::NoIdentity => Some(ConnectionFault::Connect),
        StreamEnd::Plaintext => Some(ConnectionFault::Plaintext),
    }
}

#[cfg(test)]
mod tests;
