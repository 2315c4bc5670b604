//! The task that owns what is known and what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_api::NamespacedName;
use isthmus_push::server::Role;
use isthmus_routing::GatewayKey;
use isthmus_translate::Infrastructure;
use kube::Client;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::desired::{OwnKind, Wanted, desired, location};
use super::job::{Done, Job, accepted};
use super::live::Live;
use super::outcome::{Provisioned, State};
use super::watches::{Event, Scope};
use super::{Plan, Settings};
use crate::authority::Material;

/// Gateways that are worked on at the same time.
const CONCURRENT: usize = 8;
/// The first and the longest wait after a failure, or between two mends of what somebody edits again and again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Failures in a row before those that may pass are told.
const PATIENCE: u32 = 4;
/// Mends that are not waited for, within the longest wait of each other.
const MENDS: u32 = 3;

/// What the worker hears.
pub(super) struct Inputs {
    pub(super) plans: watch::Receiver<Arc<Plan>>,
    pub(super) material: watch::Receiver<Option<Arc<Material>>>,
    pub(super) role: watch::Receiver<Role>,
    pub(super) events: mpsc::Receiver<Event>,
}

struct Worker {
    client: Client,
    settings: Settings,
    /// Scopes that were not listed yet.
    unlisted: BTreeSet<Scope>,
    live: BTreeMap<NamespacedName, BTreeMap<OwnKind, Arc<Live>>>,
    entries: BTreeMap<GatewayKey, Entry>,
    /// Whose objects have this name.
    owners: BTreeMap<NamespacedName, GatewayKey>,
    running: JoinSet<Done>,
    publish: watch::Sender<Arc<Provisioned>>,
}

/// A Gateway that is known.
#[derive(Default)]
struct Entry {
    /// None: it was released.
    infrastructure: Option<Infrastructure>,
    wanted: Arc<Vec<Wanted>>,
    /// Whether something else may be wanted than that.
    stale: bool,
    accepted: BTreeMap<OwnKind, Value>,
    /// Whether something may have to be done.
    dirty: bool,
    running: bool,
    not_before: Option<Instant>,
    failures: u32,
    mends: u32,
    mended: Option<Instant>,
    faults: Vec<String>,
}

