//! An address of its own for every Gateway. Pure, but for its memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use isthmus_api::Objects;
use isthmus_routing::GatewayKey;
use isthmus_translate::CONTROLLER_NAME;

use crate::message::Message;

/// Which Gateway was given which address. A Gateway that goes and comes back gets the same one.
#[derive(Debug)]
pub struct Addresses {
    first: Ipv4Addr,
    given: BTreeMap<GatewayKey, Ipv4Addr>,
}

/// The addresses of the Gateways that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// At least one for each, unless there are none left.
    pub addresses: BTreeMap<GatewayKey, Vec<IpAddr>>,
    /// What was asked for and is not to be had.
    pub messages: Vec<Message>,
}

impl Addresses {
    /// Gives out addresses from `first` on.
    pub fn new(first: Ipv4Addr) -> Self {
        Self { first, given: BTreeMap::new() }
    }

    /// Gives each Gateway of ours its `spec.addresses` as far as they are `usable` on this machine, else one that nobody else has.
    pub fn assign(&mut self, objects: &Objects, usable: impl Fn(IpAddr) -> bool) -> Assigned {
        let mut assigned = Assigned::default();
        let mut without = Vec::new();
        for (name, gateway) in &objects.gateways {
            let class = objects.gateway_classes.get(&gateway.spec.gateway_class_name);
            if class.is_none_or(|class| class.spec.controller_name != CONTROLLER_NAME) {
                continue;
            }
            let key = GatewayKey { namespace: name.namespace.clone(), name: name.name.clone() };
            let wanted = gateway.spec.addresses.iter().flatten().filter_map(|address| address.value.as_deref());
            let (usable, unusable): (Vec<_>, Vec<_>) = wanted.partition(|text| text.parse().is_ok_and(&usable));
            let usable: Vec<IpAddr> = usable.into_iter().filter_map(|text| text.parse().ok()).collect();
            if usable.is_empty() {
                without.push((key, unusable));
            } else {
                assigned.messages.extend(unusable.iter().map(|address| not_here(&key, address, None)));
                assigned.addresses.insert(key, usable);
            }
        }
        let taken: BTreeSet<IpAddr> =
            assigned.addresses.values().flatten().copied().chain(self.given.values().map(|given| (*given).into())).collect();
        let mut free = (u32::from(self.first)..=u32::from(LAST))
            .map(Ipv4Addr::from)
            .filter(|address| !taken.contains(&IpAddr::V4(*address)));
        for (key, unusable) in without {
            let given = self.given.get(&key).copied().or_else(|| free.next());
            assigned.messages.extend(unusable.iter().map(|address| not_here(&key, address, given)));
            if let Some(given) = given {
                self.given.insert(key.clone(), given);
                assigned.addresses.insert(key, vec![given.into()]);
            }
        }
        assigned
    }
}

/// The one after it is for broadcasts.
const LAST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);

fn not_here(key: &GatewayKey, address: &str, instead: Option<Ipv4Addr>) -> Message {
    let instead = instead.map(|instead| format!("; it listens on {instead} instead")).unwrap_or_default();
    Message::warning(None, format!("{key}: spec.addresses: {address} is not an IP address of this machine{instead}"))
}

#[cfg(test)]
mod tests {
    use isthmus_api::decode;
    use serde_json::json;

    use super::*;

    fn objects(gateways: &[(&str, &[&str])]) -> Objects {
        let mut objects = Objects::default();
        let group = "gateway.networking.k8s.io/v1";
        for (class, controller) in [("ours", CONTROLLER_NAME), ("theirs", "example.com/other")] {
            let class = json!({"apiVersion": group, "kind": "GatewayClass", "metadata": {"name": class}, "spec": {"controllerName": controller}});
            objects.apply(decode(class).unwrap());
        }
        for (name, addresses) in gateways {
            let class = if name.starts_with("their") { "theirs" } else { "ours" };
            let addresses: Vec<_> = addresses.iter().map(|value| json!({"type": "IPAddress", "value": value})).collect();
            let spec = json!({"gatewayClassName": class, "addresses": addresses, "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]});
            let gateway =
                json!({"apiVersion": group, "kind": "Gateway", "metadata": {"name": name, "namespace": "x"}, "spec": spec});
            objects.apply(decode(gateway).unwrap());
        }
        objects
    }

    fn assign(addresses: &mut Addresses, gateways: &[(&str, &[&str])]) -> String {
        let assigned = addresses.assign(&objects(gateways), |address| address.is_loopback());
        let line = |(key, ips): (&GatewayKey, &Vec<IpAddr>)| {
            format!("{}={}", key.name, ips.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"))
        };
        assigned.addresses.iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn new_gateways_never_move_others() {
        let mut pool = Addresses::new(Ipv4Addr::LOCALHOST);
        for (gateways, expected) in [
            (vec![("b", &[] as &[&str]), ("d", &[])], "b=127.0.0.1 d=127.0.0.2"),
            (vec![("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])], "a=127.0.0.3 b=127.0.0.1 c=127.0.0.4 d=127.0.0.2"),
            (vec![("c", &[])], "c=127.0.0.4"),
            (vec![("d", &[]), ("e", &[])], "d=127.0.0.2 e=127.0.0.5"),
            (vec![("theirs", &[]), ("f", &[])], "f=127.0.0.6"),
        ] {
            assert_eq!(assign(&mut pool, &gateways), expected);
        }
    }

    #[test]
    fn own_addresses_come_first() {
        let mut pool = Addresses::new(Ipv4Addr::LOCALHOST);
        let gateways: &[(&str, &[&str])] =
            &[("a", &[]), ("b", &["127.0.0.1", "::1"]), ("c", &["203.0.113.7"]), ("d", &["127.0.0.9", "name.example"])];
        assert_eq!(assign(&mut pool, gateways), "a=127.0.0.2 b=127.0.0.1+::1 c=127.0.0.3 d=127.0.0.9");
        let messages = pool.assign(&objects(gateways), |address| address.is_loopback()).messages;
        let texts: Vec<_> = messages.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "Gateway/x/d: spec.addresses: name.example is not an IP address of this machine",
                "Gateway/x/c: spec.addresses: 203.0.113.7 is not an IP address of this machine; it listens on 127.0.0.3 instead",
            ]
        );
    }

    #[test]
    fn the_first_address_can_be_chosen_and_the_last_one_is_the_end() {
        let mut pool = Addresses::new(LAST);
        assert_eq!(assign(&mut pool, &[("a", &[]), ("b", &[])]), "a=127.255.255.254");
    }
}
