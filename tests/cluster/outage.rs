//! No controller at all.

use std::sync::Arc;

use serde_json::json;

use crate::fault::{Outcome, ensure};
use crate::line;
use crate::manifests::{DEPLOYMENT, HASTY, PODS, route, served};
use crate::node;
use crate::rollouts::{CONTROLLER, CONTROLLER_PODS};
use crate::space::{SLOW, Space};
use crate::stage::Stage;
use crate::status;
use crate::traffic::Traffic;

pub(crate) async fn a_gateway_serves_and_restarts_without_a_controller(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    let address = served(&space, 1, HASTY).await?;
    let system = stage.system();
    let before = system.get("Deployment", CONTROLLER).await?.data["spec"]["replicas"].as_i64().unwrap_or(2);
    let undo = system.clone();
    stage.afterwards(move || async move { scale(&undo, before).await });
    let traffic = Traffic::start(address, "/", 300);
    without(&stage, &space, &system, address, traffic).await?;
    scale(&system, before).await?;
    space.apply(&route("later", "/later", "echo", "")).await?;
    space.until("HTTPRoute", "later", "served", SLOW, status::is_served).await?;
    ensure!(line::get(address, "/later").await?.status == 200, "a route that was made after that is not served");
    Ok(())
}

async fn without(stage: &Stage, space: &Space, system: &Space, address: std::net::SocketAddr, traffic: Traffic) -> Outcome {
    scale(system, 0).await?;
    let sent = traffic.count.sent();
    traffic.until(sent + 1500).await;
    stage.say(format!("the controller ends: {}", traffic.finish().await?));
    let start = tokio::time::Instant::now();
    if !node::kill_gateways(space).await? {
        stage.say("left out: a restart of the container, since the node is another machine");
        return Ok(());
    }
    space.rolled_out(DEPLOYMENT, PODS).await?;
    let ready = start.elapsed();
    let traffic = Traffic::start(address, "/", 300);
    traffic.until(1500).await;
    let count = traffic.finish().await?;
    stage.say(format!("killed without a controller: ready again after {:.1} s; {count}", ready.as_secs_f32()));
    Ok(())
}

/// Sets how many controllers there are, and waits for it.
pub(crate) async fn scale(system: &Space, replicas: i64) -> Outcome {
    system.merge("Deployment", CONTROLLER, &json!({ "spec": { "replicas": replicas } })).await?;
    system.disown("Deployment", CONTROLLER).await?;
    system.rolled_out(CONTROLLER, CONTROLLER_PODS).await
}
