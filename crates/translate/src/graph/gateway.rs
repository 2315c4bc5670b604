//! Gateways of our classes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use isthmus_api::parameters::GatewayParametersSpec;
use isthmus_api::shared::{GATEWAY_GROUP, ListenerView, SecretRef};
use isthmus_api::{Gateway, Kind, NamespacedName, Objects, Unreadable};
use isthmus_routing::{CertificateKey, GatewayKey};

use super::bundle::Bundles;
use super::certificate::{CertificateFault, Certificates};
use super::client_validation::Frontend;
use super::gateway_class::GatewayClassNode;
use super::listener::{self, ListenerNode};
use super::parameters::{self, ParametersFault, ParametersRef};
use super::reference_grant::From;
use super::{conflict, is_nameable};
use crate::{Address, Edition, Infrastructure, Listen, Options, RequestedAddress};

/// A Gateway whose class is ours.
#[derive(Debug)]
pub(crate) struct GatewayNode {
    pub(crate) key: GatewayKey,
    pub(crate) generation: i64,
    /// Why it is not accepted, besides its listeners.
    pub(crate) fault: Option<GatewayFault>,
    /// What it was given; empty: nothing yet.
    pub(crate) addresses: Vec<Address>,
    /// Where it is served.
    pub(crate) listen: Listen,
    /// What there is to say about its addresses.
    pub(crate) address_notes: Vec<String>,
    /// Addresses that it asks for and was not given. What it was given is served all the same.
    pub(crate) unusable: Vec<String>,
    /// Its own in the order of the object, then those of its ListenerSets in the order of their precedence.
    pub(crate) listeners: Vec<ListenerNode>,
    /// What clients of its listeners have to show.
    pub(crate) frontend: Frontend,
    /// What it shows to backends, or what it showed before if its content cannot be read now.
    pub(crate) client_certificate: Option<CertificateKey>,
    /// Why there is none, or none that is new.
    pub(crate) client_certificate_fault: Option<CertificateFault>,
    /// What it needs to run, but for the ports, which follow from the listeners.
    pub(crate) infrastructure: Infrastructure,
}

/// Why a Gateway is not accepted. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GatewayFault {
    #[error("its GatewayClass `{0}` is not accepted; correct the GatewayClass first")]
    Class(String),
    #[error("spec.infrastructure.parametersRef {0}")]
    Parameters(ParametersFault),
    #[error("spec.addresses[{at}] is of type `{kind}`, which is not supported; use IPAddress")]
    Address { at: usize, kind: String },
    #[error("{0}; until then nothing of the Gateway is served")]
    Unreadable(Unreadable),
}

impl GatewayFault {
    /// The reason of `Accepted=False`.
    ///
    /// > This reason is used with the "Programmed" and "Accepted" conditions when
    /// > the Gateway is syntactically or semantically invalid. For example, this
    /// > could include unspecified TLS configuration, or some unrecognized or
    /// > invalid values in the TLS configuration.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Class(_) | Self::Parameters(_) => "InvalidParameters",
            Self::Address { .. } => "UnsupportedAddress",
            Self::Unreadable(_) => "Invalid",
        }
    }

    /// Whether it is not known what the Gateway's parameters are.
    pub(crate) fn is_of_parameters(&self) -> bool {
        matches!(self, Self::Class(_) | Self::Parameters(_))
    }
}

impl GatewayNode {
    /// Those that are not of a ListenerSet.
    pub(crate) fn own_listeners(&self) -> &[ListenerNode] {
        &self.listeners[..self.listeners.partition_point(|listener| listener.listener_set.is_none())]
    }

    /// Whether no more than its class could be read.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self.fault, Some(GatewayFault::Unreadable(_)))
    }

    /// What a proxy that serves it proves.
    pub(crate) fn edition(&self) -> Edition {
        Edition { uid: self.infrastructure.uid.clone(), generation: self.generation }
    }

    /// Whether its servable listeners are served.
    ///
    /// Parameters that are missing are no reason to close what runs: proxies that are there were provided before, and go on with what they
    /// hold of who the client is. Nobody provides new ones until the parameters are found.
    pub(crate) fn is_servable(&self) -> bool {
        match self.listen {
            Listen::Everywhere => self.fault.as_ref().is_none_or(GatewayFault::is_of_parameters),
            Listen::Assigned => self.fault.is_none() && !self.addresses.is_empty(),
        }
    }

    /// Addresses that the data plane listens on; none: wherever it is.
    pub(crate) fn listen(&self) -> Vec<IpAddr> {
        let ip = |address: &Address| match address {
            Address::Ip(ip) => Some(*ip),
            Address::Hostname(_) => None,
        };
        match self.listen {
            Listen::Assigned => self.addresses.iter().filter_map(ip).collect(),
            Listen::Everywhere => Vec::new(),
        }
    }
}

/// Judges every Gateway whose class is ours.
pub(super) fn ours(
    objects: &Objects,
    classes: &BTreeMap<&str, GatewayClassNode<'_>>,
    options: &Options,
    certificates: &mut Certificates<'_, '_>,
    bundles: &mut Bundles<'_, '_>,
) -> BTreeMap<NamespacedName, GatewayNode> {
    let nameable = objects.gateways.iter().filter(|(name, _)| is_nameable(name));
    let ours =
        nameable.filter_map(|(name, gateway)| Some((name, gateway, classes.get(gateway.spec.gateway_class_name.as_str())?)));
    ours.map(|(name, gateway, class)| {
        (name.clone(), judge(&Source { name, gateway, class, objects, options }, certificates, bundles))
    })
    .collect()
}

/// What a Gateway is judged from.
struct Source<'s> {
    name: &'s NamespacedName,
    gateway: &'s Gateway,
    class: &'s GatewayClassNode<'s>,
    objects: &'s Objects,
    options: &'s Options,
}

