//! The stream from the controller and the data plane, joined.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_dataplane::{Dataplane, Options, Report, StartError, process};
use isthmus_push::client::{Following, Outcome};
use isthmus_routing::Snapshot;
use tokio::sync::watch;

use crate::args::Args;
use crate::families;

/// Where the admin server answers.
const ADMIN: u16 = 15412;

/// A gateway that runs; dropping it cuts everything.
pub(crate) struct Gateway {
    dataplane: Dataplane,
    _following: Following,
}

impl Gateway {
    /// Answers on the admin address when this returns, and is ready when there is a configuration.
    pub(crate) async fn start(args: &Args, threads: usize) -> Result<Self, StartError> {
        let (snapshots, receiver) = watch::channel(Arc::<Snapshot>::default());
        let (certificate, identity) = watch::channel(None);
        let options = Options {
            threads,
            admin: args.admin.map_or_else(|| process::everywhere(ADMIN), |admin| vec![admin]),
            access_log: args.access_log.clone(),
            otlp: args.otlp.clone(),
            addresses: families::everywhere(&args.pod_ips),
            placeholder: true,
            identity: Some(identity),
            ..Options::default()
        };
        let dataplane = Dataplane::start(options, receiver).await?;
        let outcome = |report: &Arc<Report>| Outcome { version: report.version, faults: report.faults() };
        let following = Following::start(args.client(certificate), snapshots, dataplane.reports(), outcome);
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

#[cfg(test)]
mod tests;
