//! Network namespaces: each lives as long as a process of its own does, so nothing is left behind by whoever is killed.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::unistd::{Uid, geteuid, setfsuid};

use crate::fault::{Context as _, Fault};
use crate::process::{self, Running};

const START: Duration = Duration::from_secs(5);

/// Why there can be none on this machine; none: there can.
pub(crate) fn unavailable() -> Option<String> {
    if !geteuid().is_root() {
        return Some("making network namespaces needs root".to_owned());
    }
    let try_it = process::capture(Command::new("unshare").args(["--net", "true"]));
    try_it.err().map(|fault| format!("this machine makes no network namespaces: {fault}"))
}

/// A network of its own, with `lo` up.
#[derive(Debug)]
pub(crate) struct Namespace {
    keeper: Running,
}

impl Namespace {
    /// `folder` takes the log of its process.
    pub(crate) fn new(name: &str, folder: &Path) -> Result<Self, Fault> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let mut keeper = Running::start(name, &command, &folder.join(format!("{name}.log")))?;
        let own = std::fs::read_link("/proc/self/ns/net").context(|| "reading the own network namespace".to_owned())?;
        let id = keeper.id();
        keeper.wait_until(START, || std::fs::read_link(of(id)).is_ok_and(|other| other != own))?;
        let namespace = Self { keeper };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A cable to another one: an interface `name` in both, with an address of each IP version (`10.0.0.1/24`, `fd00::1/64`).
    pub(crate) fn connect(&self, name: &str, addresses: [&str; 2], other: &Self, others: [&str; 2]) -> Result<(), Fault> {
        let peer = other.keeper.id().to_string();
        self.ip(&["link", "add", name, "type", "veth", "peer", "name", name, "netns", &peer])?;
        for (end, addresses) in [(self, addresses), (other, others)] {
            end.ip(&["address", "add", addresses[0], "dev", name])?;
            // Nobody else is there: it need not wait until others had time to object.
            end.ip(&["address", "add", addresses[1], "dev", name, "nodad"])?;
            end.ip(&["link", "set", name, "up"])?;
        }
        Ok(())
    }

    /// `ip` in it.
    pub(crate) fn ip(&self, arguments: &[&str]) -> Result<(), Fault> {
        process::capture(self.command("ip").args(arguments)).map(drop)
    }

    /// A program that will run in it.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", of(self.keeper.id()))).arg("--").arg(program);
        command
    }

    /// Opens a socket in it, as the user `uid` for all that the kernel looks at. The socket stays there wherever it is used.
    pub(crate) fn open<S: Send>(&self, uid: u32, open: impl FnOnce() -> io::Result<S> + Send) -> io::Result<S> {
        let namespace = File::open(of(self.keeper.id()))?;
        // Both are of one thread only, which ends.
        let there = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            setfsuid(Uid::from_raw(uid));
            open()
        };
        std::thread::scope(|scope| scope.spawn(there).join())
            .unwrap_or_else(|_| Err(io::Error::other("opening a socket panicked")))
    }
}

fn of(id: u32) -> String {
    format!("/proc/{id}/ns/net")
}
