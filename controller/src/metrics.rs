//! What the controller counts.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use isthmus_api::{Kind, Objects};
use isthmus_push::server::Counts;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

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
    sidecars: IntGauge,
    sidecars_waiting: IntGauge,
    sidecars_lag: Gauge,
    /// Since when the slowest sidecar stands still behind.
    standing: Mutex<Option<Instant>>,
    certificates: IntCounterVec,
    authority_ends: IntGauge,
    root_ends: IntGauge,
    authority_unusable: IntGauge,
    authority_lacking: IntGauge,
    injections: IntCounterVec,
    webhook_cut: IntCounter,
    tokens: IntCounterVec,
    /// What the push server counts, once there is one.
    push: Mutex<Option<Arc<Counts>>>,
}

/// What becomes of a pod that the webhook is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Injection {
    /// It got a sidecar.
    Injected,
    /// It stays as it is.
    Skipped,
    /// It is to have a sidecar and cannot.
    Refused,
}

/// What becomes of a workload's request for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Issuance {
    /// It got one.
    Issued,
    /// The request will never be taken.
    Refused,
    /// Nothing can be signed now.
    Failed,
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
            sidecars: IntGauge::new("isthmus_controller_sidecars", "Sidecars that are connected to this instance")?,
            sidecars_waiting: IntGauge::new(
                "isthmus_controller_sidecars_waiting",
                "Ready and connected sidecars that have not acknowledged the newest configuration",
            )?,
            sidecars_lag: Gauge::new(
                "isthmus_controller_sidecars_lag_seconds",
                "How long the slowest ready and connected sidecar has been behind the newest configuration without getting on",
            )?,
            standing: Mutex::default(),
            certificates: IntCounterVec::new(
                Opts::new("isthmus_controller_mesh_certificates_total", "Requests of workloads for a certificate"),
                &["result"],
            )?,
            authority_ends: IntGauge::new(
                "isthmus_controller_mesh_authority_end_timestamp_seconds",
                "When the authority of the mesh ends, in seconds since 1970; 0 until it is known",
            )?,
            root_ends: IntGauge::new(
                "isthmus_controller_mesh_root_end_timestamp_seconds",
                "When the root of the mesh ends below which certificates are given, in seconds since 1970; 0 until it is known",
            )?,
            authority_unusable: IntGauge::new(
                "isthmus_controller_mesh_authority_unusable",
                "1 while the Secret isthmus-mesh-ca cannot be used or is gone; the last good one is used on, if there was one",
            )?,
            authority_lacking: IntGauge::new(
                "isthmus_controller_mesh_authority_lacking",
                "1 while there are pods with sidecars and the authority of the mesh is not known",
            )?,
            injections: IntCounterVec::new(
                Opts::new("isthmus_controller_injections_total", "Pods that the webhook was asked about"),
                &["result"],
            )?,
            webhook_cut: IntCounter::new(
                "isthmus_controller_webhook_connections_cut_total",
                "Connections to the webhook that were cut because their address had its share",
            )?,
            tokens: IntCounterVec::new(
                Opts::new(
                    "isthmus_controller_tokens_refused_total",
                    "Tokens of proxies, or of who says to be one, that were not taken",
                ),
                &["result"],
            )?,
            push: Mutex::default(),
        };
        metrics.registry.register(Box::new(metrics.translation.clone()))?;
        metrics.registry.register(Box::new(metrics.publications.clone()))?;
        metrics.registry.register(Box::new(metrics.objects.clone()))?;
        metrics.registry.register(Box::new(metrics.failing.clone()))?;
        metrics.registry.register(Box::new(metrics.leader.clone()))?;
        metrics.registry.register(Box::new(metrics.proxies.clone()))?;
        metrics.registry.register(Box::new(metrics.certificates.clone()))?;
        metrics.registry.register(Box::new(metrics.authority_ends.clone()))?;
        metrics.registry.register(Box::new(metrics.root_ends.clone()))?;
        metrics.registry.register(Box::new(metrics.authority_unusable.clone()))?;
        metrics.registry.register(Box::new(metrics.authority_lacking.clone()))?;
        metrics.registry.register(Box::new(metrics.injections.clone()))?;
        metrics.registry.register(Box::new(metrics.webhook_cut.clone()))?;
        metrics.registry.register(Box::new(metrics.tokens.clone()))?;
        metrics.registry.register(Box::new(metrics.waiting.clone()))?;
        metrics.registry.register(Box::new(metrics.sidecars.clone()))?;
        metrics.registry.register(Box::new(metrics.sidecars_waiting.clone()))?;
        metrics.registry.register(Box::new(metrics.sidecars_lag.clone()))?;
        Ok(metrics)
    }

    /// Everything, in the text format of Prometheus.
    ///
    /// # Errors
    /// When a family has no metrics, which does not happen here.
    pub(crate) fn text(&self) -> prometheus::Result<String> {
        let standing = *self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        self.sidecars_lag.set(standing.map_or(0.0, |since| since.elapsed().as_secs_f64()));
        let push = self.push.lock().unwrap_or_else(PoisonError::into_inner);
        for (result, count) in push
            .iter()
            .flat_map(|counts| [("denied", &counts.denied), ("limited", &counts.limited), ("unjudged", &counts.unjudged)])
        {
            let told = self.tokens.with_label_values(&[result]);
            told.inc_by(count.load(Ordering::Relaxed).saturating_sub(told.get()));
        }
        drop(push);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// From now on the push server's counts are told, too.
    pub(crate) fn serves(&self, counts: Arc<Counts>) {
        *self.push.lock().unwrap_or_else(PoisonError::into_inner) = Some(counts);
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
            (Kind::Pod, objects.pods.len()),
            (Kind::XMesh, objects.x_meshes.len()),
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

    /// How many sidecars are connected, how many of those that are ready are behind, and since when the slowest of them stands still.
    pub(crate) fn sidecars(&self, connected: usize, behind: usize, standing: Option<Instant>) {
        self.sidecars.set(i64::try_from(connected).unwrap_or(i64::MAX));
        self.sidecars_waiting.set(i64::try_from(behind).unwrap_or(i64::MAX));
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// A workload has asked for a certificate.
    pub(crate) fn issued(&self, issuance: Issuance) {
        let result = match issuance {
            Issuance::Issued => "issued",
            Issuance::Refused => "refused",
            Issuance::Failed => "failed",
        };
        self.certificates.with_label_values(&[result]).inc();
    }

    /// Whether there are pods with sidecars and the authority of the mesh is not known.
    pub(crate) fn lacks_authority(&self, lacks: bool) {
        self.authority_lacking.set(i64::from(lacks));
    }

    /// The webhook was asked about a pod.
    pub(crate) fn injection(&self, injection: Injection) {
        let result = match injection {
            Injection::Injected => "injected",
            Injection::Skipped => "skipped",
            Injection::Refused => "refused",
        };
        self.injections.with_label_values(&[result]).inc();
    }

    /// A connection to the webhook was cut, because its address had its share.
    pub(crate) fn webhook_cut(&self) {
        self.webhook_cut.inc();
    }

    /// When the authority of the mesh ends, and its root, in seconds since 1970.
    pub(crate) fn authority_ends(&self, authority: u64, root: u64) {
        self.authority_ends.set(i64::try_from(authority).unwrap_or(i64::MAX));
        self.root_ends.set(i64::try_from(root).unwrap_or(i64::MAX));
    }

    /// Whether the authority's Secret cannot be used now.
    pub(crate) fn authority_unusable(&self, is_unusable: bool) {
        self.authority_unusable.set(i64::from(is_unusable));
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
        metrics.sidecars(5, 2, None);
        metrics.issued(Issuance::Issued);
        metrics.authority_ends(1_800_000_000, 1_900_000_000);
        metrics.authority_unusable(true);
        metrics.lacks_authority(true);
        metrics.injection(Injection::Refused);
        let counts = Arc::<Counts>::default();
        metrics.serves(Arc::clone(&counts));
        counts.limited.store(7, Ordering::Relaxed);
        metrics.text().unwrap();
        counts.limited.store(9, Ordering::Relaxed);
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
            "isthmus_controller_objects{kind=\"Pod\"} 0",
            "isthmus_controller_sidecars 5",
            "isthmus_controller_sidecars_waiting 2",
            "isthmus_controller_sidecars_lag_seconds 0",
            "isthmus_controller_mesh_certificates_total{result=\"issued\"} 1",
            "isthmus_controller_mesh_authority_end_timestamp_seconds 1800000000",
            "isthmus_controller_mesh_root_end_timestamp_seconds 1900000000",
            "isthmus_controller_mesh_authority_unusable 1",
            "isthmus_controller_mesh_authority_lacking 1",
            "isthmus_controller_injections_total{result=\"refused\"} 1",
            "isthmus_controller_webhook_connections_cut_total 0",
            "isthmus_controller_tokens_refused_total{result=\"denied\"} 0",
            "isthmus_controller_tokens_refused_total{result=\"limited\"} 9",
            "isthmus_controller_tokens_refused_total{result=\"unjudged\"} 0",
        ] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
        metrics.sidecars(5, 2, Instant::now().checked_sub(Duration::from_secs(7)));
        assert!(metrics.text().unwrap().contains("isthmus_controller_sidecars_lag_seconds 7."));
    }
}
