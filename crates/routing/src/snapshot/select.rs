//! Parts of snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Snapshot;
use crate::{
    Backend, BackendKey, BundleKey, CertificateKey, Gateway, GatewayKey, Identity, Inbound, Pods, ServiceParent, Spoken,
    Workloads,
};

impl Snapshot {
    /// A Gateway with everything that it refers to and nothing else; empty if it is not here.
    pub fn of_gateway(&self, key: &GatewayKey) -> Self {
        let Some(gateway) = self.gateways.get(key) else { return Self::default() };
        let attachments = gateway.listeners.iter().flat_map(|listener| &listener.routes);
        let routes = pick(&self.routes, attachments.map(|attachment| &attachment.route));
        let referred: BTreeSet<_> = routes.values().flat_map(|route| route.backend_keys()).collect();
        let routed = referred.iter().copied().filter(|_| gateway.service_routes);
        let routed = routed.filter_map(|service| self.service_seen_from(&key.namespace, service));
        let services: BTreeMap<_, _> = routed.filter(|(_, parent)| !parent.routes.is_empty()).collect();
        let attachments = services.values().flat_map(|parent| parent.attachments());
        let onward = pick(&self.routes, attachments.map(|attachment| &attachment.route));
        let backends = pick(&self.backends, referred.into_iter().chain(onward.values().flat_map(|route| route.backend_keys())));
        let routes: BTreeMap<_, _> = routes.iter().chain(&onward).map(|(key, route)| (key.clone(), route.clone())).collect();
        let certificates =
            || gateway.listeners.iter().flat_map(|listener| &listener.certificates).chain(&gateway.client_certificate);
        let of_clients = || gateway.listeners.iter().filter_map(|listener| listener.client_validation.as_ref());
        let of_backends = || backends.values().flat_map(|backend| backend.bundles());
        let bundles = || of_clients().flat_map(|validation| &validation.authorities).chain(of_backends());
        Self {
            gateways: BTreeMap::from([(key.clone(), gateway.clone())]),
            certificates: pick(&self.certificates, certificates()),
            bundles: pick(&self.bundles, bundles()),
            kept: certificates().filter(|key| self.kept.contains(key)).cloned().collect(),
            kept_bundles: bundles().filter(|key| self.kept_bundles.contains(key)).cloned().collect(),
            mesh: self.mesh.clone(),
            workloads: self.workloads_behind(backends.values()),
            backends,
            routes,
            services,
            // The rest is for sidecars, whose routes need no grants.
            ..Self::default()
        }
    }

    /// What the sidecar of a workload gets: the Services of `called`, as clients of `namespace` see them, with everything that they refer to;
    /// the frontends of all Services and the places of all workloads; and what the workload asks of those who call it. A Service of
    /// `called` that is not here is left out.
    pub fn of_workload(&self, namespace: &str, called: &BTreeSet<BackendKey>, inbound: Arc<Inbound>) -> Self {
        let services: BTreeMap<_, _> = called.iter().filter_map(|key| self.service_seen_from(namespace, key)).collect();
        let attachments = services.values().flat_map(|parent| parent.attachments());
        let service_routes = pick(&self.service_routes, attachments.map(|attachment| &attachment.route));
        let referred = service_routes.values().flat_map(|route| route.backend_keys());
        let backends = pick(&self.backends, referred.chain(services.keys()));
        let bundles = || backends.values().flat_map(|backend| backend.bundles());
        Self {
            bundles: pick(&self.bundles, bundles()),
            kept_bundles: bundles().filter(|key| self.kept_bundles.contains(key)).cloned().collect(),
            mesh: self.mesh.clone(),
            workloads: self.workloads.clone(),
            frontends: self.frontends.clone(),
            inbound: Some(inbound),
            services,
            service_routes,
            backends,
            ..Self::default()
        }
    }

    /// A Service as clients of a namespace see it.
    fn service_seen_from(&self, namespace: &str, key: &BackendKey) -> Option<(BackendKey, Arc<ServiceParent>)> {
        let parent = self.services.get(key)?;
        if parent.consumers.is_empty() {
            return Some((key.clone(), parent.clone()));
        }
        let routes = parent.routes_for(namespace).to_vec();
        // Consumer routes say what their own clients speak, and nothing of others.
        let spoken = if routes.is_empty() { parent.spoken } else { Spoken::Http };
        let seen = ServiceParent { routes, consumers: BTreeMap::new(), spoken, ..(**parent).clone() };
        Some((key.clone(), Arc::new(seen)))
    }

