//! The figures as Markdown, and whether they are within the limits.

use std::fmt;

use super::Slice;
use super::contender::Kind;
use crate::bench::edge::figures::Spread;
use crate::bench::edge::report::machine;

/// Bytes for each second, to haproxy's.
const BYTES_TO_HAPROXY: f64 = 0.9;
/// CPU for each handshake, to nginx's.
const HANDSHAKE_TO_NGINX: f64 = 0.6;

/// One column: its name, its value in a slice, and how it is shown.
type Figure = (&'static str, fn(&Slice) -> f64, f64);

const FIGURES: [Figure; 8] = [
    ("MB/s", |slice| slice.bytes_per_second, 1e-6),
    ("CPU s/GiB", |slice| slice.cpu_seconds_per_gib, 1.0),
    ("TLS MB/s", |slice| slice.tls_bytes_per_second, 1e-6),
    ("TLS CPU s/GiB", |slice| slice.tls_cpu_seconds_per_gib, 1.0),
    ("added us", |slice| slice.added_microseconds, 1.0),
    ("CPU ms/connection", |slice| slice.connection_cpu_ms, 1.0),
    ("CPU ms/TLS connection", |slice| slice.tls_connection_cpu_ms, 1.0),
    ("CPU ms/handshake", Slice::handshake_cpu_ms, 1.0),
];

/// Everything that is measured about one gateway.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) kind: Kind,
    pub(super) version: String,
    /// One for each round.
    pub(super) slices: Vec<Slice>,
}

/// Shown as Markdown.
#[derive(Debug)]
pub(super) struct Report {
    measured: Vec<Measured>,
}

/// A limit that was held against a figure.
struct Limit {
    what: &'static str,
    wanted: String,
    found: f64,
    is_met: bool,
}

impl Report {
    pub(super) fn new(measured: Vec<Measured>) -> Self {
        Self { measured }
    }

    /// The limits that are missed, each in words.
    pub(super) fn missed(&self) -> Vec<String> {
        let missed = self.limits().into_iter().filter(|limit| !limit.is_met);
        missed.map(|limit| format!("{} is {:.2}, {} is wanted", limit.what, limit.found, limit.wanted)).collect()
    }

    fn of(&self, kind: Kind) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.kind == kind)
    }

    /// None if this gateway took no part.
    fn limits(&self) -> Vec<Limit> {
        let Some(ours) = self.of(Kind::Isthmus) else { return Vec::new() };
        // A figure that could not be taken is a missed limit.
        let median = |other: Kind, figure: fn(&Slice) -> f64| {
            self.of(other).and_then(|other| ratio(ours, other, figure)).map_or(f64::NAN, |spread| spread.median)
        };
        let bytes = median(Kind::Haproxy, |slice| slice.bytes_per_second);
        let handshake = median(Kind::Nginx, Slice::handshake_cpu_ms);
        vec![
            Limit {
                what: "bytes for each second, to haproxy's",
                wanted: format!("at least {BYTES_TO_HAPROXY}"),
                found: bytes,
                is_met: bytes >= BYTES_TO_HAPROXY,
            },
            Limit {
                what: "CPU for each handshake, to nginx's",
                wanted: format!("at most {HANDSHAKE_TO_NGINX}"),
                found: handshake,
                is_met: handshake <= HANDSHAKE_TO_NGINX,
            },
        ]
    }

    fn ratios(&self, f: &mut fmt::Formatter<'_>, base: Kind) -> fmt::Result {
        let Some(base) = self.of(base) else { return Ok(()) };
        write!(f, "| to {} |", base.kind.as_str())?;
        heads(f)?;
        for one in self.measured.iter().filter(|one| one.kind != base.kind) {
            write!(f, "| {} ", one.kind.as_str())?;
            for (_, figure, _) in FIGURES {
                let spread = ratio(one, base, figure);
                write!(f, "| {} ", spread.map_or_else(String::new, |spread| spread.to_string()))?;
            }
            writeln!(f, "|")?;
        }
        writeln!(f)
    }
}

