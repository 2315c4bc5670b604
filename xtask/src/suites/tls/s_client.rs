//! `openssl s_client`, one connection at a time, and what was counted of it.

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::suites::client::Client;
use crate::suites::instance::Instance;
use crate::suites::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(5);

/// Dials a gateway.
pub(super) struct Dialer<'a> {
    pub(super) stage: &'a Stage,
    pub(super) gateway: &'a Instance,
}

type Verdict = Result<(), String>;

impl Dialer<'_> {
    /// A request for `host` is answered, and the server's certificate is trusted.
    pub(super) fn serves(&self, port: u16, host: &str, flags: &[&str]) -> Verdict {
        is_served(&self.dial(port, host, flags)?)
    }

    /// There is no answer but this alert, and one more connection fault with this reason.
    pub(super) fn refuses(&self, port: u16, flags: &[&str], alert: u8, reason: &str) -> Verdict {
        let before = self.faults(port, reason)?;
        let said = self.dial(port, "edge.example", flags)?;
        is_refused(&said)?;
        if !said.contains(&format!("SSL alert number {alert}\n")) {
            return Err(format!("no alert {alert} in:\n{said}"));
        }
        self.counted(port, reason, before)
    }

    /// Whether the session of a first connection is resumed by a second one. Both are served, for the server name that their flags have.
    pub(super) fn session(&self, first: (u16, &[&str]), second: (u16, &[&str]), resumed: bool) -> Verdict {
        let said = self.two(first, second)?;
        is_served(&said)?;
        let found = said.contains("\nReused, TLSv1");
        if found == resumed && said.contains("\nNew, TLSv1") != resumed {
            return Ok(());
        }
        Err(format!("resumed: {found}, wanted: {resumed}; in:\n{said}"))
    }

    /// The same where the second one has to be refused.
    pub(super) fn refuses_session(&self, first: (u16, &[&str]), second: (u16, &[&str]), reason: &str) -> Verdict {
        let before = self.faults(second.0, reason)?;
        is_refused(&self.two(first, second)?)?;
        self.counted(second.0, reason, before)
    }

    fn two(&self, first: (u16, &[&str]), second: (u16, &[&str])) -> Result<String, String> {
        let file = self.stage.file("session").display().to_string();
        let host = |flags: &[&str]| {
            let name = flags.iter().position(|flag| *flag == "-servername").and_then(|at| flags.get(at + 1).copied());
            name.unwrap_or("edge.example").to_owned()
        };
        is_served(&self.dial(first.0, &host(first.1), &[first.1, &["-sess_out", &file]].concat())?)?;
        self.dial(second.0, &host(second.1), &[second.1, &["-sess_in", &file]].concat())
    }

    /// Sends a request, reads to the end, and returns whatever was said.
    fn dial(&self, port: u16, host: &str, flags: &[&str]) -> Result<String, String> {
        let request = self.stage.file("request");
        let text = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        self.stage.keep(&request, text.as_bytes()).map_err(|fault| fault.to_string())?;
        let input = File::open(&request).map_err(|fault| format!("{}: {fault}", request.display()))?;
        let mut command = Command::new("timeout");
        command.args(["20", "openssl", "s_client", "-ign_eof", "-connect", &self.gateway.at(port).to_string()]);
        command.arg("-CAfile").arg(self.stage.file("authority.pem")).args(flags).stdin(Stdio::from(input));
        let output = command.output().map_err(|fault| format!("starting openssl: {fault}"))?;
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if output.status.code() == Some(124) { Err(format!("no end within 20 s:\n{said}")) } else { Ok(said) }
    }

    fn faults(&self, port: u16, reason: &str) -> Result<u64, String> {
        let metrics = Client::plain(self.gateway.admin()).get("localhost", "/metrics").map_err(|fault| fault.to_string())?;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        // Ports are shifted before anything is counted.
        let labels = [format!("port=\"{}\"", self.gateway.at(port).port()), format!("reason=\"{reason}\"")];
        let is_it =
            |line: &&str| line.starts_with("isthmus_connection_faults_total{") && labels.iter().all(|label| line.contains(label));
        let count = text.lines().find(is_it).and_then(|line| line.rsplit_once(' ')?.1.parse().ok());
        count.ok_or_else(|| format!("no count of {reason} on port {port}"))
    }

    /// One more than before; it is counted when the connection is over, which its client may see earlier.
    fn counted(&self, port: u16, reason: &str, before: u64) -> Verdict {
        let start = Instant::now();
        loop {
            let now = self.faults(port, reason)?;
            if now == before + 1 {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("{reason} went from {before} to {now}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn is_served(said: &str) -> Verdict {
    let wanted = ["HTTP/1.1 200 ", "Verify return code: 0 (ok)"];
    match wanted.iter().find(|wanted| !said.contains(**wanted)) {
        None => Ok(()),
        Some(missing) => Err(format!("no `{missing}` in:\n{said}")),
    }
}

fn is_refused(said: &str) -> Verdict {
    if said.contains("HTTP/1.1 ") { Err(format!("it was answered:\n{said}")) } else { Ok(()) }
}
