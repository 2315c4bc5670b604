//! What all gateways share: a folder, a certificate, and the backend.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};

use super::config;
use super::tools::Tools;
use crate::fault::{Context as _, Fault};
use crate::process::Running;
use crate::suites::client::Client;
use crate::suites::instance::free_port;

/// The host that every request is for.
pub(super) const HOST: &str = "bench.test";
/// The path that every request is for; one of ten routes takes it.
pub(super) const PATH: &str = "/service-7/items?id=1";
/// Where clients and the backend run.
const FAR_CPU: &str = "0";

/// Dropping it ends the backend and removes the folder.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) tools: Tools,
    folder: PathBuf,
    pub(super) backend: SocketAddr,
    /// PEM.
    pub(super) chain: String,
    /// PEM.
    pub(super) key: String,
    der: rustls::pki_types::CertificateDer<'static>,
    count: AtomicUsize,
    _backend: Option<Running>,
}

impl Scene {
    pub(super) fn start(tools: Tools) -> Result<Self, Fault> {
        let certificate = |error: rcgen::Error| Fault::said(format!("making a certificate: {error}"));
        let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).map_err(certificate)?;
        let mut scene = Self {
            tools,
            folder: std::env::temp_dir().join(format!("isthmus-bench-{}", std::process::id())),
            backend: free_address()?,
            chain: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            der: made.cert.der().clone(),
            count: AtomicUsize::new(0),
            _backend: None,
        };
        let folder = scene.folder("backend")?;
        let conf = write(&folder, "nginx.conf", &config::backend(&folder, scene.backend))?;
        let mut running = Running::start("the backend", &far(Command::new("nginx").arg("-c").arg(&conf)), &folder.join("log"))?;
        running.wait_until(Duration::from_secs(10), || answers(scene.backend))?;
        scene._backend = Some(running);
        Ok(scene)
    }

    /// A new folder.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, Fault> {
        let folder = self.folder.join(format!("{}-{name}", self.count.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&folder).context(|| format!("making the folder {}", folder.display()))?;
        Ok(folder)
    }

    /// A client that trusts the certificate of the gateways.
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>, Fault> {
        let fault = |error: rustls::Error| Fault::said(format!("making a TLS client: {error}"));
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).map_err(fault)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(fault)?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A folder that stays behind in the system's temporary folder harms nobody.
        let _left = fs::remove_dir_all(&self.folder);
    }
}

/// The same command on the CPU of the clients.
pub(super) fn far(command: &Command) -> Command {
    on(FAR_CPU, command)
}

/// The same command on one CPU.
pub(in crate::bench) fn on(cpu: &str, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", cpu]).arg(command.get_program()).args(command.get_args());
    pinned
}

/// Whether what every client asks is answered with 200.
pub(super) fn answers(address: SocketAddr) -> bool {
    Client::plain(address).get(HOST, PATH).is_ok_and(|answer| answer.status == 200)
}

/// A loopback address that nobody has at the moment.
pub(in crate::bench) fn free_address() -> Result<SocketAddr, Fault> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

/// Writes a file and returns its path.
pub(in crate::bench) fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, Fault> {
    let path = folder.join(name);
    fs::write(&path, text).context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
