//! What one test has of the cluster: a client, namespaces that go with it, and a place for what it has measured.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, LogParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::json;

use crate::fault::{Fault, Outcome, ensure};
use crate::space::{self, Space};

/// On every namespace and class of these tests, and whatever else of theirs is in no namespace.
pub(crate) const LABEL: &str = "isthmus.dev/tests";
/// The controller's namespace.
pub(crate) const SYSTEM: &str = "isthmus-system";
/// Namespaces older than this were left by a run that was killed.
const LEFT: Duration = Duration::from_secs(15 * 60);
/// How long a namespace may take to go with everything in it.
const SWEPT: Duration = Duration::from_secs(120);

/// A client with the rights of the kubeconfig.
pub(crate) async fn connect(kubeconfig: &Path) -> Outcome<Client> {
    let read = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    config.read_timeout = Some(Duration::from_secs(300));
    Ok(Client::try_from(config)?)
}

/// Deletes what a run that was killed has left.
pub(crate) async fn clear(client: &Client) -> Outcome {
    let (ours, delete) = (ListParams::default().labels(LABEL), DeleteParams::background());
    let namespaces = Api::<Namespace>::all(client.clone());
    let old = |namespace: &Namespace| {
        let created = namespace.metadata.creation_timestamp.as_ref();
        created.is_some_and(|time| jiff::Timestamp::now().duration_since(time.0).unsigned_abs() > LEFT)
    };
    for namespace in namespaces.list(&ours).await?.items.iter().filter(|namespace| old(namespace)) {
        let _gone = namespaces.delete(&namespace.name_any(), &delete).await;
    }
    Ok(())
}

/// Waits until nothing of this run is left.
pub(crate) async fn swept(client: &Client) -> Outcome {
    let mark = format!("-{}-", std::process::id());
    eventually(SWEPT, "namespaces of this run go", || async {
        let found = Api::<Namespace>::all(client.clone()).list(&ListParams::default().labels(LABEL)).await?;
        let left: Vec<String> = found.iter().map(ResourceExt::name_any).filter(|name| name.contains(&mark)).collect();
        if !left.is_empty() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        ensure!(left.is_empty(), "{}", left.join(", "));
        Ok(())
    })
    .await
}

/// One test's part of the cluster.
pub(crate) struct Stage {
    pub(crate) client: Client,
    name: String,
    namespaces: Mutex<Vec<String>>,
    classes: Mutex<Vec<String>>,
    said: Mutex<Vec<String>>,
    undo: Mutex<Vec<Undo>>,
}

/// Something to do at the end of a test, whatever that is.
type Undo = Box<dyn FnOnce() -> BoxFuture<'static, Outcome> + Send>;

impl Stage {
    /// For the test of this name.
    pub(crate) fn new(client: Client, name: &str) -> Self {
        let name = name.rsplit("::").next().unwrap_or(name).replace('_', "-");
        Self {
            client,
            name,
            namespaces: Mutex::default(),
            classes: Mutex::default(),
            said: Mutex::default(),
            undo: Mutex::default(),
        }
    }

