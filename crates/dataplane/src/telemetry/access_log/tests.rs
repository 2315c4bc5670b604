use std::sync::Arc;

use isthmus_routing::{BackendKey, GatewayKey, Matches, RouteKey, RouteKind, Rule, Snapshot, Target, WeightedBackend};
use serde_json::{Value, json};

use super::*;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{Flags, RuleMetrics, TraceContext};

fn parts(request: http::request::Builder) -> http::request::Parts {
    request.body(()).expect("a request").into_parts().0
}

fn line(record: &RequestRecord, exchange: &Exchange<'_>) -> Value {
    let mut value = Value::Null;
    with_line(record, exchange, Duration::from_micros(12_999), |line| {
        let text = std::str::from_utf8(line).expect("UTF-8");
        assert_eq!(text.find('\n'), Some(text.len() - 1), "one line: {text}");
        value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
    });
    value
}

fn exchange(request: &http::request::Parts) -> Exchange<'_> {
    Exchange {
        request,
        code: 200,
        bytes_received: 11,
        bytes_sent: 22,
        client: None,
        local: None,
        tls: false,
        client_certificate: None,
    }
}

fn record() -> RequestRecord {
    let mut record = RequestRecord::new(TraceContext::default());
    record.start_time = UNIX_EPOCH + Duration::from_millis(1_795_204_984_007);
    record
}

#[test]
fn a_routed_request_has_every_key() {
    let metrics = Metrics::default();
    let gateway = GatewayKey { namespace: "infra".to_owned(), name: "edge".to_owned() };
    let listener = metrics.series.listener(&gateway, "https");
    let backend = BackendKey {
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
        port: 8080,
        transport: isthmus_routing::Transport::Tcp,
    };
    let rule = Rule {
        name: Some("pay".to_owned()),
        matches: Matches::Http(Vec::new()),
        filters: Vec::new(),
        backends: vec![WeightedBackend { weight: 1, target: Target::Backend(backend), filters: Vec::new() }],
        timeouts: Default::default(),
        retry: None,
        invalid: false,
    };
    let route = RouteKey { namespace: "shop".to_owned(), name: "cart".to_owned(), kind: RouteKind::Http };
    let mut record = record();
    let version = Snapshot::default().version();
    record.rule = Some(RuleMetrics::new(&listener, &route, 0, &rule));
    record.parent = Some(listener);
    record.backend = Some(0);
    record.endpoint = Some(([10, 0, 0, 7], 3000).into());
    record.flags = Flags::UPSTREAM_CONNECTION_FAILURE | Flags::RETRY_LIMIT;
    record.upstream_service_time = Some(Duration::from_millis(9));
    record.attempts = 3;
    record.config_version = Some(version);
    let request = parts(
        http::Request::post("https://shop.example/cart?a=b")
            .version(http::Version::HTTP_2)
            .header("x-forwarded-for", "192.0.2.1")
            .header("user-agent", "curl/8")
            .header("x-request-id", "42"),
    );
    let exchange = Exchange {
        client: Some(([192, 0, 2, 1], 5000).into()),
        local: Some(([127, 0, 0, 2], 8443).into()),
        client_certificate: Some("URI:spiffe://shop/pay, CN=pay"),
        ..exchange(&request)
    };
    let wanted = json!({
        "start_time": "2026-11-20T20:03:04.007Z",
        "method": "POST",
        "path": "/cart?a=b",
        "protocol": "HTTP/2",
        "response_code": 200,
        "response_flags": "UF,URX",
        "bytes_received": 11,
        "bytes_sent": 22,
        "duration": 12,
        "upstream_service_time": 9,
        "x_forwarded_for": "192.0.2.1",
        "user_agent": "curl/8",
        "request_id": "42",
        "authority": "shop.example",
        "upstream_host": "10.0.0.7:3000",
        "downstream_remote_address": "192.0.2.1:5000",
        "downstream_local_address": "127.0.0.2:8443",
        "client_certificate": "URI:spiffe://shop/pay, CN=pay",
        "gateway": "Gateway/infra/edge",
        "listener": "https",
        "route": "HTTPRoute/shop/cart",
        "rule": "pay",
        "backend": "Service/shop/cart:8080",
        "attempts": 3,
        "config_version": version.to_string(),
        "trace_id": "00000000000000000000000000000000",
    });
    assert_eq!(line(&record, &exchange), wanted);
}

#[test]
fn a_request_that_nothing_took_is_logged_with_nulls() {
    let request = parts(http::Request::get("/").header("host", "nowhere.example"));
    let mut record = record();
    record.flags = Flags::NO_ROUTE;
    let shown = line(&record, &Exchange { code: 404, ..exchange(&request) });
    for key in ["gateway", "listener", "route", "rule", "backend", "upstream_host", "upstream_service_time", "config_version"] {
        assert_eq!(shown.get(key), Some(&Value::Null), "{key}");
    }
    assert_eq!((&shown["authority"], &shown["response_flags"]), (&json!("nowhere.example"), &json!("NR")));
    assert_eq!(shown["attempts"], json!(0));
}

