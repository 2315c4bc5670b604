//! Listeners, each judged by itself; [`super::conflict`] compares them.

use isthmus_api::shared::{FromNamespaces, GATEWAY_GROUP, InvalidSelector, ListenerView, TlsMode};
use isthmus_routing::{Attachment, CertificateKey, Hostname, Protocol, RouteKind};

use super::certificate::{CertificateFault, Certificates};
use super::conflict::Conflict;
use super::of_group;

/// A listener of a Gateway that is ours.
#[derive(Debug)]
pub(crate) struct ListenerNode {
    pub(crate) name: String,
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
    /// Listeners of the same port whose hostnames overlap.
    pub(crate) overlaps: Vec<String>,
    /// What it refers to in vain.
    pub(crate) unresolved: Vec<ListenerRefFault>,
    /// Certificates that can be served, in the order of the object.
    pub(crate) certificates: Vec<CertificateKey>,
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
    #[error("another listener of this Gateway has the same name; rename one")]
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
    /// Whether the object is right, whatever the data plane says of its port.
    pub(crate) fn is_valid(&self) -> bool {
        self.fault.is_none() && self.conflict.is_none()
    }

    /// Whether something can be served on it: what a snapshot has.
    pub(crate) fn is_servable(&self) -> bool {
        self.is_valid() && (self.protocol == Some(Protocol::Http) || !self.certificates.is_empty())
    }
}

/// Judges one listener.
pub(super) fn judge(
    view: &ListenerView<'_>,
    namespace: &str,
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
        attached: Vec::new(),
    };
    if protocol == Some(Protocol::Https) {
        resolve_certificates(&mut node, view, namespace, certificates);
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
    namespace: &str,
    certificates: &mut Certificates<'_, '_>,
) {
    let references = view.tls.as_ref().map_or(&[][..], |tls| &tls.certificate_refs);
    if references.is_empty() {
        node.unresolved.push(ListenerRefFault::NoCertificate);
    }
    for reference in references {
        match certificates.resolve(namespace, reference) {
            Ok(key) if node.certificates.contains(&key) => {}
            Ok(key) => node.certificates.push(key),
            Err(fault) => node.unresolved.push(fault.into()),
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
