//! Connections, by the port of the Gateway or Service that took them: which listener a connection belongs to is known only after its TLS name or
//! its first request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prometheus::proto::{MetricFamily, MetricType};

use super::series::{PASSTHROUGH, SERVICE, WORKLOAD};
use super::tracked::Tracked;
use super::udp::{self, UdpMetrics};
use super::{counter, family, gauge, labels};
use crate::config::Owner;

/// The connections of every port.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    ports: Tracked<(Whose, u16), PortMetrics>,
}

/// Whose connections they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Owner(Owner),
    Way(Way),
}

/// Of the connections that a sidecar takes those that are no Service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// Of the workload, and refused before it was known, or without it mattering, where they go.
    Outbound,
    /// Of the workload, to addresses of nobody in the mesh.
    Passthrough,
    /// Of the workload, to another one at its own address.
    Workload,
    /// To the workload.
    Inbound,
}

/// The connections of one port.
#[derive(Debug)]
pub(crate) struct PortMetrics {
    whose: Whose,
    port: u16,
    accepted: AtomicU64,
    active: AtomicU64,
    faults: [AtomicU64; ConnectionFault::ALL.len()],
    /// Made when the port first takes datagrams: one number may be two ports.
    udp: OnceLock<Box<UdpMetrics>>,
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
    /// No listener takes the server name that the client asked for, or it names none and every listener wants one.
    NoCertificate,
    /// The client showed no certificate where one is wanted.
    ClientCertificateAbsent,
    /// No authority of the listener has signed the client's certificate.
    ClientCertificateUnknownAuthority,
    /// The client's certificate has expired.
    ClientCertificateExpired,
    /// The client's certificate is not valid yet.
    ClientCertificateNotYetValid,
    /// The client's certificate is not valid for another reason: not for clients, broken.
    ClientCertificateInvalid,
    /// The handshake failed in another way: no common version or cipher, an alert, a ClientHello that is too long or broken, not TLS at all.
    Handshake,
    /// The connection does not begin with a header of the PROXY protocol, though every one has to, or it did not come in time.
    ProxyProtocol,
    /// No route takes a connection without HTTP.
    NoRoute,
    /// It has a route, and that leads to no backend with an endpoint.
    NoBackend,
    /// No connection to an endpoint could be made for it.
    Connect,
    /// No HTTP/2 preface (or first byte of a request) in time.
    PrefaceTimeout,
    /// A request's header was not complete in time.
    HeaderTimeout,
    /// A kept connection got no further request in time, or one without HTTP was silent for too long.
    IdleTimeout,
    /// Still open at the deadline of a drain.
    DrainDeadline,
    /// It was going to a port of a sidecar, or of this pod where it must not.
    Loop,
    /// It was going nowhere else: nothing has redirected it, so that it came to a sidecar by mistake.
    NotRedirected,
    /// The Service that it was going to has no such port.
    NoServicePort,
    /// Nobody is known where it was going, and nobody tells who is.
    UnknownDestination,
    /// The configuration of the Service that it was going to did not come in time.
    NotHeld,
    /// It came in the clear, and the workload takes none of that on this port.
    Plaintext,
    /// It asked for the identity of another workload.
    OtherIdentity,
}

impl ConnectionFault {
    /// In the order of their declaration.
    pub(crate) const ALL: [Self; 26] = [
        Self::Limit,
        Self::Accept,
        Self::ClientHelloTimeout,
        Self::HandshakeTimeout,
        Self::NoCertificate,
        Self::ClientCertificateAbsent,
        Self::ClientCertificateUnknownAuthority,
        Self::ClientCertificateExpired,
        Self::ClientCertificateNotYetValid,
        Self::ClientCertificateInvalid,
        Self::Handshake,
        Self::ProxyProtocol,
        Self::NoRoute,
        Self::NoBackend,
        Self::Connect,
        Self::PrefaceTimeout,
        Self::HeaderTimeout,
        Self::IdleTimeout,
        Self::DrainDeadline,
        Self::Loop,
        Self::NotRedirected,
        Self::NoServicePort,
        Self::UnknownDestination,
        Self::NotHeld,
        Self::Plaintext,
        Self::OtherIdentity,
    ];

    /// As the label `reason` has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Accept => "accept",
            Self::ClientHelloTimeout => "client_hello_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::NoCertificate => "no_certificate",
            Self::ClientCertificateAbsent => "client_certificate_absent",
            Self::ClientCertificateUnknownAuthority => "client_certificate_unknown_authority",
            Self::ClientCertificateExpired => "client_certificate_expired",
            Self::ClientCertificateNotYetValid => "client_certificate_not_yet_valid",
            Self::ClientCertificateInvalid => "client_certificate_invalid",
            Self::Handshake => "handshake",
            Self::ProxyProtocol => "proxy_protocol",
            Self::NoRoute => "no_route",
            Self::NoBackend => "no_backend",
            Self::Connect => "connect",
            Self::PrefaceTimeout => "preface_timeout",
            Self::HeaderTimeout => "header_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::DrainDeadline => "drain_deadline",
            Self::Loop => "loop",
            Self::NotRedirected => "not_redirected",
            Self::NoServicePort => "no_service_port",
            Self::UnknownDestination => "unknown_destination",
            Self::NotHeld => "not_held",
            Self::Plaintext => "plaintext",
            Self::OtherIdentity => "other_identity",
        }
    }
}

