//! What became of a snapshot, listener by listener and Service by Service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use isthmus_routing::{Gateway, GatewayKey, Listener};

use crate::config::{self, Bind, Config, Owner, Speech};
use crate::{ListenerReport, Outbound, Report, ServiceReport, tls};

/// Every listener on every address of its Gateway, in the snapshot's order.
pub(crate) fn of(config: &Config, failed: &BTreeMap<Bind, String>, tls: &tls::Listeners) -> Report {
    let of_gateway = |(key, gateway)| {
        listeners(gateway, config.site().addresses(gateway)).map(move |(listener, address)| (key, listener, address))
    };
    let listeners = config.snapshot.gateways.iter().flat_map(|(key, gateway)| of_gateway((key, gateway.as_ref())));
    let report = |(gateway, listener, address): (&GatewayKey, &Listener, SocketAddr)| ListenerReport {
        gateway: gateway.clone(),
        name: listener.name.clone(),
        address,
        fault: fault(config, (gateway, listener, address), failed, tls),
    };
    let services = config.site().outbound.iter().flat_map(|outbound| services(outbound, config, failed));
    Report { version: Some(config.version), listeners: listeners.map(report).collect(), services: services.collect() }
}

fn services<'c>(
    outbound: &'c Outbound,
    config: &'c Config,
    failed: &'c BTreeMap<Bind, String>,
) -> impl Iterator<Item = ServiceReport> + 'c {
    config::services(Some(outbound), &config.snapshot).flat_map(move |(key, _, binds)| {
        let owner = Owner::Service(key.clone());
        binds.map(move |bind| ServiceReport {
            service: key.clone(),
            address: bind.address,
            fault: taken(config, &owner, &bind).or_else(|| failed.get(&bind).cloned()),
        })
    })
}

fn listeners<'g>(gateway: &'g Gateway, addresses: &'g [IpAddr]) -> impl Iterator<Item = (&'g Listener, SocketAddr)> {
    let on = |listener: &'g Listener| addresses.iter().map(move |ip| (listener, SocketAddr::new(*ip, listener.socket_port())));
    gateway.listeners.iter().flat_map(on)
}

fn fault(
    config: &Config,
    (gateway, listener, address): (&GatewayKey, &Listener, SocketAddr),
    failed: &BTreeMap<Bind, String>,
    tls: &tls::Listeners,
) -> Option<String> {
    let bind = Bind { address, transport: listener.protocol.transport() };
    let port = config.ports.get(&bind)?;
    let owner = Owner::Gateway(gateway.clone());
    if let Some(taken) = taken(config, &owner, &bind) {
        return Some(taken);
    }
    if port.speech != Speech::of(listener.protocol) {
        let other = port.speech.as_str();
        return Some(format!(
            "another listener of this Gateway speaks {other} on port {}: give one of them another port",
            address.port()
        ));
    }
    failed.get(&bind).cloned().or_else(|| tls.fault(gateway, &listener.name))
}

/// Whether an address is another owner's.
fn taken(config: &Config, owner: &Owner, bind: &Bind) -> Option<String> {
    let has = &config.ports.get(bind)?.owner;
    (has != owner).then(|| format!("{has} has {bind} already: give one of them another address or port"))
}
