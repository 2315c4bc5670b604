//! Serving a folder until a signal comes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_dataplane::process::{Signal, Signals};
use isthmus_dataplane::{AccessLog, Dataplane, Options, Outbound, Report};
use isthmus_routing::{Snapshot, Version};
use tokio::sync::watch;

use crate::args::{Admin, Run};
use crate::screen::Screen;
use crate::source::watch::Watch;
use crate::standalone::Standalone;
use crate::table;

/// At which port of this machine the admin server answers unless it is told otherwise: with the first one taken, another one will do.
const ADMIN: [u16; 2] = [19090, 0];

pub(super) async fn serve(args: &Run, threads: usize) -> Result<u8, String> {
    // First, so that a signal during the start is not fatal.
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    // Before the folder is read, so that no edit falls between.
    let mut watch = Watch::start(&args.paths);
    let standalone = Standalone::open(&args.paths, args.settings()).await.map_err(|error| error.to_string())?;
    let (snapshots, receiver) = watch::channel(Arc::clone(&standalone.view().snapshot));
    let dataplane = Dataplane::start(options(args, threads), receiver).await.map_err(|error| error.to_string())?;
    let mut reports = dataplane.reports();
    let mut front = Front {
        screen: Screen::new(args.access_log == AccessLog::Stdout),
        name: args.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "),
        admin: dataplane.admin(),
        standalone,
        snapshots,
        awaited: None,
    };
    if let Some(why) = &watch.fallback {
        front.screen.say(&format!("edits are looked for twice a second, because the system does not tell of them: {why}"));
    }
    let first = reports.borrow_and_update().clone();
    front.reported(&first);
    front.show(&first);
    loop {
        tokio::select! {
            signal = signals.next() => {
                let lame_duck = if signal == Signal::Interrupt { Duration::ZERO } else { args.lame_duck };
                return Ok(drain(&dataplane, &mut front.screen, &mut signals, lame_duck, args.drain).await);
            }
            Ok(()) = reports.changed() => {
                let report = reports.borrow_and_update().clone();
                if front.reported(&report) {
                    front.show(&report);
                }
            }
            change = watch.next() => {
                let seen = Instant::now();
                if front.standalone.refresh(&change).await {
                    front.publish(seen);
                    let report = reports.borrow().clone();
                    if front.awaited.is_none() {
                        front.show(&report);
                    }
                }
            }
        }
    }
}

/// The folder, the data plane's end of it, and the person's.
struct Front {
    screen: Screen,
    name: String,
    admin: Option<SocketAddr>,
    standalone: Standalone,
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// The version that was sent and not yet reported, and when its change was seen.
    awaited: Option<(Version, Instant)>,
}

impl Front {
    /// Sends the snapshot if it is another one.
    fn publish(&mut self, seen: Instant) {
        let view = self.standalone.view();
        let changed = self.snapshots.send_if_modified(|snapshot| {
            let changed = **snapshot != *view.snapshot;
            if changed {
                *snapshot = Arc::clone(&view.snapshot);
            }
            changed
        });
        if changed {
            self.awaited = Some((view.version, seen));
        }
    }

    /// Takes over a report, and says whether there is something to show.
    fn reported(&mut self, report: &Report) -> bool {
        if report.version != Some(self.standalone.view().version) {
            return false;
        }
        self.standalone.set_unavailable(unavailable(&self.standalone.view().snapshot, report));
        true
    }

    fn show(&mut self, report: &Report) {
        let view = self.standalone.view();
        let live =
            self.awaited.take().map(|(_, seen)| format!("; live {} ms after the edit was seen", seen.elapsed().as_millis()));
        let count = view.origins.len();
        let admin = self.admin.map(|admin| format!(", admin http://{admin}")).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        let headline = format!(
            "isthmus {version} serves {}: {count} objects, config {}{admin}{}",
            self.name,
            view.version,
            live.unwrap_or_default()
        );
        let lines = table::render(view, Some(report));
        self.screen.show(&headline, lines);
    }
}

/// Listeners that have no port. One that has no certificate has its port; its status says the rest.
fn unavailable(snapshot: &Snapshot, report: &Report) -> BTreeMap<(isthmus_routing::GatewayKey, String), String> {
    let faulty = report.listeners.iter().filter_map(|listener| Some((listener, listener.fault.clone()?)));
    let has_certificate = |found: &isthmus_dataplane::ListenerReport| {
        let listeners = snapshot.gateways.get(&found.gateway).map(|gateway| gateway.listeners.as_slice()).unwrap_or_default();
        let listener = listeners.iter().find(|listener| listener.name == found.name);
        listener.is_some_and(|listener| {
            let ends_tls = listener.protocol.is_tls() && !listener.passthrough;
            !ends_tls || listener.certificates.iter().any(|key| snapshot.certificates.contains_key(key))
        })
    };
    faulty
        .filter(|(listener, _)| has_certificate(listener))
        .map(|(listener, fault)| ((listener.gateway.clone(), listener.name.clone()), fault))
        .collect()
}

fn options(args: &Run, threads: usize) -> Options {
    let outbound = Outbound { namespace: args.mesh_namespace.clone(), port_offset: args.port_offset };
    Options {
        threads,
        admin: match args.admin {
            Some(Admin::Off) => Vec::new(),
            Some(Admin::At(address)) => vec![address],
            None => ADMIN.map(|port| (Ipv4Addr::LOCALHOST, port).into()).to_vec(),
        },
        access_log: args.access_log.clone(),
        otlp: args.otlp.clone(),
        outbound: args.mesh.then_some(outbound),
        ..Options::default()
    }
}

async fn drain(dataplane: &Dataplane, screen: &mut Screen, signals: &mut Signals, lame_duck: Duration, deadline: Duration) -> u8 {
    let accepting =
        if lame_duck.is_zero() { String::new() } else { format!(" accepting for {} s more,", lame_duck.as_secs_f64()) };
    let deadline_seconds = deadline.as_secs_f64();
    screen.say(&format!(
        "draining: not ready,{accepting} what is left after {deadline_seconds} s is cut; a second signal cuts it now"
    ));
    tokio::select! {
        () = dataplane.drain(lame_duck, deadline) => super::GOOD,
        _ = signals.next() => super::CUT,
    }
}
