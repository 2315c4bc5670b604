//! One list that is followed: pages of a list, then the events after it, and again when the events end.
//!
//! `kube::runtime::watcher` does the same, but keeps the list's resource version to itself, without which a list of an API
//! server that lags cannot be told from a current one.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use isthmus_api::Kind;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::fault::{self, Backoff};
use super::resource::requests;

/// Objects in one answer.
const PAGE: u32 = 500;
/// The same of Pods, which are large, and of which little is kept.
const PODS: u32 = 100;

/// A watch that says nothing for as long (the API server sends a bookmark each minute) is a dead connection.
const SILENCE: Duration = Duration::from_secs(100);

/// How long an answer (a page, the beginning of a watch) may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a kind that is absent is left alone.
const ABSENT: Duration = Duration::from_secs(10);

/// What is followed.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    /// The API version to ask for.
    pub(crate) version: &'static str,
    /// None: all namespaces.
    pub(crate) namespace: Option<String>,
    /// Only the object of this name.
    pub(crate) name: Option<String>,
    /// Only `metadata` is asked for.
    pub(crate) metadata_only: bool,
}

/// Times of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// A list is read again after about this time, in case an event was lost.
    pub(crate) relist: Duration,
    /// How long an API server that lags behind what was seen may catch up; after it the API server is right: it was restored
    /// from a backup.
    pub(crate) grace: Duration,
    /// The first and the longest wait after a failure.
    pub(crate) backoff: (Duration, Duration),
}

/// What a list and its watch say.
#[derive(Debug)]
pub(crate) enum Event {
    /// A list begins; pages before this one count no longer.
    Started {
        /// Its resource version.
        version: Option<u64>,
        /// Whether it is right even if it is older than what was seen.
        restored: bool,
    },
    /// Some of its objects.
    Page(Vec<Value>),
    /// It is complete.
    Listed,
    /// An object was made or changed.
    Applied(Value),
    /// An object was deleted; this is its last state.
    Removed(Value),
    /// The API server does not have this kind.
    Absent,
    /// Something failed and is tried again.
    Fault(String),
}

/// The resource version as a number, which it is in every API server that is known.
pub(crate) fn version_of(object: &Value) -> Option<u64> {
    object.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok()
}

/// Follows `target` forever. Nothing is requested while nobody polls. Cancel safe: an event is lost only with the stream.
pub(crate) fn follow(client: Client, target: Target, timing: Timing) -> impl Stream<Item = Event> + Send {
    let (first, last) = timing.backoff;
    let follower = Follower {
        requests: requests(target.kind, target.version, target.namespace.as_deref()),
        client,
        target,
        timing,
        lists: Backoff::new(first, last),
        watches: Backoff::new(first, last),
        pause: None,
        state: State::List { token: None, version: None },
        highest: 0,
        behind: None,
        relist: Instant::now(),
    };
    stream::unfold(follower, |mut follower| async {
        let event = follower.next().await;
        Some((event, follower))
    })
}

type Events = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<Value>>> + Send>>;

enum State {
    /// The next page is to be read; the first one without a token.
    List { token: Option<String>, version: Option<String> },
    /// A page was handed out.
    Paged { items: Vec<Value>, token: Option<String>, version: String },
    /// All pages were handed out.
    Complete { version: String },
    /// Events after this version are to be asked for.
    Watch { version: String },
    /// They come.
    Watching { version: String, events: Events, since: Instant, any: bool },
}

