//! `./dev bench memory`: what a sidecar needs in a cluster of a size, as a real process that is given a real stream.
//!
//! The sidecar runs as in a pod: as its own user, in a network namespace whose connections are captured, with as many threads as it takes by
//! itself. First nothing is called. Then an application calls fifty Services, over a connection each that stays open, often enough for every
//! endpoint to have one with mTLS. Both times its memory is read when it does not change any more.

mod far;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use clap::Parser;

use super::edge::procfs::{self, Memory};
use super::edge::report::machine;
use super::mesh::authority::{Authority, Identity};
use super::mesh::load::ask;
use super::mesh::pods::{self, Cluster, Pods, Side, service};
use super::mesh::{requirements, server};
use crate::fault::{Context as _, Fault};
use crate::workspace;

/// 1,000 Services with five routes and two pods each.
const CLUSTER: Cluster = Cluster { services: 1000, routes: 5, endpoints: 2, first_pod: Ipv4Addr::new(10, 78, 0, 1) };
/// Where all these pods are.
const PODS: &str = "10.78.0.0/16";
/// Services that are called.
const CALLED: u32 = 50;
/// Calls of each of them: to each of its routes, and to each of its endpoints.
const CALLS: u32 = 20;

/// MB, with nothing called.
const IDLE_MB: f64 = 15.0;
/// MB, with fifty Services called.
const CALLED_MB: f64 = 25.0;

/// How long its memory has to be what it is, within this many bytes, to be believed.
const SETTLE: (Duration, u64) = (Duration::from_secs(3), 64 * 1024);
/// How long that is waited for.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Parser)]
#[command(name = "./dev bench memory", no_binary_name = true)]
struct Flags {
    /// A Markdown file for the figures.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measure the sidecar that is there instead of building it first.
    #[arg(long)]
    no_build: bool,
}

/// Shown as Markdown.
#[derive(Debug)]
struct Report {
    idle: Memory,
    called: Memory,
}

/// Fails if a limit is missed, after the figures have been shown.
pub(super) fn run(flags: &[String]) -> Result<(), Fault> {
    let flags = match Flags::try_parse_from(flags) {
        Ok(flags) => flags,
        Err(error) => return Err(Fault::said(error.to_string())),
    };
    requirements()?;
    let sidecar = pods::build(!flags.no_build)?;
    let report = measure(&sidecar)?;
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

fn measure(sidecar: &Path) -> Result<Report, Fault> {
    let pods = Pods::new(env::temp_dir().join(format!("isthmus-bench-memory-{}", std::process::id())), sidecar)?;
    // Whoever is called there is the one server.
    pods.of(Side::Server).ip(&["route", "add", "local", PODS, "dev", "lo"])?;
    let authority = Authority::new()?;
    server::serve_tls(pods.listen()?, far::config(&authority, CALLED)?);
    let _controller = pods.controller(CLUSTER, &authority)?;
    let sidecar = pods.sidecar(Side::Client, &Identity::of_client(), &[], None)?;
    pods.redirect(Side::Client)?;
    println!("{} Services with {} routes; nothing is called.", CLUSTER.services, CLUSTER.services * CLUSTER.routes);
    let idle = settled(sidecar.id())?;
    println!("{CALLED} Services are called, {CALLS} times each.");
    let called = || -> std::io::Result<Vec<_>> {
        (0..CALLED)
            .map(|number| {
                let mut stream = pods.connect(service(number))?;
                for call in 0..CALLS {
                    let (route, Identity { namespace, account }) = (call % CLUSTER.routes, Identity::of_service(number));
                    ask(&mut stream, &format!("GET /items-{route}/1 HTTP/1.1\r\nhost: {account}.{namespace}\r\n\r\n"))?;
                }
                Ok(stream)
            })
            .collect()
    };
    let connections = called().context(|| format!("calling through the sidecar{}", sidecar.said()))?;
    let called = settled(sidecar.id())?;
    drop(connections);
    Ok(Report { idle, called })
}

/// What a process has when that does not change any more.
fn settled(id: u32) -> Result<Memory, Fault> {
    let (time, within) = SETTLE;
    let (start, mut since, mut memory) = (Instant::now(), Instant::now(), procfs::memory(id)?);
    while since.elapsed() < time {
        if start.elapsed() > PATIENCE {
            return Err(Fault::said(format!("its memory still changes after {} s", PATIENCE.as_secs())));
        }
        thread::sleep(Duration::from_millis(200));
        let now = procfs::memory(id)?;
        if now.rss.abs_diff(memory.rss) > within {
            (since, memory) = (Instant::now(), now);
        }
    }
    procfs::memory(id)
}

impl Report {
    fn limits(&self) -> [(String, f64, f64); 2] {
        let mb = |memory: &Memory| memory.rss as f64 / 1e6;
        [
            ("RSS with nothing called".to_owned(), IDLE_MB, mb(&self.idle)),
            (format!("RSS with {CALLED} Services in use"), CALLED_MB, mb(&self.called)),
        ]
    }

    /// The limits that are missed, each in words.
    fn missed(&self) -> Vec<String> {
        let missed = self.limits().into_iter().filter(|(_, limit, found)| found >= limit);
        missed.map(|(what, limit, found)| format!("{what} is {found:.1} MB, under {limit} is wanted")).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cluster { services, routes, endpoints, .. } = CLUSTER;
        writeln!(f, "# bench memory\n")?;
        writeln!(
            f,
            "A sidecar in a cluster of {services} Services, {} routes and {} pods with sidecars of {services} accounts. {}\n",
            services * routes,
            services * endpoints,
            machine()
        )?;
        writeln!(f, "| MB | RSS | PSS | not from files |\n|---|---|---|---|")?;
        let called = format!("{CALLED} Services in use, {} connections with mTLS", CALLED * endpoints);
        for (what, memory) in [("nothing called", self.idle), (&called, self.called)] {
            let [rss, pss, anonymous] = [memory.rss, memory.pss, memory.anonymous].map(|bytes| bytes as f64 / 1e6);
            writeln!(f, "| {what} | {rss:.1} | {pss:.1} | {anonymous:.1} |")?;
        }
        writeln!(f, "\n| limit in MB | under | found | |\n|---|---|---|---|")?;
        for (what, limit, found) in self.limits() {
            let word = if found < limit { "met" } else { "**missed**" };
            writeln!(f, "| {what} | {limit} | {found:.1} | {word} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_can_be_missed() {
        let report = |idle: u64, called: u64| {
            let memory = |rss| Memory { rss, pss: rss, anonymous: rss / 2 };
            Report { idle: memory(idle), called: memory(called) }
        };
        assert_eq!(report(14_900_000, 24_900_000).missed(), Vec::<String>::new());
        assert_eq!(report(15_000_000, 24_900_000).missed(), ["RSS with nothing called is 15.0 MB, under 15 is wanted"]);
        assert_eq!(report(14_900_000, 25_100_000).missed(), ["RSS with 50 Services in use is 25.1 MB, under 25 is wanted"]);
        let text = report(14_900_000, 25_100_000).to_string();
        for line in ["| nothing called | 14.9 | 14.9 | 7.5 |", "| RSS with 50 Services in use | 25 | 25.1 | **missed** |"] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
    }
}
