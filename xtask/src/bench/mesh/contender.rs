//! One way from a client to a server: directly, or through a pair of proxies. Each has pods of its own, with the same addresses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::authority::{Authority, Identity};
use super::envoy::{self, Inbound};
use super::load::Load;
use super::pods::{Cluster, PORT, Pods, SERVER, Side, service};
use super::server;
use crate::bench::edge::procfs::{self, Memory};
use crate::bench::edge::scene::write;
use crate::fault::{Context as _, Fault};
use crate::process::Running;

/// Where the proxies of all pairs run, each with one thread. While one pair has its slice the others are idle.
const CPU: &str = "1";
const START: Duration = Duration::from_secs(20);

/// Ten Services with ten routes each; the first one has an endpoint.
const CLUSTER: Cluster = Cluster { services: 10, routes: 10, endpoints: 1, first_pod: SERVER };
const HOST: &str = "service-0.team-0";
/// One of ten routes takes it.
const PATH: &str = "/items-7/1?id=1";

/// The ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    Isthmus,
    /// A second pair, for the noise.
    Again,
    Envoy,
    /// With a server's side that reads every request again.
    EnvoyHttp,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Isthmus => "isthmus",
            Self::Again => "isthmus again",
            Self::Envoy => "envoy",
            Self::EnvoyHttp => "envoy, HTTP twice",
        }
    }
}

/// What the proxies are.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) sidecar: PathBuf,
    /// The second pair's.
    pub(super) again: PathBuf,
    pub(super) envoy: PathBuf,
}

impl Programs {
    /// Redirects, whatever the proxies are.
    fn sidecar(&self, kind: Kind) -> &Path {
        if kind == Kind::Again { &self.again } else { &self.sidecar }
    }

    /// None on a direct way.
    pub(super) fn proxy(&self, kind: Kind) -> Option<&Path> {
        match kind {
            Kind::Direct => None,
            Kind::Isthmus | Kind::Again => Some(self.sidecar(kind)),
            Kind::Envoy | Kind::EnvoyHttp => Some(&self.envoy),
        }
    }
}

/// Dropping it ends its processes and its pods.
#[derive(Debug)]
pub(super) struct Contender {
    kind: Kind,
    /// The client's first; none of a direct way.
    pair: Vec<Running>,
    _controller: Option<Running>,
    pods: Pods,
}

impl Contender {
    /// Starts one and waits until a request goes there and back.
    pub(super) fn start(kind: Kind, folder: PathBuf, programs: &Programs) -> Result<Self, Fault> {
        let pods = Pods::new(folder, programs.sidecar(kind))?;
        server::serve(pods.listen()?);
        let mut one = Self { kind, pair: Vec::new(), _controller: None, pods };
        match kind {
            Kind::Direct => {}
            Kind::Isthmus | Kind::Again => one.start_sidecars()?,
            Kind::Envoy => one.start_envoys(&programs.envoy, Inbound::Bytes)?,
            Kind::EnvoyHttp => one.start_envoys(&programs.envoy, Inbound::Http)?,
        }
        for side in [Side::Client, Side::Server].into_iter().filter(|_| kind != Kind::Direct) {
            one.pods.redirect(side)?;
        }
        // The first call of a sidecar waits for its configuration.
        let mut last = None;
        for _ in 0..20 {
            match one.load() {
                Ok(_) => return Ok(one),
                Err(fault) => last = Some(fault),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let said: String = one.pair.iter().map(Running::said).collect();
        let why = last.map_or_else(String::new, |fault| fault.to_string());
        Err(Fault::said(format!("{} passes nothing on: {why}{said}", kind.as_str())))
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Connections of its client, which have carried requests.
    pub(super) fn load(&self) -> Result<Load, Fault> {
        let to = if self.kind == Kind::Direct { (SERVER, PORT).into() } else { service(0) };
        Load::open(&self.pods, to, HOST, PATH).context(|| format!("asking, {}", self.kind.as_str()))
    }

    /// CPU time so far, the client's proxy first; 0 where there is none.
    pub(super) fn cpu_seconds(&self) -> Result<[f64; 2], Fault> {
        match &self.pair[..] {
            [client, server] => Ok([procfs::thread_seconds(client.id())?, procfs::thread_seconds(server.id())?]),
            _ => Ok([0.0; 2]),
        }
    }

    /// The same order; none where there is no pair.
    pub(super) fn memory(&self) -> Result<Option<[Memory; 2]>, Fault> {
        match &self.pair[..] {
            [client, server] => Ok(Some([procfs::memory(client.id())?, procfs::memory(server.id())?])),
            _ => Ok(None),
        }
    }

    fn start_sidecars(&mut self) -> Result<(), Fault> {
        let authority = Authority::new()?;
        let controller = self.pods.controller(CLUSTER, &authority)?;
        for (side, identity) in [(Side::Client, Identity::of_client()), (Side::Server, Identity::of_service(0))] {
            let log = self.pods.folder_of(side)?.join("access.log");
            let log = format!("--access-log={}", log.display());
            self.pair.push(self.pods.sidecar(side, &identity, &[&log], Some(CPU))?);
        }
        self._controller = Some(controller);
        Ok(())
    }

    fn start_envoys(&mut self, program: &Path, inbound: Inbound) -> Result<(), Fault> {
        let authority = Authority::new()?;
        let server = Identity::of_service(0);
        let program = self.pods.program(program)?;
        for (side, identity) in [(Side::Client, &Identity::of_client()), (Side::Server, &server)] {
            let folder = self.pods.folder_of(side)?;
            let leaf = authority.issue(identity)?;
            write(&folder, "tls.crt", &leaf.certificate.pem())?;
            write(&folder, "tls.key", &leaf.key.serialize_pem())?;
            write(&folder, "ca.crt", &authority.certificate())?;
            let text = match side {
                Side::Client => envoy::client(&folder, HOST, &server, CLUSTER.routes),
                Side::Server => envoy::server(&folder, inbound),
            };
            let conf = write(&folder, "envoy.yaml", &text)?;
            let mut command = Command::new(&program);
            command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]).arg("-c").arg(conf);
            let mut running = self.pods.start(side, &command, Some(CPU))?;
            let net = format!("/proc/{}/net/tcp", running.id());
            let is_open = |port: u16| fs::read_to_string(&net).is_ok_and(|text| text.contains(&format!(":{port:04X} ")));
            running.wait_until(START, || is_open(15421) || is_open(15422))?;
            self.pair.push(running);
        }
        Ok(())
    }
}
