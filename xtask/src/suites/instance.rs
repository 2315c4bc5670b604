//! One `isthmus run` as a real process on free loopback ports.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{self, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::fault::Fault;
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

/// A port that nobody has at the moment, and that no outgoing connection will get.
pub(crate) fn free_port() -> Result<u16, Fault> {
    free_offset(&[0])
}

/// By how much to shift these ports so that all of them are free.
fn free_offset(ports: &[u16]) -> Result<u16, Fault> {
    static CURSOR: AtomicU32 = AtomicU32::new(0);
    // Below the range that Linux takes the ports of outgoing connections from, and elsewhere for each process and each call.
    let (first, count) = (10_000_u16, 20_000_u16);
    for _ in 0..count {
        let start = process::id().wrapping_mul(101).wrapping_add(CURSOR.fetch_add(7, Ordering::Relaxed));
        let offset = first + u16::try_from(start % u32::from(count)).unwrap_or_default();
        if ports.iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port + offset)).is_ok()) {
            return Ok(offset);
        }
    }
    Err(Fault::said("found no free ports on 127.0.0.1"))
}
