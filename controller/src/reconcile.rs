//! The one task that owns the objects: changes -> translation -> proxies, statuses, infrastructure.
//!
//! Changes that come together are translated together, after a pause so short that nobody waits for it. Statuses are handed over when the
//! proxies have acknowledged what follows from a change, or after a while: one write for what happened in between.

mod mesh;
mod pace;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_api::Objects;
use isthmus_push::server::{Proxies, Publication, Role, Server, Sidecars};
use isthmus_routing::{GatewayKey, Mesh, Snapshot, Transport};
use isthmus_translate::{Options, Translation, translate};
use tokio::sync::watch;

use crate::addresses::{self, Assignment, Nodes, Recorder};
use crate::crds::Bundle;
use crate::metrics::Metrics;
use crate::proof::{PATIENCE, Prover};
use crate::provision::{self, Provisioned, Provisioner};
use crate::ready;
use crate::status::Writer;
use crate::watch::{Update, Watch};
use mesh::{MeshSide, Withheld};
use pace::StatusPace;

/// How long changes are collected after the first of them, and after the last.
const COLLECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(2));
/// How long a translation waits for Secrets that it refers to and that are being fetched.
const FETCH: Duration = Duration::from_secs(1);

/// What the reconciler is connected with.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) watch: Watch,
    pub(crate) server: Server,
    pub(crate) writer: Writer,
    pub(crate) provisioner: Provisioner,
    pub(crate) recorder: Recorder,
    pub(crate) bundle: watch::Receiver<Arc<Bundle>>,
    pub(crate) nodes: watch::Receiver<Option<Arc<Nodes>>>,
    /// Whether this instance accepts proxies and writes.
    pub(crate) role: watch::Receiver<Role>,
    /// Whose certificates workloads take from each other, once that is known; none: there is no mesh.
    pub(crate) mesh: Option<watch::Receiver<Option<Arc<Mesh>>>>,
    /// Says whether nodes are needed.
    pub(crate) needs_nodes: watch::Sender<bool>,
    /// Why the controller is not ready; none: it is.
    pub(crate) readiness: watch::Sender<Option<String>>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Runs until a task of the controller ends: without it the rest would go on and be wrong. Cancel safe: what was handed over goes on.
pub(crate) async fn run(ends: Ends, options: Options) {
    let mut sources = Sources {
        proxies: ends.server.proxies(),
        sidecars: ends.server.sidecars(),
        mesh: ends.mesh.clone(),
        provisioned: ends.provisioner.provisioned(),
        bundle: ends.bundle.clone(),
        nodes: ends.nodes.clone(),
        role: ends.role.clone(),
        recorded: ends.recorder.faults(),
    };
    let mut reconciler = Reconciler::new(ends, options);
    reconciler.role(*sources.role.borrow_and_update());
    loop {
        let due = reconciler.due();
        let sleep = tokio::time::sleep_until(due.unwrap_or_else(|| Instant::now() + Duration::from_hours(1)).into());
        // A source ends with the task that fills it.
        let ended = tokio::select! {
            update = reconciler.ends.watch.updates.recv() => match update {
                Some(update) => {
                    reconciler.take(update);
                    None
                }
                None => Some("watch"),
            },
            changed = sources.proxies.changed() => {
                reconciler.judge_due = true;
                changed.is_err().then_some("push server")
            }
            changed = sources.sidecars.changed() => {
                reconciler.judge_due = true;
                changed.is_err().then_some("push server")
            }
            changed = mesh::changed(&mut sources.mesh) => {
                reconciler.touch();
                changed.is_err().then_some("authority of the mesh")
            }
            changed = sources.provisioned.changed() => {
                reconciler.judge_due = true;
                changed.is_err().then_some("provisioner")
            }
            changed = sources.recorded.changed() => {
                reconciler.judge_due = true;
                changed.is_err().then_some("recorder of addresses")
            }
            changed = sources.nodes.changed() => {
                reconciler.touch();
                changed.is_err().then_some("watch of nodes")
            }
            changed = sources.bundle.changed() => {
                reconciler.touch();
                changed.is_err().then_some("watch of CRDs")
            }
            changed = sources.role.changed() => {
                reconciler.role(*sources.role.borrow_and_update());
                changed.is_err().then_some("election")
            }
            () = reconciler.ends.writer.ended() => Some("writer of statuses"),
            () = sleep => None,
        };
        if let Some(task) = ended {
            tracing::error!("the {task} has ended, which only a fault of its own makes it do");
            return;
        }
        reconciler.act(&sources);
    }
}

