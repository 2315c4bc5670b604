//! Statuses -> the API server.
//!
//! [`Writer::publish`] takes what `translate` says of every object; the watch fills [`Seen`] with what the objects say. Where
//! the two differ, one task writes the difference ([`merge`]), a few objects at a time, the newest state of each. Only the
//! leader writes.

mod merge;
mod queue;
mod seen;
mod wanted;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isthmus_api::status::Statuses;
use isthmus_api::{ObjectRef, Objects};
use isthmus_push::server::Role;
use kube::Client;
use kube::api::{GetParams, Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

pub use seen::Seen;

use crate::crds::Bundle;
use crate::watch::fault::{self, Backoff};
use crate::watch::resource::requests_of;
use merge::{Input, Merged};
use queue::{Limit, Queue};
use seen::SeenStatus;
use wanted::Wanted;

/// How statuses are written.
#[derive(Debug, Clone)]
pub struct Options {
    /// Our name in the statuses of routes.
    pub controller_name: String,
    /// Writes at a time.
    pub in_flight: usize,
    /// Writes of one object that may follow each other at once.
    pub burst: u32,
    /// The time between writes of one object when these are used up.
    pub interval: Duration,
    /// The first and the longest wait after a failure.
    pub backoff: (Duration, Duration),
    /// How long one answer may take.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controller_name: isthmus_translate::CONTROLLER_NAME.to_owned(),
            in_flight: 8,
            burst: 20,
            interval: Duration::from_millis(200),
            backoff: (Duration::from_millis(50), Duration::from_secs(10)),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Writes statuses until it is dropped.
pub struct Writer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Starts the task. `bundle` tells in which API version a kind is written.
    pub fn start(
        client: Client,
        options: Options,
        bundle: watch::Receiver<Arc<Bundle>>,
        role: watch::Receiver<Role>,
        seen: Arc<Seen>,
    ) -> Self {
        let shared = Arc::new(Shared {
            client,
            options,
            bundle,
            seen,
            wanted: Mutex::default(),
            changed: Notify::new(),
            busy: watch::Sender::new(false),
            futile: Mutex::default(),
        });
        let task = tokio::spawn(run(Arc::clone(&shared), role));
        Self { shared, task }
    }

    /// Says what the statuses are to be. Never waits; the newest call wins. `objects` are those that were translated: a status
    /// gets onto no other object of the same name, and a route or policy among them that has no status of ours loses what we wrote
    /// earlier. So nothing may be published before everything was listed.
    pub fn publish(&self, statuses: Statuses, objects: &Objects) {
        if self.shared.wanted().publish(statuses, objects) {
            self.shared.busy.send_replace(true);
            self.shared.changed.notify_one();
        }
    }

    /// Waits until all that was published is written, or given up. Cancel safe. While we do not lead, nothing is written and
    /// there is nothing to wait for.
    pub async fn idle(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.busy.subscribe().wait_for(|busy| !busy).await;
    }

    /// Waits until its task has ended, which only a fault of its own makes it do. Cancel safe; not to be called again after that.
    pub(crate) async fn ended(&mut self) {
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the task that writes statuses broke off");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("busy", &*self.shared.busy.borrow()).finish_non_exhaustive()
    }
}

struct Shared {
    client: Client,
    options: Options,
    bundle: watch::Receiver<Arc<Bundle>>,
    seen: Arc<Seen>,
    wanted: Mutex<Wanted>,
    changed: Notify,
    busy: watch::Sender<bool>,
    futile: Mutex<BTreeMap<ObjectRef, Futile>>,
}

/// A write that is of no use as long as neither our status nor the object's is another one: it was refused, or the API server
/// drops a field of it.
#[derive(Debug, PartialEq)]
struct Futile {
    wanted: Value,
    seen: SeenStatus,
}

/// How a write ended.
enum Outcome {
    Done,
    Failed { fault: String, after: Option<Duration> },
}

async fn run(shared: Arc<Shared>, mut role: watch::Receiver<Role>) {
    let Options { in_flight, burst, interval, backoff: (first, last), .. } = shared.options;
    let mut queue = Queue::new(Limit { burst, interval }, Backoff::new(first, last));
    let mut writes = JoinSet::new();
    let mut objects = HashMap::new();
    let mut leading = false;
    let mut faults = Faults::default();
    loop {
        if *role.borrow_and_update() != Role::Leader {
            // Dropped at once, with all requests that are under way.
            writes = JoinSet::new();
            objects.clear();
            queue.clear();
            leading = false;
            shared.busy.send_replace(false);
            if role.changed().await.is_err() {
                return;
            }
            continue;
        }
        let now = Instant::now();
        if !std::mem::replace(&mut leading, true) {
            shared.seen.all().into_iter().for_each(|object| queue.push(object, now));
        }
        for object in shared.take_dirty() {
            queue.push(object, now);
        }
        while writes.len() < in_flight
            && let Some(object) = queue.pop(now)
        {
            tokio::task::consume_budget().await;
            if shared.patch(&object).is_some() && queue.begin(&object, now) {
                let (shared, role, written) = (Arc::clone(&shared), role.clone(), object.clone());
                let task = writes.spawn(async move { write(&shared, &role, &written).await });
                objects.insert(task.id(), object);
            }
        }
        shared.settle(&queue);
        let next_due = queue.next_due().filter(|_| writes.len() < in_flight);
        tokio::select! {
            changed = role.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(ended) = writes.join_next_with_id() => {
                let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, _)| *id);
                let Some(object) = objects.remove(&id) else { continue };
                let panicked = |error: tokio::task::JoinError| Outcome::Failed { fault: error.to_string(), after: None };
                let outcome = ended.map_or_else(panicked, |(_, outcome)| outcome);
                match outcome {
                    Outcome::Done => {
                        queue.done(&object);
                        faults.worked();
                    }
                    Outcome::Failed { fault, after } => {
                        faults.failed(&object, fault);
                        queue.failed(object, after, Instant::now());
                    }
                }
            }
            () = shared.changed.notified() => {}
            () = shared.seen.changed.notified() => {}
            () = tokio::time::sleep_until(next_due.unwrap_or(now)), if next_due.is_some() => {}
        }
    }
}

