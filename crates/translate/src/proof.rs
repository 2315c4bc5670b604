//! What proxies have to acknowledge before something may be called programmed, and what they have acknowledged.

mod service;

use std::collections::BTreeMap;

use isthmus_api::NamespacedName;
use isthmus_routing::{GatewayKey, RouteKey};

use crate::graph::Graph;
use crate::graph::gateway::GatewayNode;

pub(crate) use service::read as read_services;
pub use service::{Audience, ServiceProof};

/// One generation of one object: a recreated one counts anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edition {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.generation`
    pub generation: i64,
}

/// The objects that a Gateway's proxies serve at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Editions {
    /// Of the Gateway.
    pub gateway: Edition,
    /// Of its ListenerSets.
    pub listener_sets: BTreeMap<NamespacedName, Edition>,
    /// Of the routes attached to it.
    pub routes: BTreeMap<RouteKey, Edition>,
}

/// What the proxies of a Gateway have acknowledged. Only the acknowledgement is latched: losing the last proxy takes it back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// The newest editions that every ready proxy serves or has served.
    pub editions: Editions,
    /// How many proxies are ready.
    pub ready: usize,
    /// Ready proxies that have not acknowledged the newest configuration yet, each with what is known of it.
    pub waiting: Vec<String>,
    /// Ready proxies that are not waited for any more, each with the reason in words.
    pub left_out: Vec<String>,
    /// What the Gateway itself still waits for besides its proxies, in words.
    pub pending: Option<String>,
    /// Rules that proxies of an older release cannot run, in words, by route: requests that match them get 500 there.
    pub lacking: BTreeMap<RouteKey, String>,
    /// Why there cannot be proxies, in words.
    pub fault: Option<String>,
}

/// What the graph says of each Gateway.
pub(crate) fn read(graph: &Graph<'_>) -> BTreeMap<GatewayKey, Editions> {
    graph.gateways.values().map(|gateway| (gateway.key.clone(), editions(graph, gateway))).collect()
}

fn editions(graph: &Graph<'_>, gateway: &GatewayNode) -> Editions {
    let attached = gateway.listeners.iter().flat_map(|listener| &listener.attached);
    let of_route = |key: &RouteKey| graph.route(key).map(|route| (key.clone(), route.edition()));
    let sets = gateway.listeners.iter().filter_map(|listener| graph.listener_sets.get(listener.listener_set.as_ref()?));
    Editions {
        gateway: gateway.edition(),
        listener_sets: sets.map(|set| (set.name.clone(), set.edition.clone())).collect(),
        routes: attached.filter_map(|attachment| of_route(&attachment.route)).collect(),
    }
}

impl Edition {
    /// Whether this is the same object at this generation or a later one.
    fn covers(&self, other: &Self) -> bool {
        self.uid == other.uid && self.generation >= other.generation
    }
}

impl Proof {
    /// Why the Gateway is not proven to run this edition, with the reason for `Programmed=False`; none: it is.
    pub(crate) fn lacks_gateway(&self, edition: &Edition) -> Option<(&'static str, String)> {
        let pending = || self.pending.clone().map(|why| ("Pending", why));
        self.lacks().or_else(|| self.lags(Some(&self.editions.gateway), edition)).or_else(pending)
    }

    /// The same for a route of the Gateway.
    pub(crate) fn lacks_route(&self, key: &RouteKey, edition: &Edition) -> Option<(&'static str, String)> {
        let lacking = || {
            let told = self.lacking.get(key)?;
            Some(("UnsupportedByProxy", format!("requests get status 500 until the proxy is updated: {told}")))
        };
        self.lacks().or_else(|| self.lags(self.editions.routes.get(key), edition)).or_else(lacking)
    }

    /// The same for a ListenerSet of the Gateway.
    pub(crate) fn lacks_listener_set(&self, name: &NamespacedName, edition: &Edition) -> Option<(&'static str, String)> {
        self.lacks().or_else(|| self.lags(self.editions.listener_sets.get(name), edition))
    }

    /// What there is to say although it is proven.
    pub(crate) fn note(&self) -> String {
        if self.left_out.is_empty() { String::new() } else { format!("not counted: {}", self.left_out.join(", ")) }
    }

    fn lacks(&self) -> Option<(&'static str, String)> {
        if let Some(fault) = &self.fault {
            return Some(("NoResources", fault.clone()));
        }
        if self.ready > 0 {
            return None;
        }
        Some(match self.editions == Editions::default() {
            true => ("Pending", "no proxy is ready yet".to_owned()),
            false => ("NoResources", "no proxy is ready any more; see the pods of the Gateway".to_owned()),
        })
    }

