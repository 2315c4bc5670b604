//! Pods in network namespaces, two of them with sidecars and with their traffic redirected, on one bridge with a controller: everything that a
//! call between pods meets but Kubernetes itself. As root only: `cargo test -p isthmus-mesh-proxy netns -- --nocapture`, with `ISTHMUS_LOG=debug`
//! for what the sidecars and the controller log.
//!
//! One test, since the pods are made once; each part of it is a table of its own, and all that is wrong is told at once.

use std::time::{Duration, Instant};

mod apps;
mod bytes;
mod certificates;
mod client;
mod demand;
mod headers;
mod http;
mod loops;
mod net;
mod ports;
mod reach;
mod reused;
mod server_first;
mod town;

use town::Town;
use tracing_subscriber::EnvFilter;

/// What went otherwise than it should.
type Faults = Vec<String>;

/// More than that is too long for a test, on a busy machine too.
const LONGEST: Duration = Duration::from_secs(90);

/// A part of the test, by name.
type Part = (&'static str, fn(&mut Town) -> Faults);

const PARTS: [Part; 14] = [
    ("who reaches whom", reach::run),
    ("the sidecar's own ports", ports::run),
    ("loops", loops::run),
    ("a server that speaks first", server_first::run),
    ("bytes and datagrams", bytes::run),
    ("HTTP by routes", http::routes),
    ("gRPC and WebSocket", http::others),
    ("headers that claim an identity", headers::run),
    ("certificates of servers", certificates::served),
    ("certificates of clients", certificates::shown),
    ("an address that is another's by now", reused::run),
    ("Services that come late, and never", demand::run),
    // The last ones: what goes does not come back.
    ("without the controller", demand::alone),
    ("without a sidecar", demand::without_sidecar),
];

#[test]
fn pods_call_each_other() {
    if let Some(why) = net::unavailable() {
        eprintln!("skipped: {why}");
        return;
    }
    // Of all of them, if asked for.
    if let Ok(filter) = EnvFilter::try_from_env("ISTHMUS_LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
    let start = Instant::now();
    let mut town = Town::new();
    let mut faults = Faults::new();
    eprintln!("{:?}: everybody is ready", start.elapsed());
    for (name, part) in PARTS {
        let found = part(&mut town);
        eprintln!("{:?}: {name}: {} faults", start.elapsed(), found.len());
        faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    drop(town);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
}
