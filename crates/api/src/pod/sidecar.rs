//! The init containers of a pod that make it one of the mesh, and what is kept of them. The injector writes them (`isthmus-inject`).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The sidecar: an init container that stays.
pub const PROXY: &str = "isthmus-proxy";

/// The init container that leads the pod's connections to the sidecar, before any other one.
pub const REDIRECT: &str = "isthmus-redirect";

/// Its argument for ports of which it leaves alone what comes in: `80,443`.
pub const EXCLUDE_INBOUND_PORTS: &str = "--exclude-inbound-ports";

/// What init containers that stay restart.
const ALWAYS: &str = "Always";

/// What the sidecar of a pod takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sidecar {
    /// Ports of the pod on which connections come straight to the application. Sorted, each once. What is no port is left out: the redirect
    /// does not start with it, so such a pod never runs.
    pub plain_ports: Vec<u16>,
}

/// What is read of an init container.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct InitContainer {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Vec<String>>,
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Sidecar>, D::Error> {
    let containers = Option::<Vec<InitContainer>>::deserialize(deserializer)?.unwrap_or_default();
    let is_sidecar = |of: &InitContainer| of.name == PROXY && of.restart_policy.as_deref() == Some(ALWAYS);
    if !containers.iter().any(is_sidecar) {
        return Ok(None);
    }
    let redirect = containers.into_iter().find(|container| container.name == REDIRECT);
    let args = redirect.and_then(|container| container.args).unwrap_or_default();
    Ok(Some(Sidecar { plain_ports: plain_ports(&args) }))
}

pub(super) fn serialize<S: Serializer>(sidecar: &Option<Sidecar>, serializer: S) -> Result<S::Ok, S::Error> {
    let containers = sidecar.as_ref().map(|Sidecar { plain_ports }| {
        let ports = plain_ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let redirect = (!ports.is_empty()).then(|| InitContainer {
            name: REDIRECT.to_owned(),
            args: Some(vec![format!("{EXCLUDE_INBOUND_PORTS}={ports}")]),
            ..InitContainer::default()
        });
        let proxy = InitContainer { name: PROXY.to_owned(), restart_policy: Some(ALWAYS.to_owned()), ..InitContainer::default() };
        redirect.into_iter().chain([proxy]).collect::<Vec<_>>()
    });
    containers.serialize(serializer)
}

/// The value is in the argument, or is the next one.
fn plain_ports(args: &[String]) -> Vec<u16> {
    let mut ports = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = match arg.strip_prefix(EXCLUDE_INBOUND_PORTS) {
            Some("") => args.next().map(String::as_str),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        let entries = value.into_iter().flat_map(|value| value.split(','));
        ports.extend(entries.filter_map(|entry| entry.trim().parse::<u16>().ok()).filter(|port| *port > 0));
    }
    ports.sort_unstable();
    ports.dedup();
    ports.shrink_to_fit();
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::PodSpec;
    use super::Sidecar;

    fn proxy() -> Value {
        json!({"name": "isthmus-proxy", "restartPolicy": "Always", "args": ["--exclude-inbound-ports=9"]})
    }

    #[test]
    fn what_makes_a_pod_one_of_the_mesh() {
        let but = |field: &str, value: Value| {
            let mut proxy = proxy();
            proxy[field] = value;
            json!({"initContainers": [proxy]})
        };
        for (spec, expected) in [
            (json!({}), false),
            (json!({"initContainers": null}), false),
            (json!({"initContainers": []}), false),
            (json!({"initContainers": [proxy()]}), true),
            (json!({"initContainers": [{"name": "prepare"}, proxy()]}), true),
            (json!({"containers": [proxy()]}), false),
            (but("name", json!("isthmus-redirect")), false),
            (but("restartPolicy", json!(null)), false),
            (but("restartPolicy", json!("OnFailure")), false),
        ] {
            let read: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(read.sidecar, expected.then(Sidecar::default), "{spec}");
        }
    }

    #[test]
    fn which_ports_the_redirect_leaves_alone() {
        for (args, expected) in [
            (json!(null), &[][..]),
            (json!(["redirect"]), &[]),
            (json!(["redirect", "--exclude-inbound-ports=443,80,80"]), &[80, 443]),
            (json!(["redirect", "--exclude-inbound-ports", "443, 80,"]), &[80, 443]),
            (json!(["redirect", "--exclude-inbound-ports"]), &[]),
            (json!(["redirect", "--exclude-inbound-ports="]), &[]),
            (json!(["redirect", "--exclude-outbound-ports=80", "--exclude-inbound-portsx=81", "82"]), &[]),
            (json!(["redirect", "--exclude-inbound-ports=80,x,0,65536,$(PORT)"]), &[80]),
        ] {
            let redirect = json!({"name": "isthmus-redirect", "args": args});
            let read: PodSpec = serde_json::from_value(json!({"initContainers": [redirect, proxy()]})).unwrap();
            assert_eq!(read.sidecar.as_ref().unwrap().plain_ports, expected, "{args}");
            let again: PodSpec = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
            assert_eq!(again, read, "{args}");
            let alone: PodSpec = serde_json::from_value(json!({"initContainers": [redirect]})).unwrap();
            assert_eq!(alone.sidecar, None, "a redirect without a sidecar makes no mesh");
        }
    }
}
