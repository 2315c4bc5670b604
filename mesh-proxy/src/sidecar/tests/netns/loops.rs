//! Calls that lead back to where they come from: they end, and soon.

use std::time::Duration;

use super::Faults;
use super::apps::HTTP;
use super::town::{LOOPS, Name, ROUTES, Town, Version, cluster};

const QUICKLY: Duration = Duration::from_millis(1500);

/// What comes of a call.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The caller's own application answers.
    Own,
    /// The sidecar does, for want of anybody else.
    Unavailable,
}

pub(super) fn run(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    let v4 = Version::V4;
    let taken = || {
        let of = |name| town.count(name, "isthmus_connections_accepted_total", &[], &[]);
        Name::CAPTURED.map(of).iter().sum::<u64>()
    };
    let cases = [
        ("the own address", Name::Web.at(v4, HTTP), "/", End::Own),
        ("the own address, IPv6", Name::Web.at(Version::V6, HTTP), "/", End::Own),
        ("the own ClusterIP", Name::Web.service(v4, 80), "/", End::Own),
        ("the own ClusterIP, of a port without a name", Name::Web.service(Version::V6, 81), "/", End::Own),
        ("a route to the caller", cluster(ROUTES, v4, 80), "/own", End::Own),
        ("a Service with the caller behind it", cluster(LOOPS, v4, 84), "/", End::Own),
        ("a Service with the own outbound port behind it", cluster(LOOPS, v4, 80), "/", End::Unavailable),
        ("a Service with the own inbound port behind it", cluster(LOOPS, v4, 81), "/", End::Unavailable),
        ("a Service with another's outbound port behind it", cluster(LOOPS, v4, 82), "/", End::Unavailable),
        ("a Service with another's inbound port behind it", cluster(LOOPS, v4, 83), "/", End::Unavailable),
    ];
    for (what, to, path, end) in cases {
        let before = taken();
        let outcome = town.get(Name::Web, to, path);
        let as_expected = match end {
            End::Own => outcome.pod() == Some("web"),
            End::Unavailable => matches!(outcome.code(), Some(502 | 503)),
        };
        // Each try is at most one connection more.
        let taken = taken() - before;
        if !as_expected || outcome.took > QUICKLY || taken > 5 {
            faults.push(format!("{what}, not {end:?}: {outcome}, {taken} connections"));
        }
    }
    let open = || {
        let of = |name| town.count(name, "isthmus_connections_active", &["direction=\"outbound\""], &[]);
        Name::CAPTURED.map(of).iter().sum::<u64>()
    };
    if !town.soon(|| open() == 0) {
        faults.push(format!("{} connections are still open", open()));
    }
    faults
}
