//! Routes that are not HTTP, and policies for backends: what is made, what is written, and clusters that do not have the kinds.

use isthmus_tests::api_server::{ApiServer, Bundle, Select, Verb};
use serde_json::{Value, json};

use super::stage::{Controller, Stage};
use super::{PATIENCE, log, scenario};

const START: &str = include_str!("streams.yaml");
const PROGRAMMED: &str = "Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs";
const ROUTE: &str = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs isthmus.dev/Programmed=True/Programmed";

async fn started(stage: &Stage) -> Controller {
    log::collect();
    scenario::start(&stage.server);
    stage.controller("a", "one").await
}

async fn becomes(stage: &Stage, kind: &str, name: &str, expected: &str) {
    let what = format!("{kind} {name}: {expected}");
    stage.server.wait_for(&what, PATIENCE, |_| (stage.conditions(kind, name) == expected).then_some(())).await;
}

/// `53/TCP 53/UDP`, in the order of the Service.
fn ports(server: &ApiServer, service: &str) -> String {
    let service = server.get("Service", service).unwrap_or_default();
    let text = |port: &Value| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or_default());
    service["spec"]["ports"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" ")
}

async fn has_ports(stage: &Stage, expected: &str) {
    let look = |server: &ApiServer| (ports(server, "shop/isthmus-streams") == expected).then_some(());
    stage.server.wait_for(&format!("the Service has {expected}"), PATIENCE, look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_get_their_infrastructure_and_statuses() {
    let stage = Stage::new(Bundle::V1_7).await;
    stage.server.apply_yaml(START);
    let _controller = started(&stage).await;
    for (kind, name, expected) in [
        ("Gateway", "shop/streams", PROGRAMMED),
        ("TCPRoute", "shop/db", ROUTE),
        ("UDPRoute", "shop/dns", ROUTE),
        ("TLSRoute", "shop/vault", ROUTE),
        // And what was there before is served as before.
        ("Gateway", "shop/edge", PROGRAMMED),
    ] {
        becomes(&stage, kind, name, expected).await;
    }
    assert_eq!(ports(&stage.server, "shop/isthmus-streams"), "53/TCP 53/UDP 443/TCP 5432/TCP");
    let snapshot = serde_json::to_string(&*stage.snapshot("shop", "streams").unwrap()).unwrap();
    for endpoint in ["10.244.2.1:5432", "10.244.2.2:5353"] {
        assert!(snapshot.contains(endpoint), "{endpoint}: {snapshot}");
    }

    // What leads nowhere says so, and says so no longer when it does.
    stage.server.patch("UDPRoute", "shop/dns", json!({"spec": {"rules": [{"backendRefs": [{"name": "gone", "port": 53}]}]}}));
    becomes(&stage, "UDPRoute", "shop/dns", &ROUTE.replace("True/ResolvedRefs", "False/BackendNotFound")).await;
    stage.server.patch("UDPRoute", "shop/dns", json!({"spec": {"rules": [{"backendRefs": [{"name": "dns", "port": 53}]}]}}));
    becomes(&stage, "UDPRoute", "shop/dns", ROUTE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_of_one_number_come_and_go_alone() {
    let stage = Stage::new(Bundle::V1_7).await;
    stage.server.apply_yaml(START);
    let _controller = started(&stage).await;
    let listen = |listeners: Value| stage.server.patch("Gateway", "shop/streams", json!({"spec": {"listeners": listeners}}));
    let (tcp, udp) =
        (json!({"name": "tcp", "port": 53, "protocol": "TCP"}), json!({"name": "udp", "port": 53, "protocol": "UDP"}));
    has_ports(&stage, "53/TCP 53/UDP 443/TCP 5432/TCP").await;
    for (listeners, expected) in [
        (json!([tcp]), "53/TCP"),
        (json!([tcp, udp]), "53/TCP 53/UDP"),
        (json!([udp]), "53/UDP"),
        (json!([udp, tcp]), "53/TCP 53/UDP"),
    ] {
        listen(listeners);
        has_ports(&stage, expected).await;
    }
    // Somebody else's port of the other protocol stays somebody else's.
    listen(json!([tcp]));
    has_ports(&stage, "53/TCP").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_tls_policy_has_a_status_beside_those_of_others() {
    let stage = Stage::new(Bundle::V1_7).await;
    let server = &stage.server;
    let _controller = started(&stage).await;
    let authority = || rcgen::generate_simple_self_signed(["front.example.com".to_owned()]).unwrap().cert.pem();
    let bundle = |pem: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority", "namespace": "shop"}, "data": {"ca.crt": pem}});
    server.apply(bundle(&authority()));
    server.apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "nobodys", "namespace": "shop"}}));
    server.apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": {"name": "front", "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "front"}],
            "validation": {
                "hostname": "front.example.com",
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "authority"}],
            },
        },
    }));
    let accepted = |server: &ApiServer, generation: i64| {
        let policy = server.get("BackendTLSPolicy", "shop/front")?;
        let ancestors = policy["status"]["ancestors"].as_array()?.clone();
        let ours = ancestors.iter().find(|one| one["controllerName"] == "isthmus.dev/gateway-controller")?;
        let conditions = ours["conditions"].as_array()?;
        let holds = |kind: &str| {
            conditions.iter().any(|one| one["type"] == kind && one["status"] == "True" && one["observedGeneration"] == generation)
        };
        (ours["ancestorRef"]["name"] == "edge" && holds("Accepted") && holds("ResolvedRefs")).then_some(ancestors)
    };
    let ancestors = server.wait_for("the policy is accepted", PATIENCE, |server| accepted(server, 1)).await;
    assert_eq!(ancestors.len(), 1, "one for each Gateway that sends something there: {ancestors:?}");

    // Another controller's entry survives edits of ours.
    let foreign = json!({
        "controllerName": "example.com/other", "ancestorRef": {"name": "theirs", "namespace": "bank"},
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "theirs", "observedGeneration": 1,
            "lastTransitionTime": "2026-11-20T09:00:00Z",
        }],
    });
    let mut both = ancestors;
    both.push(foreign.clone());
    server.patch_status("BackendTLSPolicy", "shop/front", json!({"status": {"ancestors": both}})).unwrap();
    server.patch("BackendTLSPolicy", "shop/front", json!({"spec": {"validation": {"hostname": "second.example.com"}}}));
    let ancestors = server.wait_for("the edit is judged", PATIENCE, |server| accepted(server, 2)).await;
    assert!(ancestors.contains(&foreign) && ancestors.len() == 2, "{ancestors:?}");

    // Only what it names is read of the ConfigMaps, and an edit of that is served.
    let reads = |name: &str| server.calls(&Select::any().client("a").kind("ConfigMap").verbs(&[Verb::Get]).name(name)).len();
    assert!(reads("shop/authority") > 0 && reads("shop/nobodys") == 0);
    let renewed = authority();
    server.apply(bundle(&renewed));
    let served = |_: &ApiServer| {
        let snapshot = stage.snapshot("shop", "edge")?;
        snapshot.bundles.values().any(|bundle| bundle.certificates.trim() == renewed.trim()).then_some(())
    };
    server.wait_for("the new authority is served", PATIENCE, served).await;

    // Without the ConfigMap the policy says so.
    server.delete("ConfigMap", "shop/authority");
    let refused = |server: &ApiServer| {
        let ancestors = server.get("BackendTLSPolicy", "shop/front")?["status"]["ancestors"].to_string();
        (ancestors.contains("NoValidCACertificate") && ancestors.contains("InvalidCACertificateRef")).then_some(())
    };
    server.wait_for("the policy misses its ConfigMap", PATIENCE, refused).await;

    // A policy that concerns nobody of ours any more loses our entry and no other.
    server.patch(
        "BackendTLSPolicy",
        "shop/front",
        json!({"spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "elsewhere"}]}}),
    );
    let left = |server: &ApiServer| {
        let ancestors = server.get("BackendTLSPolicy", "shop/front")?["status"]["ancestors"].clone();
        (ancestors == json!([foreign])).then_some(())
    };
    server.wait_for("our entry goes", PATIENCE, left).await;
}

/// Takes ten seconds, since that is how often the CRDs are looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_without_the_kinds_serves_the_rest() {
    let stage = Stage::new(Bundle::V1_5).await;
    let group = "gateway.networking.k8s.io";
    // As the experimental channel of that release has it.
    stage.server.install_crd(group, "udproutes", "UDPRoute", true, &["v1alpha2"], true);
    let annotations =
        json!({"gateway.networking.k8s.io/bundle-version": "v1.5.1", "gateway.networking.k8s.io/channel": "experimental"});
    let name = format!("udproutes.{group}");
    stage.server.patch("CustomResourceDefinition", &name, json!({"metadata": {"annotations": annotations}}));
    let _controller = started(&stage).await;
    becomes(&stage, "Gateway", "shop/edge", PROGRAMMED).await;
    becomes(&stage, "HTTPRoute", "shop/neighbour", ROUTE).await;
    for words in [
        ["tcproutes.gateway.networking.k8s.io (the Gateway API has it from v1.6 on)"],
        ["udproutes.gateway.networking.k8s.io (served as v1alpha2 only; the Gateway API has it from v1.6 on)"],
    ] {
        let look = |_: &ApiServer| (!log::lines(&words).is_empty()).then_some(());
        stage.server.wait_for(&format!("a log line with {words:?}"), PATIENCE, look).await;
    }
    let asked = stage.server.calls(&Select::any().client("a").kind("UDPRoute").verbs(&[Verb::List, Verb::Watch]));
    assert_eq!(asked, [], "nothing is asked for that is not there");

    stage.server.install(Bundle::V1_7);
    stage.server.apply_yaml(START);
    becomes(&stage, "TCPRoute", "shop/db", ROUTE).await;
    becomes(&stage, "UDPRoute", "shop/dns", ROUTE).await;
}
