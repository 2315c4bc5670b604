//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};
use isthmus_routing::{MtlsMode, TrustDomain};

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

    /// What sidecars are.
    #[command(flatten)]
    pub inject: crate::inject::Flags,

    /// Whether workloads are served too: routes on Services, certificates, sidecars. Without it only Gateways are.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub mesh: bool,

    /// Within which names of workloads mean something: a DNS name. Another one is another mesh, which trusts none of the certificates
    /// that were issued before.
    #[arg(long, value_name = "NAME", default_value_t)]
    pub trust_domain: TrustDomain,

    /// How long certificates of workloads hold, such as `24h` or `90m`: from 10 seconds to 2160 hours. They are renewed at half of it.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lifetime)]
    pub mesh_certificate_lifetime: Duration,

    /// What workloads ask of callers where neither they nor their namespace have the annotation `isthmus.dev/mtls`.
    #[arg(long, value_name = "MODE", default_value = "permissive")]
    pub mtls: Mtls,

    /// The newest model version that is sent, for tests of proxies and controllers of different releases.
    #[arg(long, value_name = "VERSION", hide = true)]
    pub model: Option<u32>,
}

/// As in the annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mtls {
    /// Those without a certificate are served as well.
    Permissive,
    /// They are not.
    Strict,
}

impl From<Mtls> for MtlsMode {
    fn from(mode: Mtls) -> Self {
        match mode {
            Mtls::Permissive => Self::Permissive,
            Mtls::Strict => Self::Strict,
        }
    }
}

/// Shorter, and a proxy would do little but renew; longer, and the end of a pod would mean little.
const LIFETIMES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_hours(2160));

fn lifetime(text: &str) -> Result<Duration, String> {
    let time = text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    let (least, most) = LIFETIMES;
    time.filter(|time| (least..=most).contains(time))
        .ok_or_else(|| "it has to be a time such as 24h, from 10s to 2160h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Args, String> {
        let all = ["isthmus-controller", "--namespace=a", "--name=b", "--ip=10.0.0.1", "--gateway-image=c"];
        Args::try_parse_from(all.iter().chain(flags)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_mesh_is_on_and_permissive() {
        let args = parse(&[]).unwrap();
        assert!(args.mesh);
        assert_eq!((args.trust_domain.as_str(), args.mtls), ("cluster.local", Mtls::Permissive));
        assert_eq!(args.mesh_certificate_lifetime, Duration::from_hours(24));
        let args =
            parse(&["--mesh=false", "--trust-domain=prod.example.com", "--mtls=strict", "--mesh-certificate-lifetime=10s"])
                .unwrap();
        assert!(!args.mesh);
        assert_eq!((args.trust_domain.as_str(), MtlsMode::from(args.mtls)), ("prod.example.com", MtlsMode::Strict));
        assert_eq!(args.mesh_certificate_lifetime, Duration::from_secs(10));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flag in [
            "--mesh=perhaps",
            "--trust-domain=UPPER",
            "--trust-domain=*.example.com",
            "--mtls=off",
            "--mesh-certificate-lifetime=9s",
            "--mesh-certificate-lifetime=-24h",
            "--mesh-certificate-lifetime=2161h",
            "--mesh-certificate-lifetime=24",
        ] {
            assert!(parse(&[flag]).is_err(), "{flag}");
        }
    }
}
