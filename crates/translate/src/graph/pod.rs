//! Pods with sidecars: who they are, where they are, and what they ask of those who call them.

mod annotation;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_api::{Kind, NamespacedName, ObjectRef, Objects, Pod};
use isthmus_routing::{Identity, Inbound, MeshedPod, MtlsMode, Workloads};

use super::is_nameable;
use annotation::Terms;

/// The account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

/// Pods with sidecars.
#[derive(Debug, Default)]
pub(crate) struct Pods<'a> {
    pods: BTreeMap<&'a NamespacedName, PodNode>,
    by_address: BTreeMap<IpAddr, &'a NamespacedName>,
    /// What is wrong with annotations.
    notes: BTreeMap<ObjectRef, Vec<String>>,
}

/// A pod with a sidecar.
#[derive(Debug)]
pub(crate) struct PodNode {
    identity: Identity,
    inbound: Arc<Inbound>,
    /// Ports of which the sidecar does not take what comes in; sorted.
    plain_ports: Vec<u16>,
}

impl<'a> Pods<'a> {
    /// Reads them; `default` is what those ask who say nothing.
    pub(super) fn new(objects: &'a Objects, default: MtlsMode) -> Self {
        let mut pods = Self::default();
        let mut modes: BTreeMap<&str, MtlsMode> = BTreeMap::new();
        for (name, pod) in running(objects) {
            let Some(sidecar) = &pod.spec.sidecar else { continue };
            let Some(identity) = identity(name, pod) else { continue };
            let namespace = name.namespace.as_str();
            let mode = *modes.entry(namespace).or_insert_with(|| pods.mode_of_namespace(objects, namespace, default));
            let Terms { mode, ports, notes } = annotation::terms(pod, mode);
            let plain_ports = sidecar.plain_ports.clone();
            let notes: Vec<String> = notes.into_iter().chain(annotation::excluded_too_late(pod, &plain_ports)).collect();
            if !notes.is_empty() {
                let at = ObjectRef { kind: Kind::Pod, namespace: Some(name.namespace.clone()), name: name.name.clone() };
                pods.notes.insert(at, notes);
            }
            pods.pods.insert(name, PodNode { identity, inbound: Arc::new(Inbound { mode, ports }), plain_ports });
        }
        pods.by_address = owners(objects).into_iter().filter(|(_, name)| pods.pods.contains_key(name)).collect();
        pods
    }

    fn mode_of_namespace(&mut self, objects: &Objects, namespace: &str, default: MtlsMode) -> MtlsMode {
        let annotations = objects.namespaces.get(namespace).and_then(|namespace| namespace.metadata.annotations.as_ref());
        let Some(text) = annotations.and_then(|annotations| annotations.get(annotation::MTLS)) else { return default };
        annotation::mode(text).unwrap_or_else(|why| {
            self.notes.insert(ObjectRef { kind: Kind::Namespace, namespace: None, name: namespace.to_owned() }, vec![why]);
            MtlsMode::Strict
        })
    }

    /// The pod that has an address, if it has a sidecar.
    pub(crate) fn at(&self, address: IpAddr) -> Option<(&'a NamespacedName, &PodNode)> {
        let name = self.by_address.get(&address)?;
        Some((name, self.pods.get(name)?))
    }

    /// Where they are, by who they are.
    pub(crate) fn workloads(&self) -> BTreeMap<Identity, Arc<Workloads>> {
        let mut workloads = BTreeMap::<&Identity, Vec<_>>::new();
        for (address, name) in &self.by_address {
            let Some(PodNode { identity, plain_ports, .. }) = self.pods.get(name) else { continue };
            workloads.entry(identity).or_default().push((*address, MeshedPod { plain_ports: plain_ports.clone() }));
        }
        let workloads = workloads.into_iter();
        workloads.map(|(identity, pods)| (identity.clone(), Arc::new(Workloads { pods: pods.into_iter().collect() }))).collect()
    }

    /// What each asks of those who call it, by namespace and name; also of those that have no address yet.
    pub(crate) fn inbound(&self) -> BTreeMap<(String, String), Arc<Inbound>> {
        self.pods.iter().map(|(name, pod)| ((name.namespace.clone(), name.name.clone()), pod.inbound.clone())).collect()
    }

    /// What is wrong with annotations, and what is made of them.
    pub(crate) fn notes(&self) -> &BTreeMap<ObjectRef, Vec<String>> {
        &self.notes
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

impl PodNode {
    /// Whether only callers from the mesh are served on a port.
    pub(crate) fn is_strict(&self, port: u16) -> bool {
        self.inbound.mode_of(port) == MtlsMode::Strict && self.plain_ports.binary_search(&port).is_err()
    }
}

/// Who a pod is. None: its account cannot be written in the model; Kubernetes admits no such name.
fn identity(name: &NamespacedName, pod: &Pod) -> Option<Identity> {
    let account = pod.spec.service_account_name.as_deref().filter(|account| !account.is_empty()).unwrap_or(DEFAULT_ACCOUNT);
    (!account.contains('/')).then(|| Identity { namespace: name.namespace.clone(), account: account.to_owned() })
}

/// Pods that have or will have addresses of their own: those of a node are those of everything that is there.
fn running(objects: &Objects) -> impl Iterator<Item = (&NamespacedName, &Pod)> {
    let pods = objects.pods.iter().map(|(name, pod)| (name, &**pod));
    pods.filter(|(name, pod)| is_nameable(name) && !pod.is_over() && pod.spec.host_network != Some(true))
}

/// Whose each address is. Where a pod got the address of another one whose end was not heard of yet, it is that of the pod that started
/// last, with or without a sidecar: nobody is taken for the one that was there before.
fn owners(objects: &Objects) -> BTreeMap<IpAddr, &NamespacedName> {
    let mut owners = BTreeMap::<IpAddr, (i64, i64, &NamespacedName)>::new();
    for (name, pod) in running(objects) {
        let Some(status) = &pod.status else { continue };
        let created = pod.metadata.creation_timestamp.as_ref().map_or(i64::MIN, |time| time.0.as_second());
        let started = status.start_time.as_ref().map_or(created, |time| time.0.as_second());
        let candidate = (started, created, name);
        for address in status.pod_ips.iter().flatten().filter_map(|of| of.ip.parse::<IpAddr>().ok()) {
            let owner = owners.entry(address).or_insert(candidate);
            *owner = candidate.max(*owner);
        }
    }
    owners.into_iter().map(|(address, (_, _, name))| (address, name)).collect()
}

#[cfg(test)]
mod tests;
