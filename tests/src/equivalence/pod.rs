//! A proxy as it is shipped: a process of its own, in a network namespace of its own, which follows a controller there. Its client and its
//! backends are in that namespace too. What the client of a sidecar sends comes to it by the kernel's redirection and in no other way.

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use isthmus_push::server::Subject;
use isthmus_routing::{Identity, Snapshot};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};

use super::controller::Controller;
use super::net::{ADDRESS, Net, run};
use super::place::Role;
use crate::client::{self, Answer};

/// Nobody has it.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 245, 0, 1)), 80);
/// How long a proxy with a configuration may take until it is ready, and a connection to be redirected.
const PATIENCE: Duration = Duration::from_secs(10);
const TOKEN: &str = "token";

/// A running one. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Pod {
    process: Child,
    controller: Controller,
    runtime: Runtime,
    net: Arc<Net>,
    _folder: Folder,
    admin: SocketAddr,
}

/// What the proxy reads and keeps.
#[derive(Debug)]
struct Folder(PathBuf);

impl Pod {
    /// Its proxy is ready when this returns, and dies with the calling thread.
    pub(super) fn start(role: &Role) -> Result<Self, String> {
        let net = Arc::new(Net::new()?);
        let inside = net.clone();
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().on_thread_start(move || inside.enter()).build();
        let runtime = runtime.map_err(fault("a runtime"))?;
        let subject = match role {
            Role::Gateway(gateway) => {
                Subject::Gateway { gateway: gateway.clone(), identity: identity(&gateway.namespace, "gateway") }
            }
            Role::Clients(namespace) => Subject::Workload { identity: identity(namespace, "client") },
        };
        let (controller, address) = within(&net, &runtime, async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(fault("a controller"))?;
            let address = listener.local_addr().map_err(fault("a controller"))?;
            Ok::<_, String>((Controller::start(listener, subject, TOKEN)?, address))
        })?;
        let (name, user, admin) = match role {
            Role::Gateway(_) => ("isthmus-gateway", 21420, 15412),
            Role::Clients(_) => ("isthmus-mesh-proxy", 15420, 15423),
        };
        let folder = Folder::new(user, &controller.ca)?;
        let program = folder.program(name)?;
        if matches!(role, Role::Clients(_)) {
            run(net.command(&program).arg("redirect"))?;
        }
        let mut process = net.command("setpriv");
        process.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--bounding-set=-all"]);
        // A change of the user takes the last one away.
        process.args(["--inh-caps=-all", "--pdeathsig=KILL", "--"]).arg(&program);
        match role {
            Role::Gateway(_) => process.args([&format!("--ca={}", folder.path("ca")), "--access-log=off"]),
            Role::Clients(namespace) => {
                process.args(["run", &format!("--ca={}", controller.ca), &format!("--pod-namespace={namespace}")])
            }
        };
        process.args([format!("--controller={address}"), format!("--pod-ips={ADDRESS}")]);
        process.args([format!("--token={}", folder.path("token")), format!("--store={}", folder.path("store"))]);
        if std::env::var_os("ISTHMUS_LOG").is_none() {
            process.env("ISTHMUS_LOG", "error");
        }
        let process = process.spawn().map_err(fault(name))?;
        let mut pod = Self { process, controller, runtime, net, _folder: folder, admin: (Ipv4Addr::LOCALHOST, admin).into() };
        let ready = pod.block_on(pod.ready(matches!(role, Role::Clients(_))));
        ready.map_err(|fault| match pod.process.try_wait() {
            Ok(Some(status)) => format!("{name}: {status}"),
            _ => format!("{name}: {fault}"),
        })?;
        Ok(pod)
    }

    /// Does something with sockets where the proxy is.
    pub(super) fn block_on<T: Send>(&self, what: impl Future<Output = T> + Send) -> T {
        within(&self.net, &self.runtime, what)
    }

    /// Waits until the proxy serves its part of it.
    pub(super) async fn serve(&self, snapshot: Snapshot) -> Result<(), String> {
        self.controller.publish(snapshot).await
    }

    /// How many connections the proxy has taken that went to a Gateway or to a Service.
    pub(super) async fn accepted(&self) -> Result<u64, String> {
        let metrics = self.page("/metrics").await?;
        let text = String::from_utf8_lossy(&metrics.body);
        let of = |line: &&str| [r#"parent_kind="Gateway""#, r#"parent_kind="Service""#].iter().any(|kind| line.contains(kind));
        let lines = text.lines().filter(|line| line.starts_with("isthmus_connections_accepted_total{")).filter(of);
        Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
    }

    async fn ready(&self, captured: bool) -> Result<(), String> {
        self.serve(Snapshot::default()).await?;
        let start = Instant::now();
        while self.page("/readyz").await?.status != 200 {
            if start.elapsed() > PATIENCE {
                return Err(format!("it is not ready within {PATIENCE:?}"));
            }
            sleep(Duration::from_millis(10)).await;
        }
        if captured && !matches!(timeout(PATIENCE, TcpStream::connect(NOWHERE)).await, Ok(Ok(_))) {
            return Err("nothing redirects connections to it".to_owned());
        }
        Ok(())
    }

    /// Of its admin server.
    async fn page(&self, path: &str) -> Result<Answer, String> {
        let exchange = serde_json::from_value(json!({"path": path})).map_err(|error| error.to_string())?;
        client::send(self.admin, false, &exchange).await
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Folder {
    /// With what a proxy of this controller is given, where that may write.
    fn new(user: u32, ca: &str) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isthmus-equivalence-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Self(std::env::temp_dir().join(name));
        let made = || {
            fs::create_dir_all(folder.0.join("store"))?;
            fs::set_permissions(&folder.0, Permissions::from_mode(0o755))?;
            for (name, text) in [("token", TOKEN), ("ca", ca)] {
                fs::write(folder.0.join(name), text)?;
                chown(folder.0.join(name), Some(user), None)?;
            }
            chown(folder.0.join("store"), Some(user), None)
        };
        made().map_err(fault(&folder.0.display().to_string()))?;
        Ok(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// A program that was built beside this test, where the proxy's user may run it. A second name if that can be, else a copy.
    fn program(&self, name: &str) -> Result<PathBuf, String> {
        let here = std::env::current_exe().map_err(fault("this test"))?;
        let built = here.ancestors().skip(2).map(|folder| folder.join(name)).find(|path| path.is_file());
        let built = built.ok_or_else(|| {
            format!("{name} is not built: cargo build -p isthmus-gateway -p isthmus-mesh-proxy (./dev test does it)")
        })?;
        let own = self.0.join(name);
        if fs::hard_link(&built, &own).is_err() {
            fs::copy(&built, &own).map_err(fault(&own.display().to_string()))?;
        }
        Ok(own)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays is in the machine's own folder for that.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn identity(namespace: &str, account: &str) -> Identity {
    Identity { namespace: namespace.to_owned(), account: account.to_owned() }
}

/// A thread that has entered a namespace stays there, so it is one of its own.
fn within<T: Send>(net: &Net, runtime: &Runtime, what: impl Future<Output = T> + Send) -> T {
    let there = || {
        net.enter();
        runtime.block_on(what)
    };
    thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

fn fault(what: &str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}
