//! A strict client loses nothing while everything on its way, and the controller, is replaced.

use std::sync::Arc;

use crate::fault::Outcome;
use crate::manifests::{DEPLOYMENT, PODS, served};
use crate::space::Space;
use crate::stage::Stage;
use crate::traffic::Traffic;

const REQUESTS: usize = 20_000;
/// In a second.
const RATE: usize = 600;

/// The controller's pods.
pub(crate) const CONTROLLER_PODS: &str = "app.kubernetes.io/name=isthmus-controller";
/// The controller's Deployment.
pub(crate) const CONTROLLER: &str = "isthmus-controller";

pub(crate) async fn of_backends_and_gateway(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(serde_json::json!({})).await?;
    // Times as a user has them who sets none.
    let traffic = Traffic::start(served(&space, 2, "").await?, "/", RATE);
    roll(&space, &traffic, "echo", "app=echo").await?;
    roll(&space, &traffic, DEPLOYMENT, PODS).await?;
    finish(&stage, traffic).await
}

pub(crate) async fn of_the_controller(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(serde_json::json!({})).await?;
    let traffic = Traffic::start(served(&space, 2, "").await?, "/", RATE);
    roll(&stage.system(), &traffic, CONTROLLER, CONTROLLER_PODS).await?;
    // What it does next is done right, too.
    space.apply(&crate::manifests::route("later", "/later", "echo", "")).await?;
    let took = space.until("HTTPRoute", "later", "served", crate::space::SLOW, crate::status::is_served).await?;
    stage.say(format!("a route that was made after that was served after {:.0} ms", took.as_secs_f64() * 1000.0));
    finish(&stage, traffic).await
}

async fn roll(space: &Space, traffic: &Traffic, deployment: &str, labels: &str) -> Outcome {
    let before = traffic.count.sent();
    let took = space.roll(deployment, labels).await?;
    let during = traffic.count.sent() - before;
    space.stage.say(format!("{deployment} rolled in {:.1} s, {during} requests meanwhile", took.as_secs_f32()));
    Ok(())
}

async fn finish(stage: &Stage, traffic: Traffic) -> Outcome {
    traffic.until(REQUESTS).await;
    stage.say(traffic.finish().await?.to_string());
    Ok(())
}
