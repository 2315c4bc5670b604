//! Statuses as objects, the way `kubectl get -o yaml` would show them, and what is not good in them. Pure.

use std::collections::BTreeMap;

use isthmus_api::shared::ParentRef;
use isthmus_api::status::{Condition, ConditionStatus, Statuses};
use isthmus_api::{Kind, NamespacedName, ObjectMeta, ObjectRef, Objects};

use serde::Serialize;
use serde_json::{Value, json};

use crate::state::Origin;

/// A condition that asks for somebody's attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub object: ObjectRef,
    /// The listener or the parent that it is about.
    pub part: Option<String>,
    /// What is not good.
    pub condition: Condition,
}

/// How statuses are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One document for each object.
    Yaml,
    /// One `List`.
    Json,
    /// The table that a terminal shows.
    Table,
}

/// `apiVersion`, `kind`, `metadata` and `status` of every object that is ours; every condition changed at `now` (RFC 3339).
pub fn objects(statuses: &Statuses, objects: &Objects, now: &str) -> Vec<Value> {
    let none = ObjectMeta::default();
    let mut documents = Vec::new();
    for (name, status) in &statuses.gateway_classes {
        let metadata = objects.gateway_classes.get(name).map_or(&none, |class| &class.metadata);
        documents.push(document(Kind::GatewayClass, metadata, status, now));
    }
    for (name, status) in &statuses.gateways {
        let metadata = objects.gateways.get(name).map_or(&none, |gateway| &gateway.metadata);
        documents.push(document(Kind::Gateway, metadata, status, now));
    }
    for (name, status) in &statuses.listener_sets {
        let metadata = objects.listener_sets.get(name).map_or(&none, |set| &set.metadata);
        documents.push(document(Kind::ListenerSet, metadata, status, now));
    }
    for (name, status) in &statuses.http_routes {
        let metadata = objects.http_routes.get(name).map_or(&none, |route| &route.metadata);
        documents.push(document(Kind::HttpRoute, metadata, status, now));
    }
    for (name, status) in &statuses.grpc_routes {
        let metadata = objects.grpc_routes.get(name).map_or(&none, |route| &route.metadata);
        documents.push(document(Kind::GrpcRoute, metadata, status, now));
    }
    for (name, status) in &statuses.tls_routes {
        let metadata = objects.tls_routes.get(name).map_or(&none, |route| &route.metadata);
        documents.push(document(Kind::TlsRoute, metadata, status, now));
    }
    for (name, status) in &statuses.tcp_routes {
        let metadata = objects.tcp_routes.get(name).map_or(&none, |route| &route.metadata);
        documents.push(document(Kind::TcpRoute, metadata, status, now));
    }
    for (name, status) in &statuses.udp_routes {
        let metadata = objects.udp_routes.get(name).map_or(&none, |route| &route.metadata);
        documents.push(document(Kind::UdpRoute, metadata, status, now));
    }
    for (name, status) in &statuses.backend_tls_policies {
        let metadata = objects.backend_tls_policies.get(name).map_or(&none, |policy| &policy.metadata);
        documents.push(document(Kind::BackendTlsPolicy, metadata, status, now));
    }
    for (name, status) in &statuses.x_meshes {
        let metadata = objects.x_meshes.get(name).map_or(&none, |mesh| &mesh.metadata);
        documents.push(document(Kind::XMesh, metadata, status, now));
    }
    documents
}

/// The text of `objects`, or nothing for [`Format::Table`].
///
/// # Errors
/// When a value has no YAML form; those of statuses all have one.
pub fn render(documents: &[Value], format: Format) -> Result<String, serde_saphyr::ser::Error> {
    Ok(match format {
        Format::Yaml => documents.iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?.join("---\n"),
        Format::Json => format!("{:#}\n", json!({"apiVersion": "v1", "kind": "List", "items": documents})),
        Format::Table => String::new(),
    })
}

