//! What a controller may not do, and what a cluster does not have: it says so, and everything else goes on.

use std::time::Duration;

use isthmus_tests::api_server::{Action, ApiServer, Bundle, Ending, Fault, Refusal, Select, Verb};
use serde_json::json;

use super::stage::{Controller, Stage};
use super::{PATIENCE, log, scenario};

const PROGRAMMED: &str = "Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs";
const ROUTE: &str = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs isthmus.dev/Programmed=True/Programmed";

async fn begin(bundle: Bundle) -> Stage {
    log::collect();
    let stage = Stage::new(bundle).await;
    scenario::start(&stage.server);
    stage
}

async fn started(stage: &Stage) -> Controller {
    stage.controller("a", "one").await
}

async fn becomes(stage: &Stage, kind: &str, name: &str, expected: &str) {
    let what = format!("{kind} {name}: {expected}");
    stage.server.wait_for(&what, PATIENCE, |_| (stage.conditions(kind, name) == expected).then_some(())).await;
}

async fn logged(server: &ApiServer, words: &[&str]) {
    server.wait_for(&format!("a log line with {words:?}"), PATIENCE, |_| (!log::lines(words).is_empty()).then_some(())).await;
}

fn forbidden(calls: Select) -> Fault {
    Fault::new(calls.client("a"), Action::Refuse(Refusal::forbidden()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_of_one_kind_may_not_be_written() {
    let stage = begin(Bundle::V1_7).await;
    let rule = stage.server.fault(forbidden(Select::any().kind("GRPCRoute").status()));
    let _controller = started(&stage).await;
    becomes(&stage, "Gateway", "shop/edge", PROGRAMMED).await;
    becomes(&stage, "HTTPRoute", "shop/neighbour", ROUTE).await;
    logged(&stage.server, &["forbidden", "patch", "grpcroutes.gateway.networking.k8s.io"]).await;
    assert_eq!(stage.conditions("GRPCRoute", "shop/calls"), "");
    rule.lift();
    let look = |_: &ApiServer| stage.conditions("GRPCRoute", "shop/calls").contains("Accepted=").then_some(());
    stage.server.wait_for("the status is written when it may be", PATIENCE, look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_kind_of_infrastructure_may_not_be_made() {
    let stage = begin(Bundle::V1_7).await;
    let rule = stage.server.fault(forbidden(Select::any().kind("Deployment").verbs(&Verb::WRITES)));
    let _controller = started(&stage).await;
    let look = |server: &ApiServer| {
        let gateway = server.get("Gateway", "shop/edge")?;
        gateway["status"]["conditions"].to_string().contains("Deployment shop/isthmus-edge cannot be written").then_some(())
    };
    stage.server.wait_for("the Gateway says it", PATIENCE, look).await;
    assert!(stage.server.get("Service", "shop/isthmus-edge").is_some(), "the rest is made");
    let route = stage.conditions("HTTPRoute", "shop/neighbour");
    assert!(route.starts_with("Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs"), "{route}");
    logged(&stage.server, &["Deployment shop/isthmus-edge", "forbidden"]).await;
    rule.lift();
    becomes(&stage, "Gateway", "shop/edge", PROGRAMMED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_kind_may_no_longer_be_read() {
    let stage = begin(Bundle::V1_7).await;
    let _controller = started(&stage).await;
    becomes(&stage, "Gateway", "shop/edge", PROGRAMMED).await;
    let rule = stage.server.fault(forbidden(Select::any().kind("ReferenceGrant").verbs(&Verb::READS)));
    stage.server.end_watches(&Select::any().kind("ReferenceGrant"), Ending::Gone);
    logged(&stage.server, &["forbidden", "list and watch", "referencegrants.gateway.networking.k8s.io"]).await;
    // What was read stays, and what is read goes on.
    stage.server.apply(scenario::route("meanwhile", "/meanwhile", "front", 50));
    becomes(&stage, "HTTPRoute", "shop/meanwhile", ROUTE).await;
    assert_eq!(stage.conditions("HTTPRoute", "shop/across"), ROUTE);
    stage.server.delete("ReferenceGrant", "bank/from-shop");
    rule.lift();
    let refused = "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted isthmus.dev/Programmed=True/Programmed";
    becomes(&stage, "HTTPRoute", "shop/across", refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_kind_may_not_be_read_from_the_start() {
    let stage = begin(Bundle::V1_7).await;
    let rule = stage.server.fault(forbidden(Select::any().kind("EndpointSlice").verbs(&[Verb::List, Verb::Watch])));
    let controller = started(&stage).await;
    logged(&stage.server, &["forbidden", "list and watch", "endpointslices.discovery.k8s.io"]).await;
    // Half the objects would make half a truth: nothing is written, nobody is served less than before.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stage.server.calls(&super::writes().client("a").status()), []);
    assert!(controller.is_running());
    rule.lift();
    becomes(&stage, "Gateway", "shop/edge", PROGRAMMED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_may_not_be_read() {
    let stage = begin(Bundle::V1_7).await;
    let rule = stage.server.fault(forbidden(Select::any().kind("Secret").name("shop/cert").verbs(&[Verb::Get])));
    let _controller = started(&stage).await;
    logged(&stage.server, &["forbidden", "secrets"]).await;
    becomes(&stage, "HTTPRoute", "shop/neighbour", ROUTE).await;
    rule.lift();
    let look = |server: &ApiServer| {
        let gateway = server.get("Gateway", "shop/edge")?;
        let listener = &gateway["status"]["listeners"][1];
        (listener["name"] == "https" && listener["conditions"].to_string().contains("ResolvedRefs")).then_some(())
    };
    stage.server.wait_for("the listener is judged", PATIENCE, look).await;
    becomes(&stage, "Gateway", "shop/edge", PROGRAMMED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_of_the_crds() {
    for (bundle, expected) in [
        (Bundle::V1_5, "Accepted=True/Accepted SupportedVersion=True/SupportedVersion"),
        (Bundle::V1_7, "Accepted=True/Accepted SupportedVersion=True/SupportedVersion"),
    ] {
        let stage = begin(bundle).await;
        let _controller = started(&stage).await;
        becomes(&stage, "GatewayClass", "isthmus", expected).await;
        becomes(&stage, "HTTPRoute", "shop/across", ROUTE).await;
        becomes(&stage, "Gateway", "shop/edge", PROGRAMMED).await;
    }
    let stage = Stage::new(Bundle::V1_4).await;
    stage.server.apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "isthmus"},
        "spec": {"controllerName": "isthmus.dev/gateway-controller"},
    }));
    let _controller = started(&stage).await;
    let look = |_: &ApiServer| stage.conditions("GatewayClass", "isthmus").contains("SupportedVersion=False/").then_some(());
    stage.server.wait_for("a release that is too old is told", PATIENCE, look).await;
}

/// Takes ten seconds, since that is how often the CRDs are looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crds_that_come_later() {
    let stage = begin(Bundle::V1_7).await;
    for name in ["grpcroutes", "listenersets", "referencegrants"] {
        stage.server.uninstall(&format!("{name}.gateway.networking.k8s.io"));
    }
    let _controller = started(&stage).await;
    becomes(&stage, "HTTPRoute", "shop/neighbour", ROUTE).await;
    becomes(&stage, "Gateway", "shop/edge", PROGRAMMED).await;
    logged(&stage.server, &["missing", "grpcroutes.gateway.networking.k8s.io", "listenersets.gateway.networking.k8s.io"]).await;
    stage.server.install(Bundle::V1_7);
    // One listener serves a hostname to routes of one kind only.
    stage.server.patch("HTTPRoute", "bank/teller", json!({"spec": {"hostnames": ["teller.example.com"]}}));
    stage.server.apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": {"name": "later", "namespace": "bank"},
        "spec": {"parentRefs": [{"name": "vault"}], "hostnames": ["later.example.com"], "rules": [
            {"backendRefs": [{"name": "teller", "port": 80}]},
        ]},
    }));
    becomes(&stage, "GRPCRoute", "bank/later", ROUTE).await;
}
