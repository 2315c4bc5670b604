//! The ruleset of `isthmus-mesh-proxy redirect`, as the kernel carries it out: who is redirected, and whether the original destination is told.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::fault::{Context as _, Fault};
use crate::suites::netns::{self, Namespace};
use crate::suites::stage::Stage;
use crate::suites::{Outcome, tools};
use crate::{process, workspace};

const OUTBOUND: u16 = 15421;
const INBOUND: u16 = 15422;
const ADMIN: u16 = 15423;
/// The sidecar's user, and an application's.
const SIDECAR: u32 = 15420;
const APPLICATION: u32 = 1000;

/// Of the pod and of somebody outside of it, by IP version.
const POD: [&str; 2] = ["10.231.0.1", "fd23::1"];
const OUTSIDE: [&str; 2] = ["10.231.0.2", "fd23::2"];
/// More of somebody outside; the second is a Service's, so to speak: nobody has it.
const EXCLUDED: [&str; 2] = ["10.232.0.9", "fd24::9"];
const NOBODYS: [&str; 2] = ["10.233.0.9", "fd25::9"];
/// Behind the pod, as a container in a container would be.
const BEHIND: [&str; 2] = ["10.234.0.9", "fd26::9"];

/// A port of everybody's, one that is excluded on the way out, and one on the way in.
const PORT: u16 = 8080;
const PORT_OUT: u16 = 587;
const PORT_IN: u16 = 9100;

const PATIENCE: Duration = Duration::from_secs(5);
/// Until it is believed that nobody answers.
const SILENCE: Duration = Duration::from_millis(300);

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    if let Some(why) = netns::unavailable() {
        return Ok(Outcome::skipped(why));
    }
    tools::nft()?;
    let program = workspace::program("isthmus-mesh-proxy", stage.release);
    let net = Net::new(&stage.file(""))?;
    let mut outcome = Outcome::default();
    // As in a pod: root with one capability.
    let redirect = |more: &[&str]| {
        let mut command = net.pod.command("setpriv");
        command.args(["--bounding-set=-all,+net_admin", "--inh-caps=-all", "--"]).arg(&program).arg("redirect");
        process::capture(command.args(more)).map(drop)
    };

    redirect(&[])?;
    net.captured(&mut outcome);
    // A container that is started again: with other exceptions, which are in the place of those before.
    let ports = [&format!("--exclude-outbound-ports={PORT_OUT},25"), &format!("--exclude-inbound-ports={PORT_IN}")];
    redirect(&[ports[0], ports[1], "--exclude-outbound-cidrs=10.232.0.0/16,fd24::/64"])?;
    net.excluded(&mut outcome);
    redirect(&["--exclude-outbound-cidrs=0.0.0.0/0,::/0"])?;
    net.nothing_out(&mut outcome);
    redirect(&[])?;
    net.captured(&mut outcome);
    outcome.count("without the right it says so", without_right(&program));
    outcome.count("--print changes nothing", printed(&net, &program));
    Ok(outcome)
}

/// A pod and somebody outside of it, with everything that may be reached listening.
struct Net {
    pod: Namespace,
    outside: Namespace,
    /// The sidecar's, by IP version.
    outbound: [TcpListener; 2],
    inbound: [TcpListener; 2],
    /// The application's, and the sidecar's third one: all addresses, by IP version and port.
    own: Vec<TcpListener>,
    /// Somebody else's.
    others: Vec<TcpListener>,
}

