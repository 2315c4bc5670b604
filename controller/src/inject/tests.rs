mod crowd;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isthmus_inject::{INJECTED, Image};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::authority::plan;
use crate::testing::{Answer, Call, Server, event};

const PATIENCE: Duration = Duration::from_secs(10);
const NAMESPACE: &str = "isthmus-system";

/// What the authority would give, anew each time.
fn material() -> Arc<Material> {
    let names = [isthmus_push::SERVER_NAME.to_owned(), server_name(NAMESPACE)];
    Arc::new(plan(None, &names, UnixTime::now()).unwrap().content.material())
}

fn sidecar() -> isthmus_inject::Settings {
    isthmus_inject::Settings {
        version: "0.1.0".into(),
        proxy: Image { name: "docker.io/isthmus/mesh-proxy:dev".into(), pull_policy: "Never".into() },
        redirect: Image { name: "docker.io/isthmus/mesh-redirect:dev".into(), pull_policy: "Never".into() },
        controller: "isthmus-controller.isthmus-system.svc:15410".into(),
        ca: String::new(),
        log: "info".into(),
        resources: json!({}),
        kubernetes: None,
    }
}

/// An API server of this version with one MutatingWebhookConfiguration.
#[derive(Clone)]
struct Cluster {
    minor: &'static str,
    inner: Arc<Mutex<Held>>,
}

struct Held {
    configuration: Value,
    watches: Vec<mpsc::UnboundedSender<Value>>,
}

impl Cluster {
    fn new(minor: &'static str) -> Self {
        let service = json!({ "name": "isthmus-controller", "namespace": NAMESPACE, "path": "/inject" });
        let client = json!({ "service": service });
        let webhook =
            |name| json!({ "name": name, "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"] });
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": configuration(NAMESPACE), "resourceVersion": "1" },
            "webhooks": [webhook("namespace.inject.isthmus.dev"), webhook("pod.inject.isthmus.dev")],
        });
        Self { minor, inner: Arc::new(Mutex::new(Held { configuration, watches: Vec::new() })) }
    }

    fn server(&self) -> Server {
        let cluster = self.clone();
        Server::new(move |call| cluster.answer(call))
    }

    fn answer(&self, call: &Call) -> Answer {
        let mut inner = self.inner.lock().unwrap();
        let Held { configuration, watches } = &mut *inner;
        if call.path == "/version" {
            let empty = "";
            return Answer::json(json!({
                "major": "1", "minor": self.minor, "gitVersion": empty, "gitCommit": empty, "gitTreeState": empty, "buildDate": empty,
                "goVersion": empty, "compiler": empty, "platform": empty,
            }));
        }
        assert!(call.path.starts_with("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"), "{call:?}");
        if call.is_watch() {
            let (sender, answer) = Answer::watch();
            watches.push(sender);
            return answer;
        }
        match call.method.as_str() {
            "GET" => Answer::list(1, std::slice::from_ref(configuration)),
            "PATCH" => {
                assert_eq!(call.query["force"], "true");
                let applied = call.body["webhooks"].as_array().unwrap();
                for webhook in configuration["webhooks"].as_array_mut().unwrap() {
                    let same = applied.iter().find(|applied| applied["name"] == webhook["name"]).expect("all are applied");
                    webhook["clientConfig"]["caBundle"] = same["clientConfig"]["caBundle"].clone();
                }
                watches.retain(|watch| watch.send(event("MODIFIED", configuration)).is_ok());
                Answer::json(configuration.clone())
            }
            other => panic!("{other}"),
        }
    }

    /// What the API server verifies the webhooks by.
    fn bundles(&self) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        let webhooks = inner.configuration["webhooks"].as_array().unwrap().clone();
        let bundle = |webhook: &Value| webhook["clientConfig"]["caBundle"].as_str().map(|text| STANDARD.decode(text).unwrap());
        webhooks.iter().map(|webhook| String::from_utf8(bundle(webhook).unwrap_or_default()).unwrap()).collect()
    }

    async fn knows(&self, bundle: &str) {
        let known = async {
            while self.bundles() != [bundle, bundle] {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, known).await.expect("the API server is told the CA");
    }
}

