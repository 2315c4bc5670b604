//! The figures as Markdown, and whether they are what is aimed at.

use std::fmt;

use super::contender::Kind;
use super::load::{CONNECTIONS, RATE};
use crate::bench::edge::figures::Spread;
use crate::bench::edge::procfs::Memory;
use crate::bench::edge::report::machine;

/// At most that, to the figures of [`BASE`].
const AIM: f64 = 0.5;
/// The pair that does what a pair of sidecars does in a mesh of Envoys, such as Istio's; the aim was made from its figures (+0.6 ms, +1.1 ms,
/// 0.27 vCPU, 64 MiB).
const BASE: Kind = Kind::EnvoyHttp;

/// What went one way in one round.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slice {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// More than the direct way took in the same round.
    pub(super) added_p50_ms: f64,
    pub(super) added_p99_ms: f64,
    /// CPU seconds for 1,000 requests, the client's proxy first.
    pub(super) cpu: [f64; 2],
}

impl Slice {
    fn cpu_of_both(&self) -> f64 {
        self.cpu[0] + self.cpu[1]
    }
}

/// Everything that is measured about one way.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) kind: Kind,
    pub(super) version: String,
    /// One for each round.
    pub(super) slices: Vec<Slice>,
    /// When nothing has been asked yet, and after all rounds; the client's proxy first. None of the direct way.
    pub(super) memory: Option<[[Memory; 2]; 2]>,
}

impl Measured {
    /// MB of a proxy of the pair, in the mean, after all rounds.
    fn mb(&self) -> f64 {
        self.memory.map_or(f64::NAN, |[_, [client, server]]| (client.rss + server.rss) as f64 / 2e6)
    }
}

/// Shown as Markdown.
#[derive(Debug)]
pub(super) struct Report {
    measured: Vec<Measured>,
    /// Of a slice.
    seconds: f64,
    /// Of the machine, before and after.
    load: [String; 2],
}

type Figure = (&'static str, fn(&Slice) -> f64);

const FIGURES: [Figure; 3] = [
    ("p50 added", |slice| slice.added_p50_ms),
    ("p99 added", |slice| slice.added_p99_ms),
    ("CPU of the pair for each request", Slice::cpu_of_both),
];

impl Report {
    pub(super) fn new(measured: Vec<Measured>, seconds: f64, load: [String; 2]) -> Self {
        Self { measured, seconds, load }
    }

    /// What is not as aimed at, each in words.
    pub(super) fn missed(&self) -> Vec<String> {
        let missed = self.aims(BASE).into_iter().filter(|(_, found)| !is_met(*found));
        missed.map(|(what, found)| format!("{what} is {found:.2} times Envoy's, {AIM} is aimed at")).collect()
    }

    fn of(&self, kind: Kind) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.kind == kind)
    }

    /// Each figure with the median of its ratios to a pair of Envoys. A figure that could not be taken is not met.
    fn aims(&self, envoy: Kind) -> Vec<(&'static str, f64)> {
        let (Some(ours), Some(theirs)) = (self.of(Kind::Isthmus), self.of(envoy)) else { return Vec::new() };
        let median = |figure| ratio(ours, theirs, figure).map_or(f64::NAN, |spread| spread.median);
        let mut aims: Vec<_> = FIGURES.iter().map(|(name, figure)| (*name, median(*figure))).collect();
        aims.push(("resident memory of a proxy", ours.mb() / theirs.mb()));
        aims
    }

    fn ratios(&self, f: &mut fmt::Formatter<'_>, base: Kind) -> fmt::Result {
        let Some(base) = self.of(base) else { return Ok(()) };
        writeln!(f, "| to {} | {} | RSS of a proxy |", base.kind.as_str(), FIGURES.map(|(name, _)| name).join(" | "))?;
        writeln!(f, "|---|---|---|---|---|")?;
        let others = |one: &&Measured| one.kind != base.kind && one.kind != Kind::Direct;
        for one in self.measured.iter().filter(others) {
            write!(f, "| {} ", one.kind.as_str())?;
            for (_, figure) in FIGURES {
                let spread = ratio(one, base, figure);
                write!(f, "| {} ", spread.map_or_else(String::new, |spread| spread.to_string()))?;
            }
            writeln!(f, "| {:.2} |", one.mb() / base.mb())?;
        }
        writeln!(f)
    }

    fn absolute(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| | p50 ms | p99 ms | p50 added ms | p99 added ms | CPU ms/1,000 requests | client's | server's | version |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        let figures: [fn(&Slice) -> f64; 7] = [
            |slice| slice.p50_ms,
            |slice| slice.p99_ms,
            |slice| slice.added_p50_ms,
            |slice| slice.added_p99_ms,
            |slice| slice.cpu_of_both() * 1e3,
            |slice| slice.cpu[0] * 1e3,
            |slice| slice.cpu[1] * 1e3,
        ];
        for one in &self.measured {
            write!(f, "| {} ", one.kind.as_str())?;
            for (place, figure) in figures.into_iter().enumerate() {
                let digits = if place < 4 { 3 } else { 1 };
                let spread = Spread::of(one.slices.iter().map(figure));
                let shown = spread.filter(|_| one.kind != Kind::Direct || place < 2);
                let shown = shown.map_or_else(String::new, |Spread { low, median, high }| {
                    format!("{median:.digits$} [{low:.digits$}-{high:.digits$}]")
                });
                write!(f, "| {shown} ")?;
            }
            writeln!(f, "| {} |", one.version)?;
        }
        writeln!(f)
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| MB | client's, idle | server's, idle | client's, after load | server's, after load |\n|---|---|---|---|---|"
        )?;
        for one in &self.measured {
            let Some(memory) = one.memory else { continue };
            write!(f, "| {} ", one.kind.as_str())?;
            for Memory { rss, pss, .. } in memory.into_iter().flatten() {
                write!(f, "| RSS {:.1}, PSS {:.1} ", rss as f64 / 1e6, pss as f64 / 1e6)?;
            }
            writeln!(f, "|")?;
        }
        writeln!(f)
    }
}

