//! Ports below 1024 need privileges: moves those of a snapshot up by an offset. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_routing::filter::Filter;
use isthmus_routing::filter::redirect::{Redirect, Scheme};
use isthmus_routing::{Gateway, GatewayKey, Route, RouteKey, Snapshot, Transport};

/// Ports below this one are moved.
pub const PRIVILEGED: u16 = 1024;

/// A snapshot whose ports were moved.
#[derive(Debug, Clone)]
pub struct Shifted {
    /// For the data plane.
    pub snapshot: Arc<Snapshot>,
    /// Listeners that are left out because their new port belongs to somebody else, with the reason in words.
    pub collisions: BTreeMap<(GatewayKey, String), String>,
}

/// The port that a listener's port becomes.
pub fn shifted(port: u16, offset: u16) -> u16 {
    if port < PRIVILEGED { port.saturating_add(offset) } else { port }
}

/// Moves every listener below 1024, and with it the redirects of its routes that lead to it or to a neighbour: what a client is
/// told has to be where it finds somebody.
pub fn shift(snapshot: &Arc<Snapshot>, offset: u16) -> Shifted {
    let mut collisions = BTreeMap::new();
    if offset == 0 {
        return Shifted { snapshot: Arc::clone(snapshot), collisions };
    }
    let mut moved = Snapshot::clone(snapshot);
    let mut owners = natives(snapshot);
    for (key, gateway) in &mut moved.gateways {
        if gateway.listeners.iter().any(|listener| listener.port < PRIVILEGED) {
            shift_gateway(key, Arc::make_mut(gateway), offset, &mut owners, &mut collisions);
        }
    }
    for (key, ports) in reachable(snapshot) {
        if let Some(route) = moved.routes.get_mut(&key) {
            shift_redirects(route, &ports, offset);
        }
    }
    Shifted { snapshot: Arc::new(moved), collisions }
}

/// Who listens on an address and port, by the port in the object. One number may be a port of TCP and one of UDP.
type Owners = BTreeMap<(IpAddr, u16, Transport), (GatewayKey, String, u16)>;

fn natives(snapshot: &Snapshot) -> Owners {
    let mut owners = Owners::new();
    for (key, gateway) in &snapshot.gateways {
        for listener in gateway.listeners.iter().filter(|listener| listener.port >= PRIVILEGED) {
            for address in &gateway.addresses {
                let socket = (*address, listener.port, listener.protocol.transport());
                owners.entry(socket).or_insert_with(|| (key.clone(), listener.name.clone(), listener.port));
            }
        }
    }
    owners
}

fn shift_gateway(
    key: &GatewayKey,
    gateway: &mut Gateway,
    offset: u16,
    owners: &mut Owners,
    collisions: &mut BTreeMap<(GatewayKey, String), String>,
) {
    let addresses = gateway.addresses.clone();
    gateway.listeners.retain_mut(|listener| {
        let (from, to) = (listener.port, shifted(listener.port, offset));
        listener.port = to;
        for address in &addresses {
            let socket = (*address, to, listener.protocol.transport());
            let owner = owners.entry(socket).or_insert_with(|| (key.clone(), listener.name.clone(), from));
            if from < PRIVILEGED && owner.2 != from {
                let reason = format!(
                    "port {from} moved by {offset} is {to}, which listener {} of {} has on {address}; choose another --port-offset",
                    owner.1, owner.0
                );
                collisions.insert((key.clone(), listener.name.clone()), reason);
                return false;
            }
        }
        true
    });
}

/// The privileged ports of HTTP and HTTPS of the Gateways that each route is attached to.
fn reachable(snapshot: &Snapshot) -> BTreeMap<RouteKey, BTreeSet<u16>> {
    let mut ports: BTreeMap<RouteKey, BTreeSet<u16>> = BTreeMap::new();
    for gateway in snapshot.gateways.values() {
        let http = gateway.listeners.iter().filter(|listener| listener.protocol.is_http());
        let own: BTreeSet<u16> = http.map(|listener| listener.port).filter(|port| *port < PRIVILEGED).collect();
        for attachment in gateway.listeners.iter().flat_map(|listener| &listener.routes) {
            ports.entry(attachment.route.clone()).or_default().extend(&own);
        }
    }
    ports
}