/// Everything that is not good, in the order of the objects.
pub fn problems(statuses: &Statuses) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut note = |object: ObjectRef, part: Option<&str>, conditions: &[Condition]| {
        problems.extend(conditions.iter().filter(|condition| !is_good(condition)).map(|condition| Problem {
            object: object.clone(),
            part: part.map(str::to_owned),
            condition: condition.clone(),
        }));
    };
    for (name, status) in &statuses.gateway_classes {
        note(ObjectRef { kind: Kind::GatewayClass, namespace: None, name: name.clone() }, None, &status.conditions);
    }
    for (name, status) in &statuses.gateways {
        note(object(Kind::Gateway, name), None, &status.conditions);
        for listener in &status.listeners {
            note(object(Kind::Gateway, name), Some(&format!("listener {}", listener.name)), &listener.conditions);
        }
    }
    for (name, status) in &statuses.listener_sets {
        note(object(Kind::ListenerSet, name), None, &status.conditions);
        for listener in &status.listeners {
            note(object(Kind::ListenerSet, name), Some(&format!("listener {}", listener.name)), &listener.conditions);
        }
    }
    let routes = [
        (Kind::HttpRoute, &statuses.http_routes),
        (Kind::GrpcRoute, &statuses.grpc_routes),
        (Kind::TlsRoute, &statuses.tls_routes),
        (Kind::TcpRoute, &statuses.tcp_routes),
        (Kind::UdpRoute, &statuses.udp_routes),
    ];
    for (kind, name, status) in
        routes.into_iter().flat_map(|(kind, of)| of.iter().map(move |(name, status)| (kind, name, status)))
    {
        for parent in &status.parents {
            note(object(kind, name), Some(&format!("parent {}", referred(&parent.parent_ref, name))), &parent.conditions);
        }
    }
    for (name, status) in &statuses.backend_tls_policies {
        for ancestor in &status.ancestors {
            let part = format!("ancestor {}", referred(&ancestor.ancestor_ref, name));
            note(object(Kind::BackendTlsPolicy, name), Some(&part), &ancestor.conditions);
        }
    }
    for (name, status) in &statuses.x_meshes {
        note(ObjectRef { kind: Kind::XMesh, namespace: None, name: name.clone() }, None, &status.conditions);
    }
    problems
}

/// What an object of this name refers to: `shop/edge https`, `ListenerSet shop/team`.
fn referred(reference: &ParentRef, from: &NamespacedName) -> String {
    let namespace = reference.namespace.as_ref().unwrap_or(&from.namespace);
    let to = NamespacedName::new(namespace.clone(), reference.name.clone());
    let kind = match reference.kind.as_str() {
        "Gateway" => String::new(),
        other => format!("{other} "),
    };
    let section = reference.section_name.as_ref().map(|section| format!(" {section}")).unwrap_or_default();
    format!("{kind}{to}{section}")
}

fn object(kind: Kind, name: &NamespacedName) -> ObjectRef {
    ObjectRef { kind, namespace: Some(name.namespace.clone()), name: name.name.clone() }
}

/// Most conditions are good when they hold; these are good when they do not. Overlapping certificates, and clients whose certificate is
/// not verified because the Gateway says so, are worth knowing but no fault.
fn is_good(condition: &Condition) -> bool {
    match condition.r#type.as_str() {
        "Conflicted" | "PartiallyInvalid" | "UnresolvedRefs" | "isthmus.dev/RefusedByStrictMode" => {
            condition.status != ConditionStatus::True
        }
        "OverlappingTLSConfig" | "InsecureFrontendValidationMode" => true,
        _ => condition.status == ConditionStatus::True,
    }
}

