//! Listeners of one Gateway and its ListenerSets that cannot be told apart, and those whose hostnames overlap.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_routing::{Hostname, Protocol, Transport};

use super::hostname_index::HostnameIndex;
use super::listener::{ListenerFault, ListenerNode};

/// What a listener conflicts in, and with which others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Conflict {
    #[error("port {port} is also used by {} with another protocol; give each protocol a port of its own", quoted(.others))]
    Protocol { port: i32, others: Vec<String> },
    #[error("{protocol} port {port} is also used by {}; give each a port of its own", quoted(.others), protocol = .protocol.as_str())]
    Port { port: i32, protocol: Protocol, others: Vec<String> },
    #[error("port {port} and this hostname are also used by {}; change one of the two", quoted(.others))]
    Hostname { port: i32, others: Vec<String> },
    #[error("another protocol is already spoken on port {port}, by {earlier}; use another port")]
    EarlierProtocol { port: i32, earlier: Earlier },
    #[error("{protocol} port {port} is already used by {earlier}; use another port", protocol = .protocol.as_str())]
    EarlierPort { port: i32, protocol: Protocol, earlier: Earlier },
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
            Self::Protocol { .. } | Self::EarlierProtocol { .. } | Self::Port { .. } | Self::EarlierPort { .. } => {
                "ProtocolConflict"
            }
            Self::Hostname { .. } | Self::EarlierHostname { .. } => "HostnameConflict",
        }
    }
}

/// Compares the listeners of one Gateway, or of one ListenerSet, with each other.
///
/// > * The implementation MUST NOT pick one conflicting Listener as the winner.
/// >   ALL indistinct Listeners must not be accepted for processing.
///
/// Listeners with a fault of their own take no part. A UDP port is another one than the TCP port with the same number.
pub(super) fn compare(listeners: &mut [ListenerNode]) {
    mark_equal_names(listeners);
    let mut ports = BTreeMap::<(i32, Transport), Vec<(usize, Protocol)>>::new();
    for (at, listener) in listeners.iter().enumerate().filter(|(_, listener)| listener.is_valid()) {
        if let Some(protocol) = listener.protocol {
            ports.entry((listener.port, protocol.transport())).or_default().push((at, protocol));
        }
    }
    for ((port, _), members) in ports {
        let conflicts: Vec<_> = members.iter().map(|member| conflict(listeners, port, *member, &members)).collect();
        for ((at, _), conflict) in members.iter().zip(conflicts) {
            listeners[*at].conflict = conflict;
        }
    }
}

/// How listeners of two protocols, or of the same one, are told apart on one port.
///
/// > The set of listeners that all share a protocol value MUST have _different_
/// > values for _at least one_ of these fields to be distinct:
/// >
/// > * **HTTP, HTTPS, TLS**: Port, Hostname
/// > * **TCP, UDP**: Port
///
/// HTTPS and TLS begin alike, with the server name, so it is the hostname that tells them apart too, and must not be the same:
///
/// > **The implementation can match inbound requests to a single distinct
/// > Listener**.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Apart {
    ByHostname,
    /// > In this case all the Listeners that share a port with the
    /// > TCP Listener are not distinct and so MUST NOT be accepted.
    ///
    /// Neither can HTTP be told from TLS before something is read.
    NotByProtocol,
    /// Both of them take whatever comes.
    NotAtAll,
}

