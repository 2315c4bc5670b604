//! BackendTLSPolicies: which one decides for a Service's port, and what it asks of the backend.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::backendtlspolicies::{
    BackendTlsPolicyTargetRefs, BackendTlsPolicyValidation, BackendTlsPolicyValidationSubjectAltNames,
    BackendTlsPolicyValidationSubjectAltNamesType,
};
use isthmus_api::shared::GATEWAY_GROUP;
use isthmus_api::{BackendTlsPolicy, Kind, NamespacedName, Objects, Service, Unreadable};
use isthmus_routing::{
    BackendKey, BackendTls, BackendValidation, Hostname, Roots, Route, RouteKind, ServiceParent, SubjectAltName,
};

use super::backend_ref::BackendFault;
use super::bundle::{Authorities, BundleRef, Bundles};
use super::endpoint::Services;
use super::gateway::GatewayNode;
use super::pod::Pods;
use super::reference_grant::From;
use super::route::RouteNode;
use super::service::{key, tcp_ports};
use super::{is_nameable, of_group};

/// Every policy, by what it targets.
#[derive(Debug)]
pub(crate) struct Policies<'a> {
    objects: &'a Objects,
    policies: &'a BTreeMap<NamespacedName, Arc<BackendTlsPolicy>>,
    /// By namespace, Service and port name (none: the whole Service), the policy that decides first.
    ///
    /// > * The older policy by creation timestamp takes precedence.
    ///
    /// > * The policy appearing first in alphabetical order by {namespace}/{name}.
    by_target: BTreeMap<(&'a str, &'a str, Option<&'a str>), Vec<&'a NamespacedName>>,
    /// Namespaces and names of the Services that are targeted.
    services: BTreeSet<(&'a str, &'a str)>,
}

/// A policy whose targets something of ours uses.
#[derive(Debug)]
pub(crate) struct PolicyNode {
    pub(crate) generation: i64,
    /// Why it cannot be carried out, besides its authorities.
    pub(crate) fault: Option<PolicyFault>,
    /// Who may have signed a backend's certificate; empty where those of the system may.
    pub(crate) authorities: Authorities,
    /// What is asked of backends for which it decides.
    pub(crate) tls: BackendTls,
    /// Targets that are none, whoever uses the others.
    pub(crate) strange: Vec<String>,
    /// Ports for which it decides and behind which are pods that refuse it, because they take only the mesh's own TLS.
    pub(crate) refused: Vec<RefusedPort>,
    /// Where it is of any matter.
    pub(crate) ancestors: BTreeMap<Ancestor, AncestorNode>,
}

/// A port of a Service with pods that take only the mesh's own TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port {port} of Service {service} leads to port {at} of Pod {pod}{}", more(*.others))]
pub(crate) struct RefusedPort {
    service: NamespacedName,
    port: u16,
    /// The first of those pods, and which port of it.
    pod: NamespacedName,
    at: u16,
    /// How many more there are.
    others: usize,
}

fn more(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" and {others} more") }
}

/// What has a route to a target of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ancestor {
    Gateway(NamespacedName),
    /// For clients in the mesh. One that is a target itself is its own, because calls that no route takes go to its endpoints.
    Service(NamespacedName),
}

/// What a policy is for one ancestor.
#[derive(Debug, Default)]
pub(crate) struct AncestorNode {
    /// What is wrong with targets that routes of the ancestor refer to.
    pub(crate) faults: Vec<TargetFault>,
    /// Whether it decides for at least one target.
    pub(crate) decides: bool,
    /// Whether connections to a target begin here: not all of them are clients' own TLS.
    pub(crate) matters: bool,
}

/// Why a policy cannot be carried out. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyFault {
    #[error("validation.hostname: {0}")]
    Hostname(#[from] isthmus_routing::hostname::InvalidHostname),
    #[error("validation.hostname `{0}` has a wildcard, which no server name can have; name one host")]
    Wildcard(Hostname),
    #[error("validation.wellKnownCACertificates `{0}` is not known; use System, or caCertificateRefs")]
    WellKnown(String),
    #[error("validation has neither caCertificateRefs nor wellKnownCACertificates; add one of them")]
    NoAuthorities,
    #[error("validation has both caCertificateRefs and wellKnownCACertificates; keep one of them")]
    TwoAuthorities,
    #[error("validation.subjectAltNames[{at}] {why}")]
    SubjectAltName { at: usize, why: String },
    #[error("options: `{0}` is not an option that is known; remove it")]
    Option(String),
    #[error(transparent)]
    Unreadable(Unreadable),
}

