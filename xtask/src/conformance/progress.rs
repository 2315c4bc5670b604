//! What a Go test binary says under `-test.v=test2json`, read as it comes: which test ended how, after how long, and why.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Before each line that is about a test and not of it.
const MARK: char = '\u{16}';
/// Around what a test reports as a fault.
const FAULT: [char; 2] = ['\u{0f}', '\u{0e}'];

/// Lines kept of each test, for when it fails.
const TAIL: usize = 12;
const FAULT_LINES: usize = 30;
const WIDTH: usize = 240;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// Left out by who started the run.
    Skipped,
    /// Needs a feature that the implementation does not claim.
    Unclaimed,
}

/// A test of the suite that ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    /// For a failure: the parts that failed, the faults, the end of the log. For [`Outcome::Unclaimed`]: the feature.
    pub(super) why: Vec<String>,
}

/// Something to show.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Ended(Ended),
    /// What the suite does before its first test.
    Stage(String),
}

/// Reads line by line.
#[derive(Debug, Default)]
pub(super) struct Reader {
    tests: BTreeMap<String, Test>,
    /// Of all tests, the one whose lines come now; the suite itself has the empty name.
    current: String,
    in_fault: bool,
}

#[derive(Debug, Default)]
struct Test {
    started: Duration,
    log: VecDeque<String>,
    faults: Vec<String>,
    failed_parts: Vec<String>,
    unclaimed: Option<String>,
}

impl Reader {
    /// Takes a line without its end. `now`: since the start of the run.
    pub(super) fn take(&mut self, line: &str, now: Duration) -> Option<News> {
        // A mark follows in the middle of a line where a test printed no end of line.
        let mut parts = line.split(MARK);
        let said = parts.next().filter(|text| !text.is_empty()).and_then(|text| self.say(text));
        parts.filter_map(|marked| self.event(marked.trim(), now)).last().or(said)
    }

    /// What the suite itself said: why it failed, where no test did.
    pub(super) fn of_the_suite(&mut self) -> Vec<String> {
        self.tests.remove("").unwrap_or_default().explain()
    }

    fn event(&mut self, event: &str, now: Duration) -> Option<News> {
        if let Some(end) = event.strip_prefix("--- ") {
            return self.end(end, now);
        }
        let (verb, name) = event.strip_prefix("=== ")?.split_once(' ')?;
        let name = name.trim();
        self.current = top(name).to_owned();
        self.in_fault = false;
        // A parallel test pauses until its turn comes.
        if matches!(verb, "RUN" | "CONT") && name.matches('/').count() == 1 {
            self.test().started = now;
        }
        None
    }

    /// `PASS: TestConformance/Name/part (0.05s)`.
    fn end(&mut self, end: &str, now: Duration) -> Option<News> {
        let (word, rest) = end.split_once(": ")?;
        let name = rest.rsplit_once(" (").map_or(rest, |(name, _)| name);
        let mut levels = name.splitn(3, '/').skip(1);
        let (name, part) = (levels.next()?.to_owned(), levels.next());
        if let Some(part) = part {
            if word == "FAIL" {
                self.tests.entry(name).or_default().failed_parts.push(part.to_owned());
            }
            return None;
        }
        let test = self.tests.remove(&name).unwrap_or_default();
        let took = now.saturating_sub(test.started);
        let (outcome, why) = match (word, test.unclaimed.clone()) {
            ("PASS", _) => (Outcome::Passed, Vec::new()),
            ("SKIP", Some(feature)) => (Outcome::Unclaimed, vec![feature]),
            ("SKIP", None) => (Outcome::Skipped, Vec::new()),
            _ => (Outcome::Failed, test.explain()),
        };
        self.current.clear();
        Some(News::Ended(Ended { name, outcome, took, why }))
    }

    fn say(&mut self, text: &str) -> Option<News> {
        let is_fault = self.in_fault || text.contains(FAULT[0]);
        self.in_fault = is_fault && !text.contains(FAULT[1]);
        let text: String = text.chars().filter(|char| !FAULT.contains(char)).take(WIDTH).collect();
        let text = text.trim_end();
        if text.is_empty() {
            return None;
        }
        let stage = text.split_once("Test Setup: ").map(|(_, stage)| News::Stage(stage.to_owned()));
        let test = self.test();
        if let Some((_, feature)) = text.split_once("suite does not support ") {
            test.unclaimed = Some(feature.to_owned());
        }
        if is_fault {
            if test.faults.len() < FAULT_LINES {
                test.faults.push(text.to_owned());
            }
        } else {
            // Polling says the same many times.
            test.log.retain(|line| message(line) != message(text));
            test.log.push_back(text.to_owned());
            if test.log.len() > TAIL {
                test.log.pop_front();
            }
        }
        stage
    }

    fn test(&mut self) -> &mut Test {
        self.tests.entry(self.current.clone()).or_default()
    }
}

impl Test {
    fn explain(self) -> Vec<String> {
        let parts: BTreeSet<String> = self.failed_parts.into_iter().map(|part| format!("failed: {part}")).collect();
        parts.into_iter().chain(self.faults).chain(self.log).collect()
    }
}

