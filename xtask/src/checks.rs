//! `./dev test`: every check, one cargo at a time, and where the time went.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::cluster::{self, Cluster};
use crate::fault::Fault;
use crate::{cache, chart, cluster_tests, conformance, go, process, schemas, suites, workspace};

const CARGO_DENY: &str = "0.20.2";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Also dependency rules and the suites that drive the gateway with programs written elsewhere.
    #[arg(long)]
    all: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// One check and how it went.
struct Row {
    name: &'static str,
    took: Duration,
    fault: Option<Fault>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Fault> {
    if let Some(filter) = &arguments.filter {
        return tests(Some(filter));
    }
    let mut rows = vec![
        check("formatting", || process::run(&mut workspace::cargo(&["fmt", "--all", "--", "--check", "-l"]))),
        check("lints", lints),
        check("schemas", || schemas::run(true)),
        check("tests", || tests(None)),
    ];
    if arguments.all {
        rows.push(check("dependencies", dependencies));
        rows.push(check("chart", || chart::run(&chart::Arguments::default())));
        rows.push(check("suites", || suites::run(&suites::Arguments::default())));
        rows.extend(on_a_cluster());
    }
    report(&rows)
}

/// One cluster for all that needs one; it is gone afterwards, unless it was there before or is somebody's own.
fn on_a_cluster() -> Vec<Row> {
    let was_there = Cluster::running().is_ok();
    let mut cluster = None;
    let mut rows = vec![check("cluster", || {
        cluster = Some(Cluster::up()?);
        Ok(())
    })];
    if let Some(cluster) = &cluster {
        rows.push(check("conformance", conformance::check));
        rows.push(check("cluster tests", || cluster_tests::on(cluster, &cluster_tests::Arguments::default())));
    }
    if !was_there && cluster.as_ref().is_none_or(Cluster::is_ours) {
        rows.push(check("cluster down", cluster::down));
    }
    rows
}

fn check(name: &'static str, what: impl FnOnce() -> Result<(), Fault>) -> Row {
    eprintln!("== {name}");
    let start = Instant::now();
    let fault = what().err();
    if let Some(fault) = &fault {
        eprintln!("{fault}");
    }
    Row { name, took: start.elapsed(), fault }
}

fn report(rows: &[Row]) -> Result<(), Fault> {
    println!("\n{:<14} {:<8} time", "check", "result");
    for Row { name, took, fault } in rows {
        println!("{name:<14} {:<8} {}", if fault.is_some() { "FAILED" } else { "ok" }, clock(*took));
    }
    println!("{:<14} {:<8} {}", "all", "", clock(rows.iter().map(|row| row.took).sum()));
    let failed: Vec<&str> = rows.iter().filter(|row| row.fault.is_some()).map(|row| row.name).collect();
    if failed.is_empty() { Ok(()) } else { Err(Fault::said(format!("failed: {}; each says why above", failed.join(", ")))) }
}

fn clock(took: Duration) -> String {
    format!("{:>2}:{:02}", took.as_secs() / 60, took.as_secs() % 60)
}

fn lints() -> Result<(), Fault> {
    process::run(&mut workspace::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))
}

fn tests(filter: Option<&str>) -> Result<(), Fault> {
    // Some tests run the binaries, which `cargo test` does not build.
    let programs = ["isthmus", "isthmus-gateway", "isthmus-mesh-proxy"].iter().flat_map(|name| ["--bin", name]);
    process::run(workspace::cargo(&["build", "--workspace", "--quiet"]).args(programs))?;
    let mut command = workspace::cargo(&["test", "--workspace", "--quiet"]);
    process::run(command.args(filter).env("ISTHMUS_UPSTREAM", go::upstream()?))
}

/// Licences, sources, banned and duplicate crates. Advisories need a database from outside: they are no check of a commit.
fn dependencies() -> Result<(), Fault> {
    let folder = cache::sub(&format!("cargo-deny-{CARGO_DENY}"))?;
    let program = folder.join("bin/cargo-deny");
    if !program.exists() {
        eprintln!("building cargo-deny {CARGO_DENY} into {} (a few minutes, once)", folder.display());
        let mut install = workspace::cargo(&["install", "--quiet", "--locked", "--version", CARGO_DENY, "--root"]);
        process::run(install.arg(&folder).arg("cargo-deny"))?;
    }
    let mut deny = Command::new(program);
    deny.current_dir(workspace::root()).args(["--log-level", "warn", "--offline", "check"]);
    // What deny.toml allows but nothing needs any more is a fault too.
    deny.args(["unmatched-skip", "unnecessary-skip", "license-not-encountered"].iter().flat_map(|lint| ["--deny", lint]));
    process::run(deny.args(["bans", "licenses", "sources"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_minutes_and_seconds() {
        assert_eq!(clock(Duration::from_secs(5)), " 0:05");
        assert_eq!(clock(Duration::from_secs(725)), "12:05");
    }
}
