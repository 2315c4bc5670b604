//! What is added to a pod.

use isthmus_api::pod::EXCLUDE_INBOUND_PORTS;
use serde_json::{Value, json};

use crate::annotations::Annotations;
use crate::{ADMIN, PROXY, REDIRECT, Settings, UID};

/// The volume with the token that the sidecar shows to the controller.
pub(crate) const TOKEN: &str = "isthmus-token";
/// The volume with what the sidecar keeps: its last configuration and its certificate.
pub(crate) const CONFIG: &str = "isthmus-config";
/// Where Kubernetes puts a token for its API, unless something is there.
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Whom the token is for.
const AUDIENCE: &str = "isthmus.dev/push";

/// Redirects, and ends: before any other container, so that none does anything that is not captured. It needs to be root in the pod's
/// network and nothing else.
pub(crate) fn redirect(settings: &Settings, annotations: &Annotations) -> Value {
    let joined = |parts: Vec<String>| Some(parts.join(",")).filter(|joined| !joined.is_empty());
    let ports = |ports: &[u16]| joined(ports.iter().map(u16::to_string).collect());
    let cidrs = joined(annotations.outbound_cidrs.iter().map(ToString::to_string).collect());
    let flags = [
        ("--exclude-outbound-ports", ports(&annotations.outbound_ports)),
        (EXCLUDE_INBOUND_PORTS, ports(&annotations.inbound_ports)),
        ("--exclude-outbound-cidrs", cidrs),
    ];
    let flags = flags.into_iter().filter_map(|(flag, value)| value.map(|value| format!("{flag}={value}")));
    let args: Vec<String> = ["redirect".to_owned()].into_iter().chain(flags).collect();
    json!({
        "name": REDIRECT,
        "image": settings.redirect.name,
        "imagePullPolicy": settings.redirect.pull_policy,
        "args": args,
        "resources": settings.resources,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [no_api_token()],
    })
}

/// The sidecar. Whatever starts after it waits until it serves.
pub(crate) fn proxy(settings: &Settings, annotations: &Annotations, asked: (&[Value], Option<&Value>)) -> Value {
    json!({
        "name": PROXY,
        "image": settings.proxy.name,
        "imagePullPolicy": settings.proxy.pull_policy,
        "args": ["run"],
        "restartPolicy": "Always",
        "env": environment(settings, annotations, asked),
        "ports": [{ "name": "isthmus-admin", "containerPort": ADMIN, "protocol": "TCP" }],
        // Ten minutes for a controller that is away: each restart after that would only add to the wait.
        "startupProbe": ready(1, 600),
        "readinessProbe": ready(2, 3),
        "resources": settings.resources,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": UID,
            "runAsGroup": UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": TOKEN, "mountPath": "/var/run/isthmus/token", "readOnly": true },
            { "name": CONFIG, "mountPath": "/var/run/isthmus/config" },
            no_api_token(),
        ],
    })
}

/// Takes the place: our containers ask nothing of the API server, and should not be able to do it in the application's name.
fn no_api_token() -> Value {
    json!({ "name": CONFIG, "mountPath": API_TOKEN, "readOnly": true })
}

pub(crate) fn volumes() -> [Value; 2] {
    let token = json!({ "serviceAccountToken": { "audience": AUDIENCE, "expirationSeconds": 3600, "path": "token" } });
    [
        json!({ "name": TOKEN, "projected": { "sources": [token] } }),
        json!({ "name": CONFIG, "emptyDir": { "medium": "Memory", "sizeLimit": "64Mi" } }),
    ]
}

fn environment(settings: &Settings, annotations: &Annotations, (probes, scrape): (&[Value], Option<&Value>)) -> Vec<Value> {
    let literal = |name: &str, value: &str| json!({ "name": name, "value": verbatim(value) });
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let mut variables = vec![
        literal("ISTHMUS_CONTROLLER", &settings.controller),
        literal("ISTHMUS_CA", &settings.ca),
        literal("ISTHMUS_LOG", &settings.log),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IPS", "status.podIPs"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ];
    if !probes.is_empty() {
        variables.push(literal("ISTHMUS_PROBES", &Value::from(probes).to_string()));
    }
    variables.extend(annotations.threads.map(|threads| literal("ISTHMUS_THREADS", &threads.to_string())));
    variables.extend(scrape.map(|scrape| literal("ISTHMUS_SCRAPE", &scrape.to_string())));
    variables
}

/// A text in which the kubelet finds no `$(VARIABLE)` to replace.
fn verbatim(text: &str) -> String {
    text.replace('$', "$$")
}

fn ready(period: u32, threshold: u32) -> Value {
    json!({
        "httpGet": { "path": "/readyz", "port": ADMIN, "scheme": "HTTP" },
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": threshold,
    })
}
