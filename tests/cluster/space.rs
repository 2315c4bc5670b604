//! A namespace and what is done in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

use crate::fault::{Fault, Outcome};
use crate::stage::Stage;

/// How long the cluster may take for what has no limit of its own: a pod's start, an address.
pub(crate) const SLOW: Duration = Duration::from_secs(90);

/// Who owns the fields that tests write.
const MANAGER: &str = "isthmus-tests";

/// A namespace.
#[derive(Clone)]
pub(crate) struct Space {
    pub(crate) stage: Arc<Stage>,
    pub(crate) name: String,
}

impl Space {
    /// One that exists.
    pub(crate) fn new(stage: &Arc<Stage>, name: String) -> Self {
        Self { stage: Arc::clone(stage), name }
    }

    /// Objects of a kind.
    pub(crate) fn api(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.stage.client.clone(), &self.name, &resource(kind))
    }

    /// Applies the documents of a YAML text, one after the other.
    pub(crate) async fn apply(&self, yaml: &str) -> Outcome {
        for document in yaml.split("\n---\n").filter(|document| !document.trim().is_empty()) {
            let value: Value = serde_saphyr::from_str(document).map_err(|error| Fault::said(format!("{error}\n{document}")))?;
            self.apply_value(&value).await?;
        }
        Ok(())
    }

    /// Applies an object; returns when the API server has accepted it.
    pub(crate) async fn apply_value(&self, value: &Value) -> Outcome<DynamicObject> {
        let (kind, name) = (text(&value["kind"]), text(&value["metadata"]["name"]));
        let params = PatchParams::apply(MANAGER).force();
        self.api(kind)
            .patch(name, &params, &Patch::Apply(value))
            .await
            .map_err(|error| Fault::said(format!("applying {kind} {name}: {error}")))
    }

    /// Merges into an object.
    pub(crate) async fn merge(&self, kind: &str, name: &str, patch: &Value) -> Outcome<DynamicObject> {
        Ok(self.api(kind).patch(name, &as_us(), &Patch::Merge(patch)).await?)
    }

    /// Applies a JSON patch to an object.
    pub(crate) async fn patch(&self, kind: &str, name: &str, operations: Value) -> Outcome<DynamicObject> {
        let patch = Patch::Json::<()>(serde_json::from_value(operations)?);
        Ok(self.api(kind).patch(name, &as_us(), &patch).await?)
    }

    /// Gives up the ownership of fields of an object, so that whoever installed it can change them: Helm applies on the server.
    pub(crate) async fn disown(&self, kind: &str, name: &str) -> Outcome {
        let fields = self.get(kind, name).await?.metadata.managed_fields.unwrap_or_default();
        let others: Vec<_> = fields.into_iter().filter(|entry| entry.manager.as_deref() != Some(MANAGER)).collect();
        self.patch(kind, name, json!([{ "op": "replace", "path": "/metadata/managedFields", "value": others }])).await?;
        Ok(())
    }

    /// An object as it is.
    pub(crate) async fn get(&self, kind: &str, name: &str) -> Outcome<DynamicObject> {
        Ok(self.api(kind).get(name).await?)
    }

    /// Those with a label.
    pub(crate) async fn list(&self, kind: &str, labels: &str) -> Outcome<Vec<DynamicObject>> {
        Ok(self.api(kind).list(&ListParams::default().labels(labels)).await?.items)
    }

    /// Deletes an object; returns when the API server has accepted that.
    pub(crate) async fn delete(&self, kind: &str, name: &str) -> Outcome {
        self.api(kind).delete(name, &DeleteParams::background()).await?;
        Ok(())
    }

    /// Waits until an object is as it should be; returns how long that took.
    pub(crate) async fn until(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        patience: Duration,
        holds: impl Fn(&DynamicObject) -> bool + Send,
    ) -> Outcome<Duration> {
        let start = Instant::now();
        let met = await_condition(self.api(kind), name, |object: Option<&DynamicObject>| object.is_some_and(&holds));
        match tokio::time::timeout(patience, met).await {
            Ok(outcome) => {
                outcome.map_err(|error| Fault::said(error.to_string()))?;
                Ok(start.elapsed())
            }
            Err(_) => {
                let now = self.get(kind, name).await.map(|object| object.data["status"].to_string());
                let now = now.unwrap_or_else(|fault| fault.to_string());
                Err(Fault::said(format!("{kind} {name}: not within {} s: {what}; its status: {now}", patience.as_secs_f32())))
            }
        }
    }

    /// Waits until an object is gone.
    pub(crate) async fn until_gone(&self, kind: &str, name: &str, patience: Duration) -> Outcome<Duration> {
        let start = Instant::now();
        let gone = await_condition(self.api(kind), name, |object: Option<&DynamicObject>| object.is_none());
        match tokio::time::timeout(patience, gone).await {
            Ok(outcome) => outcome.map(|_| start.elapsed()).map_err(|error| Fault::said(error.to_string())),
            Err(_) => Err(Fault::said(format!("{kind} {name} is still there after {} s", patience.as_secs_f32()))),
        }
    }

    /// Restarts a Deployment's pods as `kubectl rollout restart` does, and waits until the last old one is gone.
    pub(crate) async fn roll(&self, deployment: &str, labels: &str) -> Outcome<Duration> {
        let start = Instant::now();
        let now = jiff::Timestamp::now().to_string();
        let annotation = json!({ "kubectl.kubernetes.io/restartedAt": now });
        let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotation } } } });
        self.merge("Deployment", deployment, &patch).await?;
        self.rolled_out(deployment, labels).await?;
        Ok(start.elapsed())
    }

    /// Waits until a Deployment has only available pods of its newest template, and no other pod is left.
    pub(crate) async fn rolled_out(&self, deployment: &str, labels: &str) -> Outcome {
        self.until("Deployment", deployment, "rolled out", SLOW, is_rolled_out).await?;
        let replicas = self.get("Deployment", deployment).await?.data["spec"]["replicas"].as_u64().unwrap_or(1);
        crate::stage::eventually(SLOW, "old pods go", || async {
            let pods = self.list("Pod", labels).await?;
            crate::fault::ensure!(pods.len() as u64 == replicas, "{} pods, not {replicas}", pods.len());
            Ok(())
        })
        .await
    }
}

