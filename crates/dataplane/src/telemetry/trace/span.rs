//! A request's record -> the span that is exported, with the names of OpenTelemetry's semantic conventions for HTTP servers.

use std::str::FromStr;
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::TRACESTATE;
use crate::telemetry::access_log::{authority, protocol};
use crate::telemetry::metrics::series::{Parent, SERVICE};
use crate::telemetry::{Exchange, RequestRecord};

/// The span of a request that is over.
pub(crate) fn of(record: &RequestRecord, exchange: &Exchange<'_>, duration: Duration) -> SpanData {
    let trace = &record.trace;
    let status = match exchange.code {
        // The semantic conventions have only a server's own failures as errors.
        0 | 500.. => Status::error(""),
        _ => Status::Unset,
    };
    SpanData {
        span_context: SpanContext::new(trace.trace_id, trace.span_id, trace.flags, false, state(exchange)),
        parent_span_id: trace.parent.unwrap_or(SpanId::INVALID),
        parent_span_is_remote: trace.parent.is_some(),
        span_kind: SpanKind::Server,
        name: name(record, exchange).into(),
        start_time: record.start_time,
        end_time: record.start_time + duration,
        attributes: attributes(record, exchange),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: InstrumentationScope::builder("isthmus").with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}

/// `GET HTTPRoute/shop/cart`: few different ones, as backends of traces want it.
fn name(record: &RequestRecord, exchange: &Exchange<'_>) -> String {
    let method = known(&exchange.request.method).unwrap_or("HTTP");
    match record.rule.as_ref().and_then(|rule| rule.route()) {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    }
}

fn attributes(record: &RequestRecord, exchange: &Exchange<'_>) -> Vec<KeyValue> {
    let request = exchange.request;
    let mut all = Attributes(Vec::with_capacity(24));
    all.add("http.request.method", known(&request.method).unwrap_or("_OTHER"));
    if known(&request.method).is_none() {
        all.add("http.request.method_original", request.method.to_string());
    }
    all.add("http.response.status_code", i64::from(exchange.code));
    all.add("http.request.body.size", i64::try_from(exchange.bytes_received).unwrap_or(i64::MAX));
    all.add("http.response.body.size", i64::try_from(exchange.bytes_sent).unwrap_or(i64::MAX));
    all.add("url.scheme", if exchange.tls { "https" } else { "http" });
    all.add("url.path", request.uri.path().to_owned());
    all.maybe("url.query", request.uri.query().map(str::to_owned));
    all.maybe("server.address", authority(&request.uri, &request.headers).map(lossy));
    all.add("network.protocol.version", protocol(request.version).trim_start_matches("HTTP/"));
    all.maybe("user_agent.original", request.headers.get(http::header::USER_AGENT).map(|value| lossy(value.as_bytes())));
    all.maybe("client.address", exchange.client.map(|client| client.ip().to_string()));
    all.maybe("client.port", exchange.client.map(|client| i64::from(client.port())));
    if matches!(exchange.code, 0 | 500..) {
        all.add("error.type", exchange.code.to_string());
    }
    if let Some(rule) = &record.rule {
        let Parent { kind, namespace, name, section, .. } = rule.parent();
        if *kind == SERVICE {
            all.add("isthmus.service", format!("{kind}/{namespace}/{name}:{section}"));
        } else {
            all.add("isthmus.gateway", format!("{kind}/{namespace}/{name}"));
            all.add("isthmus.listener", section.clone());
        }
        if let Some(route) = rule.route() {
            all.add("isthmus.route", route.to_string());
            all.add("isthmus.rule", rule.rule().to_owned());
        }
    }
    all.maybe("isthmus.backend", record.backend_key().map(ToString::to_string));
    all.maybe("isthmus.endpoint", record.endpoint.map(|endpoint| endpoint.to_string()));
    all.add("isthmus.attempts", i64::from(record.attempts));
    if !record.flags.is_empty() {
        all.add("isthmus.response_flags", record.flags.to_string());
    }
    all.maybe("isthmus.config_version", record.config_version.map(|version| version.to_string()));
    all.0
}

struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(key, value));
    }

    fn maybe(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }
}

/// The method if it is one of those that the conventions know: a client can make up any other.
fn known(method: &http::Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

/// The client's `tracestate`, if it kept its trace and its state can be read.
fn state(exchange: &Exchange<'_>) -> TraceState {
    let mut values = exchange.request.headers.get_all(&TRACESTATE).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(only), None) => TraceState::from_str(only).unwrap_or(TraceState::NONE),
        _ => TraceState::NONE,
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
