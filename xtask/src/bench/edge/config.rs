//! The same gateway in four languages: ten routes to one backend, HTTP and HTTPS, `X-Forwarded-*`, an access log in a file, metrics.
//!
//! Where a gateway can buffer its log or keep connections to the backend, it does: a comparison with a badly set up peer proves nothing.

use std::net::SocketAddr;
use std::path::Path;

use super::scene::{HOST, Scene};
use crate::bench::{envoy, objects};

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
    let tls_context = format!(
        "transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - {}
      ",
        envoy::certificate(folder)
    );
    let matches = routes(|path| {
        format!("                - {{name: {path}, match: {{path_separated_prefix: {path}}}, route: {{cluster: main}}}}\n")
    });
    let hosts = format!("              - name: all\n                domains: ['*']\n                routes:\n{matches}");
    let listener = |name: &str, at: &SocketAddr, transport: &str| {
        let (head, http) = (envoy::listener(name, at.ip(), at.port()), envoy::http(folder, name, &hosts));
        format!("{head}    - {transport}filters:\n{http}")
    };
    format!(
        "{head}{http}{https}  clusters:\n{cluster}",
        head = envoy::head(admin.ip(), admin.port()),
        http = listener("http", plain, ""),
        https = listener("https", tls, &tls_context),
        cluster = envoy::cluster("main", scene.backend.ip(), scene.backend.port()),
    )
}

/// Gateway API, with one rule for each route.
pub(super) fn isthmus(place: &Place<'_>) -> String {
    let Place { plain, tls, scene, .. } = place;
    let rules = routes(|path| {
        format!("    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      backendRefs: [{{name: main, port: 80}}]\n")
    });
    let listeners = format!(
        "    - {{name: http, protocol: HTTP, port: {}}}
    - {{name: https, protocol: HTTPS, port: {}, tls: {{certificateRefs: [{{name: edge}}]}}}}
",
        plain.port(),
        tls.port()
    );
    format!(
        "{gateway}apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: services}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [{HOST}]
  rules:
{rules}---
{service}",
        gateway = objects::gateway(plain.ip(), &listeners, &scene.chain, &scene.key),
        service = objects::service(scene.backend),
    )
}
