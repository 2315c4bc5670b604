//! The objects that tests are made of.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpStream;

use crate::fault::{Fault, Outcome};
use crate::space::{SLOW, Space};
use crate::stage::eventually;
use crate::status;

/// The host of every route here.
pub(crate) const HOST: &str = "shop.example";
/// What a Gateway's pods and Service are called in these tests.
pub(crate) const DEPLOYMENT: &str = "isthmus-edge";
/// What its pods have.
pub(crate) const PODS: &str = "gateway.networking.k8s.io/gateway-name=edge,app.kubernetes.io/name=isthmus-gateway";
/// The image of upstream's suite.
const ECHO: &str = "registry.k8s.io/gateway-api/conformance/echo-basic:v0.1.0";

/// GatewayParameters `small` and Gateway `edge`, which uses them, with one HTTP listener on port 80. `more`: further listeners, each line
/// indented by two; `spec`: further parameters, in braces' style.
pub(crate) fn gateway(replicas: u32, spec: &str, more: &str) -> String {
    gateway_of("isthmus", replicas, spec, more)
}

/// The same of a class.
pub(crate) fn gateway_of(class: &str, replicas: u32, spec: &str, more: &str) -> String {
    let spec = if spec.is_empty() { String::new() } else { format!(", {spec}") };
    format!(
        r"
apiVersion: isthmus.dev/v1alpha1
kind: GatewayParameters
metadata: {{ name: small }}
spec: {{ replicas: {replicas}, resources: {{ requests: {{ cpu: 5m, memory: 32Mi }} }}{spec} }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge }}
spec:
  gatewayClassName: {class}
  infrastructure: {{ parametersRef: {{ group: isthmus.dev, kind: GatewayParameters, name: small }} }}
  listeners:
  - {{ name: http, port: 80, protocol: HTTP, allowedRoutes: {{ namespaces: {{ from: All }} }} }}
{more}
"
    )
}

/// Short: for tests in which nothing has to be drained.
pub(crate) const HASTY: &str = "terminationGracePeriodSeconds: 6";

/// Deployment and Service `name`: pods that answer 200 with what they were asked, and say for five seconds after their end was ordered
/// that it was, as users' pods do.
pub(crate) fn echo(name: &str, replicas: u32) -> String {
    format!(
        r"
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec: {{ selector: {{ app: {name} }}, ports: [{{ name: http, port: 80, targetPort: 3000 }}] }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name}, labels: {{ app: {name} }} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: {name} }} }}
  strategy: {{ rollingUpdate: {{ maxSurge: 1, maxUnavailable: 0 }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      terminationGracePeriodSeconds: 10
      automountServiceAccountToken: false
      securityContext: {{ runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{ type: RuntimeDefault }} }}
      containers:
      - name: echo
        image: {ECHO}
        env:
        - {{ name: POD_NAME, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}
        - {{ name: NAMESPACE, valueFrom: {{ fieldRef: {{ fieldPath: metadata.namespace }} }} }}
        lifecycle: {{ preStop: {{ sleep: {{ seconds: 5 }} }} }}
        readinessProbe: {{ tcpSocket: {{ port: 3000 }}, periodSeconds: 1 }}
        resources: {{ requests: {{ cpu: 5m, memory: 16Mi }} }}
        securityContext: {{ allowPrivilegeEscalation: false, capabilities: {{ drop: [ALL] }} }}
"
    )
}

/// The port that a pod of [`echo_of`] is asked at.
pub(crate) struct ContainerPort {
    number: u16,
    protocol: &'static str,
    /// The Secret with the pair that it ends TLS with.
    pair: Option<&'static str>,
}

impl ContainerPort {
    pub(crate) fn tcp(number: u16) -> Self {
        Self { number, protocol: "TCP", pair: None }
    }

    pub(crate) fn udp(number: u16) -> Self {
        Self { number, protocol: "UDP", pair: None }
    }

    pub(crate) fn tls(number: u16, pair: &'static str) -> Self {
        Self { number, protocol: "TCP", pair: Some(pair) }
    }
}

/// Deployment and Service `name` with port 80: one pod of upstream's server, `switch` being what makes another server of it.
pub(crate) fn echo_of(name: &str, switch: &str, port: &ContainerPort) -> String {
    let ContainerPort { number, protocol, pair } = port;
    let switch = if switch.is_empty() { String::new() } else { format!("\n        - {{ name: {switch}, value: \"1\" }}") };
    let (environment, mounts) = match pair {
        None => (String::new(), String::new()),
        Some(pair) => (
            "\n        - { name: TLS_SERVER_CERT, value: /pair/tls.crt }\n        - { name: TLS_SERVER_PRIVKEY, value: /pair/tls.key }"
                .to_owned(),
            format!(
                "        volumeMounts: [{{ name: pair, mountPath: /pair }}]\n      volumes: [{{ name: pair, secret: {{ secretName: {pair} }} }}]"
            ),
        ),
    };
    format!(
        r"
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec: {{ selector: {{ app: {name} }}, ports: [{{ port: 80, targetPort: {number}, protocol: {protocol} }}] }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      terminationGracePeriodSeconds: 2
      automountServiceAccountToken: false
      securityContext: {{ runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{ type: RuntimeDefault }} }}
      containers:
      - name: echo
        image: {ECHO}
        env:
        - {{ name: POD_NAME, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}
        - {{ name: NAMESPACE, valueFrom: {{ fieldRef: {{ fieldPath: metadata.namespace }} }} }}{switch}{environment}
        resources: {{ requests: {{ cpu: 5m, memory: 16Mi }} }}
        securityContext: {{ allowPrivilegeEscalation: false, capabilities: {{ drop: [ALL] }} }}
{mounts}
"
    )
}

/// TCPRoute or UDPRoute `name` on the listener of this name of Gateway `edge`: everything goes to Service `backend`.
pub(crate) fn stream_route(kind: &str, name: &str, backend: &str) -> String {
    format!(
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{ name: {name} }}
spec:
  parentRefs: [{{ name: edge, sectionName: {name} }}]
  rules: [{{ backendRefs: [{{ name: {backend}, port: 80 }}] }}]
"
    )
}

/// HTTPRoute `name` on Gateway `edge`: what begins with `path` goes to Service `backend` (`name` or `name, namespace: other`). `filters`:
/// further lines of the rule, indented by four.
pub(crate) fn route(name: &str, path: &str, backend: &str, filters: &str) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name} }}
spec:
  parentRefs: [{{ name: edge }}]
  hostnames: [{HOST}]
  rules:
  - matches: [{{ path: {{ type: PathPrefix, value: "{path}" }} }}]
    backendRefs: [{{ name: {backend}, port: 80 }}]
{filters}
"#
    )
}