fn ratio(ours: &Measured, theirs: &Measured, figure: fn(&Slice) -> f64) -> Option<Spread> {
    Spread::of(ours.slices.iter().zip(&theirs.slices).map(|(ours, theirs)| figure(ours) / figure(theirs)))
}

fn heads(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (name, _, _) in FIGURES {
        write!(f, " {name} |")?;
    }
    writeln!(f, "\n|---|{}", "---|".repeat(FIGURES.len()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# bench l4\n")?;
        writeln!(
            f,
            "Downloads on two connections, in the clear and with TLS 1.3 that the gateway ends; 64 bytes there and back on a kept"
        )?;
        writeln!(f, "connection. Access logs on. One thread on one CPU for each gateway; backend and clients share another.\n")?;
        writeln!(
            f,
            "New connections, in turns without TLS and with a whole handshake (1.3, ECDSA P-256, X25519, AES-256-GCM, two tickets,"
        )?;
        writeln!(
            f,
            "no resumption); each has one to the backend, 64 bytes there and back, and an end of both. A handshake is the difference"
        )?;
        writeln!(f, "of the two: accepting, connecting, passing on, closing and the log are taken away. {}\n", machine())?;
        writeln!(f, "Medians of the ratios of each round [quartiles]; a second haproxy shows the noise.\n")?;
        self.ratios(f, Kind::Haproxy)?;
        self.ratios(f, Kind::Nginx)?;
        self.ratios(f, Kind::Before)?;
        write!(f, "| |")?;
        heads(f)?;
        for one in &self.measured {
            write!(f, "| {} ({}) ", one.kind.as_str(), one.version)?;
            for (_, figure, unit) in FIGURES {
                let median = Spread::of(one.slices.iter().map(figure)).map(|spread| spread.median);
                write!(f, "| {:.2} ", median.unwrap_or(f64::NAN) * unit)?;
            }
            writeln!(f, "|")?;
        }
        let limits = self.limits();
        if !limits.is_empty() {
            writeln!(f, "\n| limit | wanted | found | |\n|---|---|---|---|")?;
        }
        for Limit { what, wanted, found, is_met } in limits {
            let word = if is_met { "met" } else { "**missed**" };
            writeln!(f, "| {what} | {wanted} | {found:.2} | {word} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bytes_per_second: f64, handshake_cpu_ms: f64, rounds: usize) -> Report {
        let measured = |kind, bytes_per_second, handshake_cpu_ms| {
            // With a connection that costs three times a handshake, which must not be seen in the limit.
            let (connection_cpu_ms, tls_connection_cpu_ms) = (3.0, 3.0 + handshake_cpu_ms);
            let slice = Slice { bytes_per_second, connection_cpu_ms, tls_connection_cpu_ms, ..Slice::default() };
            Measured { kind, version: "1".to_owned(), slices: vec![slice; rounds] }
        };
        Report::new(vec![
            measured(Kind::Isthmus, bytes_per_second, handshake_cpu_ms),
            measured(Kind::Haproxy, 100.0, 9.0),
            measured(Kind::Nginx, 9.0, 1.0),
        ])
    }

    #[test]
    fn each_limit_can_be_missed() {
        assert_eq!(report(91.0, 0.59, 3).missed(), Vec::<String>::new());
        assert_eq!(report(89.0, 0.59, 3).missed(), ["bytes for each second, to haproxy's is 0.89, at least 0.9 is wanted"]);
        assert_eq!(report(91.0, 0.61, 3).missed(), ["CPU for each handshake, to nginx's is 0.61, at most 0.6 is wanted"]);
        assert_eq!(report(91.0, 0.59, 0).missed().len(), 2, "no figure is no success");
    }

    #[test]
    fn the_tables_hold_every_gateway() {
        let text = report(91.0, 0.61, 3).to_string();
        for line in ["| isthmus | 0.91 [0.91-0.91] |", "| nginx | 0.09 [0.09-0.09] |", "| at most 0.6 | 0.61 | **missed** |"] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
    }
}
