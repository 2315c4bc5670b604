//! Workloads with sidecars: who may call whom, probes, and what a strict client loses while things change.

use std::sync::Arc;
use std::time::Duration;

use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::fault::{Outcome, ensure};
use crate::load::Load;
use crate::manifests::{HASTY, echo, served};
use crate::outage::scale;
use crate::rollouts::{CONTROLLER, CONTROLLER_PODS};
use crate::space::{SLOW, Space};
use crate::stage::{Stage, eventually};
use crate::traffic::Traffic;

/// Requests that a strict client sends while pods are replaced, from the outside and from a pod each.
const REQUESTS: usize = 20_000;
/// In a second.
const RATE: usize = 400;
/// How long the controller is away, and for how long certificates that live for ten seconds are renewed.
const AWAY: Duration = Duration::from_secs(30);
const RENEWING: Duration = Duration::from_secs(45);
/// The same where they are asked for by name.
const LONG_AWAY: Duration = Duration::from_secs(120);
const LONG_RENEWING: Duration = Duration::from_secs(300);

/// Pods of a namespace with this label get sidecars.
fn injected() -> Value {
    json!({ "isthmus.dev/inject": "enabled" })
}

/// [`echo`] whose pods have annotations.
fn annotated(name: &str, replicas: u32, annotations: &str) -> String {
    let labels = format!("    metadata: {{ labels: {{ app: {name} }} }}");
    echo(name, replicas)
        .replace(&labels, &format!("    metadata: {{ labels: {{ app: {name} }}, annotations: {{ {annotations} }} }}"))
}

const STRICT: &str = "isthmus.dev/mtls: strict";

async fn strict_echo(space: &Space) -> Outcome {
    space.apply(&annotated("echo", 2, STRICT)).await?;
    space.rolled_out("echo", "app=echo").await
}

/// A strict workload takes calls of the mesh and none from outside; its kubelet's probes pass, and a Job with a sidecar completes.
pub(crate) async fn a_strict_workload_takes_calls_of_the_mesh_only(stage: Arc<Stage>) -> Outcome {
    let (inside, outside) = (stage.space(injected()).await?, stage.space(json!({})).await?);
    strict_echo(&inside).await?;
    has_sidecars(&inside, "app=echo").await?;
    outside.apply(&echo("plain", 1)).await?;
    outside.rolled_out("plain", "app=plain").await?;
    let url = format!("http://echo.{}/", inside.name);
    stage.say(format!("meshed to strict: {}", Load::new(&url).run(&inside, "meshed").await?));
    // The server speaks HTTP/1.1 only, and nobody translates where no Service is called.
    let to_pod = format!("http://{}:3000/", pod_ip(&inside, "app=echo").await?);
    let load = Load { http1: true, ..Load::new(&to_pod) };
    stage.say(format!("meshed to the address of a strict pod: {}", load.run(&inside, "to-pod").await?));
    for (name, url) in [("stranger", &url), ("stranger-to-pod", &to_pod)] {
        let refused = Load { status: 0, requests: 40, rate: 40, ..Load::new(url) };
        refused.run(&outside, name).await?;
    }
    stage.say("unmeshed to strict, by Service and by pod: every connection was refused");
    let plain = format!("http://plain.{}/", outside.name);
    stage.say(format!("meshed to unmeshed: {}", Load::new(plain).run(&inside, "outgoing").await?));
    inside.apply(&annotated("echo", 2, "isthmus.dev/mtls: permissive")).await?;
    inside.rolled_out("echo", "app=echo").await?;
    let load = Load { http1: true, ..Load::new(&url) };
    stage.say(format!("unmeshed to permissive: {}", load.run(&outside, "welcome").await?));
    stage.say(format!("meshed to permissive: {}", Load::new(&url).run(&inside, "meshed-again").await?));
    Ok(())
}

