//! A document -> what it says: an object, a refusal, or something that is not ours. Pure.

use isthmus_api::{Kind, Object, ObjectRef, decode};
use serde_json::{Value, json};

use super::document::Document;

/// What a document says.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where it starts, from 1.
    pub line: u32,
    /// The field of it that people are most often sent to: a Gateway's class, a route's first weight.
    pub landmark: Option<u32>,
    /// What it says.
    pub content: Content,
}

/// The content of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// An object that an API server would store, with what it would warn of.
    Object(Object, Vec<Finding>),
    /// An object that an API server would refuse. Without a name it takes the place of no other.
    Rejected(Option<ObjectRef>, Vec<Finding>),
    /// An object of a kind that is not read.
    Unknown {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
}

/// A fault and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// From 1.
    pub line: u32,
    /// `field: message`, or only a message.
    pub text: String,
}

impl Entry {
    /// Does what an API server does first: defaults, schema and rules, and generation 1.
    pub fn judge(document: Document) -> Self {
        let Document { value, lines } = document;
        let line = lines.line();
        let found = |field: &str, message: &str| Finding {
            line: lines.of(field),
            text: if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") },
        };
        let (Some(api_version), Some(kind)) = (text(&value, "apiVersion"), text(&value, "kind")) else {
            let missing = found("", "not an object: `apiVersion` and `kind` say what it is");
            return Self { line, landmark: None, content: Content::Rejected(None, vec![missing]) };
        };
        let Some(kind) = Kind::of(api_version, kind) else {
            let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
            return Self { line, landmark: None, content: Content::Unknown { api_version, kind } };
        };
        let landmark = landmark(kind, &value).map(|field| lines.of(&field));
        let name = name(kind, &value);
        let mut value = value;
        if has_generation(kind)
            && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.insert("generation".to_owned(), json!(1));
        }
        let content = match isthmus_admission::admit(value) {
            Err(faults) => {
                // That there may be more to say is no help to somebody who has something to correct.
                let telling = faults.iter().filter(|fault| fault.message != isthmus_admission::NOT_ALL_CHECKED);
                Content::Rejected(name, telling.map(|fault| found(&fault.field, &fault.message)).collect())
            }
            Ok(admitted) => match decode(admitted.object) {
                Ok(object) => Content::Object(
                    object,
                    admitted.warnings.iter().map(|warning| found(&warning.field, &warning.message)).collect(),
                ),
                Err(isthmus_api::DecodeError::Field { field, message, .. }) => {
                    Content::Rejected(name, vec![found(&field, &message)])
                }
                Err(error) => Content::Rejected(name, vec![found("", &error.to_string())]),
            },
        };
        Self { line, landmark, content }
    }
}

/// Custom resources count the changes of their spec.
pub fn has_generation(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::GatewayClass
            | Kind::Gateway
            | Kind::ListenerSet
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TlsRoute
            | Kind::TcpRoute
            | Kind::UdpRoute
            | Kind::BackendTlsPolicy
            | Kind::ReferenceGrant
            | Kind::GatewayParameters
            | Kind::XMesh
    )
}

fn name(kind: Kind, value: &Value) -> Option<ObjectRef> {
    let metadata = value.get("metadata")?;
    let namespace = kind.is_namespaced().then(|| text(metadata, "namespace").unwrap_or("default").to_owned());
    Some(ObjectRef { kind, namespace, name: text(metadata, "name")?.to_owned() })
}

