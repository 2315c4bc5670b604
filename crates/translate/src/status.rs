//! The graph, read for the objects' statuses.
//!
//! One file for each kind of status, one function for each condition. Every condition carries the generation that was judged:
//!
//! > * Implementations MUST always update the `observedGeneration` field of the
//! >   Condition to the `metadata.generation` of the Gateway at the time of update creation.

mod backend_tls_policy;
mod gateway;
mod gateway_class;
mod listener;
mod listener_set;
mod route;
mod x_mesh;

use std::collections::BTreeMap;
use std::fmt::Display;

use isthmus_api::NamespacedName;
use isthmus_api::status::{Condition, ConditionStatus, Statuses};
use isthmus_routing::RouteKind;

use crate::graph::Graph;

/// The status of everything that is ours.
pub(crate) fn read(graph: &Graph<'_>) -> Statuses {
    let (mut listener_sets, mut attached) = (BTreeMap::new(), BTreeMap::<_, i32>::new());
    for (name, node) in &graph.listener_sets {
        let Some(parent) = graph.gateways.get(&node.gateway) else { continue };
        let status = listener_set::status(node, parent, graph.proof(&parent.key).as_deref());
        if listener_set::is_attached(&status) {
            *attached.entry(&node.gateway).or_default() += 1;
        }
        listener_sets.insert(name.clone(), status);
    }
    let attached = |name| attached.get(name).copied().unwrap_or_default();
    let mut statuses = Statuses {
        gateway_classes: graph
            .classes
            .iter()
            .map(|(name, node)| ((*name).to_owned(), gateway_class::status(node, graph.unsupported_version)))
            .collect(),
        gateways: graph
            .gateways
            .iter()
            .map(|(name, node)| (name.clone(), gateway::status(node, attached(name), graph.proof(&node.key).as_deref())))
            .collect(),
        listener_sets,
        backend_tls_policies: graph
            .backend_tls
            .iter()
            .map(|(name, node)| (name.clone(), backend_tls_policy::status(node)))
            .collect(),
        x_meshes: graph.x_meshes.iter().map(|(name, node)| ((*name).to_owned(), x_mesh::status(node))).collect(),
        ..Statuses::default()
    };
    for node in &graph.routes {
        let of_kind = match node.key.kind {
            RouteKind::Http => &mut statuses.http_routes,
            RouteKind::Grpc => &mut statuses.grpc_routes,
            RouteKind::Tls => &mut statuses.tls_routes,
            RouteKind::Tcp => &mut statuses.tcp_routes,
            RouteKind::Udp => &mut statuses.udp_routes,
        };
        of_kind.insert(NamespacedName::new(node.key.namespace.as_str(), node.key.name.as_str()), route::status(node, graph));
    }
    statuses
}

/// What a condition says, before it is known of which generation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    status: ConditionStatus,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes(reason: &'static str) -> Self {
        Self { status: ConditionStatus::True, reason, message: String::new() }
    }

    fn no(reason: &'static str, message: impl Display) -> Self {
        Self { status: ConditionStatus::False, reason, message: message.to_string() }
    }

    fn with(self, message: impl Display) -> Self {
        Self { message: message.to_string(), ..self }
    }

    fn condition(self, r#type: &str, generation: i64) -> Condition {
        Condition {
            r#type: r#type.to_owned(),
            status: self.status,
            reason: self.reason.to_owned(),
            message: self.message.chars().take(MESSAGE).collect(),
            observed_generation: generation,
        }
    }
}

/// The most faults that a message tells of.
const TOLD: usize = 5;

/// The longest message; the API server takes 32,768 characters, nobody reads as many.
const MESSAGE: usize = 4096;

