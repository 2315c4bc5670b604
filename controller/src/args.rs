//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;

/// The control plane of Isthmus: reads the Gateway API, provides gateways and feeds them.
///
/// The Helm chart writes this command line; ports and names are fixed, docs/kubernetes.md has the table.
#[derive(Debug, Clone, Parser)]
#[command(name = "isthmus-controller", version)]
pub struct Args {
    /// The namespace that the controller runs in: its Lease and the Secret of its certificate are there.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: String,

    /// The name of this instance, which is its pod's.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub name: String,

    /// The address of this instance, which others refer proxies to when it leads.
    #[arg(long, env = "POD_IP", value_name = "IP")]
    pub ip: IpAddr,

    /// The image of the gateways.
    #[arg(long, value_name = "IMAGE")]
    pub gateway_image: String,

    /// When gateways' nodes pull the image.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pub gateway_image_pull_policy: String,

    /// A Secret, in each Gateway's namespace, to pull the image with; may be given several times.
    #[arg(long, value_name = "SECRET")]
    pub gateway_image_pull_secret: Vec<String>,

    /// Only objects of this namespace are read; may be given several times. None: of all.
    #[arg(long, value_name = "NAMESPACE")]
    pub watch_namespace: Vec<String>,

    /// JSON of GatewayParameters' spec: what holds where neither a GatewayClass nor a Gateway says otherwise.
    #[arg(long, value_name = "FILE")]
    pub parameters: Option<PathBuf>,

    /// Where proxies connect.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15410")]
    pub push: SocketAddr,

    /// Where `/readyz`, `/livez` and `/metrics` answer.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15411")]
    pub admin: SocketAddr,

    /// The newest model version that is sent, for tests of proxies and controllers of different releases.
    #[arg(long, value_name = "VERSION", hide = true)]
    pub model: Option<u32>,
}
