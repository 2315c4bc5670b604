//! Series of requests: parent -> route -> rule and backend -> code. A configuration holds a [`RuleMetrics`] for each rule on each
//! parent; a request adds to it through plain pointers.
//!
//! The labels say where a request was routed in words that a sidecar can use as well: `direction` is `inbound` for traffic that comes to
//! the workload or Gateway that the proxy stands before, `outbound` for what a sidecar sends for its workload; the parent is what
//! a route's parentRef names: a Gateway with a listener as its section, or a Service with a port.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use isthmus_routing::{BackendKey, GatewayKey, Identity, RouteKey, Rule, Target};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::count::{Codes, Durations};
use super::stream::{self, StreamMetrics};
use super::tracked::Tracked;
use super::{counter, family, labels};
use crate::telemetry::{Exchange, RequestRecord};

/// How labels spell a Service.
pub(crate) const SERVICE: &str = "Service";
/// The same of a workload that is called at its own address, or is the one that this sidecar stands beside.
pub(crate) const WORKLOAD: &str = "Workload";
/// The same of what is nobody's in the mesh.
pub(crate) const PASSTHROUGH: &str = "Passthrough";

/// Every series of requests.
#[derive(Debug)]
pub(crate) struct Series {
    parents: Tracked<Parent, ParentMetrics>,
    /// Requests on an address whose listeners do not take their host.
    pub(crate) unattributed: ParentMetrics,
}

/// What routes attach to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Parent {
    /// `inbound` or `outbound`.
    pub(crate) direction: &'static str,
    /// `Gateway` or `Service`; for connections that a sidecar takes `Workload` or `Passthrough` too; empty: no parent took the request.
    pub(crate) kind: &'static str,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// The listener's name, or the Service's port.
    pub(crate) section: String,
    /// Who has proved to be the client; none: nobody has. No label without one.
    pub(crate) source: Option<Identity>,
}

/// Of the connections that a sidecar takes those that are no Service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Captured<'c> {
    /// To an address of nobody in the mesh.
    Passthrough,
    /// To a workload at its own address.
    Workload(&'c Identity),
    /// To the workload that the sidecar stands beside, and whose; none: of nobody that has proved who he is.
    Inbound(Option<&'c Identity>),
}

/// Requests that one parent took.
#[derive(Debug)]
pub(crate) struct ParentMetrics {
    parent: Parent,
    routes: Tracked<Arc<RouteKey>, RouteMetrics>,
    /// Requests that no route took: none matched, or a Service has none.
    routeless: Arc<RouteMetrics>,
    /// Those of them that went nowhere.
    unrouted: Arc<BackendMetrics>,
}

/// Requests of one rule on one parent.
#[derive(Debug)]
pub(crate) struct RuleMetrics {
    parent: Arc<ParentMetrics>,
    route: Arc<RouteMetrics>,
    rule: Arc<str>,
    /// By the position of the backendRef; none: it is invalid.
    backends: Box<[Option<Arc<BackendMetrics>>]>,
    /// Requests without a backend: answered here, or their share is an invalid one's. Made when the first one comes.
    local: OnceLock<Arc<BackendMetrics>>,
    /// Its names as the access log shows them; made when the first line is written.
    shown: OnceLock<Box<[u8]>>,
}

/// Requests of one route on one parent.
#[derive(Debug)]
struct RouteMetrics {
    /// None: those of no route.
    key: Option<Arc<RouteKey>>,
    /// Made when the first request comes: of many thousand routes most are idle.
    figures: OnceLock<Box<Figures>>,
    backends: Tracked<BackendSeries, BackendMetrics>,
}

/// Names of the finest series, short of the code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct BackendSeries {
    rule: Arc<str>,
    backend: Option<Arc<BackendKey>>,
}

/// Requests of one rule at one backend.
#[derive(Debug)]
struct BackendMetrics {
    names: BackendSeries,
    codes: OnceLock<Box<Codes>>,
    streams: OnceLock<Box<StreamMetrics>>,
    /// As [`RuleMetrics::shown`].
    shown: OnceLock<Box<[u8]>>,
}

/// What is counted for each route.
#[derive(Debug, Default)]
struct Figures {
    durations: Durations,
    received: AtomicU64,
    sent: AtomicU64,
    retries: AtomicU64,
    refused_certificates: AtomicU64,
}

