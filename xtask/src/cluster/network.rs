//! The node's address, routes to Services and pool addresses, masquerading; and what of it is taken already.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::Value;

use crate::cluster::place;
use crate::fault::Fault;
use crate::process;

/// nftables' tables: kube-proxy's and ours.
const TABLES: [[&str; 2]; 3] = [["ip", "kube-proxy"], ["ip6", "kube-proxy"], ["inet", "isthmus-cluster"]];

/// Fails if a name, a table or a range of addresses has another user on this machine.
pub(super) fn check_free() -> Result<(), Fault> {
    if link_exists(place::BRIDGE) {
        let bridge = place::BRIDGE;
        return Err(Fault::said(format!(
            "the network interface {bridge} is there already; `ip link del {bridge}` if nobody uses it"
        )));
    }
    let tables = process::capture(Command::new("nft").args(["list", "tables"]))?;
    for [family, table] in TABLES {
        if tables.lines().any(|line| line == format!("table {family} {table}")) {
            return Err(Fault::said(format!(
                "nftables has the table `{family} {table}` already: another cluster on this machine? `nft delete table {family} {table}` if nobody uses it"
            )));
        }
    }
    let routes = routes(&["table", "all"])?;
    match place::pods().chain(place::routed()).find_map(|range| Some((range, overlapping(&routes, range)?))) {
        Some((range, taken)) => {
            Err(Fault::said(format!("the test cluster wants {range}, but this machine has a route to {taken}")))
        }
        None => Ok(()),
    }
}

/// Makes the bridge, the routes and the table.
pub(super) fn make() -> Result<(), Fault> {
    let bridge = place::BRIDGE;
    ip(&["link", "add", bridge, "type", "bridge"])?;
    // Nobody else is on it: an IPv6 address need not wait until others had time to object.
    place::node_ips().split(',').try_for_each(|address| ip(&["address", "add", address, "dev", bridge, "nodad"]))?;
    ip(&["link", "set", bridge, "up"])?;
    // kube-proxy's rules see a packet only if there is a route for it. What they do not take ends on the bridge, where nobody answers.
    for range in place::routed() {
        ip(&["route", "add", range, "dev", bridge])?;
    }
    let rules = place::place("config/network.nft", "network.nft")?;
    process::capture(Command::new("nft").arg("-f").arg(rules))?;
    Ok(())
}

/// Takes all of it away, with the pods' interfaces and kube-proxy's tables. Nothing that is missing is a fault.
pub(super) fn remove() -> Result<(), Fault> {
    // A pod's interface goes when the kernel has cleaned up its namespace, a moment after the last process.
    let start = Instant::now();
    while !pod_links()?.is_empty() && start.elapsed() < Duration::from_secs(3) {
        thread::sleep(Duration::from_millis(20));
    }
    for link in pod_links()? {
        ip(&["link", "del", &link])?;
    }
    if link_exists(place::BRIDGE) {
        ip(&["link", "del", place::BRIDGE])?;
    }
    if !process::exists("nft") {
        return Ok(());
    }
    let tables = process::capture(Command::new("nft").args(["list", "tables"]))?;
    for [family, table] in TABLES {
        if tables.lines().any(|line| line == format!("table {family} {table}")) {
            process::capture(Command::new("nft").args(["delete", "table", family, table]))?;
        }
    }
    Ok(())
}

fn link_exists(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).exists()
}

/// The host's ends of the pods' interfaces: each pod's address has a route to one.
fn pod_links() -> Result<Vec<String>, Fault> {
    let routes = routes(&[])?;
    let to_pods =
        routes.iter().filter(|route| place::pods().any(|range| overlapping(std::slice::from_ref(route), range).is_some()));
    let links: BTreeSet<&str> =
        to_pods.filter_map(|route| route.get("dev")?.as_str()).filter(|link| link.starts_with("veth")).collect();
    Ok(links.into_iter().map(str::to_owned).collect())
}

fn ip(arguments: &[&str]) -> Result<(), Fault> {
    process::capture(Command::new("ip").args(arguments)).map(drop)
}

/// Of both families.
fn routes(filter: &[&str]) -> Result<Vec<Value>, Fault> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let said = process::capture(Command::new("ip").args(["-json", family, "route", "show"]).args(filter))?;
        routes.extend(serde_json::from_str::<Vec<Value>>(&said).unwrap_or_default());
    }
    Ok(routes)
}

/// The destination of the first route, other than a default one, that shares an address with `range`.
fn overlapping(routes: &[Value], range: &str) -> Option<String> {
    let range: IpNet = range.parse().ok()?;
    let destinations = routes.iter().filter_map(|route| route.get("dst")?.as_str());
    let mut taken = destinations.filter(|destination| {
        let net = destination.parse::<IpNet>().ok().or_else(|| Some(IpNet::from(destination.parse::<IpAddr>().ok()?)));
        net.is_some_and(|net| net.contains(&range) || range.contains(&net))
    });
    taken.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ranges_that_overlap() {
        let routes =
            ["default", "10.244.0.7", "10.96.0.0/12", "192.0.2.0/24", "fd00::/64"].map(|destination| json!({"dst": destination}));
        for (range, expected) in [
            ("10.244.0.0/24", Some("10.244.0.7")),
            ("10.96.0.0/16", Some("10.96.0.0/12")),
            ("10.0.0.0/8", Some("10.244.0.7")),
            ("10.97.0.0/24", Some("10.96.0.0/12")),
            ("10.112.0.0/24", None),
            ("fd00::/112", Some("fd00::/64")),
            ("fd00:0:0:1::/112", None),
        ] {
            assert_eq!(overlapping(&routes, range).as_deref(), expected, "{range}");
        }
    }
}
