//! What sidecars have to acknowledge before a route on a Service may be called programmed, and what they have acknowledged.

use std::collections::BTreeMap;
use std::fmt;

use isthmus_routing::{BackendKey, RouteKey, ServiceParent};

use super::Edition;
use crate::graph::Graph;

/// Clients of a Service's port that the same routes answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Audience {
    /// What they call.
    pub service: BackendKey,
    /// The namespace that they are in, whose consumer routes answer them. None: all those that have none.
    pub clients: Option<String>,
}

/// What the sidecars of an audience have acknowledged. Only the acknowledgement is latched, per edition of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceProof {
    /// The editions that every ready sidecar that calls the port serves or has served, and those that were there when nobody called it.
    pub routes: BTreeMap<RouteKey, Edition>,
    /// Whether a ready sidecar that is connected and counts calls it. One of another namespace than the routes' that is left out does not.
    pub is_called: bool,
    /// Those that have not acknowledged all of it yet, each with what is known of it.
    pub waiting: Vec<String>,
    /// Those that are not waited for any more, and those of other namespaces than the routes' that cannot run a rule, each with the reason in
    /// words.
    pub left_out: Vec<String>,
    /// Rules that sidecars of an older release in the routes' namespace cannot run, in words, by route: requests that match them get 500 there.
    pub lacking: BTreeMap<RouteKey, String>,
}

/// The routes of each audience that has some.
pub(crate) fn read(graph: &Graph<'_>) -> BTreeMap<Audience, BTreeMap<RouteKey, Edition>> {
    let mut editions = BTreeMap::new();
    for (service, parent) in &graph.service_parents {
        for (clients, routes) in audiences(parent) {
            let of_route = |key: &RouteKey| graph.route(key).map(|route| (key.clone(), route.edition()));
            let routes: BTreeMap<_, _> = routes.iter().filter_map(|attachment| of_route(&attachment.route)).collect();
            if !routes.is_empty() {
                editions.insert(Audience { service: service.clone(), clients }, routes);
            }
        }
    }
    editions
}

fn audiences(parent: &ServiceParent) -> impl Iterator<Item = (Option<String>, &[isthmus_routing::Attachment])> {
    let consumers = parent.consumers.iter().map(|(namespace, routes)| (Some(namespace.clone()), routes.as_slice()));
    std::iter::once((None, parent.routes.as_slice())).chain(consumers)
}

