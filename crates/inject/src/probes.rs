//! Probes of the kubelet: the sidecar asks for it, because the kubelet cannot prove who it is.

use serde_json::{Map, Value, json};

use crate::outcome::Refusal;
use crate::{ADMIN, PORTS, pod};

const KINDS: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];

/// Puts a probe of the sidecar in the place of each one that comes over the network to the pod, and returns what each asks for, by the
/// number in its path. Besides one of `http`, `tcp` and `grpc` each has its `timeout` in seconds. What runs in the container (`exec`)
/// stays, and so does what goes to another host.
pub(crate) fn rewrite(pod: &mut Value) -> Result<Vec<Value>, Refusal> {
    let mut asked = Vec::new();
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            for kind in KINDS {
                let Some(question) = question(container, kind)? else { continue };
                let Some(probe) = container.get_mut(kind).and_then(Value::as_object_mut) else { continue };
                for way in ["httpGet", "tcpSocket", "grpc"] {
                    probe.remove(way);
                }
                let path = format!("/probe/{}", asked.len());
                probe.insert("httpGet".to_owned(), json!({ "path": path, "port": ADMIN, "scheme": "HTTP" }));
                asked.push(question);
            }
        }
    }
    Ok(asked)
}

fn question(container: &Value, kind: &'static str) -> Result<Option<Value>, Refusal> {
    let Some(probe) = container.get(kind) else { return Ok(None) };
    let way = |name: &str| probe.get(name).filter(|way| way.is_object());
    let text =
        |way: &Value, field: &str| way.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let is_elsewhere = |way: &Value| text(way, "host").is_some();
    let (name, asked) = if let Some(http) = way("httpGet") {
        if is_elsewhere(http) {
            return Ok(None);
        }
        let mut asked = json!({
            "port": port(container, kind, http)?,
            "path": text(http, "path").unwrap_or_else(|| "/".to_owned()),
            "scheme": if text(http, "scheme").as_deref() == Some("HTTPS") { "HTTPS" } else { "HTTP" },
        });
        let headers = http.get("httpHeaders").and_then(Value::as_array).into_iter().flatten();
        let part = |header, field| text(header, field).unwrap_or_default();
        let headers: Vec<_> =
            headers.map(|header| json!({ "name": part(header, "name"), "value": part(header, "value") })).collect();
        if !headers.is_empty() {
            asked["headers"] = headers.into();
        }
        ("http", asked)
    } else if let Some(tcp) = way("tcpSocket") {
        if is_elsewhere(tcp) {
            return Ok(None);
        }
        ("tcp", json!({ "port": port(container, kind, tcp)? }))
    } else if let Some(grpc) = way("grpc") {
        ("grpc", json!({ "port": port(container, kind, grpc)?, "service": text(grpc, "service").unwrap_or_default() }))
    } else {
        return Ok(None);
    };
    let timeout = probe.get("timeoutSeconds").and_then(Value::as_u64).filter(|seconds| *seconds > 0).unwrap_or(1);
    Ok(Some(Value::Object(Map::from_iter([(name.to_owned(), asked), ("timeout".to_owned(), timeout.into())]))))
}

/// A number, or the name of one of the container's ports.
fn port(container: &Value, probe: &'static str, way: &Value) -> Result<u16, Refusal> {
    let port = way.get("port").unwrap_or(&Value::Null);
    let named = |name: &str| pod::ports(container).find(|(known, _)| *known == name).map(|(_, port)| port);
    let number = match port {
        Value::String(text) => named(text).or_else(|| text.parse().ok()),
        other => other.as_u64(),
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
    // The sidecar would ask itself, and so on.
    if let Some(own) = number.filter(|number| PORTS.contains(number)) {
        return Err(Refusal::Port { container: pod::name(container).to_owned(), port: own.into() });
    }
    number.ok_or_else(|| Refusal::ProbePort {
        container: pod::name(container).to_owned(),
        probe,
        port: port.as_str().map_or_else(|| port.to_string(), str::to_owned),
    })
}
