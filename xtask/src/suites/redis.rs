//! Redis behind a TCPRoute, behind TLS that is ended and behind TLS that is passed on, asked by its own clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fault::Fault;
use crate::process::{self, Running};
use crate::suites::certificate::Authority;
use crate::suites::instance::{Instance, free_port};
use crate::suites::stage::{Stage, endpoint_slices};
use crate::suites::{Outcome, tools};

const START: Duration = Duration::from_secs(20);

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    let program = tools::redis()?;
    let authority = Authority::new()?;
    let roots = stage.file("authority.pem");
    stage.keep(&roots, authority.pem().as_bytes())?;
    stage.write("certificate.yaml", &authority.issue("edge", &["ended.example"])?.secret)?;
    let own = authority.issue("unused", &["passed-on.example"])?;
    stage.keep(&stage.file("redis.crt"), own.chain.as_bytes())?;
    stage.keep(&stage.file("redis.key"), own.key.as_bytes())?;

    let (clear, secure) = (local(free_port()?), local(free_port()?));
    let mut command = Command::new(&program);
    command.args(["--bind", "127.0.0.1", "--port", &clear.port().to_string(), "--tls-port", &secure.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--tls-auth-clients", "no", "--dir"]).arg(stage.file(""));
    for (flag, file) in [
        ("--tls-cert-file", stage.file("redis.crt")),
        ("--tls-key-file", stage.file("redis.key")),
        ("--tls-ca-cert-file", roots.clone()),
    ] {
        command.arg(flag).arg(file);
    }
    let mut running = Running::start("redis-server", &command, &stage.file("redis.log"))?;
    running.wait_until(START, || ask(clear, &[], &["PING"]).is_ok_and(|said| said == "PONG"))?;
    stage.write("plain.yaml", &endpoint_slices("redis", &[clear]))?;
    stage.write("secure.yaml", &endpoint_slices("redis-tls", &[secure]))?;
    let gateway = Instance::start(stage, &[637, 443], &[])?;

    let value = stage.file("value");
    stage.keep(&value, &vec![b'v'; 3_000_000])?;
    let mut outcome = Outcome::default();
    for (name, at, server_name) in [
        ("TCPRoute", gateway.at(637), None),
        ("TLSRoute, ended", gateway.at(443), Some("ended.example")),
        ("TLSRoute, passed on", gateway.at(443), Some("passed-on.example")),
    ] {
        let client = Client { at, flags: server_name.map_or_else(Vec::new, |name| flags(name, &roots)) };
        outcome.count(&format!("{name}: a value of 3 MB"), client.stores(&value));
        outcome.count(&format!("{name}: an answer that is waited for"), client.waits());
        outcome.count(&format!("{name}: 2000 requests of 10 clients"), client.bench());
    }
    let nobody = ask(gateway.at(443), &flags("other.example", &roots), &["PING"]);
    outcome.count("another name: refused", nobody.map_or(Ok(()), |said| Err(format!("was served: {said}"))));
    outcome.notes.push(process::capture(Command::new(&program).arg("--version"))?.trim().chars().take(21).collect());
    running.terminate(START)?;
    Ok(outcome)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn flags(server_name: &str, roots: &Path) -> Vec<String> {
    let flag = |text: &str| text.to_owned();
    vec![flag("--tls"), flag("--sni"), flag(server_name), flag("--cacert"), roots.display().to_string()]
}

/// One command of `redis-cli`.
fn ask(at: SocketAddr, flags: &[String], words: &[&str]) -> Result<String, String> {
    let mut command = Command::new("timeout");
    command.args(["20", "redis-cli", "-h", &at.ip().to_string(), "-p", &at.port().to_string()]).args(flags).args(words);
    let said = process::capture(&mut command).map_err(|fault| fault.to_string())?;
    // redis-cli ends well when a command, or the connection, did not.
    let said = said.trim().to_owned();
    if said.contains("ERR") || said.contains("Could not connect") { Err(said) } else { Ok(said) }
}

struct Client {
    at: SocketAddr,
    flags: Vec<String>,
}

impl Client {
    fn says(&self, expected: &str, words: &[&str]) -> Result<(), String> {
        let said = ask(self.at, &self.flags, words)?;
        if said == expected { Ok(()) } else { Err(format!("{words:?}: expected {expected}, found {said}")) }
    }

    fn stores(&self, value: &PathBuf) -> Result<(), String> {
        let script =
            "host=$1 port=$2 file=$3; shift 3; timeout 20 redis-cli -h \"$host\" -p \"$port\" \"$@\" -x SET large < \"$file\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", &self.at.ip().to_string(), &self.at.port().to_string()]).arg(value).args(&self.flags);
        let said = process::capture(&mut command).map_err(|fault| fault.to_string())?;
        if said.trim() != "OK" {
            return Err(format!("SET: {said}"));
        }
        self.says("3000000", &["STRLEN", "large"])?;
        let back = ask(self.at, &self.flags, &["GET", "large"])?;
        let whole = back.len() == 3_000_000 && back.bytes().all(|byte| byte == b'v');
        self.says("1", &["DEL", "large"])?;
        if whole { Ok(()) } else { Err(format!("GET gave {} bytes", back.len())) }
    }

    /// The server is silent for a second in the middle of a connection.
    fn waits(&self) -> Result<(), String> {
        self.says("", &["BLPOP", "nothing", "1"])?;
        self.says("PONG", &["PING"])
    }

    fn bench(&self) -> Result<(), String> {
        let mut command = Command::new("timeout");
        command.args(["60", "redis-benchmark", "-h", &self.at.ip().to_string(), "-p", &self.at.port().to_string()]);
        command.args(&self.flags).args(["-n", "2000", "-c", "10", "-t", "set,get,mset", "--csv"]);
        let said = process::capture(&mut command).map_err(|fault| fault.to_string())?;
        let lines = said.lines().filter(|line| line.starts_with("\"SET\"") || line.starts_with("\"GET\"")).count();
        if lines == 2 { Ok(()) } else { Err(format!("redis-benchmark said:\n{said}")) }
    }
}
