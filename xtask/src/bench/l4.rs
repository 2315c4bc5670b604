//! `./dev bench l4`: connections without HTTP through this gateway, haproxy and nginx, as real processes on this machine.
//!
//! Every gateway has CPU 1 for itself; the clients and the backend, which are threads of this process, share CPU 0. As in `bench edge`,
//! nothing is compared over time: in each round every gateway gets its slices, one after the other in an order that rotates, and figures are
//! medians of the ratios within a round. A second haproxy takes part, and what it is to the first one shows how much of a ratio is noise.

mod contender;
mod far;
mod report;

use std::path::PathBuf;
use std::process::Command;
use std::{fs, io, thread};

use clap::Parser;

use crate::fault::{Context as _, Fault};
use crate::{process, workspace};
use contender::{Contender, Kind};
use far::Far;
use report::{Measured, Report};

#[derive(Debug, Parser)]
#[command(name = "./dev bench l4", no_binary_name = true)]
struct Flags {
    /// A Markdown file for the figures.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds of about five seconds for each gateway; eight or more for figures that mean something.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Measure the release binary that is there instead of building it first.
    #[arg(long)]
    no_build: bool,
    /// Leave this gateway out: only the others, and no limits.
    #[arg(long)]
    others_only: bool,
    /// An `isthmus` of before a change, to be measured in the same rounds.
    #[arg(long, value_name = "BINARY")]
    before: Option<PathBuf>,
}

/// How often connections without TLS and with it are counted in a slice.
const TURNS: u32 = 4;

/// What one gateway did in one round.
#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    /// Through a TCPRoute, or what the others have for it.
    bytes_per_second: f64,
    cpu_seconds_per_gib: f64,
    /// With TLS that is ended at the gateway.
    tls_bytes_per_second: f64,
    tls_cpu_seconds_per_gib: f64,
    /// A message of 64 bytes there and back, less what it takes without a gateway, in the median.
    added_microseconds: f64,
    /// A connection without TLS: accepted, another one opened to the backend, 64 bytes there and back, both ended, a line in the log.
    connection_cpu_ms: f64,
    /// The same with a whole handshake.
    tls_connection_cpu_ms: f64,
}

impl Slice {
    /// What a connection with TLS costs more than one without: the handshake, its tickets, three short records, the alerts at the end.
    fn handshake_cpu_ms(&self) -> f64 {
        self.tls_connection_cpu_ms - self.connection_cpu_ms
    }
}

/// Fails if a limit is missed, after the figures have been shown.
pub(super) fn run(flags: &[String]) -> Result<(), Fault> {
    let flags = match Flags::try_parse_from(flags) {
        Ok(flags) => flags,
        Err(error) => return Err(Fault::said(error.to_string())),
    };
    packages()?;
    let mut kinds = vec![Kind::Haproxy, Kind::Again, Kind::Nginx];
    kinds.extend(flags.before.is_some().then_some(Kind::Before));
    if !flags.others_only {
        kinds.insert(0, Kind::Isthmus);
        if !flags.no_build {
            process::run(&mut workspace::cargo(&["build", "--release", "--package", "isthmus-cli"]))?;
        }
    }
    // All threads that are started from here on, and not those that were started before: there are none.
    process::capture(Command::new("taskset").args(["-p", "-c", "0", &std::process::id().to_string()]))?;
    let far = Far::start()?;
    let before = flags.before.as_ref().map(|path| workspace::caller().join(path));
    let contenders = kinds.iter().map(|kind| Contender::start(&far, *kind, before.as_deref())).collect::<Result<Vec<_>, _>>()?;
    println!("{} rounds of {} gateways, about five seconds each.", flags.rounds, kinds.len());
    let slices = take_turns(&far, &contenders, flags.rounds)?;
    let measured =
        contenders.iter().zip(slices).map(|(one, slices)| Measured { kind: one.kind(), version: one.version(), slices });
    let report = Report::new(measured.collect());
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

fn packages() -> Result<(), Fault> {
    let cpus = process::capture(&mut Command::new("nproc"))?;
    if cpus.trim() == "1" {
        return Err(Fault::said("this needs two CPUs: one for the gateway, one for its clients"));
    }
    let module = std::path::Path::new(contender::STREAM_MODULE);
    let programs = [("nginx", "nginx-light"), ("haproxy", "haproxy"), ("taskset", "util-linux")];
    let mut missing: Vec<_> =
        programs.into_iter().filter(|(name, _)| !process::exists(name)).map(|(_, package)| package).collect();
    missing.extend((!module.exists()).then_some("libnginx-mod-stream"));
    if missing.is_empty() { Ok(()) } else { process::packages(&missing) }
}

/// Each gateway gets its slices in every round; who is first rotates. Those before the first round are not counted.
fn take_turns(far: &Far, contenders: &[Contender], rounds: usize) -> Result<Vec<Vec<Slice>>, Fault> {
    for contender in contenders {
        slice(far, contender)?;
    }
    let mut slices = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let whose = (round + turn) % contenders.len();
            slices[whose].push(slice(far, &contenders[whose])?);
        }
    }
    Ok(slices)
}

fn slice(far: &Far, contender: &Contender) -> Result<Slice, Fault> {
    let in_words =
        |what: &'static str| move |error| Fault::said(format!("{what} through {}: {error}", contender.kind().as_str()));
    let cpu = |what: &mut dyn FnMut() -> io::Result<f64>, words| {
        let before = contender.cpu_seconds()?;
        let found = what().map_err(in_words(words))?;
        // What the ends of connections cost belongs to the slice.
        thread::sleep(far::SETTLE);
        Ok::<_, Fault>((found, contender.cpu_seconds()? - before))
    };
    let (plain, tls) = (contender.plain(), contender.tls());
    let (bytes, spent) = cpu(&mut || far.download(plain), "downloading")?;
    let (tls_bytes, tls_spent) = cpu(&mut || far.download_tls(tls), "downloading with TLS")?;
    let (mut connecting, mut connecting_tls) = (0.0, 0.0);
    // In turns, so that what else the machine does is in both.
    for _ in 0..TURNS {
        connecting += cpu(&mut || far.connections(plain), "connecting")?.1;
        connecting_tls += cpu(&mut || far.handshakes(tls), "shaking hands")?.1;
    }
    let connections = f64::from(far::CONNECTIONS * TURNS);
    let direct = far.round_trip(far.backend()).map_err(in_words("asking the backend, not"))?;
    let through = far.round_trip(plain).map_err(in_words("asking"))?;
    let seconds = far::SLICE.as_secs_f64();
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    Ok(Slice {
        bytes_per_second: bytes / seconds,
        cpu_seconds_per_gib: spent / gib(bytes),
        tls_bytes_per_second: tls_bytes / seconds,
        tls_cpu_seconds_per_gib: tls_spent / gib(tls_bytes),
        added_microseconds: through - direct,
        connection_cpu_ms: connecting * 1000.0 / connections,
        tls_connection_cpu_ms: connecting_tls * 1000.0 / connections,
    })
}
