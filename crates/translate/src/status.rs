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
