//! What the controller counts.

use std::time::Duration;

use isthmus_api::{Kind, Objects};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::watch::Health;

/// Counters and gauges, all named `isthmus_controller_*`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    translation: Histogram,
    publications: IntCounter,
    objects: IntGaugeVec,
    failing: IntGaugeVec,
    leader: IntGauge,
    proxies: IntGauge,
    waiting: IntGauge,
}

impl Metrics {
    /// Nothing is counted yet.
    ///
    /// # Errors
    /// When a name is taken twice or malformed, which a test rules out.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let buckets = prometheus::exponential_buckets(0.0001, 4.0, 9)?;
        let translation = HistogramOpts::new("isthmus_controller_translation_seconds", "How long translating all objects took")
            .buckets(buckets);
        let metrics = Self {
            registry: Registry::new(),
            translation: Histogram::with_opts(translation)?,
            publications: IntCounter::new(
                "isthmus_controller_publications_total",
                "Translations whose snapshot differed from the one before",
            )?,
            objects: IntGaugeVec::new(Opts::new("isthmus_controller_objects", "Objects that are known"), &["kind"])?,
            failing: IntGaugeVec::new(
                Opts::new("isthmus_controller_watch_failing", "Watches that fail now and are tried again"),
                &["kind"],
            )?,
            leader: IntGauge::new("isthmus_controller_leader", "1 while this instance leads")?,
            proxies: IntGauge::new("isthmus_controller_proxies", "Proxies that are connected to this instance")?,
            waiting: IntGauge::new(
                "isthmus_controller_proxies_waiting",
                "Ready proxies that have not acknowledged the newest configuration",
            )?,
        };
        metrics.registry.register(Box::new(metrics.translation.clone()))?;
        metrics.registry.register(Box::new(metrics.publications.clone()))?;
        metrics.registry.register(Box::new(metrics.objects.clone()))?;
        metrics.registry.register(Box::new(metrics.failing.clone()))?;
        metrics.registry.register(Box::new(metrics.leader.clone()))?;
        metrics.registry.register(Box::new(metrics.proxies.clone()))?;
        metrics.registry.register(Box::new(metrics.waiting.clone()))?;
        Ok(metrics)
    }

    /// Everything, in the text format of Prometheus.
    ///
    /// # Errors
    /// When a family has no metrics, which does not happen here.
    pub(crate) fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// A translation took so long.
    pub(crate) fn translated(&self, took: Duration, objects: &Objects) {
        self.translation.observe(took.as_secs_f64());
        for (kind, count) in [
            (Kind::GatewayClass, objects.gateway_classes.len()),
            (Kind::Gateway, objects.gateways.len()),
            (Kind::ListenerSet, objects.listener_sets.len()),
            (Kind::HttpRoute, objects.http_routes.len()),
            (Kind::GrpcRoute, objects.grpc_routes.len()),
            (Kind::TlsRoute, objects.tls_routes.len()),
            (Kind::TcpRoute, objects.tcp_routes.len()),
            (Kind::UdpRoute, objects.udp_routes.len()),
            (Kind::BackendTlsPolicy, objects.backend_tls_policies.len()),
            (Kind::ReferenceGrant, objects.reference_grants.len()),
            (Kind::Service, objects.services.len()),
            (Kind::EndpointSlice, objects.endpoint_slices.len()),
            (Kind::Secret, objects.secrets.len()),
            (Kind::ConfigMap, objects.config_maps.len()),
            (Kind::GatewayParameters, objects.gateway_parameters.len()),
        ] {
            self.objects.with_label_values(&[kind.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Proxies are to serve something else than before.
    pub(crate) fn published(&self) {
        self.publications.inc();
    }

    /// Which watches fail.
    pub(crate) fn watches(&self, health: &Health) {
        for kind in Kind::ALL {
            let failing = i64::try_from(health.failing(kind)).unwrap_or(i64::MAX);
            self.failing.with_label_values(&[kind.as_str()]).set(failing);
        }
    }

    /// Whether this instance leads now.
    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// How many proxies are connected, and how many of those that are ready are waited for.
    pub(crate) fn proxies(&self, connected: usize, waiting: usize) {
        self.proxies.set(i64::try_from(connected).unwrap_or(i64::MAX));
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_the_text() {
        let metrics = Metrics::new().unwrap();
        metrics.translated(Duration::from_millis(3), &Objects::default());
        metrics.published();
        metrics.watches(&Health::default());
        metrics.leads(true);
        metrics.proxies(3, 1);
        let text = metrics.text().unwrap();
        for line in [
            "isthmus_controller_translation_seconds_count 1",
            "isthmus_controller_publications_total 1",
            "isthmus_controller_objects{kind=\"HTTPRoute\"} 0",
            "isthmus_controller_objects{kind=\"UDPRoute\"} 0",
            "isthmus_controller_objects{kind=\"BackendTLSPolicy\"} 0",
            "isthmus_controller_watch_failing{kind=\"HTTPRoute\"} 0",
            "isthmus_controller_leader 1",
            "isthmus_controller_proxies 3",
            "isthmus_controller_proxies_waiting 1",
        ] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
    }
}
