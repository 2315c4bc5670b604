//! A gateway that is measured, as a process on a CPU of its own.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::config::{self, Place};
use super::scene::{Scene, answers, free_address, on, write};
use crate::fault::Fault;
use crate::process::Running;

/// Where gateways run. While one has its second the others are idle.
const CPU: &str = "1";
const START: Duration = Duration::from_secs(20);

/// The gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Isthmus,
    /// Pingora with nothing of ours: what of a request's cost is not ours to change. It has no TLS, log, metrics or routes.
    Pingora,
    Nginx,
    Haproxy,
    Envoy,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Isthmus => "isthmus",
            Self::Pingora => "bare pingora",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }
}

/// Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Contender {
    kind: Kind,
    running: Running,
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Contender {
    /// Starts one in a new folder and waits until it answers.
    pub(super) fn start(scene: &Scene, kind: Kind) -> Result<Self, Fault> {
        let folder = scene.folder(kind.as_str())?;
        let place = Place { folder: &folder, plain: free_address()?, tls: free_address()?, admin: free_address()?, scene };
        write(&folder, "tls.crt", &scene.chain)?;
        write(&folder, "tls.key", &scene.key)?;
        let command = command(kind, &place)?;
        let mut running = Running::start(kind.as_str(), &on(CPU, &command), &folder.join("log"))?;
        running.wait_until(START, || answers(place.plain))?;
        Ok(Self { kind, running, plain: place.plain, tls: place.tls })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Of the process; `taskset` has become the gateway.
    pub(super) fn id(&self) -> u32 {
        self.running.id()
    }

    pub(super) fn plain(&self) -> SocketAddr {
        self.plain
    }

    pub(super) fn tls(&self) -> SocketAddr {
        self.tls
    }
}

fn command(kind: Kind, place: &Place<'_>) -> Result<Command, Fault> {
    let folder = place.folder;
    Ok(match kind {
        Kind::Isthmus => {
            let yaml = folder.join("yaml");
            std::fs::create_dir_all(&yaml).map_err(|error| Fault::said(format!("making {}: {error}", yaml.display())))?;
            write(&yaml, "gateway.yaml", &config::isthmus(place))?;
            let mut command = Command::new(&place.scene.tools.isthmus);
            command.arg("run").arg(yaml).args(["--admin", &place.admin.to_string()]);
            command.arg("--access-log").arg(folder.join("access.log"));
            command
        }
        Kind::Pingora => {
            let mut command = Command::new(&place.scene.tools.pingora);
            command.args([place.plain.to_string(), place.scene.backend.to_string()]);
            command
        }
        Kind::Nginx => {
            let conf = write(folder, "nginx.conf", &config::nginx(place))?;
            let mut command = Command::new("nginx");
            command.arg("-c").arg(conf);
            command
        }
        Kind::Haproxy => {
            write(folder, "both.pem", &format!("{}{}", place.scene.chain, place.scene.key))?;
            let conf = write(folder, "haproxy.cfg", &config::haproxy(place))?;
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(conf);
            command
        }
        Kind::Envoy => {
            let conf = write(folder, "envoy.yaml", &config::envoy(place))?;
            let mut command = Command::new(&place.scene.tools.envoy);
            command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]).arg("-c").arg(conf);
            command
        }
    })
}
