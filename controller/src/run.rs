//! Everything of the controller, started and connected.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_api::parameters::GatewayParametersSpec;
use isthmus_push::server::{self, Denied, Limits, Role, Server, Sign};
use isthmus_routing::snapshot::Models;
use isthmus_translate::{Listen, Options};
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::addresses::{self, Recorder};
use crate::authenticate::{Authenticator, Workloads};
use crate::ca::{self, Authority};
use crate::metrics::Metrics;
use crate::provision::{self, Provisioner};
use crate::status::{self, Seen, Writer};
use crate::watch::Health;
use crate::{admin, authority, crds, inject, leader, reconcile};

/// How often the CRDs are looked at.
const CRDS: Duration = Duration::from_secs(10);

/// How a controller runs.
#[derive(Debug)]
pub struct Settings {
    /// Its namespace: its Lease and the Secret of its certificate are there.
    pub namespace: String,
    /// The name of this instance.
    pub name: String,
    /// Namespaces that are read; empty: all.
    pub watch_namespaces: BTreeSet<String>,
    /// Where proxies connect.
    pub push: TcpListener,
    /// Where others refer proxies to while this instance leads.
    pub push_address: SocketAddr,
    /// Where `/readyz`, `/livez` and `/metrics` answer; none: nowhere.
    pub admin: Option<TcpListener>,
    /// What every Gateway's proxies have in common.
    pub provision: provision::Settings,
    /// How pods get sidecars; none: they do not.
    pub injection: Option<inject::Settings>,
    /// Parameters beneath those of class and Gateway.
    pub parameters: GatewayParametersSpec,
    /// The mesh; none: only Gateways are served.
    pub mesh: Option<ca::Settings>,
    /// The model versions that are written.
    pub models: Models,
    /// Times of the election.
    pub election: Election,
}

/// Times of the election; see [`leader::Options`].
#[derive(Debug, Clone, Copy)]
pub struct Election {
    /// How long a Lease that is not renewed is respected.
    pub duration: Duration,
    /// How often the holder renews it.
    pub renew: Duration,
    /// How often the others look at it.
    pub retry: Duration,
}

impl Default for Election {
    /// 15, 5 and 1 seconds.
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), renew: Duration::from_secs(5), retry: Duration::from_secs(1) }
    }
}

/// Why a controller does not run, or not any longer.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its push server.
    #[error("the push server does not start: {0}")]
    Push(#[from] server::StartError),
    /// Metrics that contradict each other.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A task of the controller has ended, which only a fault of its own makes it do.
    #[error("a task of the controller has ended; the log says which and why")]
    Task,
    /// What makes the certificate has ended.
    #[error("the certificate of the push server is not to be had")]
    Certificate,
}

/// Runs until `shutdown`, then gives the Lease back so that another instance leads at once. Dropping it ends everything
/// without that.
///
/// # Errors
/// When the push server does not start, or a task of the controller breaks off. What the API server refuses is logged and tried again for ever.
pub async fn run(client: Client, mut settings: Settings, shutdown: impl Future<Output = ()> + Send) -> Result<(), StartError> {
    let metrics = Arc::new(Metrics::new()?);
    let (readiness, ready) = watch::channel(Some("the objects were not all read yet".to_owned()));
    let (health, watched) = watch::channel(Arc::new(Health::default()));
    // Ends with this function.
    let mut tasks = JoinSet::new();
    if let Some(listener) = settings.admin.take() {
        let sources = admin::Sources { readiness: ready.clone(), health: watched, metrics: Arc::clone(&metrics) };
        tasks.spawn(admin::serve(listener, sources));
    }
    let (role, roles) = watch::channel(Role::Follower { leader: None });
    tasks.spawn(tell_role(roles.clone(), Arc::clone(&metrics)));
    let (stop, stopped) = oneshot::channel::<()>();
    let Election { duration, renew, retry } = settings.election;
    let election = leader::Options::new(settings.namespace.clone(), settings.name.clone(), settings.push_address);
    let election = leader::Options { duration, renew, retry, ready: Some(ready), ..election };
    let mut elected = Guard(tokio::spawn(leader::run(client.clone(), election, role, async {
        // Sent or dropped: both mean the end.
        let _ = stopped.await;
    })));
    let outcome = tokio::select! {
        outcome = serve(client, settings, roles, readiness, health, metrics) => outcome,
        () = shutdown => Ok(()),
    };
    drop(stop);
    // It cannot fail but by a panic, which was logged; then the Lease runs out by itself.
    let _ = (&mut elected.0).await;
    outcome
}

