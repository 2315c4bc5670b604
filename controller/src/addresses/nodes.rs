//! The nodes' addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use isthmus_api::core::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tracing::warn;

/// Nodes that are told to balancers to stay away from.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The addresses of each node: those that are reached from outside, or else those inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    by_name: BTreeMap<String, Known>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    addresses: Vec<IpAddr>,
    /// Whether it is ready and not excluded.
    serves: bool,
}

impl Nodes {
    /// Takes over a node as it is now.
    pub fn insert(&mut self, node: &Node) {
        let status = node.status.as_ref();
        let of_type = |wanted: &str| -> Vec<IpAddr> {
            let addresses = status.iter().flat_map(|status| status.addresses.iter().flatten());
            addresses.filter(|address| address.type_ == wanted).filter_map(|address| address.address.parse().ok()).collect()
        };
        let outside = of_type("ExternalIP");
        let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let known = Known {
            addresses: if outside.is_empty() { of_type("InternalIP") } else { outside },
            serves: is_ready && !node.labels().contains_key(EXCLUDED),
        };
        self.by_name.insert(node.name_any(), known);
    }

    /// Forgets a node.
    pub fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// The addresses of a node.
    pub(super) fn of(&self, name: &str) -> Option<&[IpAddr]> {
        self.by_name.get(name).map(|known| known.addresses.as_slice())
    }

    /// The addresses of each node that takes traffic from outside.
    pub(super) fn outside(&self) -> impl Iterator<Item = &[IpAddr]> {
        self.by_name.values().filter(|known| known.serves).map(|known| known.addresses.as_slice())
    }
}

/// Follows the nodes once `needed` is true, which it is as soon as a Gateway's addresses are those of nodes. None: not listed yet, or nobody
/// needs them. Ends with the receivers.
pub fn follow(client: Client, needed: watch::Receiver<bool>) -> watch::Receiver<Option<Arc<Nodes>>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(run(client, needed, sender));
    receiver
}

async fn run(client: Client, mut needed: watch::Receiver<bool>, sender: watch::Sender<Option<Arc<Nodes>>>) {
    if needed.wait_for(|needed| *needed).await.is_err() {
        return;
    }
    let stream = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut nodes = Nodes::default();
    let mut listed = false;
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = sender.closed() => return,
        };
        match event {
            Some(Ok(watcher::Event::Init)) => {
                nodes = Nodes::default();
                listed = false;
            }
            Some(Ok(watcher::Event::InitDone)) => listed = true,
            Some(Ok(watcher::Event::InitApply(node) | watcher::Event::Apply(node))) => nodes.insert(&node),
            Some(Ok(watcher::Event::Delete(node))) => nodes.remove(&node.name_any()),
            Some(Err(error)) => warn!(%error, "nodes cannot be watched now"),
            None => return,
        }
        if listed {
            sender.send_if_modified(|current| {
                let differs = current.as_deref() != Some(&nodes);
                if differs {
                    *current = Some(Arc::new(nodes.clone()));
                }
                differs
            });
        }
    }
}
