//! Annotations by which a pod says what is captured, what is asked of its callers, and how its sidecar runs.

use ipnet::IpNet;
use serde_json::Value;

use crate::outcome::Refusal;
use crate::pod;

const OUTBOUND_PORTS: &str = "isthmus.dev/exclude-outbound-ports";
const INBOUND_PORTS: &str = "isthmus.dev/exclude-inbound-ports";
const OUTBOUND_CIDRS: &str = "isthmus.dev/exclude-outbound-cidrs";
const THREADS: &str = "isthmus.dev/proxy-threads";
const MTLS: &str = "isthmus.dev/mtls";
const MTLS_PORTS: &str = "isthmus.dev/mtls-ports";

/// What is not captured, each list in the order in which it was written, and how the sidecar runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    pub(crate) outbound_ports: Vec<u16>,
    pub(crate) inbound_ports: Vec<u16>,
    pub(crate) outbound_cidrs: Vec<IpNet>,
    /// The sidecar's worker threads; none: as many as it takes by itself.
    pub(crate) threads: Option<u16>,
}

/// Reads those of the two containers. Those about mTLS are the controller's; here they are only looked at, so that a slip is told at once.
pub(crate) fn read(pod: &Value) -> Result<Annotations, Refusal> {
    parse(pod, MTLS, |text| mode(text).map(|()| Vec::<()>::new()))?;
    parse(pod, MTLS_PORTS, |text| {
        split(text)
            .map(|part| {
                let (port, text) =
                    part.split_once('=').ok_or_else(|| format!("`{part}` is not PORT=strict or PORT=permissive"))?;
                self::port(port.trim())?;
                mode(text.trim())
            })
            .collect()
    })?;
    Ok(Annotations {
        outbound_ports: parse(pod, OUTBOUND_PORTS, |text| split(text).map(port).collect())?,
        inbound_ports: parse(pod, INBOUND_PORTS, |text| split(text).map(port).collect())?,
        outbound_cidrs: parse(pod, OUTBOUND_CIDRS, |text| split(text).map(cidr).collect())?,
        threads: parse(pod, THREADS, |text| threads(text).map(|threads| vec![threads]))?.first().copied(),
    })
}

fn parse<T>(pod: &Value, key: &'static str, read: impl Fn(&str) -> Result<Vec<T>, String>) -> Result<Vec<T>, Refusal> {
    let Some(value) = pod::annotation(pod, key) else { return Ok(Vec::new()) };
    read(value).map_err(|why| Refusal::Annotation { key, value: value.to_owned(), why })
}

/// The parts between commas; of an empty text none.
fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(move |_| !text.trim().is_empty())
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("`{text}` is not a port from 1 to 65535"))
}

/// An address stands for itself.
fn cidr(text: &str) -> Result<IpNet, String> {
    let cidr = text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| IpNet::from(address)));
    cidr.map(|cidr: IpNet| cidr.trunc()).ok_or_else(|| format!("`{text}` is not a CIDR such as 10.0.0.0/8"))
}

fn threads(text: &str) -> Result<u16, String> {
    let threads = text.parse().ok().filter(|threads| (1..=1024).contains(threads));
    threads.ok_or_else(|| format!("`{text}` is not a number of threads from 1 to 1024"))
}

fn mode(text: &str) -> Result<(), String> {
    if ["strict", "permissive"].contains(&text) { Ok(()) } else { Err(format!("`{text}` is neither strict nor permissive")) }
}
