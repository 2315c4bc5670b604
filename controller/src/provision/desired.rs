//! A Gateway's infrastructure -> the objects that carry it.

use std::collections::BTreeMap;

use isthmus_api::NamespacedName;
use isthmus_api::parameters::{Autoscaling, ServiceType};
use isthmus_routing::GatewayKey;
use isthmus_translate::Infrastructure;
use kube::api::ApiResource;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Settings, deployment, names, service};

/// The annotation with the hash of what was applied: a field that is no longer wanted is noticed by it.
pub(super) const APPLIED: &str = "isthmus.dev/applied";

/// The kinds of object that a Gateway is given, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnKind {
    /// Who the pods are.
    ServiceAccount,
    /// What they trust the controller by.
    ConfigMap,
    /// Where clients connect.
    Service,
    /// The pods.
    Deployment,
    /// How many pods, if that is not fixed.
    HorizontalPodAutoscaler,
    /// How many pods an eviction leaves.
    PodDisruptionBudget,
}

/// An object that a Gateway should have.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// What it is.
    pub kind: OwnKind,
    /// The whole object, as it is applied.
    pub body: Value,
}

impl OwnKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Service,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
        Self::PodDisruptionBudget,
    ];

    /// The kind as objects spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::Deployment => "Deployment",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
        }
    }

    /// Where the API server has it.
    pub fn resource(self) -> ApiResource {
        let (group, version, plural) = match self {
            Self::ServiceAccount => ("", "v1", "serviceaccounts"),
            Self::ConfigMap => ("", "v1", "configmaps"),
            Self::Service => ("", "v1", "services"),
            Self::Deployment => ("apps", "v1", "deployments"),
            Self::HorizontalPodAutoscaler => ("autoscaling", "v2", "horizontalpodautoscalers"),
            Self::PodDisruptionBudget => ("policy", "v1", "poddisruptionbudgets"),
        };
        ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: if group.is_empty() { version.into() } else { format!("{group}/{version}") },
            kind: self.as_str().into(),
            plural: plural.into(),
        }
    }
}

/// The namespace and name of each object of a Gateway.
pub fn location(gateway: &GatewayKey) -> NamespacedName {
    NamespacedName::new(&gateway.namespace, names::object_name(gateway))
}

/// The objects that a Gateway should have, in the order in which they are made. The same input gives the same bytes.
///
/// The Gateway owns them, so the garbage collector deletes them with it. Its labels and annotations are on each of them and on the pods.
/// Ports of listeners are only in the Service (with `hostPort`: in the pods too), so a change of listeners never restarts a pod.
pub fn desired(gateway: &GatewayKey, infrastructure: &Infrastructure, settings: &Settings, bundle: &str) -> Vec<Wanted> {
    let object = |kind, annotations: Option<&BTreeMap<String, String>>, rest: Value| {
        let mut annotations = annotations.cloned().unwrap_or_default();
        annotations.extend(infrastructure.annotations.clone());
        wanted(kind, gateway, infrastructure, &annotations, rest)
    };
    let parameters = &infrastructure.parameters;
    let service_annotations = parameters.service.as_ref().and_then(|service| service.annotations.as_ref());
    let mut objects = vec![
        object(OwnKind::ServiceAccount, None, json!({ "automountServiceAccountToken": false })),
        object(OwnKind::ConfigMap, None, json!({ "data": { "ca.crt": bundle } })),
        object(OwnKind::Service, service_annotations, json!({ "spec": service::spec(gateway, infrastructure) })),
        object(OwnKind::Deployment, None, json!({ "spec": deployment::spec(gateway, infrastructure, settings) })),
    ];
    if let Some(autoscaling) = &parameters.autoscaling {
        objects.push(object(OwnKind::HorizontalPodAutoscaler, None, json!({ "spec": autoscaler(gateway, autoscaling) })));
    }
    if fewest_pods(infrastructure) > 1 {
        let budget = parameters.pod_disruption_budget.as_ref().and_then(|budget| budget.min_available.clone());
        let spec = json!({
            "minAvailable": budget.map_or(json!(1), |budget| json!(budget)),
            "selector": { "matchLabels": names::selector(gateway) },
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        });
        objects.push(object(OwnKind::PodDisruptionBudget, None, json!({ "spec": spec })));
    }
    objects
}

/// The type of the Gateway's Service: with host ports, clients need none.
pub fn service_type(infrastructure: &Infrastructure) -> ServiceType {
    let parameters = &infrastructure.parameters;
    let default = if parameters.host_port == Some(true) { ServiceType::ClusterIP } else { ServiceType::default() };
    parameters.service.as_ref().and_then(|service| service.r#type).unwrap_or(default)
}

/// Whether the Gateway's addresses come from pools of ours.
pub fn is_pooled(infrastructure: &Infrastructure) -> bool {
    service_type(infrastructure) == ServiceType::LoadBalancer
        && infrastructure.parameters.address_pools.as_ref().is_some_and(|pools| !pools.is_empty())
}

fn fewest_pods(infrastructure: &Infrastructure) -> i32 {
    match &infrastructure.parameters.autoscaling {
        Some(autoscaling) => bounds(autoscaling).0,
        None => infrastructure.parameters.replicas.unwrap_or(deployment::REPLICAS),
    }
}

/// The fewest and the most pods.
fn bounds(autoscaling: &Autoscaling) -> (i32, i32) {
    let fewest = autoscaling
        .min_replicas
        .unwrap_or_else(|| autoscaling.max_replicas.unwrap_or(deployment::REPLICAS).min(deployment::REPLICAS));
    (fewest, autoscaling.max_replicas.unwrap_or(10).max(fewest))
}

fn autoscaler(gateway: &GatewayKey, autoscaling: &Autoscaling) -> Value {
    let (fewest, most) = bounds(autoscaling);
    let utilization = autoscaling.target_cpu_utilization_percentage.unwrap_or(80);
    json!({
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": names::object_name(gateway) },
        "minReplicas": fewest,
        "maxReplicas": most,
        "metrics": [{
            "type": "Resource",
            "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": utilization } },
        }],
    })
}

fn wanted(
    kind: OwnKind,
    gateway: &GatewayKey,
    infrastructure: &Infrastructure,
    annotations: &BTreeMap<String, String>,
    rest: Value,
) -> Wanted {
    let resource = kind.resource();
    let mut body = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": names::object_name(gateway),
            "namespace": gateway.namespace,
            "labels": names::labels(gateway, &infrastructure.labels),
            "annotations": annotations,
            // Without blockOwnerDeletion, which would need rights on the Gateway's finalizers.
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": gateway.name,
                "uid": infrastructure.uid,
                "controller": true,
                "blockOwnerDeletion": false,
            }],
        },
    });
    if let (Value::Object(body), Value::Object(rest)) = (&mut body, without_nulls(rest)) {
        body.extend(rest);
    }
    let hash = names::hex(&Sha256::digest(body.to_string()), 16);
    if let Some(Value::Object(annotations)) = body.pointer_mut("/metadata/annotations") {
        annotations.insert(APPLIED.to_owned(), hash.into());
    }
    Wanted { kind, body }
}

/// Without fields that are null, at any depth: an absent field is one that we do not own.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
