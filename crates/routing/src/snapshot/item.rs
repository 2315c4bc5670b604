//! The items of a snapshot, one by one: what a snapshot is sent as, and what is sent when it becomes another one.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Snapshot;
use crate::name::{InvalidName, as_text};
use crate::{
    Backend, BackendKey, Bundle, BundleKey, Certificate, CertificateKey, Frontend, FrontendKey, Gateway, GatewayKey, Identity,
    Inbound, Mesh, Route, RouteKey, RouteKind, ServiceParent, Workloads,
};

/// Names an item, as the text of the key that it holds (`Gateway/infra/edge`), where that would be
/// ambiguous after a word of its own: `Parent/Service/shop/front:80`, `ServiceRoute/HTTPRoute/shop/front`, `Bundle/ConfigMap/infra/ca`,
/// `Kept/Secret/infra/pair`, `KeptBundle/ConfigMap/infra/ca`, `Frontend/shop/front`. `Mesh` and `Inbound` are there once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ItemKey {
    /// Of [`Snapshot::gateways`].
    Gateway(GatewayKey),
    /// Of [`Snapshot::routes`].
    Route(RouteKey),
    /// Of [`Snapshot::services`].
    Service(BackendKey),
    /// Of [`Snapshot::service_routes`].
    ServiceRoute(RouteKey),
    /// Of [`Snapshot::backends`].
    Backend(BackendKey),
    /// Of [`Snapshot::certificates`].
    Certificate(CertificateKey),
    /// Of [`Snapshot::bundles`].
    Bundle(BundleKey),
    /// Of [`Snapshot::kept`].
    Kept(CertificateKey),
    /// Of [`Snapshot::kept_bundles`].
    KeptBundle(BundleKey),
    /// [`Snapshot::mesh`]
    Mesh,
    /// Of [`Snapshot::workloads`].
    Workloads(Identity),
    /// Of [`Snapshot::frontends`].
    Frontend(FrontendKey),
    /// [`Snapshot::inbound`]
    Inbound,
}

/// An entry of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Of [`Snapshot::gateways`].
    Gateway(GatewayKey, Arc<Gateway>),
    /// Of [`Snapshot::routes`].
    Route(RouteKey, Arc<Route>),
    /// Of [`Snapshot::services`].
    Service(BackendKey, Arc<ServiceParent>),
    /// Of [`Snapshot::service_routes`].
    ServiceRoute(RouteKey, Arc<Route>),
    /// Of [`Snapshot::backends`].
    Backend(BackendKey, Arc<Backend>),
    /// Of [`Snapshot::certificates`].
    Certificate(CertificateKey, Arc<Certificate>),
    /// Of [`Snapshot::bundles`].
    Bundle(BundleKey, Arc<Bundle>),
    /// Of [`Snapshot::kept`].
    Kept(CertificateKey),
    /// Of [`Snapshot::kept_bundles`].
    KeptBundle(BundleKey),
    /// [`Snapshot::mesh`]
    Mesh(Arc<Mesh>),
    /// Of [`Snapshot::workloads`].
    Workloads(Identity, Arc<Workloads>),
    /// Of [`Snapshot::frontends`].
    Frontend(FrontendKey, Arc<Frontend>),
    /// [`Snapshot::inbound`]
    Inbound(Arc<Inbound>),
}

/// What makes one snapshot of another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Items that are new, or have another value.
    pub puts: Vec<Item>,
    /// Items that are no more.
    pub removes: Vec<ItemKey>,
}

/// A text that names no item of this model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownItem {
    /// It may be an item of a newer model.
    #[error("`{0}` is of no kind that this version knows")]
    Kind(String),
    /// Its kind is known, and it is no name of it.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(key) => key.fmt(f),
            Self::Route(key) => key.fmt(f),
            Self::Service(key) => write!(f, "Parent/{key}"),
            Self::ServiceRoute(key) => write!(f, "ServiceRoute/{key}"),
            Self::Backend(key) => key.fmt(f),
            Self::Certificate(key) => key.fmt(f),
            Self::Bundle(key) => write!(f, "Bundle/{key}"),
            Self::Kept(key) => write!(f, "Kept/{key}"),
            Self::KeptBundle(key) => write!(f, "KeptBundle/{key}"),
            Self::Mesh => f.write_str("Mesh"),
            Self::Workloads(key) => key.fmt(f),
            Self::Frontend(key) => write!(f, "Frontend/{key}"),
            Self::Inbound => f.write_str("Inbound"),
        }
    }
}