    /// A namespace of its own, with labels besides ours.
    pub(crate) async fn space(self: &Arc<Self>, labels: serde_json::Value) -> Outcome<Space> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let short: String = self.name.chars().take(24).collect();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t-{}-{}-{number}", short.trim_end_matches('-'), std::process::id());
        let mut all = json!({ LABEL: "cluster" });
        if let (Some(all), Some(labels)) = (all.as_object_mut(), labels.as_object()) {
            all.extend(labels.clone());
        }
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": all } });
        lock(&self.namespaces).push(name.clone());
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &serde_json::from_value(body)?).await?;
        Ok(Space::new(self, name))
    }

    /// A GatewayClass of a controller; returns its name.
    pub(crate) async fn class(&self, controller: &str) -> Outcome<String> {
        let name = format!("t-{}-{}", self.name.chars().take(24).collect::<String>(), std::process::id());
        let body = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
            "metadata": { "name": name, "labels": { LABEL: "cluster" } },
            "spec": { "controllerName": controller },
        });
        lock(&self.classes).push(name.clone());
        self.classes_api().create(&PostParams::default(), &serde_json::from_value(body)?).await?;
        Ok(name)
    }

    /// GatewayClasses, which are in no namespace.
    pub(crate) fn classes_api(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &space::resource("GatewayClass"))
    }

    /// The controller's namespace, which does not go with the test.
    pub(crate) fn system(self: &Arc<Self>) -> Space {
        Space::new(self, SYSTEM.to_owned())
    }

    /// Has something stand below the test's row.
    pub(crate) fn say(&self, words: impl Into<String>) {
        lock(&self.said).push(words.into());
    }

    /// What [`Stage::say`] was given.
    pub(crate) fn said(&self) -> Vec<String> {
        lock(&self.said).clone()
    }

    /// Has something be done when the test has ended, however it ends.
    pub(crate) fn afterwards<F>(&self, undo: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        lock(&self.undo).push(Box::new(|| Box::pin(undo())));
    }

    /// Undoes what is to be undone, and deletes what it made, without waiting for the end of it.
    pub(crate) async fn end(&self) -> Outcome {
        let delete = DeleteParams::background();
        let undo = std::mem::take(&mut *lock(&self.undo));
        let (namespaces, classes) = (lock(&self.namespaces).clone(), lock(&self.classes).clone());
        let mut faults = Vec::new();
        for undo in undo.into_iter().rev() {
            faults.extend(undo().await.err().map(|fault| fault.to_string()));
        }
        for name in &namespaces {
            let deleted = Api::<Namespace>::all(self.client.clone()).delete(name, &delete).await;
            faults
                .extend(deleted.err().filter(|error| !space::is_absent(error)).map(|error| format!("namespace {name}: {error}")));
        }
        for name in &classes {
            let deleted = self.classes_api().delete(name, &delete).await;
            faults.extend(deleted.err().filter(|error| !space::is_absent(error)).map(|error| format!("class {name}: {error}")));
        }
        ensure!(faults.is_empty(), "not taken away: {}", faults.join("; "));
        Ok(())
    }

    /// What there is to see of a test that failed: statuses, pods, and the end of their logs.
    pub(crate) async fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let namespaces = lock(&self.namespaces).clone();
        for namespace in &namespaces {
            for kind in ["Gateway", "HTTPRoute"] {
                let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &space::resource(kind));
                let found = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
                lines.extend(
                    found.iter().take(4).map(|object| format!("{kind} {}: {}", object.name_any(), object.data["status"])),
                );
            }
            lines.extend(self.logs(namespace, "app.kubernetes.io/name=isthmus-gateway", 8).await);
        }
        lines.extend(self.logs(SYSTEM, "app.kubernetes.io/name=isthmus-controller", 8).await);
        lines
    }

    async fn logs(&self, namespace: &str, labels: &str, tail: i64) -> Vec<String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let found = pods.list(&ListParams::default().labels(labels)).await.map(|list| list.items).unwrap_or_default();
        let mut lines = Vec::new();
        for pod in found {
            let name = pod.name_any();
            let state = json!(pod.status.as_ref().and_then(|status| status.container_statuses.clone()));
            lines.push(format!("pod {name}: {}", state[0]["state"]));
            let log = pods.logs(&name, &LogParams { tail_lines: Some(tail), ..LogParams::default() }).await.unwrap_or_default();
            lines.extend(log.lines().map(|line| format!("  {line}")));
        }
        lines
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries until something holds.
pub(crate) async fn eventually<T, F>(patience: Duration, what: &str, mut attempt: impl FnMut() -> F) -> Outcome<T>
where
    F: Future<Output = Outcome<T>>,
{
    let start = tokio::time::Instant::now();
    loop {
        match attempt().await {
            Ok(found) => return Ok(found),
            Err(fault) if start.elapsed() > patience => {
                return Err(Fault::said(format!("{what}: not within {} s: {fault}", patience.as_secs_f32())));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