    /// The workloads that answer for these backends.
    fn workloads_behind<'b>(&self, backends: impl Iterator<Item = &'b Arc<Backend>>) -> BTreeMap<Identity, Arc<Workloads>> {
        if self.workloads.is_empty() {
            return BTreeMap::new();
        }
        let addresses: BTreeSet<IpAddr> =
            backends.flat_map(|backend| &backend.endpoints).map(|endpoint| endpoint.address.ip()).collect();
        let behind = |(identity, workloads): (&Identity, &Arc<Workloads>)| {
            let is_behind = |address: &IpAddr| addresses.contains(address);
            if workloads.pods.keys().all(is_behind) {
                return Some((identity.clone(), workloads.clone()));
            }
            let pods: Pods =
                workloads.pods.iter().filter(|(address, _)| is_behind(address)).map(|(at, pod)| (*at, pod.clone())).collect();
            (!pods.is_empty()).then(|| (identity.clone(), Arc::new(Workloads { pods })))
        };
        self.workloads.iter().filter_map(behind).collect()
    }

    /// Whether it has something to keep, so that [`Snapshot::keeping`] makes another one of it.
    pub fn keeps(&self) -> bool {
        let keeps_clients = || self.gateways.values().any(|gateway| gateway.keeps_clients);
        !self.kept.is_empty() || !self.kept_bundles.is_empty() || keeps_clients()
    }

    /// This snapshot with the certificates and bundles that `before` holds for its kept references, and with what it says of who the client
    /// is where that is kept. A kept reference for which `before` holds none stays without: handshakes that need it fail. The references
    /// stay kept, so that the next snapshot can be completed from this one.
    #[must_use]
    pub fn keeping(&self, before: &Self) -> Self {
        let held = |key: &CertificateKey| Some((key.clone(), before.certificates.get(key)?.clone()));
        let mut complete = self.clone();
        for (key, certificate) in self.kept.iter().filter_map(held) {
            complete.certificates.entry(key).or_insert(certificate);
        }
        let held = |key: &BundleKey| Some((key.clone(), before.bundles.get(key)?.clone()));
        for (key, bundle) in self.kept_bundles.iter().filter_map(held) {
            complete.bundles.entry(key).or_insert(bundle);
        }
        for (key, gateway) in complete.gateways.iter_mut().filter(|(_, gateway)| gateway.keeps_clients) {
            if let Some(Gateway { proxy_protocol, trusted_hops, .. }) = before.gateways.get(key).map(|held| &**held) {
                set_clients(gateway, *proxy_protocol, *trusted_hops);
            }
        }
        complete
    }

    /// Undoes [`Snapshot::keeping`]: what was sent, without what was held.
    #[must_use]
    pub fn without_kept(&self) -> Self {
        let mut sent = self.clone();
        sent.certificates.retain(|key, _| !self.kept.contains(key));
        sent.bundles.retain(|key, _| !self.kept_bundles.contains(key));
        sent.gateways.values_mut().filter(|gateway| gateway.keeps_clients).for_each(|gateway| set_clients(gateway, false, 0));
        sent
    }
}

fn set_clients(gateway: &mut Arc<Gateway>, proxy_protocol: bool, trusted_hops: u8) {
    if (gateway.proxy_protocol, gateway.trusted_hops) != (proxy_protocol, trusted_hops) {
        *gateway = Arc::new(Gateway { proxy_protocol, trusted_hops, ..(**gateway).clone() });
    }
}

