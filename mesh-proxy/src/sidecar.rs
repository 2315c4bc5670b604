//! The stream from the controller and the data plane, joined.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isthmus_dataplane::{Capture, Dataplane, Limits, Options, Report, StartError, process};
use isthmus_push::client::{self, Following, Outcome};
use isthmus_routing::snapshot::Models;
use isthmus_routing::{BackendKey, Certificate, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::args::Run;
use crate::probes;
use crate::redirect::ADMIN;

/// A sidecar that runs; dropping it cuts everything.
pub(crate) struct Sidecar {
    dataplane: Dataplane,
    _following: Following,
}

/// Why a sidecar does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SidecarError {
    /// Its folder cannot be written to.
    #[error("the controller's CAs cannot be kept in {path}: {source}; the folder has to be writable, such as an emptyDir", path = path.display())]
    Store { path: PathBuf, source: io::Error },
    /// The data plane does not.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The data plane's ends of what the stream brings and takes.
struct Ends {
    certificates: watch::Receiver<Option<Arc<Certificate>>>,
    calls: watch::Sender<BTreeSet<BackendKey>>,
    away: watch::Receiver<Option<Instant>>,
}

impl Sidecar {
    /// Answers on the admin address when this returns, and is ready when there are a configuration and a certificate.
    pub(crate) async fn start(args: &Run, threads: usize) -> Result<Self, SidecarError> {
        let ca = args.store.join("ca.crt");
        std::fs::write(&ca, &args.ca).map_err(|source| SidecarError::Store { path: args.store.clone(), source })?;
        let (snapshots, snapshots_seen) = watch::channel(Arc::<Snapshot>::default());
        let (certificates, certificates_seen) = watch::channel(None);
        let (calls, calls_seen) = watch::channel(BTreeSet::new());
        let (away, away_seen) = watch::channel(None);
        let ends = Ends { certificates: certificates_seen, calls, away: away_seen };
        let dataplane = Dataplane::start(dataplane(args, threads, ends), snapshots_seen).await?;
        let options = client::Options {
            controller: args.controller.clone(),
            ca,
            token: args.token.clone(),
            store: Some(args.store.clone()),
            models: Models::default(),
            limits: client::Limits::default(),
            calls: Some(calls_seen),
            certificate: Some(certificates),
            away: Some(away),
        };
        let outcome = |report: &Arc<Report>| Outcome { version: report.version, faults: report.faults() };
        let following = Following::start(options, snapshots, dataplane.reports(), outcome);
        Ok(Self { dataplane, _following: following })
    }

    /// Where the admin server answers.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.dataplane.admin()
    }

    /// See [`Dataplane::drain`]. The controller is followed until its end.
    pub(crate) async fn drain(&self, lame_duck: Duration, deadline: Duration) {
        self.dataplane.drain(lame_duck, deadline).await;
    }
}

fn dataplane(args: &Run, threads: usize, ends: Ends) -> Options {
    let pod_ips = args.pod_ips.clone();
    let probed = pod_ips.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
    Options {
        threads,
        admin: args.admin.map_or_else(|| process::everywhere(ADMIN), |admin| vec![admin]),
        pages: probes::pages(args.probes.clone(), args.scrape.clone(), probed),
        access_log: args.access_log.clone(),
        otlp: args.otlp.clone(),
        limits: Limits::mesh(),
        capture: Some(Capture {
            namespace: args.pod_namespace.clone(),
            // What the kernel redirects of a process's own connections comes to the loopback address, so nobody else gets here.
            outbound: sockets([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], args.outbound_port),
            inbound: sockets([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()], args.inbound_port),
            pod_ips,
            own_ports: BTreeSet::from([args.outbound_port, args.inbound_port, ADMIN]),
            calls: ends.calls,
            away: Some(ends.away),
        }),
        identity: Some(ends.certificates),
        placeholder: true,
        ..Options::default()
    }
}

/// Those of an address family that there is, whatever addresses the pod has: a connection to itself may be of the other one.
fn sockets(both: [IpAddr; 2], port: u16) -> Vec<SocketAddr> {
    let there_is = |ip: &IpAddr| TcpListener::bind((*ip, 0)).is_ok();
    both.into_iter().filter(there_is).map(|ip| (ip, port).into()).collect()
}

#[cfg(test)]
mod tests;
