//! Pods, cut down to who they are and where: a cluster has many, and each is in memory.

mod sidecar;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodIP;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

pub use sidecar::{EXCLUDE_INBOUND_PORTS, PROXY, REDIRECT, Sidecar};

use crate::{Kind, ObjectMeta};

/// What is read of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Pod {
    /// Its names, times and version, and the annotations of ours.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Who it is.
    #[serde(default)]
    pub spec: PodSpec,
    /// Where it is.
    #[serde(default)]
    pub status: Option<PodStatus>,
}

/// What is read of the `spec` of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Its account; an API server always names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Whether its addresses are those of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
    /// What its init containers make of its connections; None: nothing, it has no sidecar. An API server lets nobody change that of a pod
    /// that is there, as anybody who may edit it can change its annotations.
    #[serde(default, rename = "initContainers", with = "sidecar", skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
}

/// What is read of the `status` of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Its addresses, one for each family.
    #[serde(default, rename = "podIPs", skip_serializing_if = "Option::is_none")]
    pub pod_ips: Option<Vec<PodIP>>,
    /// When its node took it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// Only whether it is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PodCondition>,
}

/// What is read of a condition of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCondition {
    /// `Ready`
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// The annotation of a pod that got a sidecar; it says of which version. A mark for people and for the injector: whether it has one is
/// told by [`PodSpec::sidecar`].
pub const INJECTED: &str = "isthmus.dev/injected";

/// The condition of a pod whose containers serve.
const READY: &str = "Ready";

/// Annotations that mean something here begin so.
const OWN: &str = "isthmus.dev/";

impl Pod {
    /// Forgets the metadata that nobody reads.
    pub(crate) fn trimmed(self) -> Self {
        let ObjectMeta { annotations, name, namespace, uid, resource_version, creation_timestamp, deletion_timestamp, .. } =
            self.metadata;
        let own = |annotations: BTreeMap<String, String>| {
            let own: BTreeMap<_, _> = annotations.into_iter().filter(|(key, _)| key.starts_with(OWN)).collect();
            (!own.is_empty()).then_some(own)
        };
        let metadata = ObjectMeta {
            annotations: annotations.and_then(own),
            name,
            namespace,
            uid,
            resource_version,
            creation_timestamp,
            deletion_timestamp,
            ..ObjectMeta::default()
        };
        let mut status = self.status;
        if let Some(status) = &mut status {
            status.conditions.retain(|condition| condition.r#type == READY);
            status.conditions.shrink_to_fit();
        }
        Self { metadata, status, ..self }
    }

    /// Whether it has a sidecar, whatever its annotations say.
    pub fn has_sidecar(&self) -> bool {
        self.spec.sidecar.is_some()
    }

    /// Whether it says that it is ready.
    pub fn is_ready(&self) -> bool {
        let conditions = self.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|condition| condition.r#type == READY && condition.status == "True")
    }

    /// Whether it has ended for good: its addresses are anybody's.
    pub fn is_over(&self) -> bool {
        let phase = self.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// The value of an annotation of ours.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

impl Serialize for Pod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pod = serializer.serialize_struct("Pod", 5)?;
        pod.serialize_field("apiVersion", &Kind::Pod.api_version())?;
        pod.serialize_field("kind", Kind::Pod.as_str())?;
        pod.serialize_field("metadata", &self.metadata)?;
        pod.serialize_field("spec", &self.spec)?;
        match &self.status {
            Some(status) => pod.serialize_field("status", status)?,
            None => pod.skip_field("status")?,
        }
        pod.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{Objects, decode};

    #[test]
    fn little_is_kept() {
        let whole = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "cart-1", "namespace": "shop", "uid": "u", "resourceVersion": "5", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"isthmus.dev/injected": "0.1.0", "kubectl.kubernetes.io/restartedAt": "now"}, "labels": {"app": "cart"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u"}],
                "managedFields": [{"manager": "kubelet"}],
            },
            "spec": {
                "serviceAccountName": "cart", "hostNetwork": false, "containers": [{"name": "app", "image": "app"}],
                "initContainers": [
                    {"name": "isthmus-redirect", "image": "r", "args": ["redirect", "--exclude-outbound-ports=25", "--exclude-inbound-ports=443,80"]},
                    {"name": "isthmus-proxy", "image": "p", "restartPolicy": "Always", "args": ["run"], "env": [{"name": "A", "value": "b"}]},
                    {"name": "prepare", "image": "i", "args": ["x"]},
                ],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIP": "10.1.0.1",
                "startTime": "2026-01-01T00:00:01Z",
                "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True", "reason": "R"}],
            },
        });
        let kept = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "cart-1", "namespace": "shop", "uid": "u", "resourceVersion": "5", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"isthmus.dev/injected": "0.1.0"},
            },
            "spec": {
                "serviceAccountName": "cart", "hostNetwork": false,
                "initContainers": [
                    {"name": "isthmus-redirect", "args": ["--exclude-inbound-ports=80,443"]},
                    {"name": "isthmus-proxy", "restartPolicy": "Always"},
                ],
            },
            "status": {
                "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "startTime": "2026-01-01T00:00:01Z",
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        let pod = decode(whole).unwrap();
        assert_eq!(pod.to_json().unwrap(), kept);
        assert_eq!(decode(kept).unwrap(), pod);
        let bare = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"}, "spec": {}});
        assert_eq!(decode(bare.clone()).unwrap().to_json().unwrap(), bare);
        let mut objects = Objects::default();
        objects.apply(pod.clone());
        assert_eq!(pod.object_ref().to_string(), "Pod/shop/cart-1");
        assert_eq!(objects.remove(&pod.object_ref()), Some(pod));
    }

    #[test]
    fn a_pod_is_over_when_it_cannot_come_back() {
        for (phase, expected) in
            [("Pending", false), ("Running", false), ("Unknown", false), ("", false), ("Succeeded", true), ("Failed", true)]
        {
            let status = super::PodStatus { phase: Some(phase.to_owned()), ..super::PodStatus::default() };
            assert_eq!(super::Pod { status: Some(status), ..super::Pod::default() }.is_over(), expected, "{phase}");
        }
        assert!(!super::Pod::default().is_over());
    }
}
