//! Which routes attach to which listeners.

use std::collections::BTreeMap;

use isthmus_api::shared::{FromNamespaces, GATEWAY_GROUP, ParentRef};
use isthmus_api::{NamespacedName, Objects};
use isthmus_routing::{Attachment, Hostname, RouteKey, RouteKind};

use super::conflict::intersects;
use super::gateway::GatewayNode;
use super::hostname_index::HostnameIndex;
use super::listener::ListenerNode;
use super::listener_set::ListenerSetNode;
use super::route::RouteNode;

/// A parentRef to a Gateway of ours, or to a ListenerSet of one.
#[derive(Debug)]
pub(crate) struct ParentNode {
    /// As the route has it, defaults included.
    pub(crate) parent_ref: ParentRef,
    /// The Gateway.
    pub(crate) gateway: NamespacedName,
    /// The ListenerSet, if it is that.
    pub(crate) listener_set: Option<NamespacedName>,
    /// Positions of the Gateway's listeners that take the route, with the hostnames it has there.
    pub(crate) claims: Vec<Claim>,
    /// Listeners that would take it if another route were not there.
    pub(crate) lost: Vec<Lost>,
    /// Why no listener takes it.
    pub(crate) fault: Option<AttachmentFault>,
}

/// A route on a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) listener: usize,
    pub(crate) hostnames: Vec<Hostname>,
}

/// A claim that lost against a route of the other kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "listener `{listener}` has {winner} with an intersecting hostname, which is older or comes first by name; give one of them another hostname or listener"
)]
pub(crate) struct Lost {
    pub(crate) listener: String,
    pub(crate) winner: RouteKey,
}

/// Why a parentRef is not accepted. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttachmentFault {
    #[error("ListenerSet {0} is not attached to its Gateway; see its conditions")]
    NotAttached(NamespacedName),
    #[error("{parent} has no listener with the sectionName and port of the parentRef; correct them: it has {listeners}")]
    NoMatchingParent { parent: String, listeners: String },
    #[error(
        "{kind}s of namespace `{namespace}` are not allowed by {listeners} of {parent}; extend `allowedRoutes` there or choose another listener"
    )]
    NotAllowed { parent: String, listeners: String, kind: RouteKind, namespace: String },
    #[error("no hostname of the route intersects with that of {listeners} of {parent}; correct the route's or the listener's")]
    NoMatchingHostname { parent: String, listeners: String },
    #[error("none of the route's hostnames can be used: {0}")]
    NoHostname(String),
    #[error(transparent)]
    Lost(Lost),
}

impl AttachmentFault {
    /// The reason of `Accepted=False`. The specification names none for a route that loses against one of the other kind.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotAttached(_) | Self::NoMatchingParent { .. } => "NoMatchingParent",
            Self::NotAllowed { .. } => "NotAllowedByListeners",
            Self::NoMatchingHostname { .. } => "NoMatchingListenerHostname",
            Self::NoHostname(_) => "UnsupportedValue",
            Self::Lost(_) => "HostnameConflict",
        }
    }
}

/// What routes can attach to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parents<'p> {
    pub(super) gateways: &'p BTreeMap<NamespacedName, GatewayNode>,
    pub(super) listener_sets: &'p BTreeMap<NamespacedName, ListenerSetNode>,
}

impl Parents<'_> {
    /// The Gateway of ours that a parentRef names, by itself or by a ListenerSet of it.
    pub(super) fn find(&self, parent: &ParentRef, route_namespace: &str) -> Option<(NamespacedName, Option<NamespacedName>)> {
        let namespace = parent.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(route_namespace);
        let name = NamespacedName::new(namespace, parent.name.as_str());
        match parent.kind.as_str() {
            _ if parent.group != GATEWAY_GROUP => None,
            "Gateway" => self.gateways.contains_key(&name).then_some((name, None)),
            "ListenerSet" => self.listener_sets.get(&name).map(|set| (set.gateway.clone(), Some(name))),
            _ => None,
        }
    }
}

/// The labels of every namespace, with the one that Kubernetes gives to each.
#[derive(Debug)]
pub(super) struct NamespaceLabels<'a> {
    labels: BTreeMap<&'a str, BTreeMap<String, String>>,
}

