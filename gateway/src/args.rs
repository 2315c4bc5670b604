//! The command line and the environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use isthmus_dataplane::AccessLog;
use isthmus_dataplane::process::parse_seconds;
use isthmus_push::client;
use isthmus_routing::Certificate;
use isthmus_routing::snapshot::{ModelVersion, Models};
use tokio::sync::watch;

/// The data plane of one Gateway, fed by the Isthmus controller.
///
/// The controller that made this pod sets all of it; a drain (--lame-duck, then --drain) has to fit into the pod's
/// terminationGracePeriodSeconds: with the defaults 40 s.
#[derive(Debug, Parser)]
#[command(name = "isthmus-gateway", version)]
pub(crate) struct Args {
    /// The controllers' push Service, as HOST:PORT.
    #[arg(long, env = "ISTHMUS_CONTROLLER", value_name = "HOST:PORT")]
    pub(crate) controller: String,

    /// The projected service account token (audience isthmus.dev/push); read at each connect.
    #[arg(long, env = "ISTHMUS_TOKEN", value_name = "FILE", default_value = "/var/run/isthmus/token/token")]
    pub(crate) token: PathBuf,

    /// The CAs of the controller, as PEM; read at each connect.
    #[arg(long, env = "ISTHMUS_CA", value_name = "FILE", default_value = "/var/run/isthmus/ca/ca.crt")]
    pub(crate) ca: PathBuf,

    /// Where the last good configuration is kept, private keys and all: memory that outlives this process but not the pod.
    #[arg(long, env = "ISTHMUS_STORE", value_name = "FOLDER", default_value = "/var/run/isthmus/config")]
    pub(crate) store: PathBuf,

    /// Where /readyz, /livez, /metrics and /debug/snapshot answer. Default: [::]:15412, IPv4 included, or 0.0.0.0:15412 without IPv6.
    #[arg(long, env = "ISTHMUS_ADMIN", value_name = "ADDRESS")]
    pub(crate) admin: Option<SocketAddr>,

    /// Where access logs go: off, stdout or a file that is appended to.
    #[arg(long, env = "ISTHMUS_ACCESS_LOG", value_name = "WHERE", default_value = "stdout")]
    pub(crate) access_log: AccessLog,

    /// An OTLP/HTTP endpoint for spans, such as http://collector.observability:4318.
    #[arg(long, env = "ISTHMUS_OTLP", value_name = "URL")]
    pub(crate) otlp: Option<String>,

    /// Worker threads. Default: one for each core that this container may use.
    #[arg(long, env = "ISTHMUS_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// After SIGTERM: how many seconds to go on accepting while /readyz says no, so that Services and load balancers notice first.
    #[arg(long, env = "ISTHMUS_LAME_DUCK", value_name = "SECONDS", default_value = "6", value_parser = parse_seconds)]
    pub(crate) lame_duck: Duration,

    /// After SIGTERM: how many seconds until what is left is cut, lame duck included.
    #[arg(long, env = "ISTHMUS_DRAIN", value_name = "SECONDS", default_value = "34", value_parser = parse_seconds)]
    pub(crate) drain: Duration,

    /// The pod's addresses: their families are listened on where a Gateway names no address. Default: all families that there are.
    #[arg(long, env = "POD_IPS", value_name = "IP,IP", value_delimiter = ',')]
    pub(crate) pod_ips: Vec<IpAddr>,

    /// The pod's name, for logs.
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value = "")]
    pub(crate) pod_name: String,

    /// The pod's and the Gateway's namespace, for logs.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "")]
    pub(crate) pod_namespace: String,

    /// The Gateway's name, for logs.
    #[arg(long, env = "GATEWAY_NAME", value_name = "NAME", default_value = "")]
    pub(crate) gateway_name: String,

    /// The model versions to announce, as if this were another release: for tests.
    #[arg(long, env = "ISTHMUS_MODELS", value_name = "OLDEST-NEWEST", value_parser = parse_models, hide = true)]
    pub(crate) models: Option<(u32, u32)>,
}

impl Args {
    /// `namespace/name` of the Gateway.
    pub(crate) fn gateway(&self) -> String {
        format!("{}/{}", self.pod_namespace, self.gateway_name)
    }

    /// `namespace/name` of the pod.
    pub(crate) fn pod(&self) -> String {
        format!("{}/{}", self.pod_namespace, self.pod_name)
    }

    /// How the controller is reached. The certificate of the Gateway's identity goes to `certificate`.
    pub(crate) fn client(&self, certificate: watch::Sender<Option<Arc<Certificate>>>) -> client::Options {
        let models = Models::default();
        client::Options {
            controller: self.controller.clone(),
            ca: self.ca.clone(),
            token: self.token.clone(),
            store: Some(self.store.clone()),
            calls: None,
            certificate: Some(certificate),
            away: None,
            models: self.models.map_or(models, |(oldest, newest)| Models {
                oldest: ModelVersion(oldest),
                newest: ModelVersion(newest),
                ..models
            }),
            limits: client::Limits::default(),
        }
    }
}

fn parse_models(text: &str) -> Result<(u32, u32), String> {
    let (oldest, newest) = text.split_once('-').ok_or("not like 1-2")?;
    match (oldest.parse(), newest.parse()) {
        (Ok(oldest), Ok(newest)) if oldest <= newest => Ok((oldest, newest)),
        _ => Err("not like 1-2".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        let words = ["isthmus-gateway"].into_iter().chain(line.split_whitespace());
        Args::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_a_pods() {
        let args = parse("--controller isthmus-controller.isthmus-system:15410").unwrap();
        assert_eq!((args.lame_duck, args.drain), (Duration::from_secs(6), Duration::from_secs(34)));
        assert!(args.drain < Duration::from_secs(40) && args.lame_duck < args.drain, "it fits into the pod's grace");
        assert_eq!((args.access_log, args.admin), (AccessLog::Stdout, None));
    }

    #[test]
    fn values_are_read() {
        let args = parse("--controller c:1 --pod-ips 10.0.0.1,fd00::1 --models 1-2 --access-log off").unwrap();
        assert_eq!(args.pod_ips, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let models = args.client(watch::Sender::new(None)).models;
        assert_eq!((models.oldest, models.newest), (ModelVersion(1), ModelVersion(2)));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("", "--controller"),
            ("--controller c:1 --models 2-1", "1-2"),
            ("--controller c:1 --drain=-1", "negative"),
            ("--controller c:1 --pod-ips here", "here"),
            ("--controller c:1 --threads 0", "0"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
