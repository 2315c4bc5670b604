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
        outcome.failed.extend(failures(&said).map(|failure| format!("{name}: {failure}")));
        if total != CASES || passed + skipped != CASES && outcome.failed.is_empty() {
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

/// The lines that mark a failed case, each once: h2spec repeats them at the end.
fn failures(said: &str) -> impl Iterator<Item = &str> {
    let upto = said.find("Failures:").unwrap_or(said.len());
    said[..upto].lines().map(str::trim).filter(|line| line.starts_with('×'))
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
        let said = "  ✔ 1: fine\n  × 2: Sends x\n\nFailures:\n  × 2: Sends x\n";
        assert_eq!(failures(said).collect::<Vec<_>>(), ["× 2: Sends x"]);
    }
}
