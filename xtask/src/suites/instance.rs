//! One `isthmus run` as a real process on free loopback ports.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::fault::{Context as _, Fault};
use crate::process::Running;
use crate::suites::client::Client;
use crate::suites::stage::Stage;

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(60);

/// A running gateway. The folders of the suites ask for the address 127.0.0.1; ports are shifted to free ones.
#[derive(Debug)]
pub(crate) struct Instance {
    running: Running,
    offset: u16,
    admin: SocketAddr,
}

impl Instance {
    /// Starts it and waits until `/readyz` says so. `ports`: every port that the folder will ever listen on.
    pub(crate) fn start(stage: &Stage, ports: &[u16], flags: &[&str]) -> Result<Self, Fault> {
        let offset = free_offset(ports)?;
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        Self::start_at(stage, offset, admin, flags)
    }

    /// Starts it where one was before.
    pub(crate) fn start_at(stage: &Stage, offset: u16, admin: SocketAddr, flags: &[&str]) -> Result<Self, Fault> {
        let mut command = Command::new(&stage.isthmus);
        command
            .arg("run")
            .arg(stage.yaml())
            .args(["--port-offset", &offset.to_string(), "--admin", &admin.to_string()])
            .args(flags);
        let mut running = Running::start("isthmus", &command, &stage.file(&format!("isthmus-{}.log", admin.port())))?;
        running.wait_until(START, || is_ready(admin))?;
        Ok(Self { running, offset, admin })
    }

    /// Where a listener's port is.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port + self.offset))
    }

    /// By how much ports are shifted.
    pub(crate) fn offset(&self) -> u16 {
        self.offset
    }

    /// The admin listener.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        self.running.said()
    }

    /// SIGTERM, and the end within a minute.
    pub(crate) fn terminate(self) -> Result<ExitStatus, Fault> {
        self.running.terminate(STOP)
    }
}

/// Whether `/readyz` of this admin listener answers 200.
pub(crate) fn is_ready(admin: SocketAddr) -> bool {
    Client::plain(admin).get("localhost", "/readyz").is_ok_and(|answer| answer.status == 200)
}

/// A port that nobody has at the moment.
pub(crate) fn free_port() -> Result<u16, Fault> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(|| "looking for a free port".to_owned())?;
    Ok(listener.local_addr().context(|| "looking for a free port".to_owned())?.port())
}

fn free_offset(ports: &[u16]) -> Result<u16, Fault> {
    let lowest = ports.iter().copied().min().unwrap_or(0);
    for _ in 0..100 {
        let offset = free_port()?.saturating_sub(lowest);
        let free =
            |port: &u16| port.checked_add(offset).is_some_and(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
        if offset > 0 && ports.iter().all(free) {
            return Ok(offset);
        }
    }
    Err(Fault::said("found no free ports on 127.0.0.1"))
}