impl Net {
    fn new(folder: &Path) -> Result<Self, Fault> {
        let (pod, outside) = (Namespace::new("pod", folder)?, Namespace::new("outside", folder)?);
        let with = |addresses: [&str; 2], lengths: [u8; 2]| [0, 1].map(|v| format!("{}/{}", addresses[v], lengths[v]));
        let (here, there) = (with(POD, [24, 64]), with(OUTSIDE, [24, 64]));
        pod.connect("eth0", [&here[0], &here[1]], &outside, [&there[0], &there[1]])?;
        for version in [0, 1] {
            outside.ip(&["address", "add", &with(EXCLUDED, [32, 128])[version], "dev", "lo"])?;
            pod.ip(&["route", "add", "default", "via", OUTSIDE[version]])?;
            outside.ip(&["route", "add", BEHIND[version], "via", POD[version]])?;
        }
        let listen = |namespace: &Namespace, ports: &[u16]| {
            let addresses = ["0.0.0.0", "::"].iter().flat_map(|ip| ports.iter().map(move |port| address(ip, *port)));
            addresses.map(|address| namespace.open(0, || listener(address))).collect::<io::Result<Vec<_>>>()
        };
        let pair = |port: u16| -> io::Result<[TcpListener; 2]> {
            let opened = listen(&pod, &[port])?;
            opened.try_into().map_err(|_| io::Error::other("two were asked for"))
        };
        let opened = || -> io::Result<_> {
            Ok((pair(OUTBOUND)?, pair(INBOUND)?, listen(&pod, &[PORT, PORT_IN, ADMIN])?, listen(&outside, &[PORT, PORT_OUT])?))
        };
        let (outbound, inbound, own, others) = opened().context(|| "opening listeners in network namespaces".to_owned())?;
        Ok(Self { pod, outside, outbound, inbound, own, others })
    }

    /// Without exceptions.
    fn captured(&self, outcome: &mut Outcome) {
        for v in [0, 1] {
            for to in [OUTSIDE[v], NOBODYS[v]] {
                outcome.count(&format!("out to {to}"), self.out(APPLICATION, address(to, PORT), End::Captured(v)));
            }
            outcome.count(&format!("root out to {}", OUTSIDE[v]), self.out(0, address(OUTSIDE[v], PORT), End::Captured(v)));
            outcome
                .count(&format!("the sidecar out to {}", OUTSIDE[v]), self.out(SIDECAR, address(OUTSIDE[v], PORT), End::Others));
            outcome.count("the sidecar to nobody", self.out(SIDECAR, address(NOBODYS[v], PORT), End::Nobody));
            for own in [["127.0.0.1", "::1"][v], POD[v]] {
                for uid in [APPLICATION, SIDECAR] {
                    outcome.count(&format!("{uid} to its own {own}"), self.out(uid, address(own, PORT), End::Own));
                }
            }
            outcome.count(&format!("in to {}", POD[v]), self.inward(address(POD[v], PORT), End::Captured(v)));
            outcome.count("in where nobody listens", self.inward(address(POD[v], 81), End::Captured(v)));
            outcome.count("in to somebody behind it", self.inward(address(BEHIND[v], PORT), End::Nobody));
            outcome.count("in to the admin port", self.inward(address(POD[v], ADMIN), End::Own));
            for port in [OUTBOUND, INBOUND] {
                outcome.count(&format!("in to {port}"), self.inward(address(POD[v], port), End::Captured(v)));
            }
        }
    }

    /// With exceptions.
    fn excluded(&self, outcome: &mut Outcome) {
        for v in [0, 1] {
            let cases = [
                ("out, excluded port", address(OUTSIDE[v], PORT_OUT), End::Others),
                ("out, excluded network", address(EXCLUDED[v], PORT), End::Others),
                ("out, neither", address(OUTSIDE[v], PORT), End::Captured(v)),
            ];
            for (name, to, end) in cases {
                outcome.count(&format!("{name}: {to}"), self.out(APPLICATION, to, end));
            }
            outcome.count("in, excluded port", self.inward(address(POD[v], PORT_IN), End::Own));
            outcome.count("in, another port", self.inward(address(POD[v], PORT), End::Captured(v)));
            outcome.count("in to the admin port still", self.inward(address(POD[v], ADMIN), End::Own));
        }
    }

