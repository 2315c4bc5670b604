//! Which cases are about a parent's kind, and how the others move from a listener to a Service.

use isthmus_api::NamespacedName;
use serde_json::{Value, json};

use crate::case::{Case, Exchange, Speech};

/// The Service that becomes the parent. No case has one of this name.
const PARENT: &str = "equivalence-parent";

/// Why a case has no meaning on a Service: the written list of what differs between the kinds of parents.
pub(super) fn apart(documents: &[Value], case: &Case) -> Option<&'static str> {
    if case.requests.iter().any(|exchange| exchange.service.is_some()) {
        return Some("a case of Services already");
    }
    let (http, grpc) = (of_kind(documents, "HTTPRoute").next(), of_kind(documents, "GRPCRoute").next());
    if http.is_none() && grpc.is_none() {
        return Some("neither HTTPRoute nor GRPCRoute");
    }
    if http.is_some() && grpc.is_some() {
        return Some("both kinds of routes: of a Service's routes only GRPCRoutes would count");
    }
    let any = |kind| of_kind(documents, kind).next().is_some();
    if any("TLSRoute") || any("TCPRoute") || any("UDPRoute") {
        return Some("other routes: a Service has none of them yet");
    }
    if any("ListenerSet") {
        return Some("ListenerSets: a Service has no listeners");
    }
    if any("ReferenceGrant") {
        return Some("ReferenceGrants: a Service's routes need none");
    }
    let gateways: Vec<_> = of_kind(documents, "Gateway").collect();
    let [gateway] = gateways.as_slice() else { return Some("several Gateways or none: which one is asked decides there") };
    let spec = &gateway["spec"];
    if !spec["infrastructure"].is_null() || !spec["tls"].is_null() || !spec["addresses"].is_null() {
        return Some("settings of a Gateway");
    }
    let [listener] = spec["listeners"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Some("several listeners: which one takes a request is theirs to decide");
    };
    if listener["protocol"] != "HTTP" {
        return Some("TLS of listeners");
    }
    if !listener["hostname"].is_null() {
        return Some("hostnames");
    }
    if !listener["allowedRoutes"].is_null() {
        return Some("allowedRoutes: a Service allows every route, as a producer or a consumer");
    }
    routes(documents)
        .find_map(|route| of_route(route, gateway))
        .or_else(|| case.requests.iter().find_map(of_request))
        .or_else(|| case.requests.is_empty().then_some("no requests"))
}

fn of_route(route: &Value, gateway: &Value) -> Option<&'static str> {
    if namespace(route) != namespace(gateway) {
        return Some("allowedRoutes: a Service allows every route, as a producer or a consumer");
    }
    let spec = &route["spec"];
    if !spec["hostnames"].is_null() {
        return Some("hostnames");
    }
    let [parent] = spec["parentRefs"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Some("several parents or none");
    };
    let of = parent["namespace"].as_str().unwrap_or_else(|| namespace(route));
    if parent["name"] != gateway["metadata"]["name"]
        || of != namespace(gateway)
        || parent.get("kind").is_some_and(|kind| kind != "Gateway")
    {
        return Some("a parent that is not there");
    }
    if !parent["sectionName"].is_null() || !parent["port"].is_null() {
        return Some("sectionName and port of parentRefs");
    }
    leaves(spec, namespace(route)).then_some("backends of other namespaces: of a Service they need no ReferenceGrant")
}

/// Whether anything in it but the parents names another namespace.
fn leaves(value: &Value, own: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| leaves(item, own)),
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "parentRefs")
            .any(|(name, field)| (name == "namespace" && *field != own) || leaves(field, own)),
        _ => false,
    }
}

fn of_request(exchange: &Exchange) -> Option<&'static str> {
    if exchange.expect.refused || !matches!(exchange.speech(), Speech::Http) {
        return Some("connections that are refused");
    }
    exchange.client.is_some().then_some("client certificates")
}

/// The same objects with a Service as the routes' only parent, and without Gateways; and the Service's name. To be called for what is not
/// [`apart`].
pub(super) fn for_service(documents: &[Value]) -> (Vec<Value>, NamespacedName) {
    let port = of_kind(documents, "Gateway").map(|gateway| gateway["spec"]["listeners"][0]["port"].clone()).next();
    let namespace = routes(documents).next().map_or("default", namespace);
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": PARENT, "namespace": namespace},
        "spec": {"ports": [{"port": port}]},
    });
    // So that no stand-in answers for it.
    let nobody = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": PARENT, "namespace": namespace, "labels": {"kubernetes.io/service-name": PARENT}},
        "addressType": "IPv4",
        "endpoints": [],
    });
    let kept = documents.iter().filter(|document| document["kind"] != "Gateway" && document["kind"] != "GatewayClass");
    let moved = kept.cloned().map(|mut document| {
        if document["kind"] == "HTTPRoute" || document["kind"] == "GRPCRoute" {
            document["spec"]["parentRefs"] = json!([{"group": "", "kind": "Service", "name": PARENT}]);
        }
        document
    });
    (moved.chain([service, nobody]).collect(), NamespacedName::new(namespace, PARENT))
}

fn routes(documents: &[Value]) -> impl Iterator<Item = &Value> {
    of_kind(documents, "HTTPRoute").chain(of_kind(documents, "GRPCRoute"))
}

fn of_kind<'d>(documents: &'d [Value], kind: &str) -> impl Iterator<Item = &'d Value> {
    documents.iter().filter(move |document| document["kind"] == kind)
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}
