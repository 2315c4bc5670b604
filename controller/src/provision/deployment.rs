//! The Deployment of a Gateway.

use std::collections::BTreeMap;

use isthmus_api::core::apimachinery::pkg::util::intstr::IntOrString;
use isthmus_api::parameters::{GatewayParametersSpec, Probe};
use isthmus_routing::GatewayKey;
use isthmus_translate::Infrastructure;
use serde_json::{Value, json};

use super::{Settings, names};

/// How many pods, if nobody says.
pub(super) const REPLICAS: i32 = 2;
/// Seconds that a pod may take to end, if nobody says. While pods of a namespace that is deleted end, Kubernetes looks again after half of
/// the longest grace among them; with this one a namespace is gone before half a minute is over.
const GRACE: i64 = 40;
/// The user and group that a proxy runs as: clear of 65532 (distroless), 1337 (Istio) and 2102 (Linkerd).
const UID: u32 = 21420;
/// `/readyz`, `/livez`, `/metrics` of a proxy.
const ADMIN: u16 = 15412;
/// Whom a proxy's token is for.
const AUDIENCE: &str = crate::authenticate::AUDIENCE;

/// The `spec` of the Deployment. Nothing in it follows from listeners, unless pods take their ports on the node.
pub(super) fn spec(gateway: &GatewayKey, infrastructure: &Infrastructure, settings: &Settings) -> Value {
    let parameters = &infrastructure.parameters;
    let on_host = parameters.host_port == Some(true);
    // A pod that takes ports of its node has to be gone before its successor can start there.
    let update =
        if on_host { json!({ "maxSurge": 0, "maxUnavailable": 1 }) } else { json!({ "maxSurge": 1, "maxUnavailable": 0 }) };
    json!({
        // The autoscaler owns the field where there is one.
        "replicas": parameters.autoscaling.is_none().then(|| parameters.replicas.unwrap_or(REPLICAS)),
        "selector": { "matchLabels": names::selector(gateway) },
        "strategy": { "type": "RollingUpdate", "rollingUpdate": update },
        "minReadySeconds": 2,
        "revisionHistoryLimit": 3,
        "template": {
            "metadata": {
                "labels": names::labels(gateway, &infrastructure.labels),
                "annotations": Some(&infrastructure.annotations).filter(|annotations| !annotations.is_empty()),
            },
            "spec": pod(gateway, infrastructure, settings),
        },
    })
}

