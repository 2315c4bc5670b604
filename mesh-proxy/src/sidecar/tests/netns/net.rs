//! Network namespaces, each for as long as somebody here holds it: nothing is left of them when this process ends, however it ends.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Uid, geteuid, gettid, setfsuid};

/// Whose connections are not redirected.
pub(super) const SIDECAR: u32 = 15420;
pub(super) const APPLICATION: u32 = 1000;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(3);

/// A network namespace.
#[derive(Debug)]
pub(super) struct Net(File);

/// Why there can be none here.
pub(super) fn unavailable() -> Option<&'static str> {
    if !geteuid().is_root() {
        return Some("it needs root");
    }
    let there_is = |program: &str| Command::new(program).arg("-V").output().is_ok();
    let can = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap_or(false);
    (!there_is("ip") || !there_is("nft") || !can).then_some("it needs ip, nft and the right to make network namespaces")
}

impl Net {
    /// With `lo` up.
    pub(super) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let net = Self(File::open(format!("/proc/self/task/{}/ns/net", gettid())).unwrap());
            run("ip", &["link", "set", "lo", "up"]);
            net
        });
        made.join().unwrap()
    }

    /// Does something in it, as this user for all that the kernel looks at: both are a thread's own, and the thread ends.
    pub(super) fn within<T: Send>(&self, uid: u32, what: impl FnOnce() -> T + Send) -> T {
        let there = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            setfsuid(Uid::from_raw(uid));
            what()
        };
        thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(super) fn ip(&self, arguments: &[&str]) {
        self.within(0, || run("ip", arguments));
    }

    /// Has the kernel follow these rules in it.
    pub(super) fn nft(&self, ruleset: &str) {
        let status = self.within(0, || {
            let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
            child.wait().unwrap()
        });
        assert!(status.success(), "nft does not take:\n{ruleset}");
    }

    /// A cable from its `eth0`, with these addresses, to the bridge of another one.
    pub(super) fn plug_into(&self, bridge: &Self, port: &str, addresses: [IpAddr; 2]) {
        let here = format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        bridge.ip(&["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &here]);
        bridge.ip(&["link", "set", port, "master", "bridge", "up"]);
        self.ip(&["link", "set", "eth0", "up"]);
        for address in addresses {
            self.address("eth0", address);
            let version = if address.is_ipv4() { "-4" } else { "-6" };
            self.ip(&[version, "route", "add", "default", "dev", "eth0"]);
        }
    }

    /// One more address, in a network of 16 bits, or of 64.
    pub(super) fn address(&self, link: &str, address: IpAddr) {
        match address {
            IpAddr::V4(_) => self.ip(&["address", "add", &format!("{address}/16"), "dev", link]),
            // Nobody else has it: it need not wait until somebody could object.
            IpAddr::V6(_) => self.ip(&["address", "add", &format!("{address}/64"), "dev", link, "nodad"]),
        }
    }

    /// Of both IP versions.
    pub(super) fn listen(&self, uid: u32, port: u16) -> TcpListener {
        let listener = self.within(uid, || TcpListener::bind(("::", port)).unwrap());
        listener.set_nonblocking(true).unwrap();
        listener
    }

    pub(super) fn connect(&self, uid: u32, to: SocketAddr) -> io::Result<TcpStream> {
        self.within(uid, || TcpStream::connect_timeout(&to, PATIENCE))
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}
