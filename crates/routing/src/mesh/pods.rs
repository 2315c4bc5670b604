//! The pods of one identity, by address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MeshedPod;

/// Pods by address, in its order. Every sidecar knows all of a cluster, and most identities have a pod or two: as a tree each of them would
/// take half a kilobyte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pods(Vec<(IpAddr, MeshedPod)>);

impl Pods {
    /// The pod at an address.
    pub fn get(&self, address: &IpAddr) -> Option<&MeshedPod> {
        self.place(address).ok().map(|place| &self.0[place].1)
    }

    /// Whether there is a pod at this address.
    pub fn contains_key(&self, address: &IpAddr) -> bool {
        self.place(address).is_ok()
    }

    /// Puts a pod at an address, in place of what was there. Takes as long as there are pods: for many at once, collect.
    pub fn insert(&mut self, address: IpAddr, pod: MeshedPod) {
        match self.place(&address) {
            Ok(place) => self.0[place].1 = pod,
            Err(place) => self.0.insert(place, (address, pod)),
        }
    }

    /// The addresses, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &IpAddr> {
        self.0.iter().map(|(address, _)| address)
    }

    /// The pods with their addresses, in the order of these.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&IpAddr, &MeshedPod)> {
        self.0.iter().map(|(address, pod)| (address, pod))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, address: &IpAddr) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(address))
    }
}

/// Of several at one address the last one counts.
impl FromIterator<(IpAddr, MeshedPod)> for Pods {
    fn from_iter<I: IntoIterator<Item = (IpAddr, MeshedPod)>>(pods: I) -> Self {
        let sorted: BTreeMap<_, _> = pods.into_iter().collect();
        // Its length is known, so no place is left over.
        Self(sorted.into_iter().collect())
    }
}

impl<const N: usize> From<[(IpAddr, MeshedPod); N]> for Pods {
    fn from(pods: [(IpAddr, MeshedPod); N]) -> Self {
        pods.into_iter().collect()
    }
}

impl Serialize for Pods {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Pods {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|pods| pods.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map_in_the_order_of_addresses() {
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        let plain = |port| MeshedPod { plain_ports: vec![port] };
        let mut pods = Pods::from([(at(9), plain(1)), (at(2), plain(2)), (at(9), plain(3))]);
        assert_eq!((pods.len(), pods.get(&at(9)), pods.get(&at(3))), (2, Some(&plain(3)), None));
        pods.insert(at(3), plain(4));
        pods.insert(at(2), plain(5));
        assert!(pods.contains_key(&at(3)) && !pods.contains_key(&at(4)) && !pods.is_empty());
        assert_eq!(pods.keys().copied().collect::<Vec<_>>(), [at(2), at(3), at(9)]);
        let json = serde_json::to_string(&pods).expect("it is text");
        assert_eq!(json, r#"{"10.0.0.2":{"plain_ports":[5]},"10.0.0.3":{"plain_ports":[4]},"10.0.0.9":{"plain_ports":[3]}}"#);
        assert_eq!(serde_json::from_str::<Pods>(&json).expect("the same"), pods);
    }
}
