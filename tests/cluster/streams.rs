//! Connections and datagrams through Gateways, and TLS towards backends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};

use crate::fault::{Fault, Outcome, ensure};
use crate::line;
use crate::manifests::{
    ContainerPort, DEPLOYMENT, HASTY, PODS, echo_of, gateway, programmed, reachable, route, secret, stream_route,
};
use crate::proof::{LIMIT, within};
use crate::space::SLOW;
use crate::stage::{Stage, eventually};
use crate::status::{self, Of};

/// The port of both: a DNS server, say.
const PORT: u16 = 5353;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The name that the backend's certificate is for.
const NAME: &str = "backend.example";

/// A TCPRoute and a UDPRoute on one port number of one address; connections and sessions outlive edits and other pods' ends.
pub(crate) async fn tcp_and_udp_share_a_port(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    let listeners = format!("  - {{ name: tcp, port: {PORT}, protocol: TCP }}\n  - {{ name: udp, port: {PORT}, protocol: UDP }}");
    space.apply(&gateway(1, HASTY, &listeners)).await?;
    for name in ["one", "two"] {
        space.apply(&echo_of(&format!("{name}-tcp"), "TCP_ECHO_SERVER", &ContainerPort::tcp(3000))).await?;
        space.apply(&echo_of(&format!("{name}-udp"), "UDP_ECHO_SERVER", &ContainerPort::udp(8080))).await?;
    }
    space.apply(&stream_route("TCPRoute", "tcp", "one-tcp")).await?;
    space.apply(&stream_route("UDPRoute", "udp", "one-udp")).await?;
    for name in ["one-tcp", "one-udp", "two-tcp", "two-udp"] {
        space.rolled_out(name, &format!("app={name}")).await?;
    }
    space.rolled_out(DEPLOYMENT, PODS).await?;
    let address = SocketAddr::new(programmed(&space, 80).await?.ip(), PORT);
    for (kind, name) in [("TCPRoute", "tcp"), ("UDPRoute", "udp")] {
        space.until(kind, name, "served", SLOW, status::is_served).await?;
    }
    reachable(address).await?;

    let mut held = Talk::open(address).await?;
    ensure!(held.pod().await?.starts_with("one-tcp-"), "the connection is at another Service");
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(address).await?;
    eventually(LIMIT, "a datagram is answered", || async {
        let answer = ask(&socket).await?;
        ensure!(answer.contains("one-udp-"), "the datagram is at another Service: {answer}");
        Ok(())
    })
    .await?;
    let others: Vec<_> = (0..20).collect();
    for number in &others {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(address).await?;
        let answer = ask(&socket).await?;
        ensure!(answer.contains("one-udp-"), "client {number}: {answer}");
    }

    // An edit leads what is new elsewhere and leaves what is open alone.
    space.apply(&stream_route("TCPRoute", "tcp", "two-tcp")).await?;
    space.apply(&stream_route("UDPRoute", "udp", "two-udp")).await?;
    let took = within(&space, "TCPRoute", "tcp", "served", status::is_served).await?;
    within(&space, "UDPRoute", "udp", "served", status::is_served).await?;
    stage.say(format!("an edit of the TCPRoute is served after {took}"));
    ensure!(Talk::open(address).await?.pod().await?.starts_with("two-tcp-"), "a new connection is at the old Service");
    let fresh = UdpSocket::bind("0.0.0.0:0").await?;
    fresh.connect(address).await?;
    let answer = ask(&fresh).await?;
    ensure!(answer.contains("two-udp-"), "a new client is at the old Service: {answer}");
    ensure!(held.pod().await?.starts_with("one-tcp-"), "the connection from before the edit");

    // A backend that does not exist costs its own route only.
    space.apply(&stream_route("TCPRoute", "tcp", "nobody")).await?;
    let refused = |object: &_| status::is(object, Of::Route, "ResolvedRefs", "False", "BackendNotFound");
    within(&space, "TCPRoute", "tcp", "ResolvedRefs False", refused).await?;
    eventually(LIMIT, "connections are closed", || async {
        ensure!(Talk::open(address).await.is_err(), "a connection for a backend that does not exist is served");
        Ok(())
    })
    .await?;
    ensure!(ask(&fresh).await?.contains("two-udp-"), "the UDPRoute has suffered");
    ensure!(held.pod().await?.starts_with("one-tcp-"), "the connection from before");
    Ok(())
}

