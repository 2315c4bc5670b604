//! `tests/cases/BAD_INPUT.md` names only what is there.

use std::fs;
use std::path::Path;

use super::{assert_none, files, root};

const TABLE: &str = "tests/cases/BAD_INPUT.md";

/// Where each series is told.
const METRICS: [&str; 2] = ["docs/telemetry.md", "docs/kubernetes.md"];

/// The lines of the list that the table answers: objects, TLS at listeners, connections and datagrams, Services as parents and
/// pods in the mesh, identity there, and calls between them.
fn lines() -> impl Iterator<Item = u32> {
    (1..=34).chain(76..=85).chain(201..=213).chain(301..=312).chain(321..=341).chain(351..=367)
}

/// Why a proof is not there; none: it is. A folder of cases, or a test as `file.rs::name`.
fn fault(proof: &str) -> Option<String> {
    let Some((file, test)) = proof.split_once("::") else {
        let folder = root().join("tests/cases").join(proof);
        return (!folder.join("requests.yaml").is_file()).then(|| format!("there is no case folder `{proof}`"));
    };
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap_or_default();
    // The cluster's tests run only if they are listed.
    let listed = file.strip_prefix("tests/cluster/").and_then(|name| name.strip_suffix(".rs"));
    let is_listed = listed.is_none_or(|module| read("tests/cluster/main.rs").contains(&format!("{module}::{test})")));
    let is_there = is_listed && read(file).contains(&format!("fn {test}("));
    (!is_there).then(|| format!("there is no test `{test}` in `{file}`"))
}

/// What is between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Why a series is not one of those that the pages on metrics list; none: it is. Labels are looked for by their values.
fn unwritten(series: &str, docs: &str) -> Option<String> {
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let values = labels.split('"').skip(1).step_by(2);
    // Codes of responses are numbers, and no page lists them.
    let values = values.filter(|value| value.parse::<u16>().is_err());
    let missing = std::iter::once(name).chain(values).find(|word| !docs.contains(&format!("`{word}`")));
    missing.map(|word| format!("no page on metrics has `{word}`"))
}

#[test]
fn each_line_of_bad_input_names_proofs_that_are_there() {
    let text = fs::read_to_string(root().join(TABLE)).expect(TABLE);
    let docs = METRICS.map(|page| fs::read_to_string(root().join(page)).expect(page)).concat();
    let is_test = |path: &Path| path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
    let is_code =
        |path: &Path| ["crates", "controller", "mesh-proxy"].iter().any(|folder| path.starts_with(folder)) && !is_test(path);
    let code: Vec<_> = files().into_iter().filter(|(path, _)| is_code(path)).map(|(_, text)| text).collect();
    let mut faults = Vec::new();
    let mut answered = Vec::new();
    for row in text.lines() {
        let cells: Vec<&str> = row.split(" | ").collect();
        let (number, proofs, told) = match cells[..] {
            [number, _, proofs] => (number, proofs, None),
            [number, _, proofs, series, log] => (number, proofs, Some((series, log))),
            _ => continue,
        };
        let Ok(number) = number.trim_start_matches("| ").parse::<u32>() else { continue };
        answered.push(number);
        let proofs = quoted(proofs);
        if proofs.is_empty() && !row.contains("waits for issue") {
            faults.push(format!("line {number}: nothing proves it"));
        }
        let mut found: Vec<_> = proofs.into_iter().filter_map(fault).collect();
        if let Some((series, log)) = told {
            for cell in [series, log] {
                if quoted(cell).is_empty() && !cell.starts_with("none: ") {
                    found.push(format!("`{cell}` names nothing, and does not say why: `none: ...`"));
                }
            }
            found.extend(quoted(series).into_iter().filter_map(|series| unwritten(series, &docs)));
            let is_said = |words: &&str| code.iter().any(|text| text.contains(*words));
            found.extend(quoted(log).into_iter().filter(|words| !is_said(words)).map(|words| format!("no code says `{words}`")));
        }
        faults.extend(found.into_iter().map(|fault| format!("line {number}: {fault}")));
    }
    if !answered.iter().copied().eq(lines()) {
        faults.push(format!("{TABLE}: its lines are {answered:?}; one row each, in order"));
    }
    assert_none(&faults);
}

#[test]
fn what_is_missing_is_noticed() {
    for (proof, is_there) in [
        ("tls/no-sni", true),
        ("tls/no-such-case", false),
        ("tls", false),
        ("tests/fast/cases.rs::translator", true),
        ("tests/fast/cases.rs::no_such_test", false),
        ("tests/fast/no_such_file.rs::translator", false),
        ("tests/cluster/proof.rs::programmed_means_that_it_answers", true),
        ("tests/cluster/proof.rs::within", false),
    ] {
        assert_eq!(fault(proof).is_none(), is_there, "{proof}");
    }
    let docs = "| `isthmus_faults_total` | `reason`: `plaintext`, `loop` |";
    for (series, is_there) in [
        ("isthmus_faults_total", true),
        ("isthmus_faults_total{reason=\"loop\"}", true),
        ("isthmus_faults_total{reason=\"limit\"}", false),
        ("isthmus_faults_total{code=\"500\"}", true),
        ("isthmus_fault", false),
    ] {
        assert_eq!(unwritten(series, docs).is_none(), is_there, "{series}");
    }
}
