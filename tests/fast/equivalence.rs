//! A route decides alike on a listener and on a Service: one routing model for both.

use std::collections::BTreeMap;

use isthmus_tests::bed::{Bed, options};
use isthmus_tests::case;
use isthmus_tests::equivalence::{Beds, Verdict};

/// So many cases were alike when this was written. If there are fewer, the list of what differs has swallowed some.
const ALIKE: usize = 140;

#[test]
fn routes_decide_alike_on_both_kinds_of_parents() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut beds = Beds::new(Bed::start(options(isthmus_dataplane::Limits::default())).await);
        let mut verdicts: BTreeMap<Verdict, usize> = BTreeMap::new();
        let mut faults = Vec::new();
        for case in case::all().expect("case folders") {
            match beds.compare(&case).await {
                Ok(verdict) => *verdicts.entry(verdict).or_default() += 1,
                Err(fault) => faults.push(format!("{}: {fault}", case.name)),
            }
        }
        for (verdict, count) in &verdicts {
            println!("{count:4} {verdict:?}");
        }
        assert!(faults.is_empty(), "{} cases differ:\n{}", faults.len(), faults.join("\n"));
        let alike = verdicts.get(&Verdict::Alike).copied().unwrap_or_default();
        assert!(alike >= ALIKE || std::env::var_os("CASE").is_some(), "{alike} cases are alike, not {ALIKE}");
    });
}