fn shift_redirects(route: &mut Arc<Route>, ports: &BTreeSet<u16>, offset: u16) {
    let target = |redirect: &Redirect| {
        // A redirect to another host leads away from here.
        let here = redirect.hostname.is_none();
        let port = redirect.port.or(redirect.scheme.map(|scheme| match scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }));
        port.filter(|port| here && ports.contains(port))
    };
    let concerned = |filter: &Filter| matches!(filter, Filter::RequestRedirect(redirect) if target(redirect).is_some());
    if !route.rules.iter().flat_map(|rule| &rule.filters).any(concerned) {
        return;
    }
    for filter in Arc::make_mut(route).rules.iter_mut().flat_map(|rule| &mut rule.filters) {
        if let Filter::RequestRedirect(redirect) = filter
            && let Some(port) = target(redirect)
        {
            redirect.port = Some(shifted(port, offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_routing::{Attachment, Listener, Matches, Protocol, RouteKind, Rule, Timeouts};

    use super::*;

    fn listener(name: &str, port: u16, route: Option<&RouteKey>) -> Listener {
        let routes = route.map(|route| Attachment { route: route.clone(), hostnames: vec![] }).into_iter().collect();
        Listener { routes, ..Listener::new(name, port, Protocol::Http) }
    }

    fn snapshot(gateways: Vec<(&str, &str, Vec<Listener>)>) -> Snapshot {
        let gateway = |(name, address, listeners): (&str, &str, Vec<Listener>)| {
            let key = GatewayKey { namespace: "x".into(), name: name.into() };
            (key, Arc::new(Gateway { addresses: vec![address.parse().unwrap()], listeners, ..Gateway::default() }))
        };
        Snapshot { gateways: gateways.into_iter().map(gateway).collect(), ..Snapshot::default() }
    }

    fn ports(snapshot: &Snapshot) -> Vec<(String, u16)> {
        let listeners = snapshot
            .gateways
            .iter()
            .flat_map(|(key, gateway)| gateway.listeners.iter().map(move |l| (format!("{}.{}", key.name, l.name), l.port)));
        listeners.collect()
    }

    #[test]
    fn privileged_ports_move() {
        let before = Arc::new(snapshot(vec![(
            "a",
            "127.0.0.1",
            vec![listener("http", 80, None), listener("other", 80, None), listener("alt", 8081, None)],
        )]));
        for (offset, expected) in [(0, [80, 80, 8081]), (8000, [8080, 8080, 8081])] {
            let after = shift(&before, offset);
            assert_eq!(ports(&after.snapshot).into_iter().map(|(_, port)| port).collect::<Vec<_>>(), expected, "{offset}");
            assert!(after.collisions.is_empty());
        }
        assert_eq!(before.gateways.values().next().unwrap().listeners[0].port, 80, "the translation's own is untouched");
    }

    #[test]
    fn a_port_that_belongs_to_somebody_else_is_a_collision() {
        let before = Arc::new(snapshot(vec![
            ("a", "127.0.0.1", vec![listener("http", 80, None), listener("own", 443, None)]),
            ("b", "127.0.0.1", vec![listener("native", 8080, None)]),
            ("c", "127.0.0.2", vec![listener("http", 80, None)]),
        ]));
        let after = shift(&before, 8000);
        let expected = [("a.own", 8443), ("b.native", 8080), ("c.http", 8080)].map(|(name, port)| (name.to_owned(), port));
        assert_eq!(ports(&after.snapshot), expected);
        let reasons: Vec<_> = after.collisions.iter().map(|((key, name), reason)| format!("{key} {name}: {reason}")).collect();
        assert_eq!(
            reasons,
            [
                "Gateway/x/a http: port 80 moved by 8000 is 8080, which listener native of Gateway/x/b has on 127.0.0.1; choose another --port-offset"
            ]
        );
    }

    #[test]
    fn a_port_of_udp_is_none_of_tcp() {
        let udp = |name: &str, port| Listener::new(name, port, Protocol::Udp);
        let before = Arc::new(snapshot(vec![
            ("a", "127.0.0.1", vec![listener("tcp", 53, None), udp("udp", 53), listener("native", 8443, None), udp("quic", 443)]),
            ("b", "127.0.0.1", vec![udp("other", 8053), udp("low", 53)]),
        ]));
        let after = shift(&before, 8000);
        let expected = [("a.tcp", 8053), ("a.native", 8443), ("a.quic", 8443), ("b.other", 8053)];
        assert_eq!(ports(&after.snapshot), expected.map(|(name, port)| (name.to_owned(), port)));
        let refused: Vec<_> = after.collisions.keys().map(|(key, name)| format!("{}.{name}", key.name)).collect();
        assert_eq!(refused, ["a.udp", "b.low"], "UDP against UDP is a collision");
    }

    #[test]
    fn redirects_follow_their_listener() {
        let key = RouteKey { namespace: "x".into(), name: "r".into(), kind: RouteKind::Http };
        let redirect = |scheme, hostname: Option<&str>, port| Redirect {
            scheme,
            hostname: hostname.map(str::to_owned),
            path: None,
            port,
            status: 301,
        };
        for (why, before, port) in [
            ("the scheme's own port", redirect(Some(Scheme::Https), None, None), Some(8443)),
            ("a port that is written", redirect(None, None, Some(443)), Some(8443)),
            ("a port that nobody listens on", redirect(None, None, Some(444)), Some(444)),
            ("another host", redirect(Some(Scheme::Https), Some("example.org"), None), None),
            ("the listener's port", redirect(None, None, None), None),
        ] {
            let mut snapshot =
                snapshot(vec![("a", "127.0.0.1", vec![listener("http", 80, Some(&key)), listener("https", 443, None)])]);
            let rule = Rule {
                name: None,
                matches: Matches::Http(vec![]),
                filters: vec![Filter::RequestRedirect(before)],
                backends: vec![],
                timeouts: Timeouts::default(),
                retry: None,
                invalid: false,
            };
            snapshot.routes.insert(key.clone(), Arc::new(Route { created: 0, rules: vec![rule] }));
            let after = shift(&Arc::new(snapshot), 8000);
            let Filter::RequestRedirect(redirect) = &after.snapshot.routes[&key].rules[0].filters[0] else { unreachable!() };
            assert_eq!(redirect.port, port, "{why}");
        }
    }
}