fn judge(source: &Source<'_>, certificates: &mut Certificates<'_, '_>, bundles: &mut Bundles<'_, '_>) -> GatewayNode {
    let Source { name, gateway, options, .. } = source;
    let key = GatewayKey { namespace: name.namespace.clone(), name: name.name.clone() };
    let given = options.addresses.get(&key);
    let mut addresses = Vec::new();
    for address in given.into_iter().flatten() {
        if !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
    let owner = From { group: GATEWAY_GROUP, kind: "Gateway", namespace: &name.namespace };
    let frontend = Frontend::resolve(gateway.spec.tls.as_ref(), owner, bundles);
    let mut listeners: Vec<_> = gateway
        .spec
        .listeners
        .iter()
        .map(|listener| {
            let view = ListenerView::from(listener);
            let mut node = listener::judge(&view, owner, &frontend, certificates);
            node.unavailable = options.unavailable.get(&(key.clone(), node.name.clone())).cloned();
            node
        })
        .collect();
    conflict::compare(&mut listeners);
    let (client_certificate, client_certificate_fault) = client_certificate(gateway, owner, certificates);
    let unusable = if given.is_none() { Vec::new() } else { unusable(gateway, &addresses) };
    let unreadable = source.objects.unreadable(Kind::Gateway, name).cloned().map(GatewayFault::Unreadable);
    let (parameters, fault) = match parameters(source) {
        Ok(parameters) => (parameters, unsupported_address(gateway)),
        Err(fault) => (GatewayParametersSpec::default(), Some(fault)),
    };
    GatewayNode {
        generation: gateway.metadata.generation.unwrap_or_default(),
        fault: unreadable.or(fault),
        address_notes: options.address_notes.get(&key).cloned().unwrap_or_default(),
        key,
        addresses,
        listen: options.listen,
        unusable,
        listeners,
        frontend,
        client_certificate,
        client_certificate_fault,
        infrastructure: infrastructure(gateway, parameters),
    }
}

/// The installation's parameters, overlaid by the class's and then by the Gateway's.
fn parameters(source: &Source<'_>) -> Result<GatewayParametersSpec, GatewayFault> {
    let Source { name, gateway, class, objects, options } = source;
    let of_class = class.parameters.as_ref().map_err(|_| GatewayFault::Class(gateway.spec.gateway_class_name.clone()))?;
    let reference = gateway.spec.infrastructure.as_ref().and_then(|infrastructure| infrastructure.parameters_ref.as_ref());
    let of_gateway = reference.map(|reference| {
        let namespace = Some(name.namespace.as_str());
        let reference = ParametersRef { group: &reference.group, kind: &reference.kind, namespace, name: &reference.name };
        parameters::resolve(objects, &reference).map_err(GatewayFault::Parameters)
    });
    // A namespace cannot give itself what is the cluster's.
    let own = of_gateway.transpose()?.map(GatewayParametersSpec::of_namespace);
    let over = [*of_class, own.as_ref()].into_iter().flatten();
    Ok(over.fold(options.parameters.clone(), |under, over| under.overlay(over)))
}

fn unsupported_address(gateway: &Gateway) -> Option<GatewayFault> {
    gateway.spec.addresses.iter().flatten().enumerate().find_map(|(at, address)| match address.r#type.as_deref() {
        None | Some("IPAddress") => None,
        Some(kind) => Some(GatewayFault::Address { at, kind: kind.to_owned() }),
    })
}

fn infrastructure(gateway: &Gateway, parameters: GatewayParametersSpec) -> Infrastructure {
    let wanted = gateway.spec.infrastructure.as_ref();
    let requested = gateway.spec.addresses.iter().flatten().map(|address| RequestedAddress {
        kind: address.r#type.clone().unwrap_or_else(|| "IPAddress".to_owned()),
        value: address.value.clone().filter(|value| !value.is_empty()),
    });
    Infrastructure {
        uid: gateway.metadata.uid.clone().unwrap_or_default(),
        created: gateway.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        labels: wanted.and_then(|wanted| wanted.labels.clone()).unwrap_or_default(),
        annotations: wanted.and_then(|wanted| wanted.annotations.clone()).unwrap_or_default(),
        ports: BTreeSet::new(),
        parameters,
        requested: requested.collect(),
    }
}

/// > If a value is set in the spec and the
/// > requested address is invalid or unavailable, the implementation MUST
/// > indicate this in an associated entry in GatewayStatus.Conditions.
///
/// An address without a value asks for any one.
fn unusable(gateway: &Gateway, given: &[Address]) -> Vec<String> {
    let wanted =
        gateway.spec.addresses.iter().flatten().filter_map(|address| address.value.as_deref()).filter(|value| !value.is_empty());
    wanted.filter(|value| !value.parse().is_ok_and(|ip| given.contains(&Address::Ip(ip)))).map(str::to_owned).collect()
}

/// > Note that this contains only details for the Gateway as a TLS client,
/// > and does _not_ imply behavior about how to choose which backend should
/// > get a TLS connection. That is determined by the presence of a BackendTLSPolicy.
fn client_certificate(
    gateway: &Gateway,
    owner: From<'_>,
    certificates: &mut Certificates<'_, '_>,
) -> (Option<CertificateKey>, Option<CertificateFault>) {
    let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) else { return (None, None) };
    let reference = SecretRef {
        group: reference.group.clone().unwrap_or_default(),
        kind: reference.kind.clone().unwrap_or_else(|| "Secret".to_owned()),
        name: reference.name.clone(),
        namespace: reference.namespace.clone(),
    };
    match certificates.resolve(owner, &reference) {
        Ok(key) => (Some(key), None),
        Err(fault) => (fault.kept(), Some(fault)),
    }
}