/// `a; b; and 3 more`
fn listed<T: Display>(faults: impl ExactSizeIterator<Item = T>) -> String {
    let more = faults.len().saturating_sub(TOLD);
    let mut told: Vec<String> = faults.take(TOLD).map(|fault| fault.to_string()).collect();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use isthmus_routing::BackendTls;
    use serde_json::{Value, json};

    use crate::testing::{gateway, gateway_with, object, plain_listener, route, service, shown, translated};

    fn name(name: &str) -> NamespacedName {
        NamespacedName::new("shop", name)
    }

    fn parents() -> Value {
        json!([{"name": "edge"}, {"name": "strange"}])
    }

    /// A route to Service `front` with a name that is none.
    fn unreadable(kind: &str) -> Value {
        let rules = json!([{"name": 5, "backendRefs": [{"name": "front", "port": 80}]}]);
        route(kind, "bad", json!({"parentRefs": parents(), "hostnames": ["a.example.com"], "rules": rules}))
    }

    #[test]
    fn what_cannot_be_read_is_told_and_not_served() {
        let neighbour = route("HTTPRoute", "good", json!({"parentRefs": [{"name": "edge"}], "rules": [{}]}));
        let listeners = json!([
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "tls", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
            {"name": "tcp", "port": 81, "protocol": "TCP"},
            {"name": "udp", "port": 81, "protocol": "UDP"},
        ]);
        let routes = ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"].map(unreadable);
        let translation = translated([gateway(&listeners), service("front", 80), neighbour].into_iter().chain(routes));
        let statuses = &translation.statuses;
        for routes in
            [&statuses.http_routes, &statuses.grpc_routes, &statuses.tls_routes, &statuses.tcp_routes, &statuses.udp_routes]
        {
            let parents = &routes[&name("bad")].parents;
            assert_eq!(parents.len(), 1, "only the parents of ours");
            assert_eq!(shown(&parents[0].conditions, 7), ["Accepted=False/UnsupportedValue", "ResolvedRefs=True/ResolvedRefs"]);
            let message = &parents[0].conditions[0].message;
            assert!(message.starts_with("spec.rules[0].name cannot be read: invalid type: integer `5`"), "{message}");
        }
        let served: Vec<_> = translation.snapshot.routes.keys().map(|key| key.name.as_str()).collect();
        assert_eq!(served, ["good"]);
        let attached: Vec<_> = statuses.gateways[&name("edge")].listeners.iter().map(|of| of.attached_routes).collect();
        assert_eq!(attached, [1, 0, 0, 0]);
    }

    #[test]
    fn a_gateway_or_listener_set_that_cannot_be_read() {
        let strange =
            json!([{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Mars"}}}]);
        let set = |listeners: &Value| {
            let spec = json!({"parentRef": {"name": "edge"}, "listeners": listeners});
            object("gateway.networking.k8s.io/v1", "ListenerSet", "shop", "set", json!({"generation": 5}), spec)
        };
        let allows = json!({"namespaces": {"from": "Same"}});
        let good = |listeners: &Value| {
            gateway_with(json!({"gatewayClassName": "isthmus", "listeners": listeners, "allowedListeners": allows}))
        };
        let to_edge = || route("HTTPRoute", "r", json!({"parentRefs": [{"name": "edge"}], "rules": [{}]}));

        let translation = translated([good(&strange), set(&plain_listener()), to_edge()]);
        let status = &translation.statuses.gateways[&name("edge")];
        assert_eq!(shown(&status.conditions, 3)[..2], ["Accepted=False/Invalid", "Programmed=False/Invalid"]);
        let message = &status.conditions[0].message;
        assert!(message.starts_with("spec.listeners[0].allowedRoutes.namespaces.from cannot be read: "), "{message}");
        let of_route = &translation.statuses.http_routes[&name("r")].parents[0].conditions;
        assert_eq!(shown(of_route, 7)[0], "Accepted=False/NoMatchingParent");
        let of_set = &translation.statuses.listener_sets[&name("set")].conditions;
        assert_eq!(shown(of_set, 5), ["Accepted=False/ParentNotAccepted", "Programmed=False/ParentNotProgrammed"]);
        assert!(translation.snapshot.gateways.is_empty() && translation.infrastructure.is_empty());

        let translation = translated([good(&plain_listener()), set(&strange), to_edge()]);
        let of_set = &translation.statuses.listener_sets[&name("set")].conditions;
        assert_eq!(shown(of_set, 5), ["Accepted=False/Invalid", "Programmed=False/Invalid"]);
        assert_eq!(translation.statuses.gateways[&name("edge")].attached_listener_sets, 0);
        assert_eq!(translation.snapshot.routes.len(), 1, "the Gateway's own listener serves");
    }

    #[test]
    fn a_policy_that_cannot_be_read_lets_nothing_through() {
        let rules = json!([{"backendRefs": [{"name": "front", "port": 80}]}]);
        let validation =
            json!({"hostname": "a.example.com", "wellKnownCACertificates": "System", "subjectAltNames": [{"type": "Mars"}]});
        let spec = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "front"}], "validation": validation});
        let translation = translated([
            gateway(&plain_listener()),
            service("front", 80),
            route("HTTPRoute", "r", json!({"parentRefs": [{"name": "edge"}], "rules": rules})),
            object("gateway.networking.k8s.io/v1", "BackendTLSPolicy", "shop", "p", json!({"generation": 4}), spec),
        ]);
        let ancestors = &translation.statuses.backend_tls_policies[&name("p")].ancestors;
        assert_eq!(shown(&ancestors[0].conditions, 4), ["Accepted=False/Invalid", "ResolvedRefs=True/ResolvedRefs"]);
        let message = &ancestors[0].conditions[0].message;
        assert!(message.starts_with("spec.validation.subjectAltNames[0].type cannot be read: "), "{message}");
        let tls: Vec<_> = translation.snapshot.backends.values().map(|backend| backend.tls.clone()).collect();
        assert_eq!(tls, [Some(BackendTls::Invalid)]);
    }
}
