//! The trace that a request belongs to: the client's, or a new one.
//!
//! A valid `traceparent` is kept. Without one a trace is started, so that the backend's logs and this proxy's can be brought together.
//! When spans are exported and the trace is sampled, the backend sees this proxy's span as its parent; otherwise what the client sent
//! is forwarded unchanged, since a parent that nobody exported would tear the trace.

pub(crate) mod export;
pub(crate) mod span;

use http::header::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanId, TraceFlags, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use pingora_http::RequestHeader;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// A request's place in its trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TraceContext {
    trace_id: TraceId,
    /// The client's span; none: the trace begins here.
    parent: Option<SpanId>,
    /// This proxy's.
    span_id: SpanId,
    flags: TraceFlags,
    /// Whether a span is exported.
    recorded: bool,
}

impl TraceContext {
    /// Keeps the client's trace or starts one. `exported`: spans have somewhere to go; a trace that starts here is then sampled, and one
    /// that the client started is sampled if he says so.
    pub(crate) fn from_headers(headers: &HeaderMap, exported: bool) -> Self {
        let ids = RandomIdGenerator::default();
        let span_id = ids.new_span_id();
        let mut values = headers.get_all(&TRACEPARENT).iter();
        // W3C Trace Context: two of them, or one that cannot be read, count as none, and then the state counts for nothing either.
        let client = match (values.next(), values.next()) {
            (Some(only), None) => parse(only.as_bytes()),
            _ => None,
        };
        let (trace_id, parent, flags) = match client {
            Some((trace_id, parent, flags)) => (trace_id, Some(parent), flags),
            None => (ids.new_trace_id(), None, TraceFlags::default().with_sampled(exported)),
        };
        Self { trace_id, parent, span_id, flags, recorded: exported && flags.is_sampled() }
    }

    /// The id that all of the trace share, in hexadecimal digits; zeros for a record without a request.
    pub(crate) fn trace_id_digits(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        write_hex(&mut digits, &self.trace_id.to_bytes());
        digits
    }

    /// Whether a span of this request is exported.
    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Sets what the backend is told; for a request that is about to be sent to it, at each try.
    pub(crate) fn apply(&self, request: &mut RequestHeader) {
        let started_here = self.parent.is_none();
        if started_here {
            // A state without its parent belongs to no trace.
            request.remove_header(&TRACESTATE);
        }
        if started_here || self.recorded {
            // Digits and dashes are always a header value.
            _ = request.insert_header(TRACEPARENT, &self.traceparent()[..]);
        }
    }

    /// `00-<trace id>-<span id>-<flags>`; every request has one, so it is written without the machinery of `fmt`.
    fn traceparent(&self) -> [u8; LENGTH] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..35], &self.trace_id.to_bytes());
        write_hex(&mut text[36..52], &self.span_id.to_bytes());
        write_hex(&mut text[53..], &[self.flags.to_u8()]);
        text
    }
}

/// Two lower-case digits for each byte.
fn write_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

/// No trace at all.
impl Default for TraceContext {
    fn default() -> Self {
        Self { trace_id: TraceId::INVALID, parent: None, span_id: SpanId::INVALID, flags: TraceFlags::default(), recorded: false }
    }
}

