//! The access log: one JSON object a line, with Envoy's names where Envoy has one. `docs/telemetry.md` lists the keys.

mod stream;
mod writer;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HOST, HeaderMap, HeaderName, USER_AGENT};
use isthmus_routing::{BackendKey, Version};

use super::metrics::series::{PASSTHROUGH, Parent, SERVICE, WORKLOAD};
use super::stream::{StreamRecord, StreamSummary};
use super::{Exchange, Flags, ParentMetrics, RequestRecord, RuleMetrics};
pub(crate) use writer::AccessLogWriter;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a thread keeps from line to line, so that a line costs no allocation and the date is worked out once a second.
#[derive(Default)]
struct Scratch {
    line: Line,
    second: Option<u64>,
    date: String,
    version: Option<Version>,
    version_text: String,
}

/// A line in the making.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    text: String,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Shows the line, newline included, to `take`.
fn with_line(record: &RequestRecord, exchange: &Exchange<'_>, duration: Duration, take: impl FnOnce(&[u8])) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.format(record, exchange, duration);
        take(&scratch.line.bytes);
    });
}

/// The same of a connection without HTTP.
fn with_stream_line(record: &StreamRecord, summary: &StreamSummary, take: impl FnOnce(&[u8])) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.format_stream(record, summary);
        take(&scratch.line.bytes);
    });
}

impl Scratch {
    fn format(&mut self, record: &RequestRecord, exchange: &Exchange<'_>, duration: Duration) {
        self.begin(record.start_time);
        self.remember_version(record.config_version);
        let Self { line, version_text, .. } = self;
        let request = exchange.request;
        let header = |name: &HeaderName| request.headers.get(name).map(http::HeaderValue::as_bytes);

        line.text("method", Some(request.method.as_str().as_bytes()));
        line.text("path", Some(request.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes()));
        line.text("protocol", Some(protocol(request.version).as_bytes()));
        line.number("response_code", Some(u64::from(exchange.code)));
        line.flags("response_flags", record.flags);
        line.number("bytes_received", Some(exchange.bytes_received));
        line.number("bytes_sent", Some(exchange.bytes_sent));
        line.number("duration", Some(millis_of(duration)));
        line.number("upstream_service_time", record.upstream_service_time.map(millis_of));
        line.text("x_forwarded_for", header(&X_FORWARDED_FOR));
        line.text("user_agent", header(&USER_AGENT));
        line.text("request_id", header(&X_REQUEST_ID));
        line.text("authority", authority(&request.uri, &request.headers));
        line.address("upstream_host", record.endpoint);
        line.address("downstream_remote_address", exchange.client);
        line.address("downstream_local_address", exchange.local);
        line.text("client_certificate", exchange.client_certificate.map(str::as_bytes));

        line.routed(record.rule.as_deref(), record.parent.as_deref(), record.backend);
        line.number("attempts", Some(u64::from(record.attempts)));
        line.text("config_version", record.config_version.map(|_| version_text.as_bytes()));
        line.text("trace_id", Some(&record.trace.trace_id_digits()));
        line.bytes.extend_from_slice(b"}\n");
    }

    /// A line of something that began then.
    fn begin(&mut self, start_time: SystemTime) {
        self.remember_second(start_time);
        let Self { line, date, .. } = self;
        line.bytes.clear();
        line.bytes.extend_from_slice(b"{\"start_time\":\"");
        line.bytes.extend_from_slice(date.as_bytes());
        let millis = start_time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_millis());
        let digit = |value: u32| b'0' + (value % 10) as u8;
        line.bytes.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z', b'"']);
    }

    fn remember_second(&mut self, time: SystemTime) {
        let second = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second != Some(second) {
            let time = i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
            self.date.clear();
            _ = write!(self.date, "{:.0}", time.unwrap_or(jiff::Timestamp::UNIX_EPOCH));
            self.date.truncate(self.date.trim_end_matches('Z').len());
            self.second = Some(second);
        }
    }

    fn remember_version(&mut self, version: Option<Version>) {
        if let Some(version) = version
            && self.version != Some(version)
        {
            self.version_text.clear();
            _ = write!(self.version_text, "{version}");
            self.version = Some(version);
        }
    }
}