/// A pod that the Pod Security level `restricted` admits, but for host ports.
fn pod(gateway: &GatewayKey, infrastructure: &Infrastructure, settings: &Settings) -> Value {
    let parameters = &infrastructure.parameters;
    let name = names::object_name(gateway);
    let secrets: Vec<_> = settings.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    json!({
        "serviceAccountName": name,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace(parameters),
        "imagePullSecrets": Some(secrets).filter(|secrets| !secrets.is_empty()),
        "nodeSelector": parameters.node_selector.as_ref().filter(|selector| !selector.is_empty()),
        "tolerations": parameters.tolerations.as_ref().filter(|tolerations| !tolerations.is_empty()),
        "affinity": parameters.affinity,
        "priorityClassName": parameters.priority_class_name,
        "topologySpreadConstraints": spread(gateway, parameters),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "seccompProfile": { "type": "RuntimeDefault" },
            // Ports below 1024 without a capability.
            "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }],
        },
        "containers": [container(gateway, infrastructure, settings)],
        "volumes": [
            { "name": "token", "projected": { "sources": [
                { "serviceAccountToken": { "audience": AUDIENCE, "expirationSeconds": 3600, "path": "token" } },
            ] } },
            { "name": "ca", "configMap": { "name": name, "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            { "name": "config", "emptyDir": { "medium": "Memory", "sizeLimit": "64Mi" } },
        ],
    })
}

fn container(gateway: &GatewayKey, infrastructure: &Infrastructure, settings: &Settings) -> Value {
    let parameters = &infrastructure.parameters;
    let probes = parameters.probes.clone().unwrap_or_default();
    json!({
        "name": "gateway",
        "image": parameters.image.as_ref().unwrap_or(&settings.image),
        "imagePullPolicy": settings.image_pull_policy,
        "env": environment(gateway, parameters, settings),
        "ports": ports(infrastructure),
        "resources": resources(parameters),
        "readinessProbe": probe("/readyz", probes.readiness.as_ref(), [1, 1, 3]),
        "livenessProbe": probe("/livez", probes.liveness.as_ref(), [10, 5, 6]),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [
            { "name": "token", "mountPath": "/var/run/isthmus/token", "readOnly": true },
            { "name": "ca", "mountPath": "/var/run/isthmus/ca", "readOnly": true },
            { "name": "config", "mountPath": "/var/run/isthmus/config" },
        ],
    })
}

/// Only the admin port: listeners come and go without a new pod. Ports of the node have to be named.
fn ports(infrastructure: &Infrastructure) -> Vec<Value> {
    let mut ports = vec![json!({ "name": "admin", "containerPort": ADMIN, "protocol": "TCP" })];
    if infrastructure.parameters.host_port == Some(true) {
        ports.extend(infrastructure.ports.iter().map(|(port, transport)| {
            json!({ "name": names::port((*port, *transport)), "containerPort": port, "hostPort": port, "protocol": transport })
        }));
    }
    ports
}

fn environment(gateway: &GatewayKey, parameters: &GatewayParametersSpec, settings: &Settings) -> Vec<Value> {
    let literal = |name: &str, value: &str| json!({ "name": name, "value": value });
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    // Going on while balancers notice, then until what is left is cut, a little before the kubelet does it.
    let lame_duck = (grace(parameters) / 6).min(10);
    let drain = grace(parameters) - lame_duck.max(1);
    let mut variables = vec![
        literal("ISTHMUS_CONTROLLER", &settings.controller),
        literal("ISTHMUS_LOG", parameters.log_level.unwrap_or_default().as_str()),
        literal("ISTHMUS_ACCESS_LOG", parameters.access_log.unwrap_or_default().as_str()),
        literal("ISTHMUS_LAME_DUCK", &lame_duck.to_string()),
        literal("ISTHMUS_DRAIN", &drain.to_string()),
        literal("GATEWAY_NAME", &gateway.name),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IPS", "status.podIPs"),
    ];
    variables.extend(parameters.otlp_endpoint.as_deref().map(|endpoint| literal("ISTHMUS_OTLP", endpoint)));
    variables
}

/// Seconds.
fn grace(parameters: &GatewayParametersSpec) -> i64 {
    parameters.termination_grace_period_seconds.unwrap_or(GRACE)
}

fn resources(parameters: &GatewayParametersSpec) -> Value {
    let given = parameters.resources.clone().unwrap_or_default();
    let text = |amounts: BTreeMap<String, IntOrString>| -> BTreeMap<String, String> {
        let amount = |amount| match amount {
            IntOrString::Int(whole) => whole.to_string(),
            IntOrString::String(text) => text,
        };
        amounts.into_iter().map(|(resource, value)| (resource, amount(value))).collect()
    };
    let requests = given.requests.map_or_else(|| json!({ "cpu": "100m", "memory": "128Mi" }), |requests| json!(text(requests)));
    json!({ "requests": requests, "limits": given.limits.map(text) })
}

/// Period, timeout and threshold, each with its default.
fn probe(path: &str, probe: Option<&Probe>, [period, timeout, threshold]: [i32; 3]) -> Value {
    let probe = probe.cloned().unwrap_or_default();
    json!({
        "httpGet": { "path": path, "port": "admin", "scheme": "HTTP" },
        "periodSeconds": probe.period_seconds.unwrap_or(period),
        "timeoutSeconds": probe.timeout_seconds.unwrap_or(timeout),
        "failureThreshold": probe.failure_threshold.unwrap_or(threshold),
    })
}

/// What is asked for, about our own pods where it does not say which; or evenly over nodes if that is possible.
fn spread(gateway: &GatewayKey, parameters: &GatewayParametersSpec) -> Value {
    let own = json!({ "matchLabels": names::selector(gateway) });
    let Some(constraints) = &parameters.topology_spread_constraints else {
        return json!([{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": own,
            "matchLabelKeys": ["pod-template-hash"],
        }]);
    };
    let constraints = constraints.iter().map(|constraint| {
        let mut constraint = json!(constraint);
        if constraint.get("labelSelector").is_none_or(Value::is_null) {
            constraint["labelSelector"] = own.clone();
        }
        constraint
    });
    json!(constraints.collect::<Vec<_>>())
}