/// Why a policy does not decide for a target. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetFault {
    #[error(
        "{target} is already the target of BackendTLSPolicy `{winner}`, which is older or comes first by name; remove one of the two"
    )]
    Conflicted { target: String, winner: String },
    #[error("Service {0} does not exist; create it or correct the name")]
    NoService(NamespacedName),
    #[error(
        "Service {service} has no TCP port named `{section}`; it has {has}; correct sectionName, until then the policy protects nothing there"
    )]
    NoSection { service: NamespacedName, section: String, has: String },
}

impl<'a> Policies<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        let policies = &objects.backend_tls_policies;
        let (mut by_target, mut services) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
        for (name, policy) in policies.iter().filter(|(name, _)| is_nameable(name)) {
            for target in policy.spec.target_refs.iter().filter(|target| is_service(target)) {
                services.insert((name.namespace.as_str(), target.name.as_str()));
                let of_target: &mut Vec<_> =
                    by_target.entry((name.namespace.as_str(), target.name.as_str(), section(target))).or_default();
                if of_target.last() != Some(&name) {
                    of_target.push(name);
                }
            }
        }
        // They come in the order of their names, and all of one target are of one namespace.
        let created = |name: &&NamespacedName| {
            let time = policies.get(*name).and_then(|policy| policy.metadata.creation_timestamp.as_ref());
            time.map_or(0, |time| time.0.as_second())
        };
        by_target.values_mut().for_each(|names| names.sort_by_key(created));
        Self { objects, policies, by_target, services }
    }

    /// The policy that decides for a port of a Service, valid or not. One that names the port comes before one for the whole Service.
    pub(crate) fn deciding(&self, service: &NamespacedName, port: Option<&str>) -> Option<&'a NamespacedName> {
        let of =
            |port| self.by_target.get(&(service.namespace.as_str(), service.name.as_str(), port)).and_then(|names| names.first());
        let named = port.filter(|name| !name.is_empty()).and_then(|name| of(Some(name)));
        named.or_else(|| of(None)).copied()
    }

    /// Judges the policies whose targets are used; the others are of no matter here, and what they refer to is not read.
    pub(super) fn resolve(
        &self,
        used: &Used,
        services: &Services<'a>,
        pods: &Pods<'_>,
        bundles: &mut Bundles<'_, '_>,
    ) -> BTreeMap<NamespacedName, PolicyNode> {
        let judged = self.policies.iter().filter(|(name, _)| is_nameable(name)).filter_map(|(name, policy)| {
            let ancestors = self.ancestors(name, policy, used, services);
            if ancestors.is_empty() {
                return None;
            }
            let owner = From { group: GATEWAY_GROUP, kind: "BackendTLSPolicy", namespace: &name.namespace };
            let unreadable = self.objects.unreadable(Kind::BackendTlsPolicy, name).cloned().map(PolicyFault::Unreadable);
            let judged = judge(policy, unreadable.or_else(|| unknown_option(policy)), owner, ancestors, bundles);
            Some((name.clone(), PolicyNode { refused: self.refused(name, policy, services, pods), ..judged }))
        });
        judged.collect()
    }

    /// Where a policy decides and pods refuse it.
    fn refused(
        &self,
        name: &NamespacedName,
        policy: &BackendTlsPolicy,
        services: &Services<'a>,
        pods: &Pods<'_>,
    ) -> Vec<RefusedPort> {
        if pods.is_empty() {
            return Vec::new();
        }
        let targets = policy.spec.target_refs.iter().filter(|target| is_service(target)).map(|target| target.name.as_str());
        let mut refused = Vec::new();
        for target in targets.collect::<BTreeSet<_>>() {
            let service = NamespacedName::new(name.namespace.as_str(), target);
            let Some(found) = services.get(&service) else { continue };
            let decided = tcp_ports(found).filter(|(_, port)| self.deciding(&service, port.name.as_deref()) == Some(name));
            for (port, _) in decided {
                let endpoints =
                    services.backend(&key(&service, port), true).endpoints.into_iter().map(|endpoint| endpoint.address);
                let mut strict = endpoints.filter_map(|address| {
                    let (pod, node) = pods.at(address.ip())?;
                    node.is_strict(address.port()).then(|| (pod.clone(), address.port()))
                });
                let Some((pod, at)) = strict.next() else { continue };
                refused.push(RefusedPort { service: service.clone(), port, pod, at, others: strict.count() });
            }
        }
        refused
    }

    fn ancestors(
        &self,
        name: &NamespacedName,
        policy: &BackendTlsPolicy,
        used: &Used,
        services: &Services<'a>,
    ) -> BTreeMap<Ancestor, AncestorNode> {
        let mut ancestors = BTreeMap::<Ancestor, AncestorNode>::new();
        for target in policy.spec.target_refs.iter().filter(|target| is_service(target)) {
            let service = NamespacedName::new(name.namespace.as_str(), target.name.as_str());
            let Some(users) = used.0.get(&service) else { continue };
            let fault = self.fault(name, &service, section(target), services);
            for (user, matters) in users {
                let ancestor = ancestors.entry(user.clone()).or_default();
                ancestor.matters |= matters;
                ancestor.decides |= fault.is_none();
                ancestor.faults.extend(fault.clone().filter(|fault| !ancestor.faults.contains(fault)));
            }
        }
        ancestors
    }

    /// Why a policy does not decide for one of its targets.
    ///
    /// > If a SectionName is specified, but does not exist on the targeted object,
    /// > the Policy must fail to attach, and the policy implementation should record
    /// > a `ResolvedRefs` or similar Condition in the Policy's status.
    fn fault(
        &self,
        name: &NamespacedName,
        service: &NamespacedName,
        section: Option<&str>,
        services: &Services<'a>,
    ) -> Option<TargetFault> {
        let Some(found) = services.get(service) else { return Some(TargetFault::NoService(service.clone())) };
        if let Some(section) = section {
            let names = port_names(found);
            if !names.contains(&section) {
                let has = if names.is_empty() { "no named one".to_owned() } else { format!("`{}`", names.join("`, `")) };
                return Some(TargetFault::NoSection { service: service.clone(), section: section.to_owned(), has });
            }
        }
        let names = self.by_target.get(&(service.namespace.as_str(), service.name.as_str(), section))?;
        let winner = names.first().filter(|winner| **winner != name)?;
        let target = match section {
            Some(section) => format!("port `{section}` of Service {service}"),
            None => format!("Service {service}"),
        };
        Some(TargetFault::Conflicted { target, winner: winner.name.clone() })
    }
}