/// A filter that says which edit of a route answered.
pub(crate) fn edit_header(edit: u32) -> String {
    format!(
        r#"    filters:
    - {{ type: ResponseHeaderModifier, responseHeaderModifier: {{ set: [{{ name: x-edit, value: "{edit}" }}] }} }}"#
    )
}

/// A certificate for [`HOST`] with its key, and the certificate's bytes.
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    chain: String,
    key: String,
}

impl Certificate {
    pub(crate) fn new() -> Outcome<Self> {
        let pair = KeyPair::generate()?;
        let signed = CertificateParams::new(vec![HOST.to_owned()])?.self_signed(&pair)?;
        Ok(Self { der: signed.der().to_vec(), chain: signed.pem(), key: pair.serialize_pem() })
    }

    /// Secret `name` with it.
    pub(crate) fn secret(&self, name: &str) -> serde_json::Value {
        secret(name, &self.chain, &self.key)
    }
}

/// A Secret of type `kubernetes.io/tls`.
pub(crate) fn secret(name: &str, chain: &str, key: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": chain, "tls.key": key },
    })
}

/// How long kube-proxy may take to learn of a port or an endpoint of a Service, which no API tells of. It collects changes for a second.
pub(crate) const KUBE_PROXY: Duration = Duration::from_secs(5);

/// Waits until Gateway `edge` is programmed, and until kube-proxy leads to it; returns where it answers at a port.
pub(crate) async fn programmed(space: &Space, port: u16) -> Outcome<SocketAddr> {
    space.until("Gateway", "edge", "programmed", SLOW, status::is_programmed).await?;
    let gateway = space.get("Gateway", "edge").await?;
    let address = status::first_address(&gateway, port);
    let address = address.ok_or_else(|| Fault::said("Gateway edge is programmed and has no address"))?;
    reachable(address).await?;
    Ok(address)
}

/// Waits until a connection is accepted; returns how long that took.
pub(crate) async fn reachable(address: SocketAddr) -> Outcome<Duration> {
    let start = Instant::now();
    eventually(KUBE_PROXY, "kube-proxy leads to the Gateway", || async {
        // Not for longer: a lost packet is sent again only after a second.
        let connected = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await;
        let connected = connected.map_err(|_| Fault::said(format!("{address}: no answer")))?;
        connected.map(drop).map_err(|error| Fault::said(format!("{address}: {error}")))
    })
    .await?;
    Ok(start.elapsed())
}

/// Applies Gateway, backend and a route for `/`, and waits until they serve; returns where.
pub(crate) async fn served(space: &Space, replicas: u32, spec: &str) -> Outcome<SocketAddr> {
    space.apply(&gateway(replicas, spec, "")).await?;
    space.apply(&echo("echo", 2)).await?;
    space.apply(&route("shop", "/", "echo", "")).await?;
    space.rolled_out("echo", "app=echo").await?;
    space.rolled_out(DEPLOYMENT, PODS).await?;
    let address = programmed(space, 80).await?;
    space.until("HTTPRoute", "shop", "served", SLOW, status::is_served).await?;
    Ok(address)
}
