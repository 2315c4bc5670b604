//! The objects that are ours, followed.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt};
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;
use tracing::warn;

use super::desired::OwnKind;
use super::live::Live;
use super::names;

/// One kind in one namespace (none: in all).
pub(super) type Scope = (OwnKind, Option<String>);

/// What a watch says.
#[derive(Debug)]
pub(super) enum Event {
    /// All that is in the scope.
    Listed(Scope, Vec<Live>),
    /// One is there.
    Applied(OwnKind, Box<Live>),
    /// One is gone, or lost its label.
    Deleted(OwnKind, Box<Live>),
}

/// The scopes of the watches.
pub(super) fn scopes(namespaces: &BTreeSet<String>) -> BTreeSet<Scope> {
    let namespaces: Vec<_> = match namespaces.is_empty() {
        true => vec![None],
        false => namespaces.iter().cloned().map(Some).collect(),
    };
    OwnKind::ALL.into_iter().flat_map(|kind| namespaces.iter().map(move |namespace| (kind, namespace.clone()))).collect()
}

/// Starts a watch for each scope. They end with the receiver.
pub(super) fn start(client: &Client, namespaces: &BTreeSet<String>) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(1024);
    for scope in scopes(namespaces) {
        tokio::spawn(follow(client.clone(), scope, sender.clone()));
    }
    receiver
}

/// The api of a kind in a namespace.
pub(super) fn api(client: &Client, kind: OwnKind, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind.resource()),
        None => Api::all_with(client.clone(), &kind.resource()),
    }
}

async fn follow(client: Client, scope: Scope, events: mpsc::Sender<Event>) {
    let (kind, namespace) = &scope;
    let (label, value) = names::MANAGED_BY;
    let config = watcher::Config::default().labels(&format!("{label}={value}"));
    let stream = watcher(api(&client, *kind, namespace.as_deref()), config).default_backoff().into_stream();
    let mut stream = std::pin::pin!(stream);
    let mut listed = Vec::new();
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = events.closed() => return,
        };
        let event = match event {
            Some(Ok(watcher::Event::Init)) => {
                listed.clear();
                continue;
            }
            Some(Ok(watcher::Event::InitApply(object))) => {
                listed.push(Live::read(object));
                continue;
            }
            Some(Ok(watcher::Event::InitDone)) => Event::Listed(scope.clone(), std::mem::take(&mut listed)),
            Some(Ok(watcher::Event::Apply(object))) => Event::Applied(*kind, Box::new(Live::read(object))),
            Some(Ok(watcher::Event::Delete(object))) => Event::Deleted(*kind, Box::new(Live::read(object))),
            Some(Err(error)) => {
                let namespace = namespace.as_deref().unwrap_or("all namespaces");
                warn!(kind = kind.as_str(), namespace, %error, "what was provided cannot be watched now");
                continue;
            }
            None => return,
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}
