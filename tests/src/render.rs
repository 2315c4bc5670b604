//! Snapshots and statuses as the short YAML of case folders: derived values only, one line for a rule or a condition.

use std::fmt::Write as _;

use isthmus_api::status::{Condition, ListenerStatus, RouteStatus, Statuses};
use isthmus_routing::{Matches, Rule, Snapshot, Target, WeightedBackend};
use serde::Serialize;

/// The snapshot: listeners with their attachments, rules, backends. Endpoints are counted, certificates named; `kept` is a
/// reference whose content cannot be read now, so that proxies go on with what they hold.
pub fn snapshot(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for (key, gateway) in &snapshot.gateways {
        let _ = writeln!(out, "{key}:");
        for listener in &gateway.listeners {
            let hostname = listener.hostname.as_ref().map(|h| format!(" {h}")).unwrap_or_default();
            let certificates: Vec<_> = listener.certificates.iter().map(ToString::to_string).collect();
            let tls = if certificates.is_empty() { String::new() } else { format!(" with {}", certificates.join(", ")) };
            let _ = writeln!(
                out,
                "  {}: {} {}{hostname}{tls}",
                listener.name,
                flow(&listener.protocol).trim_matches('"'),
                listener.port
            );
            for attachment in &listener.routes {
                let hosts: Vec<_> = attachment.hostnames.iter().map(|h| h.as_str()).collect();
                let _ = writeln!(out, "    # {} {}", attachment.route, hosts.join(" "));
            }
        }
    }
    for (key, route) in &snapshot.routes {
        let _ = writeln!(out, "{key}:");
        for rule in &route.rules {
            render_rule(&mut out, rule);
        }
    }
    for (key, backend) in &snapshot.backends {
        let _ = writeln!(out, "{key}: {} {} endpoints", flow(&backend.protocol).trim_matches('"'), backend.endpoints.len());
    }
    for key in snapshot.certificates.keys() {
        let _ = writeln!(out, "{key}: certificate");
    }
    for key in &snapshot.kept {
        let _ = writeln!(out, "{key}: kept");
    }
    if out.is_empty() { "{}\n".to_owned() } else { out }
}

fn render_rule(out: &mut String, rule: &Rule) {
    let name = rule.name.as_ref().map(|name| format!("name: {name}, ")).unwrap_or_default();
    let matches = match &rule.matches {
        Matches::Http(matches) => flow(matches),
        Matches::Grpc(matches) => flow(matches),
        Matches::Any => "any".to_owned(),
    };
    let _ = writeln!(out, "- {{{name}matches: {matches}}}");
    for filter in &rule.filters {
        let _ = writeln!(out, "  # filter {}", flow(filter));
    }
    if rule.invalid {
        let _ = writeln!(out, "  # invalid: answers 500");
    }
    if !rule.timeouts.is_empty() {
        let _ = writeln!(out, "  # timeouts {}", flow(&rule.timeouts));
    }
    if let Some(retry) = &rule.retry {
        let _ = writeln!(out, "  # retry {}", flow(retry));
    }
    for WeightedBackend { weight, target, filters } in &rule.backends {
        let target = match target {
            Target::Backend(key) => key.to_string(),
            Target::Invalid => "invalid".to_owned(),
        };
        let _ = writeln!(out, "  # {weight} -> {target}");
        for filter in filters {
            let _ = writeln!(out, "  #   filter {}", flow(filter));
        }
    }
}

/// JSON on one line, which is YAML's flow style.
fn flow(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("the model serialises: its keys are text")
}

/// The statuses: conditions, listeners, parents. `rejected` lists what admission refused, one line each.
pub fn statuses(statuses: &Statuses, rejected: &[String]) -> String {
    let mut out = String::new();
    if !rejected.is_empty() {
        out.push_str("rejected:\n");
        for line in rejected {
            let _ = writeln!(out, "- {}", flow(line));
        }
    }
    for (name, status) in &statuses.gateway_classes {
        let _ = writeln!(out, "GatewayClass/{name}:");
        conditions(&mut out, "  ", &status.conditions);
    }
    for (name, status) in &statuses.gateways {
        let _ = writeln!(out, "Gateway/{name}:");
        let addresses: Vec<_> = status.addresses.iter().map(|address| format!("{} {}", address.r#type, address.value)).collect();
        let _ = writeln!(out, "  addresses: [{}]", addresses.join(", "));
        conditions(&mut out, "  ", &status.conditions);
        if status.attached_listener_sets > 0 {
            let _ = writeln!(out, "  attachedListenerSets: {}", status.attached_listener_sets);
        }
        listeners(&mut out, &status.listeners);
    }
    for (name, status) in &statuses.listener_sets {
        let _ = writeln!(out, "ListenerSet/{name}:");
        conditions(&mut out, "  ", &status.conditions);
        listeners(&mut out, &status.listeners);
    }
    for (kind, routes) in [("HTTPRoute", &statuses.http_routes), ("GRPCRoute", &statuses.grpc_routes)] {
        for (name, status) in routes {
            route(&mut out, &format!("{kind}/{name}"), status);
        }
    }
    out
}

fn listeners(out: &mut String, listeners: &[ListenerStatus]) {
    for listener in listeners {
        let kinds: Vec<_> = listener.supported_kinds.iter().map(|kind| kind.kind.as_str()).collect();
        let _ = writeln!(out, "  {}:", listener.name);
        let _ = writeln!(out, "    attachedRoutes: {}", listener.attached_routes);
        let _ = writeln!(out, "    supportedKinds: [{}]", kinds.join(", "));
        conditions(out, "    ", &listener.conditions);
    }
}

fn route(out: &mut String, name: &str, status: &RouteStatus) {
    if status.parents.is_empty() {
        let _ = writeln!(out, "{name}: []");
        return;
    }
    let _ = writeln!(out, "{name}:");
    for parent in &status.parents {
        let of = &parent.parent_ref;
        let section = of.section_name.as_ref().map(|name| format!(" section {name}")).unwrap_or_default();
        let port = of.port.map(|port| format!(" port {port}")).unwrap_or_default();
        let namespace = of.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let kind = if of.kind == "Gateway" { String::new() } else { format!("{} ", of.kind) };
        let _ = writeln!(out, "- parent: {kind}{namespace}{}{section}{port}", of.name);
        conditions(out, "  ", &parent.conditions);
    }
}

fn conditions(out: &mut String, indent: &str, conditions: &[Condition]) {
    for condition in conditions {
        let message = if condition.message.is_empty() { String::new() } else { format!(" # {}", condition.message) };
        let generation = match condition.observed_generation {
            1 => String::new(),
            other => format!(" observed {other}"),
        };
        let _ = writeln!(out, "{indent}{}: {:?} {}{generation}{message}", condition.r#type, condition.status, condition.reason);
    }
}
