//! What a data plane tells of itself: metrics, the access log and spans. See `docs/telemetry.md`.
//!
//! A request carries a [`RequestRecord`]; the phases fill it, and the last one hands it to [`Telemetry::record`] once. Names are
//! resolved when a configuration is compiled ([`Telemetry::listener`], [`Telemetry::rule`]), so that a request costs a few
//! atomic additions and one formatted line.

pub(crate) mod access_log;
pub(crate) mod complaint;
pub(crate) mod flags;
#[cfg(test)]
pub(crate) mod heard;
pub(crate) mod metrics;
pub(crate) mod stream;
pub(crate) mod trace;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isthmus_routing::{BackendKey, GatewayKey, RouteKey, Rule, Version};

use crate::config::Owner;
use crate::{Options, StartError};
pub(crate) use flags::Flags;
pub(crate) use metrics::connection::{ConnectionFault, ConnectionGuard, PortMetrics, Way};
pub(crate) use metrics::series::{Captured, ParentMetrics, RuleMetrics};
pub(crate) use metrics::stream::{StreamEnd, StreamMetrics};
pub(crate) use metrics::udp::{UdpDrop, UdpEnd, UdpMetrics};
pub(crate) use stream::{StreamRecord, StreamSummary};
pub(crate) use trace::TraceContext;

/// Metrics, access log and spans of one data plane.
#[derive(Debug)]
pub(crate) struct Telemetry {
    metrics: metrics::Metrics,
    complaints: complaint::Complaints,
    access_log: Option<access_log::AccessLogWriter>,
    spans: Option<trace::export::Exporter>,
}

/// What is learned of a request on its way; lives in the proxy's context.
#[derive(Debug)]
pub(crate) struct RequestRecord {
    /// When its header was complete.
    pub(crate) started: Instant,
    /// The same by the wall clock.
    pub(crate) start_time: SystemTime,
    /// The listener or Service that took it; none: no listener of the address takes its host.
    pub(crate) parent: Option<Arc<ParentMetrics>>,
    /// The rule that matched; none: no rule did.
    pub(crate) rule: Option<Arc<RuleMetrics>>,
    /// The position of the chosen backendRef in the rule, invalid ones included.
    pub(crate) backend: Option<usize>,
    /// The endpoint of the last try.
    pub(crate) endpoint: Option<SocketAddr>,
    /// What went wrong.
    pub(crate) flags: Flags,
    /// From sending the last try's request to its response header.
    pub(crate) upstream_service_time: Option<Duration>,
    /// Tries at endpoints; 0: none was asked.
    pub(crate) attempts: u32,
    /// Tries at endpoints whose certificate was refused.
    pub(crate) refused_certificates: u32,
    /// The snapshot that decided.
    pub(crate) config_version: Option<Version>,
    /// The trace that it belongs to.
    pub(crate) trace: TraceContext,
}

/// What a session knows when it is over.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    /// The request as the client sent it (a Pingora `RequestHeader` derefs to this).
    pub(crate) request: &'a http::request::Parts,
    /// The response code; 0 when no response was begun.
    pub(crate) code: u16,
    /// Body bytes from the client.
    pub(crate) bytes_received: u64,
    /// Body bytes to the client.
    pub(crate) bytes_sent: u64,
    /// Who asked.
    pub(crate) client: Option<SocketAddr>,
    /// Where it was accepted.
    pub(crate) local: Option<SocketAddr>,
    /// Whether it came through TLS.
    pub(crate) tls: bool,
    /// Whose valid certificate the client has shown.
    pub(crate) client_certificate: Option<&'a str>,
}

impl Telemetry {
    /// Opens the access log and prepares the exporter of spans. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// When the access log cannot be opened or the OTLP endpoint is not an `http://` URL.
    pub(crate) fn start(options: &Options) -> Result<Arc<Self>, StartError> {
        let metrics = metrics::Metrics::default();
        let access_log = access_log::AccessLogWriter::open(&options.access_log, metrics.access_log.clone())?;
        let spans = match &options.otlp {
            Some(endpoint) => Some(trace::export::Exporter::start(endpoint, metrics.spans.clone())?),
            None => None,
        };
        Ok(Arc::new(Self { metrics, complaints: complaint::Complaints::default(), access_log, spans }))
    }

    /// The begin of a request's record: takes the time, and keeps or starts a trace from the request's headers.
    pub(crate) fn begin(&self, headers: &http::HeaderMap) -> RequestRecord {
        RequestRecord::new(TraceContext::from_headers(headers, self.spans.is_some()))
    }

    /// The handle of a listener; the same one for the same names for as long as somebody holds it (and some minutes longer), so
    /// its counters go on through changes of the configuration.
    pub(crate) fn listener(&self, gateway: &GatewayKey, name: &str) -> Arc<ParentMetrics> {
        self.metrics.series.listener(gateway, name)
    }

