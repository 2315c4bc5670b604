//! Datagrams and their sessions: part of what a port of a Gateway counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::proto::{MetricFamily, MetricType};

use super::{counter, family, gauge, labels};

/// The datagrams of one port of a Gateway.
#[derive(Debug, Default)]
pub(crate) struct UdpMetrics {
    active: AtomicU64,
    ends: [AtomicU64; UdpEnd::ALL.len()],
    received: Direction,
    sent: Direction,
    drops: [AtomicU64; UdpDrop::ALL.len()],
}

/// Datagrams that went one way.
#[derive(Debug, Default)]
struct Direction {
    datagrams: AtomicU64,
    bytes: AtomicU64,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UdpEnd {
    /// Nothing went either way for as long as it may be idle.
    Idle,
    /// Its client was silent, or had sent one datagram only, and it had to make room for another session.
    Replaced,
    /// The endpoint cannot be reached: nothing listens there, or there is no way to it.
    Unreachable,
    /// The endpoint is none of the backend any more, or the backend none of the route.
    EndpointRemoved,
    /// The listener is gone, and the time that its sessions have to end is over.
    DrainDeadline,
}

/// Why a datagram went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UdpDrop {
    /// No route is attached to the listener.
    NoRoute,
    /// The backendRef that was drawn is invalid, or none has a weight.
    Invalid,
    /// The backend has no endpoint.
    NoEndpoint,
    /// The client has too many sessions that are in use.
    ClientLimit,
    /// The listener, or all of them together, have too many sessions that are in use.
    Limit,
    /// It would have begun a session, and the listener is going away.
    Ending,
    /// No socket could be opened towards the endpoint.
    Socket,
    /// The endpoint could not be sent to.
    Endpoint,
    /// A reply that could not be sent to the client.
    Client,
}

impl UdpEnd {
    const ALL: [Self; 5] = [Self::Idle, Self::Replaced, Self::Unreachable, Self::EndpointRemoved, Self::DrainDeadline];

    /// As the label `reason` has it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Replaced => "replaced",
            Self::Unreachable => "unreachable",
            Self::EndpointRemoved => "endpoint_removed",
            Self::DrainDeadline => "drain_deadline",
        }
    }
}

impl UdpDrop {
    const ALL: [Self; 9] = [
        Self::NoRoute,
        Self::Invalid,
        Self::NoEndpoint,
        Self::ClientLimit,
        Self::Limit,
        Self::Ending,
        Self::Socket,
        Self::Endpoint,
        Self::Client,
    ];

    /// As the label `reason` has it.
    fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::Invalid => "invalid_backend",
            Self::NoEndpoint => "no_endpoint",
            Self::ClientLimit => "client_limit",
            Self::Limit => "limit",
            Self::Ending => "ending",
            Self::Socket => "socket",
            Self::Endpoint => "endpoint",
            Self::Client => "client",
        }
    }
}

/// As the exposition has it.
#[derive(Debug)]
pub(super) struct Families {
    active: MetricFamily,
    ends: MetricFamily,
    datagrams: MetricFamily,
    bytes: MetricFamily,
    drops: MetricFamily,
}

impl Families {
    pub(super) fn new() -> Self {
        let counters = |name, help| family(name, help, MetricType::COUNTER);
        Self {
            active: family("isthmus_udp_sessions_active", "UDP sessions that are open now.", MetricType::GAUGE),
            ends: counters("isthmus_udp_sessions_ended_total", "UDP sessions that ended, by reason."),
            datagrams: counters("isthmus_udp_datagrams_total", "Datagrams that were passed on."),
            bytes: counters("isthmus_udp_bytes_total", "Bytes in datagrams that were passed on."),
            drops: counters("isthmus_udp_datagrams_dropped_total", "Datagrams that went nowhere, by reason."),
        }
    }

