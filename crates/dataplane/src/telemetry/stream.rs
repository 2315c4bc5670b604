//! What is told of a connection without HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isthmus_routing::{Protocol, Version};

use super::{ParentMetrics, RuleMetrics, StreamEnd, StreamMetrics};

/// What is learned of a connection on its way.
#[derive(Debug)]
pub(crate) struct StreamRecord {
    /// When it was accepted.
    pub(crate) started: Instant,
    /// The same by the wall clock.
    pub(crate) start_time: SystemTime,
    /// `TCP` or `TLS`: the listener's protocol.
    pub(crate) protocol: &'static str,
    /// What took it.
    pub(crate) listener: Arc<ParentMetrics>,
    /// The rule that took it; none: no rule did.
    pub(crate) rule: Option<Arc<RuleMetrics>>,
    /// The position of the chosen backendRef in the rule, invalid ones included.
    pub(crate) backend: Option<usize>,
    /// The endpoint of the last try.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Tries at endpoints; 0: none was asked.
    pub(crate) attempts: u32,
    /// SNI.
    pub(crate) server_name: Option<String>,
    /// Whose valid certificate the client has shown.
    pub(crate) client_certificate: Option<Box<str>>,
    /// Who connected.
    pub(crate) client: SocketAddr,
    /// Where it was accepted; if a sidecar took it, where it was going.
    pub(crate) local: SocketAddr,
    /// The snapshot that decided.
    pub(crate) config_version: Version,
}

/// The end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamSummary {
    /// Why it ended.
    pub(crate) end: StreamEnd,
    /// Bytes of the client that were passed on.
    pub(crate) received: u64,
    /// Bytes that were passed on to the client.
    pub(crate) sent: u64,
    /// From accept to end.
    pub(crate) duration: Duration,
}

impl StreamRecord {
    /// Of a connection over TCP that was accepted then, by whom and where.
    pub(crate) fn new(
        (started, start_time): (Instant, SystemTime),
        listener: Arc<ParentMetrics>,
        (client, local): (SocketAddr, SocketAddr),
        config_version: Version,
    ) -> Self {
        Self {
            started,
            start_time,
            protocol: Protocol::Tcp.as_str(),
            listener,
            rule: None,
            backend: None,
            endpoint: None,
            attempts: 0,
            server_name: None,
            client_certificate: None,
            client,
            local,
            config_version,
        }
    }

    /// What counts it: by its backend if it has one, else by its listener.
    pub(crate) fn metrics(&self) -> &StreamMetrics {
        match &self.rule {
            Some(rule) => rule.streams(self.backend),
            None => self.listener.unrouted_streams(),
        }
    }
}
