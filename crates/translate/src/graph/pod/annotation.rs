//! What pods and namespaces say by annotations. What cannot be read is never taken for a permission.

use std::collections::BTreeMap;

use isthmus_api::Pod;
use isthmus_routing::MtlsMode;

/// What is asked of callers.
pub(super) const MTLS: &str = "isthmus.dev/mtls";

/// Ports where that is different: `8080=strict,9090=permissive`.
const MTLS_PORTS: &str = "isthmus.dev/mtls-ports";

/// Ports of which the sidecar does not take what comes in: `80,443`. It holds as the injector found it.
const EXCLUDE_INBOUND_PORTS: &str = "isthmus.dev/exclude-inbound-ports";

/// What a pod asks of those who call it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) mode: MtlsMode,
    /// Those that differ from `mode`.
    pub(super) ports: BTreeMap<u16, MtlsMode>,
    pub(super) notes: Vec<String>,
}

/// Reads the value of [`MTLS`]; an error says what is made of it instead.
pub(super) fn mode(text: &str) -> Result<MtlsMode, String> {
    known(text).ok_or_else(|| format!("{MTLS}: `{text}` is neither `strict` nor `permissive`, so it is taken for `strict`"))
}

fn known(text: &str) -> Option<MtlsMode> {
    match text.trim() {
        "strict" => Some(MtlsMode::Strict),
        "permissive" => Some(MtlsMode::Permissive),
        _ => None,
    }
}

/// What a pod asks in a namespace that asks `inherited`.
pub(super) fn terms(pod: &Pod, inherited: MtlsMode) -> Terms {
    let mut notes = Vec::new();
    let mut whole = pod.annotation(MTLS).map_or(inherited, |text| {
        mode(text).unwrap_or_else(|why| {
            notes.push(why);
            MtlsMode::Strict
        })
    });
    let mut ports = BTreeMap::new();
    for entry in entries(pod.annotation(MTLS_PORTS)) {
        let (port, text) = entry.split_once('=').unwrap_or((entry, ""));
        let asked = known(text);
        let Some(port) = port_number(port) else {
            let made = match asked {
                Some(MtlsMode::Permissive) => "so it is passed over",
                _ => {
                    whole = MtlsMode::Strict;
                    "so all ports that are not named are strict"
                }
            };
            notes.push(format!("{MTLS_PORTS}: `{entry}` does not begin with a port, as in `8080=strict`, {made}"));
            continue;
        };
        if asked.is_none() {
            notes.push(format!(
                "{MTLS_PORTS}: `{entry}` ends neither with `=strict` nor with `=permissive`, so the port is strict"
            ));
        }
        let asked = asked.unwrap_or(MtlsMode::Strict);
        let before = ports.insert(port, asked).filter(|before| *before != asked);
        if before.is_some() {
            notes.push(format!("{MTLS_PORTS}: port {port} is there twice, so it is strict"));
            ports.insert(port, MtlsMode::Strict);
        }
    }
    ports.retain(|_, mode| *mode != whole);
    Terms { mode: whole, ports, notes }
}

/// What to say where a pod is annotated otherwise than its sidecar was made for, which leaves alone `plain_ports` (sorted, each once).
/// Callers that went by the annotation would send in the clear what is captured.
pub(super) fn excluded_too_late(pod: &Pod, plain_ports: &[u16]) -> Option<String> {
    let text = pod.annotation(EXCLUDE_INBOUND_PORTS).unwrap_or_default();
    let mut ports: Vec<_> = entries(Some(text)).map(port_number).collect();
    ports.sort_unstable();
    ports.dedup();
    let is_so = ports.iter().copied().eq(plain_ports.iter().copied().map(Some));
    (!is_so).then(|| {
        let made: Vec<_> = plain_ports.iter().map(u16::to_string).collect();
        let made = if made.is_empty() { "no port".to_owned() } else { made.join(",") };
        format!("{EXCLUDE_INBOUND_PORTS}: `{text}` has no effect on a pod that is there, whose sidecar leaves alone {made}; make the pod anew")
    })
}

/// The entries of a list that is separated by commas.
fn entries(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|entry| !entry.is_empty())
}

fn port_number(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|port| *port > 0)
}
