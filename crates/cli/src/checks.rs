//! What a cluster would leave unsaid: objects that lead nowhere. Pure.

use std::collections::BTreeMap;

use isthmus_api::shared::{GATEWAY_GROUP, ParentRef, RouteView};
use isthmus_api::status::Statuses;
use isthmus_api::{Kind, ListenerSet, NamespacedName, ObjectRef, Objects};
use isthmus_translate::CONTROLLER_NAME;

use crate::message::{Message, Place};
use crate::state::Origin;

/// Gateways whose class is missing, ListenerSets and routes without a parent, and a folder without a Gateway. `mesh`: whether Services are
/// called, and so can be parents.
pub fn check(objects: &Objects, statuses: &Statuses, origins: &BTreeMap<ObjectRef, Origin>, mesh: bool) -> Vec<Message> {
    let mut messages = Vec::new();
    let is_called = mesh && !objects.services.is_empty();
    if objects.gateways.is_empty() && !is_called {
        messages.push(Message::warning(None, "no Gateway: nothing listens; examples/canary is a small folder to start from"));
    }
    messages.extend(
        objects.gateways.iter().filter_map(|(name, gateway)| class(objects, name, &gateway.spec.gateway_class_name, origins)),
    );
    let sets = objects.listener_sets.iter().filter(|(name, _)| !statuses.listener_sets.contains_key(name));
    messages.extend(sets.filter_map(|(name, set)| detached(objects, name, set, origins)));
    let http = objects.http_routes.iter().map(|(name, route)| (name, RouteView::from(&**route), statuses.http_routes.get(name)));
    let grpc = objects.grpc_routes.iter().map(|(name, route)| (name, RouteView::from(&**route), statuses.grpc_routes.get(name)));
    let tls = objects.tls_routes.iter().map(|(name, route)| (name, RouteView::from(&**route), statuses.tls_routes.get(name)));
    let tcp = objects.tcp_routes.iter().map(|(name, route)| (name, RouteView::from(&**route), statuses.tcp_routes.get(name)));
    let udp = objects.udp_routes.iter().map(|(name, route)| (name, RouteView::from(&**route), statuses.udp_routes.get(name)));
    for (name, route, status) in http.chain(grpc).chain(tls).chain(tcp).chain(udp) {
        if status.is_none_or(|status| status.parents.is_empty()) {
            messages.extend(lost(objects, name, &route, origins));
        }
        if !mesh && matches!(route.kind, Kind::HttpRoute | Kind::GrpcRoute) {
            messages.extend(called(name, &route, origins));
        }
    }
    messages
}

fn class(objects: &Objects, name: &NamespacedName, class: &str, origins: &BTreeMap<ObjectRef, Origin>) -> Option<Message> {
    let gateway = ObjectRef { kind: Kind::Gateway, namespace: Some(name.namespace.clone()), name: name.name.clone() };
    let place =
        origins.get(&gateway).map(|origin| Place { line: origin.landmark.unwrap_or(origin.place.line), ..origin.place.clone() });
    match objects.gateway_classes.get(class) {
        None => {
            let text = format!(
                "{gateway}: spec.gatewayClassName: there is no GatewayClass `{class}`; write one: {{apiVersion: {GATEWAY_GROUP}/v1, kind: GatewayClass, \
                 metadata: {{name: {class}}}, spec: {{controllerName: {CONTROLLER_NAME}}}}}"
            );
            Some(Message::fault(place, text))
        }
        Some(found) if found.spec.controller_name != CONTROLLER_NAME => {
            let text = format!(
                "{gateway}: GatewayClass `{class}` belongs to {}, so this Gateway is not served here; ours is {CONTROLLER_NAME}",
                found.spec.controller_name
            );
            Some(Message::notice(place, text))
        }
        Some(_) => None,
    }
}

