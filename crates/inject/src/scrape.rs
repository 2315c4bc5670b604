//! What Prometheus is told to scrape by annotations: the sidecar asks for it.

use serde_json::{Value, json};

use crate::{ADMIN, PORTS, object, pod};

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";

/// Leads the scrape to the sidecar, and returns where the sidecar has to ask. None: nothing is to be scraped, or nobody can say where: no
/// annotation names the port and the pod has not exactly one, or the port is the sidecar's own, or an annotation says what Prometheus does not
/// understand either.
pub(crate) fn rewrite(pod: &mut Value) -> Option<Value> {
    if pod::annotation(pod, SCRAPE) != Some("true") {
        return None;
    }
    let port: u16 = match pod::annotation(pod, PORT) {
        Some(text) => text.parse().ok().filter(|port| *port != 0)?,
        None => {
            let mut ports = pod::items(pod, "containers").iter().flat_map(pod::ports);
            let (_, only) = ports.next().filter(|_| ports.next().is_none())?;
            u16::try_from(only).ok()?
        }
    };
    // The sidecar would ask itself, and so on.
    if PORTS.contains(&port) {
        return None;
    }
    let text = |key, default| pod::annotation(pod, key).filter(|text| !text.is_empty()).unwrap_or(default);
    let scheme = Some(text(SCHEME, "http")).filter(|scheme| ["http", "https"].contains(scheme))?;
    let asked = json!({ "port": port, "path": text(PATH, "/metrics"), "scheme": scheme });
    let annotations = object(object(pod, "metadata"), "annotations");
    for (key, value) in [(PORT, ADMIN.to_string()), (PATH, "/app-metrics".to_owned()), (SCHEME, "http".to_owned())] {
        annotations[key] = value.into();
    }
    Some(asked)
}
