//! The figures as Markdown, and whether they are within the limits.

use std::fmt;
use std::fs;

use super::Measured;
use super::contender::Kind;
use super::figures::{Slice, Spread};

/// What has to be reached now. What Pingora costs is not ours to change, so what we add to it has a limit of its own; docs/decisions/013 says
/// why Envoy's is not 0.45.
const CPU_TO_NGINX: f64 = 1.8;
const CPU_TO_PINGORA: f64 = 1.25;
const CPU_TO_ENVOY: f64 = 0.8;
const IDLE_MB: f64 = 25.0;
const PLAIN_KIB: f64 = 40.0;
const TLS_KIB: f64 = 50.0;

/// Shown as Markdown.
#[derive(Debug)]
pub(super) struct Report {
    null: Option<Spread>,
    measured: Vec<Measured>,
    limits: Vec<Limit>,
}

#[derive(Debug)]
struct Limit {
    what: &'static str,
    at_most: f64,
    found: f64,
}

impl Report {
    pub(super) fn new(null: &[Vec<Slice>; 2], measured: Vec<Measured>) -> Self {
        let null = Spread::of_ratios(&null[1], &null[0], cpu);
        let limits = limits(&measured);
        Self { null, measured, limits }
    }

    /// The limits that are missed, each in words.
    pub(super) fn missed(&self) -> Vec<String> {
        let missed = self.limits.iter().filter(|limit| !limit.is_met());
        missed.map(|limit| format!("{} is {:.2}, at most {} is wanted", limit.what, limit.found, limit.at_most)).collect()
    }
}

impl Limit {
    fn is_met(&self) -> bool {
        self.found <= self.at_most
    }
}

fn limits(measured: &[Measured]) -> Vec<Limit> {
    let find = |kind| measured.iter().find(|measured| measured.kind == kind);
    let peers = (find(Kind::Nginx), find(Kind::Pingora), find(Kind::Envoy));
    let (Some(ours), (Some(nginx), Some(pingora), Some(envoy))) = (find(Kind::Isthmus), peers) else { return Vec::new() };
    // A figure that could not be taken is a missed limit.
    let ratio = |other: &Measured| Spread::of_ratios(&ours.slices, &other.slices, cpu).map_or(f64::NAN, |spread| spread.median);
    vec![
        Limit { what: "CPU for each request, to nginx's", at_most: CPU_TO_NGINX, found: ratio(nginx) },
        Limit { what: "CPU for each request, to bare Pingora's", at_most: CPU_TO_PINGORA, found: ratio(pingora) },
        Limit { what: "CPU for each request, to Envoy's", at_most: CPU_TO_ENVOY, found: ratio(envoy) },
        Limit { what: "resident memory when idle, in MB", at_most: IDLE_MB, found: ours.rss_idle as f64 / 1e6 },
        Limit { what: "KiB for an idle connection", at_most: PLAIN_KIB, found: ours.plain_connection / 1024.0 },
        Limit { what: "KiB for an idle connection with TLS", at_most: TLS_KIB, found: ours.tls_connection / 1024.0 },
    ]
}

fn cpu(slice: &Slice) -> f64 {
    slice.cpu_ms_per_1000
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# bench edge\n")?;
        writeln!(
            f,
            "HTTP/1.1 keep-alive, 32 connections, 121-byte responses, ten routes, metrics and access logs on; one thread on one CPU"
        )?;
        writeln!(f, "for each gateway; the backend and wrk share another. {}\n", machine())?;
        if let Some(null) = self.null {
            writeln!(
                f,
                "Noise: nginx beside nginx, CPU for each request: {null}. Medians of the ratios of each round [quartiles].\n"
            )?;
        }
        self.ratios(f)?;
        self.absolute(f)?;
        self.memory(f)?;
        if !self.limits.is_empty() {
            writeln!(f, "\n| limit | at most | found | |\n|---|---|---|---|")?;
        }
        for limit in &self.limits {
            let word = if limit.is_met() { "met" } else { "**missed**" };
            writeln!(f, "| {} | {} | {:.2} | {word} |", limit.what, limit.at_most, limit.found)?;
        }
        Ok(())
    }
}