fn landmark(kind: Kind, value: &Value) -> Option<String> {
    match kind {
        Kind::Gateway => Some("spec.gatewayClassName".to_owned()),
        Kind::ListenerSet => Some("spec.parentRef".to_owned()),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
            let rules = value.pointer("/spec/rules")?.as_array()?;
            rules.iter().enumerate().find_map(|(rule, fields)| {
                let backends = fields.get("backendRefs")?.as_array()?;
                let backend = backends.iter().position(|backend| backend.get("weight").is_some())?;
                Some(format!("spec.rules[{rule}].backendRefs[{backend}].weight"))
            })
        }
        _ => None,
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::document::parse;

    fn entry(text: &str) -> Entry {
        Entry::judge(parse(text).unwrap().remove(0))
    }

    #[test]
    fn an_object_is_stored_as_an_api_server_would() {
        let entry = entry(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a, generation: 7}\nstatus: {parents: []}\nspec:\n  rules:\n  - backendRefs:\n    - name: x\n      port: 80\n    - name: z\n      port: 80\n      weight: 3\n",
        );
        let Content::Object(object, warnings) = entry.content else { panic!("{:?}", entry.content) };
        assert_eq!(object.object_ref().to_string(), "HTTPRoute/default/a");
        assert_eq!(object.metadata().generation, Some(1));
        assert_eq!((entry.line, entry.landmark, warnings.len()), (1, Some(12), 0));
    }

    #[test]
    fn every_kind_that_is_read_is_one_whose_namespace_is_known() {
        let rule = json!({"backendRefs": [{"name": "a", "port": 80}]});
        let listener = json!({"name": "a", "protocol": "HTTP", "port": 80});
        for kind in Kind::ALL {
            // The least that each of them has.
            let (field, least) = match kind {
                Kind::GatewayClass | Kind::XMesh => ("spec", json!({"controllerName": "a.example/b"})),
                Kind::Gateway => ("spec", json!({"gatewayClassName": "a", "listeners": [listener]})),
                Kind::ListenerSet => ("spec", json!({"parentRef": {"name": "a"}, "listeners": [listener]})),
                Kind::TlsRoute => ("spec", json!({"hostnames": ["a.example"], "rules": [rule]})),
                Kind::TcpRoute | Kind::UdpRoute => ("spec", json!({"rules": [rule]})),
                Kind::BackendTlsPolicy => {
                    let target = json!({"group": "", "kind": "Service", "name": "a"});
                    let validation = json!({"hostname": "a.example", "wellKnownCACertificates": "System"});
                    ("spec", json!({"targetRefs": [target], "validation": validation}))
                }
                Kind::ReferenceGrant => {
                    let from = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "a"});
                    ("spec", json!({"from": [from], "to": [{"group": "", "kind": "Service"}]}))
                }
                Kind::Service => ("spec", json!({"ports": [{"port": 80}]})),
                Kind::EndpointSlice => ("addressType", json!("IPv4")),
                Kind::Pod => ("spec", json!({"containers": [{"name": "a"}]})),
                Kind::Secret | Kind::ConfigMap => ("data", json!({})),
                Kind::HttpRoute | Kind::GrpcRoute | Kind::Namespace | Kind::GatewayParameters => ("spec", json!({})),
            };
            for version in kind.versions() {
                let api_version =
                    if kind.group().is_empty() { (*version).to_owned() } else { format!("{}/{version}", kind.group()) };
                let object = json!({"apiVersion": api_version, "kind": kind.as_str(), "metadata": {"name": "a"}, (field): least});
                let admitted = isthmus_admission::admit(object).unwrap_or_else(|findings| panic!("{kind:?}: {findings:?}"));
                let namespace = text(&admitted.object["metadata"], "namespace");
                assert_eq!(namespace, kind.is_namespaced().then_some("default"), "{api_version} {}", kind.as_str());
            }
        }
    }

    #[test]
    fn parameters_are_objects_like_others() {
        let parameters = |spec: &str| {
            entry(&format!("apiVersion: isthmus.dev/v1alpha1\nkind: GatewayParameters\nmetadata:\n  name: a\nspec:\n  {spec}\n"))
        };
        let Content::Object(object, warnings) = parameters("hops: 2").content else { panic!("it has no fault") };
        assert_eq!(
            (object.object_ref().to_string().as_str(), object.metadata().generation),
            ("GatewayParameters/default/a", Some(1))
        );
        assert!(warnings[0].line == 6 && warnings[0].text.starts_with("spec.hops: unknown field"), "{warnings:?}");
        let Content::Rejected(Some(name), findings) = parameters("replicas: 1001").content else {
            panic!("a cluster has a limit")
        };
        assert_eq!(name.to_string(), "GatewayParameters/default/a");
        assert!(findings[0].line == 6 && findings[0].text.starts_with("spec.replicas: Invalid value: 1001"), "{findings:?}");
    }

    #[test]
    fn faults_have_their_line_and_the_object_its_name() {
        let entry = entry(
            "# a route\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: a\n  namespace: shop\nspec:\n  rules:\n  - backendRefs:\n    - name: x\n      port: 80\n      weight: many\n",
        );
        let Content::Rejected(Some(name), findings) = entry.content else { panic!("{:?}", entry.content) };
        assert_eq!(name.to_string(), "HTTPRoute/shop/a");
        assert_eq!(findings[0].line, 12);
        assert!(findings[0].text.starts_with("spec.rules[0].backendRefs[0].weight: "), "{findings:?}");
    }

    #[test]
    fn what_is_no_object_of_ours() {
        let unknown = Content::Unknown { api_version: "apps/v1".into(), kind: "Deployment".into() };
        assert_eq!(entry("apiVersion: apps/v1\nkind: Deployment\n").content, unknown);
        for text in ["- a\n", "kind: Gateway\n", "apiVersion: v1\n", "just text\n"] {
            assert!(matches!(entry(text).content, Content::Rejected(None, _)), "{text}");
        }
    }
}