impl Problem {
    /// The line of it, with where the object is written.
    pub fn at(&self, origins: &BTreeMap<ObjectRef, Origin>) -> String {
        origins.get(&self.object).map_or_else(|| self.to_string(), |origin| format!("{}: {self}", origin.place))
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Condition { r#type, status, reason, message, .. } = &self.condition;
        let part = self.part.as_ref().map(|part| format!(" ({part})")).unwrap_or_default();
        write!(f, "{}{part}: {type}={status:?} {reason}: {message}", self.object)
    }
}

fn document(kind: Kind, metadata: &ObjectMeta, status: &impl Serialize, now: &str) -> Value {
    let mut about = json!({"name": metadata.name});
    if let Some(namespace) = &metadata.namespace {
        about["namespace"] = json!(namespace);
    }
    if let Some(generation) = metadata.generation {
        about["generation"] = json!(generation);
    }
    let mut status = json!(status);
    set_times(&mut status, now);
    json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": about, "status": status})
}

/// Gives every condition, however deep, the time of its change.
fn set_times(value: &mut Value, now: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| set_times(item, now)),
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                if let (true, Value::Array(conditions)) = (name == "conditions", &mut *field) {
                    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
                        condition.insert("lastTransitionTime".to_owned(), json!(now));
                    }
                } else {
                    set_times(field, now);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::status::{
        GatewayClassStatus, GatewayStatus, ListenerSetStatus, ListenerStatus, PolicyAncestorStatus, PolicyStatus,
        RouteParentStatus, RouteStatus,
    };

    use super::*;

    fn condition(r#type: &str, status: ConditionStatus, reason: &str) -> Condition {
        Condition { r#type: r#type.into(), status, reason: reason.into(), message: "m".into(), observed_generation: 1 }
    }

    fn statuses() -> Statuses {
        use ConditionStatus::{False, True, Unknown};
        let name = NamespacedName::new("x", "n");
        let listener =
            |conditions| ListenerStatus { name: "http".into(), supported_kinds: vec![], attached_routes: 0, conditions };
        let parent_ref: ParentRef = serde_json::from_value(json!({"name": "n", "sectionName": "http"})).unwrap();
        let parent = RouteParentStatus {
            parent_ref,
            controller_name: "c".into(),
            conditions: vec![
                condition("Accepted", True, "Accepted"),
                condition("ResolvedRefs", False, "BackendNotFound"),
                condition("PartiallyInvalid", True, "Unsupported"),
            ],
        };
        let of_route = |conditions| RouteStatus { parents: vec![RouteParentStatus { conditions, ..parent.clone() }] };
        let ancestor = PolicyAncestorStatus {
            ancestor_ref: serde_json::from_value(json!({"namespace": "infra", "name": "edge"})).unwrap(),
            controller_name: "c".into(),
            conditions: vec![condition("Accepted", False, "NoValidCACertificate")],
        };
        Statuses {
            gateway_classes: [(
                "c".to_owned(),
                GatewayClassStatus { conditions: vec![condition("Accepted", True, "Accepted")], supported_features: vec![] },
            )]
            .into(),
            x_meshes: [].into(),
            gateways: [(
                name.clone(),
                GatewayStatus {
                    addresses: vec![],
                    conditions: vec![condition("Programmed", Unknown, "Pending")],
                    listeners: vec![listener(vec![
                        condition("Conflicted", False, "NoConflicts"),
                        condition("OverlappingTLSConfig", True, "O"),
                        condition("Accepted", False, "PortUnavailable"),
                    ])],
                    attached_listener_sets: 0,
                },
            )]
            .into(),
            listener_sets: [(
                name.clone(),
                ListenerSetStatus {
                    conditions: vec![
                        condition("Accepted", True, "Accepted"),
                        condition("Programmed", False, "ParentNotProgrammed"),
                    ],
                    listeners: vec![listener(vec![condition("Conflicted", True, "HostnameConflict")])],
                },
            )]
            .into(),
            http_routes: [(name.clone(), RouteStatus { parents: vec![parent.clone()] })].into(),
            grpc_routes: [(name.clone(), of_route(vec![]))].into(),
            tls_routes: [(name.clone(), of_route(vec![condition("Accepted", False, "NoMatchingListenerHostname")]))].into(),
            tcp_routes: [(name.clone(), of_route(vec![condition("ResolvedRefs", True, "ResolvedRefs")]))].into(),
            udp_routes: [(name.clone(), of_route(vec![condition("ResolvedRefs", False, "InvalidKind")]))].into(),
            backend_tls_policies: [(name, PolicyStatus { ancestors: vec![ancestor] })].into(),
        }
    }

    #[test]
    fn what_is_not_good_is_told() {
        let texts: Vec<_> = problems(&statuses()).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "Gateway/x/n: Programmed=Unknown Pending: m",
                "Gateway/x/n (listener http): Accepted=False PortUnavailable: m",
                "ListenerSet/x/n: Programmed=False ParentNotProgrammed: m",
                "ListenerSet/x/n (listener http): Conflicted=True HostnameConflict: m",
                "HTTPRoute/x/n (parent x/n http): ResolvedRefs=False BackendNotFound: m",
                "HTTPRoute/x/n (parent x/n http): PartiallyInvalid=True Unsupported: m",
                "TLSRoute/x/n (parent x/n http): Accepted=False NoMatchingListenerHostname: m",
                "UDPRoute/x/n (parent x/n http): ResolvedRefs=False InvalidKind: m",
                "BackendTLSPolicy/x/n (ancestor infra/edge): Accepted=False NoValidCACertificate: m",
            ]
        );
    }

    #[test]
    fn statuses_are_objects() {
        let mut held = Objects::default();
        let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "c", "generation": 3}, "spec": {"controllerName": "x"}});
        held.apply(isthmus_api::decode(class).unwrap());
        let documents = objects(&statuses(), &held, "2026-01-02T03:04:05Z");
        let kinds: Vec<_> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
        let all = "GatewayClass Gateway ListenerSet HTTPRoute GRPCRoute TLSRoute TCPRoute UDPRoute BackendTLSPolicy";
        assert_eq!(kinds.join(" "), all);
        assert_eq!(documents[8]["status"]["ancestors"][0]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
        assert_eq!(
            documents[0],
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "c", "generation": 3}, "status": {"conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "m", "observedGeneration": 1, "lastTransitionTime": "2026-01-02T03:04:05Z"}]}})
        );
        assert_eq!(documents[1]["status"]["listeners"][0]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
        let yaml = render(&documents, Format::Yaml).unwrap();
        assert!(yaml.starts_with("apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n"), "{yaml}");
        let back: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
        assert_eq!(back, documents);
        let list: Value = serde_json::from_str(&render(&documents, Format::Json).unwrap()).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 9);
    }
}