impl<'a> NamespaceLabels<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        let routes = objects.http_routes.keys().chain(objects.grpc_routes.keys());
        let attaching = routes.chain(objects.listener_sets.keys()).map(|name| name.namespace.as_str());
        let mut labels: BTreeMap<&str, _> = attaching.map(|namespace| (namespace, BTreeMap::new())).collect();
        for (name, namespace) in &objects.namespaces {
            labels.insert(name, namespace.metadata.labels.clone().unwrap_or_default());
        }
        for (name, labels) in &mut labels {
            labels.insert("kubernetes.io/metadata.name".to_owned(), (*name).to_owned());
        }
        Self { labels }
    }

    /// Whether an object in namespace `own` that says this takes objects of another namespace.
    pub(super) fn allows(&self, from: &FromNamespaces, own: &str, namespace: &str) -> bool {
        match from {
            FromNamespaces::All => true,
            FromNamespaces::Same => namespace == own,
            FromNamespaces::None => false,
            FromNamespaces::Selector(Some(Ok(selector))) => {
                self.labels.get(namespace).is_some_and(|labels| selector.matches(labels))
            }
            FromNamespaces::Selector(_) => false,
        }
    }
}

/// Finds the listeners for one parentRef. The state of Gateway and listener is of no matter:
///
/// > Listener or Route status does not impact
/// > successful attachment, i.e. the AttachedRoutes field count MUST be set
/// > for Listeners, even if the Accepted condition of an individual Listener is set
/// > to "False".
pub(super) fn claim(
    route: &RouteNode,
    node: &ParentNode,
    known: &Parents<'_>,
    labels: &NamespaceLabels<'_>,
) -> Result<Vec<Claim>, AttachmentFault> {
    let Some(gateway) = known.gateways.get(&node.gateway) else { return Ok(Vec::new()) };
    let (own, name, listeners, first) = match node.listener_set.as_ref().and_then(|set| known.listener_sets.get(set)) {
        Some(set) if set.fault.is_some() => return Err(AttachmentFault::NotAttached(set.name.clone())),
        Some(set) => (&set.name, format!("ListenerSet {}", set.name), set.listeners(gateway), set.positions.start),
        None => (&node.gateway, format!("Gateway {}", node.gateway), gateway.own_listeners(), 0),
    };
    let every: Vec<_> = listeners.iter().enumerate().map(|(at, listener)| (first + at, listener)).collect();
    let meant: Vec<_> = every.iter().copied().filter(|(_, listener)| is_meant(&node.parent_ref, listener)).collect();
    if meant.is_empty() {
        let listeners = told(&every, |listener| format!("`{}` on port {}", listener.name, listener.port));
        return Err(AttachmentFault::NoMatchingParent { parent: name, listeners });
    }
    let allows = |listener: &ListenerNode| {
        listener.kinds.contains(&route.key.kind) && labels.allows(&listener.namespaces, &own.namespace, &route.key.namespace)
    };
    let allowed: Vec<_> = meant.iter().copied().filter(|(_, listener)| allows(listener)).collect();
    if allowed.is_empty() {
        return Err(AttachmentFault::NotAllowed {
            parent: name,
            listeners: told(&meant, |listener| format!("`{}`", listener.name)),
            kind: route.key.kind,
            namespace: route.key.namespace.clone(),
        });
    }
    if route.hostnames.is_empty() && !route.bad_hostnames.is_empty() {
        return Err(AttachmentFault::NoHostname(route.bad_hostnames.join("; ")));
    }
    let claims: Vec<_> = allowed.iter().filter_map(|(at, listener)| claim_hostnames(route, *at, listener)).collect();
    if claims.is_empty() {
        let hostname = |listener: &ListenerNode| listener.hostname.as_ref().map_or("", Hostname::as_str).to_owned();
        let listeners = told(&allowed, |listener| format!("`{}` ({})", listener.name, hostname(listener)));
        return Err(AttachmentFault::NoMatchingHostname { parent: name, listeners });
    }
    Ok(claims)
}

/// The most listeners that a message names.
const TOLD: usize = 5;

