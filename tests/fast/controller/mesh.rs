//! The mesh: what sidecars get, what routes on Services and XMeshes are told, and what it costs when pods come and go.

use std::net::IpAddr;
use std::time::Duration;

use isthmus_routing::{MtlsMode, Snapshot};
use isthmus_tests::api_server::{ApiServer, Bundle, Select, Verb};
use serde_json::{Value, json};

use super::sidecar::{Sidecar, pod};
use super::stage::{Stage, quick};
use super::{PATIENCE, log, scenario};

const FRONT: &str = "Service/shop/front:80";
const PROGRAMMED: &str = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs isthmus.dev/Programmed=True/Programmed";
const NOBODY: &str = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs isthmus.dev/Programmed=True/NoSubscribers";

/// With a route on Service `shop/front`, and maybe with pods that have sidecars.
async fn stage(pods: &[&str]) -> Stage {
    let stage = Stage::of_mesh(Bundle::V1_7).await;
    scenario::start(&stage.server);
    stage.server.apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "canary", "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "front"}],
            "rules": [{"backendRefs": [{"name": "neighbour", "port": 80}]}],
        },
    }));
    for (number, at) in pods.iter().enumerate() {
        stage.server.apply(pod(at, &format!("10.244.9.{}", number + 1), json!({}), true));
    }
    stage
}

async fn becomes(stage: &Stage, kind: &str, name: &str, expected: &str) {
    let what = format!("{kind} {name}: {expected}");
    stage.server.wait_for(&what, PATIENCE, |_| (stage.conditions(kind, name) == expected).then_some(())).await;
}

/// Changes the route, so that it has another generation.
fn edit(server: &ApiServer, number: u32) {
    server.patch(
        "HTTPRoute",
        "shop/canary",
        json!({"spec": {"rules": [{"matches": [{"path": {"value": format!("/{number}")}}]}]}}),
    );
}

/// The condition of the route for its newest generation, once it was written, with its message.
async fn programmed(server: &ApiServer, status: &str) -> String {
    let look = |server: &ApiServer| {
        let route = server.get("HTTPRoute", "shop/canary")?;
        let conditions = route["status"]["parents"][0]["conditions"].as_array()?.clone();
        let condition = conditions.into_iter().find(|one| one["type"] == "isthmus.dev/Programmed")?;
        let is_it = condition["observedGeneration"] == route["metadata"]["generation"] && condition["status"] == status;
        is_it.then(|| format!("{} {}", condition["reason"].as_str().unwrap(), condition["message"].as_str().unwrap()))
    };
    server.wait_for(&format!("Programmed={status} of the newest generation"), PATIENCE, look).await
}

