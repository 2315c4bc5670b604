//! A sidecar without sockets: it subscribes to what its workload calls, and acknowledges what it gets while it may.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use isthmus_api::core::ByteString;
use isthmus_push::client::{self, Limits, Outcome};
use isthmus_routing::snapshot::Models;
use isthmus_routing::{BackendKey, Certificate, Snapshot};
use isthmus_tests::api_server::{ApiServer, Token};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::PATIENCE;

/// A pod with a sidecar that runs. It ends when dropped.
pub(super) struct Sidecar {
    folder: PathBuf,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    calls: watch::Sender<BTreeSet<BackendKey>>,
    may_answer: watch::Sender<bool>,
    certificate: watch::Receiver<Option<Arc<Certificate>>>,
    _tasks: JoinSet<()>,
}

impl Sidecar {
    /// In pod `namespace/name`, of account `default`.
    pub(super) async fn start(server: &ApiServer, controller: SocketAddr, at: &str, calls: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("isthmus-sidecar-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (namespace, name) = at.split_once('/').unwrap();
        let token = format!("token-{namespace}-{name}");
        std::fs::write(folder.join("token"), &token).unwrap();
        let ca = server.wait_for("the push server has a certificate", PATIENCE, authorities).await;
        std::fs::write(folder.join("ca.crt"), ca).unwrap();
        let whose = Token {
            audiences: vec!["isthmus.dev/push".to_owned()],
            namespace: namespace.to_owned(),
            service_account: "default".to_owned(),
            pod: Some((name.to_owned(), format!("uid-of-{name}"))),
        };
        server.set_token(&token, whose);
        let (sender, snapshots) = watch::channel(Arc::<Snapshot>::default());
        let (served, outcomes) = watch::channel(Outcome::default());
        let (calls, called) = watch::channel(keys(calls));
        let (may_answer, mut may) = watch::channel(true);
        let (certified, certificate) = watch::channel(None);
        let options = client::Options {
            controller: controller.to_string(),
            ca: folder.join("ca.crt"),
            token: folder.join("token"),
            store: None,
            calls: Some(called),
            certificate: Some(certified),
            away: None,
            models: Models::default(),
            limits: Limits { longest_wait: Duration::from_millis(300), ..Limits::default() },
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let never = client::run(options, sender, outcomes).await;
            match never {}
        });
        let mut follow = snapshots.clone();
        tasks.spawn(async move {
            while follow.changed().await.is_ok() && may.wait_for(|may| *may).await.is_ok() {
                let snapshot = follow.borrow_and_update().clone();
                served.send_replace(Outcome { version: Some(snapshot.version()), faults: BTreeMap::new() });
            }
        });
        Self { folder, snapshots, calls, may_answer, certificate, _tasks: tasks }
    }

    /// Whether it acknowledges from now on.
    pub(super) fn answers(&self, may: bool) {
        self.may_answer.send_replace(may);
    }

    /// What its workload calls from now on.
    pub(super) fn calls(&self, calls: &[&str]) {
        self.calls.send_replace(keys(calls));
    }

    /// Waits until it has a certificate.
    pub(super) async fn certificate(&self) -> Arc<Certificate> {
        let mut certificate = self.certificate.clone();
        let found = tokio::time::timeout(PATIENCE, certificate.wait_for(Option::is_some)).await;
        found.expect("it gets a certificate").unwrap().clone().unwrap()
    }

    /// Waits until it was given something.
    pub(super) async fn is_given(&self, what: &str, look: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut snapshots = self.snapshots.clone();
        let found = tokio::time::timeout(PATIENCE, snapshots.wait_for(|snapshot| look(snapshot))).await;
        let last = || serde_json::to_string(&**self.snapshots.borrow()).unwrap();
        found.unwrap_or_else(|_| panic!("{what}: not in {}", last())).unwrap().clone()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // A folder that stays is in the machine's own folder for that.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn keys(calls: &[&str]) -> BTreeSet<BackendKey> {
    calls.iter().map(|key| key.parse().unwrap()).collect()
}

/// The certificates of those who may have signed the push server's.
fn authorities(server: &ApiServer) -> Option<Vec<u8>> {
    let secret = server.get("Secret", "isthmus-system/isthmus-push-tls")?;
    let ca: ByteString = serde_json::from_value(secret["data"]["ca.crt"].clone()).ok()?;
    Some(ca.0)
}

/// The object of a pod `namespace/name` with a sidecar, which has an address, and is ready or not.
pub(super) fn pod(at: &str, address: &str, annotations: Value, ready: bool) -> Value {
    let (namespace, name) = at.split_once('/').unwrap();
    let mut metadata = json!({"namespace": namespace, "name": name, "annotations": {"isthmus.dev/injected": "0.1.0"}});
    if let Value::Object(more) = annotations {
        metadata["annotations"].as_object_mut().unwrap().extend(more);
    }
    let ready = if ready { "True" } else { "False" };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {
            "serviceAccountName": "default", "containers": [{"name": "app", "image": "app"}],
            "initContainers": [{"name": "isthmus-proxy", "image": "proxy", "restartPolicy": "Always"}],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": ready}]},
    })
}
