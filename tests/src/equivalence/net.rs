//! Network namespaces, each for as long as somebody here holds it: nothing is left of them when this process ends, however it ends.

use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Uid, geteuid, setfsuid};

/// The only address of each namespace, besides those of `lo`.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
/// Who clients and backends are: not root, and no proxy.
const APPLICATION: u32 = 1000;

/// A cable whose other end is here too, where nobody listens: there is a way to every address, and nobody at its end. As in a pod, low ports
/// are for everybody.
const SETUP: &str = "ip link set lo up
ip link add eth0 type veth peer name nobody
ip link set nobody up
ip link set eth0 up
ip address add $0/16 dev eth0
ip route add default dev eth0
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// A network namespace.
#[derive(Debug)]
pub(super) struct Net(File);

/// Why there can be none here.
pub(super) fn unavailable() -> Option<&'static str> {
    if !geteuid().is_root() {
        return Some("network namespaces need root");
    }
    let there_is = |program: &&str| Command::new(program).arg("-V").output().is_ok();
    if !["ip", "nft", "nsenter", "setpriv"].iter().all(there_is) {
        return Some("one of ip, nft, nsenter and setpriv is not installed");
    }
    open().is_err().then_some("this machine makes no network namespaces")
}

/// A new one.
fn open() -> Result<File, String> {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    });
    made.join().map_err(|_| "making it panicked".to_owned())?.map_err(|error| error.to_string())
}

impl Net {
    /// With a way from [`ADDRESS`] to everywhere.
    pub(super) fn new() -> Result<Self, String> {
        let net = Self(open().map_err(|fault| format!("a network namespace: {fault}"))?);
        run(net.command("sh").args(["-ec", SETUP, &ADDRESS.to_string()]))?;
        Ok(net)
    }

    /// A program that will run in it, started from wherever.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())).arg("--").arg(program);
        command
    }

    /// From now on all that this thread opens is there, and not root's. There is no way back.
    ///
    /// # Panics
    /// When it was not root's.
    pub(super) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root may enter it");
        setfsuid(Uid::from_raw(APPLICATION));
    }
}

/// Runs it to its end.
pub(super) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}
