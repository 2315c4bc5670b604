//! Objects that go and come, that are somebody else's, and statuses that several write into.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::fault::{Outcome, ensure};
use crate::line;
use crate::manifests::{DEPLOYMENT, HASTY, HOST, KUBE_PROXY, PODS, echo, gateway, gateway_of, programmed, route, served};
use crate::space::{SLOW, text};
use crate::stage::{Stage, eventually};
use crate::status;
use crate::traffic::Traffic;

const ANOTHER: &str = "example.com/another-controller";

pub(crate) async fn a_gateway_of_the_same_name_is_another_gateway(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    served(&space, 1, HASTY).await?;
    let before = space.get("Deployment", DEPLOYMENT).await?;
    space.delete("Gateway", "edge").await?;
    // At once, while what belonged to the first one is still going.
    let start = tokio::time::Instant::now();
    space.apply(&gateway(1, HASTY, "")).await?;
    let uid = space.get("Gateway", "edge").await?.metadata.uid;
    let address = programmed(&space, 80).await?;
    let after = space.get("Deployment", DEPLOYMENT).await?;
    let owner = after.metadata.owner_references.as_ref().and_then(|owners| owners.first()).map(|owner| owner.uid.clone());
    ensure!(before.metadata.uid != after.metadata.uid && owner == uid, "the Deployment is the first Gateway's");
    space.until("HTTPRoute", "shop", "served", SLOW, status::is_served).await?;
    // Until now kube-proxy may have led to what was left of the first one, and lead nowhere for a moment after that.
    let answer = eventually(KUBE_PROXY, "kube-proxy leads to the second Gateway", || line::get(address, "/")).await?.status;
    ensure!(answer == 200, "the second one answers {answer}");
    stage.say(format!("served again after {:.1} s", start.elapsed().as_secs_f32()));
    Ok(())
}

pub(crate) async fn a_class_of_another_controller_is_left_alone(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    let class = stage.class(ANOTHER).await?;
    space.apply(&gateway_of(&class, 1, HASTY, "")).await?;
    space.apply(&route("shop", "/", "echo", "")).await?;
    // Nothing happens, which takes a while to see.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (edge, shop) = (space.get("Gateway", "edge").await?, space.get("HTTPRoute", "shop").await?);
    let conditions = edge.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    // The CRD's defaults are Unknown.
    let ours: Vec<&Value> = conditions.iter().filter(|condition| text(&condition["status"]) != "Unknown").collect();
    ensure!(ours.is_empty(), "the Gateway has conditions: {ours:?}");
    ensure!(edge.data["status"]["addresses"].is_null(), "the Gateway has addresses");
    let parents = shop.data["status"]["parents"].as_array().cloned().unwrap_or_default();
    ensure!(parents.is_empty(), "the route has parents: {parents:?}");
    ensure!(space.list("Deployment", "").await?.is_empty(), "there is a Deployment");

    // It becomes ours, and then not any more.
    space.merge("Gateway", "edge", &json!({ "spec": { "gatewayClassName": "isthmus" } })).await?;
    programmed(&space, 80).await?;
    space.merge("Gateway", "edge", &json!({ "spec": { "gatewayClassName": class } })).await?;
    let took = space.until_gone("Deployment", DEPLOYMENT, SLOW).await?;
    stage.say(format!("handed to another controller: its Deployment was gone after {:.0} ms", took.as_secs_f64() * 1000.0));
    Ok(())
}

pub(crate) async fn a_class_that_goes_leaves_its_gateways_serving(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    let class = stage.class(status::CONTROLLER).await?;
    space.apply(&gateway_of(&class, 1, HASTY, "")).await?;
    space.apply(&echo("echo", 1)).await?;
    space.apply(&route("shop", "/", "echo", "")).await?;
    space.rolled_out("echo", "app=echo").await?;
    let address = programmed(&space, 80).await?;
    space.until("HTTPRoute", "shop", "served", SLOW, status::is_served).await?;
    let traffic = Traffic::start(address, "/", 200);
    let pods = space.list("Pod", PODS).await?.len();
    stage.classes_api().delete(&class, &DeleteParams::background()).await?;
    traffic.until(600).await;
    ensure!(space.list("Pod", PODS).await?.len() == pods, "its pods went");
    // It is back, and so is what follows from the objects.
    stage.class(status::CONTROLLER).await?;
    space.apply(&route("later", "/later", "echo", "")).await?;
    space.until("HTTPRoute", "later", "served", SLOW, status::is_served).await?;
    stage.say(traffic.finish().await?.to_string());
    Ok(())
}

pub(crate) async fn what_others_wrote_into_a_status_stays(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    served(&space, 1, HASTY).await?;
    let (api, params) = (space.api("HTTPRoute"), PatchParams::default());
    let now = "2026-01-02T03:04:05Z";
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": "Theirs", "message": "", "observedGeneration": 1, "lastTransitionTime": now,
        })
    };
    let theirs = json!({
        "controllerName": ANOTHER, "parentRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "another" },
        "conditions": [condition("Accepted")],
    });
    let mut parents = space.get("HTTPRoute", "shop").await?.data["status"]["parents"].as_array().cloned().unwrap_or_default();
    parents.insert(0, theirs.clone());
    api.patch_status("shop", &params, &Patch::Merge(json!({ "status": { "parents": parents } }))).await?;
    let foreign = condition("example.com/Seen");
    let mut conditions = space.get("Gateway", "edge").await?.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.push(foreign.clone());
    let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
    space.api("Gateway").patch_status("edge", &params, &patch).await?;

    // Ten new generations of each.
    for turn in 0..10 {
        space.apply(&route("shop", &format!("/{turn}"), "echo", "")).await?;
        space.until("HTTPRoute", "shop", "served", SLOW, status::is_served).await?;
        let hostname = json!({ "spec": { "listeners": [{ "name": "http", "port": 80, "protocol": "HTTP", "hostname": (["*.example", HOST][turn % 2]) }] } });
        space.merge("Gateway", "edge", &hostname).await?;
        programmed(&space, 80).await?;
    }
    let parents = space.get("HTTPRoute", "shop").await?.data["status"]["parents"].as_array().cloned().unwrap_or_default();
    ensure!(parents.contains(&theirs), "the other controller's parent is lost: {parents:?}");
    let conditions = space.get("Gateway", "edge").await?.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    ensure!(conditions.contains(&foreign), "the foreign condition is lost: {conditions:?}");
    // A parent that is ours no more is taken out, and theirs stays.
    let patch = json!({ "spec": { "parentRefs": [{ "name": "another" }] } });
    space.merge("HTTPRoute", "shop", &patch).await?;
    let only = |route: &kube::api::DynamicObject| route.data["status"]["parents"] == json!([theirs]);
    space.until("HTTPRoute", "shop", "only the other controller's parent", SLOW, only).await?;
    Ok(())
}