impl ServiceProof {
    /// Why a route is not proven to answer this audience as this edition has it, with the reason for `Programmed=False`; none: it is.
    pub(crate) fn lacks(&self, audience: &Audience, key: &RouteKey, edition: &Edition) -> Option<(&'static str, String)> {
        let lags = !self.routes.get(key).is_some_and(|proven| proven.covers(edition));
        let told = || match (self.waiting.as_slice(), self.left_out.as_slice()) {
            ([], []) => "they are about to get it".to_owned(),
            ([], left_out) => format!("none of them does; not waited for any more: {}", left_out.join(", ")),
            (waiting, _) => format!("waiting for {}", waiting.join(", ")),
        };
        let generation = edition.generation;
        if lags {
            return Some((
                "Pending",
                format!("not all sidecars that call {audience} serve generation {generation} yet: {}", told()),
            ));
        }
        let lacking = self.lacking.get(key)?;
        Some(("UnsupportedByProxy", format!("requests get status 500 until the sidecar is updated: {lacking}")))
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BackendKey { namespace, name, port, .. } = &self.service;
        write!(f, "{namespace}/{name}:{port}")?;
        match &self.clients {
            Some(clients) => write!(f, " from namespace {clients}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use isthmus_routing::{RouteKind, Transport};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{base, mesh_options, object, objects, service, shown};
    use crate::{Options, Translation, translate};

    fn audience(port: u16, clients: Option<&str>) -> Audience {
        let service = BackendKey { namespace: "shop".to_owned(), name: "front".to_owned(), port, transport: Transport::Tcp };
        Audience { service, clients: clients.map(str::to_owned) }
    }

    fn key(namespace: &str) -> RouteKey {
        RouteKey { namespace: namespace.to_owned(), name: "r".to_owned(), kind: RouteKind::Http }
    }

    fn edition(generation: i64) -> Edition {
        Edition { uid: String::new(), generation }
    }

    /// A producer route and a consumer route on both ports of Service `front`, and a route on a Service that is not there.
    fn translated(proofs: Option<BTreeMap<Audience, ServiceProof>>) -> Translation {
        let route = |namespace: &str, name: &str, to: &str| {
            let parent = json!({"group": "", "kind": "Service", "namespace": "shop", "name": to});
            let spec = json!({"parentRefs": [parent], "rules": [{}]});
            object("gateway.networking.k8s.io/v1", "HTTPRoute", namespace, name, json!({"generation": 7}), spec)
        };
        let mut front = service("front", 80);
        front["spec"]["ports"] = json!([{"name": "http", "port": 80}, {"name": "more", "port": 81}]);
        let list: [Value; 4] = [front, route("shop", "r", "front"), route("bank", "r", "front"), route("shop", "lost", "gone")];
        translate(&objects(base().into_iter().chain(list)), &Options { service_proof: proofs, ..mesh_options() })
    }

    fn told(proofs: &BTreeMap<Audience, ServiceProof>, namespace: &str, name: &str) -> String {
        let translation = translated(Some(proofs.clone()));
        let conditions = &translation.statuses.http_routes[&NamespacedName::new(namespace, name)].parents[0].conditions;
        let shown = shown(conditions, 7).pop().unwrap();
        format!("{shown} {}", conditions.last().unwrap().message).trim_end().to_owned()
    }

    #[test]
    fn each_audience_has_its_routes() {
        let found = translated(None).audiences;
        let mut expected = BTreeMap::new();
        for port in [80, 81] {
            expected.insert(audience(port, None), BTreeMap::from([(key("shop"), edition(7))]));
            expected.insert(audience(port, Some("bank")), BTreeMap::from([(key("bank"), edition(7))]));
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn programmed_on_a_service_is_proven_by_those_who_call_it() {
        let proven = |namespace: &str, generation: i64, is_called: bool| ServiceProof {
            routes: BTreeMap::from([(key(namespace), edition(generation))]),
            is_called,
            ..ServiceProof::default()
        };
        let both =
            |http: ServiceProof, more: ServiceProof| BTreeMap::from([(audience(80, None), http), (audience(81, None), more)]);
        let waiting = ServiceProof { waiting: vec!["shop/a".to_owned()], is_called: true, ..ServiceProof::default() };
        let late = ServiceProof { left_out: vec!["shop/a (late)".to_owned()], is_called: true, ..ServiceProof::default() };
        let lacking =
            ServiceProof { lacking: BTreeMap::from([(key("shop"), "rules[1] on shop/a".to_owned())]), ..proven("shop", 7, true) };
        let noted = ServiceProof { left_out: vec!["shop/a (late)".to_owned()], ..proven("shop", 7, true) };
        let refused = ServiceProof { left_out: vec!["bank/b (refused it: bad)".to_owned()], ..proven("shop", 7, false) };
        let lags = "isthmus.dev/Programmed=False/Pending not all sidecars that call shop/front";
        for (proofs, expected) in [
            (BTreeMap::new(), format!("{lags}:80 serve generation 7 yet: they are about to get it")),
            (
                both(proven("shop", 7, true), waiting),
                format!("{lags}:81 serve generation 7 yet: waiting for shop/a"),
            ),
            (
                both(late, proven("shop", 7, true)),
                format!("{lags}:80 serve generation 7 yet: none of them does; not waited for any more: shop/a (late)"),
            ),
            (
                both(proven("shop", 6, true), proven("shop", 7, true)),
                format!("{lags}:80 serve generation 7 yet: they are about to get it"),
            ),
            (both(proven("shop", 7, true), proven("shop", 8, false)), "isthmus.dev/Programmed=True/Programmed".to_owned()),
            (
                both(lacking, proven("shop", 7, true)),
                "isthmus.dev/Programmed=False/UnsupportedByProxy requests get status 500 until the sidecar is updated: rules[1] on shop/a".to_owned(),
            ),
            (
                both(noted, proven("shop", 7, false)),
                "isthmus.dev/Programmed=True/Programmed not counted: shop/a (late)".to_owned(),
            ),
            (
                both(proven("shop", 7, false), refused),
                "isthmus.dev/Programmed=True/NoSubscribers none of the sidecars that call it is counted: bank/b (refused it: bad)"
                    .to_owned(),
            ),
            (
                both(proven("shop", 7, false), proven("shop", 7, false)),
                "isthmus.dev/Programmed=True/NoSubscribers no sidecar that is connected calls it; the first that does gets it"
                    .to_owned(),
            ),
        ] {
            assert_eq!(told(&proofs, "shop", "r"), expected, "{proofs:?}");
        }
        let consumers = [80, 81].map(|port| (audience(port, Some("bank")), proven("bank", 7, true)));
        let pending = told(&both(proven("shop", 7, true), proven("shop", 7, true)), "bank", "r");
        assert_eq!(pending, format!("{lags}:80 from namespace bank serve generation 7 yet: they are about to get it"));
        assert_eq!(told(&BTreeMap::from(consumers), "bank", "r"), "isthmus.dev/Programmed=True/Programmed");
        let lost = told(&BTreeMap::new(), "shop", "lost");
        assert_eq!(lost, "isthmus.dev/Programmed=False/Invalid the parent does not accept the route; see Accepted");
        let without = translated(None);
        let conditions = &without.statuses.http_routes[&NamespacedName::new("shop", "r")].parents[0].conditions;
        assert_eq!(shown(conditions, 7), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"], "nobody is asked");
    }
}