fn ratio(ours: &Measured, theirs: &Measured, figure: fn(&Slice) -> f64) -> Option<Spread> {
    Spread::of(ours.slices.iter().zip(&theirs.slices).map(|(ours, theirs)| figure(ours) / figure(theirs)))
}

fn is_met(found: f64) -> bool {
    found <= AIM
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# bench mesh\n")?;
        writeln!(
            f,
            "HTTP/1.1, {RATE} requests a second at fixed times on {CONNECTIONS} connections, 121-byte responses, {} s a slice: client, its",
            self.seconds
        )?;
        writeln!(
            f,
            "proxy (captured connections, ten routes of a Service, access log), mTLS, the server's proxy, server. Two network namespaces"
        )?;
        writeln!(
            f,
            "for each pair; one thread for each proxy, all on one CPU; clients and servers share the other. {}\n",
            machine()
        )?;
        writeln!(
            f,
            "\"envoy, HTTP twice\" is a pair as Istio has it. \"envoy\" has a server's side that, as ours, passes on what comes out of mTLS and"
        )?;
        writeln!(
            f,
            "reads no request there. Medians of the ratios of each round [quartiles]; a second pair of the same sidecars shows the noise."
        )?;
        let rounds = self.measured.first().map_or(0, |one| one.slices.len());
        writeln!(f, "{rounds} rounds; load {} at the beginning, {} at the end.\n", self.load[0], self.load[1])?;
        self.ratios(f, Kind::Envoy)?;
        self.ratios(f, Kind::EnvoyHttp)?;
        self.ratios(f, Kind::Isthmus)?;
        self.absolute(f)?;
        self.memory(f)?;
        let aims = self.aims(BASE);
        if !aims.is_empty() {
            writeln!(
                f,
                "| to {} | aim: at most | found | | to {} |\n|---|---|---|---|---|",
                BASE.as_str(),
                Kind::Envoy.as_str()
            )?;
        }
        let word = |found| if is_met(found) { "met" } else { "**missed**" };
        for ((what, found), (_, other)) in aims.into_iter().zip(self.aims(Kind::Envoy)) {
            writeln!(f, "| {what} | {AIM} | {found:.2} | {} | {other:.2} |", word(found))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(kind: Kind, factor: f64, rounds: usize) -> Measured {
        let slice = Slice {
            p50_ms: 0.1 + factor,
            p99_ms: 0.2 + factor,
            added_p50_ms: factor,
            added_p99_ms: factor,
            cpu: [factor, factor],
        };
        let bytes = (factor * 1e8) as u64;
        let memory = Memory { rss: bytes, pss: bytes, anonymous: bytes };
        Measured {
            kind,
            version: "1".to_owned(),
            slices: vec![slice; rounds],
            memory: (kind != Kind::Direct).then_some([[memory; 2]; 2]),
        }
    }

    fn report(ours: f64, rounds: usize) -> Report {
        let ours = [measured(Kind::Direct, 0.0, rounds), measured(Kind::Isthmus, ours, rounds)];
        let theirs = [measured(Kind::Envoy, 1.0, rounds), measured(Kind::EnvoyHttp, 2.0, rounds)];
        Report::new(ours.into_iter().chain(theirs).collect(), 3.0, ["0.1".to_owned(), "1.2".to_owned()])
    }

    #[test]
    fn each_aim_can_be_missed() {
        assert_eq!(report(0.99, 3).missed(), Vec::<String>::new());
        let missed = report(1.01, 3).missed();
        assert_eq!((missed.len(), missed[0].as_str()), (4, "p50 added is 0.51 times Envoy's, 0.5 is aimed at"));
        assert_eq!(report(0.99, 0).missed().len(), 3, "no figure is no success");
    }

    #[test]
    fn the_tables_hold_every_way() {
        let text = report(0.51, 3).to_string();
        for line in [
            "3 rounds; load 0.1 at the beginning, 1.2 at the end.",
            "| isthmus | 0.51 [0.51-0.51] | 0.51 [0.51-0.51] | 0.51 [0.51-0.51] | 0.51 |",
            "| envoy, HTTP twice | 2.00 [2.00-2.00] |",
            "| direct | 0.100 [0.100-0.100] | 0.200 [0.200-0.200] |  |",
            "| isthmus | RSS 51.0, PSS 51.0 |",
            "| p50 added | 0.5 | 0.26 | met | 0.51 |",
        ] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
    }
}
