//! `./dev bench mesh`: a pair of sidecars beside a pair of Envoys and beside no proxies at all, as real processes on this machine.
//!
//! Each way has two network namespaces of its own, joined by a cable, with the rules of `isthmus-mesh-proxy redirect` in both. All proxies run
//! on CPU 1 with one thread each; the clients and the servers, which are threads of this process, share CPU 0. As in `bench edge`, nothing is
//! compared over time: in each round every way gets a slice, one after the other in an order that rotates, what a pair adds is the difference
//! to the direct way of the same round, and figures are medians of the ratios within a round. A second pair of sidecars takes part, and
//! what it is to the first one shows how much of a ratio is noise.

pub(super) mod authority;
mod contender;
mod envoy;
pub(super) mod load;
pub(super) mod pods;
mod report;
pub(super) mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, thread};

use clap::Parser;

use crate::bench::edge::{procfs::Memory, tools};
use crate::fault::{Context as _, Fault};
use crate::suites::netns;
use crate::{process, workspace};
use contender::{Contender, Kind, Programs};
use load::quantile;
use report::{Measured, Report, Slice};

/// How long proxies may take to write their logs; what that costs belongs to the slice.
const SETTLE: Duration = Duration::from_millis(150);

#[derive(Debug, Parser)]
#[command(name = "./dev bench mesh", no_binary_name = true)]
struct Flags {
    /// A Markdown file for the figures.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds of a slice for each way; eight or more for figures that mean something.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// How long a slice is, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measure the sidecar that is there instead of building it first.
    #[arg(long)]
    no_build: bool,
    /// An `isthmus-mesh-proxy` of before a change: the second pair are these.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Leave the sidecars out: only the others, and no aims.
    #[arg(long)]
    others_only: bool,
}

/// Fails if an aim is missed, after the figures have been shown.
pub(super) fn run(flags: &[String]) -> Result<(), Fault> {
    let flags = match Flags::try_parse_from(flags) {
        Ok(flags) => flags,
        Err(error) => return Err(Fault::said(error.to_string())),
    };
    requirements()?;
    let mut kinds = vec![Kind::Direct, Kind::Envoy, Kind::EnvoyHttp];
    if !flags.others_only {
        kinds.splice(1..1, [Kind::Isthmus, Kind::Again]);
    }
    // The sidecar's rules are everybody's.
    let sidecar = pods::build(!flags.no_build)?;
    let again = flags.before.as_ref().map_or_else(|| sidecar.clone(), |path| workspace::caller().join(path));
    let programs = Programs { sidecar, again, envoy: tools::envoy()? };
    // All threads that are started from here on, and not those that were started before: there are none.
    process::capture(Command::new("taskset").args(["-p", "-c", "0", &std::process::id().to_string()]))?;
    let folder = |kind: Kind| {
        let name = kind.as_str().replace([' ', ','], "-");
        env::temp_dir().join(format!("isthmus-bench-mesh-{}-{name}", std::process::id()))
    };
    let contenders = kinds.iter().map(|kind| Contender::start(*kind, folder(*kind), &programs)).collect::<Result<Vec<_>, _>>()?;
    thread::sleep(Duration::from_secs(1));
    let idle = contenders.iter().map(Contender::memory).collect::<Result<Vec<_>, _>>()?;
    println!("{} rounds of {} ways, {} s each.", flags.rounds, kinds.len(), flags.seconds);
    let before = busy();
    let slices = take_turns(&contenders, &flags)?;
    let load = [before, busy()];
    let loaded = contenders.iter().map(Contender::memory).collect::<Result<Vec<_>, _>>()?;
    let memory = idle.into_iter().zip(loaded).map(|(idle, loaded): (Option<[Memory; 2]>, _)| Some([idle?, loaded?]));
    let measured = contenders.iter().zip(slices).zip(memory).map(|((one, slices), memory)| {
        Ok(Measured { kind: one.kind(), version: version(programs.proxy(one.kind()))?, slices, memory })
    });
    let report = Report::new(measured.collect::<Result<_, Fault>>()?, flags.seconds, load);
    println!("\n{report}");
    if let Some(out) = &flags.out {
        let out = workspace::caller().join(out);
        fs::write(&out, report.to_string()).context(|| format!("writing {}", out.display()))?;
        println!("written to {}", out.display());
    }
    match report.missed() {
        missed if missed.is_empty() => Ok(()),
        missed => Err(Fault::said(format!("missed: {}", missed.join("; ")))),
    }
}

/// How many programs want a CPU, in the mean of a minute: what else the machine does spoils latencies first.
fn busy() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// What this and `bench memory` need of the machine.
pub(super) fn requirements() -> Result<(), Fault> {
    if let Some(why) = netns::unavailable() {
        return Err(Fault::said(format!("a mesh needs network namespaces: {why}")));
    }
    if process::capture(&mut Command::new("nproc"))?.trim() == "1" {
        return Err(Fault::said("this needs two CPUs: one for the proxies, one for their clients"));
    }
    let programs = [("nft", "nftables"), ("ip", "iproute2"), ("taskset", "util-linux")];
    let missing: Vec<_> = programs.into_iter().filter(|(name, _)| !process::exists(name)).map(|(_, package)| package).collect();
    if missing.is_empty() { Ok(()) } else { process::packages(&missing) }
}

fn version(program: Option<&Path>) -> Result<String, Fault> {
    let Some(program) = program else { return Ok(String::new()) };
    process::capture(Command::new(program).arg("--version")).map(|said| tools::short(&said).to_owned())
}

/// Each way gets its slice in every round; who is first rotates. Those before the first round are not counted.
fn take_turns(contenders: &[Contender], flags: &Flags) -> Result<Vec<Vec<Slice>>, Fault> {
    let time = Duration::from_secs_f64(flags.seconds);
    for contender in contenders {
        slice(contender, time)?;
    }
    let mut slices = vec![Vec::new(); contenders.len()];
    for round in 0..flags.rounds {
        for turn in 0..contenders.len() {
            let whose = (round + turn) % contenders.len();
            slices[whose].push(slice(&contenders[whose], time)?);
        }
        let direct = contenders.iter().zip(&slices).find(|(one, _)| one.kind() == Kind::Direct);
        let direct = direct.and_then(|(_, slices)| slices.last()).copied().unwrap_or_default();
        for slice in slices.iter_mut().filter_map(|slices| slices.last_mut()) {
            slice.added_p50_ms = slice.p50_ms - direct.p50_ms;
            slice.added_p99_ms = slice.p99_ms - direct.p99_ms;
        }
    }
    Ok(slices)
}

fn slice(contender: &Contender, time: Duration) -> Result<Slice, Fault> {
    let mut load = contender.load()?;
    let before = contender.cpu_seconds()?;
    let took = load.run(time).context(|| format!("asking at a fixed rate, {}", contender.kind().as_str()))?;
    thread::sleep(SETTLE);
    let after = contender.cpu_seconds()?;
    let thousands = took.len() as f64 / 1e3;
    Ok(Slice {
        p50_ms: quantile(&took, 0.5) * 1e3,
        p99_ms: quantile(&took, 0.99) * 1e3,
        cpu: [(after[0] - before[0]) / thousands, (after[1] - before[1]) / thousands],
        ..Slice::default()
    })
}