fn pick<'k, K: Ord + Clone + 'k, V>(from: &BTreeMap<K, Arc<V>>, keys: impl Iterator<Item = &'k K>) -> BTreeMap<K, Arc<V>> {
    keys.filter_map(|key| Some((key.clone(), from.get(key)?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Certificate, RouteKey};

    const FULL: &str = include_str!("full.json");

    fn full() -> Snapshot {
        serde_json::from_str(FULL).unwrap()
    }

    fn gateway() -> GatewayKey {
        "Gateway/infra/edge".parse().unwrap()
    }

    fn certificate(chain: &str) -> Arc<Certificate> {
        Arc::new(Certificate { chain: chain.to_owned(), key: String::new() })
    }

    #[test]
    fn a_gateway_has_what_it_refers_to() {
        let full = full();
        let mut crowded = full.clone();
        crowded.gateways.insert("Gateway/infra/other".parse().unwrap(), Arc::new(Gateway::default()));
        let route = full.routes.values().next().unwrap().clone();
        crowded.routes.insert("HTTPRoute/default/stray".parse().unwrap(), route);
        crowded.backends.insert("Service/default/stray:80".parse().unwrap(), Arc::new(Backend::default()));
        crowded.certificates.insert("Secret/infra/stray".parse().unwrap(), certificate("stray"));
        crowded.kept.insert("Secret/infra/stray".parse().unwrap());
        let of_gateway = crowded.of_gateway(&gateway());
        let mut expected = full;
        expected.services.clear();
        expected.service_routes.clear();
        expected.frontends.clear();
        expected.inbound = None;
        expected.backends.remove(&"Service/default/socket:80".parse().unwrap()).expect("nothing refers to it");
        assert_eq!(of_gateway, expected);
        let other = crowded.of_gateway(&"Gateway/infra/other".parse().unwrap());
        assert_eq!((other.gateways.len(), other.routes.len(), other.certificates.len()), (1, 0, 0));
        assert_eq!(crowded.of_gateway(&"Gateway/infra/none".parse().unwrap()), Snapshot::default());
    }

    #[test]
    fn a_gateway_knows_the_workloads_behind_its_backends() {
        let mut crowded = full();
        let cart: Identity = "ServiceAccount/default/cart".parse().unwrap();
        let pods = &mut Arc::make_mut(crowded.workloads.get_mut(&cart).unwrap()).pods;
        pods.insert([10, 9, 9, 9].into(), crate::MeshedPod::default());
        let far = Workloads { pods: [([10, 8, 8, 8].into(), crate::MeshedPod::default())].into() };
        crowded.workloads.insert("ServiceAccount/default/far".parse().unwrap(), Arc::new(far));
        assert_eq!(crowded.of_gateway(&gateway()).workloads, full().workloads);
    }

    #[test]
    fn a_gateway_that_evaluates_routes_of_services_has_them() {
        let mut full = full();
        let mut edge = (*full.gateways[&gateway()]).clone();
        let referred = full
            .of_gateway(&gateway())
            .routes
            .values()
            .flat_map(|route| route.backend_keys().cloned().collect::<Vec<_>>())
            .next();
        let service: BackendKey = referred.expect("a route of it has a backend");
        let routed = ServiceParent {
            routes: vec![crate::Attachment { route: "HTTPRoute/client/cart".parse().unwrap(), hostnames: Vec::new() }],
            ..ServiceParent::default()
        };
        full.services.insert(service.clone(), Arc::new(routed));
        let granted: RouteKey = "HTTPRoute/client/cart".parse().unwrap();
        full.routes.insert(granted.clone(), full.service_routes[&granted].clone());
        assert!(full.of_gateway(&gateway()).services.is_empty(), "it does not evaluate them");
        edge.service_routes = true;
        full.gateways.insert(gateway(), Arc::new(edge));
        let of_gateway = full.of_gateway(&gateway());
        assert_eq!(of_gateway.services.keys().collect::<Vec<_>>(), [&service], "and none that no route of it leads to");
        assert!(of_gateway.routes.contains_key(&granted), "as it is where grants are asked for");
        assert!(of_gateway.service_routes.is_empty(), "and not as it is for sidecars");
        let mut onward = of_gateway.routes.values().flat_map(|route| route.backend_keys());
        assert!(onward.all(|key| of_gateway.backends.contains_key(key) == full.backends.contains_key(key)));
    }

    #[test]
    fn a_sidecar_has_what_its_workload_calls() {
        let full = full();
        let cart: BackendKey = "Service/default/cart:8080".parse().unwrap();
        let inbound = Arc::new(Inbound::default());
        let of = |namespace: &str, called: &[&BackendKey]| {
            full.of_workload(namespace, &called.iter().map(|key| (*key).clone()).collect(), inbound.clone())
        };
        let nothing = of("default", &[]);
        let known = |snapshot: &Snapshot| (snapshot.mesh.clone(), snapshot.workloads.clone(), snapshot.frontends.clone());
        assert_eq!(known(&nothing), known(&full));
        assert_eq!((nothing.services.len(), nothing.backends.len(), nothing.service_routes.len()), (0, 0, 0));
        assert_eq!(of("default", &[&"Service/default/none:80".parse().unwrap()]), nothing);
        for namespace in ["default", "client"] {
            let one = of(namespace, &[&cart]);
            let parent = &one.services[&cart];
            assert_eq!(parent.routes, full.services[&cart].routes_for(namespace));
            assert!(parent.consumers.is_empty());
            let keys: Vec<_> = one.service_routes.keys().collect();
            assert_eq!(keys, parent.routes.iter().map(|attachment| &attachment.route).collect::<Vec<_>>());
            assert!(one.backends.contains_key(&cart));
            let mut referred = one.service_routes.values().flat_map(|route| route.backend_keys());
            assert!(referred.all(|key| one.backends.contains_key(key) == full.backends.contains_key(key)));
            assert_eq!((one.gateways.len(), one.routes.len(), one.certificates.len()), (0, 0, 0));
        }
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let mut holes = full();
        let cart: RouteKey = "GRPCRoute/default/cart".parse().unwrap();
        holes.routes.remove(&cart);
        holes.certificates.clear();
        let of_gateway = holes.of_gateway(&gateway());
        assert!(!of_gateway.routes.contains_key(&cart) && of_gateway.certificates.is_empty());
        assert_eq!(of_gateway.gateways, holes.gateways);
    }

    #[test]
    fn kept_references_take_what_was_held_and_nothing_else() {
        let malformed: CertificateKey = "Secret/infra/malformed".parse().unwrap();
        let sent = full();
        let mut before = Snapshot::default();
        assert_eq!(sent.keeping(&before), sent, "nothing was held");
        before.certificates.insert(malformed.clone(), certificate("held"));
        before.certificates.insert("Secret/infra/edge".parse().unwrap(), certificate("old"));
        let complete = sent.keeping(&before);
        assert_eq!(complete.certificates[&malformed].chain, "held");
        assert_eq!(complete.certificates.len(), sent.certificates.len() + 1);
        assert_eq!(
            complete.certificates[&"Secret/infra/edge".parse().unwrap()],
            sent.certificates.values().next().unwrap().clone()
        );
        assert_eq!(sent.keeping(&complete), complete, "and so on from snapshot to snapshot");
        assert_eq!(complete.without_kept(), sent);
        let deleted = Snapshot { kept: [].into(), ..sent.clone() };
        assert_eq!(deleted.keeping(&complete), deleted, "what is deleted stops at once");
    }

    #[test]
    fn who_the_client_is_stays_as_it_was_while_nobody_knows() {
        let of = |gateway: Gateway| Snapshot { gateways: [(self::gateway(), Arc::new(gateway))].into(), ..Snapshot::default() };
        let known = |proxy_protocol, trusted_hops| of(Gateway { proxy_protocol, trusted_hops, ..Gateway::default() });
        let unknown = of(Gateway { keeps_clients: true, ..Gateway::default() });
        assert!(unknown.keeps() && !known(true, 2).keeps());
        assert_eq!(unknown.keeping(&Snapshot::default()), unknown, "nothing was held");
        for before in [known(true, 0), known(false, 2), known(false, 0)] {
            let complete = unknown.keeping(&before);
            let (held, now) = (&before.gateways[&gateway()], &complete.gateways[&gateway()]);
            assert_eq!((now.proxy_protocol, now.trusted_hops), (held.proxy_protocol, held.trusted_hops));
            assert_eq!(unknown.keeping(&complete), complete, "and so on from snapshot to snapshot");
            assert_eq!(complete.without_kept(), unknown);
            assert_eq!(known(false, 1).keeping(&complete), known(false, 1), "until it is known again");
        }
    }
}