/// What changes besides the objects.
struct Sources {
    proxies: watch::Receiver<Arc<Proxies>>,
    sidecars: watch::Receiver<Arc<Sidecars>>,
    mesh: Option<watch::Receiver<Option<Arc<Mesh>>>>,
    provisioned: watch::Receiver<Arc<Provisioned>>,
    bundle: watch::Receiver<Arc<Bundle>>,
    nodes: watch::Receiver<Option<Arc<Nodes>>>,
    role: watch::Receiver<Role>,
    recorded: watch::Receiver<Arc<BTreeMap<GatewayKey, String>>>,
}

struct Reconciler {
    ends: Ends,
    objects: Objects,
    options: Options,
    /// Whether everything was listed: before that nothing may be concluded.
    complete: bool,
    /// When the first and the last change came that no translation has seen.
    changed: Option<(Instant, Instant)>,
    /// Since when a translation waits for Secrets.
    fetching: Option<Instant>,
    /// What was handed to the proxies, by Gateway.
    published: BTreeMap<GatewayKey, Arc<Snapshot>>,
    assignment: Assignment,
    ready: BTreeMap<GatewayKey, BTreeSet<String>>,
    /// The uid of each Gateway that was translated last.
    uids: BTreeMap<GatewayKey, String>,
    /// The ports that each Gateway's Service is to have.
    ports: BTreeMap<GatewayKey, BTreeSet<(u16, Transport)>>,
    prover: Prover,
    /// None: there is no mesh.
    mesh: Option<MeshSide>,
    /// Whether nothing may be published yet.
    withheld: Withheld,
    /// Whether proxies or infrastructure said something new.
    judge_due: bool,
    /// When a proxy stops being waited for.
    patience: Option<Instant>,
    statuses: StatusPace,
    /// Whether proxies come to this instance: another one knows nothing of them.
    leads: bool,
}

impl Reconciler {
    fn new(ends: Ends, options: Options) -> Self {
        let mesh = ends.mesh.is_some().then(MeshSide::default);
        Self {
            ends,
            objects: Objects::default(),
            options: Options { mesh: mesh.is_some(), ..options },
            mesh,
            withheld: Withheld::default(),
            complete: false,
            changed: None,
            fetching: None,
            published: BTreeMap::new(),
            assignment: Assignment::default(),
            ready: BTreeMap::new(),
            uids: BTreeMap::new(),
            ports: BTreeMap::new(),
            prover: Prover::default(),
            judge_due: false,
            patience: None,
            statuses: StatusPace::default(),
            leads: false,
        }
    }

    /// A new leader gives proxies time to come over before it says that they serve nothing.
    fn role(&mut self, role: Role) {
        let now = Instant::now();
        self.leads = role == Role::Leader;
        if self.leads {
            self.prover.begin(now);
            self.mesh.iter_mut().for_each(|mesh| mesh.begin(now));
            self.statuses = StatusPace::held(now, now + PATIENCE);
        }
        self.patience = None;
        self.judge_due = true;
    }

