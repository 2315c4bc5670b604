//! h2spec's 145 cases against the HTTPS and the h2c listener.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::fault::{Context as _, Fault};
use crate::suites::certificate::Authority;
use crate::suites::instance::Instance;
use crate::suites::stage::Stage;
use crate::suites::{Outcome, tools};

const CASES: usize = 145;

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    let program = tools::h2spec()?;
    stage.write("certificate.yaml", &Authority::new()?.issue("edge", &["edge.example"])?.secret)?;
    let instance = Instance::start(stage, &[80, 443], &["--echo"])?;
    let mut outcome = Outcome::default();
    for (name, address, flags) in [("h2c", instance.at(80), &[][..]), ("https", instance.at(443), &["--tls", "--insecure"][..])] {
        let output = Command::new(&program).args(arguments(address)).args(flags).stdin(Stdio::null()).output();
        let said = String::from_utf8_lossy(&output.context(|| "starting h2spec".to_owned())?.stdout).into_owned();
        let (total, passed, skipped) = summary(&said).unwrap_or_default();
        outcome.passed += passed;
        outcome.failed.extend(failures(&said).into_iter().map(|failure| format!("{name}: {failure}")));
        if total != CASES || (passed + skipped != CASES && outcome.failed.is_empty()) {
            outcome
                .failed
                .push(format!("{name}: {passed} passed and {skipped} skipped of {total}, wanted {CASES} cases:\n{said}"));
        }
        outcome.notes.push(format!("{name}: {passed} passed, {skipped} skipped of {total}"));
    }
    Ok(outcome)
}

fn arguments(address: SocketAddr) -> [String; 6] {
    let words = ["--host", &address.ip().to_string(), "--port", &address.port().to_string(), "--timeout", "5"];
    words.map(str::to_owned)
}

/// "145 tests, 144 passed, 1 skipped, 0 failed" -> total, passed, skipped.
fn summary(said: &str) -> Option<(usize, usize, usize)> {
    let line = said.lines().find(|line| line.contains(" tests, "))?;
    let mut numbers = line.split(", ").map(|part| part.trim().split(' ').next().and_then(|number| number.parse().ok()));
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// The failed cases, each with what was expected of it: h2spec gathers them at the end.
fn failures(said: &str) -> Vec<String> {
    let mut failures: Vec<String> = Vec::new();
    for line in said.split_once("Failures:").map_or("", |(_, rest)| rest).lines().map(str::trim) {
        match failures.last_mut() {
            _ if line.starts_with('×') => failures.push(line.to_owned()),
            Some(last) if ["->", "Expected:", "Actual:"].iter().any(|start| line.starts_with(start)) => {
                *last = format!("{last} {line}");
            }
            _ => {}
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        assert_eq!(summary("x\n145 tests, 144 passed, 1 skipped, 0 failed\n"), Some((145, 144, 1)));
        assert_eq!(summary("Error: connection refused"), None);
    }

    #[test]
    fn failures_are_counted_once() {
        let said = "  1: x  ✔ 1: fine\n  2: Sends x × 2: Sends x\n\nFailures:\n\n3. Starting\n  × 2: Sends x\n   -> It MUST\n   Actual: no\n\nFinished\n";
        assert_eq!(failures(said), ["× 2: Sends x -> It MUST Actual: no"]);
    }
}
