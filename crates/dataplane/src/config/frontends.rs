//! Addresses of Services, called or not: what a connection of a sidecar's workload is going to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::HashMap;
use isthmus_routing::{BackendKey, Frontend, FrontendKey, Snapshot, Transport};

/// The frontends of a snapshot, by address.
#[derive(Debug, Default)]
pub(crate) struct Frontends(HashMap<IpAddr, (Arc<FrontendKey>, Arc<Frontend>), foldhash::fast::RandomState>);

/// Of which Service an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fronted {
    /// Of this one, and it has the port.
    Port(BackendKey),
    /// Of one without such a port.
    NoPort(FrontendKey),
}

impl Frontends {
    /// Keeps what was there before if nothing has changed: most snapshots differ in other things.
    pub(super) fn compile(snapshot: &Snapshot, previous: Option<(&Snapshot, &Arc<Self>)>) -> Arc<Self> {
        if let Some((_, unchanged)) = previous.filter(|(before, _)| before.frontends == snapshot.frontends) {
            return unchanged.clone();
        }
        let mut by_address = HashMap::with_capacity_and_hasher(snapshot.frontends.len(), foldhash::fast::RandomState::default());
        for (key, frontend) in &snapshot.frontends {
            let key = Arc::new(key.clone());
            for address in &frontend.addresses {
                by_address.insert(*address, (key.clone(), frontend.clone()));
            }
        }
        Arc::new(Self(by_address))
    }

    /// Whose address it is; none: no Service's.
    pub(crate) fn find(&self, address: SocketAddr) -> Option<Fronted> {
        let (key, frontend) = self.0.get(&address.ip())?;
        let key = FrontendKey::clone(key);
        if frontend.ports.binary_search(&address.port()).is_err() {
            return Some(Fronted::NoPort(key));
        }
        let FrontendKey { namespace, name } = key;
        Some(Fronted::Port(BackendKey { namespace, name, port: address.port(), transport: Transport::Tcp }))
    }
}

/// Whether there is such a port of a Service.
pub(crate) fn exists(service: &BackendKey, snapshot: &Snapshot) -> bool {
    let key = FrontendKey { namespace: service.namespace.clone(), name: service.name.clone() };
    snapshot.frontends.get(&key).is_some_and(|frontend| frontend.ports.binary_search(&service.port).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_a_service_and_perhaps_of_a_port_of_it() {
        let v6: IpAddr = "fd00::1".parse().expect("an address");
        let cart = Frontend { addresses: vec![[10, 96, 0, 1].into(), v6], ports: vec![80, 443] };
        let mut snapshot = Snapshot::default();
        snapshot.frontends.insert("shop/cart".parse().expect("a key"), Arc::new(cart));
        let frontends = Frontends::compile(&snapshot, None);
        assert!(Arc::ptr_eq(&frontends, &Frontends::compile(&snapshot, Some((&snapshot, &frontends)))));

        let port = |text: &str| Some(Fronted::Port(text.parse().expect("a key")));
        for (address, expected) in [
            ("10.96.0.1:80", port("Service/shop/cart:80")),
            ("[fd00::1]:443", port("Service/shop/cart:443")),
            ("10.96.0.1:81", Some(Fronted::NoPort("shop/cart".parse().expect("a key")))),
            ("10.96.0.2:80", None),
        ] {
            assert_eq!(frontends.find(address.parse().expect("an address")), expected, "{address}");
        }
        for (service, expected) in
            [("Service/shop/cart:80", true), ("Service/shop/cart:81", false), ("Service/other/cart:80", false)]
        {
            assert_eq!(exists(&service.parse().expect("a key"), &snapshot), expected, "{service}");
        }
    }
}