/// Runs until the task is aborted or all inputs are gone.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    mut inputs: Inputs,
    publish: watch::Sender<Arc<Provisioned>>,
    scopes: BTreeSet<Scope>,
) {
    let mut worker = Worker {
        client,
        settings,
        unlisted: scopes,
        live: BTreeMap::new(),
        entries: BTreeMap::new(),
        owners: BTreeMap::new(),
        running: JoinSet::new(),
        publish,
    };
    let mut events = Vec::new();
    let mut plan = Arc::default();
    loop {
        let next = worker.next_retry().filter(|_| *inputs.role.borrow() == Role::Leader);
        let alive = tokio::select! {
            changed = inputs.plans.changed() => changed.is_ok(),
            changed = inputs.material.changed() => {
                worker.entries.values_mut().for_each(Entry::forget);
                changed.is_ok()
            }
            changed = inputs.role.changed() => {
                worker.entries.values_mut().for_each(|entry| entry.dirty = true);
                changed.is_ok()
            }
            count = inputs.events.recv_many(&mut events, 256) => count > 0,
            Some(done) = worker.running.join_next(), if !worker.running.is_empty() => {
                match done {
                    Ok(done) => worker.finish(&done),
                    Err(error) => {
                        warn!(%error, "a task of the provisioner ended early");
                        worker.entries.values_mut().for_each(|entry| entry.running = false);
                    }
                }
                true
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => true,
        };
        if !alive {
            return;
        }
        for event in events.drain(..) {
            worker.hear(event);
        }
        let current = Arc::clone(&inputs.plans.borrow_and_update());
        if !Arc::ptr_eq(&current, &plan) {
            plan = current;
            worker.adopt(&plan);
        }
        let leads = *inputs.role.borrow_and_update() == Role::Leader;
        if !leads {
            worker.stop();
        }
        let material = inputs.material.borrow_and_update().clone();
        if let (true, true, Some(material)) = (leads, worker.unlisted.is_empty(), material) {
            worker.start(&material.bundle);
        }
        worker.publish();
    }
}

impl Worker {
    /// Takes over a plan. Gateways for which nothing has changed are left alone.
    fn adopt(&mut self, plan: &Plan) {
        let gone: Vec<_> = self
            .entries
            .keys()
            .filter(|key| !plan.infrastructure.contains_key(key) && !plan.released.contains(key))
            .cloned()
            .collect();
        for key in gone {
            self.entries.remove(&key);
            self.owners.remove(&location(&key));
        }
        for (key, infrastructure) in &plan.infrastructure {
            let entry = self.entries.entry(key.clone()).or_default();
            if entry.infrastructure.as_ref() != Some(infrastructure) {
                entry.infrastructure = Some(infrastructure.clone());
                entry.forget();
                self.owners.insert(location(key), key.clone());
            }
        }
        for key in &plan.released {
            let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry { dirty: true, ..Entry::default() });
            if entry.infrastructure.take().is_some() {
                entry.forget();
            }
            self.owners.insert(location(key), key.clone());
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Listed(scope, listed) => {
                self.unlisted.remove(&scope);
                let (kind, namespace) = scope;
                let inside = |name: &NamespacedName| namespace.as_ref().is_none_or(|namespace| *namespace == name.namespace);
                let names: Vec<_> = self.live.keys().filter(|name| inside(name)).cloned().collect();
                let present: BTreeSet<_> = listed.iter().map(|live| live.name.clone()).collect();
                for name in names.into_iter().filter(|name| !present.contains(name)) {
                    self.forget(kind, &name);
                }
                listed.into_iter().for_each(|live| self.remember(kind, live));
            }
            Event::Applied(kind, live) => {
                let known = self.live.get(&live.name).and_then(|kinds| kinds.get(&kind));
                // The answer to our own request may have been faster than the watch.
                if known.is_none_or(|known| live.is_newer_than(known)) {
                    self.remember(kind, *live);
                }
            }
            Event::Deleted(kind, live) => {
                let known = self.live.get(&live.name).and_then(|kinds| kinds.get(&kind));
                if known.is_some_and(|known| known.uid() == live.uid() || live.is_newer_than(known)) {
                    self.forget(kind, &live.name);
                }
            }
        }
    }

    fn remember(&mut self, kind: OwnKind, live: Live) {
        self.touch(&live.name);
        self.live.entry(live.name.clone()).or_default().insert(kind, Arc::new(live));
    }

    fn forget(&mut self, kind: OwnKind, name: &NamespacedName) {
        let Some(kinds) = self.live.get_mut(name) else { return };
        if kinds.remove(&kind).is_some() {
            if kinds.is_empty() {
                self.live.remove(name);
            }
            self.touch(name);
        }
    }

    fn touch(&mut self, name: &NamespacedName) {
        if let Some(entry) = self.owners.get(name).and_then(|key| self.entries.get_mut(key)) {
            entry.dirty = true;
        }
    }

    fn next_retry(&self) -> Option<Instant> {
        let waiting = self.entries.values().filter(|entry| entry.dirty && !entry.running);
        waiting.filter_map(|entry| entry.not_before).min()
    }

    /// Begins with the Gateways for which something may have to be done now.
    fn start(&mut self, bundle: &str) {
        let now = Instant::now();
        for entry in self.entries.values_mut() {
            entry.not_before = entry.not_before.filter(|instant| *instant > now);
        }
        for (key, entry) in &mut self.entries {
            if self.running.len() >= CONCURRENT {
                return;
            }
            if entry.running || !entry.dirty || entry.not_before.is_some() {
                continue;
            }
            if std::mem::take(&mut entry.stale) {
                let infrastructure = entry.infrastructure.as_ref();
                entry.want(infrastructure.map(|given| desired(key, given, &self.settings, bundle)).unwrap_or_default());
            }
            let job = Job {
                client: self.client.clone(),
                gateway: key.clone(),
                uid: entry.infrastructure.as_ref().map(|given| given.uid.clone()).unwrap_or_default(),
                created: entry.infrastructure.as_ref().map(|given| given.created).unwrap_or_default(),
                wanted: Arc::clone(&entry.wanted),
                live: self.live.get(&location(key)).cloned().unwrap_or_default(),
                accepted: entry.accepted.clone(),
            };
            entry.dirty = false;
            entry.running = true;
            self.running.spawn(job.run());
        }
    }

    /// Drops what is under way: another replica writes from now on.
    fn stop(&mut self) {
        if self.running.is_empty() {
            return;
        }
        self.running = JoinSet::new();
        for entry in self.entries.values_mut().filter(|entry| entry.running) {
            (entry.running, entry.dirty) = (false, true);
        }
    }

    fn finish(&mut self, done: &Done) {
        for (kind, live) in done.applied.iter().cloned() {
            self.remember(kind, live);
        }
        // Until the watch says so it would be deleted again.
        for (kind, uid) in &done.deleted {
            let name = location(&done.gateway);
            if self.live.get(&name).and_then(|kinds| kinds.get(kind)).is_some_and(|live| live.uid() == uid) {
                self.forget(*kind, &name);
            }
        }
        let Some(entry) = self.entries.get_mut(&done.gateway) else { return };
        entry.running = false;
        if !entry.stale && Arc::ptr_eq(&entry.wanted, &done.wanted) {
            entry.learn(done);
        }
    }

    fn publish(&self) {
        let wanted = self.entries.iter().filter_map(|(key, entry)| Some((key, entry, entry.infrastructure.as_ref()?)));
        let live = |key: &GatewayKey, kind: OwnKind| {
            let uid = &self.entries.get(key)?.infrastructure.as_ref()?.uid;
            let live = self.live.get(&location(key))?.get(&kind)?;
            live.owner().is_some_and(|owner| owner.uid == *uid).then_some(live)
        };
        let gateways = wanted.clone().map(|(key, entry, given)| {
            let deployment = live(key, OwnKind::Deployment).map(|live| &**live);
            (key.clone(), State::of(given.uid.clone(), entry.faults.clone(), deployment))
        });
        let accounts = wanted.filter_map(|(key, ..)| {
            let account = live(key, OwnKind::ServiceAccount)?;
            Some(((account.name.namespace.clone(), account.name.name.clone()), key.clone()))
        });
        let provisioned =
            Provisioned { synced: self.unlisted.is_empty(), gateways: gateways.collect(), accounts: accounts.collect() };
        self.publish.send_if_modified(|current| {
            let differs = **current != provisioned;
            if differs {
                *current = Arc::new(provisioned);
            }
            differs
        });
    }
}