/// `version "-" trace-id "-" parent-id "-" trace-flags`, in lower-case hexadecimal digits. A later version may have more after it; version
/// 00 may not, and ff is forbidden.
fn parse(value: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let known = std::str::from_utf8(known).ok()?;
    let mut fields = known.split('-');
    let mut field = |length: usize| {
        let field = fields.next()?;
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (field.len() == length && field.bytes().all(hex)).then_some(field)
    };
    let (version, trace_id, parent, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let rest_fits = if version == "00" { rest.is_empty() } else { rest.is_empty() || rest[0] == b'-' };
    if version == "ff" || !rest_fits {
        return None;
    }
    let trace_id = TraceId::from_hex(trace_id).ok().filter(|id| *id != TraceId::INVALID)?;
    let parent = SpanId::from_hex(parent).ok().filter(|id| *id != SpanId::INVALID)?;
    // The flags of version 00, and the one that level 2 adds: the others have no meaning to pass on.
    let flags = u8::from_str_radix(flags, 16).ok()? & 0b11;
    Some((trace_id, parent, TraceFlags::new(flags)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, http::HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
        }
        headers
    }

    fn id(context: &TraceContext) -> String {
        String::from_utf8(context.trace_id_digits().to_vec()).expect("digits")
    }

    fn forwarded(context: &TraceContext, sent: &HeaderMap) -> (Option<String>, Option<String>) {
        let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
        for (name, value) in sent {
            request.append_header(name, value).expect("a header");
        }
        context.apply(&mut request);
        let get = |name| request.headers.get(name).map(|value| value.to_str().expect("ASCII").to_owned());
        (get(TRACEPARENT), get(TRACESTATE))
    }

    #[test]
    fn traceparents_are_kept_only_when_they_are_valid() {
        for (value, valid) in [
            (format!("00-{TRACE}-{PARENT}-01"), true),
            (format!("00-{TRACE}-{PARENT}-00"), true),
            (format!("00-{TRACE}-{PARENT}-ff"), true),
            (format!("cc-{TRACE}-{PARENT}-01"), true),
            (format!("cc-{TRACE}-{PARENT}-01-what-the-future-will-be"), true),
            (format!("cc-{TRACE}-{PARENT}-01.what"), false),
            (format!("00-{TRACE}-{PARENT}-01-more"), false),
            (format!("00-{TRACE}-{PARENT}-01 "), false),
            (format!("ff-{TRACE}-{PARENT}-01"), false),
            (format!("0-{TRACE}-{PARENT}-01"), false),
            (format!("0g-{TRACE}-{PARENT}-01"), false),
            (format!("00-{}-{PARENT}-01", TRACE.to_uppercase()), false),
            (format!("00-{}-{PARENT}-01", "0".repeat(32)), false),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), false),
            (format!("00-{}-{PARENT}-01", &TRACE[1..]), false),
            (format!("00-{TRACE}-{PARENT}-1"), false),
            (format!("00-{TRACE}-{PARENT}"), false),
            (format!("00_{TRACE}_{PARENT}_01"), false),
            (format!("00-{}é-{PARENT}-01", &TRACE[2..]), false),
            (String::new(), false),
        ] {
            let context = TraceContext::from_headers(&headers(&[&value]), false);
            assert_eq!(id(&context) == TRACE, valid, "`{value}`");
            assert_eq!(context.parent.map(|id| id.to_string()), valid.then(|| PARENT.to_owned()), "`{value}`");
            assert_ne!(context.trace_id, TraceId::INVALID);
        }
    }

    #[test]
    fn without_export_a_clients_trace_passes_unchanged() {
        let value = format!("00-{TRACE}-{PARENT}-01");
        let mut sent = headers(&[&value]);
        sent.insert(TRACESTATE, http::HeaderValue::from_static("a=1,b=2"));
        let context = TraceContext::from_headers(&sent, false);
        assert!(!context.is_recorded());
        assert_eq!(forwarded(&context, &sent), (Some(value), Some("a=1,b=2".to_owned())));
    }

    #[test]
    fn with_export_the_backend_sees_the_span_of_this_proxy() {
        let mut sent = headers(&[&format!("00-{TRACE}-{PARENT}-01")]);
        sent.insert(TRACESTATE, http::HeaderValue::from_static("a=1"));
        let context = TraceContext::from_headers(&sent, true);
        assert!(context.is_recorded());
        let ours = format!("00-{TRACE}-{}-01", context.span_id);
        assert_ne!(context.span_id.to_string(), PARENT);
        assert_eq!(forwarded(&context, &sent), (Some(ours), Some("a=1".to_owned())));
    }

    #[test]
    fn a_trace_that_the_client_does_not_sample_is_not_exported() {
        let value = format!("00-{TRACE}-{PARENT}-00");
        let sent = headers(&[&value]);
        let context = TraceContext::from_headers(&sent, true);
        assert!(!context.is_recorded());
        assert_eq!(forwarded(&context, &sent).0, Some(value));
    }

    #[test]
    fn a_trace_is_started_when_there_is_none_that_can_be_kept() {
        let valid = format!("00-{TRACE}-{PARENT}-01");
        let other = format!("00-{TRACE}-{}-01", PARENT.replace('0', "1"));
        for values in [vec![], vec!["nonsense"], vec![&*valid, &*other]] {
            for exported in [false, true] {
                let mut sent = headers(&values);
                sent.insert(TRACESTATE, http::HeaderValue::from_static("a=1"));
                let context = TraceContext::from_headers(&sent, exported);
                assert_eq!(context.is_recorded(), exported);
                let flags = if exported { "01" } else { "00" };
                let started = format!("00-{}-{}-{flags}", context.trace_id, context.span_id);
                assert_ne!(id(&context), TRACE);
                assert_eq!(forwarded(&context, &sent), (Some(started), None), "{values:?}");
            }
        }
        let new = || TraceContext::from_headers(&HeaderMap::new(), false);
        assert_ne!(id(&new()), id(&new()));
    }
}