    /// With everything excluded on the way out.
    fn nothing_out(&self, outcome: &mut Outcome) {
        for v in [0, 1] {
            outcome.count("out, all excluded", self.out(APPLICATION, address(OUTSIDE[v], PORT), End::Others));
            outcome.count("in, nothing excluded", self.inward(address(POD[v], PORT_IN), End::Captured(v)));
        }
    }

    /// From the pod, as the user `uid`.
    fn out(&self, uid: u32, to: SocketAddr, end: End) -> Result<(), String> {
        self.expect(&self.pod, uid, to, end, &self.outbound)
    }

    /// From outside.
    fn inward(&self, to: SocketAddr, end: End) -> Result<(), String> {
        self.expect(&self.outside, APPLICATION, to, end, &self.inbound)
    }

    fn expect(&self, from: &Namespace, uid: u32, to: SocketAddr, end: End, captured: &[TcpListener; 2]) -> Result<(), String> {
        let patience = if end == End::Nobody { SILENCE } else { PATIENCE };
        let connected = from.open(uid, || TcpStream::connect_timeout(&to, patience));
        if end == End::Nobody {
            return if connected.is_err() { Ok(()) } else { Err(format!("somebody answers for {to}")) };
        }
        let client = connected.map_err(|error| format!("connecting to {to}: {error}"))?;
        let client = client.local_addr().map_err(|error| error.to_string())?;
        let listeners = [&captured[..], &self.own, &self.others];
        let [captured, own, others] = taken(listeners, client);
        match (end, captured, own, others) {
            (End::Captured(v), Some(socket), None, None) => {
                let socket = SockRef::from(&socket);
                let told = if v == 0 { socket.original_dst_v4() } else { socket.original_dst_v6() };
                let told = told.map_err(|error| format!("the original destination is not told: {error}"))?;
                if told.as_socket() == Some(to) {
                    Ok(())
                } else {
                    Err(format!("the original destination is told as {told:?}, not {to}"))
                }
            }
            (End::Own, None, Some(_), None) | (End::Others, None, None, Some(_)) => Ok(()),
            (_, captured, own, others) => Err(format!(
                "not at {end:?}, but: captured {}, the pod's own {}, others' {}",
                captured.is_some(),
                own.is_some(),
                others.is_some()
            )),
        }
    }
}

/// Where a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// At the sidecar, with an original destination of this IP version.
    Captured(usize),
    /// At the pod's own port.
    Own,
    /// At somebody else's.
    Others,
    /// Nowhere.
    Nobody,
}

fn address(ip: &str, port: u16) -> SocketAddr {
    // Constants of this file.
    SocketAddr::new(ip.parse().unwrap_or(IpAddr::from([0, 0, 0, 0])), port)
}

/// Of one IP version only.
fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(64)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Which group of listeners has the connection of this client, which it has seen made a moment ago. Others are dropped.
fn taken<const N: usize>(groups: [&[TcpListener]; N], client: SocketAddr) -> [Option<TcpStream>; N] {
    let of = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).find(|(_, peer)| *peer == client);
    let start = Instant::now();
    loop {
        let taken = groups.map(|listeners| listeners.iter().find_map(of).map(|(stream, _)| stream));
        if taken.iter().any(Option::is_some) || start.elapsed() > PATIENCE {
            return taken;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn without_right(program: &Path) -> Result<(), String> {
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(program).arg("redirect");
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let as_expected = output.status.code() == Some(2) && said.contains("NET_ADMIN");
    if as_expected { Ok(()) } else { Err(format!("{}: {said}", output.status)) }
}

/// In a network that has no rules yet, which has none afterwards either.
fn printed(net: &Net, program: &Path) -> Result<(), String> {
    let capture = |command: &mut std::process::Command| process::capture(command).map_err(|fault| fault.to_string());
    let printed = capture(net.outside.command(program).args(["redirect", "--print"]))?;
    let rules = capture(net.outside.command("nft").args(["list", "ruleset"]))?;
    if printed.contains("table inet isthmus") && rules.is_empty() { Ok(()) } else { Err(format!("{printed}\n{rules}")) }
}
