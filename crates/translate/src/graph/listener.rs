//! Listeners, each judged by itself; [`super::conflict`] compares them.

use isthmus_api::NamespacedName;
use isthmus_api::shared::{FromNamespaces, GATEWAY_GROUP, InvalidSelector, ListenerView, TlsMode};
use isthmus_routing::{Attachment, CertificateKey, Hostname, Protocol, RouteKind, TlsSettings};

use super::bundle::BundleFault;
use super::certificate::{CertificateFault, Certificates};
use super::client_validation::{Frontend, Validation};
use super::conflict::Conflict;
use super::reference_grant::From;
use super::tls_options::TlsOptionFault;
use super::{of_group, tls_options};

/// A listener of a Gateway that is ours, or of a ListenerSet of it.
#[derive(Debug)]
pub(crate) struct ListenerNode {
    /// Unique in the object that has it.
    pub(crate) name: String,
    /// The ListenerSet that has it; none: the Gateway.
    pub(crate) listener_set: Option<NamespacedName>,
    /// The port of the object, in range or not.
    pub(crate) port: i32,
    /// None: a protocol that is not supported.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) hostname: Option<Hostname>,
    /// Kinds that may attach, in the order of the object.
    pub(crate) kinds: Vec<RouteKind>,
    pub(crate) namespaces: FromNamespaces,
    /// Why it is not accepted.
    pub(crate) fault: Option<ListenerFault>,
    /// Which others it conflicts with.
    pub(crate) conflict: Option<Conflict>,
    /// Why the data plane could not open it. It stays in the snapshot all the same, or it would never be tried again.
    pub(crate) unavailable: Option<String>,
    /// Listeners of the same port whose hostnames overlap, as a message names them.
    pub(crate) overlaps: Vec<String>,
    /// What it refers to in vain.
    pub(crate) unresolved: Vec<ListenerRefFault>,
    /// Certificates that can be served, in the order of the object.
    pub(crate) certificates: Vec<CertificateKey>,
    /// Certificates whose content cannot be read now: a proxy that holds one goes on with it.
    pub(crate) kept: Vec<CertificateKey>,
    /// Whether TLS is ended by the backend and not here.
    pub(crate) passthrough: bool,
    /// What clients have to show, where TLS is ended.
    pub(crate) client_validation: Option<Validation>,
    /// Versions and ciphers, where TLS is ended.
    pub(crate) tls: TlsSettings,
    /// Accepted routes, sorted by key.
    pub(crate) attached: Vec<Attachment>,
}

/// Why a listener is not accepted. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListenerFault {
    #[error("protocol `{0}` is not supported; use HTTP, HTTPS, TLS, TCP or UDP")]
    Protocol(String),
    #[error("port {0} is not a port; use one from 1 to 65535")]
    Port(i32),
    #[error("{0}")]
    Hostname(#[from] isthmus_routing::hostname::InvalidHostname),
    #[error("tls.mode Passthrough is not possible with protocol HTTPS; use Terminate")]
    Passthrough,
    #[error("tls.options cannot be obeyed with tls.mode Passthrough, where the backend ends TLS; remove those of isthmus.dev")]
    PassthroughOptions,
    #[error("{0}")]
    TlsOption(#[from] TlsOptionFault),
    #[error("allowedRoutes.namespaces.from is Selector, but there is no selector; add one or use All or Same")]
    NoSelector,
    #[error("allowedRoutes.namespaces.selector: {0}")]
    Selector(#[from] InvalidSelector),
    #[error("another listener here has the same name; rename one")]
    Name,
}

impl ListenerFault {
    /// The reason of `Accepted=False`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Protocol(_) => "UnsupportedProtocol",
            _ => "UnsupportedValue",
        }
    }
}

/// What a listener refers to in vain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListenerRefFault {
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
    #[error("client certificates cannot be validated by a caCertificateRef of the Gateway's spec.tls.frontend: {0}")]
    Authority(BundleFault),
    /// What the Gateway refers to is not told to the owners of its ListenerSets.
    #[error(
        "client certificates cannot be validated by what the Gateway refers to (spec.tls.frontend); its owner has to correct it"
    )]
    AuthorityOfGateway(BundleFault),
    #[error(
        "protocol {protocol} needs a certificate{unless}; add tls.certificateRefs",
        protocol = .0.as_str(),
        unless = if *.0 == Protocol::Tls { " unless tls.mode is Passthrough" } else { "" }
    )]
    NoCertificate(Protocol),
    #[error("{kind} {group} is not a kind of route that this listener supports; remove it from allowedRoutes.kinds", group = of_group(.group))]
    RouteKind { group: String, kind: String },
}

