//! `cargo xtask suites`: the real binary as a real process, driven by programs that were not written here, and by a strict client.

mod backend;
mod certificate;
pub(crate) mod client;
mod curl;
mod dns;
mod grpc;
mod h2load;
mod h2spec;
pub(crate) mod instance;
pub(crate) mod netns;
mod postgres;
mod redirect;
mod redis;
mod stage;
mod tls;
pub(crate) mod tools;
mod websocket;
mod zero_loss;

use std::time::Instant;

use crate::fault::Fault;
use crate::suites::stage::Stage;
use crate::{process, workspace};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Which; none: all.
    names: Vec<String>,
    /// Drive the release build.
    #[arg(long)]
    release: bool,
}

/// What a suite found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    passed: usize,
    failed: Vec<String>,
    /// What else is worth a word: counts, times.
    notes: Vec<String>,
    /// Why it cannot be played on this machine.
    skipped: Option<String>,
}

impl Outcome {
    /// Nothing was looked at.
    fn skipped(why: String) -> Self {
        Self { skipped: Some(why), ..Self::default() }
    }

    /// Counts one case.
    fn count(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(why) => self.failed.push(format!("{name}: {why}")),
        }
    }
}

type Suite = fn(&Stage) -> Result<Outcome, Fault>;

const SUITES: [(&str, Suite); 11] = [
    ("h2spec", h2spec::run),
    ("grpc", grpc::run),
    ("curl", curl::run),
    ("h2load", h2load::run),
    ("websocket", websocket::run),
    ("tls", tls::run),
    ("postgres", postgres::run),
    ("redis", redis::run),
    ("dns", dns::run),
    ("redirect", redirect::run),
    ("zero-loss", zero_loss::run),
];

pub(crate) fn run(arguments: &Arguments) -> Result<(), Fault> {
    let unknown = arguments.names.iter().find(|name| SUITES.iter().all(|(known, _)| known != name));
    if let Some(unknown) = unknown {
        let known: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
        return Err(Fault::said(format!("there is no suite {unknown}; there are {}", known.join(", "))));
    }
    build(arguments.release)?;
    let mut failed = Vec::new();
    for (name, suite) in SUITES {
        let wanted = arguments.names.is_empty() || arguments.names.iter().any(|other| other == name);
        if wanted && !play(name, suite, arguments.release) {
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Fault::said(format!("suites failed: {}", failed.join(", ")))) }
}

/// With the whole workspace's features, so that nothing that the tests built is built again.
fn build(release: bool) -> Result<(), Fault> {
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    let programs = ["build", "--workspace", "--bin", "isthmus", "--bin", "isthmus-mesh-proxy", "--quiet"];
    process::run(workspace::cargo(&programs).args(profile))
}

/// Prints one line, and one for each failure; says whether all went well.
fn play(name: &str, suite: Suite, release: bool) -> bool {
    let start = Instant::now();
    let outcome = Stage::new(name, release).and_then(|stage| suite(&stage));
    let took = start.elapsed().as_secs_f32();
    match outcome {
        Ok(Outcome { skipped: Some(why), .. }) => {
            println!("{name:<10} SKIPPED: {why}");
            true
        }
        Ok(Outcome { passed, failed, notes, skipped: None }) => {
            let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
            println!("{name:<10} {passed} passed, {} failed, {took:.1} s{notes}", failed.len());
            failed.iter().for_each(|failure| println!("  FAILED {failure}"));
            // No case at all is no success either.
            failed.is_empty() && passed > 0
        }
        Err(fault) => {
            println!("{name:<10} FAILED after {took:.1} s: {fault}");
            false
        }
    }
}
