//! The graph, read for the data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_routing::{Gateway, Listener, RouteKey, Snapshot};

use crate::graph::Graph;
use crate::graph::gateway::GatewayNode;
use crate::graph::listener::ListenerNode;

/// Everything that can be served, and nothing that is not referred to.
pub(crate) fn read(graph: &Graph<'_>) -> Snapshot {
    let served = graph.gateways.values().filter(|gateway| gateway.is_servable());
    let gateways: BTreeMap<_, _> = served.filter_map(|node| Some((node.key.clone(), Arc::new(gateway(node)?)))).collect();
    let listeners = || gateways.values().flat_map(|gateway| &gateway.listeners);
    let attached: BTreeSet<&RouteKey> =
        listeners().flat_map(|listener| &listener.routes).map(|attachment| &attachment.route).collect();
    let routes: BTreeMap<_, _> =
        attached.into_iter().filter_map(|key| Some((key.clone(), graph.route(key)?.route.clone()))).collect();
    let certificates = listeners()
        .flat_map(|listener| &listener.certificates)
        .filter_map(|key| Some((key.clone(), graph.certificates.get(key)?.clone())))
        .collect();
    let backends = routes
        .values()
        .flat_map(|route| route.backend_keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|key| (key.clone(), Arc::new(graph.services.backend(key))))
        .collect();
    let kept = listeners().flat_map(|listener| &listener.certificates).filter(|key| graph.kept.contains(*key)).cloned().collect();
    Snapshot { gateways, routes, backends, certificates, kept, ..Snapshot::default() }
}

/// None if nothing of it can be served.
fn gateway(node: &GatewayNode) -> Option<Gateway> {
    let listeners: Vec<_> = node.listeners.iter().filter_map(listener).collect();
    (!listeners.is_empty()).then(|| Gateway { addresses: node.listen(), listeners, ..Gateway::default() })
}

fn listener(node: &ListenerNode) -> Option<Listener> {
    let (protocol, port) = node.protocol.zip(u16::try_from(node.port).ok()).filter(|_| node.is_sent())?;
    Some(Listener {
        hostname: node.hostname.clone(),
        certificates: node.certificates.iter().chain(&node.kept).cloned().collect(),
        routes: node.attached.clone(),
        ..Listener::new(node.model_name(), port, protocol)
    })
}
