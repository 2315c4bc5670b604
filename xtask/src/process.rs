//! Programs that this tool starts, and ends by their id, also when something fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::fault::{Context as _, Fault};
use crate::workspace;

/// Runs a program to its end; it writes to the terminal.
pub(crate) fn run(command: &mut Command) -> Result<(), Fault> {
    let status = command.status().context(|| starting(command))?;
    if status.success() { Ok(()) } else { Err(Fault::Command { command: line(command), status, output: String::new() }) }
}

/// Runs a program to its end and returns what it wrote to standard output; if it fails, the fault has the end of both.
pub(crate) fn capture(command: &mut Command) -> Result<String, Fault> {
    let output = command.stdin(Stdio::null()).output().context(|| starting(command))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let all = format!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Err(Fault::Command { command: line(command), status: output.status, output: tail(&all, 15) })
}

/// Whether a program of this name can be started.
pub(crate) fn exists(program: &str) -> bool {
    Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status().is_ok_and(|status| status.success())
}

/// Has `./dev` install those system packages that are missing; it names them, and asks on a terminal.
pub(crate) fn packages(names: &[&str]) -> Result<(), Fault> {
    run(Command::new(workspace::root().join("dev")).arg("packages").args(names))
}

/// A program that runs beside this one. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; what it says goes to `log`.
    pub(crate) fn start(name: &str, command: &Command, log: &Path) -> Result<Self, Fault> {
        let out = File::create(log).context(|| format!("making the log {}", log.display()))?;
        let err = out.try_clone().context(|| format!("sharing the log {}", log.display()))?;
        // A tool that is killed cannot end its children; the kernel can.
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => tied.env(key, value),
                None => tied.env_remove(key),
            };
        }
        tied.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = tied.spawn().context(|| starting(command))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Waits until `ready` says so; fails if the program ends first or `patience` runs out, with the end of its log.
    pub(crate) fn wait_until(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<(), Fault> {
        let start = Instant::now();
        while !ready() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.fault(&format!("ended ({status}) before it was ready")));
            }
            if start.elapsed() > patience {
                return Err(self.fault(&format!("was not ready after {} s", patience.as_secs())));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Sends SIGTERM and waits for the end; kills it after `patience`, which is a fault.
    pub(crate) fn terminate(mut self, patience: Duration) -> Result<ExitStatus, Fault> {
        run(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]))?;
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if start.elapsed() < patience => thread::sleep(Duration::from_millis(5)),
                _ => return Err(self.fault(&format!("still ran {} s after SIGTERM", patience.as_secs()))),
            }
        }
    }

    /// Of the process: what starts it becomes it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        tail(&fs::read_to_string(&self.log).unwrap_or_default(), 15)
    }

    fn fault(&self, what: &str) -> Fault {
        Fault::said(format!("{} {what}{}", self.name, self.said()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to kill and nothing to report.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn starting(command: &Command) -> String {
    format!("starting `{}`", line(command))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The last `count` lines, each on a line of its own and indented.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("\n  | {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines_without_empty_ones() {
        assert_eq!(tail("a\n\nb\nc\n", 2), "\n  | b\n  | c");
        assert_eq!(tail("", 2), "");
    }
}
