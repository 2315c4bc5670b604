//! What a Gateway needs to run -> ServiceAccount, ConfigMap, Service, Deployment and the rest -> the API server.
//!
//! [`desired`] is pure. [`Provisioner`] watches the objects that are ours (by label) and applies what is missing, outdated, or edited by
//! somebody else, so a deletion or an edit is healed within milliseconds. It touches no object that is not ours.

mod compare;
mod deployment;
mod desired;
mod job;
mod judge;
mod live;
pub mod names;
mod outcome;
mod service;
#[cfg(test)]
mod tests;
mod watches;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::Objects;
use isthmus_push::server::Role;
use isthmus_routing::GatewayKey;
use isthmus_translate::{CONTROLLER_NAME, Infrastructure};
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use desired::{OwnKind, Wanted, desired, is_pooled, location, service_type};
pub use outcome::{Provisioned, State};
pub use service::POOL_CLASS;

use crate::authority::Material;

/// Who writes: field manager of server-side apply.
pub const FIELD_MANAGER: &str = "isthmus-controller";

/// What is the same for every Gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The proxy's image, unless parameters name another.
    pub image: String,
    /// `IfNotPresent`, `Always` or `Never`.
    pub image_pull_policy: String,
    /// Names of Secrets, which have to be in each Gateway's namespace.
    pub image_pull_secrets: Vec<String>,
    /// Host and port of the controller's push Service.
    pub controller: String,
}

/// Gives Gateways what they need. Ends when it is dropped; what was given stays.
#[derive(Debug)]
pub struct Provisioner {
    plan: watch::Sender<Arc<Plan>>,
    provisioned: watch::Receiver<Arc<Provisioned>>,
    task: JoinHandle<()>,
}

/// What should be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) infrastructure: BTreeMap<GatewayKey, Infrastructure>,
    pub(crate) released: BTreeSet<GatewayKey>,
}

impl Provisioner {
    /// Starts its watches and its one task. `namespaces` limits it to these; empty: all. Every replica may run one: only the leader
    /// writes, the others only know what is there.
    pub fn start(
        client: Client,
        settings: Settings,
        namespaces: &BTreeSet<String>,
        material: watch::Receiver<Option<Arc<Material>>>,
        role: watch::Receiver<Role>,
    ) -> Self {
        let (plan, plans) = watch::channel(Arc::default());
        let (publish, provisioned) = watch::channel(Arc::default());
        let events = watches::start(&client, namespaces);
        let scopes = watches::scopes(namespaces);
        let inputs = worker::Inputs { plans, material, role, events };
        let task = tokio::spawn(worker::run(client, settings, inputs, publish, scopes));
        Self { plan, provisioned, task }
    }

    /// From now on these Gateways should run, and nothing should be left of those that were released. Of a Gateway that is in neither,
    /// everything stays as it is: it may be invalid for a moment, and when it is gone, the garbage collector deletes what it owned.
    ///
    /// Only for what was translated from a complete view of the objects. Returns at once.
    pub fn want(&self, infrastructure: BTreeMap<GatewayKey, Infrastructure>, released: BTreeSet<GatewayKey>) {
        self.plan.send_if_modified(|plan| {
            let differs = plan.infrastructure != infrastructure || plan.released != released;
            if differs {
                *plan = Arc::new(Plan { infrastructure, released });
            }
            differs
        });
    }

    /// What is there.
    pub fn provisioned(&self) -> watch::Receiver<Arc<Provisioned>> {
        self.provisioned.clone()
    }
}

impl Drop for Provisioner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Gateways that are there, but are now another controller's: their class exists and names it. A class that is gone releases nothing,
/// since it may come back.
pub fn released(objects: &Objects) -> BTreeSet<GatewayKey> {
    let others =
        |class: &str| objects.gateway_classes.get(class).is_some_and(|class| class.spec.controller_name != CONTROLLER_NAME);
    let released = objects.gateways.iter().filter(|(_, gateway)| others(&gateway.spec.gateway_class_name));
    released.map(|(name, _)| GatewayKey { namespace: name.namespace.clone(), name: name.name.clone() }).collect()
}
