//! A proxy that is one model version apart from the controller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fault::{Fault, Outcome, ensure};
use crate::line;
use crate::manifests::{DEPLOYMENT, HASTY, PODS, edit_header, programmed, route, served};
use crate::rollouts::{CONTROLLER, CONTROLLER_PODS};
use crate::space::{SLOW, Space};
use crate::stage::{Stage, eventually};
use crate::status;
use crate::traffic::Traffic;

const EDITS: u32 = 100;
/// In a second.
const RATE: usize = 300;

/// A pod beside those of the Deployment, which says that it is of the next release.
pub(crate) async fn a_newer_proxy_loses_nothing(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    served(&space, 1, HASTY).await?;
    let template = space.get("Deployment", DEPLOYMENT).await?.data["spec"]["template"].clone();
    let mut spec = template["spec"].clone();
    let environment = spec["containers"][0]["env"].as_array_mut().ok_or_else(|| Fault::said("the pod has no environment"))?;
    environment.push(json!({ "name": "ISTHMUS_MODELS", "value": "1-2" }));
    let labels = template["metadata"]["labels"].clone();
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "newer", "labels": labels }, "spec": spec });
    space.apply_value(&pod).await?;
    let ready = |pod: &kube::api::DynamicObject| is_ready(&pod.data);
    space.until("Pod", "newer", "ready", SLOW, ready).await?;
    // It alone.
    space.merge("GatewayParameters", "small", &json!({ "spec": { "replicas": 0 } })).await?;
    eventually(SLOW, "the others go", || async {
        let pods = space.list("Pod", PODS).await?;
        ensure!(pods.len() == 1, "{} pods", pods.len());
        Ok(())
    })
    .await?;
    edits(&stage, &space, programmed(&space, 80).await?).await
}

/// The controller says that it is of the next release.
pub(crate) async fn an_older_proxy_loses_nothing(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    let address = served(&space, 1, HASTY).await?;
    let system = stage.system();
    let before = arguments(&system).await?;
    let mut newer: Vec<Value> = before.as_array().cloned().unwrap_or_default();
    newer.push(json!("--model=2"));
    let undo = system.clone();
    stage.afterwards(move || async move { set_arguments(&undo, &before).await });
    set_arguments(&system, &json!(newer)).await?;
    edits(&stage, &space, address).await
}

async fn edits(stage: &Stage, space: &Space, address: SocketAddr) -> Outcome {
    let traffic = Traffic::start(address, "/", RATE);
    let mut slowest = Duration::ZERO;
    for edit in 0..EDITS {
        space.apply(&route("shop", "/", "echo", &edit_header(edit))).await?;
        let start = tokio::time::Instant::now();
        eventually(SLOW, "the edit is served", || async {
            let answer = line::get(address, "/").await?;
            ensure!(answer.header("x-edit") == edit.to_string(), "edit {edit}: x-edit is `{}`", answer.header("x-edit"));
            Ok(())
        })
        .await?;
        slowest = slowest.max(start.elapsed());
    }
    space.until("HTTPRoute", "shop", "served", SLOW, status::is_served).await?;
    stage.say(format!("{EDITS} edits, each was served; the slowest after {:.0} ms", slowest.as_secs_f64() * 1000.0));
    stage.say(traffic.finish().await?.to_string());
    Ok(())
}

async fn arguments(system: &Space) -> Outcome<Value> {
    let controller = system.get("Deployment", CONTROLLER).await?;
    Ok(controller.data["spec"]["template"]["spec"]["containers"][0]["args"].clone())
}

async fn set_arguments(system: &Space, arguments: &Value) -> Outcome {
    let path = "/spec/template/spec/containers/0/args";
    let operations = json!([{ "op": "replace", "path": path, "value": arguments }]);
    system.patch("Deployment", CONTROLLER, operations).await?;
    system.disown("Deployment", CONTROLLER).await?;
    system.rolled_out(CONTROLLER, CONTROLLER_PODS).await
}

/// Whether a pod is ready.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
