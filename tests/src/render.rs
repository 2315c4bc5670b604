//! Snapshots and statuses as the short YAML of case folders: derived values only, one line for a rule or a condition.

use std::fmt::Write as _;

use isthmus_api::shared::ParentRef;
use isthmus_api::status::{Condition, ListenerStatus, PolicyStatus, RouteStatus, Statuses};
use isthmus_routing::{Listener, Matches, Route, Rule, ServiceParent, Snapshot, Target, WeightedBackend};
use serde::Serialize;

/// The snapshot: listeners with their attachments, rules, backends. Endpoints are counted, certificates named; `kept` is a
/// reference whose content cannot be read now, so that proxies go on with what they hold.
pub fn snapshot(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for (key, gateway) in &snapshot.gateways {
        let _ = writeln!(out, "{key}:");
        if let Some(certificate) = &gateway.client_certificate {
            let _ = writeln!(out, "  # shows {certificate} to backends");
        }
        if gateway.proxy_protocol {
            let _ = writeln!(out, "  # requires PROXY protocol");
        }
        if gateway.trusted_hops > 0 {
            let _ = writeln!(out, "  # trusts {} hops", gateway.trusted_hops);
        }
        for listener in &gateway.listeners {
            let _ = writeln!(out, "  {}: {}", listener.name, spoken(listener));
            for attachment in &listener.routes {
                let hosts: Vec<_> = attachment.hostnames.iter().map(|h| h.as_str()).collect();
                let _ = writeln!(out, "    # {} {}", attachment.route, hosts.join(" "));
            }
        }
    }
    for (key, route) in &snapshot.routes {
        render_route(&mut out, &key.to_string(), route);
    }
    for (key, parent) in &snapshot.services {
        render_parent(&mut out, &key.to_string(), parent);
    }
    for (key, route) in &snapshot.service_routes {
        render_route(&mut out, &format!("ServiceRoute/{key}"), route);
    }
    for (key, backend) in &snapshot.backends {
        let _ = writeln!(out, "{key}: {} {} endpoints", flow(&backend.protocol).trim_matches('"'), backend.endpoints.len());
        if let Some(tls) = &backend.tls {
            let _ = writeln!(out, "  # tls {}", flow(tls));
        }
        if let Some(version) = &backend.proxy_protocol {
            let _ = writeln!(out, "  # PROXY protocol {}", flow(version).trim_matches('"'));
        }
    }
    for key in snapshot.certificates.keys() {
        let _ = writeln!(out, "{key}: certificate");
    }
    for key in &snapshot.kept {
        let _ = writeln!(out, "{key}: kept");
    }
    for (key, bundle) in &snapshot.bundles {
        let count = bundle.certificates.matches("BEGIN CERTIFICATE").count();
        let _ = writeln!(out, "{key}: bundle of {count}");
    }
    for key in &snapshot.kept_bundles {
        let _ = writeln!(out, "{key}: bundle kept");
    }
    if out.is_empty() { "{}\n".to_owned() } else { out }
}

/// Protocol, port, hostname and what TLS has to be, on one line.
fn spoken(listener: &Listener) -> String {
    let mut line = format!("{} {}", listener.protocol.as_str(), listener.port);
    if let Some(hostname) = &listener.hostname {
        let _ = write!(line, " {hostname}");
    }
    if listener.passthrough {
        line.push_str(" passed on");
    }
    if !listener.certificates.is_empty() {
        let certificates: Vec<_> = listener.certificates.iter().map(ToString::to_string).collect();
        let _ = write!(line, " with {}", certificates.join(", "));
    }
    if !listener.tls.is_default() {
        let _ = write!(line, " settings {}", flow(&listener.tls));
    }
    if let Some(validation) = &listener.client_validation {
        let authorities: Vec<_> = validation.authorities.iter().map(ToString::to_string).collect();
        let how = if validation.optional { "may be" } else { "are" };
        let _ = write!(line, "; clients {how} of {}", authorities.join(", "));
    }
    line
}

fn render_parent(out: &mut String, key: &str, parent: &ServiceParent) {
    let addresses: Vec<_> = parent.addresses.iter().map(ToString::to_string).collect();
    let _ = writeln!(out, "Parent/{key}: at {}", addresses.join(", "));
    for attachment in &parent.routes {
        let _ = writeln!(out, "  # {}", attachment.route);
    }
    for (namespace, attachments) in &parent.consumers {
        for attachment in attachments {
            let _ = writeln!(out, "  # for clients of {namespace}: {}", attachment.route);
        }
    }
}

fn render_route(out: &mut String, name: &str, route: &Route) {
    let _ = writeln!(out, "{name}:");
    for rule in &route.rules {
        render_rule(out, rule);
    }
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
    let routes = [
        ("HTTPRoute", &statuses.http_routes),
        ("GRPCRoute", &statuses.grpc_routes),
        ("TLSRoute", &statuses.tls_routes),
        ("TCPRoute", &statuses.tcp_routes),
        ("UDPRoute", &statuses.udp_routes),
    ];
    for (kind, routes) in routes {
        for (name, status) in routes {
            route(&mut out, &format!("{kind}/{name}"), status);
        }
    }
    for (name, status) in &statuses.backend_tls_policies {
        policy(&mut out, &format!("BackendTLSPolicy/{name}"), status);
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
        let _ = writeln!(out, "- parent: {}", short(&parent.parent_ref));
        conditions(out, "  ", &parent.conditions);
    }
}

fn policy(out: &mut String, name: &str, status: &PolicyStatus) {
    if status.ancestors.is_empty() {
        let _ = writeln!(out, "{name}: []");
        return;
    }
    let _ = writeln!(out, "{name}:");
    for ancestor in &status.ancestors {
        let _ = writeln!(out, "- ancestor: {}", short(&ancestor.ancestor_ref));
        conditions(out, "  ", &ancestor.conditions);
    }
}

fn short(of: &ParentRef) -> String {
    let section = of.section_name.as_ref().map(|name| format!(" section {name}")).unwrap_or_default();
    let port = of.port.map(|port| format!(" port {port}")).unwrap_or_default();
    let namespace = of.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let kind = if of.kind == "Gateway" { String::new() } else { format!("{} ", of.kind) };
    format!("{kind}{namespace}{}{section}{port}", of.name)
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
