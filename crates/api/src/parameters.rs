//! `GatewayParameters`: how the data plane of a Gateway is run.
//!
//! A GatewayClass refers to one, and so may a Gateway; [`GatewayParametersSpec::overlay`] joins the two. No field has a default in the
//! schema, since an absent one has to stay absent until both are joined: whoever uses a field applies its default.
//!
//! The CRD is `charts/isthmus/files/crds/gatewayparameters.yaml`. A test below compares it with these types;
//! `UPDATE_EXPECT=1 cargo test -p isthmus-api crd` rewrites it.

mod client;
mod overlay;
mod pod;
mod service;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use client::{ClientParameters, ProxyProtocol, ServiceRoutes};
pub use pod::{AccessLog, Autoscaling, LogLevel, PodDisruptionBudget, Probe, Probes, Resources};
pub use service::{ExternalTrafficPolicy, ServiceParameters, ServiceType};

/// How the data plane of a Gateway is run: its pods, its Service and its addresses. The GatewayClass's parametersRef names one in a
/// namespace, a Gateway's infrastructure.parametersRef names one beside the Gateway. Where both set a field, the Gateway's value wins;
/// objects are joined field by field, lists and maps are replaced as a whole.
#[derive(CustomResource, JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "isthmus.dev",
    version = "v1alpha1",
    kind = "GatewayParameters",
    plural = "gatewayparameters",
    singular = "gatewayparameters",
    namespaced,
    derive = "PartialEq",
    doc = "How the data plane of a Gateway is run: its pods, its Service and its addresses.",
    validation = Rule::new("!(has(self.spec.replicas) && has(self.spec.autoscaling))").message("set replicas or autoscaling, not both")
)]
#[serde(rename_all = "camelCase")]
pub struct GatewayParametersSpec {
    /// How many proxy pods. Default: 2. What anybody else makes of the number is undone. Excludes autoscaling; of class and
    /// Gateway, the one that sets either decides both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// A HorizontalPodAutoscaler decides how many proxy pods. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// What a proxy container asks for and may use. Default: it asks for 100m of CPU and 128Mi of memory, without limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The Service in front of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceParameters>,
    /// How clients reach the proxies, and what is believed of what proxies before them say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientParameters>,
    /// Whether a request that a route leads to a Service with routes of its own is decided by those as well. Default: Ignore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_routes: Option<ServiceRoutes>,
    /// Whether each pod takes the listeners' ports on its node, whose addresses are then the Gateway's. Default: false. A change of the
    /// listeners' ports restarts the pods, there is at most one pod for a node, and the namespace must admit host ports (the Pod
    /// Security level "privileged"). service.type is ClusterIP then, unless it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<bool>,
    /// Addresses to give to Gateways whose Service is of type LoadBalancer: `192.0.2.0/28`, `192.0.2.10-192.0.2.20`,
    /// `2001:db8::/64`. A Gateway gets one of each IP family that has a pool and that its Service has. The first address of a
    /// prefix and the last one of an IPv4 prefix are left out. Pool addresses must be owned by a node or routed to the nodes.
    /// Default: none, which leaves addresses to the cluster's load balancer controller. Only a GatewayClass's parameters count: a
    /// namespace cannot give itself addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 100), regex(pattern = r"^[0-9A-Fa-f.:]+(/[0-9]{1,3}|-[0-9A-Fa-f.:]+)?$"))
    )]
    pub address_pools: Option<Vec<String>>,
    /// Labels that a pod's node must have. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints of nodes that pods tolerate. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub tolerations: Option<Vec<Toleration>>,
    /// The affinity of pods, as in a pod's spec. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "opaque")]
    pub affinity: Option<Affinity>,
    /// The PriorityClass of pods. Default: none, which is the cluster's default. Only a GatewayClass's parameters count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// How pods are spread, as in a pod's spec; a constraint without a labelSelector counts the Gateway's own pods. Default: over nodes as
    /// evenly as nodes allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), schema_with = "opaque_list")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// How the kubelet probes a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
    /// How long a pod that ends may take to finish the requests that it has, in seconds. Default: 40.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub termination_grace_period_seconds: Option<i64>,
    /// The image of the proxy. Default: the one that belongs to the controller. Only a GatewayClass's parameters count: whoever may write
    /// Gateways need not be somebody who may run programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// The PodDisruptionBudget, which exists if there is more than one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<PodDisruptionBudget>,
    /// How much a proxy logs. Default: Info.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// Where a proxy writes one line for each request. Default: Off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// The OTLP endpoint (HTTP with protobuf) for spans: `http://collector.observability:4318`. Default: none, and no spans are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^https?://.+$"))]
    pub otlp_endpoint: Option<String>,
}

/// For types whose schema is long: the API server judges the object that they end up in.
fn opaque(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true })
}

fn opaque_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "nullable": true,
        "maxItems": 16,
        "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kube::CustomResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "reads and writes what is committed")]
    fn crd_is_what_the_chart_installs() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/isthmus/files/crds/gatewayparameters.yaml");
        let actual = format!(
            "# Generated from crates/api/src/parameters.rs: UPDATE_EXPECT=1 cargo test -p isthmus-api crd\n{}",
            serde_saphyr::to_string(&GatewayParameters::crd()).unwrap()
        );
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &actual).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(actual == expected, "{} is out of date: UPDATE_EXPECT=1 cargo test -p isthmus-api crd", path.display());
    }

    #[test]
    fn decoding_loses_no_field() {
        let spec = json!({
            "replicas": 3,
            "autoscaling": {"minReplicas": 2, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70},
            "resources": {"requests": {"cpu": "100m", "memory": 1}, "limits": {"memory": "1Gi"}},
            "service": {"type": "NodePort", "loadBalancerClass": "x.y/z", "externalTrafficPolicy": "Local",
                "annotations": {"a": "b"}, "sourceRanges": ["10.0.0.0/8"]},
            "clients": {"proxyProtocol": "Required", "trustedHops": 2},
            "serviceRoutes": "Evaluate",
            "hostPort": true,
            "addressPools": ["192.0.2.0/28", "2001:db8::1-2001:db8::9"],
            "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}]}}},
            "priorityClassName": "p",
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "probes": {"readiness": {"periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 3}, "liveness": {"periodSeconds": 4}},
            "terminationGracePeriodSeconds": 90,
            "image": "docker.io/a/b:c",
            "podDisruptionBudget": {"minAvailable": "50%"},
            "logLevel": "Debug",
            "accessLog": "Stdout",
            "otlpEndpoint": "http://collector:4318",
        });
        let read: GatewayParametersSpec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), spec);
        assert_eq!(GatewayParametersSpec::default().overlay(&read), read);
    }

    #[test]
    fn enums_are_closed() {
        for wrong in [
            json!({"logLevel": "Loud"}),
            json!({"accessLog": "File"}),
            json!({"service": {"type": "ExternalName"}}),
            json!({"service": {"externalTrafficPolicy": "Some"}}),
            json!({"clients": {"proxyProtocol": "Optional"}}),
        ] {
            assert!(serde_json::from_value::<GatewayParametersSpec>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
