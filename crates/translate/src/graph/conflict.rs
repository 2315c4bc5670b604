//! Listeners of one Gateway and its ListenerSets that cannot be told apart, and those whose hostnames overlap.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_routing::{Hostname, Protocol};

use super::hostname_index::HostnameIndex;
use super::listener::{ListenerFault, ListenerNode};

/// What a listener conflicts in, and with which others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Conflict {
    #[error("port {port} is also used by {} with the other protocol; give each protocol a port of its own", quoted(.others))]
    Protocol { port: i32, others: Vec<String> },
    #[error("port {port} and this hostname are also used by {}; change one of the two", quoted(.others))]
    Hostname { port: i32, others: Vec<String> },
    #[error("another protocol is already spoken on port {port}, by {earlier}; use another port")]
    EarlierProtocol { port: i32, earlier: Earlier },
    #[error("port {port} and this hostname are already used by {earlier}; change one of the two")]
    EarlierHostname { port: i32, earlier: Earlier },
}

/// Whose listener comes first.
///
/// > Implementations SHOULD be cautious about what information from the
/// > parent or siblings are reported to avoid accidentally leaking
/// > sensitive information that the child would not otherwise have access
/// > to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Earlier {
    #[error("listener `{0}` of the Gateway")]
    Gateway(String),
    #[error("a ListenerSet of the same Gateway that is older or comes first by name")]
    ListenerSet,
}

impl Conflict {
    /// The reason of `Conflicted=True`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Protocol { .. } | Self::EarlierProtocol { .. } => "ProtocolConflict",
            Self::Hostname { .. } | Self::EarlierHostname { .. } => "HostnameConflict",
        }
    }
}

/// Compares the listeners of one Gateway, or of one ListenerSet, with each other.
///
/// > * The implementation MUST NOT pick one conflicting Listener as the winner.
/// >   ALL indistinct Listeners must not be accepted for processing.
///
/// Listeners with a fault of their own take no part:
///
/// > If an implementation does not support TCP Protocol Listeners, then the
/// > previous rule does not apply, and the TCP Listeners SHOULD NOT be
/// > accepted.
pub(super) fn compare(listeners: &mut [ListenerNode]) {
    mark_equal_names(listeners);
    let mut ports = BTreeMap::<i32, Vec<usize>>::new();
    for (at, listener) in listeners.iter().enumerate().filter(|(_, listener)| listener.is_valid()) {
        ports.entry(listener.port).or_default().push(at);
    }
    for (port, members) in ports {
        let conflicts: Vec<_> = members.iter().map(|at| conflict(listeners, port, *at, &members)).collect();
        for (at, conflict) in members.iter().zip(conflicts) {
            listeners[*at].conflict = conflict;
        }
    }
}

/// What listeners hold that come before those of a ListenerSet.
///
/// > Implementations MUST treat the parent Gateway as having the merged
/// > list of all listeners from itself and attached ListenerSets using
/// > the following precedence:
/// >
/// > 1. "parent" Gateway
/// > 2. ListenerSet ordered by creation time (oldest first)
/// > 3. ListenerSet ordered alphabetically by "{namespace}/{name}".
///
/// A conflict with an earlier one rejects only the later one (GEP-1713):
///
/// > the first Listener in the precedence list MUST be accepted
/// > and should not have a `Conflicted` condition, while conflicting listeners
/// > MUST have a `Conflicted` condition set to `True` with an explicit reason in its message.
///
/// What a ListenerSet was refused keeps nobody out; what two listeners of the Gateway quarrel about does.
#[derive(Debug, Default)]
pub(super) struct Held {
    protocols: BTreeMap<i32, BTreeMap<Protocol, Earlier>>,
    hostnames: BTreeMap<(i32, Option<Hostname>), Earlier>,
}

impl Held {
    pub(super) fn add(&mut self, listeners: &[ListenerNode]) {
        for listener in listeners.iter().filter(|listener| holds(listener)) {
            let Some(protocol) = listener.protocol else { continue };
            let earlier = || match &listener.listener_set {
                None => Earlier::Gateway(listener.name.clone()),
                Some(_) => Earlier::ListenerSet,
            };
            self.protocols.entry(listener.port).or_default().entry(protocol).or_insert_with(earlier);
            self.hostnames.entry((listener.port, listener.hostname.clone())).or_insert_with(earlier);
        }
    }