impl Series {
    pub(crate) fn listener(&self, gateway: &GatewayKey, name: &str) -> Arc<ParentMetrics> {
        self.parent(&Parent {
            direction: "inbound",
            kind: "Gateway",
            namespace: gateway.namespace.clone(),
            name: gateway.name.clone(),
            section: name.to_owned(),
            source: None,
        })
    }

    pub(crate) fn service(&self, service: &BackendKey) -> Arc<ParentMetrics> {
        self.parent(&Parent {
            direction: "outbound",
            kind: SERVICE,
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            section: service.port.to_string(),
            source: None,
        })
    }

    pub(crate) fn captured(&self, captured: Captured<'_>) -> Arc<ParentMetrics> {
        let (direction, kind, workload, source) = match captured {
            Captured::Passthrough => ("outbound", PASSTHROUGH, None, None),
            Captured::Workload(identity) => ("outbound", WORKLOAD, Some(identity), None),
            Captured::Inbound(source) => ("inbound", WORKLOAD, None, source),
        };
        let (namespace, name) = workload.map_or_else(Default::default, |id| (id.namespace.clone(), id.account.clone()));
        self.parent(&Parent { direction, kind, namespace, name, section: String::new(), source: source.cloned() })
    }

    fn parent(&self, parent: &Parent) -> Arc<ParentMetrics> {
        self.parents.get_or_insert(parent, || (parent.clone(), ParentMetrics::new(parent.clone())))
    }

    /// Forgets what nothing refers to for some time.
    pub(super) fn sweep(&self, now: Instant) {
        // From the leaves to the root: what holds a leaf also holds its branch.
        self.parents.each(|parent| {
            parent.routes.each(|route| route.backends.sweep(now));
            parent.routeless.backends.sweep(now);
            parent.routes.sweep(now);
        });
        self.parents.sweep(now);
    }

    /// As the exposition has it, sorted by labels.
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let mut families = Families::default();
        self.unattributed.show(&mut families);
        self.parents.each(|parent| parent.show(&mut families));
        families.finish()
    }
}

impl Default for Series {
    fn default() -> Self {
        let nobody = Parent {
            direction: "inbound",
            kind: "",
            namespace: String::new(),
            name: String::new(),
            section: String::new(),
            source: None,
        };
        Self { parents: Tracked::default(), unattributed: ParentMetrics::new(nobody) }
    }
}

impl ParentMetrics {
    fn new(parent: Parent) -> Self {
        let routeless = Arc::new(RouteMetrics::new(None));
        let unrouted = routeless.backend(&Arc::from(""), None);
        Self { parent, routes: Tracked::default(), routeless, unrouted }
    }

    /// Its names.
    pub(crate) fn parent(&self) -> &Parent {
        &self.parent
    }

    /// Counts a request that no rule took.
    pub(crate) fn count_unrouted(&self, exchange: &Exchange<'_>, duration: Duration) {
        self.unrouted.codes.get_or_init(Box::default).add(exchange.code);
        self.routeless.figures.get_or_init(Box::default).add(exchange, duration, (0, 0));
    }

    /// What counts its connections that no rule took.
    pub(crate) fn unrouted_streams(&self) -> &StreamMetrics {
        self.unrouted.streams.get_or_init(Box::default)
    }

    fn show(&self, families: &mut Families) {
        self.show_route(&self.routeless, families);
        self.routes.each(|route| self.show_route(route, families));
    }

    fn show_route(&self, route: &RouteMetrics, families: &mut Families) {
        let key = route.key.as_deref();
        if let Some(figures) = route.figures.get() {
            families.route(figures, &self.route_labels(key));
        }
        route.backends.each(|series| {
            let BackendSeries { rule, backend } = &series.names;
            if let Some(streams) = series.streams.get() {
                families.streams.add(&self.target_labels(key, rule, backend.as_deref()), streams);
            }
            let Some(codes) = series.codes.get() else { return };
            codes.each(|code, count| {
                let labels = self.backend_labels(key, rule, backend.as_deref(), code);
                families.requests.push(counter(labels, count));
            });
        });
    }

