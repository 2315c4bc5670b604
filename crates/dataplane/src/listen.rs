//! Snapshots -> open sockets: the task that compiles each snapshot and opens, keeps and closes what it wants listened on.
//!
//! New sockets open before the configuration is swapped, removed ones close after it, and one that stays is not touched: only what
//! its connections meet is swapped. So an edit of one listener never costs a connection of another.

pub(crate) mod accept;
pub(crate) mod permit;
pub(crate) mod report;
pub(crate) mod socket;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use isthmus_routing::{Certificate, Snapshot, Transport};
use pingora_core::apps::HttpServerApp;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Report;
use crate::capture::Side;
use crate::config::{Bind, CompiledParent, Config, Owner, Port, Shared, Site, Speech};
use crate::drain::{Closing, State};
use crate::identity::Membership;
use crate::listen::accept::{Context, Entrance, Face};
use crate::telemetry::Telemetry;
use crate::tls::accept::Taker;
use crate::{tls, udp};

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
    open: BTreeMap<Bind, Open>,
    /// The sockets of a sidecar, which no configuration opens or closes.
    captured: Vec<(Bind, Open)>,
    /// Why an address is not open.
    failed: BTreeMap<Bind, String>,
    /// Addresses that are closed and whose connections have not all ended.
    closing: Vec<(Bind, Arc<Closing>)>,
    /// What the listeners of datagrams share.
    places: Arc<udp::Places>,
    reports: watch::Sender<Arc<Report>>,
    site: Arc<Site>,
    /// Whether there has been a snapshot.
    has_served: bool,
    /// Until when it is not ready, if no certificate of our own comes; none: it was not waited for.
    patience: Option<Instant>,
}

/// An address that is accepted on.
struct Open {
    speech: Speech,
    face: Arc<ArcSwap<Face>>,
    closing: Arc<Closing>,
    accepting: JoinHandle<()>,
}

/// A socket that is bound.
enum Socket {
    Tcp(TcpListener),
    Udp(udp::Front),
}

