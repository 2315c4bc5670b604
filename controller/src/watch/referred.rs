//! Secrets and ConfigMaps: only their metadata is watched, and only what is wanted is read, one by one.
//!
//! A GET answers with the newest state, so the events only say when to ask. Nothing else of these kinds is kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt};
use isthmus_api::{Kind, Object, ObjectRef, decode};
use kube::Client;
use kube::api::GetParams;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::fault::{self, Backoff};
use super::health::{Health, Reporter};
use super::resource::requests_of;
use super::stream::{Event, Target, Timing, follow, in_time};
use super::wanted::Questions;
use super::{Change, Update};

/// The kinds that are read only where something refers to them.
pub(super) const KINDS: [Kind; 2] = [Kind::Secret, Kind::ConfigMap];

/// Reads at a time.
const READS: usize = 16;

/// What the task works with.
pub(super) struct Work {
    pub(super) client: Client,
    pub(super) timing: Timing,
    /// Empty: all.
    pub(super) namespaces: BTreeSet<String>,
    pub(super) questions: watch::Receiver<Questions>,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) health: Arc<watch::Sender<Arc<Health>>>,
}

/// Answers what is wanted until nobody wants anything.
pub(super) async fn run(work: Work) {
    let mut watches = Watches::start(&work);
    let mut referred = Referred {
        backoff: Backoff::new(work.timing.backoff.0, work.timing.backoff.1),
        pauses: FuturesUnordered::new(),
        reporter: Reporter::new(&work.health, Kind::Secret, "Secrets and ConfigMaps that are referred to".to_owned(), false),
        questions: work.questions,
        client: work.client,
        namespaces: work.namespaces,
        updates: work.updates,
        items: BTreeMap::new(),
        waiting: VecDeque::new(),
        reads: FuturesUnordered::new(),
        asked: 0,
    };
    loop {
        let alive = tokio::select! {
            changed = referred.questions.changed() => changed.is_ok() && referred.questioned().await,
            Some((scope, event)) = watches.streams.next() => {
                for object in watches.changed(scope, event, &referred.items) {
                    referred.read(object);
                }
                true
            }
            Some((object, number, answer)) = referred.reads.next() => referred.answered(object, number, answer).await,
            Some((object, question)) = referred.pauses.next() => {
                referred.paused(object, question);
                true
            }
        };
        if !alive {
            return;
        }
    }
}

type Read = (ObjectRef, u64, kube::Result<Option<Value>>);

/// One wanted object.
#[derive(Debug, Default)]
struct Item {
    /// Of the question that was answered last.
    answered: Option<u64>,
    question: u64,
    /// The resource version that was delivered; none if the object is not there.
    version: Option<String>,
    /// The number of the read that is queued or under way, and whether it came too early.
    reading: Option<u64>,
    again: bool,
    /// While reading it fails.
    failing: Option<Backoff>,
}

struct Referred {
    client: Client,
    namespaces: BTreeSet<String>,
    questions: watch::Receiver<Questions>,
    updates: mpsc::Sender<Update>,
    reporter: Reporter,
    backoff: Backoff,
    items: BTreeMap<ObjectRef, Item>,
    waiting: VecDeque<(ObjectRef, u64)>,
    reads: FuturesUnordered<BoxFuture<'static, Read>>,
    /// Objects whose reading failed, until they are read again; with their question.
    pauses: FuturesUnordered<BoxFuture<'static, (ObjectRef, u64)>>,
    asked: u64,
}

impl Referred {
    /// Takes up what is wanted now. False: nobody takes the answers.
    async fn questioned(&mut self) -> bool {
        let questions = self.questions.borrow_and_update().clone();
        self.items.retain(|object, _| questions.contains_key(object));
        let mut out_of_reach = Vec::new();
        for (object, number) in questions {
            let is_in_reach = self.is_in_reach(&object);
            let item = self.items.entry(object.clone()).or_default();
            if item.question == number {
                continue;
            }
            *item = Item { question: number, ..Item::default() };
            if is_in_reach {
                self.read(object);
            } else {
                item.answered = Some(number);
                out_of_reach.push(Change::Removed(object));
            }
        }
        out_of_reach.is_empty() || self.updates.send(Update::Changes(out_of_reach)).await.is_ok()
    }

    fn is_in_reach(&self, object: &ObjectRef) -> bool {
        self.namespaces.is_empty() || object.namespace.as_ref().is_some_and(|namespace| self.namespaces.contains(namespace))
    }

    /// Reads an object, or once more if it is being read.
    fn read(&mut self, object: ObjectRef) {
        let Some(item) = self.items.get_mut(&object) else { return };
        if item.reading.is_some() {
            item.again = true;
            return;
        }
        self.asked += 1;
        item.reading = Some(self.asked);
        self.waiting.push_back((object, self.asked));
        self.start_reads();
    }

    fn start_reads(&mut self) {
        while self.reads.len() < READS
            && let Some((object, number)) = self.waiting.pop_front()
        {
            if self.items.get(&object).is_some_and(|item| item.reading == Some(number)) {
                let client = self.client.clone();
                let read = async move {
                    let answer = get(&client, &object).await;
                    (object, number, answer)
                };
                self.reads.push(read.boxed());
            }
        }
    }

    /// A pause after a failure is over.
    fn paused(&mut self, object: ObjectRef, question: u64) {
        if self.items.get(&object).is_some_and(|item| item.question == question && item.failing.is_some()) {
            self.read(object);
        }
    }

