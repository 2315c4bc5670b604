//! What a controller is to one proxy: the stream, on which the proxy proves who it is, gets its configuration and its certificate, and says
//! what it serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_push::server::{self, Denied, MeshPublication, Peer, Publication, Role, Server, Subject};
use isthmus_routing::snapshot::Models;
use isthmus_routing::{Certificate, GatewayKey, Mesh, Snapshot, TrustDomain};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::certificate::Authority;

/// How long a configuration may take to be served, the start of the proxy included.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running one. Dropping it ends the stream.
#[derive(Debug)]
pub(super) struct Controller {
    server: Server,
    subject: Subject,
    /// What the proxy is to trust, in PEM.
    pub(super) ca: String,
    mesh: Arc<Mesh>,
    // Their receivers take an end of these for one of the controller.
    _tls: watch::Sender<Arc<Certificate>>,
    _role: watch::Sender<Role>,
}

impl Controller {
    /// For the proxy of `subject` alone, which shows this token.
    pub(super) fn start(listener: TcpListener, subject: Subject, token: &str) -> Result<Self, String> {
        let own = rcgen::generate_simple_self_signed(vec![isthmus_push::SERVER_NAME.to_owned()]).map_err(|e| e.to_string())?;
        let ca = own.cert.pem();
        let (tls, tls_seen) = watch::channel(Arc::new(Certificate { chain: ca.clone(), key: own.signing_key.serialize_pem() }));
        let (role, role_seen) = watch::channel(Role::Leader);
        let authority = Authority::new("mesh");
        let mesh = Mesh { trust_domain: TrustDomain::default(), authorities: authority.certificate.clone() };
        let (peer, token) = (Peer { subject: subject.clone(), pod: "pod".to_owned() }, token.to_owned());
        let options = server::Options {
            tls: tls_seen,
            authenticate: Arc::new(move |shown| {
                let known = (shown == token).then(|| peer.clone());
                Box::pin(std::future::ready(known.ok_or_else(|| Denied::Unauthorized("another token".to_owned()))))
            }),
            sign: Arc::new(move |identity, request| {
                Box::pin(std::future::ready(authority.workload(&identity, &request).map_err(Denied::Forbidden)))
            }),
            role: role_seen,
            models: Models::default(),
            limits: server::Limits::default(),
        };
        let server = Server::start(listener, options).map_err(|error| error.to_string())?;
        Ok(Self { server, subject, ca, mesh: Arc::new(mesh), _tls: tls, _role: role })
    }

    /// Waits until the proxy serves its part of this, with no fault.
    pub(super) async fn publish(&self, snapshot: Snapshot) -> Result<(), String> {
        let served = tokio::time::timeout(PATIENCE, async {
            match &self.subject {
                Subject::Gateway { gateway, .. } => self.publish_gateway(gateway, &snapshot).await,
                Subject::Workload { .. } => self.publish_mesh(snapshot).await,
            }
        });
        served.await.unwrap_or_else(|_| Err(format!("the proxy does not serve it within {PATIENCE:?}")))
    }

    async fn publish_gateway(&self, gateway: &GatewayKey, snapshot: &Snapshot) -> Result<(), String> {
        let gateways = BTreeMap::from([(gateway.clone(), Arc::new(snapshot.of_gateway(gateway)))]);
        let version = self.server.publish(Publication { gateways, mesh: None }).gateways.get(gateway).copied();
        answer(self.server.proxies(), |proxies| {
            let proxy = proxies.get(gateway)?.values().next()?;
            match &proxy.nack {
                Some((of, why)) if Some(*of) == version => Some(Err(why.clone())),
                _ if proxy.acked != version => None,
                _ if proxy.listeners.is_empty() => Some(Ok(())),
                _ => Some(Err(format!("{:?}", proxy.listeners))),
            }
        })
        .await
    }

    async fn publish_mesh(&self, snapshot: Snapshot) -> Result<(), String> {
        let snapshot = Arc::new(Snapshot { mesh: Some(self.mesh.clone()), ..snapshot });
        let mesh = MeshPublication { snapshot, ..MeshPublication::default() };
        let number = self.server.publish(Publication { mesh: Some(mesh), ..Publication::default() }).mesh;
        answer(self.server.sidecars(), |sidecars| {
            let sidecar = sidecars.values().next()?;
            match &sidecar.nack {
                Some((of, why)) if *of >= number => Some(Err(why.clone())),
                _ => (sidecar.acked >= Some(number)).then_some(Ok(())),
            }
        })
        .await
    }
}

/// Waits for what the only proxy says.
async fn answer<T>(mut proxies: watch::Receiver<T>, said: impl Fn(&T) -> Option<Result<(), String>>) -> Result<(), String> {
    let mut answer = None;
    // It ends with the server only, which is ours.
    let _ = proxies
        .wait_for(|proxies| {
            answer = said(proxies);
            answer.is_some()
        })
        .await;
    answer.unwrap_or_else(|| Err("the server of the stream has ended".to_owned()))
}