/// Writes the newest status of an object. A conflict is repaired at once, by what the API server says now.
async fn write(shared: &Shared, role: &watch::Receiver<Role>, object: &ObjectRef) -> Outcome {
    for _ in 0..5 {
        let Some(patch) = shared.patch(object) else { return Outcome::Done };
        if *role.borrow() != Role::Leader {
            return Outcome::Done;
        }
        match shared.send(object, &patch).await {
            Ok(answer) => {
                shared.observe(object, &answer);
                shared.note_if_futile(object, &patch, &answer);
                return Outcome::Done;
            }
            Err(error) => match fault::code(&error) {
                Some(404) => return Outcome::Done,
                Some(409) => match shared.read(object).await {
                    Ok(answer) => shared.observe(object, &answer),
                    Err(error) if fault::code(&error) == Some(404) => return Outcome::Done,
                    Err(error) => return failed(object, &error),
                },
                Some(400 | 413 | 422) => {
                    tracing::error!(%object, fault = %fault::describe(&error, "patch", object.kind, None), "a status was refused");
                    shared.futile().insert(object.clone(), Futile { wanted: patch.wanted, seen: patch.seen });
                    return Outcome::Done;
                }
                _ => return failed(object, &error),
            },
        }
    }
    Outcome::Failed { fault: "others write the same status again and again".to_owned(), after: None }
}

fn failed(object: &ObjectRef, error: &kube::Error) -> Outcome {
    let verbs = "patch of the status and get";
    let fault = fault::describe(error, verbs, object.kind, object.namespace.as_deref());
    Outcome::Failed { fault, after: fault::retry_after(error) }
}

/// What is to be written.
struct StatusPatch {
    version: &'static str,
    status: Map<String, Value>,
    wanted: Value,
    seen: SeenStatus,
}