    /// Takes an answer of the API server. False: nobody takes ours.
    async fn answered(&mut self, object: ObjectRef, number: u64, answer: kube::Result<Option<Value>>) -> bool {
        let change = self.judge(&object, number, answer);
        self.start_reads();
        match change {
            Some(change) => self.updates.send(Update::Changes(vec![change])).await.is_ok(),
            None => true,
        }
    }

    fn judge(&mut self, object: &ObjectRef, number: u64, answer: kube::Result<Option<Value>>) -> Option<Change> {
        let item = self.items.get_mut(object).filter(|item| item.reading == Some(number))?;
        item.reading = None;
        let again = std::mem::take(&mut item.again);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let wait = item.failing.get_or_insert_with(|| self.backoff.clone()).next();
                let wait = fault::retry_after(&error).unwrap_or(wait);
                let (object, question) = (object.clone(), item.question);
                self.reporter.fault(fault::describe(&error, "get", object.kind, object.namespace.as_deref()));
                self.pauses.push(tokio::time::sleep(wait).map(move |()| (object, question)).boxed());
                return None;
            }
        };
        item.failing = None;
        let version = answer.as_ref().map(|value| text(value, "/metadata/resourceVersion").to_owned());
        let is_first = item.answered != Some(item.question);
        item.answered = Some(item.question);
        let changed = is_first || version != item.version;
        item.version = version;
        if self.reporter.is_failing() && self.items.values().all(|item| item.failing.is_none()) {
            self.reporter.fine();
        }
        if again {
            self.read(object.clone());
        }
        changed.then(|| {
            answer.and_then(|value| whole(object, value)).map_or_else(|| Change::Removed(object.clone()), Change::Applied)
        })
    }
}

/// The object, or none if it is not there. Its content gets into no log.
async fn get(client: &Client, object: &ObjectRef) -> kube::Result<Option<Value>> {
    let version = object.kind.versions().first().copied().unwrap_or("v1");
    let request = requests_of(object, version).get(&object.name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    match in_time(client.request_text(request)).await {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(kube::Error::SerdeError),
        Err(error) if fault::code(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

fn whole(reference: &ObjectRef, mut value: Value) -> Option<Object> {
    if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        // kubectl keeps a copy of the whole object there.
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    let decoded = decode(value);
    if let Err(error) = &decoded {
        tracing::warn!(object = %reference, %error, "an object does not decode; it is taken as absent");
    }
    decoded.ok()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The watches of metadata, one for each kind and namespace.
struct Watches {
    streams: SelectAll<BoxStream<'static, (usize, Event)>>,
    scopes: Vec<MetadataScope>,
}

struct MetadataScope {
    kind: Kind,
    namespace: Option<String>,
    reporter: Reporter,
    /// Versions of what is wanted, as far as the list was read.
    listed: BTreeMap<ObjectRef, String>,
}

impl Watches {
    fn start(work: &Work) -> Self {
        let namespaces: Vec<Option<String>> =
            if work.namespaces.is_empty() { vec![None] } else { work.namespaces.iter().cloned().map(Some).collect() };
        let mut watches = Self { streams: SelectAll::new(), scopes: Vec::new() };
        for kind in KINDS {
            for namespace in &namespaces {
                let version = kind.versions().first().copied().unwrap_or("v1");
                let target = Target { kind, version, namespace: namespace.clone(), name: None, metadata_only: true };
                let scope = watches.scopes.len();
                let events = follow(work.client.clone(), target, work.timing);
                watches.streams.push(events.map(move |event| (scope, event)).boxed());
                watches.scopes.push(MetadataScope {
                    kind,
                    namespace: namespace.clone(),
                    reporter: Reporter::new(&work.health, kind, super::scope_name(kind, namespace.as_deref()), false),
                    listed: BTreeMap::new(),
                });
            }
        }
        watches
    }

    /// The wanted objects that have to be read after an event.
    fn changed(&mut self, scope: usize, event: Event, wanted: &BTreeMap<ObjectRef, Item>) -> Vec<ObjectRef> {
        let Some(scope) = self.scopes.get_mut(scope) else { return Vec::new() };
        if let Event::Fault(fault) = event {
            scope.reporter.fault(fault);
            return Vec::new();
        }
        scope.reporter.fine();
        match event {
            Event::Started { .. } => scope.listed.clear(),
            Event::Page(items) => {
                for item in &items {
                    let object = scope.reference(item);
                    if wanted.contains_key(&object) {
                        scope.listed.insert(object, text(item, "/metadata/resourceVersion").to_owned());
                    }
                }
            }
            Event::Listed => {
                let listed = std::mem::take(&mut scope.listed);
                let of_scope = |object: &ObjectRef| {
                    object.kind == scope.kind && (scope.namespace.is_none() || object.namespace == scope.namespace)
                };
                let other =
                    wanted.iter().filter(|(object, item)| listed.get(*object) != item.version.as_ref() && of_scope(object));
                return other.map(|(object, _)| object.clone()).collect();
            }
            Event::Applied(object) => {
                let (reference, version) = (scope.reference(&object), text(&object, "/metadata/resourceVersion"));
                let is_other = wanted.get(&reference).is_some_and(|item| item.version.as_deref() != Some(version));
                return is_other.then_some(reference).into_iter().collect();
            }
            Event::Removed(object) => {
                let reference = scope.reference(&object);
                return wanted.contains_key(&reference).then_some(reference).into_iter().collect();
            }
            Event::Absent | Event::Fault(_) => {}
        }
        Vec::new()
    }
}

impl MetadataScope {
    fn reference(&self, object: &Value) -> ObjectRef {
        ObjectRef {
            kind: self.kind,
            namespace: Some(text(object, "/metadata/namespace").to_owned()),
            name: text(object, "/metadata/name").to_owned(),
        }
    }
}