    /// Why there is no room for a later listener.
    pub(super) fn conflict(&self, later: &ListenerNode) -> Option<Conflict> {
        let port = later.port;
        let mut protocols = self.protocols.get(&port).into_iter().flatten();
        if let Some((_, earlier)) = protocols.find(|(protocol, _)| excludes(**protocol, later)) {
            return Some(Conflict::EarlierProtocol { port, earlier: earlier.clone() });
        }
        let same = self.hostnames.get(&(port, later.hostname.clone())).filter(|_| later.fault.is_none());
        same.map(|earlier| Conflict::EarlierHostname { port, earlier: earlier.clone() })
    }
}

/// Whether later listeners have to make way for it.
fn holds(listener: &ListenerNode) -> bool {
    listener.fault.is_none() && (listener.conflict.is_none() || listener.listener_set.is_none())
}

/// Whether a protocol leaves no room on its port for that of a later listener.
fn excludes(earlier: Protocol, later: &ListenerNode) -> bool {
    match &later.fault {
        None => later.protocol != Some(earlier),
        // The port could not have these even if they were supported.
        Some(ListenerFault::Protocol(unsupported)) => match unsupported.as_str() {
            "TCP" => true,
            "TLS" => earlier == Protocol::Http,
            _ => false,
        },
        Some(_) => false,
    }
}

/// Finds HTTPS listeners of the same port whose hostnames overlap, among those of a Gateway and its ListenerSets. What a ListenerSet
/// was refused overlaps with nothing.
///
/// > Controllers MUST detect the presence of overlapping hostnames and MAY
/// > detect the presence of overlapping certificates.
pub(super) fn mark_overlaps(listeners: &mut [ListenerNode]) {
    let mut ports = BTreeMap::<i32, BTreeMap<Option<Hostname>, Vec<usize>>>::new();
    let https = |listener: &ListenerNode| holds(listener) && listener.protocol == Some(Protocol::Https);
    for (at, listener) in listeners.iter().enumerate().filter(|(_, listener)| https(listener)) {
        ports.entry(listener.port).or_default().entry(listener.hostname.clone()).or_default().push(at);
    }
    for by_hostname in ports.into_values() {
        let mut index = HostnameIndex::new();
        for (hostname, members) in &by_hostname {
            index.insert(hostname.as_slice(), members.as_slice());
        }
        for (hostname, members) in &by_hostname {
            let mut found: Vec<usize> = index.all_intersecting(hostname.as_ref()).into_iter().flatten().copied().collect();
            found.sort_unstable();
            for at in members {
                listeners[*at].overlaps = told(listeners, *at, &found);
            }
        }
    }
}

/// The most listeners that a message names.
const TOLD: usize = 5;

/// How the others of `found` are called where the listener's owner hears of them. ListenerSets hear no names of each other.
fn told(listeners: &[ListenerNode], at: usize, found: &[usize]) -> Vec<String> {
    let to = listeners[at].listener_set.as_ref();
    let (mut names, mut more) = (Vec::new(), 0);
    for other in found.iter().filter(|other| **other != at).map(|other| &listeners[*other]) {
        let name = match (other.listener_set.as_ref(), to) {
            (of, to) if of == to => format!("`{}`", other.name),
            (None, _) => format!("`{}` of the Gateway", other.name),
            (Some(of), None) => format!("`{}` of ListenerSet {of}", other.name),
            (Some(_), Some(_)) => "another ListenerSet".to_owned(),
        };
        match names.contains(&name) {
            true => {}
            false if names.len() == TOLD => more += 1,
            false => names.push(name),
        }
    }
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names
}

fn mark_equal_names(listeners: &mut [ListenerNode]) {
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<String> = listeners.iter().filter(|l| !seen.insert(l.name.as_str())).map(|l| l.name.clone()).collect();
    for listener in listeners.iter_mut().filter(|listener| twice.contains(&listener.name)) {
        listener.fault = Some(ListenerFault::Name);
    }
}

fn conflict(listeners: &[ListenerNode], port: i32, at: usize, members: &[usize]) -> Option<Conflict> {
    let this = &listeners[at];
    let others = |differs: &dyn Fn(&ListenerNode) -> bool| -> Vec<String> {
        let others = members.iter().filter(|other| **other != at).map(|other| &listeners[*other]);
        others.filter(|other| differs(other)).map(|other| other.name.clone()).collect()
    };
    let protocol = others(&|other| other.protocol != this.protocol);
    if !protocol.is_empty() {
        return Some(Conflict::Protocol { port, others: protocol });
    }
    let hostname = others(&|other| other.hostname == this.hostname);
    (!hostname.is_empty()).then_some(Conflict::Hostname { port, others: hostname })
}

/// No hostname is every hostname.
pub(super) fn intersects(a: Option<&Hostname>, b: Option<&Hostname>) -> bool {
    a.zip(b).is_none_or(|(a, b)| a.intersects(b))
}

/// `a`, `b`
pub(crate) fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