impl Socket {
    fn bind(bind: Bind) -> io::Result<Self> {
        Ok(match bind.transport {
            Transport::Tcp => Self::Tcp(socket::bind(bind.address)?),
            Transport::Udp => Self::Udp(udp::Front::new(socket::bind_udp(bind.address)?)?),
        })
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> Manager<A> {
    pub(crate) fn new(
        context: Arc<Context<A>>,
        shared: Shared,
        telemetry: Arc<Telemetry>,
        reports: watch::Sender<Arc<Report>>,
        site: Arc<Site>,
    ) -> Self {
        let places = udp::Places::new(&context.limits);
        Self {
            context,
            shared,
            telemetry,
            tls: tls::Listeners::default(),
            open: BTreeMap::new(),
            captured: Vec::new(),
            failed: BTreeMap::new(),
            closing: Vec::new(),
            places,
            reports,
            site,
            has_served: false,
            patience: None,
        }
    }

    /// Accepts connections that are redirected to this socket.
    pub(crate) fn capture(&mut self, side: Side, (address, listener): (SocketAddr, TcpListener)) {
        let metrics = self.telemetry.captured_port(side.way(), address.port());
        let face = Face { entrance: Entrance::Captured(side), proxy_protocol: false, metrics };
        let face = Arc::new(ArcSwap::from_pointee(face));
        let (closing, signals) = Closing::new();
        let accepting = tokio::spawn(accept::run(listener, address, face.clone(), signals, self.context.clone()));
        self.captured.push((Bind::tcp(address), Open { speech: Speech::Tcp, face, closing: Arc::new(closing), accepting }));
    }

    /// Serves each snapshot until a drain is over, or cuts everything when nobody can order one any more.
    pub(crate) async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>, mut orders: mpsc::Receiver<Drain>) {
        let mut following = true;
        let mut drain: Option<Drain> = None;
        let mut identity = self.site.identity.clone();
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
                () = changed(&mut identity), if self.has_served => {
                    let snapshot = self.shared.load().snapshot.clone();
                    self.serve(snapshot).await;
                }
                () = tokio::time::sleep_until(self.patience.unwrap_or_else(Instant::now)), if self.is_patient() => self.advance(),
                () = tokio::time::sleep(self.context.limits.bind_retry), if !self.failed.is_empty() => self.retry(),
            }
        }
        if let Some(drain) = drain {
            self.finish(drain.since + drain.deadline).await;
        }
    }

    /// Makes a snapshot the one that is served.
    pub(crate) async fn serve(&mut self, snapshot: Arc<Snapshot>) {
        let (previous, telemetry, site) = (self.shared.load_full(), self.telemetry.clone(), self.site.clone());
        // Seconds for tens of thousands of routes, and requests go on meanwhile.
        let compiled = tokio::task::spawn_blocking(move || Config::compile(&snapshot, &site, Some(&previous), &telemetry));
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
        self.has_served = true;
        if let Some(capture) = &self.context.capture {
            capture.swapped(&config);
        }
        self.telemetry.config_served(config.version);
        self.telemetry.certificate_ends(config.membership.as_deref().map(Membership::certificate_ends));
        for (bind, open) in &self.open {
            if let Some(port) = config.ports.get(bind).filter(|port| port.speech == open.speech) {
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
    fn bind(&mut self, config: &Config) -> Vec<(Bind, Socket)> {
        self.failed.clear();
        let mut fresh = Vec::new();
        for (bind, _) in config.sockets().filter(|(bind, _)| !self.open.contains_key(bind)) {
            match Socket::bind(*bind) {
                Ok(socket) => fresh.push((*bind, socket)),
                Err(error) => {
                    self.give_way(*bind);
                    self.failed.insert(*bind, socket::explain(bind.address, &error));
                }
            }
        }
        fresh
    }

    /// A socket of datagrams that is only there for its last sessions must not keep a new one from being opened, which is tried again
    /// soon: their clients begin new sessions with it.
    fn give_way(&self, wanted: Bind) {
        let in_the_way = |bind: &Bind| {
            bind.transport == Transport::Udp && (bind.transport, bind.address.port()) == (wanted.transport, wanted.address.port())
        };
        for (_, closing) in self.closing.iter().filter(|(bind, _)| in_the_way(bind)) {
            closing.cut();
        }
    }

    fn start(&mut self, fresh: Vec<(Bind, Socket)>, config: &Config) {
        for (bind, socket) in fresh {
            let Some(port) = config.ports.get(&bind) else { continue };
            let face = Arc::new(ArcSwap::from_pointee(self.face(port)));
            let (closing, signals) = Closing::new();
            let accepting = match socket {
                Socket::Tcp(listener) => {
                    tokio::spawn(accept::run(listener, bind.address, face.clone(), signals, self.context.clone()))
                }
                Socket::Udp(front) => {
                    let limits = self.context.limits.clone();
                    let share = self.places.share();
                    tokio::spawn(udp::run(front, bind, self.shared.clone(), face.clone(), signals, limits, share))
                }
            };
            match &port.owner {
                Owner::Gateway(gateway) => tracing::info!(address = %bind, %gateway, "listening"),
                Owner::Service(service) => tracing::info!(address = %bind, %service, "listening"),
            }
            self.open.insert(bind, Open { speech: port.speech, face, closing: Arc::new(closing), accepting });
        }
    }

    fn face(&self, port: &Port) -> Face {
        let taker = |parent: &CompiledParent| {
            let source = parent.source();
            if source.is_passthrough() {
                return Some(Taker::PassThrough);
            }
            let Owner::Gateway(gateway) = &port.owner else { return None };
            let ending = self.tls.config(gateway, source.name())?;
            Some(if source.protocol().is_http() { Taker::Http(ending) } else { Taker::Stream(ending) })
        };
        Face {
            entrance: match port.speech {
                Speech::Http => Entrance::Http,
                Speech::Tls => {
                    let parents = port.all.iter().rev();
                    Entrance::Tls(parents.filter_map(|parent| Some((parent.source().hostname(), taker(parent)?))).collect())
                }
                Speech::Tcp | Speech::Udp => Entrance::Stream,
            },
            proxy_protocol: port.proxy_protocol,
            metrics: port.metrics.clone(),
        }
    }

    /// An address that changes between HTTP, TLS and bare TCP is another one: what is connected to it speaks the wrong protocol.
    async fn close_removed(&mut self, config: &Config) {
        self.closing.retain(|(_, closing)| !closing.is_empty());
        let stays = |bind, open: &Open| config.ports.get(bind).is_some_and(|port| port.speech == open.speech);
        let removed: Vec<_> = self.open.iter().filter(|(bind, open)| !stays(bind, open)).map(|(bind, _)| *bind).collect();
        for bind in removed {
            let Some(open) = self.open.remove(&bind) else { continue };
            let closing = open.closing.clone();
            open.end().await;
            tracing::info!(address = %bind, "closed");
            self.closing.push((bind, closing.clone()));
            let deadline = self.context.limits.listener_drain;
            tokio::spawn(async move { closing.finish(deadline).await });
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

    /// Ready, if somebody can be served.
    fn advance(&mut self) {
        let config = self.shared.load();
        if self.site.wants_certificate(&config.snapshot) {
            let patience = self.context.limits.own_certificate;
            self.patience.get_or_insert_with(|| Instant::now() + patience);
        }
        let waits = self.site.is_nobody() || (self.site.wants_certificate(&config.snapshot) && self.is_patient());
        // One listener that cannot be had must not take the others out of service.
        if (config.sockets().next().is_none() || !self.open.is_empty()) && !waits {
            self.context.readiness.advance(State::Ready);
        }
    }

    /// Whether a certificate of our own may be waited for.
    fn is_patient(&self) -> bool {
        self.patience.is_some_and(|patience| Instant::now() < patience)
    }

    fn report(&mut self) {
        self.advance();
        let config = self.shared.load();
        self.telemetry.listeners(self.open.len(), self.failed.len());
        let report = Arc::new(report::of(&config, &self.failed, &self.tls));
        for listener in &report.listeners {
            if let Some(fault) = &listener.fault {
                tracing::warn!(gateway = %listener.gateway, listener = listener.name, address = %listener.address, "{fault}");
            }
        }
        for service in &report.services {
            if let Some(fault) = &service.fault {
                tracing::warn!(service = %service.service, address = %service.address, "{fault}");
            }
        }
        self.reports.send_replace(report);
    }

    /// Closes every address, waits for the connections, and cuts them at `deadline`.
    async fn finish(mut self, deadline: Instant) {
        for (bind, open) in std::mem::take(&mut self.open).into_iter().chain(std::mem::take(&mut self.captured)) {
            let closing = open.closing.clone();
            open.end().await;
            self.closing.push((bind, closing));
        }
        let _ = tokio::time::timeout_at(deadline, self.all_ended()).await;
        self.cut().await;
    }

    /// Connections have their permits, and datagrams their address's signals.
    async fn all_ended(&self) {
        for (_, closing) in &self.closing {
            closing.ended().await;
        }
        self.context.permits.all_back().await;
    }

    async fn cut(mut self) {
        for (bind, open) in std::mem::take(&mut self.open).into_iter().chain(std::mem::take(&mut self.captured)) {
            open.closing.cut();
            open.accepting.abort();
            self.closing.push((bind, open.closing));
        }
        for (_, closing) in &self.closing {
            closing.cut();
        }
        let _ = tokio::time::timeout(CUT, self.all_ended()).await;
    }
}

impl Open {
    /// Takes no more. The address of connections can be had again from here on; that of datagrams only when its last session has ended,
    /// since answers go out by the same socket.
    async fn end(self) {
        self.closing.end();
        if self.speech != Speech::Udp {
            let _ = self.accepting.await;
        }
    }
}

/// Waits for another certificate of our own; for ever if none can come.
async fn changed(identity: &mut Option<watch::Receiver<Option<Arc<Certificate>>>>) {
    if let Some(receiver) = identity {
        if receiver.changed().await.is_ok() {
            return;
        }
        *identity = None;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests;
