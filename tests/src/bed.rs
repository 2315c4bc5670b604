//! A data plane in process, on loopback addresses of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use isthmus_dataplane::{Dataplane, Limits, Options, Outbound, Report};
use isthmus_routing::{GatewayKey, Snapshot};
use tokio::sync::watch;

/// How long a snapshot may take to be served before a test gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A data plane that serves whatever snapshot it was given last.
#[derive(Debug)]
pub struct Bed {
    /// The data plane.
    pub dataplane: Dataplane,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Bed {
    /// Starts one without listeners.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start(options: Options) -> Self {
        let (snapshots, receiver) = watch::channel(Arc::default());
        let dataplane =
            Dataplane::start(options, receiver).await.expect("a data plane without admin and log has nothing to open");
        Self { dataplane, snapshots }
    }

    /// Serves the snapshot and waits until it is live.
    ///
    /// # Panics
    /// When it is not live within ten seconds, or a Service or a listener has a fault: all but those have none whose certificates, or whose
    /// authorities for clients, are not in the snapshot, because each is to be kept and was never held.
    pub async fn serve(&self, snapshot: Snapshot) -> Arc<Report> {
        let bare = without_certificate(&snapshot);
        let report = self.try_serve(snapshot).await;
        for listener in &report.listeners {
            let expected = bare.contains(&(listener.gateway.clone(), listener.name.clone()));
            let fault = listener.fault.as_deref();
            assert_eq!(fault.is_some_and(|fault| fault.starts_with("every handshake fails")), expected, "{listener:?}");
            assert!(expected || fault.is_none(), "{listener:?}");
        }
        let closed: Vec<_> = report.services.iter().filter(|service| service.fault.is_some()).collect();
        assert!(closed.is_empty(), "{closed:?}");
        report
    }

    /// Serves the snapshot and waits for the report on it.
    ///
    /// # Panics
    /// When there is none within ten seconds.
    pub async fn try_serve(&self, snapshot: Snapshot) -> Arc<Report> {
        let version = snapshot.version();
        let mut reports = self.dataplane.reports();
        self.snapshots.send_replace(Arc::new(snapshot));
        tokio::time::timeout(PATIENCE, reports.wait_for(|report| report.version == Some(version)))
            .await
            .expect("a snapshot is served within ten seconds")
            .expect("the data plane runs as long as the test bed")
            .clone()
    }
}

/// Listeners that refer to certificates and of whose certificates the snapshot has none, or none of the authorities that clients' have to
/// be of.
fn without_certificate(snapshot: &Snapshot) -> BTreeSet<(GatewayKey, String)> {
    let listeners = snapshot.gateways.iter().flat_map(|(key, gateway)| gateway.listeners.iter().map(move |one| (key, one)));
    let bare = listeners.filter(|(_, listener)| {
        let lacks = |keys: &[_]| !keys.is_empty() && keys.iter().all(|key| !snapshot.certificates.contains_key(key));
        let strict = listener.client_validation.as_ref().filter(|validation| !validation.optional);
        lacks(&listener.certificates)
            || strict.is_some_and(|validation| validation.authorities.iter().all(|key| !snapshot.bundles.contains_key(key)))
    });
    bare.map(|(key, listener)| (key.clone(), listener.name.clone())).collect()
}

/// Options for tests: no admin, no log, short limits left to the caller.
pub fn options(limits: Limits) -> Options {
    Options { threads: 2, limits, ..Options::default() }
}

/// What stands before Services for clients of a namespace.
pub fn outbound(namespace: &str) -> Outbound {
    Outbound { namespace: namespace.to_owned(), port_offset: 20_000 }
}

/// A loopback address that nothing else in this process uses, and hardly anything in another.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let (high, low) = ((next / 254) as u8, (next % 254) as u8 + 1);
    IpAddr::V4(Ipv4Addr::new(127, 64 + (process % 128) as u8, ((process / 128) as u8).wrapping_add(high.wrapping_mul(31)), low))
}

/// Lets every listener open a port that needs no privilege, and tells where.
pub fn unprivileged(snapshot: &mut Snapshot) {
    for gateway in snapshot.gateways.values_mut() {
        for listener in &mut Arc::make_mut(gateway).listeners {
            listener.bind_port = Some(bind_port(listener.port));
        }
    }
}

/// Where [`unprivileged`] opens a port.
pub fn bind_port(port: u16) -> u16 {
    if port < 20_000 { port + 20_000 } else { port }
}

/// The socket of a Gateway's port after [`unprivileged`].
pub fn socket(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, bind_port(port))
}
