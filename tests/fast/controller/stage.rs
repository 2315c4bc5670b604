//! A cluster to run controllers in, and what is there when all is said and done.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use isthmus_api::parameters::GatewayParametersSpec;
use isthmus_controller::{Election, Settings, ca, provision};
use isthmus_routing::snapshot::Models;
use isthmus_routing::{GatewayKey, Snapshot, Version};
use isthmus_tests::api_server::{ApiServer, Bundle, Select, Verb};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::PATIENCE;
use super::pods::{self, Pods};
use super::service::Service;

/// An API server, the rest of a cluster, and controllers. All end when dropped.
pub(super) struct Stage {
    pub(super) server: Arc<ApiServer>,
    pub(super) pods: Pods,
    service: Service,
    cluster: AbortHandle,
    /// How its controllers run the mesh; none: they do not.
    mesh: Option<ca::Settings>,
}

/// A controller that runs.
pub(super) struct Controller {
    task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Stage {
    /// With the CRDs of a release and our own.
    pub(super) async fn new(bundle: Bundle) -> Self {
        let server = Arc::new(ApiServer::new());
        server.install(bundle);
        server.apply_yaml(include_str!("../../../charts/isthmus/files/crds/gatewayparameters.yaml"));
        server.apply_yaml("apiVersion: v1\nkind: Namespace\nmetadata: {name: isthmus-system}\n");
        let service = Service::start().await;
        let pods = Pods::default();
        let cluster = tokio::spawn(pods::play(Arc::clone(&server), service.address(), Arc::clone(&pods))).abort_handle();
        Self { server, pods, service, cluster, mesh: None }
    }

    /// The same with a mesh.
    pub(super) async fn of_mesh(bundle: Bundle) -> Self {
        let mut stage = Self::new(bundle).await;
        stage.mesh = Some(ca::Settings::default());
        stage
    }

    /// Starts a controller whose calls come through the port `client`. `pod` is its name: one that is restarted in its pod keeps it.
    pub(super) async fn controller(&self, client: &str, pod: &str) -> Controller {
        self.controller_with(client, pod, calm()).await
    }

    pub(super) async fn controller_with(&self, client: &str, pod: &str, election: Election) -> Controller {
        let push = self.listener(pod).await;
        let address = push.local_addr().unwrap();
        self.service.set(pod, address);
        let settings = Settings {
            namespace: "isthmus-system".to_owned(),
            name: pod.to_owned(),
            watch_namespaces: std::collections::BTreeSet::new(),
            push,
            push_address: address,
            admin: None,
            provision: provision::Settings {
                image: "docker.io/isthmus/gateway:dev".to_owned(),
                image_pull_policy: "IfNotPresent".to_owned(),
                image_pull_secrets: Vec::new(),
                controller: "isthmus-controller.isthmus-system.svc:15410".to_owned(),
            },
            injection: None,
            parameters: GatewayParametersSpec::default(),
            mesh: self.mesh.clone(),
            models: Models::default(),
            election,
        };
        let client = self.server.client(client).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            // A controller that is dropped is killed, not asked to end.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let task = tokio::spawn(async move {
            isthmus_controller::run(client, settings, shutdown).await.unwrap();
        });
        Controller { task, stop: Some(stop) }
    }

    /// Where a controller takes the connections of proxies.
    pub(super) fn push_address(&self, pod: &str) -> SocketAddr {
        self.service.endpoint(pod).unwrap()
    }

    /// A pod that is restarted keeps its address, which is part of what it is known by.
    async fn listener(&self, pod: &str) -> TcpListener {
        let before = self.service.endpoint(pod).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        loop {
            match TcpListener::bind(before).await {
                Ok(listener) => return listener,
                // What was killed may still be closing.
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{before}: {error}"),
            }
        }
    }

    /// Where any of the controllers that run takes the connections of proxies.
    pub(super) fn controllers(&self) -> SocketAddr {
        self.service.address()
    }

    /// What a pod of this Gateway serves now.
    pub(super) fn snapshot(&self, namespace: &str, name: &str) -> Option<Arc<Snapshot>> {
        let key = GatewayKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).get(&key).map(pods::Pod::snapshot)
    }

    /// What a pod of this Gateway serves, as it changes.
    pub(super) fn snapshots(&self, namespace: &str, name: &str) -> Option<watch::Receiver<Arc<Snapshot>>> {
        let key = GatewayKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).get(&key).map(pods::Pod::snapshots)
    }

    /// All that a pod of this Gateway was told to serve.
    pub(super) fn history(&self, namespace: &str, name: &str) -> Vec<Arc<Snapshot>> {
        let key = GatewayKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).get(&key).map(pods::Pod::history).unwrap_or_default()
    }

    /// Everything that does not differ from run to run: the objects with their statuses, and the version that each pod serves.
    pub(super) fn state(&self) -> Value {
        let mut state = Map::new();
        for kind in KINDS.into_iter().filter(|kind| self.server.serves(kind)) {
            for object in self.server.list(kind) {
                let metadata = &object["metadata"];
                let name = format!(
                    "{kind} {}/{}",
                    metadata["namespace"].as_str().unwrap_or("-"),
                    metadata["name"].as_str().unwrap_or("?")
                );
                if name != "Secret isthmus-system/isthmus-push-tls" {
                    state.insert(name, self.essence(kind, object.clone()));
                }
            }
        }
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let versions: BTreeMap<String, String> = pods
            .iter()
            .map(|(key, pod)| (format!("{}/{}", key.namespace, key.name), pod.snapshot().version().to_string()))
            .collect();
        state.insert("versions".to_owned(), json!(versions));
        Value::Object(state)
    }

    fn essence(&self, kind: &str, mut object: Value) -> Value {
        let made =
            ["ServiceAccount", "ConfigMap", "Deployment"].contains(&kind) || object["metadata"]["ownerReferences"].is_array();
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            for field in ["resourceVersion", "uid", "creationTimestamp"] {
                metadata.remove(field);
            }
            if made {
                metadata.remove("generation");
            }
            if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
                annotations.remove("isthmus.dev/applied");
            }
            for owner in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
                let owns = |one: &Value| one["metadata"]["uid"] == owner["uid"] && one["metadata"]["name"] == owner["name"];
                let lives = self.server.list(owner["kind"].as_str().unwrap_or_default()).iter().any(owns);
                owner["uid"] = json!(if lives { "lives" } else { "is gone" });
            }
        }
        if let Some(Value::Object(spec)) = object.get_mut("spec") {
            for field in ["clusterIP", "clusterIPs"] {
                spec.remove(field);
            }
            if kind == "Service" {
                spec.get_mut("ports")
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                    .for_each(|port| port["nodePort"] = json!(0));
            }
        }
        if !object["data"]["ca.crt"].is_null() {
            object["data"]["ca.crt"] = json!("a bundle");
        }
        without_times(&mut object);
        object
    }

    /// What the state depends on, which is quicker to compare.
    fn mark(&self) -> (u64, Vec<Version>) {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        (self.server.version(), pods.values().map(|pod| pod.snapshot().version()).collect())
    }

    /// Waits until the state is this one and stays so for a moment.
    pub(super) async fn expect(&self, what: &str, expected: &Value, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (mut mark, mut state) = (self.mark(), self.state());
        let mut since = Instant::now();
        while state != *expected || since.elapsed() < Duration::from_millis(200) {
            if Instant::now() >= deadline {
                let calls = self.server.calls(&super::writes());
                let last: Vec<String> = calls.iter().rev().take(15).rev().map(ToString::to_string).collect();
                panic!(
                    "{what}: after {patience:?}\n{}\nlast writes:\n{}",
                    difference(expected, &state).join("\n"),
                    last.join("\n")
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
            let now = self.mark();
            if now != mark {
                let before = std::mem::replace(&mut state, self.state());
                mark = now;
                // A Lease that is renewed is no change.
                since = if state == before { since } else { Instant::now() };
            }
        }
    }

    /// Waits until nothing has changed for `calm`, and says what is there then.
    pub(super) async fn settled(&self, calm: Duration, patience: Duration) -> Value {
        let deadline = Instant::now() + patience;
        let (mut mark, mut state, mut since) = (self.mark(), self.state(), Instant::now());
        while since.elapsed() < calm {
            assert!(Instant::now() < deadline, "it goes on and on: {:?}", self.server.calls(&super::writes()).last());
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.mark();
            if now != mark {
                let before = std::mem::replace(&mut state, self.state());
                mark = now;
                since = if state == before { since } else { Instant::now() };
            }
        }
        state
    }

    /// Waits until all of [`super::scenario`] is programmed and nothing changes any more.
    pub(super) async fn at_rest(&self) -> Value {
        for gateway in ["shop/edge", "bank/vault"] {
            let is_programmed = || self.conditions("Gateway", gateway).contains("Programmed=True");
            self.server.wait_for(&format!("{gateway} is programmed"), PATIENCE, |_| is_programmed().then_some(())).await;
        }
        self.settled(Duration::from_millis(700), PATIENCE).await
    }

    /// The conditions of an object in one line: `Accepted=True/Accepted ..`; of a route those for its first parent.
    pub(super) fn conditions(&self, kind: &str, name: &str) -> String {
        let Some(object) = self.server.get(kind, name) else { return "absent".to_owned() };
        let status = &object["status"];
        let list = if status["parents"].is_array() { &status["parents"][0]["conditions"] } else { &status["conditions"] };
        let text = |condition: &Value| {
            let word = |field: &str| condition[field].as_str().unwrap_or("?").to_owned();
            format!("{}={}/{}", word("type"), word("status"), word("reason"))
        };
        list.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.cluster.abort();
    }
}

impl Controller {
    /// Ends it as SIGTERM does.
    pub(super) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap();
        }
        (&mut self.task).await.unwrap();
    }

    /// Ends it as SIGKILL does: in the middle of everything.
    pub(super) async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    pub(super) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until a controller has begun to read, and a little longer. One that dies before that is not waited for.
