//! `status` of routes

use std::collections::{BTreeMap, BTreeSet};

use isthmus_api::status::{ConditionStatus, RouteParentStatus, RouteStatus};
use isthmus_routing::GatewayKey;

use super::{Verdict, listed};
use crate::graph::route::RouteNode;
use crate::graph::service::{self, ServiceParentNode};
use crate::graph::{Graph, Parent, ParentNode};
use crate::{Audience, CONTROLLER_NAME, ServiceProof};

/// The condition that says whether proxies serve a route.
const PROGRAMMED: &str = "isthmus.dev/Programmed";

/// > * Implementations MUST treat each `parentRef`` in the Route separately and
/// >   update its status based on the relationship with that parent.
///
/// [`PROGRAMMED`] is there where proxies are asked.
pub(super) fn status(node: &RouteNode, graph: &Graph<'_>) -> RouteStatus {
    let parents = node.parents.iter().map(|parent| {
        let mut conditions = vec![
            accepted(node, parent).condition("Accepted", node.generation),
            resolved_refs(node, parent).condition("ResolvedRefs", node.generation),
        ];
        conditions.extend(partially_invalid(node, parent).map(|verdict| verdict.condition("PartiallyInvalid", node.generation)));
        let programmed = match &conditions[0] {
            accepted if accepted.status == ConditionStatus::True => programmed(node, parent, graph),
            _ => asked(parent, graph).then(|| Verdict::no("Invalid", "the parent does not accept the route; see Accepted")),
        };
        conditions.extend(programmed.map(|verdict| verdict.condition(PROGRAMMED, node.generation)));
        RouteParentStatus { parent_ref: parent.parent_ref.clone(), controller_name: CONTROLLER_NAME.to_owned(), conditions }
    });
    RouteStatus { parents: parents.collect() }
}

/// > A Route MUST be considered "Accepted" if at least one of the Route's
/// > rules is implemented by the Gateway.
fn accepted(node: &RouteNode, parent: &ParentNode) -> Verdict {
    if let Some(fault) = &parent.fault {
        return Verdict::no(fault.reason(), fault);
    }
    if let Some(first) = node.faults.values().next().filter(|_| node.is_invalid()) {
        return Verdict::no(first.reason(), rules(node));
    }
    let notes: Vec<String> = match &parent.parent {
        Parent::Gateway(parent) => {
            let ignored = node.bad_hostnames.iter().map(|fault| format!("a hostname is ignored: {fault}"));
            let lost = parent.lost.iter().map(ToString::to_string).chain(parent.shadowed.iter().map(ToString::to_string));
            lost.chain(ignored).collect()
        }
        Parent::Service(parent) => {
            let has_hostnames = !node.hostnames.is_empty() || !node.bad_hostnames.is_empty();
            let ignored = has_hostnames.then(|| NO_HOSTNAMES.to_owned());
            parent.lost.iter().map(ToString::to_string).chain(ignored).collect()
        }
    };
    Verdict::yes("Accepted").with(listed(notes.into_iter()))
}

/// GEP-1294:
///
/// > GAMMA implementations SHOULD NOT infer any functionality from the `hostnames` field on `xRoute`s
const NO_HOSTNAMES: &str = "`hostnames` have no effect on a Service, whose clients are known by the address they call; remove them if the route has no other parent";

/// The first fault in the order of the object gives the reason.
fn resolved_refs(node: &RouteNode, parent: &ParentNode) -> Verdict {
    let unresolved = node.unresolved(&parent.parent);
    match unresolved.first() {
        Some((_, first)) => {
            Verdict::no(first.reason(), listed(unresolved.iter().map(|(rule, fault)| format!("rules[{rule}]: {fault}"))))
        }
        None => Verdict::yes("ResolvedRefs"),
    }
}

/// Whether the proxies of a parent are asked what they serve.
fn asked(parent: &ParentNode, graph: &Graph<'_>) -> bool {
    match &parent.parent {
        Parent::Gateway(_) => graph.proof.is_some(),
        Parent::Service(_) => graph.service_proof.is_some(),
    }
}

