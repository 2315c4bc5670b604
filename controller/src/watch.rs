//! API server -> a stream of changes.
//!
//! Each kind is listed and followed by a task of its own ([`stream`]); objects are decoded by `isthmus_api` alone. Secrets and
//! ConfigMaps are read only where something refers to them ([`referred`]). Whatever fails is tried again for ever; the changes
//! that come out bring a store to the API server's state, whatever was lost, doubled or out of order on the way ([`known`]).

pub(crate) mod fault;
mod full;
mod health;
mod known;
mod meshed;
mod referred;
mod relevant;
pub(crate) mod resource;
pub(crate) mod stream;
mod wanted;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isthmus_api::{Kind, Object, ObjectRef, Unreadable};
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use health::Health;
pub use relevant::is_relevant;
pub use wanted::Wanted;

use crate::crds::Bundle;
use crate::status::Seen;
use full::{Scope, Shared};
use health::Reporter;
use stream::Timing;

/// What to watch and with which patience.
#[derive(Debug, Clone)]
pub struct Options {
    /// Namespaces to watch; empty: all.
    ///
    /// With a list, every namespaced kind is listed in each of these alone, so Roles in them are enough. `Namespace` objects are
    /// watched one by one with `fieldSelector=metadata.name=NAME`, which a ClusterRole with `resourceNames` permits. Only
    /// GatewayClasses and XMeshes need a ClusterRole for all.
    pub namespaces: BTreeSet<String>,
    /// The controller's own namespace, where GatewayParameters are watched too.
    pub own_namespace: String,
    /// Every list is read again after about this time, in case an event was lost.
    pub relist: Duration,
    /// How long an API server may say less than was seen before it is believed: it was restored from a backup.
    pub grace: Duration,
    /// The first and the longest wait after a failure.
    pub backoff: (Duration, Duration),
    /// Whether there is a mesh: Pods with sidecars and XMeshes are watched too.
    pub mesh: bool,
}

impl Options {
    /// All namespaces, usual times, no mesh.
    pub fn new(own_namespace: impl Into<String>) -> Self {
        Self {
            namespaces: BTreeSet::new(),
            own_namespace: own_namespace.into(),
            relist: Duration::from_mins(10),
            grace: Duration::from_secs(30),
            backoff: (Duration::from_millis(100), Duration::from_secs(10)),
            mesh: false,
        }
    }
}

/// What the watches say.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// Changes that belong together: one, or all that a list has brought. Apply them all before anything is concluded from them.
    Changes(Vec<Change>),
    /// Everything was listed; all of it came before this. Sent once.
    Ready,
}

/// A change of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It is there, in this state.
    Applied(Object),
    /// It is there, and only this part of it can be read.
    Unreadable(Object, Unreadable),
    /// It is not there.
    Removed(ObjectRef),
}

impl Change {
    /// Which object.
    pub fn object_ref(&self) -> ObjectRef {
        match self {
            Self::Applied(object) | Self::Unreadable(object, _) => object.object_ref(),
            Self::Removed(object) => object.clone(),
        }
    }
}

/// The watches. They end when this is dropped.
#[derive(Debug)]
pub struct Watch {
    /// In the order to apply them in. It ends only when a task of the watch panicked: then this watch is worth nothing.
    pub updates: mpsc::Receiver<Update>,
    /// Applies changes, and says which Secrets and ConfigMaps are wanted.
    pub wanted: Wanted,
    /// What is missing and what fails.
    pub health: watch::Receiver<Arc<Health>>,
    /// Ends the tasks when it is dropped.
    _tasks: JoinSet<()>,
}

/// Starts all watches. `seen` gets the statuses of the kinds that have one of ours.
pub fn start(client: &Client, options: &Options, bundle: &watch::Receiver<Arc<Bundle>>, seen: &Arc<Seen>) -> Watch {
    let (updates, receiver) = mpsc::channel(256);
    let (health, health_receiver) = watch::channel(Arc::new(Health::default()));
    let (questions, questions_receiver) = watch::channel(wanted::Questions::new());
    let health = Arc::new(health);
    let timing = Timing { relist: options.relist, grace: options.grace, backoff: options.backoff };
    let scopes: Vec<(Scope, Reporter)> = scopes(options)
        .into_iter()
        .map(|scope| {
            let name = scope_name(scope.kind, scope.namespace.as_deref().or(scope.name.as_deref()));
            let reporter = Reporter::new(&health, scope.kind, name, true);
            (scope, reporter)
        })
        .collect();
    let mut tasks = JoinSet::new();
    for (scope, reporter) in scopes {
        let shared =
            Shared { client: client.clone(), timing, bundle: bundle.clone(), updates: updates.clone(), seen: Arc::clone(seen) };
        tasks.spawn(full::run(scope, shared, reporter));
    }
    tasks.spawn(referred::run(referred::Work {
        client: client.clone(),
        timing,
        namespaces: options.namespaces.clone(),
        questions: questions_receiver,
        updates,
        health: Arc::clone(&health),
    }));
    let mut keeper = JoinSet::new();
    keeper.spawn(keep(tasks));
    Watch { updates: receiver, wanted: Wanted::new(questions), health: health_receiver, _tasks: keeper }
}

/// Lets the tasks run until one panics: without it its kind would stand still and nobody would know.
async fn keep(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of the watch panicked; all of them end");
            return;
        }
    }
}

/// Whether objects of this kind are read only where something refers to them.
fn is_referred_only(kind: Kind) -> bool {
    referred::KINDS.contains(&kind)
}

fn scopes(options: &Options) -> Vec<Scope> {
    let mut scopes = Vec::new();
    let is_watched = |kind: &Kind| !is_referred_only(*kind) && (options.mesh || !matches!(kind, Kind::Pod | Kind::XMesh));
    for kind in Kind::ALL.into_iter().filter(is_watched) {
        let mut namespaces = options.namespaces.clone();
        if namespaces.is_empty() || matches!(kind, Kind::GatewayClass | Kind::XMesh) {
            scopes.push(Scope { kind, namespace: None, name: None });
            continue;
        }
        if kind == Kind::GatewayParameters {
            namespaces.insert(options.own_namespace.clone());
        }
        let by_name = !kind.is_namespaced();
        scopes.extend(namespaces.into_iter().map(|of| Scope {
            kind,
            namespace: (!by_name).then(|| of.clone()),
            name: by_name.then_some(of),
        }));
    }
    scopes
}

/// `HTTPRoute`, `HTTPRoute in shop`
fn scope_name(kind: Kind, namespace: Option<&str>) -> String {
    namespace.map_or_else(|| kind.to_string(), |namespace| format!("{kind} in {namespace}"))
}