pub(super) async fn is_reading(server: &ApiServer, client: &str) {
    let lists = Select::any().client(client).verbs(&[Verb::List]).kind("EndpointSlice");
    let deadline = Instant::now() + Duration::from_secs(5);
    while server.calls(&lists).is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// An election that nobody loses because a few calls fail.
pub(super) fn calm() -> Election {
    Election { retry: Duration::from_millis(100), ..Election::default() }
}

/// An election whose Lease runs out while a test waits.
pub(super) fn quick() -> Election {
    Election { duration: Duration::from_secs(3), renew: Duration::from_millis(500), retry: Duration::from_millis(100) }
}

/// Kinds that a state is made of.
const KINDS: [&str; 19] = [
    "BackendTLSPolicy",
    "ConfigMap",
    "Deployment",
    "EndpointSlice",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "GatewayParameters",
    "HTTPRoute",
    "HorizontalPodAutoscaler",
    "ListenerSet",
    "PodDisruptionBudget",
    "ReferenceGrant",
    "Secret",
    "Service",
    "ServiceAccount",
    "TCPRoute",
    "TLSRoute",
    "UDPRoute",
];

fn without_times(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("lastTransitionTime");
            object.values_mut().for_each(without_times);
        }
        Value::Array(list) => list.iter_mut().for_each(without_times),
        _ => {}
    }
}

/// Where two values differ, at most a few places.
pub(super) fn difference(expected: &Value, found: &Value) -> Vec<String> {
    let mut places = Vec::new();
    compare(expected, found, "", &mut places);
    places.truncate(12);
    places
}

fn compare(expected: &Value, found: &Value, path: &str, places: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                compare(a, b, &format!("{path}.{key}"), places);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(a, b, &format!("{path}[{index}]"), places);
            }
        }
        _ if expected != found => {
            let short = |value: &Value| value.to_string().chars().take(300).collect::<String>();
            places.push(format!("{path}: expected {}, found {}", short(expected), short(found)));
        }
        _ => {}
    }
}
