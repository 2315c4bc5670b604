//! The command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use isthmus_api::Kind;
use isthmus_dataplane::AccessLog;
use isthmus_dataplane::process::parse_seconds;
use isthmus_inject::KubernetesVersion;

use crate::standalone::{Echoes, Mesh, Settings};
use crate::statuses::Format;

/// A gateway for the Kubernetes Gateway API.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a folder of Gateway API YAML on this machine and follow its edits.
    Run(Run),
    /// Wait until a cluster says that a Gateway, ListenerSet, route or policy is served at its newest generation.
    Wait(Wait),
    /// Give the pods of YAML their sidecars, as the webhook of a cluster does; everything else stays as it is.
    Inject(Inject),
    /// Print the version.
    Version,
}

/// `isthmus run`
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Folders (read with the folders in them), files, or - for standard input.
    #[arg(required = true, value_name = "FOLDER")]
    pub paths: Vec<PathBuf>,

    /// Stand in for what the folder leaves out: echo servers answer for Services without an EndpointSlice; implies --dev-certificates.
    #[arg(long)]
    pub echo: bool,

    /// Self-signed certificates, made in memory, stand in for missing Secrets of HTTPS and TLS listeners.
    #[arg(long)]
    pub dev_certificates: bool,

    /// Move listeners below 1024 up by this much, so that they need no privileges (8000: port 80 is 8080).
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub port_offset: u16,

    /// The first loopback address for Gateways without an address of their own.
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST)]
    pub first_address: Ipv4Addr,

    /// Serve the mesh's side too: every Service gets a loopback address of its own, where a client finds what its sidecar would make of
    /// the call: the routes whose parent the Service is.
    #[arg(long)]
    pub mesh: bool,

    /// The namespace of the mesh's clients: the one whose consumer routes are theirs.
    #[arg(long, value_name = "NAMESPACE", default_value = "default", requires = "mesh")]
    pub mesh_namespace: String,

    /// The first loopback address for Services.
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::new(127, 1, 0, 1), requires = "mesh")]
    pub mesh_first_address: Ipv4Addr,

    /// Print the statuses that a cluster would get and exit: 0 if all is good, 1 if not, 2 if there is nothing to read. Opens no listener.
    #[arg(long)]
    pub once: bool,

    /// How --once prints.
    #[arg(long, value_enum, default_value_t = Format::Table, requires = "once")]
    pub output: Format,

    /// Where /readyz, /metrics and /debug/snapshot answer: an address or off. Default: 127.0.0.1:19090, or a free port if that is taken.
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<Admin>,

    /// Where access logs go: off, stdout or a file that is appended to.
    #[arg(long, value_name = "WHERE", default_value = "off")]
    pub access_log: AccessLog,

    /// An OTLP/HTTP endpoint for spans, such as http://127.0.0.1:4318.
    #[arg(long, value_name = "URL")]
    pub otlp: Option<String>,

    /// Worker threads. Default: one for each core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// After SIGTERM: how many seconds to go on accepting while /readyz says no. Ctrl-C does not wait.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    pub lame_duck: Duration,

    /// After SIGTERM or Ctrl-C: how many seconds until what is left is cut.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_seconds)]
    pub drain: Duration,
}

/// `isthmus wait`
#[derive(Debug, clap::Args)]
pub struct Wait {
    /// What to wait for: gateway/NAME, listenerset/NAME, gatewayclass/NAME, xmesh/NAME, backendtlspolicy/NAME, or a route of any kind, such as
    /// httproute/NAME or udproute/NAME.
    #[arg(value_name = "KIND/NAME")]
    pub object: ObjectName,

    /// Its namespace. Default: the one of the current context.
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// How many seconds to wait.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub timeout: Duration,
}

/// `isthmus inject`
#[derive(Debug, clap::Args)]
pub struct Inject {
    /// Folders (read with the folders in them), files, or - for standard input.
    #[arg(default_value = "-", value_name = "FOLDER")]
    pub paths: Vec<PathBuf>,

    /// The certificates by which sidecars know the controller: the entry ca.crt of the Secret isthmus-push-tls in its namespace.
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,

    /// The namespace of the controller.
    #[arg(long, value_name = "NAMESPACE", default_value = "isthmus-system")]
    pub controller_namespace: String,

    /// The image of the sidecar.
    #[arg(long, value_name = "IMAGE", default_value = concat!("docker.io/isthmus/mesh-proxy:", env!("CARGO_PKG_VERSION")))]
    pub proxy_image: String,

    /// The image that leads the traffic of a pod to its sidecar.
    #[arg(long, value_name = "IMAGE", default_value = concat!("docker.io/isthmus/mesh-redirect:", env!("CARGO_PKG_VERSION")))]
    pub redirect_image: String,

    /// When nodes pull the images.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,

    /// What sidecars log: a level or a filter.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// The version of the cluster, to be refused if it is too old for sidecars.
    #[arg(long, value_name = "VERSION")]
    pub kubernetes_version: Option<KubernetesVersion>,
}

