//! Listeners of one Gateway that cannot be told apart, and those whose hostnames overlap.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_routing::{Hostname, Protocol};

use super::listener::{ListenerFault, ListenerNode};

/// What a listener conflicts in, and with which others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Conflict {
    #[error("port {port} is also used by {} with the other protocol; give each protocol a port of its own", quoted(.others))]
    Protocol { port: i32, others: Vec<String> },
    #[error("port {port} and this hostname are also used by {}; change one of the two", quoted(.others))]
    Hostname { port: i32, others: Vec<String> },
}

impl Conflict {
    /// The reason of `Conflicted=True`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Protocol { .. } => "ProtocolConflict",
            Self::Hostname { .. } => "HostnameConflict",
        }
    }
}

/// Compares the listeners of one Gateway with each other.
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
    for (at, listener) in listeners.iter().enumerate().filter(|(_, listener)| listener.fault.is_none()) {
        ports.entry(listener.port).or_default().push(at);
    }
    for (port, members) in ports {
        let conflicts: Vec<_> = members.iter().map(|at| conflict(listeners, port, *at, &members)).collect();
        for (at, conflict) in members.iter().zip(conflicts) {
            listeners[*at].conflict = conflict;
        }
        let overlaps: Vec<_> = members.iter().map(|at| overlaps(listeners, *at, &members)).collect();
        for (at, overlaps) in members.iter().zip(overlaps) {
            listeners[*at].overlaps = overlaps;
        }
    }
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

/// > Controllers MUST detect the presence of overlapping hostnames and MAY
/// > detect the presence of overlapping certificates.
fn overlaps(listeners: &[ListenerNode], at: usize, members: &[usize]) -> Vec<String> {
    let this = &listeners[at];
    if this.protocol != Some(Protocol::Https) {
        return Vec::new();
    }
    let others = members.iter().filter(|other| **other != at).map(|other| &listeners[*other]);
    let https = others.filter(|other| other.protocol == Some(Protocol::Https));
    https.filter(|other| intersects(this.hostname.as_ref(), other.hostname.as_ref())).map(|other| other.name.clone()).collect()
}

/// No hostname is every hostname.
pub(super) fn intersects(a: Option<&Hostname>, b: Option<&Hostname>) -> bool {
    a.zip(b).is_none_or(|(a, b)| a.intersects(b))
}

/// `a`, `b`
pub(crate) fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
