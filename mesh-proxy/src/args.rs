//! The environment and the command line of a sidecar.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use isthmus_dataplane::AccessLog;
use isthmus_dataplane::process::parse_seconds;

use crate::probes::{Page, Probes};
use crate::redirect::{INBOUND, OUTBOUND};

/// One passes on what most pods ask for, with the least memory and without threads that wake each other.
const THREADS: u16 = 1;

/// The injector sets all of it. A sidecar is terminated after the application's containers, so by default it has nothing to wait for but what
/// it still holds of their last answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The controllers' push Service, as HOST:PORT.
    #[arg(long, env = "ISTHMUS_CONTROLLER", value_name = "HOST:PORT")]
    pub(crate) controller: String,

    /// The CAs of the controller, as PEM itself: any namespace may have a sidecar, and none needs a ConfigMap for it.
    #[arg(long, env = "ISTHMUS_CA", value_name = "PEM", hide_env_values = true)]
    pub(crate) ca: String,

    /// The projected service account token (audience isthmus.dev/push); read at each connect.
    #[arg(long, env = "ISTHMUS_TOKEN", value_name = "FILE", default_value = "/var/run/isthmus/token/token")]
    pub(crate) token: PathBuf,

    /// Where the certificate with its key and the last good configuration are kept: memory that outlives this process but not the pod.
    #[arg(long, env = "ISTHMUS_STORE", value_name = "FOLDER", default_value = "/var/run/isthmus/config")]
    pub(crate) store: PathBuf,

    /// Where /readyz, /livez, /metrics, /debug/snapshot, /probe/N and /app-metrics answer. Default: [::]:15423, IPv4 included, or
    /// 0.0.0.0:15423 without IPv6.
    #[arg(long, env = "ISTHMUS_ADMIN", value_name = "ADDRESS")]
    pub(crate) admin: Option<SocketAddr>,

    /// The probes that the application declares, as JSON.
    #[arg(long, env = "ISTHMUS_PROBES", value_name = "JSON", default_value = "[]")]
    pub(crate) probes: Probes,

    /// Where the application has its metrics, as JSON.
    #[arg(long, env = "ISTHMUS_SCRAPE", value_name = "JSON")]
    pub(crate) scrape: Option<Page>,

    /// Where access logs go: off, stdout or a file that is appended to.
    #[arg(long, env = "ISTHMUS_ACCESS_LOG", value_name = "WHERE", default_value = "off")]
    pub(crate) access_log: AccessLog,

    /// An OTLP/HTTP endpoint for spans, such as http://collector.observability:4318.
    #[arg(long, env = "ISTHMUS_OTLP", value_name = "URL")]
    pub(crate) otlp: Option<String>,

    /// Worker threads: more for a pod that asks for more than a core can pass on.
    #[arg(long, env = "ISTHMUS_THREADS", value_name = "N", default_value_t = THREADS, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,

    /// After SIGTERM: how many seconds to go on accepting while /readyz says no.
    #[arg(long, env = "ISTHMUS_LAME_DUCK", value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    pub(crate) lame_duck: Duration,

    /// After SIGTERM: how many seconds until what is left is cut, lame duck included.
    #[arg(long, env = "ISTHMUS_DRAIN", value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    pub(crate) drain: Duration,

    /// The pod's addresses. What is addressed to none of them is not taken as incoming, and the application is probed at the first.
    #[arg(long, env = "POD_IPS", value_name = "IP,IP", value_delimiter = ',', required = true)]
    pub(crate) pod_ips: Vec<IpAddr>,

    /// The pod's namespace, whose consumer routes are those of its application.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub(crate) pod_namespace: String,

    /// The pod's name, for logs.
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value = "")]
    pub(crate) pod_name: String,

    /// The pod's ServiceAccount, for logs: who it is, is said by its token.
    #[arg(long, env = "SERVICE_ACCOUNT", value_name = "NAME", default_value = "")]
    pub(crate) service_account: String,

    /// Where outgoing connections are redirected to, if not by `redirect`; 0: a free port. For tests.
    #[arg(long, value_name = "PORT", default_value_t = OUTBOUND, hide = true)]
    pub(crate) outbound_port: u16,

    /// The same for incoming ones.
    #[arg(long, value_name = "PORT", default_value_t = INBOUND, hide = true)]
    pub(crate) inbound_port: u16,
}

impl Run {
    /// `namespace/name` of the pod.
    pub(crate) fn pod(&self) -> String {
        format!("{}/{}", self.pod_namespace, self.pod_name)
    }

    /// `namespace/name` of the ServiceAccount.
    pub(crate) fn account(&self) -> String {
        format!("{}/{}", self.pod_namespace, self.service_account)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    const LEAST: [&str; 5] = ["run", "--controller=c:1", "--ca=PEM", "--pod-ips=10.0.0.1", "--pod-namespace=shop"];

    fn parse(more: &[&str]) -> Result<Run, String> {
        let words = LEAST.iter().chain(more);
        Line::try_parse_from(words).map(|line| line.run).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_sound() {
        crate::Arguments::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_a_pod() {
        let args = parse(&[]).unwrap();
        assert_eq!((args.lame_duck, args.drain), (Duration::ZERO, Duration::from_secs(5)));
        assert_eq!((args.access_log.clone(), args.admin), (AccessLog::Off, None));
        assert_eq!(args.threads, 1);
        assert!(args.probes.0.is_empty() && args.scrape.is_none());
    }

    #[test]
    fn values_are_read() {
        let args = parse(&[
            "--pod-name=cart-1",
            "--service-account=cart",
            "--threads=3",
            r#"--probes=[{"tcp": {"port": 80}, "timeout": 1}]"#,
            r#"--scrape={"port": 9090, "path": "/metrics", "scheme": "http"}"#,
        ]);
        let args = args.unwrap();
        assert_eq!((args.pod(), args.account()), ("shop/cart-1".to_owned(), "shop/cart".to_owned()));
        assert_eq!((args.threads, args.probes.0.len(), args.scrape.is_some()), (3, 1, true));
    }

    #[test]
    fn mistakes_are_named() {
        for (word, part) in [
            ("--drain=-1", "negative"),
            ("--pod-ips=here", "here"),
            ("--threads=0", "0"),
            ("--probes=[", "EOF"),
            (r#"--probes=[{"exec": {}, "timeout": 1}]"#, "no variant"),
            ("--scrape={}", "port"),
        ] {
            let error = parse(&[word]).unwrap_err();
            assert!(error.contains(part), "{word}: {error}");
        }
        for missing in ["--controller", "--ca", "--pod-ips", "--pod-namespace"] {
            let words = LEAST.iter().filter(|word| !word.starts_with(&format!("{missing}=")));
            let error = Line::try_parse_from(words).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }
}