/// Services that attached routes refer to, in vain or not, and that policies target: where those routes are attached, and whether the proxy
/// speaks to the Service itself. Where it passes clients' TLS on as it is, it does not.
#[derive(Debug, Default)]
pub(super) struct Used(BTreeMap<NamespacedName, BTreeMap<Ancestor, bool>>);

impl Used {
    pub(super) fn new(
        policies: &Policies<'_>,
        gateways: &BTreeMap<NamespacedName, GatewayNode>,
        services: &BTreeMap<BackendKey, ServiceParent>,
        routes: &[RouteNode],
    ) -> Self {
        let mut used = Self::default();
        let by_key: BTreeMap<_, _> = match policies.services.is_empty() {
            true => return used,
            false => routes.iter().map(|route| (&route.key, route)).collect(),
        };
        for (gateway, node) in gateways {
            for listener in &node.listeners {
                let attached = listener.attached.iter().filter_map(|attachment| by_key.get(&attachment.route));
                for route in attached.filter(|route| route.key.kind != RouteKind::Udp) {
                    let ancestor = Ancestor::Gateway(gateway.clone());
                    used.add(policies, &ancestor, !listener.passthrough, &route.route, &route.unresolved);
                }
            }
        }
        for (key, parent) in services {
            let ancestor = Ancestor::Service(NamespacedName::new(key.namespace.as_str(), key.name.as_str()));
            used.add_one(policies, &ancestor, true, (&key.namespace, &key.name));
            for route in parent.attachments().filter_map(|attachment| by_key.get(&attachment.route)) {
                used.add(policies, &ancestor, true, route.service_route(), route.service_unresolved());
            }
        }
        used
    }

    fn add(
        &mut self,
        policies: &Policies<'_>,
        ancestor: &Ancestor,
        matters: bool,
        route: &Route,
        unresolved: &[(usize, BackendFault)],
    ) {
        let found = route.backend_keys().map(|key| (key.namespace.as_str(), key.name.as_str()));
        let in_vain = unresolved.iter().filter_map(|(_, fault)| fault.service());
        let in_vain = in_vain.map(|service| (service.namespace.as_str(), service.name.as_str()));
        found.chain(in_vain).for_each(|service| self.add_one(policies, ancestor, matters, service));
    }

    fn add_one(&mut self, policies: &Policies<'_>, ancestor: &Ancestor, matters: bool, service: (&str, &str)) {
        if policies.services.contains(&service) {
            let users = self.0.entry(NamespacedName::new(service.0, service.1)).or_default();
            *users.entry(ancestor.clone()).or_default() |= matters;
        }
    }
}

