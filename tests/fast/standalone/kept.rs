//! Content that turns malformed keeps the last good; what is deleted stops at once. Under a data plane that runs, and for a new one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use isthmus_tests::client;
use serde_json::json;
use tokio::net::TcpStream;

use super::{OFFSET, Scratch, Served};

const GROUP: &str = "gateway.networking.k8s.io/v1";
const MALFORMED: (&str, &str) = ("no certificate", "no key");

/// A Gateway with two hosts on port 443, each with a Secret of its own, and a Service for both.
fn objects() -> String {
    let listener = |name: &str, namespace: &str| {
        format!(
            "  - {{name: {name}, port: 443, protocol: HTTPS, hostname: {name}.localhost, \
             tls: {{certificateRefs: [{{name: {name}, namespace: {namespace}}}]}}}}\n"
        )
    };
    let (blue, green) = (listener("blue", "certs"), listener("green", "default"));
    format!(
        "apiVersion: {GROUP}\nkind: GatewayClass\nmetadata: {{name: isthmus}}\nspec: {{controllerName: isthmus.dev/gateway-controller}}\n\
         ---\napiVersion: {GROUP}\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  gatewayClassName: isthmus\n  listeners:\n{blue}{green}\
         ---\napiVersion: {GROUP}\nkind: HTTPRoute\nmetadata: {{name: app}}\nspec:\n  parentRefs: [{{name: edge}}]\n  rules:\n\
         \x20 - matches: [{{path: {{value: /far}}}}]\n    backendRefs: [{{name: far, namespace: certs, port: 80}}]\n\
         \x20 - backendRefs: [{{name: app, port: 80}}]\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: app}}\nspec: {{ports: [{{port: 80}}]}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: far, namespace: certs}}\nspec: {{ports: [{{port: 80}}]}}\n"
    )
}

fn grant(kind: &str, target: &str) -> String {
    format!(
        "apiVersion: {GROUP}\nkind: ReferenceGrant\nmetadata: {{name: {}, namespace: certs}}\nspec:\n\
         \x20 from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: default}}]\n  to: [{{group: \"\", kind: {target}}}]\n",
        target.to_lowercase()
    )
}

/// The text of a Secret, which JSON is as well as YAML.
fn secret(namespace: &str, name: &str, (chain, key): (&str, &str)) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": chain, "tls.key": key},
    })
    .to_string()
}

struct Pair {
    der: Vec<u8>,
    chain: String,
    key: String,
}

impl Pair {
    fn new(host: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
        Self { der: made.cert.der().to_vec(), chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn text(&self) -> (&str, &str) {
        (&self.chain, &self.key)
    }
}

impl Served {
    /// The certificate that is shown for a host; none: no handshake.
    async fn shown(&self, host: &str) -> Option<Vec<u8>> {
        let socket = SocketAddr::new(self.address.into(), 443 + OFFSET);
        let stream = TcpStream::connect(socket).await.expect("the port is open, since the neighbour is on it");
        let stream = client::tls_stream(stream, host, false).await.ok()?;
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec())
    }

    async fn after(&mut self, edit: impl FnOnce()) {
        let since = Instant::now();
        edit();
        self.follow(since).await;
    }
}

/// The folder, and the certificates of both hosts.
fn folder() -> (Scratch, Pair, Pair) {
    let (scratch, blue, green) = (Scratch::new(), Pair::new("blue.localhost"), Pair::new("green.localhost"));
    scratch.write("objects.yaml", &objects());
    scratch.write("secrets.yaml", &grant("Gateway", "Secret"));
    scratch.write("services.yaml", &grant("HTTPRoute", "Service"));
    scratch.write("blue.json", &secret("certs", "blue", blue.text()));
    scratch.write("green.json", &secret("default", "green", green.text()));
    (scratch, blue, green)
}

fn remove(path: PathBuf) {
    std::fs::remove_file(path).expect("the file was there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_turns_malformed_is_kept_and_one_that_goes_is_not() {
    let (scratch, blue, green) = folder();
    let mut served = Served::start_with(&scratch.0, false).await;
    let write = |pair: (&str, &str)| scratch.write("blue.json", &secret("certs", "blue", pair));
    let (first, neighbour) = (Some(blue.der.clone()), Some(green.der.clone()));
    assert_eq!(served.shown("blue.localhost").await, first);

    served.after(|| write(MALFORMED)).await;
    assert_eq!(served.shown("blue.localhost").await, first, "the last good one is kept");
    let listener = &served.standalone.view().statuses.gateways.values().next().expect("the Gateway").listeners[0];
    let said =
        |kind: &str| listener.conditions.iter().find(|condition| condition.r#type == kind).expect("it is set").message.clone();
    assert!(said("ResolvedRefs").contains("Secret certs/blue has a `tls.crt` that is not PEM"), "{listener:?}");
    assert!(said("Programmed").contains("goes on with it"), "{listener:?}");
    // Malformed in another way, and an edit elsewhere: it is still the last good one.
    served.after(|| write((&green.chain, &blue.key))).await;
    served.after(|| scratch.write("services.yaml", &grant("GRPCRoute", "Service"))).await;
    assert_eq!(served.shown("blue.localhost").await, first);

    // Whoever holds nothing refuses, and serves the neighbour.
    let fresh = Served::start_with(&scratch.0, false).await;
    assert_eq!((fresh.shown("blue.localhost").await, fresh.shown("green.localhost").await), (None, neighbour.clone()));

    let again = Pair::new("blue.localhost");
    served.after(|| write(again.text())).await;
    assert_eq!(served.shown("blue.localhost").await, Some(again.der.clone()), "good again");

    // Malformed, then gone: it stops at once, and does not come back with another malformed one.
    served.after(|| write(MALFORMED)).await;
    assert_eq!(served.shown("blue.localhost").await, Some(again.der));
    served.after(|| remove(scratch.0.join("blue.json"))).await;
    assert_eq!(served.shown("blue.localhost").await, None, "its Secret is gone");
    served.after(|| write(MALFORMED)).await;
    assert_eq!(served.shown("blue.localhost").await, None, "what was given up is not held any more");
    assert_eq!(served.shown("green.localhost").await, neighbour);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_another_type_is_another_secret() {
    let (scratch, _, green) = folder();
    let mut served = Served::start_with(&scratch.0, false).await;
    let opaque = secret("certs", "blue", MALFORMED).replace("kubernetes.io/tls", "Opaque");
    served.after(|| scratch.write("blue.json", &opaque)).await;
    assert_eq!((served.shown("blue.localhost").await, served.shown("green.localhost").await), (None, Some(green.der)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_goes_stops_at_once() {
    let (scratch, blue, green) = folder();
    let mut served = Served::start_with(&scratch.0, false).await;
    let far = || json!({"host": "green.localhost", "path": "/far"});
    assert_eq!((served.shown("blue.localhost").await, served.answers(443, far()).await), (Some(blue.der), "far".to_owned()));

    served.after(|| remove(scratch.0.join("services.yaml"))).await;
    assert_eq!(served.answers(443, far()).await, "500");
    assert_eq!(served.answers(443, json!({"host": "green.localhost"})).await, "app", "the rule beside it serves");

    // A malformed Secret is kept only while it may be referred to.
    served.after(|| scratch.write("blue.json", &secret("certs", "blue", MALFORMED))).await;
    assert!(served.shown("blue.localhost").await.is_some());
    served.after(|| remove(scratch.0.join("secrets.yaml"))).await;
    assert_eq!((served.shown("blue.localhost").await, served.shown("green.localhost").await), (None, Some(green.der)));
}
