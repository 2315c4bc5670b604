//! `./dev bench edge`: this gateway beside nginx, haproxy and Envoy, as real processes on this machine.
//!
//! Every gateway runs with one thread on CPU 1, with ten routes, its metrics and its access log on. The backend and the clients share
//! CPU 0. The speed of a virtual machine changes from minute to minute, so nothing is compared over time: in each round every
//! gateway gets one second, one after the other in an order that rotates, and figures are medians of the ratios within a round. Before
//! that nginx is compared with itself, which shows how much of a ratio is noise.

mod config;
mod contender;
pub(super) mod figures;
mod idle;
pub(super) mod procfs;
pub(super) mod report;
pub(super) mod scene;
pub(super) mod tools;
mod wrk;

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, thread};

use clap::Parser;

use crate::fault::{Context as _, Fault};
use crate::{process, workspace};
use contender::{Contender, Kind};
use figures::Slice;
use report::Report;
use scene::Scene;

/// How long a gateway may take to write the access log of a slice; its cost belongs to the slice.
const SETTLE: Duration = Duration::from_millis(150);

#[derive(Debug, Parser)]
#[command(name = "./dev bench edge", no_binary_name = true)]
struct Flags {
    /// A Markdown file for the figures.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds of one second for each gateway; eight or more for figures that mean something.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Measure the release binary that is there instead of building it first.
    #[arg(long)]
    no_build: bool,
    /// Leave this gateway out: only the others, and no limits.
    #[arg(long)]
    others_only: bool,
}

/// Everything that is measured about one gateway.
#[derive(Debug)]
struct Measured {
    kind: Kind,
    version: String,
    /// One for each round.
    slices: Vec<Slice>,
    /// Bytes, when it is ready and nothing has been asked.
    rss_idle: u64,
    /// Bytes, after all rounds.
    rss_loaded: u64,
    /// Bytes for an idle keep-alive connection.
    plain_connection: f64,
    /// Not a number: it has no TLS.
    tls_connection: f64,
}

/// Fails if a limit is missed, after the figures have been shown.
pub(super) fn run(flags: &[String]) -> Result<(), Fault> {
    let flags = match Flags::try_parse_from(flags) {
        Ok(flags) => flags,
        Err(error) => return Err(Fault::said(error.to_string())),
    };
    let tools = tools::get()?;
    let mut kinds = vec![Kind::Nginx, Kind::Haproxy, Kind::Envoy];
    if !flags.others_only {
        kinds.splice(0..0, [Kind::Isthmus, Kind::Pingora]);
        if !flags.no_build {
            process::run(&mut workspace::cargo(&["build", "--release", "--package", "isthmus-cli"]))?;
            let example = ["build", "--release", "--package", "isthmus-dataplane", "--example", "bare_pingora"];
            process::run(&mut workspace::cargo(&example))?;
        }
    }
    let scene = Scene::start(tools)?;
    println!("A null pair first: {} rounds of nginx beside nginx.", flags.rounds);
    let null = null_pair(&scene, flags.rounds)?;
    println!("{} rounds of {} gateways, one second each.", flags.rounds, kinds.len());
    let measured = compare(&scene, &kinds, flags.rounds)?;
    let report = Report::new(&null, measured);
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

/// Two nginx beside each other: the slices of the first and of the second.
fn null_pair(scene: &Scene, rounds: usize) -> Result<[Vec<Slice>; 2], Fault> {
    let pair = [Contender::start(scene, Kind::Nginx)?, Contender::start(scene, Kind::Nginx)?];
    let mut slices = take_turns(&pair, rounds)?.into_iter();
    Ok([slices.next().unwrap_or_default(), slices.next().unwrap_or_default()])
}

fn compare(scene: &Scene, kinds: &[Kind], rounds: usize) -> Result<Vec<Measured>, Fault> {
    let contenders = kinds.iter().map(|kind| Contender::start(scene, *kind)).collect::<Result<Vec<_>, _>>()?;
    let idle = contenders.iter().map(|contender| procfs::rss(contender.id())).collect::<Result<Vec<_>, _>>()?;
    let slices = take_turns(&contenders, rounds)?;
    let loaded = contenders.iter().map(|contender| procfs::rss(contender.id())).collect::<Result<Vec<_>, _>>()?;
    drop(contenders);
    let mut all = Vec::new();
    for (((kind, slices), rss_idle), rss_loaded) in kinds.iter().copied().zip(slices).zip(idle).zip(loaded) {
        all.push(Measured {
            kind,
            version: scene.tools.version(kind),
            slices,
            rss_idle,
            rss_loaded,
            plain_connection: idle::bytes_for_each(&Contender::start(scene, kind)?, None)?,
            tls_connection: match kind {
                Kind::Pingora => f64::NAN,
                _ => idle::bytes_for_each(&Contender::start(scene, kind)?, Some(&scene.client()?))?,
            },
        });
    }
    Ok(all)
}

/// Each gateway gets its slice in every round; who is first rotates. A slice before the first round is not counted.
fn take_turns(contenders: &[Contender], rounds: usize) -> Result<Vec<Vec<Slice>>, Fault> {
    for contender in contenders {
        slice(contender)?;
    }
    let mut slices = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let whose = (round + turn) % contenders.len();
            slices[whose].push(slice(&contenders[whose])?);
        }
    }
    Ok(slices)
}

fn slice(contender: &Contender) -> Result<Slice, Fault> {
    let before = procfs::cpu_seconds(contender.id())?;
    let load = wrk::run(contender.plain())?;
    thread::sleep(SETTLE);
    let cpu = procfs::cpu_seconds(contender.id())? - before;
    Ok(Slice { cpu_ms_per_1000: cpu * 1e6 / load.requests, requests_per_second: load.requests / load.seconds, ..load.into() })
}
