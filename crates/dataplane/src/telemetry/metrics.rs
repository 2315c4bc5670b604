//! Metrics, in the text format of Prometheus. `docs/telemetry.md` lists them.
//!
//! What a request touches is our own ([`series`], [`connection`]): plain atomics that a handle points at, without a look-up by
//! labels. Everything else is the `prometheus` crate, and so is the text.

pub(crate) mod connection;
mod count;
pub(crate) mod series;
pub(crate) mod stream;
mod tracked;
pub(crate) mod udp;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use isthmus_routing::Version;
use prometheus::core::Collector;
use prometheus::proto::{Counter, Gauge as GaugeValue, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// Every metric of a data plane.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(super) series: series::Series,
    pub(super) connections: connection::Connections,
    pub(super) config: ConfigMetrics,
    pub(super) access_log: Outcomes,
    pub(super) spans: Outcomes,
}

/// What became of configurations and listeners.
#[derive(Debug)]
pub(crate) struct ConfigMetrics {
    info: IntGaugeVec,
    applied: IntCounter,
    rejected: IntCounter,
    last_success: Gauge,
    open: IntGauge,
    failed: IntGauge,
    /// Without a label; without a series where there is no mesh.
    certificate_end: IntGaugeVec,
}

/// Things that are either delivered or given up.
#[derive(Debug, Clone)]
pub(crate) struct Outcomes {
    /// Handed over.
    pub(crate) delivered: IntCounter,
    /// Given up because the receiver is slow or gone.
    pub(crate) dropped: IntCounter,
}

impl Metrics {
    /// The text exposition. Series that nothing of the served configuration refers to leave [`tracked::KEEP`] after the first
    /// exposition that found them so; `now` is the clock for that.
    pub(crate) fn expose(&self, now: Instant) -> String {
        self.series.sweep(now);
        self.connections.sweep(now);
        let mut families = self.registry.gather();
        families.extend(self.series.families());
        families.extend(self.connections.families());
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            // Only a family without a metric or a name can be at fault, and neither is left.
            tracing::error!("metrics cannot be written: {error}");
        }
        text
    }
}

impl ConfigMetrics {
    pub(crate) fn served(&self, version: Version, at: SystemTime) {
        self.info.reset();
        self.info.with_label_values(&[&version.to_string()]).set(1);
        self.applied.inc();
        self.last_success.set(at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
    }

    pub(crate) fn rejected(&self) {
        self.rejected.inc();
    }

    pub(crate) fn listeners(&self, open: usize, failed: usize) {
        self.open.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.failed.set(i64::try_from(failed).unwrap_or(i64::MAX));
    }

    pub(crate) fn certificate_ends(&self, ends: Option<u64>) {
        match ends {
            Some(ends) => self.certificate_end.with_label_values::<&str>(&[]).set(i64::try_from(ends).unwrap_or(i64::MAX)),
            None => self.certificate_end.reset(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let outcomes = |name, help| {
            let both = register(&registry, IntCounterVec::new(Opts::new(name, help), &["outcome"]));
            Outcomes { delivered: both.with_label_values(&["delivered"]), dropped: both.with_label_values(&["dropped"]) }
        };
        let listeners =
            register(&registry, IntGaugeVec::new(Opts::new("isthmus_listeners", "Listening sockets by state."), &["state"]));
        register(&registry, IntGaugeVec::new(Opts::new("isthmus_build_info", "The running version; always 1."), &["version"]))
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Self {
            config: ConfigMetrics {
                info: register(
                    &registry,
                    IntGaugeVec::new(
                        Opts::new("isthmus_config_info", "The version of the served snapshot; always 1."),
                        &["version"],
                    ),
                ),
                applied: register(
                    &registry,
                    IntCounter::new("isthmus_config_applied_total", "Snapshots that were put in service."),
                ),
                rejected: register(
                    &registry,
                    IntCounter::new("isthmus_config_rejected_total", "Snapshots that could not be put in service."),
                ),
                last_success: register(
                    &registry,
                    Gauge::new(
                        "isthmus_config_last_success_timestamp_seconds",
                        "When a snapshot was last put in service, in seconds since 1970.",
                    ),
                ),
                open: listeners.with_label_values(&["open"]),
                failed: listeners.with_label_values(&["failed"]),
                certificate_end: register(
                    &registry,
                    IntGaugeVec::new(
                        Opts::new(
                            "isthmus_mesh_certificate_end_timestamp_seconds",
                            "When the certificate of this proxy in the mesh ends, in seconds since 1970; 0 while it has none.",
                        ),
                        &[],
                    ),
                ),
            },
            access_log: outcomes("isthmus_access_log_lines_total", "Lines of the access log by outcome."),
            spans: outcomes("isthmus_spans_total", "Spans for the OTLP endpoint by outcome."),
            series: series::Series::default(),
            connections: connection::Connections::default(),
            registry,
        }
    }
}

/// Registers a metric whose names are constants of this module.
fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("names and labels are constants, and a test makes them all");
    registry.register(Box::new(metric.clone())).expect("each name is registered once, and a test registers them all");
    metric
}

/// An empty family.
fn family(name: &str, help: &str, kind: MetricType) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family
}

/// Labels in the given order.
fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    pairs.iter().map(pair).collect()
}

