//! Connections, by the port of the Gateway that took them: which listener a connection belongs to is known only after its TLS name or
//! its first request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use isthmus_routing::GatewayKey;
use prometheus::proto::{MetricFamily, MetricType};

use super::tracked::Tracked;
use super::{counter, family, gauge, labels};

/// The connections of every port.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    ports: Tracked<(GatewayKey, u16), PortMetrics>,
}

/// The connections of one port of a Gateway.
#[derive(Debug)]
pub(crate) struct PortMetrics {
    gateway: GatewayKey,
    port: u16,
    accepted: AtomicU64,
    active: AtomicU64,
    faults: [AtomicU64; ConnectionFault::ALL.len()],
}

/// Counts a connection as active until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    port: Arc<PortMetrics>,
}

/// Why a connection was refused or ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionFault {
    /// Too many connections are open already.
    Limit,
    /// `accept` failed, for instance for want of file descriptors.
    Accept,
    /// No ClientHello in time.
    ClientHelloTimeout,
    /// The handshake did not end in time.
    HandshakeTimeout,
    /// No certificate is there for the name that the client asked for.
    NoCertificate,
    /// The handshake failed in another way: no common version or cipher, an alert, not TLS at all.
    Handshake,
    /// No HTTP/2 preface (or first byte of a request) in time.
    PrefaceTimeout,
    /// A request's header was not complete in time.
    HeaderTimeout,
    /// A kept connection got no further request in time.
    IdleTimeout,
    /// Still open at the deadline of a drain.
    DrainDeadline,
}

impl ConnectionFault {
    const ALL: [Self; 10] = [
        Self::Limit,
        Self::Accept,
        Self::ClientHelloTimeout,
        Self::HandshakeTimeout,
        Self::NoCertificate,
        Self::Handshake,
        Self::PrefaceTimeout,
        Self::HeaderTimeout,
        Self::IdleTimeout,
        Self::DrainDeadline,
    ];

    /// As the label `reason` has it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Accept => "accept",
            Self::ClientHelloTimeout => "client_hello_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::NoCertificate => "no_certificate",
            Self::Handshake => "handshake",
            Self::PrefaceTimeout => "preface_timeout",
            Self::HeaderTimeout => "header_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::DrainDeadline => "drain_deadline",
        }
    }
}

impl Connections {
    pub(crate) fn port(&self, gateway: &GatewayKey, port: u16) -> Arc<PortMetrics> {
        let key = (gateway.clone(), port);
        self.ports.get_or_insert(&key, || (key.clone(), PortMetrics::new(gateway.clone(), port)))
    }

    pub(super) fn sweep(&self, now: Instant) {
        self.ports.sweep(now);
    }

    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let mut accepted = family("isthmus_connections_accepted_total", "Connections that were accepted.", MetricType::COUNTER);
        let mut active = family("isthmus_connections_active", "Connections that are open now.", MetricType::GAUGE);
        let mut faults = family(
            "isthmus_connection_faults_total",
            "Connections that were refused or ended before their time.",
            MetricType::COUNTER,
        );
        self.ports.each(|port| {
            let number = port.port.to_string();
            let names = [
                ("direction", "inbound"),
                ("parent_kind", "Gateway"),
                ("parent_namespace", port.gateway.namespace.as_str()),
                ("parent_name", port.gateway.name.as_str()),
                ("port", number.as_str()),
            ];
            accepted.mut_metric().push(counter(labels(&names), port.accepted.load(Relaxed)));
            active.mut_metric().push(gauge(labels(&names), port.active.load(Relaxed)));
            for (fault, count) in ConnectionFault::ALL.iter().zip(&port.faults) {
                let mut labels = labels(&names);
                labels.extend(super::labels(&[("reason", fault.as_str())]));
                faults.mut_metric().push(counter(labels, count.load(Relaxed)));
            }
        });
        vec![accepted, active, faults]
    }
}

impl PortMetrics {
    fn new(gateway: GatewayKey, port: u16) -> Self {
        Self { gateway, port, accepted: AtomicU64::new(0), active: AtomicU64::new(0), faults: Default::default() }
    }

    /// A connection was accepted; it counts as active until the guard goes.
    pub(crate) fn accepted(self: &Arc<Self>) -> ConnectionGuard {
        self.accepted.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        ConnectionGuard { port: self.clone() }
    }

    /// A connection was refused or ended before its time.
    pub(crate) fn fault(&self, fault: ConnectionFault) {
        self.faults[fault as usize].fetch_add(1, Relaxed);
    }
}

impl ConnectionGuard {
    /// The port that took the connection.
    pub(crate) fn port(&self) -> &PortMetrics {
        &self.port
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.port.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_port_and_faults_by_reason() {
        let connections = Connections::default();
        let gateway = GatewayKey { namespace: "infra".to_owned(), name: "edge".to_owned() };
        let port = connections.port(&gateway, 443);
        let first = connections.port(&gateway, 443).accepted();
        let second = port.accepted();
        second.port().fault(ConnectionFault::HeaderTimeout);
        drop(second);
        assert_eq!(port.active.load(Relaxed), 1);
        for (position, fault) in ConnectionFault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, position, "{fault:?} has to count at its own place");
        }

        let families = connections.families();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("families with metrics");
        let on = r#"direction="inbound",parent_kind="Gateway",parent_namespace="infra",parent_name="edge",port="443""#;
        for line in [
            format!("isthmus_connections_accepted_total{{{on}}} 2"),
            format!("isthmus_connections_active{{{on}}} 1"),
            format!(r#"isthmus_connection_faults_total{{{on},reason="header_timeout"}} 1"#),
            format!(r#"isthmus_connection_faults_total{{{on},reason="limit"}} 0"#),
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
        drop(first);
        assert_eq!(port.active.load(Relaxed), 0);
    }
}