/// A BackendTLSPolicy: its authority changes, turns malformed and goes.
pub(crate) async fn a_backend_is_verified_by_policy(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    let (first, second) = (Authority::new()?, Authority::new()?);
    let (chain, key) = first.signs(NAME)?;
    space.apply_value(&secret("backend", &chain, &key)).await?;
    space.apply_value(&authorities(&first.pem)).await?;
    space.apply(&gateway(1, HASTY, "")).await?;
    space.apply(&echo_of("echo", "", &ContainerPort::tls(8443, "backend"))).await?;
    space.apply(&policy(NAME)).await?;
    space.apply(&route("shop", "/", "echo", "")).await?;
    space.rolled_out("echo", "app=echo").await?;
    space.rolled_out(DEPLOYMENT, PODS).await?;
    let address = programmed(&space, 80).await?;
    space.until("HTTPRoute", "shop", "served", SLOW, status::is_served).await?;
    let answers = async |wanted: u16, when: &str| {
        eventually(LIMIT, when, || async {
            let status = line::get(address, "/").await?.status;
            ensure!(status == wanted, "{when}: {status}, not {wanted}");
            Ok(())
        })
        .await
    };
    answers(200, "at first").await?;
    let accepted = |policy: &_| status::is(policy, Of::Ancestor, "Accepted", "True", "Accepted");
    space.until("BackendTLSPolicy", "echo", "accepted", SLOW, accepted).await?;

    space.apply_value(&authorities("no certificate")).await?;
    let refused = |policy: &_| status::is(policy, Of::Ancestor, "ResolvedRefs", "False", "InvalidCACertificateRef");
    stage.say(format!("malformed: {}", within(&space, "BackendTLSPolicy", "echo", "ResolvedRefs False", refused).await?));
    answers(200, "the last good authority is kept").await?;

    space.apply_value(&authorities(&second.pem)).await?;
    answers(503, "another authority").await?;
    space.apply_value(&authorities(&format!("{}{}", second.pem, first.pem))).await?;
    answers(200, "both").await?;
    space.apply(&policy("other.example")).await?;
    answers(503, "another name").await?;
    space.apply(&policy(NAME)).await?;
    answers(200, "its name").await?;

    space.delete("ConfigMap", "authorities").await?;
    within(&space, "BackendTLSPolicy", "echo", "ResolvedRefs False", refused).await?;
    eventually(LIMIT, "without an authority nothing is sent", || async {
        let status = line::get(address, "/").await?.status;
        ensure!(status >= 500, "{status}");
        Ok(())
    })
    .await
}

fn policy(hostname: &str) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{ name: echo }}
spec:
  targetRefs: [{{ group: "", kind: Service, name: echo }}]
  validation:
    hostname: {hostname}
    caCertificateRefs: [{{ group: "", kind: ConfigMap, name: authorities }}]
"#
    )
}

fn authorities(pem: &str) -> serde_json::Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "authorities" }, "data": { "ca.crt": pem } })
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Outcome<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A chain and its key.
    fn signs(&self, name: &str) -> Outcome<(String, String)> {
        let key = KeyPair::generate()?;
        let signed = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok((signed.pem(), key.serialize_pem()))
    }
}

/// A connection to upstream's TCP server, which speaks first.
struct Talk(BufReader<TcpStream>);

impl Talk {
    async fn open(address: SocketAddr) -> Outcome<Self> {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        let mut welcome = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_line(&mut welcome)).await;
        read.map_err(|_| Fault::said("no welcome"))??;
        ensure!(!welcome.is_empty(), "the connection was closed");
        Ok(Self(stream))
    }

    /// The pod at the other end.
    async fn pod(&mut self) -> Outcome<String> {
        self.0.write_all(b"TEST\n").await?;
        let mut answer = String::new();
        while !answer.contains("\"pod\"") {
            answer.clear();
            let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut answer)).await;
            let read = read.map_err(|_| Fault::said("no answer"))??;
            ensure!(read > 0, "the connection was closed");
        }
        let value: serde_json::Value = serde_json::from_str(&answer)?;
        Ok(value["pod"].as_str().unwrap_or_default().to_owned())
    }
}

/// Sends a datagram and waits for its answer.
async fn ask(socket: &UdpSocket) -> Outcome<String> {
    socket.send(b"who").await?;
    let mut buffer = [0; 2048];
    let read = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
    let length = read.map_err(|_| Fault::said("no answer to a datagram"))??;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
