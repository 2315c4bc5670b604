//! What is asked of connections to whoever is at an address that nobody is known at, while nobody tells who is where.
//!
//! A Service or a workload that is new would be called past its routes and in the clear. Whoever takes no plaintext does not send
//! any there either; what is outside of the cluster is called as always.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use isthmus_routing::MtlsMode;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;

/// How long what is known counts as all that there is. 30 s: a controller that is replaced is back by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// Since when nobody tells.
#[derive(Debug)]
pub(super) struct Absence {
    since: Option<watch::Receiver<Option<Instant>>>,
    /// The last one that was complained of.
    said: Mutex<Option<Instant>>,
}

impl Absence {
    /// None: somebody tells at all times.
    pub(super) fn new(since: Option<watch::Receiver<Option<Instant>>>) -> Self {
        Self { since, said: Mutex::default() }
    }

    /// Whether nothing may be sent to an address that is no Service's, and no workload's that is called under TLS.
    pub(super) fn refuses(&self, address: IpAddr, config: &Config) -> bool {
        let Some(since) = self.since.as_ref().and_then(|since| *since.borrow()) else { return false };
        let is_refused =
            since.elapsed() >= PATIENCE && is_strict(config) && !is_known(address, config) && is_near(address, config);
        if is_refused {
            self.say(since, address);
        }
        is_refused
    }

    /// Once for each absence: who is refused what is counted.
    fn say(&self, since: Instant, address: IpAddr) {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).replace(since);
        if said != Some(since) {
            let seconds = since.elapsed().as_secs();
            tracing::warn!(
                %address,
                seconds,
                "the controller is away, so nobody knows who is at this address of the cluster now; this workload is strict, so it calls no \
                 such address until the controller is back: the log says why it cannot be reached"
            );
        }
    }
}

/// As for what comes in: without a word on it, it is.
fn is_strict(config: &Config) -> bool {
    config.snapshot.inbound.as_ref().is_none_or(|inbound| inbound.mode == MtlsMode::Strict)
}

/// Whether somebody was there when it was last told: a workload on a port that it takes in the clear, or an endpoint without a sidecar.
fn is_known(address: IpAddr, config: &Config) -> bool {
    let is_workload = config.membership.as_ref().is_some_and(|membership| membership.identity_at(&address).is_some());
    let mut endpoints = config.snapshot.backends.values().flat_map(|backend| &backend.endpoints);
    is_workload || endpoints.any(|endpoint| endpoint.address.ip() == address)
}

/// Whether it is in a network in which something of the cluster is. A network is 16 bits of an IPv4 address, and 48 of an IPv6 address (what
/// a site has), so that it is wider than what a node has.
fn is_near(address: IpAddr, config: &Config) -> bool {
    let snapshot = &config.snapshot;
    let mut own = config.site().pod.iter().flat_map(|pod| &pod.addresses);
    let mut frontends = snapshot.frontends.values().flat_map(|frontend| &frontend.addresses);
    let mut workloads = snapshot.workloads.values().flat_map(|workloads| workloads.pods.keys());
    let is_near = |other: &IpAddr| are_near(address, *other);
    own.any(is_near) || frontends.any(is_near) || workloads.any(is_near)
}

fn are_near(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.octets()[..2] == other.octets()[..2],
        (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[..3] == other.segments()[..3],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_that_of_a_cluster() {
        for (one, other, expected) in [
            ("10.96.0.1", "10.96.255.9", true),
            ("10.96.0.1", "10.97.0.1", false),
            ("fd00:1:2:3::1", "fd00:1:2:9::1", true),
            ("fd00:1:2:3::1", "fd00:1:3:3::1", false),
            ("10.96.0.1", "::ffff:10.96.0.1", false),
        ] {
            let address = |text: &str| text.parse().expect("an address");
            assert_eq!(are_near(address(one), address(other)), expected, "{one} {other}");
        }
    }
}