impl ListenerRefFault {
    /// The reason of `ResolvedRefs=False`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Certificate(fault) => fault.reason(),
            Self::Authority(fault) | Self::AuthorityOfGateway(fault) => match fault {
                BundleFault::Kind { .. } => "InvalidCACertificateKind",
                BundleFault::NotPermitted { .. } => "RefNotPermitted",
                BundleFault::NotFound(_) | BundleFault::Unread(_) | BundleFault::Content { .. } => "InvalidCACertificateRef",
            },
            Self::NoCertificate(_) => "InvalidCertificateRef",
            Self::RouteKind { .. } => "InvalidRouteKinds",
        }
    }
}

impl ListenerNode {
    /// What it is called in the model, where the listeners of the Gateway and of its ListenerSets are one list:
    ///
    /// > Name is not required to be unique across a Gateway and ListenerSets.
    ///
    /// No listener's own name has a `/`.
    pub(crate) fn model_name(&self) -> String {
        match &self.listener_set {
            None => self.name.clone(),
            Some(set) => format!("{set}/{}", self.name),
        }
    }

    /// Whether the object is right, whatever the data plane says of its port.
    pub(crate) fn is_valid(&self) -> bool {
        self.fault.is_none() && self.conflict.is_none()
    }

    /// Whether TLS is ended here, which takes a certificate.
    fn ends_tls(&self) -> bool {
        self.protocol.is_some_and(Protocol::is_tls) && !self.passthrough
    }

    /// Whether something can be served on it, whatever proxies hold.
    pub(crate) fn is_servable(&self) -> bool {
        self.is_valid() && (!self.ends_tls() || !self.certificates.is_empty()) && self.can_validate()
    }

    /// Whether clients' certificates can be validated, or need not be.
    pub(crate) fn can_validate(&self) -> bool {
        self.client_validation.as_ref().is_none_or(|validation| validation.authorities.is_readable)
    }

    /// Whether a snapshot has it: a proxy may hold a certificate of old, and authorities of old. Never without the authorities.
    pub(crate) fn is_sent(&self) -> bool {
        let has_certificate = !self.certificates.is_empty() || !self.kept.is_empty();
        let validates = self.client_validation.as_ref().is_none_or(|validation| !validation.authorities.bundles.is_empty());
        self.is_valid() && (!self.ends_tls() || has_certificate) && validates
    }
}

/// Judges one listener of `owner`.
pub(super) fn judge(
    view: &ListenerView<'_>,
    owner: From<'_>,
    frontend: &Frontend,
    certificates: &mut Certificates<'_, '_>,
) -> ListenerNode {
    let protocol = match view.protocol {
        "HTTP" => Some(Protocol::Http),
        "HTTPS" => Some(Protocol::Https),
        "TLS" => Some(Protocol::Tls),
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    };
    let mut node = ListenerNode {
        name: view.name.to_owned(),
        listener_set: None,
        port: view.port,
        protocol,
        hostname: None,
        kinds: Vec::new(),
        namespaces: view.allowed_namespaces.clone(),
        fault: None,
        conflict: None,
        unavailable: None,
        overlaps: Vec::new(),
        unresolved: Vec::new(),
        certificates: Vec::new(),
        kept: Vec::new(),
        passthrough: protocol == Some(Protocol::Tls) && has_mode_passthrough(view),
        client_validation: None,
        tls: TlsSettings::default(),
        attached: Vec::new(),
    };
    if let Some(protocol) = protocol.filter(|_| node.ends_tls()) {
        resolve_certificates(&mut node, protocol, view, owner, certificates);
        node.client_validation = frontend.of_port(view.port).cloned();
        let authorities = node.client_validation.iter().flat_map(|validation| validation.authorities.faults.iter().cloned());
        let own = owner.kind == "Gateway";
        let told = if own { ListenerRefFault::Authority } else { ListenerRefFault::AuthorityOfGateway };
        node.unresolved.extend(authorities.map(told));
    }
    resolve_kinds(&mut node, view);
    match judge_values(view, protocol) {
        Ok((hostname, tls)) => (node.hostname, node.tls) = (hostname, tls),
        Err(fault) => node.fault = Some(fault),
    }
    node
}