impl FromStr for ItemKey {
    type Err = UnknownItem;
    fn from_str(s: &str) -> Result<Self, UnknownItem> {
        match s.split_once('/') {
            Some(("Gateway", _)) => Ok(Self::Gateway(s.parse()?)),
            Some((kind, _)) if RouteKind::ALL.iter().any(|known| known.as_str() == kind) => Ok(Self::Route(s.parse()?)),
            Some(("Parent", service)) => Ok(Self::Service(service.parse()?)),
            Some(("ServiceRoute", route)) => Ok(Self::ServiceRoute(route.parse()?)),
            Some(("Service", _)) => Ok(Self::Backend(s.parse()?)),
            Some(("Secret", _)) => Ok(Self::Certificate(s.parse()?)),
            Some(("Bundle", bundle)) => Ok(Self::Bundle(bundle.parse()?)),
            Some(("Kept", certificate)) => Ok(Self::Kept(certificate.parse()?)),
            Some(("KeptBundle", bundle)) => Ok(Self::KeptBundle(bundle.parse()?)),
            Some(("ServiceAccount", _)) => Ok(Self::Workloads(s.parse()?)),
            Some(("Frontend", service)) => Ok(Self::Frontend(service.parse()?)),
            None if s == "Mesh" => Ok(Self::Mesh),
            None if s == "Inbound" => Ok(Self::Inbound),
            _ => Err(UnknownItem::Kind(s.to_owned())),
        }
    }
}

as_text!(ItemKey);

impl Item {
    /// Its name.
    pub fn key(&self) -> ItemKey {
        match self {
            Self::Gateway(key, _) => ItemKey::Gateway(key.clone()),
            Self::Route(key, _) => ItemKey::Route(key.clone()),
            Self::Service(key, _) => ItemKey::Service(key.clone()),
            Self::ServiceRoute(key, _) => ItemKey::ServiceRoute(key.clone()),
            Self::Backend(key, _) => ItemKey::Backend(key.clone()),
            Self::Certificate(key, _) => ItemKey::Certificate(key.clone()),
            Self::Bundle(key, _) => ItemKey::Bundle(key.clone()),
            Self::Kept(key) => ItemKey::Kept(key.clone()),
            Self::KeptBundle(key) => ItemKey::KeptBundle(key.clone()),
            Self::Mesh(_) => ItemKey::Mesh,
            Self::Workloads(key, _) => ItemKey::Workloads(key.clone()),
            Self::Frontend(key, _) => ItemKey::Frontend(key.clone()),
            Self::Inbound(_) => ItemKey::Inbound,
        }
    }

    /// Parses a value that [`Item::value`] has serialised. Fields that this model does not know are passed over.
    ///
    /// # Errors
    /// When it is not JSON, or not a value of the key's kind.
    pub fn parse(key: ItemKey, json: &str) -> Result<Self, serde_json::Error> {
        Ok(match key {
            ItemKey::Gateway(key) => Self::Gateway(key, serde_json::from_str(json)?),
            ItemKey::Route(key) => Self::Route(key, serde_json::from_str(json)?),
            ItemKey::Service(key) => Self::Service(key, serde_json::from_str(json)?),
            ItemKey::ServiceRoute(key) => Self::ServiceRoute(key, serde_json::from_str(json)?),
            ItemKey::Backend(key) => Self::Backend(key, serde_json::from_str(json)?),
            ItemKey::Certificate(key) => Self::Certificate(key, serde_json::from_str(json)?),
            ItemKey::Bundle(key) => Self::Bundle(key, serde_json::from_str(json)?),
            ItemKey::Kept(key) => Self::Kept(key),
            ItemKey::KeptBundle(key) => Self::KeptBundle(key),
            ItemKey::Mesh => Self::Mesh(serde_json::from_str(json)?),
            ItemKey::Workloads(key) => Self::Workloads(key, serde_json::from_str(json)?),
            ItemKey::Frontend(key) => Self::Frontend(key, serde_json::from_str(json)?),
            ItemKey::Inbound => Self::Inbound(serde_json::from_str(json)?),
        })
    }

    /// Serialises what is under its key; nothing (`null`) for a kept reference.
    pub fn value(&self) -> impl Serialize + '_ {
        Value(self)
    }
}

struct Value<'i>(&'i Item);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Item::Gateway(_, value) => value.serialize(serializer),
            Item::Route(_, value) => value.serialize(serializer),
            Item::Service(_, value) => value.serialize(serializer),
            Item::ServiceRoute(_, value) => value.serialize(serializer),
            Item::Backend(_, value) => value.serialize(serializer),
            Item::Certificate(_, value) => value.serialize(serializer),
            Item::Bundle(_, value) => value.serialize(serializer),
            Item::Kept(_) | Item::KeptBundle(_) => serializer.serialize_unit(),
            Item::Mesh(value) => value.serialize(serializer),
            Item::Workloads(_, value) => value.serialize(serializer),
            Item::Frontend(_, value) => value.serialize(serializer),
            Item::Inbound(value) => value.serialize(serializer),
        }
    }
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removes.is_empty()
    }
}

