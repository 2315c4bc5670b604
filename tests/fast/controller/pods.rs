//! The rest of a cluster, as far as a controller can tell: what is made for a Gateway gets an address, a pod and endpoints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isthmus_push::client::{self, Limits, Outcome};
use isthmus_routing::snapshot::Models;
use isthmus_routing::{GatewayKey, Snapshot};
use isthmus_tests::api_server::{ApiServer, Token};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often the cluster looks at what was made.
const LOOK: Duration = Duration::from_millis(10);

/// The pods that run, by Gateway.
pub(super) type Pods = Arc<Mutex<BTreeMap<GatewayKey, Pod>>>;

/// A proxy without sockets: it acknowledges whatever it gets, at once.
#[derive(Debug)]
pub(super) struct Pod {
    folder: PathBuf,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Everything that it was told to serve, in order.
    history: Arc<Mutex<Vec<Arc<Snapshot>>>>,
    _tasks: JoinSet<()>,
}

impl Pod {
    fn start(server: &ApiServer, controller: SocketAddr, (namespace, name, account): (&str, &str, &str), ca: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("isthmus-pod-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let token = format!("token-{namespace}-{name}");
        std::fs::write(folder.join("token"), &token).unwrap();
        std::fs::write(folder.join("ca.crt"), ca).unwrap();
        let whose = Token {
            audiences: vec!["isthmus.dev/push".to_owned()],
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            pod: Some((name.to_owned(), format!("uid-of-{name}"))),
        };
        server.set_token(&token, whose);

        let (sender, snapshots) = watch::channel(Arc::<Snapshot>::default());
        let (served, outcomes) = watch::channel(Outcome::default());
        let history = Arc::<Mutex<Vec<Arc<Snapshot>>>>::default();
        let mut tasks = JoinSet::new();
        let options = client::Options {
            controller: controller.to_string(),
            ca: folder.join("ca.crt"),
            token: folder.join("token"),
            store: None,
            calls: None,
            certificate: None,
            away: None,
            models: Models::default(),
            limits: Limits { longest_wait: Duration::from_millis(300), ..Limits::default() },
        };
        tasks.spawn(async move {
            let never = client::run(options, sender, outcomes).await;
            match never {}
        });
        let (mut follow, log) = (snapshots.clone(), Arc::clone(&history));
        tasks.spawn(async move {
            while follow.changed().await.is_ok() {
                let snapshot = follow.borrow_and_update().clone();
                log.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&snapshot));
                served.send_replace(Outcome { version: Some(snapshot.version()), faults: BTreeMap::new() });
            }
        });
        Self { folder, snapshots, history, _tasks: tasks }
    }

    /// Whether it serves something.
    fn is_ready(&self) -> bool {
        !self.history.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What it serves now.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// What it serves, as it changes.
    pub(super) fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Everything that it was told to serve, in order.
    pub(super) fn history(&self) -> Vec<Arc<Snapshot>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // A folder that stays is in the machine's own folder for that.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Plays the cluster until it is dropped.
pub(super) async fn play(server: Arc<ApiServer>, controller: SocketAddr, pods: Pods) {
    let mut seen = (0, 0);
    loop {
        let ready = pods.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|pod| pod.is_ready()).count();
        let now = (server.version(), ready);
        if std::mem::replace(&mut seen, now) == now {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        for service in server.list("Service") {
            give_address(&server, &service);
        }
        let deployments: Vec<_> = server.list("Deployment").into_iter().filter_map(|one| Some((gateway(&one)?, one))).collect();
        pods.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| deployments.iter().any(|(known, _)| known == key));
        for (key, deployment) in &deployments {
            run_pod(&server, controller, &pods, key, deployment);
        }
    }
}

/// The Gateway that a Deployment is of.
fn gateway(deployment: &Value) -> Option<GatewayKey> {
    let labels = &deployment["metadata"]["labels"];
    let name = labels["gateway.networking.k8s.io/gateway-name"].as_str()?.to_owned();
    Some(GatewayKey { namespace: deployment["metadata"]["namespace"].as_str()?.to_owned(), name })
}

/// A cloud's load balancer. The same Service gets the same address in every run.
fn give_address(server: &ApiServer, service: &Value) {
    let (namespace, name) = named(service);
    if service["spec"]["type"] == "LoadBalancer" && service["status"]["loadBalancer"]["ingress"].is_null() {
        let last = name.bytes().fold(0_u32, |sum, byte| (sum * 31 + u32::from(byte)) % 250) + 1;
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": format!("203.0.113.{last}")}]}}});
        // It may have been deleted in this moment.
        let _ = server.patch_status("Service", &format!("{namespace}/{name}"), status);
    }
}

fn run_pod(server: &ApiServer, controller: SocketAddr, pods: &Pods, key: &GatewayKey, deployment: &Value) {
    let (namespace, name) = named(deployment);
    let at = format!("{namespace}/{name}");
    let account = deployment["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    let ca = server.get("ConfigMap", &at).and_then(|map| map["data"]["ca.crt"].as_str().map(str::to_owned));
    let (Some(ca), Some(service)) = (ca, server.get("Service", &at)) else { return };
    if server.get("ServiceAccount", &format!("{namespace}/{account}")).is_none() {
        return;
    }
    let pod = format!("{name}-0");
    let ready = {
        let mut pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || Pod::start(server, controller, (&namespace, &pod, account), &ca);
        pods.entry(key.clone()).or_insert_with(start).is_ready()
    };
    let slice = format!("{name}-slice");
    let is_told = |slice: Value| slice["endpoints"][0]["conditions"]["ready"] == ready;
    if server.get("EndpointSlice", &format!("{namespace}/{slice}")).is_some_and(is_told) {
        return;
    }
    let owner = json!({"apiVersion": "v1", "kind": "Service", "name": name, "uid": service["metadata"]["uid"]});
    server.apply(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": slice, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}, "ownerReferences": [owner],
        },
        "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": ["10.244.0.7"], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace},
        }],
    }));
    let status = json!({"status": {"replicas": 1, "updatedReplicas": 1, "readyReplicas": u8::from(ready)}});
    let _ = server.patch_status("Deployment", &at, status);
}

fn named(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}
