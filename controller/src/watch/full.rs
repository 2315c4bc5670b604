//! Objects that are kept as they are read: all kinds but Secrets and ConfigMaps. Of Pods, which a cluster has thousands of, those are passed
//! over that have no address of their own, and not much of the others is read.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use isthmus_api::pod::PodSpec;
use isthmus_api::{Kind, ObjectRef, Stored, decode, decode_stored};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::health::Reporter;
use super::known::{Key, Known};
use super::stream::{Event, Target, Timing, follow, version_of};
use super::{Change, Update};
use crate::crds::Bundle;
use crate::status::Seen;

/// One list to follow: a kind, in one namespace or everywhere.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    /// Only the object of this name.
    pub(super) name: Option<String>,
}

/// What all scopes share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) timing: Timing,
    pub(super) bundle: watch::Receiver<Arc<Bundle>>,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) seen: Arc<Seen>,
}

/// Follows a scope until nobody takes its updates.
pub(super) async fn run(scope: Scope, mut shared: Shared, mut reporter: Reporter) {
    let mut store = Store::new(scope.kind, Arc::clone(&shared.seen));
    let mut absent = None;
    loop {
        let version = shared.bundle.borrow_and_update().version_of(scope.kind);
        let Some(version) = version else {
            if !deliver(store.clear(), &shared.updates, &mut reporter).await || shared.bundle.changed().await.is_err() {
                return;
            }
            continue;
        };
        let target = Target {
            kind: scope.kind,
            version,
            namespace: scope.namespace.clone(),
            name: scope.name.clone(),
            metadata_only: false,
        };
        let mut events = pin!(follow(shared.client.clone(), target, shared.timing));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                changed = shared.bundle.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if shared.bundle.borrow_and_update().version_of(scope.kind) == Some(version) {
                        continue;
                    }
                    break;
                }
            };
            let changes = match event {
                Some(Event::Fault(fault)) => {
                    reporter.fault(fault);
                    continue;
                }
                // An API server that starts, or has a CRD of a new version, may not know the kind yet.
                Some(Event::Absent)
                    if !store.known.is_empty() && absent.get_or_insert_with(Instant::now).elapsed() < shared.timing.grace =>
                {
                    reporter
                        .fault("the API server does not have this kind any more (404); what was known stays for now".to_owned());
                    continue;
                }
                Some(Event::Absent) => Some(store.clear()),
                Some(event) => {
                    absent = None;
                    store.take(event)
                }
                None => return,
            };
            reporter.fine();
            if let Some(changes) = changes
                && !deliver(changes, &shared.updates, &mut reporter).await
            {
                return;
            }
        }
    }
}

/// Sends changes (maybe none) that make what was delivered of the scope whole. False: nobody takes them.
async fn deliver(changes: Vec<Change>, updates: &mpsc::Sender<Update>, reporter: &mut Reporter) -> bool {
    if !changes.is_empty() && updates.send(Update::Changes(changes)).await.is_err() {
        return false;
    }
    !reporter.listed() || updates.send(Update::Ready).await.is_ok()
}

/// What is known of a scope, and what of a list has been read so far.
struct Store {
    kind: Kind,
    known: Known,
    seen: Arc<Seen>,
    list: Listing,
    /// Objects that do not decode, with the reason that was told.
    faulty: BTreeMap<Key, String>,
    /// Of Pods those that were delivered.
    pods: BTreeSet<Key>,
}

#[derive(Default)]
struct Listing {
    version: Option<u64>,
    restored: bool,
    items: BTreeMap<Key, Option<u64>>,
    news: Vec<Change>,
}

impl Store {
    fn new(kind: Kind, seen: Arc<Seen>) -> Self {
        Self { kind, known: Known::default(), seen, list: Listing::default(), faulty: BTreeMap::new(), pods: BTreeSet::new() }
    }

    /// Takes an event; what follows from it, once it is whole.
    fn take(&mut self, event: Event) -> Option<Vec<Change>> {
        match event {
            Event::Started { version, restored } => {
                self.list = Listing { version, restored, ..Listing::default() };
                None
            }
            Event::Page(items) => {
                for item in items {
                    let (key, version) = (key_of(&item), version_of(&item));
                    if self.list.restored || self.known.is_news(&key, version) {
                        let news = self.decoded(&key, item, self.list.restored);
                        self.list.news.extend(news);
                    }
                    self.list.items.insert(key, version);
                }
                None
            }
            Event::Listed => {
                let list = std::mem::take(&mut self.list);
                let mut changes = list.news;
                for key in self.known.listed(list.version, list.items, list.restored) {
                    changes.extend(self.removed(key, None));
                }
                Some(changes)
            }
            Event::Applied(object) => {
                let (key, version) = (key_of(&object), version_of(&object));
                let news = self.known.applied(key.clone(), version);
                news.then(|| self.decoded(&key, object, false)).flatten().map(|change| vec![change])
            }
            Event::Removed(object) => {
                let (key, version) = (key_of(&object), version_of(&object));
                let news = self.known.removed(key.clone(), version);
                news.then(|| self.removed(key, version)).flatten().map(|change| vec![change])
            }
            Event::Absent | Event::Fault(_) => None,
        }
    }

