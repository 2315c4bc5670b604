//! `tests/cases/BAD_INPUT.md` names only what is there.

use std::fs;

use super::{assert_none, root};

const TABLE: &str = "tests/cases/BAD_INPUT.md";

/// The lines of the list that the table answers: objects, TLS at listeners, connections and datagrams, Services as parents and
/// pods in the mesh, identity there.
fn lines() -> impl Iterator<Item = u32> {
    (1..=34).chain(76..=85).chain(201..=213).chain(301..=312).chain(321..=341)
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

#[test]
fn each_line_of_bad_input_names_proofs_that_are_there() {
    let text = fs::read_to_string(root().join(TABLE)).expect(TABLE);
    let mut faults = Vec::new();
    let mut answered = Vec::new();
    for row in text.lines() {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [number, _, proofs] = cells[..] else { continue };
        let Ok(number) = number.trim_start_matches("| ").parse::<u32>() else { continue };
        answered.push(number);
        // What is between backticks.
        let proofs: Vec<_> = proofs.split('`').skip(1).step_by(2).collect();
        if proofs.is_empty() && !row.contains("waits for issue") {
            faults.push(format!("line {number}: nothing proves it"));
        }
        faults.extend(proofs.into_iter().filter_map(fault).map(|fault| format!("line {number}: {fault}")));
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
}