    /// Adds a port with its names.
    pub(super) fn add(&mut self, names: &[(&str, &str)], port: &UdpMetrics) {
        let with = |name, value| {
            let mut all = labels(names);
            all.extend(labels(&[(name, value)]));
            all
        };
        self.active.mut_metric().push(gauge(labels(names), port.active.load(Relaxed)));
        for (end, count) in UdpEnd::ALL.iter().zip(&port.ends) {
            self.ends.mut_metric().push(counter(with("reason", end.as_str()), count.load(Relaxed)));
        }
        for (way, direction) in [("received", &port.received), ("sent", &port.sent)] {
            self.datagrams.mut_metric().push(counter(with("way", way), direction.datagrams.load(Relaxed)));
            self.bytes.mut_metric().push(counter(with("way", way), direction.bytes.load(Relaxed)));
        }
        for (drop, count) in UdpDrop::ALL.iter().zip(&port.drops) {
            self.drops.mut_metric().push(counter(with("reason", drop.as_str()), count.load(Relaxed)));
        }
    }

    pub(super) fn finish(self) -> [MetricFamily; 5] {
        [self.active, self.ends, self.datagrams, self.bytes, self.drops]
    }
}

impl UdpMetrics {
    /// A session began.
    pub(crate) fn began(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    /// A session that had begun ended.
    pub(crate) fn ended(&self, end: UdpEnd) {
        self.active.fetch_sub(1, Relaxed);
        self.ends[end as usize].fetch_add(1, Relaxed);
    }

    /// A client's datagram was passed on.
    pub(crate) fn received(&self, bytes: usize) {
        self.received.add(bytes);
    }

    /// An endpoint's datagram was passed on.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.add(bytes);
    }

    /// A datagram went nowhere.
    pub(crate) fn dropped(&self, drop: UdpDrop) {
        self.drops[drop as usize].fetch_add(1, Relaxed);
    }
}

impl Direction {
    fn add(&self, bytes: usize) {
        self.datagrams.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

#[cfg(test)]
impl UdpMetrics {
    /// Sessions now, ends by reason, drops by reason; what is 0 is left out.
    pub(crate) fn shown(&self) -> std::collections::BTreeMap<&'static str, u64> {
        let ends = UdpEnd::ALL.iter().zip(&self.ends).map(|(end, count)| (end.as_str(), count));
        let drops = UdpDrop::ALL.iter().zip(&self.drops).map(|(drop, count)| (drop.as_str(), count));
        let all = [("active", &self.active), ("received", &self.received.datagrams), ("sent", &self.sent.datagrams)];
        let counts = all.into_iter().chain(ends).chain(drops).map(|(name, count)| (name, count.load(Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_datagrams_are_counted_by_port_and_reason() {
        let port = UdpMetrics::default();
        port.began();
        port.began();
        port.ended(UdpEnd::Unreachable);
        port.received(40);
        port.sent(500);
        port.sent(12);
        port.dropped(UdpDrop::NoRoute);
        for (position, end) in UdpEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, position, "{end:?} has to count at its own place");
        }
        for (position, drop) in UdpDrop::ALL.into_iter().enumerate() {
            assert_eq!(drop as usize, position, "{drop:?} has to count at its own place");
        }
        let mut families = Families::new();
        families.add(&[("port", "53")], &port);
        let text = prometheus::TextEncoder::new().encode_to_string(&families.finish()).expect("families with metrics");
        let on = r#"port="53""#;
        for line in [
            format!("isthmus_udp_sessions_active{{{on}}} 1"),
            format!(r#"isthmus_udp_sessions_ended_total{{{on},reason="unreachable"}} 1"#),
            format!(r#"isthmus_udp_sessions_ended_total{{{on},reason="idle"}} 0"#),
            format!(r#"isthmus_udp_datagrams_total{{{on},way="received"}} 1"#),
            format!(r#"isthmus_udp_bytes_total{{{on},way="sent"}} 512"#),
            format!(r#"isthmus_udp_datagrams_dropped_total{{{on},reason="no_route"}} 1"#),
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
    }
}
