//! What is served: group, version and plural of a request -> the resource, from a table and from the CRD objects in the store.

use serde_json::Value;

use super::store::{Key, Store};

/// The group that CRD objects are of.
pub(super) const CRD_GROUP: &str = "apiextensions.k8s.io";
/// The plural of CRD objects.
pub(super) const CRD_PLURAL: &str = "customresourcedefinitions";

/// A kind that the server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// Empty for the core.
    pub(super) group: String,
    /// Those that are served, the preferred one first.
    pub(super) versions: Vec<String>,
    pub(super) plural: String,
    pub(super) kind: String,
    pub(super) namespaced: bool,
    /// Whether `status` is a sub-resource: other writes leave it alone.
    pub(super) status: bool,
    /// Whether `metadata.generation` counts changes.
    pub(super) generation: bool,
    /// Whether a CRD defines it.
    pub(super) custom: bool,
}

const NAMESPACED: u8 = 1;
const STATUS: u8 = 2;
const GENERATION: u8 = 4;

/// Group, version, plural, kind, and what holds of it.
const BUILT_IN: [(&str, &str, &str, &str, u8); 24] = [
    ("", "v1", "configmaps", "ConfigMap", NAMESPACED),
    ("", "v1", "endpoints", "Endpoints", NAMESPACED),
    ("", "v1", "events", "Event", NAMESPACED),
    ("", "v1", "namespaces", "Namespace", STATUS),
    ("", "v1", "nodes", "Node", STATUS),
    ("", "v1", "pods", "Pod", NAMESPACED | STATUS | GENERATION),
    ("", "v1", "secrets", "Secret", NAMESPACED),
    ("", "v1", "serviceaccounts", "ServiceAccount", NAMESPACED),
    ("", "v1", "services", "Service", NAMESPACED | STATUS),
    (CRD_GROUP, "v1", CRD_PLURAL, "CustomResourceDefinition", STATUS | GENERATION),
    ("apps", "v1", "daemonsets", "DaemonSet", NAMESPACED | STATUS | GENERATION),
    ("apps", "v1", "deployments", "Deployment", NAMESPACED | STATUS | GENERATION),
    ("apps", "v1", "replicasets", "ReplicaSet", NAMESPACED | STATUS | GENERATION),
    ("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", 0),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", NAMESPACED | STATUS),
    ("coordination.k8s.io", "v1", "leases", "Lease", NAMESPACED),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", NAMESPACED | GENERATION),
    ("events.k8s.io", "v1", "events", "Event", NAMESPACED),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", NAMESPACED | GENERATION),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", NAMESPACED | STATUS | GENERATION),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", 0),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", 0),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", NAMESPACED),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", NAMESPACED),
];

impl Resource {
    /// `httproutes.gateway.networking.k8s.io`, or `services` for the core.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The `apiVersion` of its objects in one version.
    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The preferred version.
    pub(super) fn version(&self) -> &str {
        self.versions.first().map_or("v1", String::as_str)
    }

    /// Where an object of it lives.
    pub(super) fn key(&self, namespace: &str, name: &str) -> Key {
        let namespace = if self.namespaced { namespace } else { "" };
        Key { group: self.group.clone(), plural: self.plural.clone(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// Everything that is served while there are these CRD objects.
pub(super) fn served<'a>(crds: impl Iterator<Item = &'a Value>) -> Vec<Resource> {
    let built_in = BUILT_IN.iter().map(|(group, version, plural, kind, what)| Resource {
        group: (*group).to_owned(),
        versions: vec![(*version).to_owned()],
        plural: (*plural).to_owned(),
        kind: (*kind).to_owned(),
        namespaced: what & NAMESPACED != 0,
        status: what & STATUS != 0,
        generation: what & GENERATION != 0,
        custom: false,
    });
    built_in.chain(crds.filter_map(custom)).collect()
}

/// The resource of a request, if it is served.
pub(super) fn find<'a>(store: &'a Store, group: &str, version: &str, plural: &str) -> Option<&'a Resource> {
    let is_it =
        |one: &&Resource| one.group == group && one.plural == plural && one.versions.iter().any(|served| served == version);
    store.served().iter().find(is_it)
}

/// The resource of an object, if it is served.
pub(super) fn of<'a>(store: &'a Store, object: &Value) -> Option<&'a Resource> {
    let api_version = object.get("apiVersion")?.as_str()?;
    let kind = object.get("kind")?.as_str()?;
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let is_it = |one: &&Resource| one.group == group && one.kind == kind && one.versions.iter().any(|served| served == version);
    store.served().iter().find(is_it)
}

/// The resource that a CRD object defines; none if it serves no version.
fn custom(crd: &Value) -> Option<Resource> {
    let text = |pointer: &str| crd.pointer(pointer)?.as_str().map(str::to_owned);
    let versions = crd.pointer("/spec/versions")?.as_array()?;
    let served = || versions.iter().filter(|version| version["served"] == true);
    let mut names: Vec<String> = served().filter_map(|version| Some(version["name"].as_str()?.to_owned())).collect();
    // Stable versions come before beta and alpha ones.
    names.sort_by_key(|name| (name.contains("alpha"), name.contains("beta")));
    (!names.is_empty()).then_some(())?;
    Some(Resource {
        group: text("/spec/group")?,
        versions: names,
        plural: text("/spec/names/plural")?,
        kind: text("/spec/names/kind")?,
        namespaced: crd.pointer("/spec/scope")? == "Namespaced",
        status: served().any(|version| version.pointer("/subresources/status").is_some()),
        generation: true,
        custom: true,
    })
}