    /// Everything is gone.
    fn clear(&mut self) -> Vec<Change> {
        self.list = Listing::default();
        let gone = self.known.clear();
        gone.into_iter().filter_map(|key| self.removed(key, None)).collect()
    }

    /// An object that cannot be read takes the place of what was known of it. One of which nothing at all can be read changes nothing, so
    /// that what was known stays.
    fn decoded(&mut self, key: &Key, mut object: Value, restored: bool) -> Option<Change> {
        if self.kind == Kind::Pod {
            if !has_addresses(&object) {
                return self.removed(key.clone(), None);
            }
            self.pods.insert(key.clone());
        }
        let status = self.strip(&mut object);
        let reference = self.reference(key.clone());
        if let Some(status) = &status {
            self.seen.observe(&reference, &object, status, restored);
        }
        match decode_tolerant(self.kind, &object, status) {
            Ok(Stored::Whole(object)) => {
                self.faulty.remove(key);
                Some(Change::Applied(object))
            }
            Ok(Stored::Unreadable(part, why)) => {
                self.tell(key, &reference, why.to_string(), "nothing is made of it but conditions");
                Some(Change::Unreadable(part, why))
            }
            Err(fault) => {
                self.tell(key, &reference, fault, "what was known of it stays");
                None
            }
        }
    }

    fn tell(&mut self, key: &Key, reference: &ObjectRef, fault: String, outcome: &str) {
        if self.faulty.get(key) != Some(&fault) {
            tracing::warn!(object = %reference, %fault, "an object does not decode; {outcome}");
            self.faulty.insert(key.clone(), fault);
        }
    }

    /// None: it was not delivered.
    fn removed(&mut self, key: Key, version: Option<u64>) -> Option<Change> {
        if self.kind == Kind::Pod && !self.pods.remove(&key) {
            return None;
        }
        self.faulty.remove(&key);
        let reference = self.reference(key);
        self.seen.forget(&reference, version);
        Some(Change::Removed(reference))
    }

    /// Completes what items of lists lack, removes what nobody reads, and takes the status off where it is written by us.
    fn strip(&self, object: &mut Value) -> Option<Value> {
        let kind = self.kind;
        let fields = object.as_object_mut()?;
        fields.entry("apiVersion").or_insert_with(|| kind.api_version().into());
        fields.entry("kind").or_insert_with(|| kind.as_str().into());
        let status = Seen::has(kind).then(|| fields.remove("status").unwrap_or_default());
        fields.get_mut("metadata").and_then(Value::as_object_mut)?.remove("managedFields");
        status
    }

    fn reference(&self, (namespace, name): Key) -> ObjectRef {
        ObjectRef { kind: self.kind, namespace: self.kind.is_namespaced().then_some(namespace), name }
    }
}

/// Whether a Pod has addresses of its own, or has a sidecar and will have some.
fn has_addresses(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    let has_some = || pod.pointer("/status/podIPs").and_then(Value::as_array).is_some_and(|addresses| !addresses.is_empty());
    let has_sidecar = || PodSpec::deserialize(&pod["spec"]).is_ok_and(|spec| spec.sidecar.is_some());
    !is_over && pod.pointer("/spec/hostNetwork") != Some(&Value::Bool(true)) && (has_some() || has_sidecar())
}

/// The few Gateways, ListenerSets and GatewayClasses keep their status if it is one; the many routes and policies do not.
fn decode_tolerant(kind: Kind, object: &Value, status: Option<Value>) -> Result<Stored, String> {
    let keeps = matches!(kind, Kind::GatewayClass | Kind::Gateway | Kind::ListenerSet);
    let status = status.filter(|status| status.is_object() && keeps);
    if let Some(status) = status {
        let mut whole = object.clone();
        whole["status"] = status;
        if let Ok(object) = decode(whole) {
            return Ok(Stored::Whole(object));
        }
    }
    decode_stored(object).map_err(|error| error.to_string())
}

fn key_of(object: &Value) -> Key {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/metadata/namespace"), text("/metadata/name"))
}
