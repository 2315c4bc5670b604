//! NSD, a DNS server, behind a UDPRoute and a TCPRoute on one port number, asked by `dig`.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::fault::Fault;
use crate::process::{self, Running};
use crate::suites::instance::{Instance, free_port};
use crate::suites::stage::{Stage, endpoint_slice};
use crate::suites::{Outcome, tools};

const START: Duration = Duration::from_secs(20);
/// Names in the zone, each with an address of its own.
const NAMES: u8 = 200;

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    let program = tools::nsd()?;
    tools::dig()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    stage.keep(&stage.file("zone"), zone().as_bytes())?;
    stage.keep(&stage.file("nsd.conf"), config(stage, address).as_bytes())?;
    let mut command = Command::new(&program);
    command.arg("-d").arg("-c").arg(stage.file("nsd.conf"));
    let mut running = Running::start("nsd", &command, &stage.file("nsd.log"))?;
    let direct = Client { at: address };
    running.wait_until(START, || direct.says("10.0.0.1", &["n1.test.example", "A"]).is_ok())?;
    let slices = [("udp", "UDP"), ("tcp", "TCP")].map(|(name, protocol)| endpoint_slice("dns", name, protocol, address));
    stage.write("endpoints.yaml", &slices.join("---\n"))?;
    let gateway = Instance::start(stage, &[53], &[])?;

    let client = Client { at: gateway.at(53) };
    let mut outcome = Outcome::default();
    outcome.count("by UDP", client.says("10.0.0.7", &["n7.test.example", "A"]));
    outcome.count("by TCP", client.says("10.0.0.7", &["n7.test.example", "A", "+tcp"]));
    outcome.count("a name that is not there", client.says("", &["nothing.test.example", "A"]));
    outcome.count("200 questions of 200 sockets", client.many(false));
    outcome.count("200 questions on one TCP connection", client.many(true));
    outcome.count("an answer of 4000 bytes in one datagram", client.large(&["+bufsize=4096", "+ignore"]));
    outcome.count("one that is too large for it, again by TCP", client.large(&["+bufsize=512"]));
    outcome.count("a whole zone", client.transfer());
    outcome.notes.push(process::capture(Command::new("sh").args(["-c", "nsd -v 2>&1 | head -n 1"]))?.trim().to_owned());
    running.terminate(START)?;
    Ok(outcome)
}

fn zone() -> String {
    let mut zone =
        "$ORIGIN test.example.\n$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n".to_owned();
    for number in 1..=NAMES {
        let _ = writeln!(zone, "n{number} A 10.0.0.{number}");
    }
    for number in 0..16 {
        let _ = writeln!(zone, "large TXT \"{number:02}{}\"", "x".repeat(230));
    }
    zone
}

fn config(stage: &Stage, address: SocketAddr) -> String {
    let folder = stage.file("");
    let folder = folder.display();
    format!(
        "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  zonesdir: \"{folder}\"\n  database: \"\"\n  pidfile: \"\"\n  \
         xfrdfile: \"\"\n  zonelistfile: \"{folder}zone.list\"\n  xfrdir: \"{folder}\"\n  server-count: 1\n  verbosity: 1\n  \
         ipv4-edns-size: 4096\n  rrl-ratelimit: 0\nremote-control:\n  control-enable: no\nzone:\n  name: test.example\n  zonefile: zone\n  \
         provide-xfr: 127.0.0.1 NOKEY\n",
        port = address.port()
    )
}

struct Client {
    at: SocketAddr,
}

impl Client {
    fn dig(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("dig");
        // One try: a datagram that is lost is a fault.
        command.args([&format!("@{}", self.at.ip()), "-p", &self.at.port().to_string(), "+time=5", "+tries=1", "+nocookie"]);
        process::capture(command.args(words)).map(|said| said.trim().to_owned()).map_err(|fault| fault.to_string())
    }

    fn says(&self, expected: &str, words: &[&str]) -> Result<(), String> {
        let said = self.dig(&[words, &["+short"]].concat())?;
        if said == expected { Ok(()) } else { Err(format!("expected {expected}, found {said}")) }
    }

    fn many(&self, tcp: bool) -> Result<(), String> {
        let names: Vec<String> = (1..=NAMES).map(|number| format!("n{number}.test.example")).collect();
        let mut words = vec!["+short"];
        if tcp {
            words.extend(["+tcp", "+keepopen"]);
        }
        words.extend(names.iter().map(String::as_str));
        let said = self.dig(&words)?;
        let expected: Vec<String> = (1..=NAMES).map(|number| format!("10.0.0.{number}")).collect();
        if said.lines().eq(&expected) { Ok(()) } else { Err(format!("{} lines: {said}", said.lines().count())) }
    }

    fn large(&self, words: &[&str]) -> Result<(), String> {
        let said = self.dig(&[&["large.test.example", "TXT", "+short"][..], words].concat())?;
        let whole = said.lines().filter(|line| line.len() == 234).count();
        if whole == 16 { Ok(()) } else { Err(format!("{whole} of 16 records: {said}")) }
    }

    fn transfer(&self) -> Result<(), String> {
        let said = self.dig(&["test.example", "AXFR", "+noall", "+answer"])?;
        let addresses = said.lines().filter(|line| line.starts_with('n') && line.contains("10.0.0.")).count();
        if addresses == usize::from(NAMES) { Ok(()) } else { Err(format!("{addresses} addresses: {said}")) }
    }
}