impl Line {
    fn key(&mut self, key: &str) {
        self.bytes.extend_from_slice(b",\"");
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    fn null(&mut self) {
        self.bytes.extend_from_slice(b"null");
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        self.key(key);
        match value {
            Some(value) => self.bytes.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
            None => self.null(),
        }
    }

    /// Anybody's bytes.
    fn text(&mut self, key: &str, value: Option<&[u8]>) {
        self.key(key);
        match value {
            Some(value) => quote(&mut self.bytes, value),
            None => self.null(),
        }
    }

    /// The parts of a name.
    fn name(&mut self, key: &str, parts: &[&str]) {
        self.key(key);
        self.text.clear();
        parts.iter().for_each(|part| self.text.push_str(part));
        quote(&mut self.bytes, self.text.as_bytes());
    }

    /// Whose the request is.
    fn parent(&mut self, parent: Option<&Parent>) {
        let Some(Parent { direction, kind, namespace, name, section, source }) = parent else {
            return ["gateway", "listener"].iter().for_each(|key| self.text(key, None));
        };
        match (*kind, *direction) {
            (SERVICE, _) => self.name("service", &[kind, "/", namespace, "/", name, ":", section]),
            (PASSTHROUGH, _) => self.text("destination", Some(kind.as_bytes())),
            (WORKLOAD, "inbound") => match source {
                Some(source) => self.shown("source", source),
                None => self.text("source", None),
            },
            (WORKLOAD, _) => self.name("destination", &["ServiceAccount/", namespace, "/", name]),
            _ => {
                self.name("gateway", &[kind, "/", namespace, "/", name]);
                self.text("listener", Some(section.as_bytes()));
            }
        }
    }

    /// What took it.
    fn routed(&mut self, rule: Option<&RuleMetrics>, parent: Option<&ParentMetrics>, backend: Option<usize>) {
        let Some(rule) = rule else {
            self.parent(parent.map(ParentMetrics::parent));
            return ["route", "rule", "backend"].iter().for_each(|key| self.text(key, None));
        };
        self.bytes.extend_from_slice(rule.shown(names_of_rule));
        match rule.shown_backend(backend, name_of_backend) {
            Some(backend) => self.bytes.extend_from_slice(backend),
            None => self.text("backend", None),
        }
    }

    fn flags(&mut self, key: &str, flags: Flags) {
        if flags.is_empty() {
            self.text(key, Some(b"-"));
        } else {
            self.shown(key, &flags);
        }
    }

    fn shown(&mut self, key: &str, value: &impl std::fmt::Display) {
        self.key(key);
        self.text.clear();
        _ = write!(self.text, "{value}");
        quote(&mut self.bytes, self.text.as_bytes());
    }

    /// An address of version 4, as most are, without the machinery of `fmt`: there are three in a line.
    fn address(&mut self, key: &str, address: Option<SocketAddr>) {
        match address {
            None => self.text(key, None),
            Some(SocketAddr::V6(address)) => self.shown(key, &address),
            Some(SocketAddr::V4(address)) => {
                self.key(key);
                let mut number = itoa::Buffer::new();
                for (before, octet) in [b'"', b'.', b'.', b'.'].into_iter().zip(address.ip().octets()) {
                    self.bytes.push(before);
                    self.bytes.extend_from_slice(number.format(octet).as_bytes());
                }
                self.bytes.push(b':');
                self.bytes.extend_from_slice(number.format(address.port()).as_bytes());
                self.bytes.push(b'"');
            }
        }
    }
}

/// The part of a line that is the same for all requests of a rule.
fn names_of_rule(rule: &RuleMetrics) -> Box<[u8]> {
    let mut line = Line::default();
    line.parent(Some(rule.parent()));
    match rule.route() {
        Some(route) => {
            line.name("route", &[route.kind.as_str(), "/", &route.namespace, "/", &route.name]);
            line.text("rule", Some(rule.rule().as_bytes()));
        }
        None => ["route", "rule"].iter().for_each(|key| line.text(key, None)),
    }
    line.bytes.into()
}

/// The same of a backend.
fn name_of_backend(backend: &BackendKey) -> Box<[u8]> {
    let mut line = Line::default();
    line.shown("backend", backend);
    line.bytes.into()
}

/// A JSON string of bytes that a client may have chosen. What is not UTF-8 becomes U+FFFD.
fn quote(line: &mut Vec<u8>, bytes: &[u8]) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'"' && *byte != b'\\';
    // Without an early end, so that the compiler can look at many bytes at once.
    if bytes.iter().fold(true, |all, byte| all & plain(byte)) {
        line.push(b'"');
        line.extend_from_slice(bytes);
        line.push(b'"');
    } else {
        serde_json::to_writer(line, &String::from_utf8_lossy(bytes)).expect("a text has a JSON form, and a Vec takes all bytes");
    }
}

/// As Envoy shows it.
pub(super) fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// The host that was asked for.
pub(super) fn authority<'a>(uri: &'a http::Uri, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => headers.get(HOST).map(http::HeaderValue::as_bytes),
    }
}

fn millis_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
