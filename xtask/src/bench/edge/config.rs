//! The same gateway in four languages: ten routes to one backend, HTTP and HTTPS, `X-Forwarded-*`, an access log in a file, metrics.
//!
//! Where a gateway can buffer its log or keep connections to the backend, it does: a comparison with a badly set up peer proves nothing.

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::scene::{HOST, Scene};

/// Where a gateway is and what it may use.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Holds `tls.crt`, `tls.key` and, for haproxy, `both.pem`.
    pub(super) folder: &'a Path,
    pub(super) plain: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) scene: &'a Scene,
}

/// Ten lines, one for each route: `/service-0` to `/service-9`.
fn routes(line: impl Fn(&str) -> String) -> String {
    (0..10).map(|number| line(&format!("/service-{number}"))).collect()
}

/// What both nginx files begin with. One process, so that killing it leaves none behind.
fn nginx_head(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
"
    )
}

/// Answers everything with the same 121 bytes.
pub(super) fn backend(folder: &Path, at: SocketAddr) -> String {
    let body = "x".repeat(121);
    let head = nginx_head(folder);
    format!("{head}  access_log off;\n  server {{ listen {at}; location / {{ return 200 {body}; }} }}\n}}\n")
}

pub(super) fn nginx(place: &Place<'_>) -> String {
    let Place { folder, plain, tls, admin, scene } = place;
    let (head, folder, backend) = (nginx_head(folder), folder.display(), scene.backend);
    let keys = [
        ("start_time", "time_iso8601"),
        ("method", "request_method"),
        ("path", "request_uri"),
        ("protocol", "server_protocol"),
        ("response_code", "status"),
        ("bytes_received", "request_length"),
        ("bytes_sent", "body_bytes_sent"),
        ("duration", "request_time"),
        ("upstream_service_time", "upstream_header_time"),
        ("x_forwarded_for", "http_x_forwarded_for"),
        ("user_agent", "http_user_agent"),
        ("request_id", "http_x_request_id"),
        ("authority", "host"),
        ("upstream_host", "upstream_addr"),
        ("downstream_remote_address", "remote_addr"),
    ];
    let log = keys.map(|(key, variable)| format!("\"{key}\":\"${variable}\"")).join(",");
    let locations = routes(|path| format!("    location {path} {{ proxy_pass http://backend; }}\n"));
    format!(
        "{head}  log_format json escape=json '{{{log}}}';
  access_log {folder}/access.log json buffer=64k flush=1s;
  upstream backend {{ server {backend}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {plain};
    listen {tls} ssl;
    ssl_certificate {folder}/tls.crt;
    ssl_certificate_key {folder}/tls.key;
    proxy_http_version 1.1;
    proxy_set_header Connection '';
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
{locations}  }}
  server {{ listen {admin}; access_log off; location / {{ stub_status; }} }}
}}
"
    )
}

pub(super) fn haproxy(place: &Place<'_>) -> String {
    let Place { folder, plain, tls, admin, scene } = place;
    let (folder, backend) = (folder.display(), scene.backend);
    let uses = routes(|path| format!("  use_backend main if {{ path_beg {path} }}\n"));
    format!(
        "global
  nbthread 1
  maxconn 8000
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  option forwardfor
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
frontend edge
  bind {plain}
  bind {tls} ssl crt {folder}/both.pem
  http-request set-header X-Forwarded-Proto http
{uses}frontend metrics
  bind {admin}
  no log
  http-request use-service prometheus-exporter if {{ path /metrics }}
backend main
  http-reuse always
  server one {backend} pool-max-conn 256
"
    )
}

pub(super) fn envoy(place: &Place<'_>) -> String {
    let Place { folder, plain, tls, admin, scene } = place;
    let folder = folder.display();
    let socket = |at: &SocketAddr| format!("{{socket_address: {{address: {}, port_value: {}}}}}", at.ip(), at.port());
    let tls_context = format!(
        "transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - {{certificate_chain: {{filename: {folder}/tls.crt}}, private_key: {{filename: {folder}/tls.key}}}}
      "
    );
    let keys = [
        ("start_time", "%START_TIME%"),
        ("method", "%REQ(:METHOD)%"),
        ("path", "%REQ(:PATH)%"),
        ("protocol", "%PROTOCOL%"),
        ("response_code", "%RESPONSE_CODE%"),
        ("response_flags", "%RESPONSE_FLAGS%"),
        ("bytes_received", "%BYTES_RECEIVED%"),
        ("bytes_sent", "%BYTES_SENT%"),
        ("duration", "%DURATION%"),
        ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
        ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
        ("user_agent", "%REQ(USER-AGENT)%"),
        ("request_id", "%REQ(X-REQUEST-ID)%"),
        ("authority", "%REQ(:AUTHORITY)%"),
        ("upstream_host", "%UPSTREAM_HOST%"),
        ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
        ("route", "%ROUTE_NAME%"),
    ];
    let log = keys.map(|(key, value)| format!("{key}: '{value}'")).join(", ");
    let matches = routes(|path| {
        format!("                - {{name: {path}, match: {{path_separated_prefix: {path}}}, route: {{cluster: main}}}}\n")
    });
    let listener = |name: &str, at: &SocketAddr, transport: &str| {
        format!(
            "  - name: {name}
    address: {at}
    filter_chains:
    - {transport}filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          use_remote_address: true
          access_log:
          - name: file
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {folder}/access.log
              log_format: {{json_format: {{{log}}}}}
          route_config:
            virtual_hosts:
              - name: all
                domains: ['*']
                routes:
{matches}          http_filters:
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
",
            at = socket(at),
        )
    };
    format!(
        "admin: {{address: {admin}}}
static_resources:
  listeners:
{http}{https}  clusters:
  - name: main
    type: STATIC
    load_assignment:
      cluster_name: main
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {backend}}}}}]}}]
",
        admin = socket(admin),
        http = listener("http", plain, ""),
        https = listener("https", tls, &tls_context),
        backend = socket(&scene.backend),
    )
}

/// Gateway API, with one rule for each route.
pub(super) fn isthmus(place: &Place<'_>) -> String {
    let Place { plain, tls, scene, .. } = place;
    let (chain, key) = (BASE64_STANDARD.encode(&scene.chain), BASE64_STANDARD.encode(&scene.key));
    let rules = routes(|path| {
        format!("    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      backendRefs: [{{name: main, port: 80}}]\n")
    });
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
    - {{name: http, protocol: HTTP, port: {http}}}
    - {{name: https, protocol: HTTPS, port: {https}, tls: {{certificateRefs: [{{name: edge}}]}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: edge}}
type: kubernetes.io/tls
data:
  tls.crt: {chain}
  tls.key: {key}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: services}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [{HOST}]
  rules:
{rules}---
apiVersion: v1
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
endpoints: [{{addresses: [{backend}]}}]
ports: [{{name: main, protocol: TCP, port: {port}}}]
",
        address = plain.ip(),
        http = plain.port(),
        https = tls.port(),
        backend = scene.backend.ip(),
        port = scene.backend.port(),
    )
}
