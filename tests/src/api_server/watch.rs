//! Watches: a position in the history and a selector -> lines of JSON, as the events come.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::calls::Call;
use super::fault::{Action, Live};
use super::kinds::{self, Resource};
use super::read::Form;
use super::refusal::Refusal;
use super::request::Request;
use super::selector::Selector;
use super::serve::{Link, Wire};
use super::store::{Event, Store};
use super::{Shared, lock};

/// How often a watch looks around when nothing is written: for bookmarks, and for rules that were lifted.
const TICK: Duration = Duration::from_millis(50);
/// The time of a watch that names none.
const LONGEST: Duration = Duration::from_secs(1800);

/// How a watch is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As after `timeoutSeconds`: the body ends.
    Close,
    /// An event that says 410 Gone, then the end.
    Gone,
    /// The connection is reset.
    Reset,
}

/// A watch that is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) call: Call,
    pub(super) ending: Mutex<Option<Ending>>,
}

/// What a watch is about, where it begins, and how it is shown.
pub(super) struct Watching {
    shared: Arc<Shared>,
    wire: Wire,
    open: Arc<Open>,
    changed: watch::Receiver<()>,
    resource: Resource,
    version: String,
    form: Form,
    selector: Selector,
    /// Reads go no further than this rule says while it is not lifted.
    stale: Option<Arc<Live>>,
    /// The last version that was looked at.
    position: u64,
    /// The last version that the client knows of.
    told: u64,
    bookmarks: bool,
    deadline: Instant,
    ready: VecDeque<Bytes>,
    is_over: bool,
}

impl Watching {
    /// Opens a watch: what is there already comes first if the request names no version or asks for it.
    pub(super) fn open(
        shared: &Arc<Shared>,
        store: &Store,
        wire: Wire,
        request: &Request,
        (resource, version, selector): (&Resource, &str, Selector),
        call: &Call,
        rule: Option<Arc<Live>>,
    ) -> Self {
        let open = Arc::new(Open { call: call.clone(), ending: Mutex::default() });
        let mut watches = lock(&shared.watches);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(&open));
        let seconds = request.number("timeoutSeconds").map_or(LONGEST, Duration::from_secs);
        let gone = rule.as_ref().is_some_and(|rule| matches!(rule.action(), Action::GoneEvent));
        let mut watching = Self {
            wire,
            open,
            changed: shared.changed.subscribe(),
            shared: Arc::clone(shared),
            resource: resource.clone(),
            version: version.to_owned(),
            form: Form::new(resource, version, request.metadata_only),
            selector,
            stale: rule.filter(|rule| matches!(rule.action(), Action::Stale(_))),
            position: 0,
            told: 0,
            bookmarks: request.is_set("allowWatchBookmarks"),
            deadline: Instant::now() + seconds,
            ready: VecDeque::new(),
            is_over: false,
        };
        let from = request.number("resourceVersion").unwrap_or(0);
        let initial = request.is_set("sendInitialEvents");
        if gone || (from != 0 && !initial && from < store.compacted()) {
            watching.expire();
        } else if from == 0 || initial {
            watching.begin(store, initial);
        } else {
            watching.position = from;
            watching.told = from;
        }
        watching
    }

    /// The body of the response.
    pub(super) fn into_body(self) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static {
        stream::unfold(self, |mut watching| async move {
            let line = watching.next().await?;
            Some((line.map(Frame::data), watching))
        })
    }

    fn begin(&mut self, store: &Store, says_end: bool) {
        let newest = self.newest(store);
        for (_, object) in store.list(&self.resource.group, &self.resource.plural, Some(newest)) {
            if self.selector.matches(&object) {
                self.push("ADDED", &self.form.show(&object));
            }
        }
        self.position = newest;
        self.told = newest;
        if says_end && self.bookmarks {
            self.push("BOOKMARK", &self.form.bookmark(newest, true));
        }
    }

    /// The newest version that may be seen.
    fn newest(&self, store: &Store) -> u64 {
        match self.stale.as_ref().filter(|rule| !rule.is_lifted()).map(|rule| rule.action()) {
            Some(Action::Stale(version)) => store.version().min(*version),
            _ => store.version(),
        }
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if *self.wire.link.borrow() == Link::Hanging {
                // The link of a server that ends is gone.
                self.wire.link.changed().await.ok()?;
                continue;
            }
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            if self.is_over {
                return None;
            }
            self.changed.borrow_and_update();
            self.read();
            let ending = lock(&self.open.ending).take();
            match ending {
                Some(Ending::Close) => self.is_over = true,
                Some(Ending::Gone) => self.expire(),
                Some(Ending::Reset) => return Some(Err(self.wire.reset())),
                None if !self.ready.is_empty() => {}
                None if Instant::now() >= self.deadline => {
                    self.bookmark();
                    self.is_over = true;
                }
                None => {
                    let tick = self.deadline.min(Instant::now() + TICK);
                    if tokio::time::timeout_at(tick, self.changed.changed()).await.is_err() && self.told < self.position {
                        self.bookmark();
                    }
                }
            }
        }
    }

    /// Takes in what was written since.
    fn read(&mut self) {
        let shared = Arc::clone(&self.shared);
        let store = lock(&shared.store);
        let newest = self.newest(&store);
        for event in store.since(self.position).iter().take_while(|event| event.version <= newest) {
            if event.key.is_of(&self.resource.group, &self.resource.plural)
                && let Some((kind, object)) = self.seen(event)
            {
                self.push(kind, &self.form.show(&object));
                self.told = event.version;
            }
        }
        self.position = self.position.max(newest);
        if kinds::find(&store, &self.resource.group, &self.version, &self.resource.plural).is_none() {
            self.is_over = true;
        }
    }

    /// What an event is for those who see only what is selected.
    fn seen(&self, event: &Event) -> Option<(&'static str, Value)> {
        let was = event.previous.as_ref().is_some_and(|object| self.selector.matches(object));
        let is = !event.removed && self.selector.matches(&event.object);
        match (was, is) {
            (false, true) => Some(("ADDED", (*event.object).clone())),
            (true, true) => Some(("MODIFIED", (*event.object).clone())),
            (true, false) => {
                let mut object = event.previous.as_deref().cloned().unwrap_or_default();
                object["metadata"]["resourceVersion"] = json!(event.version.to_string());
                Some(("DELETED", object))
            }
            (false, false) => None,
        }
    }

    fn bookmark(&mut self) {
        if self.bookmarks {
            self.push("BOOKMARK", &self.form.bookmark(self.position, false));
        }
        self.told = self.position;
    }

    fn expire(&mut self) {
        self.push("ERROR", &Refusal::gone().status());
        self.is_over = true;
    }

    fn push(&mut self, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.ready.push_back(Bytes::from(line));
    }
}