    /// The same of a Service's port.
    pub(crate) fn service(&self, service: &BackendKey) -> Arc<ParentMetrics> {
        self.metrics.series.service(service)
    }

    /// The same of connections that a sidecar takes and that are no Service's.
    pub(crate) fn captured(&self, captured: Captured<'_>) -> Arc<ParentMetrics> {
        self.metrics.series.captured(captured)
    }

    /// The handle of requests to a Service without routes.
    pub(crate) fn direct(&self, parent: &Arc<ParentMetrics>, service: &BackendKey) -> Arc<RuleMetrics> {
        RuleMetrics::direct(parent, service)
    }

    /// The handle of rule number `index` of a route on a parent. As cheap as a few look-ups in a hash table; goes on
    /// counting as [`Telemetry::listener`] does.
    pub(crate) fn rule(&self, parent: &Arc<ParentMetrics>, route: &RouteKey, index: usize, rule: &Rule) -> Arc<RuleMetrics> {
        RuleMetrics::new(parent, route, index, rule)
    }

    /// The handle that counts the connections of a port.
    pub(crate) fn port(&self, owner: &Owner, port: u16) -> Arc<PortMetrics> {
        self.metrics.connections.port(owner, port)
    }

    /// The same of those that a sidecar takes on this port of its own and that are no Service's.
    pub(crate) fn captured_port(&self, way: Way, port: u16) -> Arc<PortMetrics> {
        self.metrics.connections.captured(way, port)
    }

    /// Tells of a request that is over; once for each request, whatever became of it. Never blocks.
    pub(crate) fn record(&self, record: &RequestRecord, exchange: &Exchange<'_>) {
        let duration = record.started.elapsed();
        match (&record.rule, &record.parent) {
            (Some(rule), _) => rule.count(record, exchange, duration),
            (None, Some(parent)) => parent.count_unrouted(exchange, duration),
            (None, None) => self.metrics.series.unattributed.count_unrouted(exchange, duration),
        }
        if let Some(log) = &self.access_log {
            log.write(record, exchange, duration);
        }
        if let Some(spans) = &self.spans
            && record.trace.is_recorded()
        {
            spans.push(trace::span::of(record, exchange, duration));
        }
    }

    /// Tells of a connection without HTTP that is over; once for each for which [`StreamMetrics::began`] was called. Never blocks.
    pub(crate) fn record_stream(&self, record: &StreamRecord, summary: &StreamSummary) {
        record.metrics().ended(summary.end, summary.duration);
        if let Some(log) = &self.access_log {
            log.write_stream(record, summary);
        }
    }

    /// Has the log say why a connection is refused, unless it has said so of another one a short time ago.
    pub(crate) fn complain(&self, fault: ConnectionFault, say: impl FnOnce()) {
        self.complaints.make(fault, Instant::now(), say);
    }

    /// When our own certificate in the mesh ends, in seconds since 1970, 0 if we have none; none: there is no mesh.
    pub(crate) fn certificate_ends(&self, ends: Option<u64>) {
        self.metrics.config.certificate_ends(ends);
    }

    /// A snapshot is served now.
    pub(crate) fn config_served(&self, version: Version) {
        self.metrics.config.served(version, SystemTime::now());
    }

    /// A snapshot could not be served; the one before goes on.
    pub(crate) fn config_rejected(&self) {
        self.metrics.config.rejected();
    }

    /// How many listening sockets are open, and how many could not be opened.
    pub(crate) fn listeners(&self, open: usize, failed: usize) {
        self.metrics.config.listeners(open, failed);
    }

    /// The text exposition of every metric. `now` decides which idle series expire.
    pub(crate) fn expose(&self, now: Instant) -> String {
        self.metrics.expose(now)
    }

    /// Writes what is buffered, for at most `within`. Requests may still be recorded afterwards; they are written in the background
    /// as before.
    pub(crate) async fn flush(&self, within: Duration) {
        let spans = async {
            if let Some(spans) = &self.spans {
                spans.flush(within).await;
            }
        };
        let log = async {
            if let Some(log) = &self.access_log {
                log.flush(within).await;
            }
        };
        tokio::join!(spans, log);
    }
}

impl RequestRecord {
    /// A record that starts now.
    pub(crate) fn new(trace: TraceContext) -> Self {
        Self {
            started: Instant::now(),
            start_time: SystemTime::now(),
            parent: None,
            rule: None,
            backend: None,
            endpoint: None,
            flags: Flags::default(),
            upstream_service_time: None,
            attempts: 0,
            refused_certificates: 0,
            config_version: None,
            trace,
        }
    }

    /// The backend of the chosen backendRef; none if none was chosen or it is invalid.
    pub(crate) fn backend_key(&self) -> Option<&BackendKey> {
        self.rule.as_ref()?.backend(self.backend?)
    }
}
