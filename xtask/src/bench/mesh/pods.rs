//! Two pods: network namespaces joined by a cable, with a proxy beside each. They are gone when the processes of this are, however that ends.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::authority::{Authority, Identity};
use crate::bench::edge::scene::{on, write};
use crate::fault::{Context as _, Fault};
use crate::process::{self, Running};
use crate::programs::{self, Profile};
use crate::suites::client::Client;
use crate::suites::netns::Namespace;
use crate::workspace;

/// Where the pods are.
pub(in crate::bench) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(in crate::bench) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The port of every endpoint.
pub(in crate::bench) const PORT: u16 = 8080;

/// Whose connections `redirect` leaves alone, and whose it does not.
const PROXY: u32 = 15420;
const APPLICATION: u32 = 1000;
/// Of the controller, which is in the client's pod: not redirected there.
const CONTROLLER: u16 = 15410;
/// Of a sidecar.
const ADMIN: u16 = 15423;
const START: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);

/// The address of a Service of the cluster of `bench_controller`.
pub(in crate::bench) fn service(number: u32) -> SocketAddr {
    (Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + number), 80).into()
}

/// The cluster that `bench_controller` makes up.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Cluster {
    pub(in crate::bench) services: u32,
    /// Of each Service.
    pub(in crate::bench) routes: u32,
    /// Of each Service.
    pub(in crate::bench) endpoints: u32,
    /// Where the first endpoint is; the others follow.
    pub(in crate::bench) first_pod: Ipv4Addr,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Side {
    Client,
    Server,
}

impl Side {
    pub(in crate::bench) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    pub(in crate::bench) fn address(self) -> Ipv4Addr {
        match self {
            Self::Client => CLIENT,
            Self::Server => SERVER,
        }
    }
}

/// Dropping them ends the namespaces and removes the folder, which is theirs alone.
#[derive(Debug)]
pub(in crate::bench) struct Pods {
    folder: PathBuf,
    /// The program that redirects, and that a sidecar is.
    sidecar: PathBuf,
    client: Namespace,
    server: Namespace,
}

impl Pods {
    /// Whatever address the client calls, the way there is the cable.
    pub(in crate::bench) fn new(folder: PathBuf, sidecar: &Path) -> Result<Self, Fault> {
        fs::create_dir_all(&folder).context(|| format!("making the folder {}", folder.display()))?;
        // The proxies are somebody else.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).context(|| format!("opening {}", folder.display()))?;
        let (client, server) = (Namespace::new("client", &folder)?, Namespace::new("server", &folder)?);
        let [here, there] = [CLIENT, SERVER].map(|address| format!("{address}/24"));
        client.connect("eth0", [&here, "fd77::1/64"], &server, [&there, "fd77::2/64"])?;
        client.ip(&["route", "add", "default", "via", &SERVER.to_string()])?;
        server.ip(&["route", "add", "default", "via", &CLIENT.to_string()])?;
        Ok(Self { folder, sidecar: sidecar.to_owned(), client, server })
    }

