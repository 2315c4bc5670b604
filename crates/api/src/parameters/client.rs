//! How clients reach the proxies of a Gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How clients reach the proxies, and what is believed of what proxies before them say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientParameters {
    /// See the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How many proxies before the Gateway's tell the truth of clients: each adds whoever connects to it to X-Forwarded-For. With 0 the
    /// client is whoever connects (or the source that the PROXY protocol names), and forwarding headers are replaced. With n > 0 the
    /// client is the n-th address from the right of X-Forwarded-For, which is kept and added to, and X-Forwarded-Proto is kept, so the
    /// last of these proxies has to set it. A request whose X-Forwarded-For is shorter is taken as with 0. Only for HTTP. Set it only
    /// where nobody can get past these proxies: whoever connects directly would be believed. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub trusted_hops: Option<u8>,
}

/// Whether connections begin with a header of the PROXY protocol, version 1 or 2, by which a load balancer tells the client's address. Every
/// TCP listener of the Gateway is concerned, no UDP listener is. Default: Off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProxyProtocol {
    /// They do not; a header is taken for what clients send.
    #[default]
    Off,
    /// They do; a connection without a header is closed. Only load balancers should be able to connect, because whoever connects
    /// can name any address.
    Required,
}

/// What a backendRef of a route means, if its Service has HTTPRoutes or GRPCRoutes of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceRoutes {
    /// The Service's endpoints, as the specification has it: its routes are for those who call it in the mesh.
    #[default]
    Ignore,
    /// The Service's routes, for a client in the Gateway's namespace, evaluated once and in the proxy: their filters after those of the
    /// Gateway's route, the shorter timeouts of both, the Service's retries if it has any. Their backendRefs mean endpoints. A request that
    /// none of them takes is answered with 404.
    Evaluate,
}