impl Entry {
    /// Something else may be wanted now.
    fn forget(&mut self) {
        self.stale = true;
        self.dirty = true;
        self.not_before = None;
        self.failures = 0;
    }

    /// What the API server answered still counts for objects that are wanted as before.
    fn want(&mut self, wanted: Vec<Wanted>) {
        self.accepted.retain(|kind, _| {
            let before = self.wanted.iter().find(|before| before.kind == *kind);
            before.is_some() && before == wanted.iter().find(|wanted| wanted.kind == *kind)
        });
        self.wanted = Arc::new(wanted);
    }

    fn learn(&mut self, done: &Done) {
        let now = Instant::now();
        for (kind, live) in &done.applied {
            if let Some(value) = accepted(&done.wanted, *kind, live) {
                // It was applied before and is wanted still: somebody changed it.
                if self.accepted.insert(*kind, value).is_some() {
                    self.mend(now);
                }
            }
        }
        let lasting = done.problems.iter().any(super::job::Problem::is_lasting);
        if done.problems.is_empty() {
            self.failures = 0;
            self.faults.clear();
            return;
        }
        // A round that got further begins the waits anew.
        self.failures = if done.applied.is_empty() { self.failures.saturating_add(1) } else { 1 };
        self.dirty = true;
        self.not_before = self.not_before.max(Some(now + backoff(self.failures)));
        if lasting || self.failures >= PATIENCE {
            self.faults = done.problems.iter().map(ToString::to_string).collect();
        }
        if self.failures == 1 || self.failures == PATIENCE {
            done.problems.iter().for_each(|problem| warn!("{problem}"));
        }
    }

    fn mend(&mut self, now: Instant) {
        let lately = self.mended.is_some_and(|before| now.duration_since(before) < BACKOFF.1 * 2);
        self.mends = if lately { self.mends.saturating_add(1) } else { 1 };
        self.mended = Some(now);
        if self.mends > MENDS {
            self.not_before = Some(now + backoff(self.mends - MENDS));
        }
    }
}

fn backoff(attempt: u32) -> Duration {
    (BACKOFF.0 * 2_u32.saturating_pow(attempt.saturating_sub(1).min(16))).min(BACKOFF.1)
}
