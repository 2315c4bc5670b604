//! Snapshots -> open sockets: the task that compiles each snapshot and opens, keeps and closes what it wants listened on.
//!
//! New sockets open before the configuration is swapped, removed ones close after it, and one that stays is not touched: only what
//! its connections meet is swapped. So an edit of one listener never costs a connection of another.

pub(crate) mod accept;
pub(crate) mod report;
pub(crate) mod socket;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use isthmus_routing::{Protocol, Snapshot};
use pingora_core::apps::HttpServerApp;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Report;
use crate::config::{Config, Port, Shared};
use crate::drain::{Closing, State};
use crate::listen::accept::{Context, Face};
use crate::telemetry::Telemetry;
use crate::tls;

/// How long connections that were cut may take to notice.
const CUT: Duration = Duration::from_secs(1);

/// End everything: go on accepting for `lame_duck`, be done at `deadline`; both count from `since`.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) since: Instant,
    pub(crate) lame_duck: Duration,
    pub(crate) deadline: Duration,
}

/// Owner of every listening socket.
pub(crate) struct Manager<A> {
    context: Arc<Context<A>>,
    shared: Shared,
    telemetry: Arc<Telemetry>,
    tls: tls::Listeners,
    open: BTreeMap<SocketAddr, Open>,
    /// Why an address is not open.
    failed: BTreeMap<SocketAddr, String>,
    /// Addresses that are closed and whose connections have not all ended.
    closing: Vec<Arc<Closing>>,
    reports: watch::Sender<Arc<Report>>,
    /// Where Gateways without an address listen.
    addresses: Arc<[IpAddr]>,
}

/// An address that is accepted on.
struct Open {
    protocol: Protocol,
    face: Arc<ArcSwap<Face>>,
    closing: Arc<Closing>,
    accepting: JoinHandle<()>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Manager<A> {
    pub(crate) fn new(
        context: Arc<Context<A>>,
        shared: Shared,
        telemetry: Arc<Telemetry>,
        reports: watch::Sender<Arc<Report>>,
        addresses: Arc<[IpAddr]>,
    ) -> Self {
        Self {
            context,
            shared,
            telemetry,
            tls: tls::Listeners::default(),
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            closing: Vec::new(),
            reports,
            addresses,
        }
    }

    /// Serves each snapshot until a drain is over, or cuts everything when nobody can order one any more.
    pub(crate) async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>, mut orders: mpsc::Receiver<Drain>) {
        let mut following = true;
        let mut drain: Option<Drain> = None;
        loop {
            let stop = drain.as_ref().map(|drain| drain.since + drain.lame_duck.min(drain.deadline));
            tokio::select! {
                biased;
                order = orders.recv(), if drain.is_none() => match order {
                    Some(order) => drain = Some(order),
                    None => return self.cut().await,
                },
                () = tokio::time::sleep_until(stop.unwrap_or_else(Instant::now)), if stop.is_some() => break,
                changed = snapshots.changed(), if following => match changed {
                    Ok(()) => {
                        let snapshot = snapshots.borrow_and_update().clone();
                        self.serve(snapshot).await;
                    }
                    Err(_) => following = false,
                },
                () = tokio::time::sleep(self.context.limits.bind_retry), if !self.failed.is_empty() => self.retry(),
            }
        }
        if let Some(drain) = drain {
            self.finish(drain.since + drain.deadline).await;
        }
    }