fn has_workload(snapshot: &Snapshot, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    snapshot.workloads.values().any(|workloads| workloads.pods.contains_key(&address))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_on_services_are_programmed_when_those_who_call_serve_them() {
    let stage = stage(&["shop/client"]).await;
    let server = &stage.server;
    let _controller = stage.controller("a", "one").await;
    becomes(&stage, "HTTPRoute", "shop/canary", NOBODY).await;
    let sidecar = Sidecar::start(server, stage.controllers(), "shop/client", &[]).await;
    sidecar.is_given("who there is", |snapshot| has_workload(snapshot, "10.244.9.1")).await;
    edit(server, 1);
    assert!(programmed(server, "True").await.starts_with("NoSubscribers "), "it calls nothing");

    sidecar.calls(&[FRONT]);
    let key = FRONT.parse().unwrap();
    let given = sidecar.is_given("what it calls", |snapshot| snapshot.services.contains_key(&key)).await;
    assert_eq!(given.service_routes.len(), 1);
    assert!(given.mesh.is_some() && given.frontends.len() > 1 && given.gateways.is_empty());
    becomes(&stage, "HTTPRoute", "shop/canary", PROGRAMMED).await;

    sidecar.answers(false);
    edit(server, 2);
    let told = programmed(server, "False").await;
    assert_eq!(told, "Pending not all sidecars that call shop/front:80 serve generation 3 yet: waiting for shop/client");
    // One that is not ready is not asked.
    server.apply(pod("shop/client", "10.244.9.1", json!({}), false));
    assert!(programmed(server, "True").await.starts_with("NoSubscribers "));
    // The time for which it is waited begins anew with what it has not answered then.
    sidecar.answers(true);
    server.apply(pod("shop/client", "10.244.9.1", json!({}), true));
    becomes(&stage, "HTTPRoute", "shop/canary", PROGRAMMED).await;
    sidecar.answers(false);
    edit(server, 3);
    programmed(server, "False").await;
    sidecar.answers(true);
    assert_eq!(programmed(server, "True").await, "Programmed ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_lags_is_named_and_then_left_out() {
    let stage = stage(&["shop/client", "bank/late"]).await;
    let server = &stage.server;
    let _controller = stage.controller("a", "one").await;
    let _good = Sidecar::start(server, stage.controllers(), "shop/client", &[FRONT]).await;
    let late = Sidecar::start(server, stage.controllers(), "bank/late", &[FRONT]).await;
    becomes(&stage, "HTTPRoute", "shop/canary", PROGRAMMED).await;
    late.is_given("what it calls", |snapshot| !snapshot.services.is_empty()).await;
    late.answers(false);
    edit(server, 1);
    assert!(programmed(server, "False").await.ends_with("waiting for bank/late"));
    assert_eq!(programmed(server, "True").await, "Programmed not counted: bank/late (has not acknowledged it for 10 s)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_leader_says_the_same_of_those_who_come_over() {
    let stage = stage(&["shop/client"]).await;
    let server = &stage.server;
    let one = stage.controller_with("a", "one", quick()).await;
    let sidecar = Sidecar::start(server, stage.controllers(), "shop/client", &[FRONT]).await;
    sidecar.is_given("what it calls", |snapshot| !snapshot.services.is_empty()).await;
    becomes(&stage, "HTTPRoute", "shop/canary", PROGRAMMED).await;
    // Nothing else is on its way either.
    stage.settled(Duration::from_secs(2), PATIENCE).await;
    let _two = stage.controller_with("b", "two", quick()).await;
    super::stage::is_reading(server, "b").await;
    server.forget_calls();
    one.stop().await;
    let comes = Select::any().client("b").kind("TokenReview");
    server.wait_for("the other one leads", PATIENCE, |server| (!server.calls(&comes).is_empty()).then_some(())).await;
    stage.settled(Duration::from_secs(2), PATIENCE).await;
    let writes = server.calls(&super::writes().client("b").status().kind("HTTPRoute"));
    assert!(writes.is_empty(), "nothing has changed: {writes:#?}");
    edit(server, 1);
    assert_eq!(programmed(server, "True").await, "Programmed ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_know_each_other_and_what_their_own_pods_ask_for() {
    let stage = stage(&["shop/client"]).await;
    let server = &stage.server;
    let _controller = stage.controller("a", "one").await;
    let sidecar = Sidecar::start(server, stage.controllers(), "shop/client", &[]).await;
    let mode_is = |mode: MtlsMode| move |snapshot: &Snapshot| snapshot.inbound.as_ref().is_some_and(|asked| asked.mode == mode);
    sidecar.is_given("permissive", mode_is(MtlsMode::Permissive)).await;
    // What it asks may change while it runs, but not that it has a sidecar, and what that takes.
    let edited = json!({"isthmus.dev/mtls": "strict", "isthmus.dev/injected": null, "isthmus.dev/exclude-inbound-ports": "8080"});
    server.patch("Pod", "shop/client", json!({"metadata": {"annotations": edited}}));
    let given = sidecar.is_given("strict", mode_is(MtlsMode::Strict)).await;
    let own = given.workloads.values().find_map(|workloads| workloads.pods.get(&"10.244.9.1".parse::<IpAddr>().unwrap()));
    assert_eq!(own.map(|pod| pod.plain_ports.as_slice()), Some(&[][..]), "its callers still call it with a certificate");

    server.apply(pod("bank/teller", "10.244.9.7", json!({}), false));
    let given = sidecar.is_given("another one", |snapshot| has_workload(snapshot, "10.244.9.7")).await;
    let identities: Vec<String> = given.workloads.keys().map(ToString::to_string).collect();
    assert_eq!(identities, ["ServiceAccount/bank/default", "ServiceAccount/shop/default"]);
    // Who ends has no address any more, also while the object is there.
    server.patch_status("Pod", "bank/teller", json!({"status": {"phase": "Succeeded"}})).unwrap();
    sidecar.is_given("it has ended", |snapshot| !has_workload(snapshot, "10.244.9.7")).await;
    server.delete("Pod", "bank/teller");
    // Nor has the pod that somebody else's takes the address of.
    let mut thief = pod("bank/plain", "10.244.9.1", json!({}), true);
    thief["spec"]["initContainers"] = json!([]);
    thief["status"]["startTime"] = json!("2126-01-01T00:00:00Z");
    server.apply(thief);
    sidecar.is_given("its address is another's", |snapshot| !has_workload(snapshot, "10.244.9.1")).await;
    server.delete("Pod", "bank/plain");
    sidecar.is_given("its address is its own", |snapshot| has_workload(snapshot, "10.244.9.1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_know_the_workloads_behind_their_backends() {
    let stage = stage(&[]).await;
    let slice = stage.server.get("EndpointSlice", "shop/front").unwrap();
    let address = slice["endpoints"][0]["addresses"][0].as_str().unwrap().to_owned();
    stage.server.apply(pod("shop/front-0", &address, json!({}), true));
    stage.server.apply(pod("shop/elsewhere", "10.244.9.9", json!({}), true));
    let _controller = stage.controller("a", "one").await;
    let look = |_: &ApiServer| stage.snapshot("shop", "edge").filter(|snapshot| has_workload(snapshot, &address));
    let given = stage.server.wait_for("the gateway knows it", PATIENCE, look).await;
    assert!(given.mesh.is_some() && !has_workload(&given, "10.244.9.9"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spoilt_authority_stops_nothing_but_calls_to_workloads() {
    log::collect();
    let stage = stage(&["shop/client"]).await;
    let server = &stage.server;
    let slice = server.get("EndpointSlice", "shop/front").unwrap();
    let address = slice["endpoints"][0]["addresses"][0].as_str().unwrap().to_owned();
    server.apply(pod("shop/front-0", &address, json!({}), true));
    let garbage = "Z2FyYmFnZQ==";
    server.apply(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "isthmus-mesh-ca", "namespace": "isthmus-system"},
        "type": "kubernetes.io/tls", "data": {"tls.crt": garbage, "tls.key": garbage, "ca.crt": garbage},
    }));
    let _controller = stage.controller("a", "one").await;
    let runs = |_: &ApiServer| stage.snapshots("shop", "edge").map(drop);
    server.wait_for("the gateway's pod runs", PATIENCE, runs).await;
    assert_eq!(stage.history("shop", "edge"), [], "proxies of before keep what they have for a moment: it may come yet");
    let sidecar = Sidecar::start(server, stage.controllers(), "shop/client", &[FRONT]).await;
    let look = |_: &ApiServer| stage.history("shop", "edge").first().cloned();
    let given = server.wait_for("it is served", PATIENCE, look).await;
    assert!(given.mesh.is_none() && has_workload(&given, &address), "it calls the workload in cleartext");
    let given = sidecar.is_given("what it calls", |snapshot| !snapshot.services.is_empty()).await;
    assert!(given.mesh.is_none() && has_workload(&given, &address) && given.inbound.is_some());
    becomes(&stage, "HTTPRoute", "shop/canary", PROGRAMMED).await;
    let told = log::lines(&["the authority of the mesh is not known", "isthmus-mesh-ca"]);
    assert_eq!(told.len(), 1, "{told:?}");
    server.delete("Secret", "isthmus-system/isthmus-mesh-ca");
    let look = |_: &ApiServer| stage.snapshot("shop", "edge").filter(|snapshot| snapshot.mesh.is_some());
    server.wait_for("it is served with the mesh", PATIENCE, look).await;
    sidecar.certificate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_is_accepted_where_its_kind_is_there() {
    let stage = stage(&[]).await;
    let server = &stage.server;
    let _controller = stage.controller("a", "one").await;
    becomes(&stage, "HTTPRoute", "shop/canary", NOBODY).await;
    let lists = Select::any().client("a").kind("XMesh").verbs(&[Verb::List]);
    assert!(server.calls(&lists).is_empty(), "there is no such kind");
    server.install_crd("gateway.networking.x-k8s.io", "xmeshes", "XMesh", false, &["v1alpha1"], true);
    for (name, controller) in [("ours", "isthmus.dev/mesh-controller"), ("theirs", "example.com/mesh")] {
        server.apply(json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh", "metadata": {"name": name},
            "spec": {"controllerName": controller},
        }));
    }
    becomes(&stage, "XMesh", "ours", "Accepted=True/Accepted").await;
    let features = server.get("XMesh", "ours").unwrap()["status"]["supportedFeatures"].clone();
    let names: Vec<&str> = features.as_array().unwrap().iter().filter_map(|feature| feature["name"].as_str()).collect();
    assert!(names.contains(&"Mesh") && names.contains(&"MeshConsumerRoute") && names.is_sorted(), "{names:?}");
    // What others write into it stays, and what we wrote comes back.
    let foreign = json!({"type": "example.com/Seen", "status": "True", "reason": "Theirs", "message": "",
        "lastTransitionTime": "2026-11-20T09:00:00Z"});
    server.patch_status("XMesh", "ours", json!({"status": {"conditions": [foreign], "supportedFeatures": null}})).unwrap();
    becomes(&stage, "XMesh", "ours", "example.com/Seen=True/Theirs Accepted=True/Accepted").await;
    assert_eq!(server.get("XMesh", "ours").unwrap()["status"]["supportedFeatures"], features);
    assert_eq!(server.get("XMesh", "theirs").unwrap()["status"], Value::Null);
}
