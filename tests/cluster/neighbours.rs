//! What is broken, or goes, changes nothing for those beside it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::DeleteParams;
use kube::runtime::{WatchStreamExt as _, watcher};

use crate::fault::{Fault, Outcome, ensure};
use crate::line;
use crate::manifests::{HASTY, echo, edit_header, route, served};
use crate::proof::within;
use crate::space::SLOW;
use crate::stage::{Stage, eventually};
use crate::status::{self, Of};
use crate::traffic::Traffic;

/// In a second.
const RATE: usize = 200;

pub(crate) async fn a_broken_route_hurts_only_itself(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(serde_json::json!({})).await?;
    let address = served(&space, 2, HASTY).await?;
    let traffic = Traffic::start(address, "/", RATE);
    let mut slowest = String::new();
    for (name, broken, kind, reason) in cases() {
        space.apply(&broken).await?;
        let said = |route: &_| status::is(route, Of::Route, kind, "False", reason);
        let took = within(&space, "HTTPRoute", name, &format!("{kind} False, {reason}"), said).await?;
        slowest.push_str(&format!("{name} {took}, "));
        if kind == "ResolvedRefs" {
            // Accepted, so it takes its requests, and answers 500 as the specification says.
            eventually(Duration::from_secs(5), "500", || async {
                let status = line::get(address, &format!("/{name}")).await?.status;
                ensure!(status == 500, "{name}: {status}, not 500");
                Ok(())
            })
            .await?;
        }
    }
    stage.say(format!("conditions after: {}", slowest.trim_end_matches(", ")));
    stage.say(traffic.finish().await?.to_string());
    Ok(())
}

/// Name, object, and the condition that is to be False with its reason.
fn cases() -> [(&'static str, String, &'static str, &'static str); 7] {
    let with = |name: &str, from: &str, to: &str| route(name, &format!("/{name}"), "echo", "").replace(from, to);
    let regex = route("bad-regex", "/bad-regex", "echo", "")
        .replace("type: PathPrefix, value: \"/bad-regex\"", "type: RegularExpression, value: \"/(\"");
    let filters = "    filters: [{ type: ExtensionRef, extensionRef: { group: example.com, kind: Nothing, name: none } }]";
    [
        ("no-service", route("no-service", "/no-service", "absent", ""), "ResolvedRefs", "BackendNotFound"),
        ("no-grant", route("no-grant", "/no-grant", "kubernetes, namespace: default", ""), "ResolvedRefs", "RefNotPermitted"),
        (
            "no-kind",
            with("no-kind", "name: echo,", "name: echo, group: example.com, kind: Queue,"),
            "ResolvedRefs",
            "InvalidKind",
        ),
        ("no-filter", route("no-filter", "/no-filter", "echo", filters), "ResolvedRefs", "InvalidKind"),
        ("bad-regex", regex, "Accepted", "UnsupportedValue"),
        ("no-listener", with("no-listener", "name: edge", "name: edge, sectionName: none"), "Accepted", "NoMatchingParent"),
        ("no-host", with("no-host", "name: edge", "name: edge, port: 81"), "Accepted", "NoMatchingParent"),
    ]
}

pub(crate) async fn a_namespace_that_goes_hurts_nobody_else(stage: Arc<Stage>) -> Outcome {
    let (space, other) = (stage.space(serde_json::json!({})).await?, stage.space(serde_json::json!({})).await?);
    let address = served(&space, 2, HASTY).await?;
    let gone = served(&other, 1, HASTY).await?;
    // Routes of the other namespace are on the neighbour's Gateway, too.
    let guest = route("guest", "/guest", "echo", "").replace("name: edge", &format!("name: edge, namespace: {}", space.name));
    other.apply(&guest).await?;
    other.until("HTTPRoute", "guest", "served", SLOW, status::is_served).await?;
    ensure!(line::get(address, "/guest").await?.status == 200, "the guest is not served");
    let traffic = Traffic::start(address, "/", RATE);
    let start = tokio::time::Instant::now();
    let namespaces = Api::<Namespace>::all(stage.client.clone());
    namespaces.delete(&other.name, &DeleteParams::background()).await?;
    eventually(SLOW, "the namespace goes with everything in it", || async {
        ensure!(namespaces.get_opt(&other.name).await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    stage.say(format!("the namespace was gone after {:.1} s", start.elapsed().as_secs_f32()));
    ensure!(line::get(gone, "/").await.is_err(), "its Gateway still answers");
    // The neighbour's own route takes what the guest's took.
    space.apply(&echo("echo", 2)).await?;
    eventually(Duration::from_secs(5), "the guest's route goes", || async {
        let answer = line::get(address, "/guest").await?;
        ensure!(answer.status == 200, "it is {}", answer.status);
        Ok(())
    })
    .await?;
    stage.say(traffic.finish().await?.to_string());
    Ok(())
}

/// Edits of one route, and how long one of them stays.
const EDITS: u32 = 500;
const STAYS: Duration = Duration::from_millis(10);
/// Writes of its status in a second: the controller allows itself five for an object, and some of them meet an edit and are tried again.
const WRITES: usize = 15;

pub(crate) async fn a_route_that_flaps_brings_no_storm(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(serde_json::json!({})).await?;
    let address = served(&space, 2, HASTY).await?;
    let start = std::time::Instant::now();
    let api = space.api("HTTPRoute");
    let writes = tokio::spawn(async move {
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).applied_objects());
        let (mut generation, mut writes) = (None, 0);
        while let Some(event) = events.next().await {
            let Ok(route) = event else { continue };
            // Everything but a status raises the generation.
            writes += usize::from(generation == route.metadata.generation);
            generation = route.metadata.generation;
            if generation > Some(i64::from(EDITS)) && status::is_served(&route) {
                break;
            }
        }
        writes
    });
    let traffic = Traffic::start(address, "/", RATE);
    let mut ticks = tokio::time::interval(STAYS);
    for edit in 1..=EDITS {
        ticks.tick().await;
        space.apply(&route("shop", "/", "echo", &edit_header(edit))).await?;
    }
    let took = start.elapsed();
    let writes = tokio::time::timeout(SLOW, writes).await.map_err(|_| Fault::said("the last edit is never Programmed"))??;
    for _ in 0..6 {
        let answer = line::get(address, "/").await?;
        ensure!(answer.header("x-edit") == EDITS.to_string(), "the last edit is not served: {}", answer.header("x-edit"));
    }
    ensure!(writes <= WRITES * (1 + took.as_secs() as usize), "{writes} writes of the status in {:.1} s", took.as_secs_f32());
    stage.say(format!("{EDITS} edits in {:.1} s, {writes} writes of the status, the last edit served", took.as_secs_f32()));
    stage.say(traffic.finish().await?.to_string());
    Ok(())
}