/// `httproute/shop`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// A kind that has a status of ours.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl FromStr for ObjectName {
    type Err = String;

    /// The kind as `kubectl` takes it: singular or plural, in any case, with or without its group.
    fn from_str(text: &str) -> Result<Self, String> {
        const KINDS: [Kind; 10] = [
            Kind::HttpRoute,
            Kind::GrpcRoute,
            Kind::TlsRoute,
            Kind::TcpRoute,
            Kind::UdpRoute,
            Kind::BackendTlsPolicy,
            Kind::Gateway,
            Kind::ListenerSet,
            Kind::GatewayClass,
            Kind::XMesh,
        ];
        let (kind, name) = text.split_once('/').filter(|(_, name)| !name.is_empty()).ok_or("not KIND/NAME")?;
        let kind = kind.to_ascii_lowercase();
        let is_meant = |of: &Kind| {
            let (singular, plural) = (of.as_str().to_ascii_lowercase(), of.plural());
            let full = |name: &str| format!("{name}.{}", of.group());
            kind == singular || kind == plural || kind == full(&singular) || kind == full(plural)
        };
        let kind = KINDS
            .into_iter()
            .find(is_meant)
            .ok_or_else(|| format!("{kind} is not one of {}", KINDS.map(|kind| kind.as_str().to_ascii_lowercase()).join(", ")))?;
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// `--admin`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// Nowhere.
    Off,
    /// There or not at all.
    At(SocketAddr),
}

impl Run {
    /// What stands in for what is missing.
    pub fn settings(&self) -> Settings {
        Settings {
            echo: match (self.echo, self.once) {
                (false, _) => Echoes::Off,
                (true, true) => Echoes::Named,
                (true, false) => Echoes::Running,
            },
            dev_certificates: self.dev_certificates || self.echo,
            port_offset: self.port_offset,
            first_address: self.first_address,
            mesh: self.mesh.then(|| Mesh { namespace: self.mesh_namespace.clone(), first_address: self.mesh_first_address }),
        }
    }
}

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| "not `off` and not an address like 127.0.0.1:19090".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(line: &str) -> Result<Run, String> {
        let words = ["isthmus", "run"].into_iter().chain(line.split_whitespace());
        match Args::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Run(run) => Ok(run),
            Command::Wait(_) | Command::Inject(_) | Command::Version => Err("another command".to_owned()),
        }
    }

    #[test]
    fn objects_are_named_as_kubectl_names_them() {
        for (text, expected) in [
            ("httproute/shop", Ok((Kind::HttpRoute, "shop"))),
            ("HTTPRoutes/shop", Ok((Kind::HttpRoute, "shop"))),
            ("gateways.gateway.networking.k8s.io/edge", Ok((Kind::Gateway, "edge"))),
            ("gatewayclass/isthmus", Ok((Kind::GatewayClass, "isthmus"))),
            ("listenerset/team", Ok((Kind::ListenerSet, "team"))),
            ("xmesh/mesh", Ok((Kind::XMesh, "mesh"))),
            ("tcproutes/db", Ok((Kind::TcpRoute, "db"))),
            ("udproute/dns", Ok((Kind::UdpRoute, "dns"))),
            ("backendtlspolicies.gateway.networking.k8s.io/db", Ok((Kind::BackendTlsPolicy, "db"))),
            (
                "service/shop",
                Err(
                    "service is not one of httproute, grpcroute, tlsroute, tcproute, udproute, backendtlspolicy, gateway, listenerset, gatewayclass, xmesh",
                ),
            ),
            ("httproute/", Err("not KIND/NAME")),
            ("shop", Err("not KIND/NAME")),
        ] {
            let found = text.parse::<ObjectName>();
            let found = found.as_ref().map(|object| (object.kind, object.name.as_str())).map_err(String::as_str);
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let run = run("folder").unwrap();
        assert_eq!((run.port_offset, run.lame_duck, run.drain), (0, Duration::from_secs(5), Duration::from_secs(30)));
        assert_eq!((run.access_log, run.admin, run.output), (AccessLog::Off, None, Format::Table));
    }

    #[test]
    fn values_are_read() {
        let run = run("a b.yaml - --echo --port-offset 8000 --admin off --access-log /tmp/log --drain 0.5").unwrap();
        assert_eq!(run.paths, ["a", "b.yaml", "-"].map(PathBuf::from));
        assert_eq!((run.admin, run.drain), (Some(Admin::Off), Duration::from_millis(500)));
        assert_eq!(run.access_log, AccessLog::File("/tmp/log".into()));
        assert!(run.settings().dev_certificates, "--echo stands in for everything");
        assert!(run.settings().mesh.is_none());
        let mesh = self::run("x --mesh --mesh-namespace shop --mesh-first-address 127.2.0.1").unwrap().settings().mesh.unwrap();
        assert_eq!((mesh.namespace.as_str(), mesh.first_address), ("shop", Ipv4Addr::new(127, 2, 0, 1)));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("", "<FOLDER>"),
            ("x --admin here", "127.0.0.1:19090"),
            ("x --port-offset 70000", "70000"),
            ("x --drain -1", "-1"),
            ("x --drain=-1", "negative"),
            ("x --output yaml", "--once"),
            ("x --mesh-namespace shop", "--mesh"),
            ("x --threads 0", "0"),
        ] {
            let error = run(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