    fn route_labels(&self, route: Option<&RouteKey>) -> Vec<LabelPair> {
        let Parent { direction, kind, namespace, name, section, source } = &self.parent;
        let mut all = labels(&[
            ("direction", direction),
            ("parent_kind", kind),
            ("parent_namespace", namespace),
            ("parent_name", name),
            ("parent_section", section),
            ("route_kind", route.map_or("", |route| route.kind.as_str())),
            ("route_namespace", route.map_or("", |route| &route.namespace)),
            ("route_name", route.map_or("", |route| &route.name)),
        ]);
        if let Some(Identity { namespace, account }) = source {
            all.extend(labels(&[("source_namespace", namespace), ("source_account", account)]));
        }
        all
    }

    fn backend_labels(&self, route: Option<&RouteKey>, rule: &str, backend: Option<&BackendKey>, code: u16) -> Vec<LabelPair> {
        let mut all = self.target_labels(route, rule, backend);
        all.extend(labels(&[("code", &code.to_string())]));
        all
    }

    fn target_labels(&self, route: Option<&RouteKey>, rule: &str, backend: Option<&BackendKey>) -> Vec<LabelPair> {
        let mut all = self.route_labels(route);
        all.extend(labels(&[
            ("rule", rule),
            ("backend_namespace", backend.map_or("", |backend| &backend.namespace)),
            ("backend_name", backend.map_or("", |backend| &backend.name)),
            ("backend_port", &backend.map_or_else(String::new, |backend| backend.port.to_string())),
        ]));
        all
    }
}

impl RuleMetrics {
    /// The handle of rule number `index` of a route.
    pub(crate) fn new(parent: &Arc<ParentMetrics>, route: &RouteKey, index: usize, rule: &Rule) -> Arc<Self> {
        let name: Arc<str> = rule.name.as_deref().map_or_else(|| index.to_string().into(), Arc::from);
        let route = parent.routes.get_or_insert(route, || {
            let key = Arc::new(route.clone());
            (key.clone(), RouteMetrics::new(Some(key)))
        });
        let backend = |target: &Target| match target {
            Target::Backend(key) => Some(route.backend(&name, Some(key))),
            Target::Invalid => None,
        };
        let backends = rule.backends.iter().map(|backend_ref| backend(&backend_ref.target)).collect();
        Arc::new(Self { parent: parent.clone(), route, rule: name, backends, local: OnceLock::new(), shown: OnceLock::new() })
    }

    /// The handle of what a Service without routes does: everything goes to its endpoints.
    pub(crate) fn direct(parent: &Arc<ParentMetrics>, service: &BackendKey) -> Arc<Self> {
        let (route, rule) = (parent.routeless.clone(), Arc::from(""));
        let backends = [Some(route.backend(&rule, Some(service)))].into();
        Arc::new(Self { parent: parent.clone(), route, rule, backends, local: OnceLock::new(), shown: OnceLock::new() })
    }

    /// Its parent's names.
    pub(crate) fn parent(&self) -> &Parent {
        &self.parent.parent
    }

    /// Its route; none: the parent has no routes.
    pub(crate) fn route(&self) -> Option<&RouteKey> {
        self.route.key.as_deref()
    }

    /// The rule's name in the object, else its number from 0; empty without a route.
    pub(crate) fn rule(&self) -> &str {
        &self.rule
    }

    /// What the backendRef at this position refers to; none if it is invalid.
    pub(crate) fn backend(&self, position: usize) -> Option<&BackendKey> {
        self.backends.get(position)?.as_ref()?.names.backend.as_deref()
    }

    /// Its names as a log shows them: made by `show` once, since they are the same in every line.
    pub(crate) fn shown(&self, show: impl FnOnce(&Self) -> Box<[u8]>) -> &[u8] {
        self.shown.get_or_init(|| show(self))
    }

    /// The same of the backend of a backendRef; none if none was chosen or it is invalid.
    pub(crate) fn shown_backend(&self, position: Option<usize>, show: impl FnOnce(&BackendKey) -> Box<[u8]>) -> Option<&[u8]> {
        let backend = self.backends.get(position?)?.as_ref()?;
        let key = backend.names.backend.as_deref()?;
        Some(backend.shown.get_or_init(|| show(key)))
    }

    /// What counts its connections to the backend of a backendRef; without one, or with an invalid one, those that went nowhere.
    pub(crate) fn streams(&self, position: Option<usize>) -> &StreamMetrics {
        self.at(position).streams.get_or_init(Box::default)
    }