/// A sample of a counter.
fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

/// A sample of a gauge.
fn gauge(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut gauge = GaugeValue::default();
    gauge.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Exchange;

    #[test]
    fn the_metrics_of_the_process_are_there_from_the_start() {
        let metrics = Metrics::default();
        let version = isthmus_routing::Snapshot::default().version();
        metrics.config.served(version, UNIX_EPOCH + std::time::Duration::from_millis(1500));
        metrics.config.rejected();
        metrics.config.listeners(3, 1);
        metrics.access_log.dropped.inc();
        let text = metrics.expose(Instant::now());
        for line in [
            format!("isthmus_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
            format!("isthmus_config_info{{version=\"{version}\"}} 1"),
            "isthmus_config_applied_total 1".to_owned(),
            "isthmus_config_rejected_total 1".to_owned(),
            "isthmus_config_last_success_timestamp_seconds 1.5".to_owned(),
            "isthmus_listeners{state=\"open\"} 3".to_owned(),
            "isthmus_listeners{state=\"failed\"} 1".to_owned(),
            "isthmus_access_log_lines_total{outcome=\"dropped\"} 1".to_owned(),
            "isthmus_spans_total{outcome=\"delivered\"} 0".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn only_the_served_version_is_shown() {
        let metrics = Metrics::default();
        let first = isthmus_routing::Snapshot::default();
        let mut second = first.clone();
        second
            .gateways
            .insert(isthmus_routing::GatewayKey { namespace: "a".to_owned(), name: "b".to_owned() }, std::sync::Arc::default());
        metrics.config.served(first.version(), UNIX_EPOCH);
        metrics.config.served(second.version(), UNIX_EPOCH);
        let text = metrics.expose(Instant::now());
        let shown: Vec<_> = text.lines().filter(|line| line.starts_with("isthmus_config_info{")).collect();
        assert_eq!(shown, [format!("isthmus_config_info{{version=\"{}\"}} 1", second.version())]);
    }

    #[test]
    fn the_end_of_our_certificate_is_shown_where_there_is_a_mesh() {
        let metrics = Metrics::default();
        for (ends, shown) in [(None, None), (Some(0), Some("0")), (Some(1_800_000_000), Some("1800000000")), (None, None)] {
            metrics.config.certificate_ends(ends);
            let text = metrics.expose(Instant::now());
            let name = "isthmus_mesh_certificate_end_timestamp_seconds ";
            assert_eq!(text.lines().find_map(|line| line.strip_prefix(name)), shown, "{ends:?}");
        }
    }

    #[test]
    fn every_metric_is_in_the_docs() {
        let metrics = Metrics::default();
        metrics.config.certificate_ends(Some(0));
        let gateway = isthmus_routing::GatewayKey { namespace: "a".to_owned(), name: "b".to_owned() };
        let (request, ()) = http::Request::new(()).into_parts();
        let exchange = Exchange {
            request: &request,
            code: 404,
            bytes_received: 0,
            bytes_sent: 0,
            client: None,
            local: None,
            tls: false,
            client_certificate: None,
        };
        metrics.series.listener(&gateway, "http").count_unrouted(&exchange, std::time::Duration::ZERO);
        let streams = metrics.series.listener(&gateway, "tcp");
        streams.unrouted_streams().began();
        streams.unrouted_streams().ended(crate::telemetry::StreamEnd::NoRoute, std::time::Duration::ZERO);
        let owner = crate::config::Owner::Gateway(gateway);
        let _connection = metrics.connections.port(&owner, 80).accepted();
        metrics.connections.port(&owner, 53).udp().began();
        metrics.config.served(isthmus_routing::Snapshot::default().version(), UNIX_EPOCH);
        let docs = include_str!("../../../../docs/telemetry.md");
        let text = metrics.expose(Instant::now());
        let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert_eq!(names.len(), 28, "{names:?}");
        for name in names {
            assert!(docs.contains(&format!("`{name}`")), "{name}");
        }
    }
}
