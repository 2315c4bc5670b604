//! Several controllers: one leads, another takes over, and for a moment two believe that they lead.

use std::time::Duration;

use isthmus_tests::api_server::{Bundle, Link};
use serde_json::json;

use super::disturbed::{neighbours_were_left_alone, undisturbed};
use super::stage::{Controller, Stage, quick};
use super::{PATIENCE, scenario};

/// What happens between the start and the edits, or during them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// The leader ends as it should.
    Stopped,
    /// The leader is killed.
    Killed,
    /// The leader no longer reaches the API server; later it does again.
    Partitioned,
    /// The Lease says that the other one leads, which the leader has not read yet.
    Stolen,
}

/// The holder of the Lease: the name of its pod.
fn holder(stage: &Stage) -> Option<String> {
    let lease = stage.server.get("Lease", "isthmus-system/isthmus-controller")?;
    let identity = lease["spec"]["holderIdentity"].as_str()?;
    Some(identity.split('_').next().unwrap_or_default().to_owned()).filter(|name| !name.is_empty())
}

async fn leads(stage: &Stage, pod: &str) {
    stage.server.wait_for(&format!("{pod} leads"), PATIENCE, |_| (holder(stage).as_deref() == Some(pod)).then_some(())).await;
}

async fn run(change: Change) {
    let name = format!("{change:?}");
    let expected = &undisturbed().await.state;
    let stage = Stage::new(Bundle::V1_7).await;
    scenario::start(&stage.server);
    let one = stage.controller_with("a", "one", quick()).await;
    leads(&stage, "one").await;
    let two = stage.controller_with("b", "two", quick()).await;
    stage.at_rest().await;
    let before = [stage.history("shop", "edge").len(), stage.history("bank", "vault").len()];
    assert!(stage.server.calls(&super::writes().client("b")).iter().all(|call| call.kind == "TokenReview"), "two does not lead");

    let mut rest: Vec<Controller> = vec![two];
    match change {
        Change::Stopped => one.stop().await,
        Change::Killed => one.kill().await,
        Change::Partitioned => {
            stage.server.set_link("a", Link::Hanging).await;
            rest.push(one);
        }
        Change::Stolen => {
            let held = stage.server.get("Lease", "isthmus-system/isthmus-controller").unwrap();
            let theirs = format!("two_{}", stage.push_address("two"));
            assert_ne!(held["spec"]["holderIdentity"], json!(theirs));
            stage.server.patch("Lease", "isthmus-system/isthmus-controller", json!({"spec": {"holderIdentity": theirs}}));
            rest.push(one);
        }
    }
    scenario::edit(&stage.server).await;
    leads(&stage, "two").await;
    if change == Change::Partitioned {
        stage.server.set_link("a", Link::Up).await;
    }
    stage.expect(&name, expected, PATIENCE).await;
    assert_eq!(holder(&stage).as_deref(), Some("two"), "{name}");
    assert!(rest.iter().all(Controller::is_running), "{name}");
    neighbours_were_left_alone(&stage, &name);
    // Nobody was told anything when the leader changed: what `bank` is served has not been edited.
    assert_eq!(stage.history("bank", "vault").len(), before[1], "{name}");
    assert!(stage.history("shop", "edge").len() > before[0], "{name}: the edits arrived");

    // Whoever does not lead writes nothing, whatever happens.
    stage.server.forget_calls();
    stage.server.patch("HTTPRoute", "shop/front", json!({"spec": {"hostnames": ["other.example.com"]}}));
    stage.settled(Duration::from_millis(400), PATIENCE).await;
    let writes = stage.server.calls(&super::writes());
    assert!(writes.iter().any(|call| call.client == "b"), "{name}");
    assert!(writes.iter().all(|call| call.client == "b"), "{name}: {writes:?}");
    drop(rest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_come_and_go() {
    let changes = [Change::Stopped, Change::Killed, Change::Partitioned, Change::Stolen];
    let runs: Vec<_> = changes.into_iter().map(|change| tokio::spawn(run(change))).collect();
    let mut failed = Vec::new();
    for (change, run) in changes.into_iter().zip(runs) {
        failed.extend(run.await.is_err().then_some(change));
    }
    assert_eq!(failed, []);
}
