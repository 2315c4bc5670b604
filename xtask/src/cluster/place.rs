//! Names, addresses and the one folder of the test cluster. There is at most one on a machine.

use super::images::Names;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::fault::{Context as _, Fault};
use crate::{process, workspace};

/// Everything of a running cluster. Not in a user's cache: whoever ends the cluster must find it. Short, for the sockets in it.
const STATE: &str = "/var/lib/isthmus-cluster";

/// The one node.
pub(super) const NODE: &str = "isthmus";

/// A bridge without ports: it holds the node's address, and routes to Services end on it.
pub(super) const BRIDGE: &str = "isthmus0";

/// The node's address: the first of the pods' range.
pub(super) const NODE_IP: &str = "10.244.0.1";
const NODE_IP6: &str = "fd69:7374:686d:244::1";

/// Ranges of each family. Few machines use them; `up` refuses where one does.
const PODS: [&str; 2] = ["10.244.0.0/24", "fd69:7374:686d:244::/64"];
const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd69:7374:686d:96::/112"];

/// Addresses for Gateways, routed to this node and to nobody else.
pub(crate) const POOLS: [&str; 2] = ["10.97.0.0/24", "fd69:7374:686d:97::/112"];

/// The first of the services' range: the Service `kubernetes`.
pub(super) const API_IP: &str = "10.96.0.1";
const DNS_IP: &str = "10.96.0.10";

/// What all pods' cgroups are below, in each hierarchy.
pub(super) const CGROUP: &str = "isthmus-cluster";

/// Where the system's programs are.
pub(super) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where Debian's package has the container network plugins.
pub(super) const CNI: &str = "/usr/lib/cni";

pub(super) const PAUSE: &str = "docker.io/isthmus/pause:dev";
pub(super) const COREDNS: &str = "docker.io/isthmus/coredns:dev";
pub(super) const OURS: Names = Names { repository: "docker.io/isthmus", tag: "dev" };

/// What a file under `conformance/cluster` may name as `${NAME}`.
fn value(name: &str) -> Option<String> {
    let value = match name {
        "STATE" => STATE.to_owned(),
        "NODE" => NODE.to_owned(),
        "BRIDGE" => BRIDGE.to_owned(),
        "NODE_IP" => NODE_IP.to_owned(),
        "PODS" => list(PODS),
        "PODS_IPV4" => PODS[0].to_owned(),
        "PODS_IPV6" => PODS[1].to_owned(),
        "POOL_LIST" => each(POOLS, |range| format!("\"{range}\"")),
        "CNI_RANGES" => each(PODS, |range| format!(r#"[{{ "subnet": "{range}" }}]"#)),
        "CNI_ROUTES" => each(["0.0.0.0/0", "::/0"], |range| format!(r#"{{ "dst": "{range}" }}"#)),
        "DNS_IP" => DNS_IP.to_owned(),
        "CGROUP" => CGROUP.to_owned(),
        "CNI" => CNI.to_owned(),
        "PAUSE" => PAUSE.to_owned(),
        "COREDNS" => COREDNS.to_owned(),
        _ => return None,
    };
    Some(value)
}

/// IPv4 always; IPv6 where the machine has it, unless it learns its routes from a router: it would stop to, once it routes itself.
pub(super) fn families() -> usize {
    static FAMILIES: OnceLock<usize> = OnceLock::new();
    *FAMILIES.get_or_init(|| {
        let off = fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").map_or(true, |text| text.trim() != "0");
        let learned = process::capture(Command::new("ip").args(["-6", "route", "show", "proto", "ra"]));
        if off || learned.is_ok_and(|routes| !routes.trim().is_empty()) { 1 } else { 2 }
    })
}

/// Those of the families in use.
fn used(ranges: [&'static str; 2]) -> impl Iterator<Item = &'static str> {
    ranges.into_iter().take(families())
}

pub(super) fn node_ips() -> String {
    list([NODE_IP, NODE_IP6])
}

pub(super) fn services() -> String {
    list(SERVICES)
}

/// Where pods' addresses are from, of the families in use.
pub(super) fn pods() -> impl Iterator<Item = &'static str> {
    used(PODS)
}

/// Services' and Gateways' addresses, which kube-proxy answers for.
pub(super) fn routed() -> impl Iterator<Item = &'static str> {
    [SERVICES, POOLS].into_iter().flat_map(used)
}

fn list(ranges: [&'static str; 2]) -> String {
    used(ranges).collect::<Vec<_>>().join(",")
}

fn each(ranges: [&'static str; 2], form: impl Fn(&str) -> String) -> String {
    used(ranges).map(form).collect::<Vec<_>>().join(", ")
}

/// The folder of the running cluster.
pub(super) fn state() -> &'static Path {
    Path::new(STATE)
}

/// A file or folder in it.
pub(super) fn of(name: &str) -> PathBuf {
    state().join(name)
}

/// A file or folder under `conformance/cluster`.
pub(super) fn source(name: &str) -> PathBuf {
    workspace::root().join("conformance/cluster").join(name)
}

/// A file under `conformance/cluster`, with the names in it replaced.
pub(super) fn render(name: &str) -> Result<String, Fault> {
    let path = source(name);
    let text = fs::read_to_string(&path).context(|| format!("reading {}", path.display()))?;
    fill(&text).map_err(|unknown| Fault::said(format!("{}: nothing is named ${{{unknown}}}", path.display())))
}

/// Writes such a file into the folder of the cluster.
pub(super) fn place(from: &str, to: &str) -> Result<PathBuf, Fault> {
    write(to, &render(from)?)
}

/// Writes a file into the folder of the cluster, and the folders above it.
pub(super) fn write(name: &str, text: &str) -> Result<PathBuf, Fault> {
    let path = of(name);
    let folder = path.parent().unwrap_or(state());
    fs::create_dir_all(folder).context(|| format!("making the folder {}", folder.display()))?;
    fs::write(&path, text).context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// `Err`: a name that nothing has.
fn fill(text: &str) -> Result<String, String> {
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(before);
        filled.push_str(&value(name).ok_or_else(|| name.to_owned())?);
        rest = tail;
    }
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_and_unknown_ones_are_faults() {
        assert_eq!(fill("a ${NODE}/${PODS_IPV4}$ b").as_deref(), Ok("a isthmus/10.244.0.0/24$ b"));
        assert_eq!(fill("${NONE}"), Err("NONE".to_owned()));
    }
}
