//! An address of its own for every Service that clients in the mesh can call: what a cluster's `clusterIP` is. Pure, but for its memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use isthmus_api::{NamespacedName, Object, Objects};

use crate::message::Message;

/// Which Service was given which address. A Service that goes and comes back gets the same one.
#[derive(Debug)]
pub struct ServiceAddresses {
    first: Ipv4Addr,
    given: BTreeMap<NamespacedName, Ipv4Addr>,
}

/// The one after it is for broadcasts.
const LAST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);

impl ServiceAddresses {
    /// Gives out addresses from `first` on.
    pub fn new(first: Ipv4Addr) -> Self {
        Self { first, given: BTreeMap::new() }
    }

    /// Writes an address into each Service, in the order of their names, as an API server would. One that has a `usable` address keeps it;
    /// headless Services and ExternalNames have none.
    pub fn assign(&mut self, objects: &mut Objects, usable: impl Fn(IpAddr) -> bool) -> Vec<Message> {
        let mut without = Vec::new();
        let mut own = BTreeSet::new();
        for (name, service) in &objects.services {
            let spec = service.spec.as_ref();
            let written = spec.and_then(|spec| spec.cluster_ip.as_deref()).filter(|text| !text.is_empty());
            let is_name = spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
            if is_name || written == Some("None") {
                continue;
            }
            match written.and_then(|text| text.parse().ok()).filter(|address| usable(*address)) {
                Some(address) => drop(own.insert(address)),
                None => without.push(name.clone()),
            }
        }
        let taken: BTreeSet<IpAddr> = own.into_iter().chain(self.given.values().map(|given| IpAddr::V4(*given))).collect();
        let mut free = (u32::from(self.first)..=u32::from(LAST))
            .map(Ipv4Addr::from)
            .filter(|address| !taken.contains(&IpAddr::V4(*address)));
        let mut messages = Vec::new();
        for name in without {
            let Some(address) = self.given.get(&name).copied().or_else(|| free.next()) else {
                messages.push(Message::fault(
                    None,
                    format!("Service/{name}: no loopback address is left for it; choose a lower --mesh-first-address"),
                ));
                continue;
            };
            self.given.insert(name.clone(), address);
            give(objects, &name, address);
        }
        messages
    }
}

fn give(objects: &mut Objects, name: &NamespacedName, address: Ipv4Addr) {
    let Some(service) = objects.services.get(name) else { return };
    let mut service = service.clone();
    let spec = Arc::make_mut(&mut service).spec.get_or_insert_default();
    spec.cluster_ip = Some(address.to_string());
    spec.cluster_ips = Some(vec![address.to_string()]);
    objects.apply(Object::Service(service));
}

#[cfg(test)]
mod tests {
    use isthmus_api::decode;
    use serde_json::{Value, json};

    use super::*;

    fn assigned(pool: &mut ServiceAddresses, services: &[(&str, Value)]) -> String {
        let mut objects = Objects::default();
        for (name, spec) in services {
            let service =
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "x"}, "spec": spec});
            objects.apply(decode(service).unwrap());
        }
        let messages = pool.assign(&mut objects, |address| address.is_loopback());
        let shown = objects
            .services
            .iter()
            .filter_map(|(name, service)| Some(format!("{}={}", name.name, service.spec.as_ref()?.cluster_ip.as_deref()?)));
        shown.chain(messages.iter().map(ToString::to_string)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn services_keep_their_addresses() {
        let mut pool = ServiceAddresses::new(Ipv4Addr::new(127, 1, 0, 1));
        for (services, expected) in [
            (vec![("b", json!({})), ("d", json!({}))], "b=127.1.0.1 d=127.1.0.2"),
            (vec![("a", json!({})), ("b", json!({})), ("d", json!({}))], "a=127.1.0.3 b=127.1.0.1 d=127.1.0.2"),
            (vec![("d", json!({})), ("e", json!({}))], "d=127.1.0.2 e=127.1.0.4"),
            (
                vec![
                    ("f", json!({"clusterIP": "127.1.0.5"})),
                    ("g", json!({"clusterIP": "10.96.0.7"})),
                    ("h", json!({"clusterIP": "None"})),
                ],
                "f=127.1.0.5 g=127.1.0.6 h=None",
            ),
            (
                vec![("i", json!({"type": "ExternalName", "externalName": "example.org"})), ("j", json!({"clusterIP": ""}))],
                "j=127.1.0.5",
            ),
        ] {
            assert_eq!(assigned(&mut pool, &services), expected);
        }
    }

    #[test]
    fn the_last_one_is_the_end() {
        let text = assigned(&mut ServiceAddresses::new(LAST), &[("a", json!({})), ("b", json!({}))]);
        assert_eq!(
            text,
            "a=127.255.255.254 Service/x/b: no loopback address is left for it; choose a lower --mesh-first-address"
        );
    }
}
