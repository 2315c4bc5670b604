//! The suite as a process: built from `conformance/suite`, given upstream's flags, and listened to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::conformance::progress::{Ended, News, Outcome, Reader};
use crate::conformance::sources;
use crate::fault::{Context as _, Fault};
use crate::{go, process, workspace};

/// From here on a test is named with its time after the run.
const SLOW: Duration = Duration::from_secs(10);
const SLOWEST: usize = 12;

/// Builds the test binary, or finds it in the cache: once for the same sources.
pub(super) fn binary() -> Result<PathBuf, Fault> {
    let module = workspace::root().join("conformance/suite");
    let target = sources::folder("suite", &module)?.join("suite.test");
    if !target.exists() {
        eprintln!("building the suite into {} (a few minutes, once)", target.display());
        let half = target.with_extension("half");
        let mut build = go::in_module(&module)?;
        build.env("CGO_ENABLED", "0").args(["test", "-c", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]);
        process::capture(build.arg(&half).arg("."))?;
        fs::rename(&half, &target).context(|| format!("renaming to {}", target.display()))?;
    }
    Ok(target)
}

/// How a run went.
#[derive(Debug)]
pub(super) struct Run {
    /// The tests that ran, by name.
    pub(super) ended: BTreeMap<String, Ended>,
    /// Whether the process ended well: it fails where any test does, also one that no report counts.
    pub(super) success: bool,
}

/// Runs it to its end: a line for each test on the terminal, everything to `log`.
pub(super) fn run(mut command: Command, log: &Path) -> Result<Run, Fault> {
    let mut file = File::create(log).context(|| format!("making the log {}", log.display()))?;
    let (reader, writer) = std::io::pipe().context(|| "making a pipe".to_owned())?;
    let errors = writer.try_clone().context(|| "sharing a pipe".to_owned())?;
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(writer).stderr(errors).spawn().context(|| "starting the suite".to_owned())?;
    // It holds the other end of the pipe.
    drop(command);
    let (mut news, mut ended) = (Reader::default(), BTreeMap::new());
    let mut input = BufReader::new(reader);
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line).context(|| "reading what the suite says".to_owned())? > 0 {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        writeln!(file, "{}", text.replace(['\u{16}', '\u{0e}', '\u{0f}'], ""))
            .context(|| format!("writing {}", log.display()))?;
        match news.take(text, start.elapsed()) {
            Some(News::Stage(stage)) => println!("{} {stage}", clock(start.elapsed())),
            Some(News::Ended(test)) => {
                show(&test, start.elapsed());
                ended.insert(test.name.clone(), test);
            }
            None => {}
        }
        line.clear();
    }
    let success = child.wait().context(|| "waiting for the suite".to_owned())?.success();
    if !success && ended.values().all(|test| test.outcome != Outcome::Failed) {
        println!("{} FAIL the suite itself; its log: {}", clock(start.elapsed()), log.display());
        news.of_the_suite().iter().for_each(|line| println!("     | {line}"));
    }
    Ok(Run { ended, success })
}

impl Run {
    /// How many ended so.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.ended.values().filter(|test| test.outcome == outcome).count()
    }

    /// Prints what is not in a report: counts, features that are not claimed, slow tests.
    pub(super) fn sum_up(&self) {
        let [passed, failed, skipped] = [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(|outcome| self.count(outcome));
        println!("tests: {passed} passed, {failed} failed, {skipped} skipped");
        let mut unclaimed: BTreeMap<&str, usize> = BTreeMap::new();
        for test in self.ended.values().filter(|test| test.outcome == Outcome::Unclaimed) {
            *unclaimed.entry(test.why.first().map_or("", String::as_str)).or_default() += 1;
        }
        if !unclaimed.is_empty() {
            let features: Vec<String> = unclaimed.iter().map(|(feature, count)| format!("{feature} ({count})")).collect();
            println!("not run, for want of a feature: {}", features.join(", "));
        }
        let mut slow: Vec<&Ended> = self.ended.values().filter(|test| test.took >= SLOW).collect();
        slow.sort_by_key(|test| std::cmp::Reverse(test.took));
        if !slow.is_empty() {
            let slow: Vec<String> =
                slow.iter().take(SLOWEST).map(|test| format!("{} {:.0} s", test.name, test.took.as_secs_f32())).collect();
            println!("slow: {}", slow.join(", "));
        }
    }

    /// Which tests ended otherwise than in `other`, one line each.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<&String> = self.ended.keys().chain(other.ended.keys()).collect();
        let outcome = |run: &Self, name: &str| run.ended.get(name).map(|test| test.outcome);
        names
            .into_iter()
            .filter(|name| outcome(self, name) != outcome(other, name))
            .map(|name| format!("{name}: {:?}, not {:?}", outcome(self, name), outcome(other, name)))
            .collect()
    }
}

fn show(test: &Ended, now: Duration) {
    let word = match test.outcome {
        Outcome::Passed => "ok  ",
        Outcome::Failed => "FAIL",
        // They are summed up: most of the suite may be of these kinds.
        Outcome::Skipped | Outcome::Unclaimed => return,
    };
    println!("{} {word} {:<62} {:>6.1} s", clock(now), test.name, test.took.as_secs_f32());
    test.why.iter().for_each(|line| println!("     | {line}"));
}

fn clock(now: Duration) -> String {
    format!("{:>2}:{:02}", now.as_secs() / 60, now.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn a_run_is_read_to_its_end_and_logged_without_marks() {
        let log = std::env::temp_dir().join(format!("isthmus-conformance-{}", std::process::id()));
        let said = r"printf '\026=== RUN   T/A\nsays\n\026--- PASS: T/A (0.00s)\n'; printf 'to stderr\n' >&2; exit 3";
        let ended = run(script(said), &log).unwrap();
        let logged = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        assert_eq!(logged, "=== RUN   T/A\nsays\n--- PASS: T/A (0.00s)\nto stderr\n");
        assert!(!ended.success);
        assert_eq!(ended.count(Outcome::Passed), 1);
    }

    #[test]
    fn runs_differ_by_the_outcome_of_a_test() {
        let run = |tests: &[(&str, Outcome)]| {
            let ended = |(name, outcome): &(&str, Outcome)| {
                let test = Ended { name: (*name).to_owned(), outcome: *outcome, took: Duration::ZERO, why: Vec::new() };
                (test.name.clone(), test)
            };
            Run { ended: tests.iter().map(ended).collect(), success: true }
        };
        let first = run(&[("A", Outcome::Passed), ("B", Outcome::Passed)]);
        assert_eq!(first.differences(&run(&[("A", Outcome::Passed), ("B", Outcome::Passed)])), Vec::<String>::new());
        assert_eq!(
            first.differences(&run(&[("A", Outcome::Failed), ("C", Outcome::Passed)])),
            ["A: Some(Passed), not Some(Failed)", "B: Some(Passed), not None", "C: None, not Some(Passed)"]
        );
    }
}