    /// Counts a request.
    pub(crate) fn count(&self, record: &RequestRecord, exchange: &Exchange<'_>, duration: Duration) {
        self.at(record.backend).codes.get_or_init(Box::default).add(exchange.code);
        let retries = u64::from(record.attempts.saturating_sub(1));
        let refused = u64::from(record.refused_certificates);
        self.route.figures.get_or_init(Box::default).add(exchange, duration, (retries, refused));
    }

    fn at(&self, position: Option<usize>) -> &BackendMetrics {
        let backend = position.and_then(|position| self.backends.get(position)?.as_ref());
        backend.unwrap_or_else(|| self.local.get_or_init(|| self.route.backend(&self.rule, None)))
    }
}

impl BackendMetrics {
    fn new(names: BackendSeries) -> Self {
        Self { names, codes: OnceLock::new(), streams: OnceLock::new(), shown: OnceLock::new() }
    }
}

impl RouteMetrics {
    fn new(key: Option<Arc<RouteKey>>) -> Self {
        Self { key, figures: OnceLock::new(), backends: Tracked::default() }
    }

    fn backend(&self, rule: &Arc<str>, backend: Option<&BackendKey>) -> Arc<BackendMetrics> {
        let names = BackendSeries { rule: rule.clone(), backend: backend.cloned().map(Arc::new) };
        let make = || (names.clone(), BackendMetrics::new(names.clone()));
        self.backends.get_or_insert(&names, make)
    }
}

impl Figures {
    fn add(&self, exchange: &Exchange<'_>, duration: Duration, (retries, refused): (u64, u64)) {
        self.durations.observe(duration);
        for (total, more) in [
            (&self.received, exchange.bytes_received),
            (&self.sent, exchange.bytes_sent),
            (&self.retries, retries),
            (&self.refused_certificates, refused),
        ] {
            if more > 0 {
                total.fetch_add(more, Relaxed);
            }
        }
    }
}

/// Samples of every family of series.
#[derive(Default)]
struct Families {
    requests: Vec<Metric>,
    durations: Vec<Metric>,
    received: Vec<Metric>,
    sent: Vec<Metric>,
    retries: Vec<Metric>,
    refused_certificates: Vec<Metric>,
    streams: stream::Families,
}

impl Families {
    fn route(&mut self, figures: &Figures, labels: &[LabelPair]) {
        let mut histogram = Metric::from_label(labels.to_vec());
        histogram.set_histogram(figures.durations.histogram());
        self.durations.push(histogram);
        self.received.push(counter(labels.to_vec(), figures.received.load(Relaxed)));
        self.sent.push(counter(labels.to_vec(), figures.sent.load(Relaxed)));
        self.retries.push(counter(labels.to_vec(), figures.retries.load(Relaxed)));
        self.refused_certificates.push(counter(labels.to_vec(), figures.refused_certificates.load(Relaxed)));
    }

    fn finish(self) -> Vec<MetricFamily> {
        let all = [
            ("isthmus_requests_total", "Requests by what answered them.", MetricType::COUNTER, self.requests),
            (
                "isthmus_request_duration_seconds",
                "From a request's complete header to the end of its response.",
                MetricType::HISTOGRAM,
                self.durations,
            ),
            ("isthmus_received_bytes_total", "Bytes of request bodies.", MetricType::COUNTER, self.received),
            ("isthmus_sent_bytes_total", "Bytes of response bodies.", MetricType::COUNTER, self.sent),
            ("isthmus_retries_total", "Tries after the first.", MetricType::COUNTER, self.retries),
            (
                "isthmus_refused_certificates_total",
                "Tries at endpoints whose certificate their BackendTLSPolicy does not take.",
                MetricType::COUNTER,
                self.refused_certificates,
            ),
        ];
        let finish = |(name, help, kind, mut metrics): (&str, &str, MetricType, Vec<Metric>)| {
            metrics.sort_by(|a, b| a.get_label().iter().map(LabelPair::value).cmp(b.get_label().iter().map(LabelPair::value)));
            let mut family = family(name, help, kind);
            family.set_metric(metrics);
            family
        };
        all.into_iter().map(finish).chain(self.streams.finish()).collect()
    }
}

#[cfg(test)]
mod tests;
