use isthmus_routing::{Matches, RouteKind, Timeouts, WeightedBackend};

use super::*;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::tracked::KEEP;
use crate::telemetry::{Flags, TraceContext};

fn gateway() -> GatewayKey {
    GatewayKey { namespace: "infra".to_owned(), name: "edge".to_owned() }
}

fn route(name: &str) -> RouteKey {
    RouteKey { namespace: "shop".to_owned(), name: name.to_owned(), kind: RouteKind::Http }
}

fn rule(name: Option<&str>, services: &[Option<&str>]) -> Rule {
    let target = |service: &Option<&str>| match service {
        Some(name) => Target::Backend(BackendKey {
            namespace: "shop".to_owned(),
            name: (*name).to_owned(),
            port: 8080,
            transport: isthmus_routing::Transport::Tcp,
        }),
        None => Target::Invalid,
    };
    let backend = |service| WeightedBackend { weight: 1, target: target(service), filters: Vec::new() };
    Rule {
        name: name.map(str::to_owned),
        matches: Matches::Http(Vec::new()),
        filters: Vec::new(),
        backends: services.iter().map(backend).collect(),
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    }
}

fn count(handle: &Arc<RuleMetrics>, backend: Option<usize>, code: u16, attempts: u32) {
    let mut record = RequestRecord::new(TraceContext::default());
    record.rule = Some(handle.clone());
    record.backend = backend;
    record.attempts = attempts;
    record.flags = Flags::default();
    let (request, ()) = http::Request::new(()).into_parts();
    handle.count(&record, &exchange(&request, code), Duration::from_millis(7));
}

fn exchange(request: &http::request::Parts, code: u16) -> Exchange<'_> {
    Exchange { request, code, bytes_received: 3, bytes_sent: 5, client: None, local: None, tls: false, client_certificate: None }
}

const LISTENER: &str =
    r#"direction="inbound",parent_kind="Gateway",parent_namespace="infra",parent_name="edge",parent_section="http""#;

fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(start)).collect()
}

#[test]
fn requests_are_counted_by_rule_backend_and_code_and_timed_by_route() {
    let metrics = Metrics::default();
    let listener = metrics.series.listener(&gateway(), "http");
    let a = RuleMetrics::new(&listener, &route("r"), 0, &rule(None, &[Some("a"), None]));
    let b = RuleMetrics::new(&listener, &route("r"), 1, &rule(Some("pay"), &[Some("b")]));
    count(&a, Some(0), 200, 1);
    count(&a, Some(0), 200, 3);
    count(&a, Some(0), 503, 1);
    count(&a, Some(1), 500, 0);
    count(&a, None, 302, 0);
    count(&b, Some(0), 200, 1);
    assert_eq!((a.rule(), b.rule(), a.backend(1), a.backend(9)), ("0", "pay", None, None));

    let text = metrics.expose(Instant::now());
    let on = format!(r#"{LISTENER},route_kind="HTTPRoute",route_namespace="shop",route_name="r""#);
    let at = |rule: &str, name: &str, port: &str, code: u16, count: u64| {
        let namespace = if port.is_empty() { "" } else { "shop" };
        format!(
            r#"isthmus_requests_total{{{on},rule="{rule}",backend_namespace="{namespace}",backend_name="{name}",backend_port="{port}",code="{code}"}} {count}"#
        )
    };
    assert_eq!(
        lines(&text, "isthmus_requests_total"),
        [
            at("0", "", "", 302, 1),
            at("0", "", "", 500, 1),
            at("0", "a", "8080", 200, 2),
            at("0", "a", "8080", 503, 1),
            at("pay", "b", "8080", 200, 1),
        ]
    );
    for line in [
        format!(r#"isthmus_request_duration_seconds_bucket{{{on},le="0.005"}} 0"#),
        format!(r#"isthmus_request_duration_seconds_bucket{{{on},le="0.01"}} 6"#),
        format!("isthmus_request_duration_seconds_count{{{on}}} 6"),
        format!("isthmus_received_bytes_total{{{on}}} 18"),
        format!("isthmus_sent_bytes_total{{{on}}} 30"),
        format!("isthmus_retries_total{{{on}}} 2"),
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
    }
}

#[test]
fn requests_without_a_rule_have_empty_labels() {
    let metrics = Metrics::default();
    let (request, ()) = http::Request::new(()).into_parts();
    let listener = metrics.series.listener(&gateway(), "http");
    listener.count_unrouted(&exchange(&request, 404), Duration::ZERO);
    metrics.series.unattributed.count_unrouted(&exchange(&request, 404), Duration::ZERO);
    let text = metrics.expose(Instant::now());
    let rest = r#"route_kind="",route_namespace="",route_name="",rule="",backend_namespace="",backend_name="",backend_port="",code="404"} 1"#;
    let nobody = r#"direction="inbound",parent_kind="",parent_namespace="",parent_name="",parent_section="""#;
    assert_eq!(
        lines(&text, "isthmus_requests_total"),
        [format!("isthmus_requests_total{{{nobody},{rest}"), format!("isthmus_requests_total{{{LISTENER},{rest}")]
    );
}

#[test]
fn label_values_are_escaped() {
    let metrics = Metrics::default();
    let listener = metrics.series.listener(&gateway(), "a\"b\\c\nd");
    let (request, ()) = http::Request::new(()).into_parts();
    listener.count_unrouted(&exchange(&request, 404), Duration::ZERO);
    let text = metrics.expose(Instant::now());
    assert!(text.contains(r#"parent_section="a\"b\\c\nd""#), "{text}");
}

#[test]
fn series_outlive_a_change_of_the_configuration_and_vanish_after_their_rule() {
    let metrics = Metrics::default();
    let listener = metrics.series.listener(&gateway(), "http");
    let before = RuleMetrics::new(&listener, &route("r"), 0, &rule(None, &[Some("a"), Some("b")]));
    let gone = RuleMetrics::new(&listener, &route("gone"), 0, &rule(None, &[Some("a")]));
    count(&before, Some(0), 200, 1);
    count(&before, Some(1), 200, 1);
    count(&gone, Some(0), 200, 1);
    // The next configuration has the first rule without its second backend, and no other route.
    let after = RuleMetrics::new(&listener, &route("r"), 0, &rule(None, &[Some("a")]));
    drop((before, gone));
    count(&after, Some(0), 200, 1);

    let start = Instant::now();
    let shown = |text: &str| lines(text, "isthmus_requests_total").len();
    assert_eq!(shown(&metrics.expose(start)), 3);
    assert_eq!(shown(&metrics.expose(start + KEEP - Duration::from_secs(1))), 3);
    let text = metrics.expose(start + KEEP);
    assert_eq!(shown(&text), 1, "{text}");
    assert!(text.contains(r#"backend_name="a",backend_port="8080",code="200"} 2"#), "{text}");
    assert_eq!(lines(&text, "isthmus_request_duration_seconds_count").len(), 1);

    drop((after, listener));
    metrics.expose(start + KEEP);
    let text = metrics.expose(start + KEEP * 3);
    assert_eq!(shown(&text), 0, "{text}");
}