#[test]
fn hostile_bytes_stay_inside_their_string() {
    for (bytes, shown) in [
        (&b"a\"b\\c"[..], "a\"b\\c"),
        (b"\",\"response_code\":200,\"x\":\"", "\",\"response_code\":200,\"x\":\""),
        (b"tab\there", "tab\there"),
        (b"\xff\xfe\x80", "\u{fffd}\u{fffd}\u{fffd}"),
        ("gr\u{fc}\u{df} \u{1f30a} \u{2028}".as_bytes(), "gr\u{fc}\u{df} \u{1f30a} \u{2028}"),
        (b"", ""),
    ] {
        let value = http::HeaderValue::from_bytes(bytes).expect("HTTP allows it");
        let request = parts(http::Request::get("/").header("user-agent", value.clone()).header("x-request-id", value));
        let line = line(&record(), &exchange(&request));
        assert_eq!((&line["user_agent"], &line["request_id"]), (&json!(shown), &json!(shown)));
        assert_eq!(line["response_code"], json!(200));
    }
    // HTTP lets no control byte through, but a name of an object could hold one.
    for byte in 0..=255_u8 {
        let mut quoted = Vec::new();
        quote(&mut quoted, &[b'<', byte, b'>']);
        let text = std::str::from_utf8(&quoted).expect("UTF-8");
        let back: String = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} for byte {byte}"));
        assert_eq!(back, String::from_utf8_lossy(&[b'<', byte, b'>']), "byte {byte}");
        assert!(!quoted.contains(&b'\n'));
    }
}

#[test]
fn a_request_to_a_service_names_it_in_place_of_gateway_and_listener() {
    let metrics = Metrics::default();
    let request = parts(http::Request::get("/"));
    let service: BackendKey = "Service/shop/cart:80".parse().expect("a key");
    let parent = metrics.series.service(&service);
    let mut record = record();
    record.parent = Some(parent.clone());
    let unrouted = line(&record, &exchange(&request));
    record.rule = Some(RuleMetrics::direct(&parent, &service));
    record.backend = Some(0);
    let direct = line(&record, &exchange(&request));
    for (line, backend) in [(unrouted, Value::Null), (direct, json!("Service/shop/cart:80"))] {
        assert_eq!(line["service"], json!("Service/shop/cart:80"));
        assert!(line.get("gateway").is_none() && line.get("listener").is_none(), "{line}");
        assert_eq!(
            ["route", "rule", "backend"].map(|key| line.get(key)),
            [Some(&Value::Null), Some(&Value::Null), Some(&backend)]
        );
    }
}

#[test]
fn the_date_changes_with_the_second() {
    let request = parts(http::Request::get("/"));
    for (millis, shown) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (1000, "1970-01-01T00:00:01.000Z"),
        (1_709_164_800_050, "2024-02-29T00:00:00.050Z"),
        (1_709_164_799_999, "2024-02-28T23:59:59.999Z"),
    ] {
        let mut record = record();
        record.start_time = UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(line(&record, &exchange(&request))["start_time"], json!(shown));
    }
}

#[test]
fn lines_of_many_threads_do_not_mix() {
    let lines = Arc::new(std::sync::Mutex::new(Vec::<u8>::new()));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let lines = lines.clone();
            scope.spawn(move || {
                for i in 0..50 {
                    let request = parts(http::Request::get(format!("/{thread}/{i}")));
                    with_line(&record(), &exchange(&request), Duration::ZERO, |line| {
                        lines.lock().expect("no panic").extend_from_slice(line);
                    });
                }
            });
        }
    });
    let lines = lines.lock().expect("no panic");
    let mut paths: Vec<String> = std::str::from_utf8(&lines)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["path"].as_str().expect("a path").to_owned())
        .collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 200);
}

#[test]
fn the_example_in_the_docs_has_the_keys_of_a_line() {
    let docs = include_str!("../../../../../docs/telemetry.md");
    let example = docs.lines().find(|line| line.starts_with("{\"start_time\"")).expect("there is an example");
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let request = parts(http::Request::get("/"));
    let line = line(&record(), &exchange(&request));
    assert_eq!(keys(&serde_json::from_str(example).expect("JSON")), keys(&line));
    for key in keys(&line) {
        assert!(docs.contains(&format!("`{key}`")), "`{key}` is not explained");
    }
}

#[test]
fn addresses_are_shown_as_the_standard_library_does() {
    let request = parts(http::Request::get("/"));
    for text in ["0.0.0.0:0", "127.0.0.1:65535", "255.255.255.255:1", "10.9.100.200:8080", "[::1]:80", "[2001:db8::ff]:443"] {
        let exchange = Exchange { client: Some(text.parse().expect("an address")), ..exchange(&request) };
        assert_eq!(line(&record(), &exchange)["downstream_remote_address"], json!(text));
    }
}