    /// When there is something to do although nothing happens.
    fn due(&self) -> Option<Instant> {
        if !self.complete {
            return None;
        }
        let translate = self.changed.map(|(first, last)| (first + COLLECT.0).min(last + COLLECT.1));
        let fetched = self.fetching.map(|since| since + FETCH);
        let statuses = self.statuses.due().filter(|_| self.leads && !self.withheld.is_so() && self.changed.is_none());
        let patience = self.patience.filter(|_| !self.withheld.is_so());
        [translate, fetched, statuses, patience, self.withheld.due()].into_iter().flatten().min()
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Ready => {
                self.complete = true;
                self.touch();
            }
            Update::Changes(changes) => {
                let apply = |change| self.ends.watch.wanted.apply(change, &mut self.objects);
                // Each one, so no short cut.
                let relevant = changes.into_iter().map(apply).filter(|relevant| *relevant).count() > 0;
                let settled = self.fetching.is_some_and(|_| self.ends.watch.wanted.is_settled());
                if relevant || settled || self.was_unread() {
                    self.touch();
                }
            }
        }
    }

    /// Whether something that the last translation had to take as unread was answered.
    fn was_unread(&self) -> bool {
        !self.options.unread.is_empty() && !self.ends.watch.wanted.unanswered().eq(&self.options.unread)
    }

    /// The next translation is due soon.
    fn touch(&mut self) {
        let now = Instant::now();
        self.changed = Some((self.changed.map_or(now, |(first, _)| first), now));
    }

    fn act(&mut self, sources: &Sources) {
        if !self.complete {
            return;
        }
        let now = Instant::now();
        let collected = self.changed.is_some_and(|(first, last)| now >= first + COLLECT.0 || now >= last + COLLECT.1);
        let waited = self.fetching.is_some_and(|since| now >= since + FETCH);
        if collected || waited {
            self.changed = None;
            self.translate(sources, now);
        }
        if !self.leads {
            self.ends.metrics.proxies(0, 0);
            self.ends.metrics.sidecars(0, 0, None);
        }
        if self.withheld.ends(now) {
            self.touch();
        }
        if !self.leads || self.withheld.is_so() {
            return;
        }
        if self.judge_due || self.patience.is_some_and(|patience| now >= patience) {
            self.judge(sources, now);
        }
        // Not of objects that no translation has seen: what they refer to was not asked for yet.
        if self.changed.is_none() && self.statuses.is_due(now) {
            self.write_statuses(now);
        }
    }

    /// Translates, and hands over what follows but for the statuses.
    fn translate(&mut self, sources: &Sources, now: Instant) {
        let bundle = sources.bundle.borrow().clone();
        self.options.unsupported_version = bundle.supported().err();
        self.options.authority = mesh::authority(sources.mesh.as_ref()).or_else(|| self.options.authority.take());
        let start = Instant::now();
        let mut translation = translate(&self.objects, &self.options);
        self.ends.metrics.translated(start.elapsed(), &self.objects);
        self.ends.watch.wanted.want(translation.references.clone(), &mut self.objects);
        if self.ends.watch.wanted.is_expecting(FETCH, now) {
            let since = *self.fetching.get_or_insert(now);
            if now < since + FETCH {
                return;
            }
        }
        self.fetching = None;
        let unread = self.ends.watch.wanted.unanswered();
        if !unread.eq(&self.options.unread) {
            self.options.unread = self.ends.watch.wanted.unanswered().cloned().collect();
            translation = translate(&self.objects, &self.options);
        }
        self.uids = translation.editions.iter().map(|(key, editions)| (key.clone(), editions.gateway.uid.clone())).collect();
        self.ports = translation.infrastructure.iter().map(|(key, given)| (key.clone(), given.ports.clone())).collect();
        self.ready = ready::pods(&self.objects, translation.editions.keys());
        self.assign(&translation, sources);
        // Whoever has no authority yet may be waiting for a leader to make one.
        let lacks_authority = mesh::lacks_authority(&translation, &self.options);
        self.ends.metrics.lacks_authority(lacks_authority);
        self.withheld.set(lacks_authority, now);
        if !self.withheld.is_so() {
            self.publish(translation, now);
        }
        self.judge_due = true;
        self.statuses.touch(now);
        self.ends.readiness.send_if_modified(|fault| fault.take().is_some());
    }

    fn assign(&mut self, translation: &Translation, sources: &Sources) {
        let nodes = sources.nodes.borrow().clone();
        let before = std::mem::take(&mut self.assignment);
        self.assignment = addresses::assign(&translation.infrastructure, &self.objects, nodes.as_deref(), &before);
        self.options.addresses = self.assignment.addresses();
        self.ends.recorder.record(self.assignment.records.clone());
        let needs_nodes = self.assignment.needs_nodes;
        self.ends.needs_nodes.send_if_modified(|needed| std::mem::replace(needed, needs_nodes) != needs_nodes);
        self.ends.provisioner.want(translation.infrastructure.clone(), provision::released(&self.objects));
    }

    /// Every Gateway of ours gets what is its own; one that is not to be served gets nothing, so that its listeners close.
    fn publish(&mut self, translation: Translation, now: Instant) {
        let mut changed = false;
        let mut snapshots = BTreeMap::new();
        for key in translation.editions.keys() {
            let of_gateway = translation.snapshot.of_gateway(key);
            let same = self.published.get(key).filter(|before| ***before == of_gateway);
            changed |= same.is_none();
            snapshots.insert(key.clone(), same.cloned().unwrap_or_else(|| Arc::new(of_gateway)));
        }
        let mesh = self.mesh.as_mut().map(|mesh| mesh.publication(&self.objects, &translation));
        let versions = self.ends.server.publish(Publication { gateways: snapshots.clone(), mesh });
        self.published = snapshots;
        if let Some(mesh) = &mut self.mesh {
            changed |= mesh.published(versions.mesh, translation.audiences);
        }
        let mut editions = translation.editions;
        let wanted =
            versions.gateways.into_iter().filter_map(|(key, version)| Some((key.clone(), (version, editions.remove(&key)?))));
        self.prover.publish(wanted.collect(), now);
        if changed {
            self.ends.metrics.published();
            self.statuses.hold(now);
        }
    }

    /// Takes over what proxies and infrastructure say.
    fn judge(&mut self, sources: &Sources, now: Instant) {
        self.judge_due = false;
        let proxies = sources.proxies.borrow().clone();
        let connected = proxies.iter().map(|(key, pods)| (key.clone(), told::states(pods))).collect();
        let mut judgement = self.prover.judge(&self.ready, &connected, now);
        let provisioned = sources.provisioned.borrow().clone();
        for (key, proof) in &mut judgement.proofs {
            if let Some(state) = provisioned.gateways.get(key) {
                proof.fault = (!state.faults.is_empty()).then(|| state.faults.join("; "));
            }
            if !provisioned.has_own_pods(key, self.uids.get(key).map(String::as_str)) {
                proof.ready = 0;
            }
            proof.pending = self.ports.get(key).and_then(|ports| ready::lacks_ports(&self.objects, key, ports));
            proof.lacking = proxies.get(key).map(told::lacking).unwrap_or_default();
        }
        let waiting = judgement.proofs.values().map(|proof| proof.waiting.len()).sum();
        self.ends.metrics.proxies(proxies.values().map(BTreeMap::len).sum(), waiting);
        self.patience = judgement.until;
        let mut service_proof = None;
        if let Some(mesh) = &mut self.mesh {
            let sidecars = sources.sidecars.borrow().clone();
            let of_sidecars = mesh.judge(&sidecars, now);
            self.ends.metrics.sidecars(sidecars.len(), of_sidecars.behind, of_sidecars.standing);
            self.patience = self.patience.into_iter().chain(of_sidecars.until).min();
            judgement.settled &= of_sidecars.settled;
            service_proof = Some(of_sidecars.proofs);
        }
        let (proof, unavailable) = (Some(judgement.proofs), told::unavailable(&self.published, &proxies));
        let notes = told::notes(&self.assignment, &sources.recorded.borrow());
        let options = &mut self.options;
        let is_same = options.proof == proof && options.service_proof == service_proof;
        if !is_same || options.unavailable != unavailable || options.address_notes != notes {
            self.statuses.touch(now);
        }
        (options.proof, options.unavailable, options.address_notes) = (proof, unavailable, notes);
        options.service_proof = service_proof;
        if judgement.settled {
            self.statuses.settled();
        }
    }

    fn write_statuses(&mut self, now: Instant) {
        self.statuses.written(now);
        if self.fetching.is_some() {
            // What is missing from the objects would be told as missing. The translation that waits writes statuses after it.
            return;
        }
        let translation = translate(&self.objects, &self.options);
        self.ends.writer.publish(translation.statuses, &self.objects);
    }
}
