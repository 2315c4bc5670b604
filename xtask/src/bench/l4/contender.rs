//! A gateway that is measured: one thread on a CPU of its own, one port that passes bytes on and one that ends TLS, both to one backend.
//! Where a gateway can splice or buffer more than by default, it does: a comparison with a badly set up peer proves nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::far::{Far, HOST};
use crate::bench::edge::procfs;
use crate::bench::edge::scene::{free_address, on, write};
use crate::bench::objects;
use crate::fault::{Context as _, Fault};
use crate::process::{self, Running};
use crate::workspace;

/// Debian's place for it.
pub(super) const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Where gateways run. While one has its slice the others are idle.
const CPU: &str = "1";
const START: Duration = Duration::from_secs(20);

/// The gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Isthmus,
    /// This gateway as it was.
    Before,
    Haproxy,
    /// A second haproxy, for the noise.
    Again,
    Nginx,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Isthmus => "isthmus",
            Self::Before => "isthmus before",
            Self::Haproxy => "haproxy",
            Self::Again => "haproxy again",
            Self::Nginx => "nginx",
        }
    }
}

/// Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Contender {
    kind: Kind,
    program: PathBuf,
    running: Running,
    plain: SocketAddr,
    tls: SocketAddr,
}

/// What a configuration is made of.
struct Place<'a> {
    folder: &'a Path,
    plain: SocketAddr,
    tls: SocketAddr,
    far: &'a Far,
}

impl Contender {
    /// Starts one in a new folder and waits until bytes go there and back. `before` is the program of [`Kind::Before`].
    pub(super) fn start(far: &Far, kind: Kind, before: Option<&Path>) -> Result<Self, Fault> {
        let program = match (kind, before) {
            (Kind::Before, Some(before)) => before.to_owned(),
            (Kind::Isthmus | Kind::Before, _) => workspace::isthmus(true),
            (Kind::Haproxy | Kind::Again, _) => "haproxy".into(),
            (Kind::Nginx, _) => "nginx".into(),
        };
        let folder = far.folder(&kind.as_str().replace(' ', "-"))?;
        let place = Place { folder: &folder, plain: free_address()?, tls: free_address()?, far };
        write(&folder, "tls.crt", &far.chain)?;
        write(&folder, "tls.key", &far.key)?;
        write(&folder, "both.pem", &format!("{}{}", far.chain, far.key))?;
        let mut command = Command::new(&program);
        match kind {
            Kind::Isthmus | Kind::Before => {
                let yaml = folder.join("yaml");
                fs::create_dir_all(&yaml).context(|| format!("making the folder {}", yaml.display()))?;
                write(&yaml, "gateway.yaml", &isthmus(&place))?;
                command.arg("run").arg(yaml).args(["--admin", &free_address()?.to_string()]);
                command.arg("--access-log").arg(folder.join("access.log"));
            }
            Kind::Haproxy | Kind::Again => {
                command.arg("-db").arg("-f").arg(write(&folder, "haproxy.cfg", &haproxy(&place))?);
            }
            Kind::Nginx => {
                command.arg("-c").arg(write(&folder, "nginx.conf", &nginx(&place))?);
            }
        }
        let mut running = Running::start(kind.as_str(), &on(CPU, &command), &folder.join("log"))?;
        running.wait_until(START, || far.round_trip(place.plain).is_ok())?;
        Ok(Self { kind, program, running, plain: place.plain, tls: place.tls })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn plain(&self) -> SocketAddr {
        self.plain
    }

    pub(super) fn tls(&self) -> SocketAddr {
        self.tls
    }

    /// CPU time of all its threads, to the nanosecond: a slice of handshakes is too short for the clock ticks of `stat`.
    pub(super) fn cpu_seconds(&self) -> Result<f64, Fault> {
        procfs::thread_seconds(self.running.id())
    }

    /// What it calls itself, in one line.
    pub(super) fn version(&self) -> String {
        let said = match self.kind {
            Kind::Isthmus | Kind::Before => process::capture(Command::new(&self.program).arg("--version")),
            Kind::Haproxy | Kind::Again => process::capture(Command::new(&self.program).arg("-v")),
            Kind::Nginx => process::capture(Command::new("sh").args(["-c", "nginx -v 2>&1"])),
        };
        let said = said.unwrap_or_default();
        let line = said.lines().next().unwrap_or("unknown");
        line.split(" - ").next().unwrap_or(line).replace("nginx version: ", "")
    }
}

fn nginx(place: &Place<'_>) -> String {
    let Place { folder, plain, tls, far } = place;
    let (folder, backend) = (folder.display(), far.backend());
    format!(
        "load_module {STREAM_MODULE};
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
stream {{
  log_format main '$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received $session_time $upstream_addr';
  access_log {folder}/access.log main buffer=64k flush=1s;
  tcp_nodelay on;
  proxy_buffer_size 64k;
  server {{ listen {plain}; proxy_pass {backend}; }}
  server {{
    listen {tls} ssl;
    ssl_certificate {folder}/tls.crt;
    ssl_certificate_key {folder}/tls.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    proxy_pass {backend};
  }}
}}
"
    )
}

fn haproxy(place: &Place<'_>) -> String {
    let Place { folder, plain, tls, far } = place;
    let (folder, backend) = (folder.display(), far.backend());
    format!(
        "global
  nbthread 1
  maxconn 2000
  tune.bufsize 65536
  log stdout format raw local0
defaults
  mode tcp
  log global
  option tcplog
  option splice-auto
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend plain
  bind {plain}
  default_backend main
frontend tls
  bind {tls} ssl crt {folder}/both.pem
  default_backend main
backend main
  server one {backend}
"
    )
}

fn isthmus(place: &Place<'_>) -> String {
    let Place { plain, tls, far, .. } = place;
    let route = |kind: &str, section: &str, hostnames: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {section}}}
spec:
  parentRefs: [{{name: edge, sectionName: {section}}}]
{hostnames}  rules: [{{backendRefs: [{{name: main, port: 80}}]}}]
---
"
        )
    };
    let (to_plain, to_tls) = (route("TCPRoute", "plain", ""), route("TLSRoute", "tls", &format!("  hostnames: [{HOST}]\n")));
    let listeners = format!(
        "    - {{name: plain, protocol: TCP, port: {}}}
    - {{name: tls, protocol: TLS, port: {}, tls: {{mode: Terminate, certificateRefs: [{{name: edge}}]}}}}
",
        plain.port(),
        tls.port()
    );
    let gateway = objects::gateway(plain.ip(), &listeners, &far.chain, &far.key);
    format!("{gateway}{to_plain}{to_tls}{}", objects::service(far.backend()))
}
