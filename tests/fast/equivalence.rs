//! A route decides alike on a listener and on a Service: one routing model for both.

use std::collections::BTreeMap;

use isthmus_tests::case;
use isthmus_tests::equivalence::{Stage, Verdict};

/// So many cases were alike when this was written. If there are fewer, the list of what differs has swallowed some.
const ALIKE: usize = 140;
/// linkerd/linkerd2#12267, where a gateway and a sidecar took different rules.
const NAMED: &str = "matching/linkerd2-12267";

#[test]
fn routes_decide_alike_on_both_kinds_of_parents() {
    let (mut stage, unavailable) = Stage::new();
    if let Some(why) = unavailable {
        eprintln!("with data planes in this process, not with a gateway and a sidecar: {why}");
    }
    let mut verdicts: BTreeMap<Verdict, Vec<String>> = BTreeMap::new();
    let mut faults = Vec::new();
    for case in case::all().expect("case folders") {
        match stage.compare(&case) {
            Ok(verdict) => verdicts.entry(verdict).or_default().push(case.name),
            Err(fault) => faults.push(format!("{}: {fault}", case.name)),
        }
    }
    for (verdict, cases) in &verdicts {
        println!("{:4} {verdict:?}", cases.len());
    }
    assert!(faults.is_empty(), "{} cases differ:\n{}", faults.len(), faults.join("\n"));
    let alike = verdicts.remove(&Verdict::Alike).unwrap_or_default();
    let enough = alike.len() >= ALIKE && alike.iter().any(|name| name == NAMED);
    assert!(
        enough || std::env::var_os("CASE").is_some(),
        "{NAMED} or others of {ALIKE} are not among those that are alike: {alike:?}"
    );
}
