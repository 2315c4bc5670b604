//! Connections without HTTP, by what they were routed to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::{counter, family, gauge, labels};
use crate::telemetry::Flags;

/// The connections of one rule to one backend, or those of a listener that no rule took.
#[derive(Debug, Default)]
pub(crate) struct StreamMetrics {
    active: AtomicU64,
    ends: [AtomicU64; StreamEnd::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
    millis: AtomicU64,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// Both sides have said that no more comes.
    Closed,
    /// The client, or the network to it, broke off.
    ClientReset,
    /// The endpoint, or the network to it, broke off.
    EndpointReset,
    /// Nothing went either way for as long as it may be idle.
    Idle,
    /// Still open at the deadline of a drain.
    DrainDeadline,
    /// No route of the listener takes it.
    NoRoute,
    /// The backendRef that was drawn is invalid, none has a weight, or the backend's policy cannot be carried out.
    Invalid,
    /// The backend has no endpoint.
    NoEndpoint,
    /// No connection to an endpoint could be made.
    Unreachable,
    /// The endpoint's certificate is not one that the backend's policy takes.
    Certificate,
    /// The handshake with the client failed.
    Handshake,
    /// The endpoint is a workload of the mesh, and we have no certificate to show.
    NoIdentity,
    /// The client has not proved who it is, which the workload asks of everybody by now.
    Plaintext,
}

impl StreamEnd {
    const ALL: [Self; 13] = [
        Self::Closed,
        Self::ClientReset,
        Self::EndpointReset,
        Self::Idle,
        Self::DrainDeadline,
        Self::NoRoute,
        Self::Invalid,
        Self::NoEndpoint,
        Self::Unreachable,
        Self::Certificate,
        Self::Handshake,
        Self::NoIdentity,
        Self::Plaintext,
    ];

    /// As the label `result` has it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ClientReset => "client_reset",
            Self::EndpointReset => "endpoint_reset",
            Self::Idle => "idle",
            Self::DrainDeadline => "drain_deadline",
            Self::NoRoute => "no_route",
            Self::Invalid => "invalid_backend",
            Self::NoEndpoint => "no_endpoint",
            Self::Unreachable => "unreachable",
            Self::Certificate => "certificate",
            Self::Handshake => "handshake",
            Self::NoIdentity => "no_identity",
            Self::Plaintext => "plaintext",
        }
    }

    /// As the access log has it.
    pub(crate) fn flags(self) -> Flags {
        match self {
            Self::Closed => Flags::default(),
            Self::ClientReset => Flags::DOWNSTREAM_RESET,
            Self::EndpointReset => Flags::UPSTREAM_RESET,
            Self::Idle => Flags::STREAM_IDLE,
            Self::DrainDeadline | Self::Plaintext => Flags::LOCAL_RESET,
            Self::NoRoute => Flags::NO_ROUTE,
            Self::Invalid => Flags::NO_BACKEND,
            Self::NoEndpoint => Flags::NO_HEALTHY_UPSTREAM,
            Self::Unreachable => Flags::UPSTREAM_CONNECTION_FAILURE,
            Self::Certificate | Self::NoIdentity => Flags::UPSTREAM_CONNECTION_FAILURE | Flags::UPSTREAM_CERTIFICATE,
            Self::Handshake => Flags::DOWNSTREAM_PROTOCOL_ERROR,
        }
    }
}

impl StreamMetrics {
    /// A connection began; [`StreamMetrics::ended`] has to follow.
    pub(crate) fn began(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    /// A connection that had begun ended.
    pub(crate) fn ended(&self, end: StreamEnd, after: Duration) {
        self.active.fetch_sub(1, Relaxed);
        self.ends[end as usize].fetch_add(1, Relaxed);
        self.millis.fetch_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Bytes of the client were passed on.
    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes of the endpoint were passed on.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }
}

/// As the exposition has it.
#[derive(Debug, Default)]
pub(super) struct Families {
    connections: Vec<Metric>,
    active: Vec<Metric>,
    received: Vec<Metric>,
    sent: Vec<Metric>,
    durations: Vec<Metric>,
}

impl Families {
    /// Adds connections with their names.
    pub(super) fn add(&mut self, names: &[LabelPair], streams: &StreamMetrics) {
        for (end, count) in StreamEnd::ALL.iter().zip(&streams.ends) {
            let count = count.load(Relaxed);
            if count > 0 {
                let mut all = names.to_vec();
                all.extend(labels(&[("result", end.as_str())]));
                self.connections.push(counter(all, count));
            }
        }
        let names = || names.to_vec();
        self.active.push(gauge(names(), streams.active.load(Relaxed)));
        self.received.push(counter(names(), streams.received.load(Relaxed)));
        self.sent.push(counter(names(), streams.sent.load(Relaxed)));
        self.durations.push(counter(names(), streams.millis.load(Relaxed) / 1000));
    }

    pub(super) fn finish(self) -> impl Iterator<Item = MetricFamily> {
        let (counts, now) = (MetricType::COUNTER, MetricType::GAUGE);
        let all = [
            ("isthmus_stream_connections_total", "TCP and TLS connections that ended, by result.", counts, self.connections),
            ("isthmus_stream_connections_active", "TCP and TLS connections that are open now.", now, self.active),
            ("isthmus_stream_received_bytes_total", "Bytes of TCP and TLS clients that were passed on.", counts, self.received),
            ("isthmus_stream_sent_bytes_total", "Bytes that were passed on to TCP and TLS clients.", counts, self.sent),
            (
                "isthmus_stream_duration_seconds_total",
                "How long TCP and TLS connections that ended were open, all together, in whole seconds.",
                counts,
                self.durations,
            ),
        ];
        all.into_iter().map(|(name, help, kind, mut metrics)| {
            metrics.sort_by(|a, b| a.get_label().iter().map(LabelPair::value).cmp(b.get_label().iter().map(LabelPair::value)));
            let mut family = family(name, help, kind);
            family.set_metric(metrics);
            family
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_result() {
        let streams = StreamMetrics::default();
        for _ in 0..3 {
            streams.began();
        }
        streams.ended(StreamEnd::Closed, Duration::from_millis(1500));
        streams.ended(StreamEnd::Certificate, Duration::from_millis(600));
        streams.received(7);
        streams.sent(9);
        streams.sent(1);
        for (position, end) in StreamEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, position, "{end:?} has to count at its own place");
            assert_eq!(end.flags().is_empty(), end == StreamEnd::Closed, "{end:?}");
        }
        let mut families = Families::default();
        families.add(&labels(&[("route_name", "r")]), &streams);
        let families: Vec<_> = families.finish().collect();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("families with metrics");
        let on = r#"route_name="r""#;
        let shown: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            shown,
            [
                format!(r#"isthmus_stream_connections_total{{{on},result="certificate"}} 1"#),
                format!(r#"isthmus_stream_connections_total{{{on},result="closed"}} 1"#),
                format!("isthmus_stream_connections_active{{{on}}} 1"),
                format!("isthmus_stream_received_bytes_total{{{on}}} 7"),
                format!("isthmus_stream_sent_bytes_total{{{on}}} 10"),
                format!("isthmus_stream_duration_seconds_total{{{on}}} 2"),
            ]
        );
    }
}