/// A ListenerSet that nobody judges. The class of a Gateway that is there has been said before.
fn detached(
    objects: &Objects,
    name: &NamespacedName,
    set: &ListenerSet,
    origins: &BTreeMap<ObjectRef, Origin>,
) -> Option<Message> {
    let object = ObjectRef { kind: Kind::ListenerSet, namespace: Some(name.namespace.clone()), name: name.name.clone() };
    let place =
        origins.get(&object).map(|origin| Place { line: origin.landmark.unwrap_or(origin.place.line), ..origin.place.clone() });
    let parent = &set.spec.parent_ref;
    let gateway = NamespacedName::new(parent.namespace.as_ref().unwrap_or(&name.namespace).clone(), parent.name.clone());
    let (group, kind) = (parent.group.as_deref().unwrap_or(GATEWAY_GROUP), parent.kind.as_deref().unwrap_or("Gateway"));
    if group != GATEWAY_GROUP || kind != "Gateway" {
        return Some(Message::warning(place, format!("{object} adds no listener: its parentRef is a {kind}; name a Gateway")));
    }
    (!objects.gateways.contains_key(&gateway))
        .then(|| Message::warning(place, format!("{object} adds no listener: there is no Gateway {gateway}")))
}

/// A route for clients of a Service, of which there are none.
fn called(name: &NamespacedName, route: &RouteView<'_>, origins: &BTreeMap<ObjectRef, Origin>) -> Option<Message> {
    let parent = route.parent_refs.iter().find(|parent| parent.group.is_empty() && parent.kind == "Service")?;
    let object = ObjectRef { kind: route.kind, namespace: Some(name.namespace.clone()), name: name.name.clone() };
    let place = origins.get(&object).map(|origin| origin.place.clone());
    Some(Message::warning(place, format!("{object} is for clients of Service {}, which only --mesh serves", parent.name)))
}

/// A route that nobody judges.
fn lost(
    objects: &Objects,
    name: &NamespacedName,
    route: &RouteView<'_>,
    origins: &BTreeMap<ObjectRef, Origin>,
) -> Option<Message> {
    let object = ObjectRef { kind: route.kind, namespace: Some(name.namespace.clone()), name: name.name.clone() };
    let place = origins.get(&object).map(|origin| origin.place.clone());
    let missing = |parent: &ParentRef| {
        let key = NamespacedName::new(parent.namespace.as_ref().unwrap_or(&name.namespace).clone(), parent.name.clone());
        let there = match parent.kind.as_str() {
            _ if parent.group != GATEWAY_GROUP => return None,
            "Gateway" => objects.gateways.contains_key(&key),
            "ListenerSet" => objects.listener_sets.contains_key(&key),
            _ => return None,
        };
        (!there).then(|| format!("{} {key}", parent.kind))
    };
    let missing: Vec<_> = route.parent_refs.iter().filter_map(missing).collect();
    if route.parent_refs.is_empty() {
        return Some(Message::warning(place, format!("{object} has no parentRefs, so it routes nothing")));
    }
    // The class of a Gateway that is there has been said above.
    (!missing.is_empty())
        .then(|| Message::warning(place, format!("{object} routes nothing: there is no {}", missing.join(" and no "))))
}

#[cfg(test)]
mod tests {
    use isthmus_api::decode;
    use isthmus_translate::{Options, translate};
    use serde_json::json;

    use super::*;