fn as_us() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

fn is_rolled_out(deployment: &DynamicObject) -> bool {
    let (spec, status) = (&deployment.data["spec"], &deployment.data["status"]);
    let count = |name: &str| status[name].as_i64().unwrap_or_default();
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    count("observedGeneration") >= deployment.metadata.generation.unwrap_or_default()
        && [count("replicas"), count("updatedReplicas"), count("availableReplicas")] == [wanted; 3]
}

/// Whether an object is not there.
pub(crate) fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Where the API server has a kind.
pub(crate) fn resource(kind: &str) -> ApiResource {
    let (group, version) = match kind {
        "Gateway" | "GatewayClass" | "HTTPRoute" | "TCPRoute" | "UDPRoute" | "ListenerSet" | "ReferenceGrant"
        | "BackendTLSPolicy" => ("gateway.networking.k8s.io", "v1"),
        "GatewayParameters" => ("isthmus.dev", "v1alpha1"),
        "XMesh" => ("gateway.networking.x-k8s.io", "v1alpha1"),
        "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1"),
        "Deployment" => ("apps", "v1"),
        "Job" => ("batch", "v1"),
        _ => ("", "v1"),
    };
    let lower = kind.to_lowercase();
    let plural = match kind {
        "GatewayClass" => "gatewayclasses".to_owned(),
        "XMesh" => "xmeshes".to_owned(),
        "GatewayParameters" | "Endpoints" => lower,
        "BackendTLSPolicy" => "backendtlspolicies".to_owned(),
        _ => format!("{lower}s"),
    };
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource { group: group.to_owned(), version: version.to_owned(), api_version, kind: kind.to_owned(), plural }
}

/// A value's text; empty if it is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