/// `TestConformance/Name/part` is of `Name`; `TestConformance` of the suite.
fn top(name: &str) -> &str {
    name.split('/').nth(1).unwrap_or_default()
}

/// Without the time that upstream's own log puts before it: `helpers.go:1090: 2026-11-25T09:54:17.429352897Z: message`.
fn message(line: &str) -> &str {
    line.split_once("Z: ").map_or(line, |(_, message)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[(&str, u64)]) -> (Vec<News>, Reader) {
        let mut reader = Reader::default();
        let news = lines.iter().filter_map(|(line, at)| reader.take(line, Duration::from_secs(*at))).collect();
        (news, reader)
    }

    fn ended(name: &str, outcome: Outcome, took: u64, why: &[&str]) -> News {
        let why = why.iter().map(|line| (*line).to_owned()).collect();
        News::Ended(Ended { name: name.to_owned(), outcome, took: Duration::from_secs(took), why })
    }

    #[test]
    fn each_test_with_its_own_time_and_its_own_lines() {
        let (news, _) = read(&[
            ("\u{16}=== RUN   TestConformance", 0),
            ("    suite.go:1: 09:00:00: Test Setup: Applying base manifests", 1),
            ("\u{16}=== RUN   TestConformance/Serial", 10),
            ("    serial says", 10),
            ("\u{16}=== RUN   TestConformance/Serial/part_one", 11),
            ("\u{f}    a fault", 12),
            ("  goes on\u{e}", 12),
            ("    the end", 12),
            ("\u{16}--- FAIL: TestConformance/Serial/part_one (1.00s)", 13),
            ("\u{16}=== NAME  TestConformance/Serial", 13),
            ("\u{16}--- FAIL: TestConformance/Serial (0.00s)", 14),
            ("\u{16}=== RUN   TestConformance/Parallel", 14),
            ("\u{16}=== PAUSE TestConformance/Parallel", 14),
            ("\u{16}=== RUN   TestConformance/Other", 14),
            ("    conformance.go:2: Skipping Other: suite does not support Mesh", 14),
            ("\u{16}--- SKIP: TestConformance/Other (0.00s)", 14),
            ("\u{16}=== RUN   TestConformance/Left", 14),
            ("    conformance.go:3: Skipping Left: test explicitly skipped", 14),
            ("no end of line\u{16}--- SKIP: TestConformance/Left (0.00s)", 14),
            ("\u{16}=== CONT  TestConformance/Parallel", 20),
            ("\u{16}    --- PASS: TestConformance/Parallel (2.00s)", 22),
            ("\u{16}--- FAIL: TestConformance (22.00s)", 22),
        ]);
        assert_eq!(
            news,
            [
                News::Stage("Applying base manifests".to_owned()),
                ended(
                    "Serial",
                    Outcome::Failed,
                    4,
                    &["failed: part_one", "    a fault", "  goes on", "    serial says", "    the end"]
                ),
                ended("Other", Outcome::Unclaimed, 0, &["Mesh"]),
                ended("Left", Outcome::Skipped, 0, &[]),
                ended("Parallel", Outcome::Passed, 2, &[]),
            ]
        );
    }

    #[test]
    fn the_end_of_a_long_log_is_kept() {
        let mut lines = vec![("\u{16}=== RUN   TestConformance/Long".to_owned(), 0)];
        lines.extend((0..100).map(|n| (format!("line {n}"), 1)));
        lines.push(("\u{16}--- FAIL: TestConformance/Long (1.00s)".to_owned(), 2));
        let lines: Vec<(&str, u64)> = lines.iter().map(|(line, at)| (line.as_str(), *at)).collect();
        let (news, _) = read(&lines);
        let last: Vec<String> = (100 - TAIL..100).map(|n| format!("line {n}")).collect();
        let last: Vec<&str> = last.iter().map(String::as_str).collect();
        assert_eq!(news, [ended("Long", Outcome::Failed, 2, &last)]);
    }

    #[test]
    fn what_is_said_again_is_kept_once() {
        let (news, _) = read(&[
            ("\u{16}=== RUN   TestConformance/Polls", 0),
            ("    helpers.go:1: 2026-11-25T09:00:00.1Z: not yet", 0),
            ("    helpers.go:2: 2026-11-25T09:00:00.2Z: other", 0),
            ("    helpers.go:1: 2026-11-25T09:00:00.3Z: not yet", 0),
            ("\u{16}--- FAIL: TestConformance/Polls (1.00s)", 1),
        ]);
        let expected = ["    helpers.go:2: 2026-11-25T09:00:00.2Z: other", "    helpers.go:1: 2026-11-25T09:00:00.3Z: not yet"];
        assert_eq!(news, [ended("Polls", Outcome::Failed, 1, &expected)]);
    }

    #[test]
    fn a_suite_that_does_not_start_says_why() {
        let (news, mut reader) = read(&[
            ("\u{16}=== RUN   TestConformance", 0),
            ("\u{f}    conformance.go:50: error loading Kubernetes config\u{e}", 0),
            ("\u{16}--- FAIL: TestConformance (0.00s)", 0),
        ]);
        assert_eq!(news, []);
        assert_eq!(reader.of_the_suite(), ["    conformance.go:50: error loading Kubernetes config"]);
    }
}
