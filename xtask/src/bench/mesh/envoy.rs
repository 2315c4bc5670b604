//! A pair of Envoys that does the work of a pair of sidecars: captured connections, the routes of a Service on the client's side, mTLS with
//! the same names, a line in a log for what is counted there.

use std::net::Ipv4Addr;
use std::path::Path;

use super::authority::Identity;
use super::pods::{PORT, SERVER};
use crate::bench::envoy::{access_log, certificate, cluster, head, http, listener};

/// What the server's Envoy makes of what comes out of mTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inbound {
    /// It passes bytes on, as an incoming sidecar of ours.
    Bytes,
    /// It reads every request again, as an incoming sidecar of Istio.
    Http,
}

/// Of the admin server, on 127.0.0.1.
const ADMIN: u16 = 15000;
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
        "{head}{listener}    - filters:
{http}  clusters:
{cluster}    transport_socket:
      name: tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {sni}
        common_tls_context: {tls}
",
        head = head(Ipv4Addr::LOCALHOST, ADMIN),
        listener = listener("outbound", Ipv4Addr::LOCALHOST, OUTBOUND),
        http = http(folder, "outbound", &routes),
        cluster = cluster("server", SERVER, PORT),
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
        "{head}{listener}    - transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context: {tls}
      filters:
{filter}  clusters:
{cluster}",
        head = head(Ipv4Addr::LOCALHOST, ADMIN),
        listener = listener("inbound", Ipv4Addr::UNSPECIFIED, INBOUND),
        tls = tls(folder, "prefix: 'spiffe://cluster.local/'"),
        cluster = cluster("server", SERVER, PORT),
    )
}

/// Its own certificate, and whose others it takes if their name is like this.
fn tls(folder: &Path, name: &str) -> String {
    let own = certificate(folder);
    let folder = folder.display();
    let names = format!("match_typed_subject_alt_names: [{{san_type: URI, matcher: {{{name}}}}}]");
    let others = format!("trusted_ca: {{filename: {folder}/ca.crt}}, {names}");
    format!("{{tls_certificates: [{own}], validation_context: {{{others}}}}}")
}

const CONNECTION: [(&str, &str); 6] = [
    ("start_time", "%START_TIME%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("source", "%DOWNSTREAM_PEER_URI_SAN%"),
];