struct Running {
    address: SocketAddr,
    material: watch::Sender<Option<Arc<Material>>>,
    role: watch::Sender<Role>,
    metrics: Arc<Metrics>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start(cluster: &Cluster, role: Role) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ((material, materials), (role, roles)) = (watch::channel(None), watch::channel(role));
    let metrics = Arc::new(Metrics::new().unwrap());
    let settings = Settings { listener, sidecar: sidecar() };
    let running = run(cluster.server().client(), NAMESPACE.into(), settings, materials, roles, Arc::clone(&metrics));
    Running { address, material, role, metrics, task: tokio::spawn(running) }
}

async fn connect(source: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(address).await
}

/// Connects as the API server does: by the Service's name, over TLS that trusts only `bundle`.
async fn connect_tls(source: IpAddr, address: SocketAddr, bundle: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(server_name(NAMESPACE)).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, connect(source, address).await?).await
}

/// Asks from an address of its own.
async fn post(address: SocketAddr, bundle: &str, path: &str, body: &str) -> std::io::Result<(u16, Value)> {
    let mut stream = connect_tls(Ipv4Addr::LOCALHOST.into(), address, bundle).await?;
    let length = body.len();
    let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Ok((status, serde_json::from_str(body).unwrap_or_else(|_| body.into())))
}

fn review(object: &Value, changes: &Value) -> String {
    let mut request = json!({
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": { "group": "", "version": "v1", "kind": "Pod" },
        "resource": { "group": "", "version": "v1", "resource": "pods" },
        "namespace": "shop",
        "operation": "CREATE",
        "object": object,
        "oldObject": null,
        "dryRun": false,
    });
    request.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request }).to_string()
}

