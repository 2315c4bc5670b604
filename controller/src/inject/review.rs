//! AdmissionReviews: what the API server asks, and what it is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isthmus_inject::{KubernetesVersion, Outcome, enabled_namespace, inject, patch};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::peers::Reviews;
use crate::authority::Material;
use crate::metrics::{Injection, Metrics};

/// Bytes of a review: two objects as large as the API server takes them, and some more.
const LARGEST: usize = 4 << 20;
/// Reviews that are read at a time, which bounds the memory that anybody who can reach the port can take.
const AT_A_TIME: usize = 32;
/// How long the API server waits for an answer (the chart's `timeoutSeconds`): after that nobody wants it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a body may take from when it is read. The API server sends all of it at once.
pub(super) const BODY: Duration = Duration::from_secs(2);

/// Answers reviews.
pub(super) struct Webhook {
    sidecar: isthmus_inject::Settings,
    material: watch::Receiver<Option<Arc<Material>>>,
    kubernetes: watch::Receiver<Option<KubernetesVersion>>,
    metrics: Arc<Metrics>,
    room: Semaphore,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: GroupKind,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    #[serde(default)]
    object: Value,
}

#[derive(Debug, Deserialize)]
struct GroupKind {
    #[serde(default)]
    group: String,
    kind: String,
}

/// What is not a review that we can answer.
#[derive(Debug, thiserror::Error)]
enum BadReview {
    #[error("not an AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    #[error("an AdmissionReview of {0}, and only admission.k8s.io/v1 is answered")]
    Version(String),
}

impl Webhook {
    pub(super) fn new(
        sidecar: isthmus_inject::Settings,
        material: watch::Receiver<Option<Arc<Material>>>,
        kubernetes: watch::Receiver<Option<KubernetesVersion>>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self { sidecar, material, kubernetes, metrics, room: Semaphore::new(AT_A_TIME) })
    }

    pub(super) fn router(self: Arc<Self>) -> Router {
        Router::new().route("/inject", post(answer)).with_state(self)
    }

    /// The answer to the review in `body`.
    fn review(&self, body: &[u8]) -> Result<Value, BadReview> {
        let Review { api_version, request } = serde_json::from_slice(body)?;
        if api_version != "admission.k8s.io/v1" {
            return Err(BadReview::Version(api_version));
        }
        let mut response = json!({ "uid": request.uid, "allowed": true });
        if request.is_a_new_pod() {
            let result = match self.inject(&request.object) {
                Outcome::Patched(pod) => {
                    response["patchType"] = "JSONPatch".into();
                    response["patch"] = STANDARD.encode(patch(&request.object, &pod).to_string()).into();
                    tracing::debug!(pod = request.name(), "a sidecar was injected");
                    Injection::Injected
                }
                Outcome::Skipped(why) => {
                    tracing::debug!(pod = request.name(), "no sidecar was injected: {why}");
                    Injection::Skipped
                }
                Outcome::Refused(why) => {
                    response["allowed"] = false.into();
                    response["status"] =
                        json!({ "status": "Failure", "code": 422, "reason": "Invalid", "message": why.to_string() });
                    tracing::warn!(pod = request.name(), "a pod that is to have a sidecar was refused: {why}");
                    Injection::Refused
                }
            };
            self.metrics.injection(result);
        }
        Ok(json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }))
    }

    /// The webhook's selectors choose by the namespace, so a pod that it is asked about is in one with the label, or says itself what it wants.
    fn inject(&self, pod: &Value) -> Outcome {
        let ca = self.material.borrow().as_ref().map_or_else(String::new, |material| material.bundle.clone());
        let settings = isthmus_inject::Settings { ca, kubernetes: *self.kubernetes.borrow(), ..self.sidecar.clone() };
        inject(pod, &enabled_namespace(), &settings)
    }
}

impl Request {
    fn is_a_new_pod(&self) -> bool {
        let Self { kind, sub_resource, operation, .. } = self;
        kind.group.is_empty() && kind.kind == "Pod" && sub_resource.is_empty() && operation == "CREATE"
    }

    /// `namespace/name` for the log, or what the name will begin with.
    fn name(&self) -> String {
        let of = |field| self.object.pointer(field).and_then(Value::as_str);
        let name = of("/metadata/name").or_else(|| of("/metadata/generateName")).unwrap_or_default();
        format!("{}/{name}", self.namespace)
    }
}

async fn answer(State(webhook): State<Arc<Webhook>>, Extension(reviews): Extension<Reviews>, body: Body) -> Response {
    let read = async {
        // An address that has its share waits for itself before it waits with the others. Neither is ever closed.
        let _share = reviews.one().await;
        let _permit = webhook.room.acquire().await;
        let body = timeout(BODY, axum::body::to_bytes(body, LARGEST)).await?;
        Ok(body.map_err(|error| error.to_string()).and_then(|body| webhook.review(&body).map_err(|error| error.to_string())))
    };
    match timeout(PATIENCE, read).await.and_then(|read| read) {
        Ok(Ok(review)) => ([(header::CONTENT_TYPE, "application/json")], review.to_string()).into_response(),
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the review did not come in time\n").into_response(),
    }
}
