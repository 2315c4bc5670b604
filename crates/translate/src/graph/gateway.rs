//! Gateways of our classes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_api::generated::gateways::GatewayTls;
use isthmus_api::shared::ListenerView;
use isthmus_api::{Gateway, NamespacedName, Objects};
use isthmus_routing::GatewayKey;

use super::certificate::Certificates;
use super::gateway_class::GatewayClassNode;
use super::listener::{self, ListenerNode};
use super::{conflict, is_nameable, of_group};
use crate::Options;

/// A Gateway whose class is ours.
#[derive(Debug)]
pub(crate) struct GatewayNode {
    pub(crate) key: GatewayKey,
    pub(crate) generation: i64,
    /// Why it is not accepted, besides its listeners.
    pub(crate) fault: Option<GatewayFault>,
    /// What it was given; empty: nothing yet.
    pub(crate) addresses: Vec<IpAddr>,
    /// Addresses that it asks for and was not given. What it was given is served all the same.
    pub(crate) unusable: Vec<String>,
    /// In the order of the object.
    pub(crate) listeners: Vec<ListenerNode>,
}

/// Why a Gateway is not accepted. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GatewayFault {
    #[error("its GatewayClass `{0}` is not accepted; correct the GatewayClass first")]
    Class(String),
    #[error(
        "spec.infrastructure.parametersRef names {kind} `{name}` {group}, but no kind of parameters is supported; remove it",
        group = of_group(.group)
    )]
    Parameters { group: String, kind: String, name: String },
    #[error("spec.addresses[{at}] is of type `{kind}`, which is not supported; use IPAddress")]
    Address { at: usize, kind: String },
}

impl GatewayFault {
    /// The reason of `Accepted=False`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Class(_) | Self::Parameters { .. } => "InvalidParameters",
            Self::Address { .. } => "UnsupportedAddress",
        }
    }
}

impl GatewayNode {
    /// Whether its servable listeners are served.
    pub(crate) fn is_servable(&self) -> bool {
        self.fault.is_none() && !self.addresses.is_empty()
    }
}

/// Judges every Gateway whose class is ours.
pub(super) fn ours(
    objects: &Objects,
    classes: &BTreeMap<&str, GatewayClassNode>,
    options: &Options,
    certificates: &mut Certificates<'_, '_>,
) -> BTreeMap<NamespacedName, GatewayNode> {
    let nameable = objects.gateways.iter().filter(|(name, _)| is_nameable(name));
    let ours =
        nameable.filter_map(|(name, gateway)| Some((name, gateway, classes.get(gateway.spec.gateway_class_name.as_str())?)));
    ours.map(|(name, gateway, class)| (name.clone(), judge(name, gateway, class, options, certificates))).collect()
}

fn judge(
    name: &NamespacedName,
    gateway: &Gateway,
    class: &GatewayClassNode,
    options: &Options,
    certificates: &mut Certificates<'_, '_>,
) -> GatewayNode {
    let key = GatewayKey { namespace: name.namespace.clone(), name: name.name.clone() };
    let mut addresses = Vec::new();
    for address in options.addresses.get(&key).into_iter().flatten() {
        if !addresses.contains(address) {
            addresses.push(*address);
        }
    }
    let mut listeners: Vec<_> = gateway
        .spec
        .listeners
        .iter()
        .map(|listener| {
            let view = ListenerView::from(listener);
            let mut node =
                listener::judge(&view, &name.namespace, validates_clients(gateway.spec.tls.as_ref(), view.port), certificates);
            node.unavailable = options.unavailable.get(&(key.clone(), node.name.clone())).cloned();
            node
        })
        .collect();
    conflict::compare(&mut listeners);
    let unusable = if addresses.is_empty() { Vec::new() } else { unusable(gateway, &addresses) };
    GatewayNode {
        generation: gateway.metadata.generation.unwrap_or_default(),
        fault: fault(gateway, class),
        key,
        addresses,
        unusable,
        listeners,
    }
}

fn fault(gateway: &Gateway, class: &GatewayClassNode) -> Option<GatewayFault> {
    if class.fault.is_some() {
        return Some(GatewayFault::Class(gateway.spec.gateway_class_name.clone()));
    }
    if let Some(reference) =
        gateway.spec.infrastructure.as_ref().and_then(|infrastructure| infrastructure.parameters_ref.as_ref())
    {
        let (group, kind, name) = (reference.group.clone(), reference.kind.clone(), reference.name.clone());
        return Some(GatewayFault::Parameters { group, kind, name });
    }
    gateway.spec.addresses.iter().flatten().enumerate().find_map(|(at, address)| match address.r#type.as_deref() {
        None | Some("IPAddress") => None,
        Some(kind) => Some(GatewayFault::Address { at, kind: kind.to_owned() }),
    })
}

/// > If a value is set in the spec and the
/// > requested address is invalid or unavailable, the implementation MUST
/// > indicate this in an associated entry in GatewayStatus.Conditions.
///
/// An address without a value asks for any one.
fn unusable(gateway: &Gateway, given: &[IpAddr]) -> Vec<String> {
    let wanted =
        gateway.spec.addresses.iter().flatten().filter_map(|address| address.value.as_deref()).filter(|value| !value.is_empty());
    wanted.filter(|value| !value.parse().is_ok_and(|ip| given.contains(&ip))).map(str::to_owned).collect()
}

/// Whether clients of HTTPS listeners on this port have to show a certificate.
///
/// > Per port configuration is optional. Once set this configuration overrides
/// > the default configuration for all Listeners handling HTTPS traffic
/// > that match this port.
fn validates_clients(tls: Option<&GatewayTls>, port: i32) -> bool {
    let Some(frontend) = tls.and_then(|tls| tls.frontend.as_ref()) else { return false };
    match frontend.per_port.iter().flatten().find(|own| own.port == port) {
        Some(own) => own.tls.validation.is_some(),
        None => frontend.default.validation.is_some(),
    }
}