/// `a`, `b` and 3 more
fn told(listeners: &[(usize, &ListenerNode)], show: impl Fn(&ListenerNode) -> String) -> String {
    let named: Vec<_> = listeners.iter().take(TOLD).map(|(_, listener)| show(listener)).collect();
    match listeners.len().saturating_sub(TOLD) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// > When both Port
/// > and SectionName are specified, the name and port of the selected listener
/// > must match both specified values.
fn is_meant(parent: &ParentRef, listener: &ListenerNode) -> bool {
    let section = parent.section_name.as_deref().filter(|section| !section.is_empty());
    section.is_none_or(|section| section == listener.name) && parent.port.is_none_or(|port| port == listener.port)
}

/// > If both the Listener and HTTPRoute have specified hostnames, any
/// > HTTPRoute hostnames that do not match the Listener hostname MUST be
/// > ignored.
fn claim_hostnames(route: &RouteNode, at: usize, listener: &ListenerNode) -> Option<Claim> {
    let hostnames: Vec<_> =
        route.hostnames.iter().filter(|own| intersects(Some(own), listener.hostname.as_ref())).cloned().collect();
    (route.hostnames.is_empty() || !hostnames.is_empty()).then_some(Claim { listener: at, hostnames })
}

/// Decides between HTTPRoutes and GRPCRoutes that want the same hostnames of one listener, and attaches what is left.
///
/// > If a Route (A) of type HTTPRoute or GRPCRoute is attached to a
/// > Listener and that listener already has another Route (B) of the other
/// > type attached and the intersection of the hostnames of A and B is
/// > non-empty, then the implementation MAY reject one of the two routes.
/// > An implementation that does so MUST accept exactly one of them,
/// > determined by the following criteria, in order:
/// >
/// > * The oldest Route based on creation timestamp.
/// > * The Route appearing first in alphabetical order by
/// >   "{namespace}/{name}".
///
/// The two kinds match by orders of their own, so a merged order would be one that nobody wrote down.
pub(super) fn attach(routes: &mut [RouteNode], gateways: &mut BTreeMap<NamespacedName, GatewayNode>) {
    let mut wanted = BTreeMap::<(NamespacedName, usize), Vec<usize>>::new();
    for (at, route) in routes.iter().enumerate().filter(|(_, route)| !route.is_invalid()) {
        for parent in &route.parents {
            for claim in &parent.claims {
                let members = wanted.entry((parent.gateway.clone(), claim.listener)).or_default();
                if members.last() != Some(&at) {
                    members.push(at);
                }
            }
        }
    }
    for ((name, position), members) in wanted {
        let Some(listener) = gateways.get_mut(&name).and_then(|gateway| gateway.listeners.get_mut(position)) else { continue };
        for (loser, winner) in losers(routes, &name, position, &members) {
            let lost = Lost { listener: listener.name.clone(), winner: routes[winner].key.clone() };
            routes[loser].lose(&name, position, &lost);
        }
        for at in members {
            let route = &routes[at];
            let of_listener = route.parents.iter().filter(|parent| parent.gateway == name).flat_map(|parent| &parent.claims);
            if let Some(claim) = of_listener.into_iter().find(|claim| claim.listener == position) {
                listener.attached.push(Attachment { route: route.key.clone(), hostnames: claim.hostnames.clone() });
            }
        }
    }
}

/// Pairs of loser and winner on one listener. A route that lost keeps nobody out.
fn losers(routes: &[RouteNode], gateway: &NamespacedName, listener: usize, members: &[usize]) -> Vec<(usize, usize)> {
    let of_kind = |kind| members.iter().any(|at| routes[*at].key.kind == kind);
    if !of_kind(RouteKind::Http) || !of_kind(RouteKind::Grpc) {
        return Vec::new();
    }
    let mut by_age = members.to_vec();
    by_age.sort_by(|a, b| {
        let (a, b) = (&routes[*a], &routes[*b]);
        a.created.cmp(&b.created).then_with(|| a.key.cmp(&b.key))
    });
    let (mut http, mut grpc) = (HostnameIndex::new(), HostnameIndex::new());
    let mut losers = Vec::new();
    for at in by_age {
        let route = &routes[at];
        let claims = route.parents.iter().filter(|parent| parent.gateway == *gateway).flat_map(|parent| &parent.claims);
        let Some(claim) = claims.into_iter().find(|claim| claim.listener == listener) else { continue };
        let (own, other) = match route.key.kind {
            RouteKind::Http => (&mut http, &grpc),
            RouteKind::Grpc => (&mut grpc, &http),
            RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => continue,
        };
        match other.intersecting(&claim.hostnames) {
            Some(winner) => losers.push((at, winner)),
            None => own.insert(&claim.hostnames, at),
        }
    }
    losers
}

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use serde_json::{Value, json};

    use crate::testing::{edge, gateway, object, route, shown, translated};

    /// The `Accepted` condition of the only parent, and who is attached where with which hostnames.
    fn attached(listeners: &Value, kind: &str, namespace: &str, spec: Value) -> (String, Vec<String>) {
        let route = object("gateway.networking.k8s.io/v1", kind, namespace, "r", json!({"generation": 7}), spec);
        let translation = translated([gateway(listeners), route]);
        let name = NamespacedName::new(namespace, "r");
        let routes = if kind == "HTTPRoute" { &translation.statuses.http_routes } else { &translation.statuses.grpc_routes };
        let accepted =
            routes.get(&name).map_or_else(|| "no status".to_owned(), |status| shown(&status.parents[0].conditions, 7)[0].clone());
        let listeners = translation.snapshot.gateways.get(&edge()).map(|gateway| gateway.listeners.clone()).unwrap_or_default();
        let counts = &translation.statuses.gateways[&NamespacedName::new("shop", "edge")].listeners;
        let total: i32 = counts.iter().map(|listener| listener.attached_routes).sum();
        let shown: Vec<_> = listeners
            .iter()
            .flat_map(|listener| listener.routes.iter().map(move |attachment| (listener, attachment)))
            .map(|(listener, attachment)| {
                attachment.hostnames.iter().fold(listener.name.clone(), |text, hostname| format!("{text} {hostname}"))
            })
            .collect();
        assert_eq!(usize::try_from(total), Ok(shown.len()), "attachedRoutes is what is attached");
        (accepted, shown)
    }

    /// Listeners; the route's kind, namespace and spec; the condition; where it is attached.
    type Case = (Value, &'static str, &'static str, Value, &'static str, &'static [&'static str]);

    #[test]
    fn parents_namespaces_kinds_and_hostnames() {
        let listener = |name: &str, port: u16, hostname: Option<&str>, allowed: Value| json!({"name": name, "port": port, "protocol": "HTTP", "hostname": hostname, "allowedRoutes": allowed});
        let same = json!({"namespaces": {"from": "Same"}});
        let from = |from: Value| json!({"namespaces": from});
        let selector = |selector: Value| from(json!({"from": "Selector", "selector": selector}));
        let two = json!([listener("a", 80, None, same.clone()), listener("b", 81, None, same.clone())]);
        let hosts = json!([
            listener("a", 80, Some("a.example.com"), same.clone()),
            listener("w", 80, Some("*.example.com"), same.clone())
        ]);
        let parent = |more: Value| {
            let mut parent = json!({"name": "edge"});
            parent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"parentRefs": [parent], "rules": [{}]})
        };
        let named = |hostnames: Value| json!({"parentRefs": [{"name": "edge"}], "hostnames": hostnames, "rules": [{}]});
        let foreign = json!({"parentRefs": [{"name": "edge", "namespace": "shop"}], "rules": [{}]});
        let one = |allowed: Value| json!([listener("a", 80, None, allowed)]);
        let accepted = "Accepted=True/Accepted";
        let not_allowed = "Accepted=False/NotAllowedByListeners";
        let no_parent = "Accepted=False/NoMatchingParent";
        let no_hostname = "Accepted=False/NoMatchingListenerHostname";
        let table: Vec<Case> = vec![
            (two.clone(), "HTTPRoute", "shop", parent(json!({})), accepted, &["a", "b"]),
            (two.clone(), "HTTPRoute", "shop", parent(json!({"sectionName": "b"})), accepted, &["b"]),
            (two.clone(), "HTTPRoute", "shop", parent(json!({"port": 80})), accepted, &["a"]),
            (two.clone(), "HTTPRoute", "shop", parent(json!({"port": 80, "sectionName": "b"})), no_parent, &[]),
            (two.clone(), "HTTPRoute", "shop", parent(json!({"sectionName": "c"})), no_parent, &[]),
            (two.clone(), "HTTPRoute", "shop", parent(json!({"port": 8080})), no_parent, &[]),
            (two.clone(), "HTTPRoute", "shop", parent(json!({"name": "absent"})), "no status", &[]),
            (two.clone(), "HTTPRoute", "shop", parent(json!({"kind": "Service", "group": ""})), "no status", &[]),
            (two.clone(), "HTTPRoute", "other", foreign.clone(), not_allowed, &[]),
            (one(from(json!({"from": "All"}))), "HTTPRoute", "other", foreign.clone(), accepted, &["a"]),
            (one(selector(json!({"matchLabels": {"team": "b"}}))), "HTTPRoute", "other", foreign.clone(), accepted, &["a"]),
            (one(selector(json!({"matchLabels": {"team": "a"}}))), "HTTPRoute", "other", foreign.clone(), not_allowed, &[]),
            (
                one(selector(json!({"matchLabels": {"kubernetes.io/metadata.name": "other"}}))),
                "HTTPRoute",
                "other",
                foreign.clone(),
                accepted,
                &["a"],
            ),
            (
                one(selector(json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}}))),
                "HTTPRoute",
                "shop",
                parent(json!({})),
                accepted,
                &["a"],
            ),
            (
                one(selector(json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["b"]}]}))),
                "HTTPRoute",
                "other",
                foreign,
                not_allowed,
                &[],
            ),
            (one(json!({"kinds": [{"kind": "HTTPRoute"}]})), "GRPCRoute", "shop", parent(json!({})), not_allowed, &[]),
            (one(json!({"kinds": [{"kind": "GRPCRoute"}]})), "GRPCRoute", "shop", parent(json!({})), accepted, &["a"]),
            (hosts.clone(), "HTTPRoute", "shop", parent(json!({})), accepted, &["a", "w"]),
            (
                hosts.clone(),
                "HTTPRoute",
                "shop",
                named(json!(["a.example.com", "b.example.com", "a.example.org"])),
                accepted,
                &["a a.example.com", "w a.example.com b.example.com"],
            ),
            (hosts.clone(), "HTTPRoute", "shop", named(json!(["*.com"])), accepted, &["a *.com", "w *.com"]),
            (hosts.clone(), "HTTPRoute", "shop", named(json!(["*.b.example.com"])), accepted, &["w *.b.example.com"]),
            (hosts.clone(), "HTTPRoute", "shop", named(json!(["example.com", "example.org"])), no_hostname, &[]),
            (hosts.clone(), "HTTPRoute", "shop", named(json!(["10.0.0.1", "b.example.com"])), accepted, &["w b.example.com"]),
            (hosts.clone(), "HTTPRoute", "shop", named(json!(["10.0.0.1"])), "Accepted=False/UnsupportedValue", &[]),
        ];
        for (listeners, kind, namespace, spec, accepted, expected) in table {
            let expected = expected.iter().map(|text| (*text).to_owned()).collect();
            let told = format!("{kind} of {namespace} {spec}");
            assert_eq!(attached(&listeners, kind, namespace, spec), (accepted.to_owned(), expected), "{told}");
        }
    }

    #[test]
    fn a_message_names_the_listeners_that_were_meant() {
        let listeners: Vec<_> = (0..7)
            .map(|at| json!({"name": format!("l{at}"), "port": 80 + at, "protocol": "HTTP", "hostname": "a.example.com"}))
            .collect();
        let told = |namespace: &str, parent: Value| {
            let spec = json!({"parentRefs": [parent], "hostnames": ["b.example.com"], "rules": [{}]});
            let route = object("gateway.networking.k8s.io/v1", "HTTPRoute", namespace, "r", json!({}), spec);
            let translation = translated([gateway(&json!(listeners)), route]);
            translation.statuses.http_routes[&NamespacedName::new(namespace, "r")].parents[0].conditions[0].message.clone()
        };
        for (namespace, parent, expected) in [
            (
                "shop",
                json!({"name": "edge", "sectionName": "l0", "port": 81}),
                "Gateway shop/edge has no listener with the sectionName and port of the parentRef; correct them: it has \
                 `l0` on port 80, `l1` on port 81, `l2` on port 82, `l3` on port 83, `l4` on port 84 and 2 more",
            ),
            (
                "other",
                json!({"name": "edge", "namespace": "shop", "port": 82}),
                "HTTPRoutes of namespace `other` are not allowed by `l2` of Gateway shop/edge; extend `allowedRoutes` there or \
                 choose another listener",
            ),
            (
                "shop",
                json!({"name": "edge", "sectionName": "l3"}),
                "no hostname of the route intersects with that of `l3` (a.example.com) of Gateway shop/edge; correct the \
                 route's or the listener's",
            ),
        ] {
            assert_eq!(told(namespace, parent), expected);
        }
    }

    /// Kind, name, creation second and hostnames.
    type Rival = (&'static str, &'static str, u8, &'static [&'static str]);

    fn winners(listeners: &Value, rivals: &[Rival]) -> Vec<String> {
        let routes = rivals.iter().map(|(kind, name, second, hostnames)| {
            let mut route = route(kind, name, json!({"parentRefs": [{"name": "edge"}], "hostnames": hostnames, "rules": [{}]}));
            route["metadata"]["creationTimestamp"] = format!("2026-01-01T00:00:{second:02}Z").into();
            route
        });
        let translation = translated([gateway(listeners)].into_iter().chain(routes));
        let statuses = translation.statuses.http_routes.iter().chain(&translation.statuses.grpc_routes);
        statuses.map(|(name, status)| format!("{} {}", name.name, shown(&status.parents[0].conditions, 7)[0])).collect()
    }

    #[test]
    fn of_two_kinds_with_one_hostname_the_older_wins() {
        let one = json!([{"name": "a", "port": 80, "protocol": "HTTP"}]);
        let two = json!([
            {"name": "a", "port": 80, "protocol": "HTTP", "hostname": "a.example.com"},
            {"name": "b", "port": 80, "protocol": "HTTP", "hostname": "b.example.com"},
        ]);
        let table: Vec<(&Value, Vec<Rival>, &[&str])> = vec![
            (
                &one,
                vec![("HTTPRoute", "h", 1, &["a.example.com"]), ("GRPCRoute", "g", 0, &["a.example.com"])],
                &["h Accepted=False/HostnameConflict", "g Accepted=True/Accepted"],
            ),
            (
                &one,
                vec![("HTTPRoute", "h", 0, &[]), ("GRPCRoute", "g", 1, &["a.example.com"])],
                &["h Accepted=True/Accepted", "g Accepted=False/HostnameConflict"],
            ),
            // Equal age: by name.
            (
                &one,
                vec![("HTTPRoute", "z", 0, &["*.example.com"]), ("GRPCRoute", "g", 0, &["a.example.com"])],
                &["z Accepted=False/HostnameConflict", "g Accepted=True/Accepted"],
            ),
            (
                &one,
                vec![("HTTPRoute", "h", 1, &["a.example.com"]), ("GRPCRoute", "g", 0, &["b.example.com"])],
                &["h Accepted=True/Accepted", "g Accepted=True/Accepted"],
            ),
            // A route that lost keeps nobody out.
            (
                &one,
                vec![
                    ("HTTPRoute", "h1", 0, &["a.example.com"]),
                    ("HTTPRoute", "h2", 2, &["b.example.com"]),
                    ("GRPCRoute", "g", 1, &["a.example.com", "b.example.com"]),
                ],
                &["h1 Accepted=True/Accepted", "h2 Accepted=True/Accepted", "g Accepted=False/HostnameConflict"],
            ),
            // One listener is enough to be accepted.
            (
                &two,
                vec![("HTTPRoute", "h", 0, &["a.example.com"]), ("GRPCRoute", "g", 1, &["a.example.com", "b.example.com"])],
                &["h Accepted=True/Accepted", "g Accepted=True/Accepted"],
            ),
        ];
        for (listeners, rivals, expected) in table {
            assert_eq!(winners(listeners, &rivals), expected, "{rivals:?}");
        }
    }

    #[test]
    fn an_attachment_is_counted_once_and_told_by_each_parent_ref() {
        let listeners = json!([{"name": "a", "port": 80, "protocol": "HTTP"}]);
        let parents = json!([{"name": "edge"}, {"name": "edge", "sectionName": "a"}, {"name": "edge"}, {"name": "edge", "sectionName": "b"}]);
        let translation =
            translated([gateway(&listeners), route("HTTPRoute", "r", json!({"parentRefs": parents, "rules": [{}]}))]);
        let status = &translation.statuses.http_routes[&NamespacedName::new("shop", "r")];
        let accepted: Vec<_> = status.parents.iter().map(|parent| shown(&parent.conditions, 7)[0].clone()).collect();
        assert_eq!(accepted, ["Accepted=True/Accepted", "Accepted=True/Accepted", "Accepted=False/NoMatchingParent"]);
        assert_eq!(translation.statuses.gateways[&NamespacedName::new("shop", "edge")].listeners[0].attached_routes, 1);
        assert_eq!(translation.snapshot.gateways[&edge()].listeners[0].routes.len(), 1);
    }
}
