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
mod tests {
    use isthmus_routing::{Matches, RouteKind, Timeouts, WeightedBackend};

    use super::*;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::metrics::tracked::KEEP;
    use crate::telemetry::{Flags, TraceContext};

    fn gateway() -> GatewayKey {
        GatewayKey { namespace: "infra".to_owned(), name: "edge".to_owned() }
    }

    fn route(name: &str) -> RouteKey {
        RouteKey { namespace: "shop".to_owned(), name: name.to_owned(), kind: RouteKind::Http }
    }

    fn rule(name: Option<&str>, services: &[Option<&str>]) -> Rule {
        let target = |service: &Option<&str>| match service {
            Some(name) => Target::Backend(BackendKey {
                namespace: "shop".to_owned(),
                name: (*name).to_owned(),
                port: 8080,
                transport: isthmus_routing::Transport::Tcp,
            }),
            None => Target::Invalid,
        };
        let backend = |service| WeightedBackend { weight: 1, target: target(service), filters: Vec::new() };
        Rule {
            name: name.map(str::to_owned),
            matches: Matches::Http(Vec::new()),
            filters: Vec::new(),
            backends: services.iter().map(backend).collect(),
            timeouts: Timeouts::default(),
            retry: None,
            invalid: false,
        }
    }

    fn count(handle: &Arc<RuleMetrics>, backend: Option<usize>, code: u16, attempts: u32) {
        let mut record = RequestRecord::new(TraceContext::default());
        record.rule = Some(handle.clone());
        record.backend = backend;
        record.attempts = attempts;
        record.flags = Flags::default();
        let (request, ()) = http::Request::new(()).into_parts();
        handle.count(&record, &exchange(&request, code), Duration::from_millis(7));
    }

    fn exchange(request: &http::request::Parts, code: u16) -> Exchange<'_> {
        Exchange {
            request,
            code,
            bytes_received: 3,
            bytes_sent: 5,
            client: None,
            local: None,
            tls: false,
            client_certificate: None,
        }
    }

    const LISTENER: &str =
        r#"direction="inbound",parent_kind="Gateway",parent_namespace="infra",parent_name="edge",parent_section="http""#;

    fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(start)).collect()
    }

    #[test]
    fn requests_are_counted_by_rule_backend_and_code_and_timed_by_route() {
        let metrics = Metrics::default();
        let listener = metrics.series.listener(&gateway(), "http");
        let a = RuleMetrics::new(&listener, &route("r"), 0, &rule(None, &[Some("a"), None]));
        let b = RuleMetrics::new(&listener, &route("r"), 1, &rule(Some("pay"), &[Some("b")]));
        count(&a, Some(0), 200, 1);
        count(&a, Some(0), 200, 3);
        count(&a, Some(0), 503, 1);
        count(&a, Some(1), 500, 0);
        count(&a, None, 302, 0);
        count(&b, Some(0), 200, 1);
        assert_eq!((a.rule(), b.rule(), a.backend(1), a.backend(9)), ("0", "pay", None, None));

        let text = metrics.expose(Instant::now());
        let on = format!(r#"{LISTENER},route_kind="HTTPRoute",route_namespace="shop",route_name="r""#);
        let at = |rule: &str, name: &str, port: &str, code: u16, count: u64| {
            let namespace = if port.is_empty() { "" } else { "shop" };
            format!(
                r#"isthmus_requests_total{{{on},rule="{rule}",backend_namespace="{namespace}",backend_name="{name}",backend_port="{port}",code="{code}"}} {count}"#
            )
        };
        assert_eq!(
            lines(&text, "isthmus_requests_total"),
            [
                at("0", "", "", 302, 1),
                at("0", "", "", 500, 1),
                at("0", "a", "8080", 200, 2),
                at("0", "a", "8080", 503, 1),
                at("pay", "b", "8080", 200, 1),
            ]
        );
        for line in [
            format!(r#"isthmus_request_duration_seconds_bucket{{{on},le="0.005"}} 0"#),
            format!(r#"isthmus_request_duration_seconds_bucket{{{on},le="0.01"}} 6"#),
            format!("isthmus_request_duration_seconds_count{{{on}}} 6"),
            format!("isthmus_received_bytes_total{{{on}}} 18"),
            format!("isthmus_sent_bytes_total{{{on}}} 30"),
            format!("isthmus_retries_total{{{on}}} 2"),
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn requests_without_a_rule_have_empty_labels() {
        let metrics = Metrics::default();
        let (request, ()) = http::Request::new(()).into_parts();
        let listener = metrics.series.listener(&gateway(), "http");
        listener.count_unrouted(&exchange(&request, 404), Duration::ZERO);
        metrics.series.unattributed.count_unrouted(&exchange(&request, 404), Duration::ZERO);
        let text = metrics.expose(Instant::now());
        let rest = r#"route_kind="",route_namespace="",route_name="",rule="",backend_namespace="",backend_name="",backend_port="",code="404"} 1"#;
        let nobody = r#"direction="inbound",parent_kind="",parent_namespace="",parent_name="",parent_section="""#;
        assert_eq!(
            lines(&text, "isthmus_requests_total"),
            [format!("isthmus_requests_total{{{nobody},{rest}"), format!("isthmus_requests_total{{{LISTENER},{rest}")]
        );
    }

    #[test]
    fn label_values_are_escaped() {
        let metrics = Metrics::default();
        let listener = metrics.series.listener(&gateway(), "a\"b\\c\nd");
        let (request, ()) = http::Request::new(()).into_parts();
        listener.count_unrouted(&exchange(&request, 404), Duration::ZERO);
        let text = metrics.expose(Instant::now());
        assert!(text.contains(r#"parent_section="a\"b\\c\nd""#), "{text}");
    }

    #[test]
    fn series_outlive_a_change_of_the_configuration_and_vanish_after_their_rule() {
        let metrics = Metrics::default();
        let listener = metrics.series.listener(&gateway(), "http");
        let before = RuleMetrics::new(&listener, &route("r"), 0, &rule(None, &[Some("a"), Some("b")]));
        let gone = RuleMetrics::new(&listener, &route("gone"), 0, &rule(None, &[Some("a")]));
        count(&before, Some(0), 200, 1);
        count(&before, Some(1), 200, 1);
        count(&gone, Some(0), 200, 1);
        // The next configuration has the first rule without its second backend, and no other route.
        let after = RuleMetrics::new(&listener, &route("r"), 0, &rule(None, &[Some("a")]));
        drop((before, gone));
        count(&after, Some(0), 200, 1);

        let start = Instant::now();
        let shown = |text: &str| lines(text, "isthmus_requests_total").len();
        assert_eq!(shown(&metrics.expose(start)), 3);
        assert_eq!(shown(&metrics.expose(start + KEEP - Duration::from_secs(1))), 3);
        let text = metrics.expose(start + KEEP);
        assert_eq!(shown(&text), 1, "{text}");
        assert!(text.contains(r#"backend_name="a",backend_port="8080",code="200"} 2"#), "{text}");
        assert_eq!(lines(&text, "isthmus_request_duration_seconds_count").len(), 1);

        drop((after, listener));
        metrics.expose(start + KEEP);
        let text = metrics.expose(start + KEEP * 3);
        assert_eq!(shown(&text), 0, "{text}");
    }
}
