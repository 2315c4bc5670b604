//! The Service of a Gateway.

use isthmus_api::parameters::ServiceType;
use isthmus_routing::{GatewayKey, Transport};
use isthmus_translate::Infrastructure;
use serde_json::{Value, json};

use super::desired::{is_pooled, service_type};
use super::names;

/// The class of load balancers that get an address from a pool of ours, so that no other controller gives them one.
pub const POOL_CLASS: &str = "isthmus.dev/pool";

/// The port of a Gateway without a listener, since a Service has to have one: `discard`, where no proxy listens.
const PLACEHOLDER: u16 = 9;

/// The `spec` of the Service: one port for each port of the listeners, forwarded to the same port of a pod.
pub(super) fn spec(gateway: &GatewayKey, infrastructure: &Infrastructure) -> Value {
    let kind = service_type(infrastructure);
    let parameters = infrastructure.parameters.service.clone().unwrap_or_default();
    let balanced = kind == ServiceType::LoadBalancer;
    let pooled = is_pooled(infrastructure);
    let class = if pooled { Some(POOL_CLASS.to_owned()) } else { parameters.load_balancer_class };
    let port = |(port, transport): (u16, Transport)| json!({ "name": names::port((port, transport)), "port": port, "targetPort": port, "protocol": transport });
    let mut ports: Vec<_> = infrastructure.ports.iter().copied().map(port).collect();
    if ports.is_empty() {
        ports.push(port((PLACEHOLDER, Transport::Tcp)));
    }
    json!({
        "type": kind,
        "selector": names::selector(gateway),
        "ports": ports,
        "ipFamilyPolicy": "PreferDualStack",
        "externalTrafficPolicy": parameters.external_traffic_policy.filter(|_| kind != ServiceType::ClusterIP),
        "loadBalancerClass": class.filter(|_| balanced),
        "loadBalancerSourceRanges": parameters.source_ranges.filter(|ranges| balanced && !ranges.is_empty()),
        // A pool address is answered by kube-proxy itself; ports of nodes would only be taken away from others.
        "allocateLoadBalancerNodePorts": pooled.then_some(false),
    })
}
