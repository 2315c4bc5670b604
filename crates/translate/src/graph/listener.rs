//! Listeners, each judged by itself; [`super::conflict`] compares them.

use isthmus_api::NamespacedName;
use isthmus_api::shared::{FromNamespaces, GATEWAY_GROUP, InvalidSelector, ListenerView, TlsMode};
use isthmus_routing::{Attachment, CertificateKey, Hostname, Protocol, RouteKind};

use super::certificate::{CertificateFault, Certificates};
use super::conflict::Conflict;
use super::of_group;
use super::reference_grant::From;

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
    /// Accepted routes, sorted by key.
    pub(crate) attached: Vec<Attachment>,
}

/// Why a listener is not accepted. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListenerFault {
    #[error("protocol `{0}` is not supported; use HTTP or HTTPS")]
    Protocol(String),
    #[error("port {0} is not a port; use one from 1 to 65535")]
    Port(i32),
    #[error("{0}")]
    Hostname(#[from] isthmus_routing::hostname::InvalidHostname),
    #[error("tls.mode Passthrough is not possible with protocol HTTPS; use Terminate")]
    Passthrough,
    #[error(
        "client certificates (spec.tls.frontend) cannot be validated yet, and the listener is not opened without; remove it for this port"
    )]
    ClientValidation,
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
    #[error("protocol HTTPS needs a certificate; add tls.certificateRefs")]
    NoCertificate,
    #[error("{kind} {group} is not a kind of route that this listener supports; remove it from allowedRoutes.kinds", group = of_group(.group))]
    RouteKind { group: String, kind: String },
}

impl ListenerRefFault {
    /// The reason of `ResolvedRefs=False`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Certificate(fault) => fault.reason(),
            Self::NoCertificate => "InvalidCertificateRef",
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

    /// Whether something can be served on it, whatever proxies hold.
    pub(crate) fn is_servable(&self) -> bool {
        self.is_valid() && (self.protocol == Some(Protocol::Http) || !self.certificates.is_empty())
    }

    /// Whether a snapshot has it: a proxy may hold a certificate of old.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_servable() || (self.is_valid() && !self.kept.is_empty())
    }
}

/// Judges one listener of `owner`.
pub(super) fn judge(
    view: &ListenerView<'_>,
    owner: From<'_>,
    validates_clients: bool,
    certificates: &mut Certificates<'_, '_>,
) -> ListenerNode {
    let protocol = match view.protocol {
        "HTTP" => Some(Protocol::Http),
        "HTTPS" => Some(Protocol::Https),
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
        attached: Vec::new(),
    };
    if protocol == Some(Protocol::Https) {
        resolve_certificates(&mut node, view, owner, certificates);
    }
    resolve_kinds(&mut node, view);
    match judge_values(view, protocol, validates_clients) {
        Ok(hostname) => node.hostname = hostname,
        Err(fault) => node.fault = Some(fault),
    }
    node
}

/// > If an
/// > implementation does not support a specified protocol, it MUST set the
/// > "Accepted" condition to False for the affected Listener with a reason of
/// > "UnsupportedProtocol".
fn judge_values(
    view: &ListenerView<'_>,
    protocol: Option<Protocol>,
    validates_clients: bool,
) -> Result<Option<Hostname>, ListenerFault> {
    let Some(protocol) = protocol else { return Err(ListenerFault::Protocol(view.protocol.to_owned())) };
    if !u16::try_from(view.port).is_ok_and(|port| port > 0) {
        return Err(ListenerFault::Port(view.port));
    }
    let https = protocol == Protocol::Https;
    if https && view.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough) {
        return Err(ListenerFault::Passthrough);
    }
    if https && validates_clients {
        return Err(ListenerFault::ClientValidation);
    }
    match &view.allowed_namespaces {
        FromNamespaces::Selector(None) => return Err(ListenerFault::NoSelector),
        FromNamespaces::Selector(Some(Err(fault))) => return Err(fault.clone().into()),
        _ => {}
    }
    Ok(view.hostname.map(str::parse).transpose()?)
}

fn resolve_certificates(
    node: &mut ListenerNode,
    view: &ListenerView<'_>,
    owner: From<'_>,
    certificates: &mut Certificates<'_, '_>,
) {
    let references = view.tls.as_ref().map_or(&[][..], |tls| &tls.certificate_refs);
    if references.is_empty() {
        node.unresolved.push(ListenerRefFault::NoCertificate);
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

/// > If kinds are specified in Spec that are not supported, they MUST NOT
/// > appear in this list and an implementation MUST set the "ResolvedRefs"
/// > condition to "False" with the "InvalidRouteKinds" reason. If both valid
/// > and invalid Route kinds are specified, the implementation MUST
/// > reference the valid Route kinds that have been specified.
fn resolve_kinds(node: &mut ListenerNode, view: &ListenerView<'_>) {
    let of_protocol: &[RouteKind] = if node.protocol.is_some() { &[RouteKind::Http, RouteKind::Grpc] } else { &[] };
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
