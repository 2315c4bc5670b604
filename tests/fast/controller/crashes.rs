//! The controller is killed at each of its writes and started again: the end is that of a run without a crash.

use std::sync::Arc;
use std::time::Duration;

use isthmus_tests::api_server::{Action, Bundle, Call, Fault, Select, Verb};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::disturbed::{neighbours_were_left_alone, undisturbed};
use super::stage::{Stage, is_reading};
use super::{PATIENCE, scenario};

/// How many controllers run at the same time.
const AT_ONCE: usize = 6;

/// Lets the controller die right after its `number`-th write, or at rest if it does not make that many.
async fn run(number: u64) {
    let name = format!("killed at write {number}");
    let expected = &undisturbed().await.state;
    let stage = Stage::new(Bundle::V1_7).await;
    scenario::start(&stage.server);
    // What a client that dies before a write leaves is what it left after the write before.
    let action = if number == 1 { Action::Crash } else { Action::CrashAfter };
    let writes = Select::any().client("before").verbs(&Verb::WRITES);
    let crash = stage.server.fault(Fault::new(writes, action).nth(number));
    let controller = stage.controller("before", "one").await;
    let server = Arc::clone(&stage.server);
    let mut edits = tokio::spawn(async move {
        is_reading(&server, "before").await;
        scenario::edit(&server).await;
    });
    let crashed = async {
        while crash.hits() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let came_to_the_end = async {
        (&mut edits).await.unwrap();
        stage.expect(&name, expected, PATIENCE).await;
    };
    tokio::select! {
        () = crashed => {}
        () = came_to_the_end => {}
    }
    controller.kill().await;
    // The pod is the same, so it does not have to wait until the Lease has run out.
    let again = stage.controller("after", "one").await;
    if !edits.is_finished() {
        edits.await.unwrap();
    }
    stage.expect(&name, expected, PATIENCE).await;
    assert!(again.is_running(), "{name}");
    neighbours_were_left_alone(&stage, &name);
}

/// The writes to be killed at, counted from one. Questions about tokens leave nothing; of routes' statuses, which are most of the writes and
/// all alike, every third is enough.
fn numbers(writes: &[Call]) -> Vec<u64> {
    let counts = |call: &Call, number: u64| match call.kind.as_str() {
        "TokenReview" => false,
        "HTTPRoute" | "GRPCRoute" => number.is_multiple_of(3),
        _ => true,
    };
    (1..).zip(writes).filter(|(number, call)| counts(call, *number)).map(|(number, _)| number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_write() {
    let numbers = numbers(&undisturbed().await.writes);
    let count = numbers.len();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut runs = JoinSet::new();
    for number in numbers {
        let places = Arc::clone(&places);
        runs.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            run(number).await;
        });
    }
    let mut failed = 0;
    while let Some(ended) = runs.join_next().await {
        // Each one that failed has said why.
        failed += usize::from(ended.is_err());
    }
    assert_eq!(failed, 0, "of {count}");
}