impl Report {
    fn ratios(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for base in [Kind::Nginx, Kind::Envoy, Kind::Pingora] {
            let Some(base) = self.measured.iter().find(|measured| measured.kind == base) else { continue };
            writeln!(f, "| to {} | CPU/request | requests/s | p50 | p99 |\n|---|---|---|---|---|", base.kind.as_str())?;
            for one in self.measured.iter().filter(|one| one.kind != base.kind) {
                write!(f, "| {} ", one.kind.as_str())?;
                for figure in [cpu, |s: &Slice| s.requests_per_second, |s: &Slice| s.p50_ms, |s: &Slice| s.p99_ms] {
                    let spread = Spread::of_ratios(&one.slices, &base.slices, figure);
                    write!(f, "| {} ", spread.map_or_else(String::new, |spread| spread.to_string()))?;
                }
                writeln!(f, "|")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn absolute(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | CPU ms/1,000 requests | requests/s | p50 ms | p99 ms | version |\n|---|---|---|---|---|---|")?;
        for one in &self.measured {
            write!(f, "| {} ", one.kind.as_str())?;
            for figure in [cpu, |s: &Slice| s.requests_per_second, |s: &Slice| s.p50_ms, |s: &Slice| s.p99_ms] {
                let median = Spread::of(one.slices.iter().map(figure)).map(|spread| spread.median);
                write!(f, "| {:.2} ", median.unwrap_or(f64::NAN))?;
            }
            writeln!(f, "| {} |", one.version)?;
        }
        writeln!(f)
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | RSS idle MB | RSS after load MB | KiB/idle connection | with TLS |\n|---|---|---|---|---|")?;
        for one in &self.measured {
            let mb = |bytes: u64| bytes as f64 / 1e6;
            let (plain, tls) = (one.plain_connection / 1024.0, one.tls_connection / 1024.0);
            let (idle, loaded) = (mb(one.rss_idle), mb(one.rss_loaded));
            let tls = if tls.is_nan() { "none".to_owned() } else { format!("{tls:.1}") };
            writeln!(f, "| {} | {idle:.1} | {loaded:.1} | {plain:.1} | {tls} |", one.kind.as_str())?;
        }
        Ok(())
    }
}

/// The machine in one sentence.
pub(in crate::bench) fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Not those that this process may use: a benchmark may have tied itself to one.
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!("Machine: {cpus} CPUs, {}, Linux {}.", model.map_or("model unknown", |(_, name)| name.trim()), release.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(kind: Kind, cpu_ms_per_1000: f64) -> Measured {
        Measured {
            kind,
            version: String::new(),
            slices: vec![Slice { cpu_ms_per_1000, requests_per_second: 1.0, p50_ms: 1.0, p99_ms: 1.0 }; 3],
            rss_idle: 20_000_000,
            rss_loaded: 30_000_000,
            plain_connection: 39.0 * 1024.0,
            tls_connection: 49.0 * 1024.0,
        }
    }

    fn report(ours: f64, change: impl Fn(&mut Measured)) -> Report {
        let mut ours = measured(Kind::Isthmus, ours);
        change(&mut ours);
        let null = [measured(Kind::Nginx, 1.0).slices, measured(Kind::Nginx, 1.0).slices];
        Report::new(&null, vec![ours, measured(Kind::Pingora, 14.4), measured(Kind::Nginx, 10.0), measured(Kind::Envoy, 22.5)])
    }

    #[test]
    fn each_limit_can_be_missed() {
        assert_eq!(report(17.9, |_| ()).missed(), Vec::<String>::new());
        assert_eq!(report(18.1, |_| ()).missed().len(), 3, "nginx's, Pingora's and Envoy's");
        assert_eq!(report(17.9, |ours| ours.rss_idle = 25_100_000).missed().len(), 1);
        assert_eq!(report(17.9, |ours| ours.plain_connection = 41.0 * 1024.0).missed().len(), 1);
        assert_eq!(report(17.9, |ours| ours.tls_connection = 51.0 * 1024.0).missed().len(), 1);
        assert_eq!(report(17.9, |ours| ours.slices.clear()).missed().len(), 3, "no figure is no success");
    }

    #[test]
    fn the_tables_hold_every_gateway() {
        let text = report(18.1, |_| ()).to_string();
        for line in [
            "| isthmus | 1.81 [1.81-1.81] | 1.00 [1.00-1.00] |",
            "| envoy | 2.25 [2.25-2.25] |",
            "| bare pingora | 1.44 [1.44-1.44] |",
            "| isthmus | 20.0 | 30.0 | 39.0 | 49.0 |",
            "| CPU for each request, to nginx's | 1.8 | 1.81 | **missed** |",
        ] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
    }
}
