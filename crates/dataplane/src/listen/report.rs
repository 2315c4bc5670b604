//! What became of a snapshot, listener by listener.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use isthmus_routing::{Gateway, GatewayKey, Listener};

use crate::config::{Bind, Config, Speech};
use crate::{ListenerReport, Report, tls};

/// Every listener on every address of its Gateway, in the snapshot's order.
pub(crate) fn of(config: &Config, failed: &BTreeMap<Bind, String>, tls: &tls::Listeners) -> Report {
    let of_gateway =
        |(key, gateway)| listeners(gateway, config.addresses(gateway)).map(move |(listener, address)| (key, listener, address));
    let listeners = config.snapshot.gateways.iter().flat_map(|(key, gateway)| of_gateway((key, gateway.as_ref())));
    let report = |(gateway, listener, address): (&GatewayKey, &Listener, SocketAddr)| ListenerReport {
        gateway: gateway.clone(),
        name: listener.name.clone(),
        address,
        fault: fault(config, (gateway, listener, address), failed, tls),
    };
    Report { version: Some(config.version), listeners: listeners.map(report).collect() }
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
    if port.gateway != *gateway {
        let owner = &port.gateway;
        return Some(format!("{owner} has {bind} already: give one of them another address or port"));
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
