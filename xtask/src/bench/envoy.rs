//! What the configurations of all measured Envoys have in common: where they listen and connect, the reading of requests, and the access log.

use std::fmt::Display;
use std::path::Path;

/// Of each request, what Envoy logs by default and the route's name.
pub(super) const REQUEST: [(&str, &str); 17] = [
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

/// All up to the first listener.
pub(super) fn head(admin_ip: impl Display, admin_port: u16) -> String {
    let admin = address(admin_ip, admin_port);
    format!(
        "admin: {{address: {admin}}}
static_resources:
  listeners:
"
    )
}

/// The beginning of a listener, up to what its filter chain is.
pub(super) fn listener(name: &str, ip: impl Display, port: u16) -> String {
    let address = address(ip, port);
    format!(
        "  - name: {name}
    address: {address}
    filter_chains:
"
    )
}

/// A cluster of one endpoint, without TLS.
pub(super) fn cluster(name: &str, ip: impl Display, port: u16) -> String {
    let address = address(ip, port);
    format!(
        "  - name: {name}
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {address}}}}}]}}]
"
    )
}

fn address(ip: impl Display, port: u16) -> String {
    format!("{{socket_address: {{address: {ip}, port_value: {port}}}}}")
}

/// The certificate of a folder with `tls.crt` and `tls.key`.
pub(super) fn certificate(folder: &Path) -> String {
    let folder = folder.display();
    format!("{{certificate_chain: {{filename: {folder}/tls.crt}}, private_key: {{filename: {folder}/tls.key}}}}")
}

/// A filter that reads requests and sends them where the routes of these virtual hosts say.
pub(super) fn http(folder: &Path, name: &str, virtual_hosts: &str) -> String {
    format!(
        "      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          use_remote_address: true
{log}          route_config:
            virtual_hosts:
{virtual_hosts}          http_filters:
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
",
        log = access_log(folder, &REQUEST)
    )
}

/// Of a filter: JSON with these keys into a file of the folder.
pub(super) fn access_log(folder: &Path, keys: &[(&str, &str)]) -> String {
    let format = keys.iter().map(|(key, value)| format!("{key}: '{value}'")).collect::<Vec<_>>().join(", ");
    format!(
        "          access_log:
          - name: file
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}/access.log
              log_format: {{json_format: {{{format}}}}}
",
        folder.display()
    )
}
