//! The CRD objects of the Gateway API: a bundle -> what `kubectl apply` of its `standard-install.yaml` would leave, as far as a
//! controller looks at it (no schemas: admission has those).

use serde_json::{Value, json};

const GROUP: &str = "gateway.networking.k8s.io";

/// A release of the CRDs, in the standard channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bundle {
    /// The oldest that is supported.
    V1_5,
    /// One that is too old.
    V1_4,
    /// The one that this project pins.
    V1_7,
}

/// Plural, kind, singular-scoped, versions with the storage version last, and the first minor release that has it.
const KINDS: [(&str, &str, bool, &[&str], u8); 10] = [
    ("backendtlspolicies", "BackendTLSPolicy", true, &["v1"], 4),
    ("gatewayclasses", "GatewayClass", false, &["v1beta1", "v1"], 0),
    ("gateways", "Gateway", true, &["v1beta1", "v1"], 0),
    ("grpcroutes", "GRPCRoute", true, &["v1"], 1),
    ("httproutes", "HTTPRoute", true, &["v1beta1", "v1"], 0),
    ("listenersets", "ListenerSet", true, &["v1"], 5),
    ("referencegrants", "ReferenceGrant", true, &["v1", "v1beta1"], 0),
    ("tcproutes", "TCPRoute", true, &["v1"], 6),
    ("tlsroutes", "TLSRoute", true, &["v1"], 5),
    ("udproutes", "UDPRoute", true, &["v1"], 6),
];

impl Bundle {
    fn minor(self) -> u8 {
        match self {
            Self::V1_4 => 4,
            Self::V1_5 => 5,
            Self::V1_7 => 7,
        }
    }

    fn version(self) -> &'static str {
        match self {
            Self::V1_4 => "v1.4.1",
            Self::V1_5 => "v1.5.1",
            Self::V1_7 => "v1.7.0",
        }
    }

    /// The CRD objects.
    pub(super) fn objects(self) -> Vec<Value> {
        let there = KINDS.iter().filter(|(_, _, _, _, since)| *since <= self.minor());
        there
            .map(|(plural, kind, namespaced, versions, _)| {
                // ReferenceGrant became v1 in 1.5.
                let versions = if *kind == "ReferenceGrant" && self.minor() < 5 { &versions[1..] } else { versions };
                let mut object = crd(GROUP, plural, kind, *namespaced, versions, *kind != "ReferenceGrant");
                object["metadata"]["annotations"] = json!({
                    "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2466",
                    "gateway.networking.k8s.io/bundle-version": self.version(),
                    "gateway.networking.k8s.io/channel": "standard",
                });
                object
            })
            .collect()
    }
}

/// A CRD object that is established. The last version is the one that is stored.
pub(super) fn crd(group: &str, plural: &str, kind: &str, namespaced: bool, versions: &[&str], status: bool) -> Value {
    let storage = versions.last().copied().unwrap_or_default();
    let version = |name: &&str| {
        let mut version = json!({
            "name": name, "served": true, "storage": *name == storage,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        });
        if status {
            version["subresources"] = json!({"status": {}});
        }
        version
    };
    let versions: Vec<Value> = versions.iter().map(version).collect();
    let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")});
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "NoConflicts", "message": "", "lastTransitionTime": "2026-11-01T00:00:00Z"});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "names": names, "scope": if namespaced { "Namespaced" } else { "Cluster" }, "versions": versions},
        "status": {"acceptedNames": names, "storedVersions": [storage], "conditions": [condition("NamesAccepted"), condition("Established")]},
    })
}