/// Whether every ready proxy of the parent serves this generation of the route; none: they are not asked. It is a condition of ours, since
/// the specification has none for it.
fn programmed(node: &RouteNode, parent: &ParentNode, graph: &Graph<'_>) -> Option<Verdict> {
    match &parent.parent {
        Parent::Gateway(parent) => {
            let name = &parent.gateway;
            let proof = graph.proof(&GatewayKey { namespace: name.namespace.clone(), name: name.name.clone() })?;
            Some(match proof.lacks_route(&node.key, &node.edition()) {
                Some((reason, why)) => Verdict::no(reason, why),
                None => Verdict::yes("Programmed").with(proof.note()),
            })
        }
        Parent::Service(parent) => Some(programmed_on_service(node, parent, graph.service_proof?)),
    }
}

/// The same of the sidecars that call a Service: all of its ports that the route has.
fn programmed_on_service(node: &RouteNode, parent: &ServiceParentNode, proofs: &BTreeMap<Audience, ServiceProof>) -> Verdict {
    let clients = (parent.service.namespace != node.key.namespace).then(|| node.key.namespace.clone());
    let unknown = ServiceProof::default();
    let audiences =
        parent.ports.iter().map(|port| Audience { service: service::key(&parent.service, *port), clients: clients.clone() });
    let (mut is_called, mut left_out) = (false, BTreeSet::new());
    for audience in audiences {
        let proof = proofs.get(&audience).unwrap_or(&unknown);
        if let Some((reason, why)) = proof.lacks(&audience, &node.key, &node.edition()) {
            return Verdict::no(reason, why);
        }
        is_called |= proof.is_called;
        left_out.extend(&proof.left_out);
    }
    let left_out: Vec<_> = left_out.into_iter().map(String::as_str).collect();
    match is_called {
        true if left_out.is_empty() => Verdict::yes("Programmed"),
        true => Verdict::yes("Programmed").with(format_args!("not counted: {}", left_out.join(", "))),
        false if left_out.is_empty() => {
            Verdict::yes("NoSubscribers").with("no sidecar that is connected calls it; the first that does gets it")
        }
        false => Verdict::yes("NoSubscribers")
            .with(format_args!("none of the sidecars that call it is counted: {}", left_out.join(", "))),
    }
}

/// > 1) Drop Rule(s): With this approach, implementations will drop the
/// >    invalid Route Rule(s) until they are fully valid again. The message
/// >    for this condition MUST start with the prefix "Dropped Rule" and
/// >    include information about which Rules have been dropped. In this
/// >    state, the "Accepted" condition MUST be set to "True" with the latest
/// >    generation of the resource.
///
/// > This condition MUST NOT be set if a Route is fully valid, fully invalid,
/// > or not accepted.
fn partially_invalid(node: &RouteNode, parent: &ParentNode) -> Option<Verdict> {
    let partial = !node.faults.is_empty() && !node.is_invalid() && parent.fault.is_none();
    partial.then(|| Verdict::yes("UnsupportedValue").with(format_args!("Dropped Rule {}", rules(node))))
}

