//! ListenerSets of our Gateways: their listeners join the Gateway's.

use std::collections::BTreeMap;
use std::ops::Range;

use isthmus_api::shared::{FromNamespaces, GATEWAY_GROUP, ListenerView};
use isthmus_api::{Kind, ListenerSet, NamespacedName, Objects, Unreadable};

use super::attachment::NamespaceLabels;
use super::certificate::Certificates;
use super::conflict::{self, Held};
use super::gateway::GatewayNode;
use super::is_nameable;
use super::listener::{self, ListenerNode};
use super::reference_grant::From;
use crate::Options;
use crate::proof::Edition;

/// A ListenerSet whose Gateway is ours.
#[derive(Debug)]
pub(crate) struct ListenerSetNode {
    pub(crate) name: NamespacedName,
    /// Its uid and generation.
    pub(crate) edition: Edition,
    /// The Gateway that it names.
    pub(crate) gateway: NamespacedName,
    /// Which listeners of the Gateway are its own, in the order of the object.
    pub(crate) positions: Range<usize>,
    /// Why its listeners are none of the Gateway's.
    pub(crate) fault: Option<ListenerSetFault>,
}

/// Why a Gateway does not take a ListenerSet. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListenerSetFault {
    #[error(
        "Gateway {0} does not allow ListenerSets of this namespace; its owner can extend `spec.allowedListeners`, or name another Gateway"
    )]
    NotAllowed(NamespacedName),
    #[error("{0}; until then none of its listeners is served")]
    Unreadable(Unreadable),
}

impl ListenerSetFault {
    /// The reason of `Accepted=False` and `Programmed=False`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotAllowed(_) => "NotAllowed",
            Self::Unreadable(_) => "Invalid",
        }
    }
}

impl ListenerSetNode {
    /// Its listeners, which the Gateway has; none if there is a fault.
    pub(crate) fn listeners<'g>(&self, gateway: &'g GatewayNode) -> &'g [ListenerNode] {
        gateway.listeners.get(self.positions.clone()).unwrap_or_default()
    }
}

/// What ListenerSets are judged by.
pub(super) struct Judge<'j> {
    pub(super) objects: &'j Objects,
    pub(super) options: &'j Options,
    pub(super) labels: &'j NamespaceLabels<'j>,
}

/// Judges every ListenerSet of these Gateways and adds the listeners of those that are allowed to the Gateway's, in the order of
/// their precedence ([`Held`]).
pub(super) fn join(
    judge: &Judge<'_>,
    gateways: &mut BTreeMap<NamespacedName, GatewayNode>,
    certificates: &mut Certificates<'_, '_>,
) -> BTreeMap<NamespacedName, ListenerSetNode> {
    let mut by_gateway = BTreeMap::<NamespacedName, Vec<(&NamespacedName, &ListenerSet)>>::new();
    for (name, set) in judge.objects.listener_sets.iter().filter(|(name, _)| is_nameable(name)) {
        if let Some(gateway) = gateway_of(name, set) {
            by_gateway.entry(gateway).or_default().push((name, set));
        }
    }
    let mut nodes = BTreeMap::new();
    for (name, mut sets) in by_gateway {
        let Some((gateway, object)) = gateways.get_mut(&name).zip(judge.objects.gateways.get(&name)) else { continue };
        // They come in the order of their names.
        sets.sort_by_key(|(_, set)| set.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()));
        let allowed = FromNamespaces::of_listener_sets(&object.spec);
        let mut held = Held::default();
        held.add(&gateway.listeners);
        for (set_name, set) in sets {
            let first = gateway.listeners.len();
            // Whom a Gateway that cannot be read allows is not known; it serves nothing of them either.
            let allows = gateway.is_unreadable() || judge.labels.allows(&allowed, &name.namespace, &set_name.namespace);
            let unreadable = judge.objects.unreadable(Kind::ListenerSet, set_name).cloned();
            if allows {
                let listeners = listeners(judge, gateway, set_name, set, &held, certificates);
                held.add(&listeners);
                gateway.listeners.extend(listeners);
            }
            let node = ListenerSetNode {
                name: set_name.clone(),
                edition: Edition {
                    uid: set.metadata.uid.clone().unwrap_or_default(),
                    generation: set.metadata.generation.unwrap_or_default(),
                },
                gateway: name.clone(),
                positions: first..gateway.listeners.len(),
                fault: match unreadable {
                    _ if !allows => Some(ListenerSetFault::NotAllowed(name.clone())),
                    unreadable => unreadable.map(ListenerSetFault::Unreadable),
                },
            };
            nodes.insert(set_name.clone(), node);
        }
    }
    for gateway in gateways.values_mut() {
        conflict::mark_overlaps(&mut gateway.listeners);
    }
    nodes
}

/// The Gateway that it names, if it names one.
fn gateway_of(name: &NamespacedName, set: &ListenerSet) -> Option<NamespacedName> {
    let parent = &set.spec.parent_ref;
    let is_gateway = parent.group.as_deref().is_none_or(|group| group == GATEWAY_GROUP)
        && parent.kind.as_deref().is_none_or(|kind| kind == "Gateway");
    let namespace = parent.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(&name.namespace);
    is_gateway.then(|| NamespacedName::new(namespace, parent.name.as_str()))
}

fn listeners(
    judge: &Judge<'_>,
    gateway: &GatewayNode,
    name: &NamespacedName,
    set: &ListenerSet,
    held: &Held,
    certificates: &mut Certificates<'_, '_>,
) -> Vec<ListenerNode> {
    let owner = From { group: GATEWAY_GROUP, kind: "ListenerSet", namespace: &name.namespace };
    let nodes = set.spec.listeners.iter().map(|listener| {
        let view = ListenerView::from(listener);
        let mut node = listener::judge(&view, owner, &gateway.frontend, certificates);
        node.listener_set = Some(name.clone());
        node.unavailable = judge.options.unavailable.get(&(gateway.key.clone(), node.model_name())).cloned();
        node.conflict = held.conflict(&node);
        node
    });
    let mut nodes: Vec<_> = nodes.collect();
    conflict::compare(&mut nodes);
    nodes
}