    fn texts(class: &str, controller: &str, parent: &str) -> Vec<String> {
        let mut objects = Objects::default();
        let group = "gateway.networking.k8s.io/v1";
        let parents = if parent.is_empty() { json!([]) } else { json!([{"name": parent}]) };
        for object in [
            json!({"apiVersion": group, "kind": "GatewayClass", "metadata": {"name": "isthmus"}, "spec": {"controllerName": controller}}),
            json!({"apiVersion": group, "kind": "Gateway", "metadata": {"name": "g", "namespace": "x"},
                   "spec": {"gatewayClassName": class, "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}),
            json!({"apiVersion": group, "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "x"}, "spec": {"parentRefs": parents}}),
        ] {
            objects.apply(decode(object).unwrap());
        }
        let statuses = translate(&objects, &Options::default()).statuses;
        check(&objects, &statuses, &BTreeMap::new(), false).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_leads_nowhere_is_said() {
        for (class, controller, parent, expected) in [
            ("isthmus", CONTROLLER_NAME, "g", vec![]),
            (
                "isthmuss",
                CONTROLLER_NAME,
                "g",
                vec![
                    "Gateway/x/g: spec.gatewayClassName: there is no GatewayClass `isthmuss`; write one: {apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: isthmuss}, spec: {controllerName: isthmus.dev/gateway-controller}}",
                ],
            ),
            (
                "isthmus",
                "example.com/other",
                "g",
                vec![
                    "Gateway/x/g: GatewayClass `isthmus` belongs to example.com/other, so this Gateway is not served here; ours is isthmus.dev/gateway-controller",
                ],
            ),
            ("isthmus", CONTROLLER_NAME, "typo", vec!["HTTPRoute/x/r routes nothing: there is no Gateway x/typo"]),
            ("isthmus", CONTROLLER_NAME, "", vec!["HTTPRoute/x/r has no parentRefs, so it routes nothing"]),
        ] {
            assert_eq!(texts(class, controller, parent), expected, "{class} {controller} {parent}");
        }
    }

    #[test]
    fn listener_sets_that_lead_nowhere_are_said() {
        let api_version = "gateway.networking.k8s.io/v1";
        for (parent, route_parent, expected) in [
            (json!({"name": "g"}), "s", vec![]),
            (json!({"name": "typo"}), "s", vec!["ListenerSet/x/s adds no listener: there is no Gateway x/typo"]),
            (
                json!({"group": "", "kind": "Service", "name": "g"}),
                "s",
                vec!["ListenerSet/x/s adds no listener: its parentRef is a Service; name a Gateway"],
            ),
            (json!({"name": "g"}), "typo", vec!["HTTPRoute/x/r routes nothing: there is no ListenerSet x/typo"]),
        ] {
            let mut objects = Objects::default();
            for object in [
                json!({"apiVersion": api_version, "kind": "GatewayClass", "metadata": {"name": "c"}, "spec": {"controllerName": CONTROLLER_NAME}}),
                json!({"apiVersion": api_version, "kind": "Gateway", "metadata": {"name": "g", "namespace": "x"},
                       "spec": {"gatewayClassName": "c", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}),
                json!({"apiVersion": api_version, "kind": "ListenerSet", "metadata": {"name": "s", "namespace": "x"},
                       "spec": {"parentRef": parent, "listeners": [{"name": "http", "port": 81, "protocol": "HTTP"}]}}),
                json!({"apiVersion": api_version, "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "x"},
                       "spec": {"parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": route_parent}]}}),
            ] {
                objects.apply(decode(object).unwrap());
            }
            let statuses = translate(&objects, &Options::default()).statuses;
            let said: Vec<_> = check(&objects, &statuses, &BTreeMap::new(), false).iter().map(ToString::to_string).collect();
            assert_eq!(said, expected, "{parent}");
        }
    }

    #[test]
    fn routes_of_services_are_for_the_mesh() {
        let mut objects = Objects::default();
        let parents = json!([{"group": "", "kind": "Service", "name": "s"}]);
        for object in [
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "x"}, "spec": {"ports": [{"port": 80}]}}),
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "x"}, "spec": {"parentRefs": parents}}),
        ] {
            objects.apply(decode(object).unwrap());
        }
        let texts = |mesh| {
            let statuses = translate(&objects, &Options { mesh, ..Options::default() }).statuses;
            check(&objects, &statuses, &BTreeMap::new(), mesh).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(texts(true), Vec::<String>::new());
        assert_eq!(texts(false)[1..], ["HTTPRoute/x/r is for clients of Service s, which only --mesh serves"]);
    }

    #[test]
    fn a_folder_without_a_gateway() {
        let messages = check(&Objects::default(), &Statuses::default(), &BTreeMap::new(), false);
        assert!(messages[0].text.starts_with("no Gateway: "), "{messages:?}");
    }
}
