//! Connections to whoever is at an address: under TLS to a workload of the mesh, else as they are.

use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_routing::Identity;
use tokio::sync::OwnedSemaphorePermit;

use super::{Capture, Caught};
use crate::config::Config;
use crate::connection::transport::Transport;
use crate::drain::{Signals, raised};
use crate::proxy_protocol::Ends;
use crate::stream::connect::connect_to;
use crate::stream::{Splice, Streams, cut_off, reset};
use crate::telemetry::{Captured, StreamEnd, StreamRecord};
use crate::upstream::{Caller, UpstreamTls};

/// Whoever is at an address that is no Service's.
pub(super) enum Away {
    /// Nobody in the mesh, or somebody who takes what comes to the port as it is.
    Stranger,
    /// A workload.
    Workload(Identity, Arc<UpstreamTls>),
}

impl Away {
    /// Who is there. The ports of its sidecar's own are nobody's in the mesh.
    pub(super) fn at(address: SocketAddr, config: &Config) -> Self {
        let is_sidecars = config.site().pod.as_ref().is_some_and(|pod| pod.own_ports.contains(&address.port()));
        let workload = config.membership.as_ref().filter(|_| !is_sidecars).and_then(|membership| {
            let tls = membership.upstream(&address)?;
            Some(Self::Workload(membership.identity_at(&address.ip())?.clone(), tls.clone()))
        });
        workload.unwrap_or(Self::Stranger)
    }
}

/// Serves a connection to its end: that of its sides, of its patience, or the signals' cut.
pub(super) async fn serve(
    capture: &Capture,
    caught: Caught,
    away: Away,
    (signals, permit): (Signals, OwnedSemaphorePermit),
    streams: &Streams,
) {
    let Caught { socket, peer, original, started, start_time } = caught;
    let (port, metrics, tls) = match away {
        Away::Stranger => (&capture.passthrough.0, capture.passthrough.1.clone(), None),
        Away::Workload(identity, tls) => {
            (&capture.workloads, streams.telemetry.captured(Captured::Workload(&identity)), Some(tls))
        }
    };
    let guard = port.accepted();
    let version = streams.config.load().version;
    let mut record = StreamRecord::new((started, start_time), metrics, (peer, original), version);
    record.metrics().began();
    let mut cut = signals.cut;
    // Boxed, so that a connection does not carry the handshake's state for all its life.
    let caller = Caller::new(Ends { source: peer, destination: original }, None);
    let opening = Box::pin(connect_to((original, None), tls.as_deref(), &caller, &mut record));
    let opened = tokio::select! {
        opened = opening => opened,
        () = raised(&mut cut) => Err(StreamEnd::DrainDeadline),
    };
    let opened = match opened {
        Ok(endpoint) => Ok((Splice::new(Transport::Plain(socket), endpoint, Vec::new()), ())),
        Err(end) => {
            reset(&socket);
            Err(end)
        }
    };
    streams.carry(opened, record, guard.port(), cut_off(cut)).await;
    drop((guard, permit));
}
