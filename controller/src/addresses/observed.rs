//! Addresses that somebody else gives.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_api::core::api::core::v1::ServicePort;
use isthmus_api::parameters::{ExternalTrafficPolicy, ServiceType};
use isthmus_api::{Objects, Service};
use isthmus_routing::GatewayKey;
use isthmus_translate::{Address, Infrastructure};

use super::{Assigned, Nodes, asked, takes_any, type_name};
use crate::{provision, ready};

/// Addresses that a status may have.
const MOST: usize = 16;

/// What was found, or why nothing was.
struct Found {
    addresses: Vec<Address>,
    /// If there are none.
    waits: String,
    notes: Vec<String>,
}

/// Where a Gateway answers whose addresses are not from a pool, and whether that takes the nodes' addresses.
pub(super) fn observe(
    key: &GatewayKey,
    given: &Infrastructure,
    service: Option<&Arc<Service>>,
    objects: &Objects,
    nodes: Option<&Nodes>,
) -> (Assigned, bool) {
    let kind = provision::service_type(given);
    let on_host = given.parameters.host_port == Some(true);
    let needs_nodes = on_host || kind == ServiceType::NodePort;
    let found = match (service, needs_nodes, nodes) {
        (None, ..) => nothing("its Service is not there yet"),
        (Some(_), true, None) => {
            nothing("the addresses of nodes are not known; the controller needs the right to list and watch nodes")
        }
        (Some(_), true, Some(nodes)) if on_host => {
            nodes_with_pods(key, objects, nodes, "no pod of it is ready on a node whose address is known")
        }
        (Some(service), true, Some(nodes)) => node_port(key, given, service, objects, nodes),
        (Some(service), false, _) if kind == ServiceType::ClusterIP => cluster_ip(service),
        (Some(service), false, _) => ingress(service),
    };
    (select(given, found, if on_host { "nodes" } else { type_name(kind) }), needs_nodes)
}

fn nothing(waits: &str) -> Found {
    Found { addresses: Vec::new(), waits: waits.to_owned(), notes: Vec::new() }
}

/// What it asks for by value, of what there is; or all.
fn select(given: &Infrastructure, found: Found, whose: &str) -> Assigned {
    if found.addresses.is_empty() {
        return Assigned { addresses: None, faults: vec![found.waits], notes: Vec::new() };
    }
    let asked = asked(given);
    let mut faults = Vec::new();
    for asked in &asked {
        match asked {
            Ok(ip) if found.addresses.contains(&Address::Ip(*ip)) => {}
            Ok(ip) => {
                let has: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
                faults.push(format!("{ip} is not among its addresses ({whose}: {}); ask for one that is", has.join(", ")));
            }
            Err(text) => faults.push(format!("`{text}` is no IP address")),
        }
    }
    let wanted = |address: &Address| match address {
        Address::Ip(ip) => takes_any(given) || asked.contains(&Ok(*ip)),
        Address::Hostname(_) => takes_any(given),
    };
    let addresses = found.addresses.into_iter().filter(wanted).take(MOST).collect();
    Assigned { addresses: Some(addresses), faults, notes: found.notes }
}

/// What a load balancer controller has written.
fn ingress(service: &Service) -> Found {
    let ingress = service.status.iter().filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref()).flatten();
    let address = |ip: Option<&str>, hostname: Option<&str>| match (ip, hostname) {
        (Some(ip), _) => ip.parse().ok().map(Address::Ip),
        (None, Some(name)) if !name.is_empty() => Some(Address::Hostname(name.to_owned())),
        _ => None,
    };
    let addresses = ingress.filter_map(|ingress| address(ingress.ip.as_deref(), ingress.hostname.as_deref()));
    Found {
        addresses: addresses.collect(),
        waits: "no load balancer controller has given its Service an address yet; where there is none, set addressPools or \
                another service.type in GatewayParameters"
            .to_owned(),
        notes: Vec::new(),
    }
}

fn cluster_ip(service: &Service) -> Found {
    let ips = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten()).filter_map(|ip| ip.parse().ok());
    Found { addresses: ips.map(Address::Ip).collect(), waits: "its Service has no address yet".to_owned(), notes: Vec::new() }
}

fn node_port(key: &GatewayKey, given: &Infrastructure, service: &Service, objects: &Objects, nodes: &Nodes) -> Found {
    let spec = service.spec.as_ref();
    let ports = spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter(|port| given.ports.iter().any(|wanted| ready::is_port(port, *wanted)));
    let shown = |port: &ServicePort| match port.protocol.as_deref() {
        Some("UDP") => format!("{}/UDP", port.port),
        _ => port.port.to_string(),
    };
    let pairs: Vec<_> = ports.filter_map(|port| Some(format!("{} is {}", shown(port), port.node_port?))).collect();
    let local = given.parameters.service.as_ref().and_then(|service| service.external_traffic_policy)
        == Some(ExternalTrafficPolicy::Local);
    let mut found = match local {
        true => nodes_with_pods(key, objects, nodes, "no pod of it is ready, and only nodes with one answer"),
        false => Found {
            addresses: unique(nodes.outside().flatten()),
            waits: "no node is ready whose address is known".to_owned(),
            notes: Vec::new(),
        },
    };
    if !pairs.is_empty() {
        found.notes.push(format!("ports on nodes: {}", pairs.join(", ")));
    }
    found
}

fn nodes_with_pods(key: &GatewayKey, objects: &Objects, nodes: &Nodes, waits: &str) -> Found {
    let location = provision::location(key);
    let service_name = |labels: &std::collections::BTreeMap<String, String>| labels.get("kubernetes.io/service-name").cloned();
    let slices = objects.endpoint_slices.iter().filter(|(name, slice)| {
        name.namespace == location.namespace
            && slice.metadata.labels.as_ref().and_then(service_name).as_deref() == Some(location.name.as_str())
    });
    let endpoints = slices.flat_map(|(_, slice)| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false));
    let names: BTreeSet<_> = ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
    let addresses = unique(names.into_iter().filter_map(|name| nodes.of(name)).flatten());
    Found { addresses, waits: waits.to_owned(), notes: Vec::new() }
}

fn unique<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> Vec<Address> {
    addresses.copied().collect::<BTreeSet<_>>().into_iter().map(Address::Ip).collect()
}
