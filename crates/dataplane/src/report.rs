//! What became of a snapshot, as whoever sent it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use isthmus_routing::{BackendKey, GatewayKey, Version};

/// What became of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The snapshot that is served; none before the first.
    pub version: Option<Version>,
    /// Every listener of it on every address.
    pub listeners: Vec<ListenerReport>,
    /// Every Service of it on every address; none without [`Options::outbound`](crate::Options::outbound).
    pub services: Vec<ServiceReport>,
}

/// A listener on one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerReport {
    /// The Gateway.
    pub gateway: GatewayKey,
    /// The listener's name.
    pub name: String,
    /// Where it listens (or cannot).
    pub address: SocketAddr,
    /// Why it cannot, in one line that says what to do.
    pub fault: Option<String>,
}

/// A Service's port on one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceReport {
    /// The Service's port.
    pub service: BackendKey,
    /// Where it is listened on (or cannot be).
    pub address: SocketAddr,
    /// Why it cannot, in one line that says what to do.
    pub fault: Option<String>,
}

impl Report {
    /// Listeners, by name, that do not serve as they should, and why: a listener's faults on all its addresses are its faults. Of use where
    /// there is one Gateway.
    pub fn faults(&self) -> BTreeMap<String, String> {
        let mut faults = BTreeMap::<String, String>::new();
        for listener in &self.listeners {
            let Some(fault) = &listener.fault else { continue };
            let all = faults.entry(listener.name.clone()).or_default();
            if !all.split("; ").any(|one| one == fault) {
                let separator = if all.is_empty() { "" } else { "; " };
                *all = format!("{all}{separator}{fault}");
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_has_the_faults_of_all_its_addresses() {
        let listener = |name: &str, ip: [u8; 4], fault: Option<&str>| ListenerReport {
            gateway: "Gateway/infra/edge".parse().expect("a key"),
            name: name.to_owned(),
            address: (ip, 80).into(),
            fault: fault.map(str::to_owned),
        };
        let listeners = vec![
            listener("a", [127, 0, 0, 1], Some("in use")),
            listener("a", [127, 0, 0, 2], Some("not here")),
            listener("b", [127, 0, 0, 1], Some("no certificate")),
            listener("b", [127, 0, 0, 2], Some("no certificate")),
            listener("c", [127, 0, 0, 1], None),
        ];
        let faults = Report { listeners, ..Report::default() }.faults();
        let faults: Vec<_> = faults.iter().map(|(name, fault)| (name.as_str(), fault.as_str())).collect();
        assert_eq!(faults, [("a", "in use; not here"), ("b", "no certificate")]);
    }
}