impl Shared {
    /// What has to be written of an object now, if anything.
    fn patch(&self, object: &ObjectRef) -> Option<StatusPatch> {
        let version = self.bundle.borrow().version_of(object.kind)?;
        let Some(seen) = self.seen.get(object) else {
            self.futile().remove(object);
            return None;
        };
        let current = seen.json();
        let name = &self.options.controller_name;
        let wanted = self.wanted().of(object, &seen.uid, || merge::has_entries_of(name, &current))?;
        let futile = Futile { wanted, seen };
        if self.futile().get(object) == Some(&futile) {
            return None;
        }
        let Futile { wanted, seen } = futile;
        let input = Input {
            kind: object.kind,
            namespace: object.namespace.as_deref(),
            generation: seen.generation,
            current: &current,
            wanted: &wanted,
            controller_name: name,
            now: &now(),
        };
        match merge::merge(&input) {
            Merged::Equal => None,
            Merged::Stale => {
                tracing::debug!(%object, "the object has a status of a newer generation than what was translated");
                None
            }
            Merged::Patch { status, left_out } => {
                if left_out > 0 {
                    tracing::warn!(%object, left_out, "the status has no room for all of ours beside what others wrote");
                }
                Some(StatusPatch { version, status, wanted, seen })
            }
        }
    }

    async fn send(&self, object: &ObjectRef, patch: &StatusPatch) -> kube::Result<Value> {
        let body = json!({"metadata": {"resourceVersion": patch.seen.resource_version}, "status": patch.status});
        let request = requests_of(object, patch.version);
        let params = PatchParams { field_manager: Some("isthmus-controller".to_owned()), ..PatchParams::default() };
        let request = request.patch_subresource("status", &object.name, &params, &Patch::Merge(body));
        self.request(request).await
    }

    async fn read(&self, object: &ObjectRef) -> kube::Result<Value> {
        let version = self.bundle.borrow().version_of(object.kind).unwrap_or("v1");
        self.request(requests_of(object, version).get(&object.name, &GetParams::default())).await
    }

    async fn request(&self, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> kube::Result<Value> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        let late = |_| kube::Error::Service("no answer in time".into());
        tokio::time::timeout(self.options.timeout, self.client.request(request)).await.map_err(late)?
    }

    fn observe(&self, object: &ObjectRef, answer: &Value) {
        self.seen.observe(object, answer, answer.get("status").unwrap_or(&Value::Null), false);
    }

    /// If the API server took a status but does not say it, it knows a field less than we do, and would get the same write for
    /// ever. Of what was seen since then it says nothing: somebody else wrote that.
    fn note_if_futile(&self, object: &ObjectRef, sent: &StatusPatch, answer: &Value) {
        let is_answer = |seen: &SeenStatus| {
            answer.pointer("/metadata/resourceVersion").and_then(Value::as_str) == Some(&*seen.resource_version)
        };
        let again = self.patch(object).filter(|again| again.wanted == sent.wanted && is_answer(&again.seen));
        let mut futile = self.futile();
        match again {
            Some(again) if again.status.keys().eq(sent.status.keys()) => {
                tracing::warn!(%object, fields = ?again.status.keys(), "the API server does not keep all of a status that it took");
                futile.insert(object.clone(), Futile { wanted: again.wanted, seen: again.seen });
            }
            _ => {
                futile.remove(object);
            }
        }
    }

    fn take_dirty(&self) -> BTreeSet<ObjectRef> {
        let mut dirty = self.wanted().take_dirty();
        dirty.append(&mut self.seen.take_dirty());
        dirty
    }

    /// Tells those who wait that there is nothing to do.
    fn settle(&self, queue: &Queue) {
        let wanted = self.wanted();
        if queue.is_empty() && !wanted.is_dirty() {
            self.busy.send_if_modified(std::mem::take);
        }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn futile(&self) -> MutexGuard<'_, BTreeMap<ObjectRef, Futile>> {
        self.futile.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of failures when they are new, not each time.
#[derive(Default)]
struct Faults {
    told: Option<String>,
}

impl Faults {
    fn failed(&mut self, object: &ObjectRef, fault: String) {
        if self.told.as_ref() == Some(&fault) {
            tracing::debug!(%object, %fault, "a status could not be written");
            return;
        }
        tracing::warn!(%object, %fault, "a status could not be written; it is tried again");
        self.told = Some(fault);
    }

    fn worked(&mut self) {
        self.told = None;
    }
}

/// As conditions have it: RFC 3339, in seconds.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