    fn lags(&self, proven: Option<&Edition>, edition: &Edition) -> Option<(&'static str, String)> {
        let told = || match self.waiting.as_slice() {
            [] => "they are about to get it".to_owned(),
            waiting => format!("waiting for {}", waiting.join(", ")),
        };
        let lags = !proven.is_some_and(|proven| proven.covers(edition));
        lags.then(|| ("Pending", format!("not all proxies serve generation {} yet: {}", edition.generation, told())))
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use isthmus_routing::{RouteKey, RouteKind};
    use serde_json::json;

    use super::*;
    use crate::testing::{base, edge, gateway, objects, options, plain_listener, route, service, shown};
    use crate::{Listen, Options, translate};

    /// Conditions of the Gateway, its listener and a route on it, and what the snapshot has.
    fn judged(proof: Option<Proof>) -> (Vec<String>, bool) {
        let spec = json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "front", "port": 80}]}]});
        let list = [gateway(&plain_listener()), service("front", 80), route("HTTPRoute", "r", spec)];
        let proofs = proof.map(|proof| BTreeMap::from([(edge(), proof)]));
        let options = Options { listen: Listen::Everywhere, proof: Some(proofs.unwrap_or_default()), ..options() };
        let translation = translate(&objects(base().into_iter().chain(list)), &options);
        let gateway = &translation.statuses.gateways[&NamespacedName::new("shop", "edge")];
        let route = &translation.statuses.http_routes[&NamespacedName::new("shop", "r")].parents[0];
        let of = [(&gateway.conditions, 3), (&gateway.listeners[0].conditions, 3), (&route.conditions, 7)];
        let told = of.into_iter().flat_map(|(conditions, generation)| shown(conditions, generation).into_iter().zip(conditions));
        let told = told.filter(|(shown, _)| shown.contains("Programmed")).map(|(shown, of)| format!("{shown} {}", of.message));
        (told.map(|line| line.trim_end().to_owned()).collect(), translation.snapshot.gateways[&edge()].addresses.is_empty())
    }

    fn edition(generation: i64) -> Edition {
        Edition { uid: String::new(), generation }
    }

    fn route_key() -> RouteKey {
        RouteKey { namespace: "shop".to_owned(), name: "r".to_owned(), kind: RouteKind::Http }
    }

    fn proven(gateway: i64, route: i64) -> Proof {
        let editions = Editions {
            gateway: edition(gateway),
            listener_sets: BTreeMap::new(),
            routes: BTreeMap::from([(route_key(), edition(route))]),
        };
        Proof { editions, ready: 2, ..Proof::default() }
    }

    #[test]
    fn programmed_is_proven() {
        let lagging = "not all proxies serve generation";
        let all = |gateway: &str, listener: &str, route: &str| {
            vec![format!("Programmed={gateway}"), format!("Programmed={listener}"), format!("isthmus.dev/Programmed={route}")]
        };
        let (yes, pending) = ("True/Programmed", "False/Pending no proxy is ready yet");
        let older = format!("False/Pending {lagging} 3 yet: waiting for a, b");
        let route_older = format!("False/Pending {lagging} 7 yet: they are about to get it");
        let gone = "no proxy is ready any more; see the pods of the Gateway";
        for (proof, expected) in [
            (None, all(pending, pending, pending)),
            (Some(proven(3, 7)), all(yes, yes, yes)),
            (Some(proven(4, 8)), all(yes, yes, yes)),
            (Some(Proof { waiting: vec!["a".to_owned(), "b".to_owned()], ..proven(2, 7) }), all(&older, &older, yes)),
            (Some(proven(3, 6)), all(yes, yes, &route_older)),
            (
                Some(Proof { left_out: vec!["a (late)".to_owned()], ..proven(3, 7) }),
                all("True/Programmed not counted: a (late)", yes, "True/Programmed not counted: a (late)"),
            ),
            (
                Some(Proof { ready: 0, ..proven(3, 7) }),
                all(&format!("False/NoResources {gone}"), &format!("False/Pending {gone}"), &format!("False/NoResources {gone}")),
            ),
            (
                Some(Proof { lacking: BTreeMap::from([(route_key(), "rules[1] on a".to_owned())]), ..proven(3, 7) }),
                all(yes, yes, "False/UnsupportedByProxy requests get status 500 until the proxy is updated: rules[1] on a"),
            ),
            (
                Some(Proof { pending: Some("no port yet".to_owned()), ..proven(3, 7) }),
                all("False/Pending no port yet", "False/Pending no port yet", yes),
            ),
            (
                Some(Proof { fault: Some("no room".to_owned()), ..proven(3, 7) }),
                all("False/NoResources no room", "False/Pending no room", "False/NoResources no room"),
            ),
        ] {
            assert_eq!(judged(proof.clone()), (expected, true), "{proof:?}");
        }
    }

    #[test]
    fn parameters_that_go_close_nothing_that_runs() {
        let lost = json!({"group": "isthmus.dev", "kind": "GatewayParameters", "name": "gone"});
        let spec =
            json!({"gatewayClassName": "isthmus", "listeners": plain_listener(), "infrastructure": {"parametersRef": lost}});
        let objects = objects(base().into_iter().chain([crate::testing::gateway_with(spec)]));
        let translated = |listen| translate(&objects, &Options { listen, ..options() });
        let (cluster, alone) = (translated(Listen::Everywhere), translated(Listen::Assigned));
        assert!(cluster.snapshot.gateways.contains_key(&edge()), "its proxies are there");
        assert!(!cluster.infrastructure.contains_key(&edge()), "but no new ones are made");
        assert!(!alone.snapshot.gateways.contains_key(&edge()), "in a folder it never ran");
        let status = &cluster.statuses.gateways[&NamespacedName::new("shop", "edge")];
        assert_eq!(shown(&status.conditions, 3)[0], "Accepted=False/InvalidParameters");
    }

    #[test]
    fn a_recreated_object_has_proven_nothing() {
        let other = Edition { uid: "b".to_owned(), generation: 1 };
        let proof = Proof { editions: Editions { gateway: edition(9), ..Editions::default() }, ready: 1, ..Proof::default() };
        assert_eq!(proof.lacks_gateway(&edition(9)), None);
        assert!(proof.lacks_gateway(&other).is_some());
    }
}
