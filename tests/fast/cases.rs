//! Every case folder on all three layers: translator, match function, real sockets.

use isthmus_tests::bed::{Bed, options};
use isthmus_tests::case::{self, Case};
use isthmus_tests::{decide, input::Input, render, serve};

#[test]
fn translator() {
    each(|case| {
        let input = Input::read(case)?;
        let translation = input.translate(&input.placeholder_endpoints());
        case::expect_file(&case.folder.join("snapshot.yaml"), &render::snapshot(&translation.snapshot))?;
        case::expect_file(&case.folder.join("status.yaml"), &render::statuses(&translation.statuses, &input.rejected))
    });
}

#[test]
fn match_function() {
    each(|case| {
        let input = Input::read(case)?;
        let translation = input.translate(&input.placeholder_endpoints());
        let faults: Vec<_> = case
            .requests
            .iter()
            .filter_map(|exchange| {
                decide::check(&translation.snapshot, exchange).err().map(|fault| format!("{}: {fault}", exchange.title()))
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n  ")) }
    });
}

#[test]
fn real_sockets() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let bed = Bed::start(options(isthmus_dataplane::Limits::default())).await;
        let mut faults = Vec::new();
        for case in case::all().expect("case folders") {
            if let Err(fault) = serve::check(&bed, &case).await {
                faults.push(format!("{}: {fault}", case.name));
            }
        }
        assert!(faults.is_empty(), "{} cases fail:\n{}", faults.len(), faults.join("\n"));
    });
}

/// Runs a check on every case and shows all failures, not only the first.
fn each(check: impl Fn(&Case) -> Result<(), String>) {
    let cases = case::all().expect("case folders");
    assert!(!cases.is_empty(), "no case folder has this name");
    let faults: Vec<_> =
        cases.iter().filter_map(|case| check(case).err().map(|fault| format!("{}: {fault}", case.name))).collect();
    assert!(faults.is_empty(), "{} of {} cases fail:\n{}", faults.len(), cases.len(), faults.join("\n"));
}