fn pod(annotations: &Value, spec: &Value) -> Value {
    let mut pod = json!({ "metadata": { "generateName": "cart-", "annotations": annotations }, "spec": { "containers": [{ "name": "a" }] } });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

async fn ask(running: &Running, bundle: &str, body: &str) -> Value {
    let (status, answer) = timeout(PATIENCE, post(running.address, bundle, "/inject", body)).await.unwrap().unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    assert_eq!(answer["response"]["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    answer["response"].clone()
}

#[tokio::test]
async fn pods_get_their_sidecar_over_tls() {
    let cluster = Cluster::new("31+");
    let running = start(&cluster, Role::Follower { leader: None }).await;
    let first = material();
    running.material.send_replace(Some(first.clone()));
    let plain = pod(&json!({}), &json!({}));

    let response = ask(&running, &first.bundle, &review(&plain, &json!({}))).await;
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let patch: Value = serde_json::from_slice(&STANDARD.decode(response["patch"].as_str().unwrap()).unwrap()).unwrap();
    let values: BTreeMap<&str, &Value> =
        patch.as_array().unwrap().iter().map(|operation| (operation["path"].as_str().unwrap(), &operation["value"])).collect();
    assert_eq!(values["/metadata/annotations"][INJECTED], "0.1.0");
    let containers = values["/spec/initContainers"].as_array().unwrap();
    assert_eq!((&containers[0]["name"], &containers[1]["name"]), (&json!("isthmus-redirect"), &json!("isthmus-proxy")));
    let variables = containers[1]["env"].as_array().unwrap();
    let ca = variables.iter().find(|variable| variable["name"] == "ISTHMUS_CA").unwrap();
    assert_eq!(ca["value"], first.bundle.as_str(), "sidecars trust the newest authorities");

    for (object, changes, allowed, message) in [
        (pod(&json!({ "isthmus.dev/inject": "disabled" }), &json!({})), json!({}), true, None),
        (pod(&json!({}), &json!({ "hostNetwork": true })), json!({}), true, None),
        (plain.clone(), json!({ "operation": "UPDATE" }), true, None),
        (plain.clone(), json!({ "subResource": "ephemeralcontainers" }), true, None),
        (plain.clone(), json!({ "kind": { "group": "apps", "version": "v1", "kind": "Deployment" } }), true, None),
        (pod(&json!({}), &json!({ "securityContext": { "runAsUser": 15420 } })), json!({}), false, Some("runs as uid 15420")),
    ] {
        let response = ask(&running, &first.bundle, &review(&object, &changes)).await;
        assert_eq!((&response["allowed"], response.get("patch")), (&json!(allowed), None), "{object} {changes}");
        match message {
            None => assert_eq!(response.get("status"), None),
            Some(message) => {
                assert!(response["status"]["message"].as_str().unwrap().contains(message), "{response}");
                assert_eq!(response["status"]["code"], 422);
            }
        }
    }
    let text = running.metrics.text().unwrap();
    for (result, count) in [("injected", 1), ("skipped", 2), ("refused", 1)] {
        assert!(text.contains(&format!("isthmus_controller_injections_total{{result=\"{result}\"}} {count}\n")), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_review_is_not_answered() {
    let running = start(&Cluster::new("31"), Role::Leader).await;
    let first = material();
    running.material.send_replace(Some(first.clone()));
    let old = review(&json!({}), &json!({})).replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1");
    let long = " ".repeat((4 << 20) + 1);
    for (path, body, status) in
        [("/inject", "{", 400), ("/inject", "{}", 400), ("/inject", &old, 400), ("/inject", &long, 400), ("/other", "{}", 404)]
    {
        // Where the body is too long the rest of it is not read, so that the answer may be lost.
        if let Ok((actual, answer)) = post(running.address, &first.bundle, path, body).await {
            assert_eq!(actual, status, "{path} {answer}");
        } else {
            assert!(body.len() > 4 << 20, "{path} {body}");
        }
    }
}

#[tokio::test]
async fn an_old_kubernetes_is_told_by_every_refusal() {
    let cluster = Cluster::new("28");
    let running = start(&cluster, Role::Leader).await;
    let first = material();
    running.material.send_replace(Some(first.clone()));
    let refused = async {
        loop {
            let response = ask(&running, &first.bundle, &review(&pod(&json!({}), &json!({})), &json!({}))).await;
            match response["status"]["message"].as_str() {
                Some(message) => return message.to_owned(),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let message = timeout(PATIENCE, refused).await.unwrap();
    assert!(message.starts_with("Kubernetes 1.28 has no native sidecars"), "{message}");
}

#[tokio::test]
async fn a_new_certificate_is_shown_at_once_and_its_ca_told_by_the_leader() {
    let cluster = Cluster::new("31");
    let running = start(&cluster, Role::Follower { leader: None }).await;
    let (first, second) = (material(), material());
    let review = review(&pod(&json!({}), &json!({})), &json!({}));
    running.material.send_replace(Some(first.clone()));
    ask(&running, &first.bundle, &review).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(cluster.bundles(), ["", ""], "a follower writes nothing");
    running.role.send_replace(Role::Leader);
    cluster.knows(&first.bundle).await;

    running.material.send_replace(Some(second.clone()));
    ask(&running, &second.bundle, &review).await;
    assert!(post(running.address, &first.bundle, "/inject", &review).await.is_err(), "the former certificate is gone");
    cluster.knows(&second.bundle).await;
}

#[tokio::test]
async fn a_ca_that_somebody_takes_away_comes_back() {
    let cluster = Cluster::new("31");
    let running = start(&cluster, Role::Leader).await;
    let first = material();
    running.material.send_replace(Some(first.clone()));
    cluster.knows(&first.bundle).await;
    {
        let mut inner = cluster.inner.lock().unwrap();
        let Held { configuration, watches } = &mut *inner;
        configuration["webhooks"][1]["clientConfig"].as_object_mut().unwrap().remove("caBundle");
        for watch in watches {
            // Some are of a watch that was renewed.
            let _ = watch.send(event("MODIFIED", configuration));
        }
    }
    cluster.knows(&first.bundle).await;
}

#[test]
fn flags_say_what_sidecars_are() {
    use clap::Parser;

    use crate::args::Args;

    let least = ["x", "--namespace=a", "--name=a", "--ip=::1", "--gateway-image=g"];
    let sidecar = |line: &str| {
        let parsed = Args::try_parse_from(least.into_iter().chain(line.split_whitespace()));
        parsed.map(|args| args.inject.sidecar("c.svc:15410")).map_err(|error| error.to_string())
    };
    assert_eq!(sidecar("").unwrap(), None);
    let settings = sidecar("--mesh-proxy-image p:1 --mesh-redirect-image r:1 --mesh-redirect-image-pull-policy Always").unwrap();
    let settings = settings.unwrap();
    assert_eq!((&*settings.proxy.name, &*settings.redirect.pull_policy), ("p:1", "Always"));
    assert_eq!((&*settings.controller, &settings.resources["requests"]["cpu"]), ("c.svc:15410", &json!("10m")));
    for (line, part) in [
        ("--mesh-proxy-image p:1", "--mesh-redirect-image"),
        ("--mesh-redirect-image r:1", "--mesh-proxy-image"),
        ("--mesh-resources []", "not a JSON object"),
        ("--mesh-resources {", "EOF"),
    ] {
        let error = sidecar(line).unwrap_err();
        assert!(error.contains(part), "{line}: {error}");
    }
}
