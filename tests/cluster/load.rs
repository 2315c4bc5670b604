//! Traffic from inside of a pod: a Job whose container is the program `load` of `conformance/echo-advanced`, strict clients of every kind.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, LogParams};
use serde_json::{Value, json};

use crate::fault::{Fault, Outcome, ensure};
use crate::space::{SLOW, Space, text};

/// The image of upstream's name that this project builds.
const IMAGE: &str = "registry.k8s.io/gateway-api/conformance/echo-advanced:v0.1.0";

/// What a Job is to send.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) url: String,
    pub(crate) requests: usize,
    /// In a second.
    pub(crate) rate: usize,
    /// The expected status; 0: no connection may be answered.
    pub(crate) status: u16,
    /// Whether to leave out HTTP/2.
    pub(crate) http1: bool,
}

impl Load {
    /// A few requests that all have to be answered with 200.
    pub(crate) fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), requests: 400, rate: 200, status: 200, http1: false }
    }

    /// Runs it in a namespace to its end: the Job has to complete, sidecar or not, and nothing may be lost. Returns what was sent, in words.
    pub(crate) async fn run(&self, space: &Space, name: &str) -> Outcome<String> {
        self.start(space, name).await?;
        self.finish(space, name).await
    }

    /// Begins it.
    pub(crate) async fn start(&self, space: &Space, name: &str) -> Outcome {
        let arguments = [
            format!("--requests={}", self.requests),
            format!("--rate={}", self.rate),
            format!("--status={}", self.status),
            format!("--http1={}", self.http1),
            "--timeout=10s".to_owned(),
            self.url.clone(),
        ];
        let container = json!({
            "name": "load", "image": IMAGE, "command": ["/usr/local/bin/load"], "args": arguments,
            "resources": { "requests": { "cpu": "5m", "memory": "16Mi" } },
            "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
        });
        let pod = json!({
            "restartPolicy": "Never", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 2,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [container],
        });
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "backoffLimit": 0, "template": { "metadata": { "labels": { "load": name } }, "spec": pod } },
        });
        space.apply_value(&job).await.map(drop)
    }

    /// Waits until its container has begun.
    pub(crate) async fn begun(&self, space: &Space, name: &str) -> Outcome {
        crate::stage::eventually(SLOW, "the load begins", || async {
            let pods = space.list("Pod", &format!("load={name}")).await?;
            let state = |pod: &DynamicObject| pod.data["status"]["containerStatuses"][0]["state"].clone();
            let begun = pods.iter().any(|pod| state(pod)["running"].is_object() || state(pod)["terminated"].is_object());
            ensure!(begun, "{:?}", pods.iter().map(state).collect::<Vec<_>>());
            Ok(())
        })
        .await
    }

    /// Waits for its end.
    pub(crate) async fn finish(&self, space: &Space, name: &str) -> Outcome<String> {
        let patience = SLOW + Duration::from_secs_f64(self.requests as f64 / self.rate as f64);
        let has_ended =
            |job: &DynamicObject| ["succeeded", "failed"].iter().any(|end| job.data["status"][*end].as_i64() == Some(1));
        let ended = space.until("Job", name, "it ends", patience, has_ended).await;
        let log = log(space, name).await?;
        ended.map_err(|fault| Fault::said(format!("{fault}\n       {log}")))?;
        let job = space.get("Job", name).await?;
        ensure!(
            job.data["status"]["succeeded"].as_i64() == Some(1),
            "{name} from {}: something was lost\n       {log}",
            space.name
        );
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let sum = |field: &str| lines.iter().filter_map(|line| line[field].as_u64()).sum::<u64>();
        ensure!(sum("sent") == self.requests as u64, "{} requests were sent, not {}: {log}", sum("sent"), self.requests);
        let slowest = lines.iter().filter_map(|line| line["slowest_ms"].as_f64()).fold(0.0, f64::max);
        let each: Vec<String> = lines.iter().map(|line| format!("{} {}", line["sent"], text(&line["client"]))).collect();
        let (sent, lost) = (sum("sent"), sum("lost"));
        Ok(format!("{sent} requests from a pod ({}), {lost} lost, the slowest took {slowest:.0} ms", each.join(", ")))
    }
}

async fn log(space: &Space, job: &str) -> Outcome<String> {
    let pods = Api::<Pod>::namespaced(space.stage.client.clone(), &space.name);
    let found = pods.list(&ListParams::default().labels(&format!("load={job}"))).await?;
    let mut all = String::new();
    for pod in found {
        let params = LogParams { container: Some("load".to_owned()), ..LogParams::default() };
        all.push_str(&pods.logs(&pod.name_any(), &params).await.unwrap_or_default());
    }
    Ok(all)
}
