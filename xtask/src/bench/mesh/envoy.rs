//! A pair of Envoys that does the work of a pair of sidecars: captured connections, the routes of a Service on the client's side, mTLS with
//! the same names, a line in a log for what is counted there.

use std::path::Path;

use super::authority::Identity;
use super::pods::{PORT, SERVER};

/// What the server's Envoy makes of what comes out of mTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inbound {
    /// It passes bytes on, as an incoming sidecar of ours.
    Bytes,
    /// It reads every request again, as an incoming sidecar of Istio.
    Http,
}

/// What `redirect` redirects to.
const OUTBOUND: u16 = 15421;
const INBOUND: u16 = 15422;

/// `folder` has `tls.crt`, `tls.key` and `ca.crt`. `host` is the Service's, which has `routes` routes.
pub(super) fn client(folder: &Path, host: &str, server: &Identity, routes: u32) -> String {
    let matches: String = (0..routes)
        .map(|number| {
            format!(
                "                - name: items-{number}
                  match: {{path_separated_prefix: /items-{number}}}
                  request_headers_to_add:
                  - {{header: {{key: x-route, value: items-{number}}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}
                  route: {{cluster: server}}
"
            )
        })
        .collect();
    let routes =
        format!("              - name: service\n                domains: ['{host}']\n                routes:\n{matches}");
    format!(
        "{head}  - name: outbound
    address: {{socket_address: {{address: 127.0.0.1, port_value: {OUTBOUND}}}}}
    filter_chains:
    - filters:
{http}  clusters:
{cluster}    transport_socket:
      name: tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {sni}
        common_tls_context: {tls}
",
        head = head(),
        http = http(folder, "outbound", &routes),
        cluster = cluster(),
        sni = server.dns_name(),
        tls = tls(folder, &format!("exact: '{}'", server.spiffe())),
    )
}

/// The same folder's content, for the server.
pub(super) fn server(folder: &Path, inbound: Inbound) -> String {
    let filter = match inbound {
        Inbound::Bytes => format!(
            "      - name: tcp
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: inbound
          cluster: server
{}",
            access_log(folder, &CONNECTION)
        ),
        Inbound::Http => {
            let routes = "              - name: all
                domains: ['*']
                routes: [{match: {prefix: /}, route: {cluster: server}}]
";
            http(folder, "inbound", routes)
        }
    };
    format!(
        "{head}  - name: inbound
    address: {{socket_address: {{address: 0.0.0.0, port_value: {INBOUND}}}}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context: {tls}
      filters:
{filter}  clusters:
{cluster}",
        head = head(),
        tls = tls(folder, "prefix: 'spiffe://cluster.local/'"),
        cluster = cluster(),
    )
}

fn head() -> &'static str {
    "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
static_resources:
  listeners:
"
}

/// The one endpoint.
fn cluster() -> String {
    format!(
        "  - name: server
    type: STATIC
    load_assignment:
      cluster_name: server
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {SERVER}, port_value: {PORT}}}}}}}}}]}}]
"
    )
}

/// Its own certificate, and whose others it takes if their name is like this.
fn tls(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    let own = format!("certificate_chain: {{filename: {folder}/tls.crt}}, private_key: {{filename: {folder}/tls.key}}");
    let names = format!("match_typed_subject_alt_names: [{{san_type: URI, matcher: {{{name}}}}}]");
    let others = format!("trusted_ca: {{filename: {folder}/ca.crt}}, {names}");
    format!("{{tls_certificates: [{{{own}}}], validation_context: {{{others}}}}}")
}

/// A filter that reads requests and sends them where these routes say.
fn http(folder: &Path, name: &str, routes: &str) -> String {
    format!(
        "      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          use_remote_address: true
{log}          route_config:
            virtual_hosts:
{routes}          http_filters:
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
",
        log = access_log(folder, &REQUEST)
    )
}

const REQUEST: [(&str, &str); 17] = [
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

const CONNECTION: [(&str, &str); 6] = [
    ("start_time", "%START_TIME%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("source", "%DOWNSTREAM_PEER_URI_SAN%"),
];

fn access_log(folder: &Path, keys: &[(&str, &str)]) -> String {
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
