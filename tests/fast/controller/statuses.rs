//! Statuses are written with care: once for what belongs together, never over what others wrote, and not again and again.

use std::time::{Duration, Instant};

use isthmus_tests::api_server::{ApiServer, Bundle, Call, Select, Verb};
use serde_json::{Value, json};

use super::stage::Stage;
use super::{PATIENCE, scenario};

/// A controller that has come to rest.
async fn at_rest() -> (Stage, super::stage::Controller) {
    let stage = Stage::new(Bundle::V1_7).await;
    scenario::start(&stage.server);
    let controller = stage.controller("a", "one").await;
    stage.at_rest().await;
    (stage, controller)
}

fn status_writes(server: &ApiServer) -> Vec<Call> {
    server.calls(&super::writes().client("a").status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_write_for_a_batch_and_none_at_rest() {
    let (stage, _controller) = at_rest().await;
    let server = &stage.server;
    server.forget_calls();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let idle = server.calls(&super::writes());
    assert!(idle.is_empty(), "nothing has changed: {idle:?}");

    for number in 0..40 {
        server.apply(scenario::route(&format!("batch-{number:02}"), &format!("/batch/{number}"), "front", 40));
    }
    stage.settled(Duration::from_millis(700), PATIENCE).await;
    for number in 0..40 {
        let name = format!("shop/batch-{number:02}");
        let writes = server.calls(&super::writes().status().kind("HTTPRoute").name(&name));
        assert!((1..=2).contains(&writes.len()), "{name}: {writes:#?}");
        let expected = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs isthmus.dev/Programmed=True/Programmed";
        assert_eq!(stage.conditions("HTTPRoute", &name), expected);
    }
    let others: Vec<_> = status_writes(server).into_iter().filter(|call| !call.name.starts_with("batch-")).collect();
    // The Gateway counts its routes.
    assert!(others.iter().all(|call| call.kind == "Gateway" && call.name == "edge"), "{others:#?}");
    assert!((1..=6).contains(&others.len()), "{others:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flapping_makes_no_storm() {
    let (stage, _controller) = at_rest().await;
    let server = &stage.server;
    server.forget_calls();
    let begin = Instant::now();
    for number in 0..200 {
        server.patch("HTTPRoute", "shop/front", json!({"spec": {"hostnames": [format!("h{number}.example.com")]}}));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.settled(Duration::from_millis(700), PATIENCE).await;
    let route = server.get("HTTPRoute", "shop/front").unwrap();
    for condition in route["status"]["parents"][0]["conditions"].as_array().unwrap() {
        assert_eq!(condition["observedGeneration"], route["metadata"]["generation"]);
        assert_eq!(condition["status"], "True");
    }
    let (ours, others): (Vec<_>, Vec<_>) = status_writes(server).into_iter().partition(|call| call.name == "front");
    // Twenty at once, and then one in 200 ms. One that met an edit on its way has no effect and is made again.
    let ours: Vec<_> = ours.into_iter().filter(|call| call.code == Some(200)).collect();
    let most = 24 + usize::try_from(begin.elapsed().as_millis() / 200).unwrap();
    assert!(ours.len() <= most, "{} writes for 200 edits, at most {most}", ours.len());
    assert!(others.is_empty(), "the neighbours are not touched: {others:#?}");
    let served = stage.snapshot("shop", "edge").unwrap();
    let text = serde_json::to_string(&*served).unwrap();
    assert!(text.contains("h199.example.com"), "the last edit is what is served");
}

/// What another implementation writes into objects that we write into too.
fn foreign_parent(status: &str) -> Value {
    json!({
        "controllerName": "example.com/other", "parentRef": {"name": "theirs", "namespace": "bank"},
        "conditions": [{
            "type": "Accepted", "status": status, "reason": "Accepted", "message": "theirs", "observedGeneration": 1,
            "lastTransitionTime": "2026-11-20T09:00:00Z",
        }],
    })
}

fn foreign_condition(kind: &str) -> Value {
    json!({
        "type": kind, "status": "True", "reason": "Theirs", "message": "theirs", "observedGeneration": 1,
        "lastTransitionTime": "2026-11-20T09:00:00Z",
    })
}

fn joined(list: &Value, with: Value) -> Value {
    let mut list = list.as_array().cloned().unwrap_or_default();
    list.push(with);
    Value::Array(list)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_wrote_survives() {
    let (stage, _controller) = at_rest().await;
    let server = &stage.server;
    let parents = server.get("HTTPRoute", "shop/front").unwrap()["status"]["parents"].clone();
    server
        .patch_status("HTTPRoute", "shop/front", json!({"status": {"parents": joined(&parents, foreign_parent("True"))}}))
        .unwrap();
    for (kind, name) in [("Gateway", "shop/edge"), ("GatewayClass", "isthmus")] {
        let conditions = server.get(kind, name).unwrap()["status"]["conditions"].clone();
        let conditions = joined(&conditions, foreign_condition("example.com/Seen"));
        server.patch_status(kind, name, json!({"status": {"conditions": conditions}})).unwrap();
    }
    let theirs = server.get("Gateway", "bank/theirs").unwrap();
    let classes = server.get("GatewayClass", "other").unwrap();

    // Edits of ours, while somebody else writes as well.
    for number in 0..15 {
        server.patch("HTTPRoute", "shop/front", json!({"spec": {"hostnames": [format!("f{number}.example.com")]}}));
        server.patch("Gateway", "shop/edge", json!({"spec": {"infrastructure": {"labels": {"step": number.to_string()}}}}));
        tokio::time::sleep(Duration::from_millis(15)).await;
        let mut parents =
            server.get("HTTPRoute", "shop/front").unwrap()["status"]["parents"].as_array().cloned().unwrap_or_default();
        parents.retain(|parent| parent["controllerName"] != "example.com/other");
        parents.push(foreign_parent(if number % 2 == 0 { "False" } else { "True" }));
        server.patch_status("HTTPRoute", "shop/front", json!({"status": {"parents": parents}})).unwrap();
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    stage.settled(Duration::from_millis(700), PATIENCE).await;

    let route = server.get("HTTPRoute", "shop/front").unwrap();
    let parents = route["status"]["parents"].as_array().unwrap();
    let (foreign, ours): (Vec<_>, Vec<_>) = parents.iter().partition(|parent| parent["controllerName"] == "example.com/other");
    assert_eq!(foreign, [&foreign_parent("False")]);
    assert_eq!(ours.len(), 1);
    assert!(
        ours[0]["conditions"].as_array().unwrap().iter().all(|one| one["observedGeneration"] == route["metadata"]["generation"])
    );
    for (kind, name) in [("Gateway", "shop/edge"), ("GatewayClass", "isthmus")] {
        let object = server.get(kind, name).unwrap();
        let conditions = object["status"]["conditions"].as_array().unwrap();
        assert!(conditions.contains(&foreign_condition("example.com/Seen")), "{kind}: {conditions:#?}");
        assert!(conditions.iter().any(|one| one["type"] == "Accepted" && one["status"] == "True"), "{kind}: {conditions:#?}");
    }
    assert_eq!(server.get("Gateway", "bank/theirs").unwrap(), theirs);
    assert_eq!(server.get("GatewayClass", "other").unwrap(), classes);

    // A route that leaves us keeps what others say of it.
    server.patch("HTTPRoute", "shop/front", json!({"spec": {"parentRefs": [{"name": "theirs", "namespace": "bank"}]}}));
    let look = |server: &ApiServer| {
        let parents = server.get("HTTPRoute", "shop/front")?["status"]["parents"].clone();
        (parents == json!([foreign_parent("False")])).then_some(())
    };
    server.wait_for("our entry goes", PATIENCE, look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_of_others_are_never_read() {
    let (stage, _controller) = at_rest().await;
    let server = &stage.server;
    let secrets = Select::any().client("a").kind("Secret");
    let mut gets: Vec<_> = server.calls(&secrets.clone().verbs(&[Verb::Get])).into_iter().map(|call| call.name).collect();
    gets.sort();
    gets.dedup();
    gets.retain(|name| name != "isthmus-push-tls");
    assert_eq!(gets, ["cert"]);
    for call in server.calls(&secrets.clone().verbs(&[Verb::List, Verb::Watch])) {
        let own = call.namespace == "isthmus-system" && call.uri.contains("fieldSelector=metadata.name%3Disthmus-push-tls");
        assert!(call.metadata_only || own, "a list with the content of Secrets: {}", call.uri);
    }

    // What is referred to from now on is read now, and what is no longer referred to is not.
    server.forget_calls();
    let refers = |name: &str| {
        json!({"spec": {"listeners": [
            {"name": "http", "port": 8080, "protocol": "HTTP"},
            {"name": "https", "port": 8443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": name}]}},
        ]}})
    };
    server.patch("Gateway", "shop/edge", refers("nobodys"));
    let reads = secrets.clone().verbs(&[Verb::Get]).name("shop/nobodys");
    server.wait_for("the Secret is read", PATIENCE, |server| (!server.calls(&reads).is_empty()).then_some(())).await;
    stage.settled(Duration::from_millis(300), PATIENCE).await;
    server.forget_calls();
    server.patch("Secret", "shop/cert", json!({"metadata": {"labels": {"a": "b"}}}));
    server.delete("Secret", "shop/nobodys");
    stage.settled(Duration::from_millis(300), PATIENCE).await;
    assert!(server.calls(&secrets.verbs(&[Verb::Get]).name("shop/cert")).is_empty());
}