/// Probes ask the application and not the sidecar: where nothing listens the pod is not ready, and an HTTP probe sees the application's status.
pub(crate) async fn probes_ask_the_application(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(injected()).await?;
    let probes = [
        ("asks-http", "httpGet: { path: /ok, port: 3000 }", true),
        ("asks-tcp", "tcpSocket: { port: 3000 }", true),
        ("asks-tcp-down", "tcpSocket: { port: 3999 }", false),
        ("asks-http-down", "httpGet: { path: /ok, port: 3999 }", false),
    ];
    for (name, probe, _) in probes {
        let workload = annotated(name, 1, STRICT).replace("tcpSocket: { port: 3000 }", probe);
        space.apply(&workload).await?;
    }
    for (name, _, _) in probes.iter().filter(|(_, _, is_up)| *is_up) {
        space.rolled_out(name, &format!("app={name}")).await?;
    }
    for (name, _, _) in probes.iter().filter(|(_, _, is_up)| !is_up) {
        let labels = format!("app={name}");
        eventually(SLOW, "the application runs", || async {
            let pods = space.list("Pod", &labels).await?;
            let running = pods.iter().all(|pod| pod.data["status"]["containerStatuses"][0]["state"]["running"].is_object());
            ensure!(!pods.is_empty() && running, "{name} does not run");
            Ok(())
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let ready = |pod: &DynamicObject| pod.data["status"]["containerStatuses"][0]["ready"] == json!(true);
        let pods = space.list("Pod", &labels).await?;
        ensure!(!pods.is_empty() && !pods.iter().any(ready), "{name} is ready, and nothing listens on the port of its probe");
    }
    Ok(())
}

/// A meshed, strict Deployment is replaced under load through a Gateway, which is a client of the mesh, and from another meshed pod.
pub(crate) async fn a_rollout_of_a_meshed_workload_loses_nothing(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(injected()).await?;
    let traffic = Traffic::start(served(&space, 1, "").await?, "/", RATE);
    let load = Load { requests: REQUESTS, rate: RATE, ..Load::new("http://echo/") };
    load.start(&space, "load").await?;
    load.begun(&space, "load").await?;
    strict_echo(&space).await?;
    for _ in 0..2 {
        let took = space.roll("echo", "app=echo").await?;
        stage.say(format!("rolled in {:.1} s", took.as_secs_f32()));
    }
    let said = load.finish(&space, "load").await?;
    traffic.until(REQUESTS).await;
    stage.say(format!("from the outside: {}", traffic.finish().await?));
    stage.say(format!("inside: {said}"));
    Ok(())
}

/// The controller is away: what was served is served on, from the outside and between pods.
pub(crate) async fn the_controller_is_away(stage: Arc<Stage>) -> Outcome {
    away(stage, AWAY).await
}

/// The same for two minutes.
pub(crate) async fn the_controller_is_away_for_long(stage: Arc<Stage>) -> Outcome {
    away(stage, LONG_AWAY).await
}

async fn away(stage: Arc<Stage>, time: Duration) -> Outcome {
    let space = stage.space(injected()).await?;
    let address = served(&space, 1, HASTY).await?;
    strict_echo(&space).await?;
    let system = stage.system();
    let before = system.get("Deployment", CONTROLLER).await?.data["spec"]["replicas"].as_i64().unwrap_or(2);
    let undo = system.clone();
    stage.afterwards(move || async move { scale(&undo, before).await });
    let traffic = Traffic::start(address, "/", 150);
    let load = Load { requests: time.as_secs() as usize * 150, rate: 150, ..Load::new("http://echo/") };
    load.start(&space, "load").await?;
    load.begun(&space, "load").await?;
    scale(&system, 0).await?;
    stage.say(format!("inside: {}", load.finish(&space, "load").await?));
    stage.say(format!("from the outside: {}", traffic.finish().await?));
    scale(&system, before).await?;
    stage.say(format!("with the controller again: {}", Load::new("http://echo/").run(&space, "later").await?));
    Ok(())
}

/// Certificates live for ten seconds and are renewed under load.
pub(crate) async fn certificates_are_renewed(stage: Arc<Stage>) -> Outcome {
    renewing(stage, RENEWING).await
}

/// The same for five minutes.
pub(crate) async fn certificates_are_renewed_for_long(stage: Arc<Stage>) -> Outcome {
    renewing(stage, LONG_RENEWING).await
}

async fn renewing(stage: Arc<Stage>, time: Duration) -> Outcome {
    let system = stage.system();
    let arguments = system.get("Deployment", CONTROLLER).await?.data["spec"]["template"]["spec"]["containers"][0]["args"].clone();
    let undo = (system.clone(), arguments.clone());
    stage.afterwards(move || async move { set_arguments(&undo.0, undo.1).await });
    const LIFETIME: &str = "--mesh-certificate-lifetime=";
    let mut brief = arguments.as_array().cloned().unwrap_or_default();
    brief.retain(|argument| argument.as_str().is_none_or(|argument| !argument.starts_with(LIFETIME)));
    brief.push(json!(format!("{LIFETIME}10s")));
    set_arguments(&system, Value::Array(brief)).await?;
    let space = stage.space(injected()).await?;
    let address = served(&space, 1, HASTY).await?;
    strict_echo(&space).await?;
    let traffic = Traffic::start(address, "/", 150);
    let load = Load { requests: time.as_secs() as usize * 150, rate: 150, ..Load::new("http://echo/") };
    stage.say(format!("inside: {}", load.run(&space, "load").await?));
    stage.say(format!("from the outside: {}", traffic.finish().await?));
    Ok(())
}

async fn set_arguments(system: &Space, arguments: Value) -> Outcome {
    let operation = json!([{ "op": "add", "path": "/spec/template/spec/containers/0/args", "value": arguments }]);
    system.patch("Deployment", CONTROLLER, operation).await?;
    system.disown("Deployment", CONTROLLER).await?;
    system.rolled_out(CONTROLLER, CONTROLLER_PODS).await
}

/// Each pod has a sidecar that has started before the application.
async fn has_sidecars(space: &Space, labels: &str) -> Outcome {
    for pod in space.list("Pod", labels).await? {
        let sidecars = pod.data["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
        let is_sidecar = |container: &&Value| container["name"] == "isthmus-proxy" && container["restartPolicy"] == "Always";
        ensure!(sidecars.iter().find(is_sidecar).is_some(), "a pod without a sidecar: {sidecars:?}");
    }
    Ok(())
}

async fn pod_ip(space: &Space, labels: &str) -> Outcome<String> {
    let pods = space.list("Pod", labels).await?;
    let address = pods.first().and_then(|pod| pod.data["status"]["podIP"].as_str()).map(str::to_owned);
    address.ok_or_else(|| crate::fault::Fault::said(format!("no pod with {labels}")))
}
