//! Which addresses Pods with sidecars have, so that the coming and going of all others costs nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_api::{Object, Pod};

/// The addresses of Pods with sidecars, each with how many have it: one that ends may still be there when another has its address.
#[derive(Debug, Default)]
pub(super) struct MeshedAddresses {
    addresses: BTreeMap<IpAddr, usize>,
}

impl MeshedAddresses {
    /// Whether translation can tell that an object is another one, came or went. It reads Pods with sidecars, and of others those that
    /// have the address of one.
    pub(super) fn concerns(&self, object: &Object) -> bool {
        match object {
            Object::Pod(pod) => pod.has_sidecar() || addresses(pod).any(|address| self.addresses.contains_key(&address)),
            _ => true,
        }
    }

    /// Takes note of an object that is there from now on.
    pub(super) fn add(&mut self, object: &Object) {
        for address in meshed(object) {
            *self.addresses.entry(address).or_default() += 1;
        }
    }

    /// Takes note of an object that is there no longer.
    pub(super) fn remove(&mut self, object: &Object) {
        for address in meshed(object) {
            if let Some(count) = self.addresses.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(&address);
                }
            }
        }
    }
}

fn meshed(object: &Object) -> impl Iterator<Item = IpAddr> {
    let pod = match object {
        Object::Pod(pod) if pod.has_sidecar() => Some(pod),
        _ => None,
    };
    pod.into_iter().flat_map(|pod| addresses(pod))
}

fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten()).filter_map(|address| address.ip.parse().ok())
}
