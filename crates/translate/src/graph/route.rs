//! Routes with at least one parent of ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_api::shared::RouteView;
use isthmus_api::{Kind, NamespacedName, Unreadable};
use isthmus_routing::{Hostname, Route, RouteKey, RouteKind};

use super::attachment::{AttachmentFault, GatewayParentNode, Lost, Parent, ParentNode, Parents, Shadowed};
use super::backend_ref::{BackendFault, Backends};
use crate::Edition;
use crate::route::{self, RuleFault};

/// A route with parentRefs to something of ours.
#[derive(Debug)]
pub(crate) struct RouteNode {
    pub(crate) key: RouteKey,
    pub(crate) uid: String,
    pub(crate) generation: i64,
    /// Seconds since 1970.
    pub(crate) created: i64,
    /// Its hostnames as far as they are some, each once.
    pub(crate) hostnames: Vec<Hostname>,
    /// What is wrong with each of the others.
    pub(crate) bad_hostnames: Vec<String>,
    /// What listeners serve of it.
    pub(crate) route: Arc<Route>,
    /// Rules that cannot be carried out, by position.
    pub(crate) faults: BTreeMap<usize, RuleFault>,
    /// What rules refer to in vain, with the rule's position.
    pub(crate) unresolved: Vec<(usize, BackendFault)>,
    /// Where that is something else for Services, because there nothing has to be granted.
    of_services: Option<Reading>,
    /// Why nothing but its parents could be read.
    pub(crate) unreadable: Option<Unreadable>,
    /// One for each parentRef that is ours, in the order of the object.
    pub(crate) parents: Vec<ParentNode>,
}

/// A route as it is for one kind of parent.
#[derive(Debug)]
struct Reading {
    route: Arc<Route>,
    unresolved: Vec<(usize, BackendFault)>,
}

impl RouteNode {
    /// What Services serve of it.
    pub(crate) fn service_route(&self) -> &Arc<Route> {
        self.of_services.as_ref().map_or(&self.route, |reading| &reading.route)
    }

    /// What rules refer to in vain, as a parent sees it.
    pub(crate) fn unresolved(&self, parent: &Parent) -> &[(usize, BackendFault)] {
        match parent {
            Parent::Gateway(_) => &self.unresolved,
            Parent::Service(_) => self.service_unresolved(),
        }
    }

    /// The same, as Services see it.
    pub(super) fn service_unresolved(&self) -> &[(usize, BackendFault)] {
        self.of_services.as_ref().map_or(&self.unresolved, |reading| &reading.unresolved)
    }

    /// Its parents that are Gateways.
    pub(super) fn gateway_parents(&self) -> impl Iterator<Item = &GatewayParentNode> {
        self.parents.iter().filter_map(|node| node.parent.gateway())
    }

    /// Whether no rule of it can be carried out.
    pub(crate) fn is_invalid(&self) -> bool {
        !self.faults.is_empty() && self.faults.len() == self.route.rules.len()
    }

    /// What a proxy that serves it proves.
    pub(crate) fn edition(&self) -> Edition {
        Edition { uid: self.uid.clone(), generation: self.generation }
    }

    /// Takes a listener from it.
    pub(super) fn lose(&mut self, gateway: &NamespacedName, listener: usize, lost: &Lost) {
        for node in &mut self.parents {
            let Parent::Gateway(parent) = &mut node.parent else { continue };
            let before = parent.claims.len();
            parent.claims.retain(|claim| parent.gateway != *gateway || claim.listener != listener);
            if parent.claims.len() == before {
                continue;
            }
            parent.lost.push(lost.clone());
            if parent.claims.is_empty() {
                node.fault = Some(AttachmentFault::Lost(lost.clone()));
            }
        }
    }

    /// Notes that it gets nothing of a listener.
    pub(super) fn shadow(&mut self, gateway: &NamespacedName, listener: usize, shadow: &Shadowed) {
        for node in &mut self.parents {
            let Parent::Gateway(parent) = &mut node.parent else { continue };
            if parent.gateway == *gateway && parent.claims.iter().any(|claim| claim.listener == listener) {
                parent.shadowed.push(shadow.clone());
            }
        }
    }
}

/// Reads one route; none if no parent of it is ours.
pub(super) fn read(
    view: &RouteView<'_>,
    unreadable: Option<&Unreadable>,
    known: &Parents<'_>,
    backends: &Backends<'_, '_>,
) -> Option<RouteNode> {
    let NamespacedName { namespace, name } = view.namespaced_name();
    let kind = kind(view.kind)?;
    let parents = parents(view, kind, &namespace, known);
    if parents.is_empty() {
        return None;
    }
    let key = RouteKey { namespace, name, kind };
    let created = view.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    let read = |backends: &Backends<'_, '_>| {
        let (mut rules, mut faults, mut unresolved) = (Vec::with_capacity(view.rules.len()), BTreeMap::new(), Vec::new());
        for (at, rule) in view.rules.iter().enumerate() {
            let node = route::rule(&key, rule, backends);
            rules.push(node.rule);
            faults.extend(node.fault.map(|fault| (at, fault)));
            unresolved.extend(node.unresolved.into_iter().map(|fault| (at, fault)));
        }
        (faults, Reading { route: Arc::new(Route { created, rules }), unresolved })
    };
    let (faults, Reading { route, unresolved }) = read(backends);
    // What is the same is shared: it differs by permissions alone, and what is wrong with a rule is not a matter of them.
    let lacks_permission = unresolved.iter().any(|(_, fault)| matches!(fault, BackendFault::NotPermitted { .. }));
    let has_services = parents.iter().any(|node| node.parent.service().is_some());
    let of_services = (lacks_permission && has_services).then(|| read(&Backends { grants: None, ..*backends }).1);
    let (hostnames, bad_hostnames) = hostnames(view.hostnames);
    Some(RouteNode {
        key,
        uid: view.metadata.uid.clone().unwrap_or_default(),
        generation: view.metadata.generation.unwrap_or_default(),
        created,
        hostnames,
        bad_hostnames,
        route,
        faults,
        unresolved,
        of_services,
        unreadable: unreadable.cloned(),
        parents,
    })
}

/// None: no kind of route.
fn kind(kind: Kind) -> Option<RouteKind> {
    RouteKind::ALL.into_iter().find(|known| known.as_str() == kind.as_str())
}

/// > Note that parent references that cannot be resolved by an implementation
/// > of this API will not be added to this list. Implementations of this API
/// > can only populate Route status for the Gateways/parent resources they are
/// > responsible for.
fn parents(view: &RouteView<'_>, kind: RouteKind, namespace: &str, known: &Parents<'_>) -> Vec<ParentNode> {
    let mut parents = Vec::<ParentNode>::new();
    for parent_ref in &view.parent_refs {
        let Some(parent) = known.find(parent_ref, kind, namespace) else { continue };
        if !parents.iter().any(|parent| parent.parent_ref == *parent_ref) {
            parents.push(ParentNode { parent_ref: parent_ref.clone(), parent, fault: None });
        }
    }
    parents
}

fn hostnames(from: &[String]) -> (Vec<Hostname>, Vec<String>) {
    let (mut hostnames, mut bad) = (Vec::<Hostname>::new(), Vec::new());
    for text in from {
        match text.parse() {
            Ok(hostname) if hostnames.contains(&hostname) => {}
            Ok(hostname) => hostnames.push(hostname),
            Err(fault) => bad.push(fault.to_string()),
        }
    }
    (hostnames, bad)
}
