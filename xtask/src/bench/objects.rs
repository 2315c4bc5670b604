//! The objects that this gateway's benchmarks have in common, whatever their routes are.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// The Gateway `edge` with its class and with its certificate (PEM), which listeners find in the Secret `edge`. `listeners` is a line for each.
pub(super) fn gateway(address: IpAddr, listeners: &str, chain: &str, key: &str) -> String {
    let (chain, key) = (BASE64_STANDARD.encode(chain), BASE64_STANDARD.encode(key));
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: isthmus}}
spec: {{controllerName: isthmus.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  gatewayClassName: isthmus
  addresses: [{{type: IPAddress, value: {address}}}]
  listeners:
{listeners}---
apiVersion: v1
kind: Secret
metadata: {{name: edge}}
type: kubernetes.io/tls
data:
  tls.crt: {chain}
  tls.key: {key}
---
"
    )
}

/// The Service `main` with one endpoint at its port 80.
pub(super) fn service(backend: SocketAddr) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: main}}
spec:
  ports: [{{name: main, port: 80}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: main-1
  labels: {{kubernetes.io/service-name: main}}
addressType: IPv4
endpoints: [{{addresses: [{}]}}]
ports: [{{name: main, protocol: TCP, port: {}}}]
",
        backend.ip(),
        backend.port(),
    )
}