struct Follower {
    client: Client,
    requests: Request,
    target: Target,
    timing: Timing,
    /// Waits after lists that failed; reset by a page.
    lists: Backoff,
    /// Waits after watches that failed; reset by an event.
    watches: Backoff,
    pause: Option<Duration>,
    state: State,
    /// The newest version that was seen.
    highest: u64,
    /// Since when the API server says less than what was seen.
    behind: Option<Instant>,
    /// When the next list is due.
    relist: Instant,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    items: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
struct ListMeta {
    #[serde(rename = "resourceVersion", default)]
    resource_version: String,
    #[serde(rename = "continue", default)]
    token: String,
}

impl Follower {
    async fn next(&mut self) -> Event {
        if let Some(pause) = self.pause.take() {
            sleep(pause).await;
        }
        loop {
            let state = std::mem::replace(&mut self.state, State::List { token: None, version: None });
            let event = match state {
                State::List { token, version } => self.list(token, version).await,
                State::Paged { items, token: None, version } => {
                    self.state = State::Complete { version };
                    Some(Event::Page(items))
                }
                State::Paged { items, token, version } => {
                    self.state = State::List { token, version: Some(version) };
                    Some(Event::Page(items))
                }
                State::Complete { version } => {
                    self.state = State::Watch { version };
                    Some(Event::Listed)
                }
                State::Watch { version } => self.watch(version).await,
                State::Watching { version, events, since, any } => self.event(version, events, since, any).await,
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// Reads one page. One that failed is read again, since a list begun anew may never get to its end; after some failures, or
    /// if the API server knows no longer where the page begins, the first one is.
    async fn list(&mut self, token: Option<String>, version: Option<String>) -> Option<Event> {
        let params = ListParams {
            limit: Some(if self.target.kind == Kind::Pod { PODS } else { PAGE }),
            continue_token: token.clone(),
            field_selector: self.selector(),
            ..ListParams::default()
        };
        let request = if self.target.metadata_only { self.requests.list_metadata(&params) } else { self.requests.list(&params) };
        let page = match page(self.client.clone(), request).await {
            Ok(page) => page,
            Err(error) => {
                if !matches!(fault::code(&error), Some(404 | 410)) && !(self.lists.failures() + 1).is_multiple_of(10) {
                    self.state = State::List { token, version };
                }
                return Some(self.failed(&error));
            }
        };
        self.lists.reset();
        let first = version.is_none();
        let version = version.unwrap_or(page.metadata.resource_version);
        if version.is_empty() {
            self.pause = Some(self.lists.next());
            return Some(Event::Fault("the API server's list has no resourceVersion".to_owned()));
        }
        let number = version.parse().ok();
        let token = Some(page.metadata.token).filter(|token| !token.is_empty());
        if token.is_none() {
            self.relist = Instant::now() + self.timing.relist.mul_f64(0.8 + fastrand::f64() * 0.4);
        }
        self.state = State::Paged { items: page.items.unwrap_or_default(), token, version };
        let started = |restored| Event::Started { version: number, restored };
        first.then(|| started(number.is_some_and(|number| self.is_restored(number))))
    }

    /// Notes how new a list is, and says whether it counts although it is older than what was seen.
    fn is_restored(&mut self, version: u64) -> bool {
        if version >= self.highest {
            self.highest = version;
            self.behind = None;
            return false;
        }
        let since = *self.behind.get_or_insert_with(Instant::now);
        let restored = since.elapsed() >= self.timing.grace;
        if restored {
            tracing::warn!(
                kind = %self.target.kind, seen = self.highest, now = version,
                "the API server's state is older than what was seen and does not catch up: taken as restored from a backup"
            );
            self.highest = version;
            self.behind = None;
        }
        restored
    }

    async fn watch(&mut self, version: String) -> Option<Event> {
        // Not all watches of a controller end at once.
        let params = WatchParams::default().timeout(fastrand::u32(240..290));
        let params = WatchParams { field_selector: self.selector(), ..params };
        let request = if self.target.metadata_only {
            self.requests.watch_metadata(&params, &version)
        } else {
            self.requests.watch(&params, &version)
        };
        let events = match request {
            Ok(request) => in_time(self.client.request_events::<Value>(request)).await,
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        match events {
            Ok(events) => {
                let events: Events = Box::pin(events);
                self.state = State::Watching { version, events, since: Instant::now(), any: false };
                None
            }
            Err(error) => self.interrupted(&error, version),
        }
    }

    async fn event(&mut self, version: String, mut events: Events, since: Instant, any: bool) -> Option<Event> {
        let catch_up = self.behind.map_or(self.relist, |since| (since + self.timing.grace).min(self.relist));
        let next = tokio::select! {
            biased;
            next = timeout(SILENCE, events.next()) => next.ok().flatten(),
            () = sleep_until(catch_up) => return None,
        };
        let Some(next) = next else {
            // An API server that ends watches as soon as they begin is not asked without end.
            if !any && since.elapsed() < Duration::from_secs(1) {
                sleep(self.watches.next()).await;
            } else {
                self.watches.reset();
            }
            self.state = State::Watch { version };
            return None;
        };
        let (event, object) = match next {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => (Event::Applied as fn(Value) -> Event, object),
            Ok(WatchEvent::Deleted(object)) => (Event::Removed as fn(Value) -> Event, object),
            Ok(WatchEvent::Bookmark(bookmark)) => {
                let version = bookmark.metadata.resource_version;
                self.progressed(version.parse().ok());
                self.state = State::Watching { version, events, since, any: true };
                return None;
            }
            Ok(WatchEvent::Error(status)) => return self.interrupted(&kube::Error::Api(status), version),
            Err(error) => return self.interrupted(&error, version),
        };
        let Some(version) = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned) else {
            self.pause = Some(self.watches.next());
            return Some(Event::Fault("an object of the API server has no resourceVersion; listing again".to_owned()));
        };
        self.progressed(version.parse().ok());
        self.state = State::Watching { version, events, since, any: true };
        Some(event(object))
    }

    /// Events come and are this new.
    fn progressed(&mut self, version: Option<u64>) {
        self.watches.reset();
        if version.is_some_and(|version| version >= self.highest) {
            self.highest = version.unwrap_or_default();
            self.behind = None;
        }
    }

    /// A watch failed: it goes on where it was, or from a new list if the API server no longer knows where that is.
    fn interrupted(&mut self, error: &kube::Error, version: String) -> Option<Event> {
        let expired = fault::code(error) == Some(410);
        let unknown = expired
            || fault::code(error) == Some(404)
            || matches!(error, kube::Error::Api(status) if status.message.contains("Too large resource version"));
        // An expired version is no fault: the list that follows says all.
        let harmless = expired && self.watches.failures() == 0;
        let wait = self.watches.next();
        if !unknown && !self.watches.failures().is_multiple_of(5) {
            self.state = State::Watch { version };
        }
        if harmless {
            return None;
        }
        self.pause = Some(wait);
        Some(Event::Fault(self.describe(error)))
    }

    fn failed(&mut self, error: &kube::Error) -> Event {
        if fault::code(error) == Some(404) {
            self.pause = Some(ABSENT);
            return Event::Absent;
        }
        let wait = self.lists.next();
        self.pause = Some(fault::retry_after(error).unwrap_or(wait));
        Event::Fault(self.describe(error))
    }

    fn describe(&self, error: &kube::Error) -> String {
        fault::describe(error, "list and watch", self.target.kind, self.target.namespace.as_deref())
    }

    fn selector(&self) -> Option<String> {
        self.target.name.as_ref().map(|name| format!("metadata.name={name}"))
    }
}

/// Reads a page; its content gets into no log.
async fn page(client: Client, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> kube::Result<List> {
    let text = in_time(client.request_text(request.map_err(kube::Error::BuildRequest)?)).await?;
    serde_json::from_str(&text).map_err(kube::Error::SerdeError)
}

/// Gives an answer up that takes too long.
pub(crate) async fn in_time<T>(answer: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))
}