fn apart(one: Protocol, other: Protocol) -> Apart {
    match (one, other) {
        (Protocol::Tcp, Protocol::Tcp) | (Protocol::Udp, Protocol::Udp) => Apart::NotAtAll,
        _ if one == other || (one.is_tls() && other.is_tls()) => Apart::ByHostname,
        _ => Apart::NotByProtocol,
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
    protocols: BTreeMap<(i32, Transport), BTreeMap<Protocol, Earlier>>,
    hostnames: BTreeMap<(i32, Transport, Option<Hostname>), Earlier>,
}

impl Held {
    pub(super) fn add(&mut self, listeners: &[ListenerNode]) {
        for listener in listeners.iter().filter(|listener| holds(listener)) {
            let Some(protocol) = listener.protocol else { continue };
            let earlier = || match &listener.listener_set {
                None => Earlier::Gateway(listener.name.clone()),
                Some(_) => Earlier::ListenerSet,
            };
            let (port, transport) = (listener.port, protocol.transport());
            self.protocols.entry((port, transport)).or_default().entry(protocol).or_insert_with(earlier);
            self.hostnames.entry((port, transport, listener.hostname.clone())).or_insert_with(earlier);
        }
    }

    /// Why there is no room for a later listener. One with a fault of its own takes none.
    pub(super) fn conflict(&self, later: &ListenerNode) -> Option<Conflict> {
        let (port, protocol) = (later.port, later.protocol.filter(|_| later.fault.is_none())?);
        let transport = protocol.transport();
        for (held, earlier) in self.protocols.get(&(port, transport)).into_iter().flatten() {
            let earlier = || earlier.clone();
            match apart(*held, protocol) {
                Apart::ByHostname => {}
                Apart::NotByProtocol => return Some(Conflict::EarlierProtocol { port, earlier: earlier() }),
                Apart::NotAtAll => return Some(Conflict::EarlierPort { port, protocol, earlier: earlier() }),
            }
        }
        let same = self.hostnames.get(&(port, transport, later.hostname.clone()));
        same.map(|earlier| Conflict::EarlierHostname { port, earlier: earlier.clone() })
    }
}

/// Whether later listeners have to make way for it.
fn holds(listener: &ListenerNode) -> bool {
    listener.fault.is_none() && (listener.conflict.is_none() || listener.listener_set.is_none())
}

/// Finds HTTPS and TLS listeners of the same port whose hostnames overlap, among those of a Gateway and its ListenerSets. What a
/// ListenerSet was refused overlaps with nothing.
///
/// > Controllers MUST detect the presence of overlapping hostnames and MAY
/// > detect the presence of overlapping certificates.
pub(super) fn mark_overlaps(listeners: &mut [ListenerNode]) {
    let mut ports = BTreeMap::<i32, BTreeMap<Option<Hostname>, Vec<usize>>>::new();
    let is_tls = |listener: &ListenerNode| holds(listener) && listener.protocol.is_some_and(Protocol::is_tls);
    for (at, listener) in listeners.iter().enumerate().filter(|(_, listener)| is_tls(listener)) {
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

/// What one member of a port has against the others. All of these names are of one object, so each may be told of the others.
fn conflict(
    listeners: &[ListenerNode],
    port: i32,
    (at, protocol): (usize, Protocol),
    members: &[(usize, Protocol)],
) -> Option<Conflict> {
    let others = |how: Apart| -> Vec<String> {
        let others = members.iter().filter(|(other, of)| *other != at && apart(*of, protocol) == how);
        let others = others.map(|(other, _)| &listeners[*other]);
        let same = others.filter(|other| how != Apart::ByHostname || other.hostname == listeners[at].hostname);
        same.map(|other| other.name.clone()).collect()
    };
    let found = |how: Apart| Some(others(how)).filter(|others| !others.is_empty());
    found(Apart::NotByProtocol)
        .map(|others| Conflict::Protocol { port, others })
        .or_else(|| found(Apart::NotAtAll).map(|others| Conflict::Port { port, protocol, others }))
        .or_else(|| found(Apart::ByHostname).map(|others| Conflict::Hostname { port, others }))
}

/// No hostname is every hostname.
pub(super) fn intersects(a: Option<&Hostname>, b: Option<&Hostname>) -> bool {
    a.zip(b).is_none_or(|(a, b)| a.intersects(b))
}

/// `a`, `b`
pub(crate) fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