fn rules(node: &RouteNode) -> String {
    listed(node.faults.iter().map(|(at, fault)| {
        let name = node.route.rules.get(*at).and_then(|rule| rule.name.as_deref());
        match name {
            Some(name) => format!("rules[{at}] (`{name}`): {fault}"),
            None => format!("rules[{at}]: {fault}"),
        }
    }))
}

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use isthmus_routing::{Matches, RouteKey, RouteKind};
    use serde_json::{Value, json};

    use crate::testing::{gateway, plain_listener, route, service, shown, translated};

    type Judged = (Vec<String>, Served);

    type Served = Vec<(bool, bool)>;

    /// Conditions with messages, and for each rule of the snapshot whether it matches, and whether it answers 500.
    fn judged(rules: &Value) -> Judged {
        let spec = json!({"parentRefs": [{"name": "edge"}], "rules": rules});
        let translation = translated([gateway(&plain_listener()), service("front", 80), route("HTTPRoute", "r", spec)]);
        let conditions = &translation.statuses.http_routes[&NamespacedName::new("shop", "r")].parents[0].conditions;
        let key = RouteKey { namespace: "shop".to_owned(), name: "r".to_owned(), kind: RouteKind::Http };
        let rules = translation.snapshot.routes.get(&key).map(|route| {
            let matches = |matches: &Matches| !matches!(matches, Matches::Http(list) if list.is_empty());
            route.rules.iter().map(|rule| (matches(&rule.matches), rule.invalid)).collect()
        });
        let told = shown(conditions, 7)
            .into_iter()
            .zip(conditions)
            .map(|(shown, condition)| format!("{shown} {}", condition.message).trim_end().to_owned());
        (told.collect(), rules.unwrap_or_default())
    }

    #[test]
    fn rules_that_cannot_be_carried_out() {
        let good = json!({"backendRefs": [{"name": "front", "port": 80}]});
        let regex = json!({"name": "second", "matches": [{"path": {"type": "RegularExpression", "value": "/a(?=b)"}}]});
        let both = json!({"filters": [
            {"type": "URLRewrite", "urlRewrite": {"hostname": "a.example"}},
            {"type": "RequestRedirect", "requestRedirect": {"hostname": "a.example"}},
        ]});
        let extension =
            json!({"filters": [{"type": "ExtensionRef", "extensionRef": {"group": "example.com", "kind": "Waf", "name": "w"}}]});
        let auth = json!({"filters": [{"type": "ExternalAuth"}]});
        let incomplete = json!({"filters": [{"type": "RequestMirror"}]});
        let (accepted, resolved) = ("Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs");
        let extension_told = "ResolvedRefs=False/InvalidKind rules[0]: filter Waf `w` of group `example.com` is not a kind of filter that is known; requests get status 500 until it is removed";
        let auth_told =
            "filters[0].externalAuth: the filter is not supported; remove it; until then requests that match get status 500";
        let table: Vec<(Value, Vec<String>, Served)> = vec![
            (json!([good]), vec![accepted.into(), resolved.into()], vec![(true, false)]),
            (json!([]), vec![accepted.into(), resolved.into()], vec![]),
            (json!([extension]), vec![accepted.into(), extension_told.into()], vec![(true, true)]),
            (
                json!([both]),
                vec!["Accepted=False/IncompatibleFilters rules[0]: filters RequestRedirect and URLRewrite cannot be combined; keep one".into(), resolved.into()],
                vec![],
            ),
            (
                json!([auth, auth]),
                vec![format!("Accepted=False/UnsupportedValue rules[0]: {auth_told}; rules[1]: {auth_told}"), resolved.into()],
                vec![],
            ),
            (
                json!([auth, good]),
                vec![accepted.into(), resolved.into(), format!("PartiallyInvalid=True/UnsupportedValue Dropped Rule rules[0]: {auth_told}")],
                vec![(true, true), (true, false)],
            ),
            (
                json!([good, both]),
                vec![
                    accepted.into(),
                    resolved.into(),
                    "PartiallyInvalid=True/UnsupportedValue Dropped Rule rules[1]: filters RequestRedirect and URLRewrite cannot be combined; keep one".into(),
                ],
                vec![(true, false), (false, false)],
            ),
        ];
        for (rules, conditions, served) in table {
            assert_eq!(judged(&rules), (conditions, served), "{rules}");
        }
        let (conditions, served) = judged(&json!([good, regex, incomplete]));
        assert!(
            conditions[2].starts_with(
                "PartiallyInvalid=True/UnsupportedValue Dropped Rule rules[1] (`second`): matches[0].path.value: `/a(?=b)`"
            ),
            "{conditions:?}"
        );
        assert!(conditions[2].contains("; rules[2]: filters[0].requestMirror: the filter is incomplete"), "{conditions:?}");
        assert_eq!(served, [(true, false), (false, false), (true, true)]);
    }

    #[test]
    fn references_that_lead_nowhere() {
        let to = |name: &str| json!({"name": name, "port": 80});
        let (conditions, served) = judged(&json!([{"backendRefs": [to("front"), to("gone")]}, {"backendRefs": [to("missing")]}]));
        assert_eq!(
            conditions,
            [
                "Accepted=True/Accepted",
                "ResolvedRefs=False/BackendNotFound rules[0]: Service shop/gone does not exist; create it or correct the name; \
                 rules[1]: Service shop/missing does not exist; create it or correct the name",
            ]
        );
        assert_eq!(served, [(true, false), (true, false)]);
    }

    #[test]
    fn long_lists_are_cut() {
        let missing: Vec<_> = (0..8).map(|at| json!({"name": format!("s{at}"), "port": 80})).collect();
        let (conditions, _) = judged(&json!([{"backendRefs": missing}]));
        assert!(conditions[1].ends_with("; and 3 more"), "{conditions:?}");
    }
}
