//! What a condition says is so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::api::DynamicObject;
use tokio::process::Command;

use crate::fault::{Fault, Outcome, ensure};
use crate::line;
use crate::manifests::{HASTY, route, served};
use crate::space::{SLOW, Space};
use crate::stage::Stage;
use crate::status;

/// From the API server accepting an object to the condition that follows from it: one second, five times that on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

const ROUTES: u32 = 50;

/// Waits for a condition that must come within [`LIMIT`]; returns the time in words.
pub(crate) async fn within(
    space: &Space,
    kind: &str,
    name: &str,
    what: &str,
    holds: impl Fn(&DynamicObject) -> bool + Send,
) -> Outcome<String> {
    let took = space.until(kind, name, what, LIMIT, holds).await?;
    let late = if took > Duration::from_secs(1) { " (LATE: the aim is 1 s)" } else { "" };
    Ok(format!("{:.0} ms{late}", took.as_secs_f64() * 1000.0))
}

pub(crate) async fn programmed_means_that_it_answers(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(serde_json::json!({})).await?;
    let address = served(&space, 2, HASTY).await?;
    // So that only the routes of this test answer 200 below.
    space.delete("HTTPRoute", "shop").await?;
    let mut took = Vec::new();
    for number in 0..ROUTES {
        let (name, path) = (format!("r{number}"), format!("/r{number}"));
        space.apply(&route(&name, &path, "echo", "")).await?;
        took.push(space.until("HTTPRoute", &name, "served", SLOW, status::is_served).await?);
        // Connections of their own reach both proxies.
        for _ in 0..6 {
            let answer = line::get(address, &path).await?.status;
            ensure!(answer == 200, "route {number} is Programmed and answers {answer}");
        }
    }
    took.sort();
    let median = took[took.len() / 2].as_secs_f64() * 1000.0;
    stage.say(format!("{ROUTES} routes, Programmed after {median:.0} ms (median), then 6 requests each: all 200"));
    Ok(())
}

pub(crate) async fn isthmus_wait_says_when_and_why_not(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(serde_json::json!({})).await?;
    served(&space, 1, HASTY).await?;
    space.apply(&route("good", "/good", "echo", "")).await?;
    let (code, said) = wait(&space, "httproute/good", "30").await?;
    ensure!(code == 0 && said.contains("is served"), "a good route: code {code}, {said}");
    let (code, said) = wait(&space, "gateway/edge", "30").await?;
    ensure!(code == 0, "a good Gateway: code {code}, {said}");
    space.apply(&route("bad", "/bad", "absent", "")).await?;
    let (code, said) = wait(&space, "httproute/bad", "2").await?;
    ensure!(code == 1 && said.contains("BackendNotFound"), "a route without a backend: code {code}, {said}");
    let (code, said) = wait(&space, "httproute/none", "1").await?;
    ensure!(code == 1 && said.contains("does not exist"), "no route: code {code}, {said}");
    Ok(())
}

/// Runs `isthmus wait`; returns its exit code and what it said.
async fn wait(space: &Space, object: &str, seconds: &str) -> Outcome<(i32, String)> {
    let kubeconfig = std::env::var_os(crate::harness::KUBECONFIG).unwrap_or_default();
    let program = program()?;
    let mut command = Command::new(&program);
    command.args(["wait", object, "--namespace", &space.name, "--timeout", seconds]).env("KUBECONFIG", kubeconfig);
    let output = command.output().await.map_err(|error| Fault::said(format!("{}: {error}", program.display())))?;
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    Ok((output.status.code().unwrap_or(-1), said))
}

/// `isthmus`, which lies beside the folder of the test binaries.
fn program() -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(|deps| deps.parent());
    folder.map(|folder| folder.join("isthmus")).ok_or_else(|| Fault::said("this program is in no folder"))
}