    pub(in crate::bench) fn of(&self, side: Side) -> &Namespace {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// The server's, for whatever address comes there.
    pub(in crate::bench) fn listen(&self) -> Result<TcpListener, Fault> {
        let listener = self.server.open(APPLICATION, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)));
        listener.context(|| "listening in a network namespace".to_owned())
    }

    /// A connection that the client's application makes.
    pub(in crate::bench) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.client.open(APPLICATION, || TcpStream::connect_timeout(&to, CONNECT))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    }

    /// Hands the pod's connections to its proxy, with the real rules.
    pub(in crate::bench) fn redirect(&self, side: Side) -> Result<(), Fault> {
        let mut command = self.of(side).command(&self.sidecar);
        process::capture(command.args(["redirect", &format!("--exclude-inbound-ports={CONTROLLER}")])).map(drop)
    }

    /// A program where the proxies' user may run it: what it came from may be in a folder of root's. A second name if that can be, else a copy.
    pub(in crate::bench) fn program(&self, original: &Path) -> Result<PathBuf, Fault> {
        let name = original.file_name().ok_or_else(|| Fault::said(format!("{} is no program", original.display())))?;
        let own = self.folder.join(name);
        if !own.exists() && fs::hard_link(original, &own).is_err() {
            fs::copy(original, &own).context(|| format!("copying {}", original.display()))?;
        }
        Ok(own)
    }

    /// A new folder that the proxy of one side may write to.
    pub(in crate::bench) fn folder_of(&self, side: Side) -> Result<PathBuf, Fault> {
        let folder = self.folder.join(side.as_str());
        fs::create_dir_all(&folder).context(|| format!("making the folder {}", folder.display()))?;
        chown(&folder, Some(PROXY), Some(PROXY)).context(|| format!("giving {} away", folder.display()))?;
        Ok(folder)
    }

    /// Starts a proxy beside one of them: as the user that a sidecar is, without rights. On one CPU, or wherever there is room.
    pub(in crate::bench) fn start(&self, side: Side, command: &Command, cpu: Option<&str>) -> Result<Running, Fault> {
        let id = PROXY.to_string();
        let mut inner = self.of(side).command("setpriv");
        inner.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
        // A change of the user takes it away.
        inner.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        let inner = match cpu {
            Some(cpu) => on(cpu, &inner),
            None => inner,
        };
        Running::start(side.as_str(), &inner, &self.folder.join(format!("{}-proxy.log", side.as_str())))
    }

    /// Starts the controller of a cluster, in the client's pod.
    pub(in crate::bench) fn controller(&self, cluster: Cluster, authority: &Authority) -> Result<Running, Fault> {
        write(&self.folder, "mesh-ca.crt", &authority.certificate())?;
        write(&self.folder, "mesh-ca.key", &authority.key)?;
        let program = workspace::program("isthmus", false).with_file_name("examples").join("bench_controller");
        let Cluster { services, routes, endpoints, first_pod } = cluster;
        let mut command = self.client.command(program);
        command.arg(format!("{CLIENT}:{CONTROLLER}")).arg(&self.folder);
        command.args([services.to_string(), routes.to_string(), endpoints.to_string(), first_pod.to_string()]);
        let mut running = Running::start("the controller", &command, &self.folder.join("controller.log"))?;
        let ca = self.folder.join("ca.crt");
        running.wait_until(START, || ca.exists())?;
        Ok(running)
    }

    /// Starts a sidecar of that controller and waits until it is ready.
    pub(in crate::bench) fn sidecar(
        &self,
        side: Side,
        identity: &Identity,
        more: &[&str],
        cpu: Option<&str>,
    ) -> Result<Running, Fault> {
        let folder = self.folder_of(side)?;
        let Identity { namespace, account } = identity;
        let token = write(&folder, "token", &format!("{namespace}/{account}/{account}-1"))?;
        let ca = self.folder.join("ca.crt");
        let ca = fs::read_to_string(&ca).context(|| format!("reading {}", ca.display()))?;
        let mut command = Command::new(self.program(&self.sidecar)?);
        command.args(["run", &format!("--controller={CLIENT}:{CONTROLLER}"), &format!("--ca={ca}")]);
        command.args([&format!("--token={}", token.display()), &format!("--store={}", folder.display())]);
        command.args([&format!("--pod-ips={}", side.address()), &format!("--pod-namespace={namespace}")]);
        command.args([&format!("--pod-name={account}-1"), &format!("--service-account={account}")]).args(more);
        let mut running = self.start(side, &command, cpu)?;
        running.wait_until(START, || self.is_ready(side))?;
        Ok(running)
    }

    /// Asked from within: nobody else gets there.
    fn is_ready(&self, side: Side) -> bool {
        let asked = self.of(side).open(0, || Client::plain((Ipv4Addr::LOCALHOST, ADMIN).into()).get("ready", "/readyz"));
        asked.is_ok_and(|answer| answer.status == 200)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        // A folder that stays behind in the system's temporary folder harms nobody.
        let _left = fs::remove_dir_all(&self.folder);
    }
}

/// The sidecar as it is shipped, and what plays the controller; both are built, the first one unless that is not wanted.
pub(in crate::bench) fn build(sidecar: bool) -> Result<PathBuf, Fault> {
    let folder = match sidecar {
        true => programs::build(Profile::Sidecar, &["isthmus-mesh-proxy"])?,
        false => programs::folder(Profile::Sidecar)?,
    };
    process::run(&mut workspace::cargo(&["build", "--package", "isthmus-push", "--example", "bench_controller"]))?;
    Ok(folder.join("isthmus-mesh-proxy"))
}
