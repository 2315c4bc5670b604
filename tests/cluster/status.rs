//! Conditions, as tests ask for them.

use std::net::{IpAddr, SocketAddr};

use kube::api::DynamicObject;
use serde_json::Value;

use crate::space::text;

/// Ours.
pub(crate) const CONTROLLER: &str = "isthmus.dev/gateway-controller";
/// The condition of routes that says that proxies serve them.
pub(crate) const ROUTE_PROGRAMMED: &str = "isthmus.dev/Programmed";

/// Which conditions of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of<'a> {
    /// The object's own.
    Object,
    /// Those of a listener.
    Listener(&'a str),
    /// Those of a route, for its parent of ours.
    Route,
    /// Those of a policy, for its first ancestor of ours.
    Ancestor,
}

/// A condition of the newest generation.
pub(crate) fn condition<'a>(object: &'a DynamicObject, of: Of<'_>, kind: &str) -> Option<&'a Value> {
    let status = &object.data["status"];
    let conditions = match of {
        Of::Object => &status["conditions"],
        Of::Listener(name) => find(&status["listeners"], "name", name)?.get("conditions")?,
        Of::Route => find(&status["parents"], "controllerName", CONTROLLER)?.get("conditions")?,
        Of::Ancestor => find(&status["ancestors"], "controllerName", CONTROLLER)?.get("conditions")?,
    };
    let generation = object.metadata.generation.unwrap_or_default();
    find(conditions, "type", kind).filter(|condition| condition["observedGeneration"].as_i64() == Some(generation))
}

/// Whether a condition of the newest generation is so; an empty reason stands for any.
pub(crate) fn is(object: &DynamicObject, of: Of<'_>, kind: &str, status: &str, reason: &str) -> bool {
    condition(object, of, kind).is_some_and(|condition| {
        text(&condition["status"]) == status && (reason.is_empty() || text(&condition["reason"]) == reason)
    })
}

/// Whether a route is served.
pub(crate) fn is_served(route: &DynamicObject) -> bool {
    is(route, Of::Route, ROUTE_PROGRAMMED, "True", "")
}

/// Whether a Gateway is served.
pub(crate) fn is_programmed(gateway: &DynamicObject) -> bool {
    is(gateway, Of::Object, "Programmed", "True", "")
}

/// A Gateway's addresses.
pub(crate) fn addresses(gateway: &DynamicObject) -> Vec<IpAddr> {
    let addresses = gateway.data["status"]["addresses"].as_array();
    addresses.into_iter().flatten().filter_map(|address| text(&address["value"]).parse().ok()).collect()
}

/// A Gateway's first address, at a port.
pub(crate) fn first_address(gateway: &DynamicObject, port: u16) -> Option<SocketAddr> {
    addresses(gateway).first().map(|ip| SocketAddr::new(*ip, port))
}

fn find<'a>(items: &'a Value, key: &str, value: &str) -> Option<&'a Value> {
    items.as_array()?.iter().find(|item| text(&item[key]) == value)
}