impl Snapshot {
    /// What has to be done to `from` so that it becomes this snapshot. Items that both share by pointer cost a comparison of pointers.
    pub fn changes(&self, from: &Self) -> Changes {
        let mut changes = Changes::default();
        changes.compare(&self.gateways, &from.gateways, Item::Gateway, ItemKey::Gateway);
        changes.compare(&self.routes, &from.routes, Item::Route, ItemKey::Route);
        changes.compare(&self.services, &from.services, Item::Service, ItemKey::Service);
        changes.compare(&self.service_routes, &from.service_routes, Item::ServiceRoute, ItemKey::ServiceRoute);
        changes.compare(&self.backends, &from.backends, Item::Backend, ItemKey::Backend);
        changes.compare(&self.certificates, &from.certificates, Item::Certificate, ItemKey::Certificate);
        changes.compare(&self.bundles, &from.bundles, Item::Bundle, ItemKey::Bundle);
        changes.puts.extend(self.kept.difference(&from.kept).cloned().map(Item::Kept));
        changes.removes.extend(from.kept.difference(&self.kept).cloned().map(ItemKey::Kept));
        changes.puts.extend(self.kept_bundles.difference(&from.kept_bundles).cloned().map(Item::KeptBundle));
        changes.removes.extend(from.kept_bundles.difference(&self.kept_bundles).cloned().map(ItemKey::KeptBundle));
        changes.compare_one(self.mesh.as_ref(), from.mesh.as_ref(), Item::Mesh, ItemKey::Mesh);
        changes.compare(&self.workloads, &from.workloads, Item::Workloads, ItemKey::Workloads);
        changes.compare(&self.frontends, &from.frontends, Item::Frontend, ItemKey::Frontend);
        changes.compare_one(self.inbound.as_ref(), from.inbound.as_ref(), Item::Inbound, ItemKey::Inbound);
        changes
    }

    /// Does what [`Snapshot::changes`] has found.
    pub fn apply(&mut self, changes: Changes) {
        changes.removes.iter().for_each(|key| self.remove(key));
        changes.puts.into_iter().for_each(|item| self.put(item));
    }

    /// Adds an item, in the place of the one with its key if there is one.
    pub fn put(&mut self, item: Item) {
        match item {
            Item::Gateway(key, value) => drop(self.gateways.insert(key, value)),
            Item::Route(key, value) => drop(self.routes.insert(key, value)),
            Item::Service(key, value) => drop(self.services.insert(key, value)),
            Item::ServiceRoute(key, value) => drop(self.service_routes.insert(key, value)),
            Item::Backend(key, value) => drop(self.backends.insert(key, value)),
            Item::Certificate(key, value) => drop(self.certificates.insert(key, value)),
            Item::Bundle(key, value) => drop(self.bundles.insert(key, value)),
            Item::Kept(key) => drop(self.kept.insert(key)),
            Item::KeptBundle(key) => drop(self.kept_bundles.insert(key)),
            Item::Mesh(value) => self.mesh = Some(value),
            Item::Workloads(key, value) => drop(self.workloads.insert(key, value)),
            Item::Frontend(key, value) => drop(self.frontends.insert(key, value)),
            Item::Inbound(value) => self.inbound = Some(value),
        }
    }

    /// Takes an item out, if it is there.
    pub fn remove(&mut self, key: &ItemKey) {
        match key {
            ItemKey::Gateway(key) => drop(self.gateways.remove(key)),
            ItemKey::Route(key) => drop(self.routes.remove(key)),
            ItemKey::Service(key) => drop(self.services.remove(key)),
            ItemKey::ServiceRoute(key) => drop(self.service_routes.remove(key)),
            ItemKey::Backend(key) => drop(self.backends.remove(key)),
            ItemKey::Certificate(key) => drop(self.certificates.remove(key)),
            ItemKey::Bundle(key) => drop(self.bundles.remove(key)),
            ItemKey::Kept(key) => drop(self.kept.remove(key)),
            ItemKey::KeptBundle(key) => drop(self.kept_bundles.remove(key)),
            ItemKey::Mesh => self.mesh = None,
            ItemKey::Workloads(key) => drop(self.workloads.remove(key)),
            ItemKey::Frontend(key) => drop(self.frontends.remove(key)),
            ItemKey::Inbound => self.inbound = None,
        }
    }
}

impl Changes {
    fn compare_one<V: PartialEq>(
        &mut self,
        now: Option<&Arc<V>>,
        before: Option<&Arc<V>>,
        item: fn(Arc<V>) -> Item,
        key: ItemKey,
    ) {
        match now {
            Some(now) if before != Some(now) => self.puts.push(item(now.clone())),
            None if before.is_some() => self.removes.push(key),
            _ => {}
        }
    }

    fn compare<K: Ord + Clone, V: PartialEq>(
        &mut self,
        now: &BTreeMap<K, Arc<V>>,
        before: &BTreeMap<K, Arc<V>>,
        item: fn(K, Arc<V>) -> Item,
        key: fn(K) -> ItemKey,
    ) {
        let same = |value: &Arc<V>, other: &Arc<V>| Arc::ptr_eq(value, other) || value == other;
        let changed = now.iter().filter(|(key, value)| before.get(key).is_none_or(|other| !same(value, other)));
        self.puts.extend(changed.map(|(key, value)| item(key.clone(), value.clone())));
        self.removes.extend(before.keys().filter(|key| !now.contains_key(key)).cloned().map(key));
    }
}

#[cfg(test)]
mod tests;
