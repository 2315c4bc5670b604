//! Upstream's ConformanceReport: read, summed up, compared with the one that is committed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::fault::{Context as _, Fault};
use crate::workspace;

/// Where reports are committed, by the version of the suite.
const COMMITTED: &str = "conformance/reports/v1.7.0";

/// A report as the suite wrote it.
#[derive(Debug)]
pub(super) struct Report {
    path: PathBuf,
    value: Value,
}

impl Report {
    pub(super) fn read(path: &Path) -> Result<Self, Fault> {
        let text = fs::read_to_string(path).context(|| format!("reading the report {}", path.display()))?;
        let value = serde_saphyr::from_str(&text).map_err(|error| Fault::said(format!("{}: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), value })
    }

    /// Copies it, byte for byte, to where it is committed; returns that path.
    pub(super) fn commit(&self) -> Result<PathBuf, Fault> {
        let target =
            committed().join(format!("{}-{}-{}-report.yaml", self.word("gatewayAPIChannel"), self.version(), self.word("mode")));
        fs::create_dir_all(committed()).context(|| format!("making the folder {}", committed().display()))?;
        fs::copy(&self.path, &target).context(|| format!("writing {}", target.display()))?;
        Ok(target)
    }

    /// The committed report of the same channel and mode. Of several versions, the last by name.
    pub(super) fn committed(&self) -> Result<Self, Fault> {
        let (head, tail) = (format!("{}-", self.word("gatewayAPIChannel")), format!("-{}-report.yaml", self.word("mode")));
        let names =
            fs::read_dir(committed()).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let last = names.filter(|name| name.starts_with(&head) && name.ends_with(&tail)).max();
        let missing =
            || Fault::said(format!("no report {head}*{tail} is in {COMMITTED}; `cargo xtask conformance --report` writes it"));
        Self::read(&committed().join(last.ok_or_else(missing)?))
    }

    /// What differs from `other` but for the date, the version and the order of profiles, one line each: `path: this, not that`.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        compare("", &comparable(&self.value), &comparable(&other.value), &mut found);
        found
    }

    fn word(&self, field: &str) -> &str {
        self.value[field].as_str().unwrap_or("unknown")
    }

    fn version(&self) -> &str {
        self.value["implementation"]["version"].as_str().unwrap_or("unknown")
    }
}

/// A table: one line for each profile.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<14} {:<32} {:<32} extended features", "profile", "core", "extended")?;
        for profile in profiles(&self.value) {
            let count = |list: &str| profile["extended"][list].as_array().map_or(0, Vec::len);
            let (claimed, not) = (count("supportedFeatures"), count("unsupportedFeatures"));
            let name = profile["name"].as_str().unwrap_or_default();
            writeln!(
                f,
                "{name:<14} {:<32} {:<32} {claimed} of {}",
                counts(&profile["core"]),
                counts(&profile["extended"]),
                claimed + not
            )?;
        }
        Ok(())
    }
}

fn committed() -> PathBuf {
    workspace::root().join(COMMITTED)
}

fn counts(status: &Value) -> String {
    let count = |word: &str| status["statistics"][word].as_u64().unwrap_or(0);
    let others: String = ["Failed", "Skipped"]
        .into_iter()
        .filter(|word| count(word) > 0)
        .map(|word| format!(", {} {}", count(word), word.to_lowercase()))
        .collect();
    format!("{} passed{others}", count("Passed"))
}

/// By name: the suite writes them in any order.
fn profiles(report: &Value) -> Vec<&Value> {
    let mut profiles: Vec<&Value> = report["profiles"].as_array().into_iter().flatten().collect();
    profiles.sort_by_key(|profile| profile["name"].as_str().unwrap_or_default());
    profiles
}

fn comparable(report: &Value) -> Value {
    let mut out = report.clone();
    out["profiles"] = profiles(report).into_iter().cloned().collect();
    if let Some(fields) = out.as_object_mut() {
        fields.remove("date");
    }
    if let Some(fields) = out["implementation"].as_object_mut() {
        fields.remove("version");
    }
    out
}

fn compare(path: &str, this: &Value, that: &Value, found: &mut Vec<String>) {
    match (this, that) {
        (Value::Object(these), Value::Object(those)) => {
            let mut names: Vec<&String> = these.keys().chain(those.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                compare(&format!("{path}.{name}"), &this[name.as_str()], &that[name.as_str()], found);
            }
        }
        (Value::Array(these), Value::Array(those)) if these.len() == those.len() => {
            for (index, (this, that)) in these.iter().zip(those).enumerate() {
                compare(&format!("{path}[{index}]"), this, that, found);
            }
        }
        _ if this == that => {}
        _ => found.push(format!("{}: {this}, not {that}", path.trim_start_matches('.'))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(value: Value) -> Report {
        Report { path: PathBuf::new(), value }
    }

    fn example() -> Value {
        json!({
            "date": "2026-11-25T10:00:00Z", "mode": "default", "gatewayAPIChannel": "standard",
            "implementation": {"project": "isthmus", "version": "0.1.0"},
            "profiles": [
                {
                    "name": "GATEWAY-HTTP",
                    "core": {"result": "success", "statistics": {"Passed": 40, "Failed": 0, "Skipped": 0}},
                    "extended": {
                        "statistics": {"Passed": 50, "Failed": 1, "Skipped": 2},
                        "supportedFeatures": ["A", "B"],
                        "unsupportedFeatures": ["C"],
                    },
                },
                {"name": "GATEWAY-GRPC", "core": {"statistics": {"Passed": 17}}},
            ],
        })
    }

    #[test]
    fn date_version_and_order_do_not_count_and_all_else_does() {
        let mut other = example();
        other["date"] = json!("later");
        other["implementation"]["version"] = json!("0.2.0");
        other["profiles"].as_array_mut().unwrap().reverse();
        assert_eq!(report(example()).differences(&report(other)), Vec::<String>::new());
        for (pointer, value, expected) in [
            ("/mode", json!("other"), r#"mode: "default", not "other""#),
            ("/profiles/0/core/statistics/Passed", json!(39), "profiles[1].core.statistics.Passed: 40, not 39"),
            ("/profiles/1/name", json!("GATEWAY-TLS"), r#"profiles[0].name: "GATEWAY-GRPC", not "GATEWAY-HTTP""#),
            (
                "/profiles/0/extended/supportedFeatures",
                json!(["A"]),
                r#"profiles[1].extended.supportedFeatures: ["A","B"], not ["A"]"#,
            ),
        ] {
            let mut other = example();
            *other.pointer_mut(pointer).unwrap() = value;
            let found = report(example()).differences(&report(other));
            assert!(found.iter().any(|line| line == expected), "{pointer}: {found:?}");
        }
    }

    #[test]
    fn the_table_names_what_did_not_pass() {
        assert_eq!(
            report(example()).to_string().lines().skip(1).collect::<Vec<_>>(),
            [
                "GATEWAY-GRPC   17 passed                        0 passed                         0 of 0",
                "GATEWAY-HTTP   40 passed                        50 passed, 1 failed, 2 skipped   2 of 3",
            ]
        );
    }
}