/// A task that ends with this.
struct Guard(JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn tell_role(mut role: watch::Receiver<Role>, metrics: Arc<Metrics>) {
    while role.changed().await.is_ok() {
        let role = *role.borrow_and_update();
        metrics.leads(role == Role::Leader);
        tracing::info!("{}", if role == Role::Leader { "this instance leads" } else { "this instance does not lead" });
    }
}

async fn tell_health(mut watched: watch::Receiver<Arc<Health>>, health: watch::Sender<Arc<Health>>, metrics: Arc<Metrics>) {
    loop {
        let now = watched.borrow_and_update().clone();
        metrics.watches(&now);
        health.send_replace(now);
        if watched.changed().await.is_err() {
            return;
        }
    }
}

/// Without a mesh nobody gets a certificate.
fn no_authority() -> Sign {
    Arc::new(|_, _| Box::pin(std::future::ready(Err(Denied::Forbidden("this controller has no mesh (--mesh=false)".to_owned())))))
}

/// Connects everything and reconciles. Returns only with a fault.
async fn serve(
    client: Client,
    settings: Settings,
    role: watch::Receiver<Role>,
    readiness: watch::Sender<Option<String>>,
    health: watch::Sender<Arc<Health>>,
    metrics: Arc<Metrics>,
) -> Result<(), StartError> {
    let Settings { namespace, watch_namespaces, push, provision, injection, parameters, mesh, models, .. } = settings;
    let bundle = crds::follow(client.clone(), CRDS).await;
    let seen = Arc::new(Seen::default());
    let watched = crate::watch::Options {
        namespaces: watch_namespaces.clone(),
        mesh: mesh.is_some(),
        ..crate::watch::Options::new(&*namespace)
    };
    let watch = crate::watch::start(&client, &watched, &bundle, &seen);
    let _telling = Guard(tokio::spawn(tell_health(watch.health.clone(), health, Arc::clone(&metrics))));
    let material = authority::start(client.clone(), namespace.clone(), role.clone());
    let _injecting = injection.map(|injection| {
        let (material, role, metrics) = (material.clone(), role.clone(), Arc::clone(&metrics));
        Guard(tokio::spawn(inject::run(client.clone(), namespace.clone(), injection, material, role, metrics)))
    });
    let authority =
        mesh.as_ref().map(|settings| Authority::start(client.clone(), namespace, role.clone(), settings, Arc::clone(&metrics)));
    let authorities = authority.as_ref().map(Authority::authorities);
    let provisioner = Provisioner::start(client.clone(), provision, &watch_namespaces, material.clone(), role.clone());
    let workloads = match &mesh {
        None => Workloads::Nobody,
        Some(_) if watch_namespaces.is_empty() => Workloads::Everywhere,
        Some(_) => Workloads::Of(watch_namespaces),
    };
    let authenticator = Authenticator::new(client.clone(), provisioner.provisioned(), workloads);
    let writer = Writer::start(client.clone(), status::Options::default(), bundle.clone(), role.clone(), seen);
    let recorder = Recorder::start(client.clone(), role.clone());
    let (needs_nodes, needed) = watch::channel(false);
    let nodes = addresses::nodes::follow(client, needed);
    let server = Server::start(
        push,
        server::Options {
            tls: authority::certificates(material).await.ok_or(StartError::Certificate)?,
            authenticate: authenticator.into_authenticate(),
            sign: authority.map_or_else(no_authority, Authority::into_sign),
            role: role.clone(),
            models,
            limits: Limits::default(),
        },
    )?;
    metrics.serves(server.counts());
    let options = Options {
        listen: Listen::Everywhere,
        proof: Some(std::collections::BTreeMap::new()),
        mtls: mesh.map(|mesh| mesh.mtls).unwrap_or_default(),
        parameters,
        ..Options::default()
    };
    let ends = reconcile::Ends {
        watch,
        server,
        writer,
        provisioner,
        recorder,
        bundle,
        nodes,
        role,
        mesh: authorities,
        needs_nodes,
        readiness,
        metrics,
    };
    reconcile::run(ends, options).await;
    Err(StartError::Task)
}
