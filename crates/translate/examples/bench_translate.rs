//! Seconds and megabytes of translating 10,000 HTTPRoutes, each with a Service of its own, ten on a host:
//! `cargo run --release -p isthmus-translate --example bench_translate [routes]`.
#![allow(clippy::disallowed_methods, reason = "measuring needs the clock and the kernel's account of memory")]

use std::time::Instant;

use isthmus_api::{Objects, decode};
use isthmus_routing::GatewayKey;
use isthmus_translate::{CONTROLLER_NAME, Options, translate};
use serde_json::{Value, json};

/// Routes on one hostname.
const PER_HOST: usize = 10;

/// Translations that are timed; the median counts.
const ROUNDS: usize = 7;

fn main() {
    let routes = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let mut options = Options::default();
    let edge = GatewayKey { namespace: "bench".to_owned(), name: "edge".to_owned() };
    options.addresses.insert(edge, vec![std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST).into()]);

    let objects = objects(routes);
    let decoded = peak_mb();
    let first = translate(&objects, &options);
    let translated = peak_mb();
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let translation = translate(&objects, &options);
            let took = start.elapsed().as_secs_f64();
            assert_eq!(translation.snapshot, first.snapshot, "equal input gives equal output");
            took
        })
        .collect();
    seconds.sort_by(f64::total_cmp);

    assert_eq!((first.snapshot.routes.len(), first.snapshot.backends.len()), (routes, routes), "everything is served");
    println!("routes            {routes}");
    println!("translate, median {:.3} s  ({:.3} to {:.3})", seconds[ROUNDS / 2], seconds[0], seconds[ROUNDS - 1]);
    println!("objects, peak     {decoded:.0} MB");
    println!("and translation   {:.0} MB more", translated - decoded);
}

fn objects(routes: usize) -> Objects {
    let mut objects = Objects::default();
    let mut apply = |object: Value| drop(objects.apply(decode(object).expect("the benchmark's objects decode")));
    apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "isthmus"},
        "spec": {"controllerName": CONTROLLER_NAME},
    }));
    apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "bench"},
        "spec": {"gatewayClassName": "isthmus", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    }));
    for at in 0..routes {
        let (name, slice) = (format!("r{at:06}"), format!("r{at:06}-1"));
        apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "bench"},
            "spec": {"ports": [{"name": "http", "port": 80}]},
        }));
        apply(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": slice, "namespace": "bench", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": [format!("10.{}.{}.1", at / 250 % 250, at % 250)], "conditions": {"ready": true}},
                {"addresses": [format!("10.{}.{}.2", at / 250 % 250, at % 250)], "conditions": {"ready": true}},
            ],
        }));
        apply(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "bench"},
            "spec": {
                "parentRefs": [{"name": "edge"}],
                "hostnames": [format!("h{}.example.com", at / PER_HOST)],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": format!("/{name}")}}],
                    "backendRefs": [{"name": name, "port": 80}],
                }],
            },
        }));
    }
    objects
}

/// The most memory that the process has had in use, in megabytes.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
}
