//! The graph, read for the data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::parameters::{ProxyProtocol, ServiceRoutes};
use isthmus_routing::{Backend, ClientValidation, Gateway, Listener, RouteKey, Snapshot};

use crate::graph::Graph;
use crate::graph::gateway::{GatewayFault, GatewayNode};
use crate::graph::listener::ListenerNode;
use crate::graph::service;

/// Everything that can be served, and nothing that is not referred to.
pub(crate) fn read(graph: &Graph<'_>) -> Snapshot {
    let served = graph.gateways.values().filter(|gateway| gateway.is_servable());
    let gateways: BTreeMap<_, _> = served.filter_map(|node| Some((node.key.clone(), Arc::new(gateway(node)?)))).collect();
    let listeners = || gateways.values().flat_map(|gateway| &gateway.listeners);
    let services: BTreeMap<_, _> =
        graph.service_parents.iter().map(|(key, parent)| (key.clone(), Arc::new(parent.clone()))).collect();
    let attached = listeners().flat_map(|listener| &listener.routes).map(|attachment| &attachment.route);
    // What a Gateway evaluates in the place of a Service's callers is under its own rules: backends of other namespaces need their grants.
    let evaluating: BTreeSet<&str> =
        gateways.iter().filter(|(_, gateway)| gateway.service_routes).map(|(key, _)| key.namespace.as_str()).collect();
    let onward =
        evaluating.into_iter().flat_map(|namespace| services.values().flat_map(move |service| service.routes_for(namespace)));
    let attached: BTreeSet<&RouteKey> = attached.chain(onward.map(|attachment| &attachment.route)).collect();
    let routes: BTreeMap<_, _> =
        attached.into_iter().filter_map(|key| Some((key.clone(), graph.route(key)?.route.clone()))).collect();
    let attached: BTreeSet<&RouteKey> =
        services.values().flat_map(|parent| parent.attachments()).map(|attachment| &attachment.route).collect();
    let service_routes: BTreeMap<_, _> =
        attached.into_iter().filter_map(|key| Some((key.clone(), graph.route(key)?.service_route().clone()))).collect();
    let backends: BTreeMap<_, _> = routes
        .values()
        .chain(service_routes.values())
        .flat_map(|route| route.backend_keys())
        .chain(services.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|key| {
            let tls = graph.backend_tls(key);
            let backend = graph.services.backend(key, tls.is_some());
            (key.clone(), Arc::new(Backend { tls, ..backend }))
        })
        .collect();
    let of_gateways = gateways.values().filter_map(|gateway| gateway.client_certificate.as_ref());
    let certificates: BTreeSet<_> = listeners().flat_map(|listener| &listener.certificates).chain(of_gateways).collect();
    let of_clients = listeners().filter_map(|listener| listener.client_validation.as_ref());
    let of_clients = of_clients.flat_map(|validation| &validation.authorities);
    let bundles: BTreeSet<_> = of_clients.chain(backends.values().flat_map(|backend| backend.bundles())).collect();
    Snapshot {
        kept: certificates.iter().copied().filter(|key| graph.kept.contains(key)).cloned().collect(),
        kept_bundles: bundles.iter().copied().filter(|key| graph.kept_bundles.contains(key)).cloned().collect(),
        certificates: certificates
            .into_iter()
            .filter_map(|key| Some((key.clone(), graph.certificates.get(key)?.clone())))
            .collect(),
        bundles: bundles.into_iter().filter_map(|key| Some((key.clone(), graph.bundles.get(key)?.clone()))).collect(),
        gateways,
        routes,
        services,
        service_routes,
        backends,
        mesh: graph.authority.cloned(),
        workloads: graph.pods.workloads(),
        frontends: service::frontends(&graph.service_parents),
        inbound: None,
    }
}

/// None if nothing of it can be served.
fn gateway(node: &GatewayNode) -> Option<Gateway> {
    let listeners: Vec<_> = node.listeners.iter().filter_map(listener).collect();
    let clients = node.infrastructure.parameters.clients.as_ref();
    (!listeners.is_empty()).then(|| Gateway {
        addresses: node.listen(),
        listeners,
        client_certificate: node.client_certificate.clone(),
        proxy_protocol: clients.and_then(|clients| clients.proxy_protocol) == Some(ProxyProtocol::Required),
        trusted_hops: clients.and_then(|clients| clients.trusted_hops).unwrap_or_default(),
        service_routes: node.infrastructure.parameters.service_routes == Some(ServiceRoutes::Evaluate),
        keeps_clients: node.fault.as_ref().is_some_and(GatewayFault::is_of_parameters),
    })
}

fn listener(node: &ListenerNode) -> Option<Listener> {
    let (protocol, port) = node.protocol.zip(u16::try_from(node.port).ok()).filter(|_| node.is_sent())?;
    Some(Listener {
        hostname: node.hostname.clone(),
        certificates: node.certificates.iter().chain(&node.kept).cloned().collect(),
        passthrough: node.passthrough,
        client_validation: node.client_validation.as_ref().map(|validation| ClientValidation {
            authorities: validation.authorities.bundles.clone(),
            optional: validation.is_optional,
        }),
        tls: node.tls.clone(),
        routes: node.attached.clone(),
        ..Listener::new(node.model_name(), port, protocol)
    })
}