/// > If an
/// > implementation does not support a specified protocol, it MUST set the
/// > "Accepted" condition to False for the affected Listener with a reason of
/// > "UnsupportedProtocol".
fn judge_values(view: &ListenerView<'_>, protocol: Option<Protocol>) -> Result<(Option<Hostname>, TlsSettings), ListenerFault> {
    let Some(protocol) = protocol else { return Err(ListenerFault::Protocol(view.protocol.to_owned())) };
    if !u16::try_from(view.port).is_ok_and(|port| port > 0) {
        return Err(ListenerFault::Port(view.port));
    }
    let passthrough = protocol.is_tls() && has_mode_passthrough(view);
    if passthrough && protocol == Protocol::Https {
        return Err(ListenerFault::Passthrough);
    }
    let options = view.tls.as_ref().filter(|_| protocol.is_tls()).and_then(|tls| tls.options);
    let tls = tls_options::read(options)?;
    if passthrough && !tls.is_default() {
        return Err(ListenerFault::PassthroughOptions);
    }
    match &view.allowed_namespaces {
        FromNamespaces::Selector(None) => return Err(ListenerFault::NoSelector),
        FromNamespaces::Selector(Some(Err(fault))) => return Err(fault.clone().into()),
        _ => {}
    }
    // > When unspecified, all hostnames are matched. This
    // > field is ignored for protocols that don't require hostname based
    // > matching.
    let hostname = view.hostname.filter(|_| protocol.is_http() || protocol.is_tls());
    Ok((hostname.map(str::parse).transpose()?, tls))
}

fn has_mode_passthrough(view: &ListenerView<'_>) -> bool {
    view.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough)
}

fn resolve_certificates(
    node: &mut ListenerNode,
    protocol: Protocol,
    view: &ListenerView<'_>,
    owner: From<'_>,
    certificates: &mut Certificates<'_, '_>,
) {
    let references = view.tls.as_ref().map_or(&[][..], |tls| &tls.certificate_refs);
    if references.is_empty() {
        node.unresolved.push(ListenerRefFault::NoCertificate(protocol));
    }
    for reference in references {
        match certificates.resolve(owner, reference) {
            Ok(key) if node.certificates.contains(&key) => {}
            Ok(key) => node.certificates.push(key),
            Err(fault) => {
                if let Some(key) = fault.kept().filter(|key| !node.kept.contains(key)) {
                    node.kept.push(key);
                }
                node.unresolved.push(fault.into());
            }
        }
    }
}

/// Kinds of route that a protocol can carry.
pub(crate) fn kinds(protocol: Protocol) -> &'static [RouteKind] {
    match protocol {
        Protocol::Http | Protocol::Https => &[RouteKind::Http, RouteKind::Grpc],
        Protocol::Tls => &[RouteKind::Tls],
        Protocol::Tcp => &[RouteKind::Tcp],
        Protocol::Udp => &[RouteKind::Udp],
    }
}

/// > If kinds are specified in Spec that are not supported, they MUST NOT
/// > appear in this list and an implementation MUST set the "ResolvedRefs"
/// > condition to "False" with the "InvalidRouteKinds" reason. If both valid
/// > and invalid Route kinds are specified, the implementation MUST
/// > reference the valid Route kinds that have been specified.
fn resolve_kinds(node: &mut ListenerNode, view: &ListenerView<'_>) {
    let of_protocol = node.protocol.map_or(&[][..], kinds);
    if view.allowed_kinds.is_empty() {
        node.kinds = of_protocol.to_vec();
    }
    for allowed in &view.allowed_kinds {
        match of_protocol.iter().find(|kind| allowed.group == GATEWAY_GROUP && allowed.kind == kind.as_str()) {
            Some(kind) if node.kinds.contains(kind) => {}
            Some(kind) => node.kinds.push(*kind),
            None => node
                .unresolved
                .push(ListenerRefFault::RouteKind { group: allowed.group.to_owned(), kind: allowed.kind.to_owned() }),
        }
    }
}
