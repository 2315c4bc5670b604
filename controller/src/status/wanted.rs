//! What the statuses are to be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::status::Statuses;
use isthmus_api::{Kind, NamespacedName, ObjectRef, Objects};
use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

/// The newest translation's statuses, and of which objects they are.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    statuses: Statuses,
    /// The uids of all objects that were translated.
    uids: BTreeMap<Kind, BTreeMap<NamespacedName, String>>,
    dirty: BTreeSet<ObjectRef>,
}

impl Wanted {
    /// Takes the statuses of a translation of `objects`. Whether anything is other than it was.
    pub(super) fn publish(&mut self, statuses: Statuses, objects: &Objects) -> bool {
        let old = std::mem::replace(&mut self.statuses, statuses);
        let (dirty, new) = (&mut self.dirty, &self.statuses);
        let named = |name: &String| NamespacedName::new("", name.as_str());
        differences(&old.gateway_classes, &new.gateway_classes, |name| mark(dirty, Kind::GatewayClass, &named(name)));
        differences(&old.x_meshes, &new.x_meshes, |name| mark(dirty, Kind::XMesh, &named(name)));
        differences(&old.gateways, &new.gateways, |name| mark(dirty, Kind::Gateway, name));
        differences(&old.listener_sets, &new.listener_sets, |name| mark(dirty, Kind::ListenerSet, name));
        differences(&old.http_routes, &new.http_routes, |name| mark(dirty, Kind::HttpRoute, name));
        differences(&old.grpc_routes, &new.grpc_routes, |name| mark(dirty, Kind::GrpcRoute, name));
        differences(&old.tls_routes, &new.tls_routes, |name| mark(dirty, Kind::TlsRoute, name));
        differences(&old.tcp_routes, &new.tcp_routes, |name| mark(dirty, Kind::TcpRoute, name));
        differences(&old.udp_routes, &new.udp_routes, |name| mark(dirty, Kind::UdpRoute, name));
        differences(&old.backend_tls_policies, &new.backend_tls_policies, |name| mark(dirty, Kind::BackendTlsPolicy, name));
        let classes = objects.gateway_classes.iter().map(|(name, class)| (named(name), Arc::clone(class))).collect();
        self.judge(Kind::GatewayClass, &classes);
        let meshes = objects.x_meshes.iter().map(|(name, mesh)| (named(name), Arc::clone(mesh))).collect();
        self.judge(Kind::XMesh, &meshes);
        self.judge(Kind::Gateway, &objects.gateways);
        self.judge(Kind::ListenerSet, &objects.listener_sets);
        self.judge(Kind::HttpRoute, &objects.http_routes);
        self.judge(Kind::GrpcRoute, &objects.grpc_routes);
        self.judge(Kind::TlsRoute, &objects.tls_routes);
        self.judge(Kind::TcpRoute, &objects.tcp_routes);
        self.judge(Kind::UdpRoute, &objects.udp_routes);
        self.judge(Kind::BackendTlsPolicy, &objects.backend_tls_policies);
        self.is_dirty()
    }

    /// What an object's status is to be, if it is the object that was translated and its status is ours to write. `has_ours`:
    /// whether it has entries of ours, which is asked for a route or a policy only.
    pub(super) fn of(&self, object: &ObjectRef, uid: &str, has_ours: impl FnOnce() -> bool) -> Option<Value> {
        let name = NamespacedName::new(object.namespace.clone().unwrap_or_default(), object.name.as_str());
        if self.uids.get(&object.kind)?.get(&name)? != uid {
            return None;
        }
        let or_empty = |status: Option<Value>, field: &str| status.or_else(|| has_ours().then(|| json!({field: []})));
        match object.kind {
            Kind::GatewayClass => value(self.statuses.gateway_classes.get(&name.name)),
            Kind::XMesh => value(self.statuses.x_meshes.get(&name.name)),
            Kind::Gateway => value(self.statuses.gateways.get(&name)),
            Kind::ListenerSet => value(self.statuses.listener_sets.get(&name)),
            Kind::HttpRoute => or_empty(value(self.statuses.http_routes.get(&name)), "parents"),
            Kind::GrpcRoute => or_empty(value(self.statuses.grpc_routes.get(&name)), "parents"),
            Kind::TlsRoute => or_empty(value(self.statuses.tls_routes.get(&name)), "parents"),
            Kind::TcpRoute => or_empty(value(self.statuses.tcp_routes.get(&name)), "parents"),
            Kind::UdpRoute => or_empty(value(self.statuses.udp_routes.get(&name)), "parents"),
            Kind::BackendTlsPolicy => or_empty(value(self.statuses.backend_tls_policies.get(&name)), "ancestors"),
            _ => None,
        }
    }

    pub(super) fn take_dirty(&mut self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Takes note of the objects of a kind: one that is new, or another one of the same name, has to be looked at.
    fn judge<T: Resource>(&mut self, kind: Kind, objects: &BTreeMap<NamespacedName, Arc<T>>) {
        let uids = self.uids.entry(kind).or_default();
        uids.retain(|name, _| objects.contains_key(name));
        for (name, object) in objects {
            let uid = object.meta().uid.as_deref().unwrap_or_default();
            if uids.get(name).map(String::as_str) != Some(uid) {
                uids.insert(name.clone(), uid.to_owned());
                mark(&mut self.dirty, kind, name);
            }
        }
    }
}

fn mark(dirty: &mut BTreeSet<ObjectRef>, kind: Kind, name: &NamespacedName) {
    let namespace = kind.is_namespaced().then(|| name.namespace.clone());
    dirty.insert(ObjectRef { kind, namespace, name: name.name.clone() });
}

fn differences<K: Ord, V: PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>, mut differs: impl FnMut(&K)) {
    new.iter().filter(|(name, status)| old.get(name) != Some(status)).for_each(|(name, _)| differs(name));
    old.keys().filter(|name| !new.contains_key(name)).for_each(differs);
}

fn value(status: Option<&impl Serialize>) -> Option<Value> {
    serde_json::to_value(status?).ok()
}