    /// Makes a snapshot the one that is served.
    pub(crate) async fn serve(&mut self, snapshot: Arc<Snapshot>) {
        let (previous, telemetry, addresses) = (self.shared.load_full(), self.telemetry.clone(), self.addresses.clone());
        // Seconds for tens of thousands of routes, and requests go on meanwhile.
        let compiled = tokio::task::spawn_blocking(move || Config::compile(&snapshot, &addresses, Some(&previous), &telemetry));
        let Ok(config) = compiled.await else {
            tracing::error!("a snapshot could not be compiled and is not served; the one before goes on");
            self.telemetry.config_rejected();
            return;
        };
        let config = Arc::new(config);
        let (mut tls, source) = (std::mem::take(&mut self.tls), config.snapshot.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            tls.update(&source);
            tls
        });
        self.tls = loaded.await.unwrap_or_default();
        let fresh = self.bind(&config);
        self.shared.store(config.clone());
        self.telemetry.config_served(config.version);
        for (address, open) in &self.open {
            if let Some(port) = config.ports.get(address).filter(|port| port.protocol == open.protocol) {
                open.face.store(Arc::new(self.face(port)));
            }
        }
        self.start(fresh, &config);
        self.close_removed(&config).await;
        // What could not be had may have been ours: `0.0.0.0:80` in place of `127.0.0.1:80`.
        let fresh = self.bind(&config);
        self.start(fresh, &config);
        self.report();
    }

    /// Opens what is wanted and not open.
    fn bind(&mut self, config: &Config) -> Vec<(SocketAddr, TcpListener)> {
        self.failed.clear();
        let mut fresh = Vec::new();
        for address in config.ports.keys().filter(|address| !self.open.contains_key(address)) {
            match socket::bind(*address) {
                Ok(listener) => fresh.push((*address, listener)),
                Err(error) => {
                    self.failed.insert(*address, socket::explain(*address, &error));
                }
            }
        }
        fresh
    }

    fn start(&mut self, fresh: Vec<(SocketAddr, TcpListener)>, config: &Config) {
        for (address, listener) in fresh {
            let Some(port) = config.ports.get(&address) else { continue };
            let face = Arc::new(ArcSwap::from_pointee(self.face(port)));
            let (closing, signals) = Closing::new();
            let accepting = tokio::spawn(accept::run(listener, address, face.clone(), signals, self.context.clone()));
            tracing::info!(%address, gateway = %port.gateway, "listening");
            self.open.insert(address, Open { protocol: port.protocol, face, closing: Arc::new(closing), accepting });
        }
    }

    fn face(&self, port: &Port) -> Face {
        let hosts = || {
            let listeners = port.all.iter().rev();
            listeners
                .filter_map(|listener| Some((listener.hostname(), self.tls.config(&port.gateway, listener.name())?)))
                .collect()
        };
        Face {
            tls: (port.protocol == Protocol::Https).then(hosts),
            // The object's port, which is what its owner knows.
            metrics: self.telemetry.port(&port.gateway, port.all.first().map_or(port.address.port(), |listener| listener.port())),
        }
    }

    /// An address that changes between HTTP and HTTPS is another one: what is connected to it speaks the wrong protocol.
    async fn close_removed(&mut self, config: &Config) {
        self.closing.retain(|closing| !closing.is_empty());
        let stays = |address, open: &Open| config.ports.get(address).is_some_and(|port| port.protocol == open.protocol);
        let removed: Vec<_> =
            self.open.iter().filter(|(address, open)| !stays(address, open)).map(|(address, _)| *address).collect();
        for address in removed {
            let Some(open) = self.open.remove(&address) else { continue };
            open.closing.end();
            // So that the address can be had again from here on.
            let _ = open.accepting.await;
            tracing::info!(%address, "closed");
            let (closing, deadline) = (open.closing.clone(), self.context.limits.listener_drain);
            tokio::spawn(async move { closing.finish(deadline).await });
            self.closing.push(open.closing);
        }
    }

    /// Tries again what could not be opened.
    fn retry(&mut self) {
        let config = self.shared.load_full();
        let fresh = self.bind(&config);
        if !fresh.is_empty() {
            self.start(fresh, &config);
            self.report();
        }
    }

    fn report(&self) {
        let config = self.shared.load();
        // One listener that cannot be had must not take the others out of service.
        if config.ports.is_empty() || !self.open.is_empty() {
            self.context.readiness.advance(State::Ready);
        }
        self.telemetry.listeners(self.open.len(), self.failed.len());
        let report = Arc::new(report::of(&config, &self.failed, &self.tls));
        for listener in &report.listeners {
            if let Some(fault) = &listener.fault {
                tracing::warn!(gateway = %listener.gateway, listener = listener.name, address = %listener.address, "{fault}");
            }
        }
        self.reports.send_replace(report);
    }

    /// Closes every address, waits for the connections, and cuts them at `deadline`.
    async fn finish(mut self, deadline: Instant) {
        for open in std::mem::take(&mut self.open).into_values() {
            open.closing.end();
            let _ = open.accepting.await;
            self.closing.push(open.closing);
        }
        let _ = tokio::time::timeout_at(deadline, self.all_ended()).await;
        self.cut().await;
    }

    /// Every connection holds a permit, from its accept until nobody knows it any more.
    async fn all_ended(&self) {
        let permits = u32::try_from(self.context.limits.connections).unwrap_or(u32::MAX);
        // Never closed, so this is no error.
        let _ = self.context.permits.acquire_many(permits).await;
    }

    async fn cut(mut self) {
        for open in std::mem::take(&mut self.open).into_values() {
            open.closing.cut();
            open.accepting.abort();
            self.closing.push(open.closing);
        }
        for closing in &self.closing {
            closing.cut();
        }
        let _ = tokio::time::timeout(CUT, self.all_ended()).await;
    }
}

#[cfg(test)]
mod tests;
