//! The stream from the controller and the data plane, joined.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use isthmus_dataplane::{Dataplane, Options, Report, StartError};
use isthmus_push::client::{self, Outcome};
use isthmus_routing::{Certificate, Snapshot};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::args::Args;
use crate::families;

/// Where the admin server answers.
const ADMIN: u16 = 15412;
/// How long to wait before following begins anew after it broke off.
const AGAIN: Duration = Duration::from_secs(1);

/// A gateway that runs; dropping it cuts everything.
pub(crate) struct Gateway {
    dataplane: Dataplane,
    tasks: [JoinHandle<()>; 2],
}

impl Gateway {
    /// Answers on the admin address when this returns, and is ready when there is a configuration.
    pub(crate) async fn start(args: &Args, threads: usize) -> Result<Self, StartError> {
        let (snapshots, receiver) = watch::channel(Arc::<Snapshot>::default());
        let (certificate, identity) = watch::channel(None);
        let dataplane = dataplane(args, threads, &receiver, &identity).await?;
        let (outcomes, seen) = watch::channel(Outcome::default());
        let answering = tokio::spawn(answer(dataplane.reports(), outcomes));
        let following = tokio::spawn(follow(args.client(certificate), snapshots, seen));
        Ok(Self { dataplane, tasks: [answering, following] })
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

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn dataplane(
    args: &Args,
    threads: usize,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    identity: &watch::Receiver<Option<Arc<Certificate>>>,
) -> Result<Dataplane, StartError> {
    let options = |admin: SocketAddr| Options {
        threads,
        admin: Some(admin),
        access_log: args.access_log.clone(),
        otlp: args.otlp.clone(),
        addresses: families::everywhere(&args.pod_ips),
        placeholder: true,
        identity: Some(identity.clone()),
        ..Options::default()
    };
    if let Some(admin) = args.admin {
        return Dataplane::start(options(admin), snapshots.clone()).await;
    }
    match Dataplane::start(options((Ipv6Addr::UNSPECIFIED, ADMIN).into()), snapshots.clone()).await {
        // Without IPv6 there is no such address.
        Err(StartError::Admin { .. }) => {
            Dataplane::start(options((Ipv4Addr::UNSPECIFIED, ADMIN).into()), snapshots.clone()).await
        }
        started => started,
    }
}

/// Follows the controller for ever. It ends only by a fault of its own, which must not end what is served.
async fn follow(options: client::Options, snapshots: watch::Sender<Arc<Snapshot>>, outcomes: watch::Receiver<Outcome>) {
    loop {
        // A set, so that it ends with this.
        let mut following = JoinSet::new();
        following.spawn(client::run(options.clone(), snapshots.clone(), outcomes.clone()));
        if let Some(Err(error)) = following.join_next().await {
            tracing::error!("following the controller broke off and begins anew; what is served stays: {error}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Hands the data plane's reports on.
async fn answer(mut reports: watch::Receiver<Arc<Report>>, outcomes: watch::Sender<Outcome>) {
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone();
        outcomes.send_replace(outcome(&report));
    }
}

/// A listener's faults on all its addresses are its faults.
fn outcome(report: &Report) -> Outcome {
    let mut faults = BTreeMap::<String, String>::new();
    for listener in &report.listeners {
        let Some(fault) = &listener.fault else { continue };
        let all = faults.entry(listener.name.clone()).or_default();
        if !all.split("; ").any(|one| one == fault) {
            let separator = if all.is_empty() { "" } else { "; " };
            *all = format!("{all}{separator}{fault}");
        }
    }
    Outcome { version: report.version, faults }
}

#[cfg(test)]
mod tests;