fn judge(
    policy: &BackendTlsPolicy,
    fault: Option<PolicyFault>,
    owner: From<'_>,
    ancestors: BTreeMap<Ancestor, AncestorNode>,
    bundles: &mut Bundles<'_, '_>,
) -> PolicyNode {
    let validation = &policy.spec.validation;
    let references = validation.ca_certificate_refs.iter().flatten().map(|reference| BundleRef {
        group: &reference.group,
        kind: &reference.kind,
        namespace: None,
        name: &reference.name,
    });
    let authorities = bundles.authorities(owner, references);
    let read = fault.map_or_else(|| read(validation, &authorities), Err);
    let (tls, fault) = match read {
        // Nobody holds any of them either.
        Ok(read) if matches!(&read.roots, Roots::Bundles(bundles) if bundles.is_empty()) => (BackendTls::Invalid, None),
        Ok(read) => (BackendTls::Verified(read), None),
        Err(fault) => (BackendTls::Invalid, Some(fault)),
    };
    let targets = policy.spec.target_refs.iter().enumerate().filter(|(_, target)| !is_service(target));
    let strange = targets.map(|(at, target)| {
        let BackendTlsPolicyTargetRefs { group, kind, .. } = target;
        format!(
            "targetRefs[{at}] is passed over: {kind} {} is not a kind of target that is supported; target a Service",
            of_group(group)
        )
    });
    PolicyNode {
        generation: policy.metadata.generation.unwrap_or_default(),
        fault,
        authorities,
        tls,
        strange: strange.collect(),
        refused: Vec::new(),
        ancestors,
    }
}

/// What begins with our prefix means something, or else is a mistake; there is none of ours yet.
fn unknown_option(policy: &BackendTlsPolicy) -> Option<PolicyFault> {
    let mut keys = policy.spec.options.iter().flat_map(BTreeMap::keys);
    keys.find(|key| key.starts_with("isthmus.dev/")).map(|key| PolicyFault::Option(key.clone()))
}

fn read(validation: &BackendTlsPolicyValidation, authorities: &Authorities) -> Result<BackendValidation, PolicyFault> {
    let hostname: Hostname = validation.hostname.parse()?;
    if hostname.is_wildcard() {
        return Err(PolicyFault::Wildcard(hostname));
    }
    let well_known = validation.well_known_ca_certificates.as_deref().filter(|name| !name.is_empty());
    let has_references = validation.ca_certificate_refs.as_ref().is_some_and(|references| !references.is_empty());
    let roots = match (well_known, has_references) {
        (Some(_), true) => return Err(PolicyFault::TwoAuthorities),
        (None, false) => return Err(PolicyFault::NoAuthorities),
        (None, true) => Roots::Bundles(authorities.bundles.clone()),
        (Some("System"), false) => Roots::System,
        (Some(other), false) => return Err(PolicyFault::WellKnown(other.to_owned())),
    };
    let names = validation
        .subject_alt_names
        .iter()
        .flatten()
        .enumerate()
        .map(|(at, name)| subject_alt_name(name).map_err(|why| PolicyFault::SubjectAltName { at, why }));
    Ok(BackendValidation { hostname, roots, subject_alt_names: names.collect::<Result<_, _>>()? })
}

fn subject_alt_name(name: &BackendTlsPolicyValidationSubjectAltNames) -> Result<SubjectAltName, String> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match name.r#type {
        BackendTlsPolicyValidationSubjectAltNamesType::Hostname => {
            let hostname = given(&name.hostname).ok_or("has no hostname; add it, or change its type")?;
            hostname
                .parse()
                .map(SubjectAltName::Hostname)
                .map_err(|fault: isthmus_routing::hostname::InvalidHostname| fault.to_string())
        }
        BackendTlsPolicyValidationSubjectAltNamesType::Uri => {
            let uri = given(&name.uri).ok_or("has no uri; add it, or change its type")?;
            Ok(SubjectAltName::Uri(uri))
        }
    }
}

fn is_service(target: &BackendTlsPolicyTargetRefs) -> bool {
    target.group.is_empty() && target.kind == "Service"
}

fn section(target: &BackendTlsPolicyTargetRefs) -> Option<&str> {
    target.section_name.as_deref().filter(|name| !name.is_empty())
}

/// Names of a Service's TCP ports.
fn port_names(service: &Service) -> Vec<&str> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let tcp = ports.filter(|port| matches!(port.protocol.as_deref(), None | Some("" | "TCP")));
    tcp.filter_map(|port| port.name.as_deref()).filter(|name| !name.is_empty()).collect()
}