impl Connections {
    pub(crate) fn port(&self, owner: &Owner, port: u16) -> Arc<PortMetrics> {
        self.get(Whose::Owner(owner.clone()), port)
    }

    pub(crate) fn captured(&self, way: Way, port: u16) -> Arc<PortMetrics> {
        self.get(Whose::Way(way), port)
    }

    fn get(&self, whose: Whose, port: u16) -> Arc<PortMetrics> {
        let key = (whose, port);
        self.ports.get_or_insert(&key, || (key.clone(), PortMetrics::new(key.0.clone(), port)))
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
        let mut datagrams = udp::Families::new();
        self.ports.each(|port| {
            let number = port.port.to_string();
            let (direction, kind, namespace, name) = match &port.whose {
                Whose::Owner(Owner::Gateway(key)) => ("inbound", "Gateway", key.namespace.as_str(), key.name.as_str()),
                Whose::Owner(Owner::Service(key)) => ("outbound", SERVICE, key.namespace.as_str(), key.name.as_str()),
                Whose::Way(Way::Outbound) => ("outbound", "", "", ""),
                Whose::Way(Way::Passthrough) => ("outbound", PASSTHROUGH, "", ""),
                Whose::Way(Way::Workload) => ("outbound", WORKLOAD, "", ""),
                Whose::Way(Way::Inbound) => ("inbound", WORKLOAD, "", ""),
            };
            let names = [
                ("direction", direction),
                ("parent_kind", kind),
                ("parent_namespace", namespace),
                ("parent_name", name),
                ("port", number.as_str()),
            ];
            if let Some(udp) = port.udp.get() {
                datagrams.add(&names, udp);
            }
            accepted.mut_metric().push(counter(labels(&names), port.accepted.load(Relaxed)));
            active.mut_metric().push(gauge(labels(&names), port.active.load(Relaxed)));
            for (fault, count) in ConnectionFault::ALL.iter().zip(&port.faults) {
                let mut labels = labels(&names);
                labels.extend(super::labels(&[("reason", fault.as_str())]));
                faults.mut_metric().push(counter(labels, count.load(Relaxed)));
            }
        });
        [accepted, active, faults].into_iter().chain(datagrams.finish()).collect()
    }
}

impl PortMetrics {
    fn new(whose: Whose, port: u16) -> Self {
        Self {
            whose,
            port,
            accepted: AtomicU64::new(0),
            active: AtomicU64::new(0),
            faults: Default::default(),
            udp: OnceLock::new(),
        }
    }

    /// A connection was accepted; it counts as active until the guard goes.
    pub(crate) fn accepted(self: &Arc<Self>) -> ConnectionGuard {
        self.accepted.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        ConnectionGuard { port: self.clone() }
    }

    /// What counts its datagrams.
    pub(crate) fn udp(&self) -> &UdpMetrics {
        self.udp.get_or_init(Box::default)
    }

    /// A connection was refused or ended before its time.
    pub(crate) fn fault(&self, fault: ConnectionFault) {
        self.faults[fault as usize].fetch_add(1, Relaxed);
    }
}

impl ConnectionGuard {
    /// The port that took the connection.
    pub(crate) fn port(&self) -> &Arc<PortMetrics> {
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
        let edge = Owner::Gateway("Gateway/infra/edge".parse().expect("a key"));
        let port = connections.port(&edge, 443);
        let first = connections.port(&edge, 443).accepted();
        let cart = connections.port(&Owner::Service("Service/shop/cart:80".parse().expect("a key")), 80).accepted();
        let away = connections.captured(Way::Passthrough, 15421).accepted();
        connections.captured(Way::Inbound, 15422).fault(ConnectionFault::Plaintext);
        let second = port.accepted();
        second.port().fault(ConnectionFault::HeaderTimeout);
        drop(second);
        assert_eq!(port.active.load(Relaxed), 1);
        for (position, fault) in ConnectionFault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, position, "{fault:?} has to count at its own place");
        }

        let mut families = connections.families();
        families.retain(|family| !family.get_metric().is_empty());
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("families with metrics");
        let on = r#"direction="inbound",parent_kind="Gateway",parent_namespace="infra",parent_name="edge",port="443""#;
        for line in [
            format!("isthmus_connections_accepted_total{{{on}}} 2"),
            format!("isthmus_connections_active{{{on}}} 1"),
            format!(r#"isthmus_connection_faults_total{{{on},reason="header_timeout"}} 1"#),
            format!(r#"isthmus_connection_faults_total{{{on},reason="limit"}} 0"#),
            r#"isthmus_connections_active{direction="outbound",parent_kind="Service",parent_namespace="shop",parent_name="cart",port="80"} 1"#
                .to_owned(),
            r#"isthmus_connections_active{direction="outbound",parent_kind="Passthrough",parent_namespace="",parent_name="",port="15421"} 1"#
                .to_owned(),
            r#"isthmus_connection_faults_total{direction="inbound",parent_kind="Workload",parent_namespace="",parent_name="",port="15422",reason="plaintext"} 1"#
                .to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
        drop((first, cart, away));
        assert_eq!(port.active.load(Relaxed), 0);
    }
}
