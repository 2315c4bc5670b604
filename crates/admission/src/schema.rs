//! The schemas of the pinned CRDs and of our own, as data. They are read once, the first time that their kind is.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use crate::rules::Rule;

/// A kind that has a CRD, in one of its versions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) namespaced: bool,
    pub(crate) schema: &'static Schema,
}

/// A structural schema: those of its keywords that the CRDs use. An unknown keyword is a fault of `schemas/`, which a test finds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Schema {
    #[serde(default)]
    pub(crate) r#type: Option<Type>,
    #[serde(default)]
    pub(crate) properties: BTreeMap<String, Self>,
    #[serde(default)]
    pub(crate) additional_properties: Option<Box<Self>>,
    #[serde(default)]
    pub(crate) items: Option<Box<Self>>,
    #[serde(default)]
    pub(crate) required: Vec<String>,
    #[serde(default)]
    pub(crate) default: Option<Value>,
    #[serde(default)]
    pub(crate) r#enum: Vec<Value>,
    #[serde(default)]
    pub(crate) format: Option<Format>,
    #[serde(default)]
    pub(crate) pattern: Option<Pattern>,
    #[serde(default)]
    pub(crate) min_length: Option<usize>,
    #[serde(default)]
    pub(crate) max_length: Option<usize>,
    #[serde(default)]
    pub(crate) minimum: Option<i64>,
    #[serde(default)]
    pub(crate) maximum: Option<i64>,
    #[serde(default)]
    pub(crate) min_items: Option<usize>,
    #[serde(default)]
    pub(crate) max_items: Option<usize>,
    #[serde(default)]
    pub(crate) max_properties: Option<usize>,
    #[serde(default)]
    pub(crate) one_of: Vec<Self>,
    #[serde(default)]
    pub(crate) any_of: Vec<Self>,
    #[serde(default)]
    pub(crate) not: Option<Box<Self>>,
    #[serde(default, rename = "x-kubernetes-list-type")]
    pub(crate) list_type: ListType,
    #[serde(default, rename = "x-kubernetes-list-map-keys")]
    pub(crate) list_map_keys: Vec<String>,
    /// Who merges (server-side apply) asks for it; admission of a whole object does not.
    #[serde(default, rename = "x-kubernetes-map-type")]
    _map_type: Option<String>,
    /// An API server keeps what is null where this is; a null is an absent field all the same.
    #[serde(default, rename = "nullable")]
    _nullable: bool,
    #[serde(default, rename = "x-kubernetes-preserve-unknown-fields")]
    pub(crate) keeps_unknown_fields: bool,
    #[serde(default, rename = "x-kubernetes-int-or-string")]
    pub(crate) int_or_string: bool,
    #[serde(default, rename = "x-kubernetes-validations")]
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Boolean,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Int32,
    Int64,
    Ipv4,
    Ipv6,
    /// An API server does not know it; a minimum and a maximum say the same.
    Uint8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// A regular expression, compiled when it is first asked.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
pub(crate) struct Pattern {
    text: String,
    regex: OnceLock<Option<Regex>>,
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self { text, regex: OnceLock::new() }
    }
}

impl Pattern {
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// What does not compile matches nothing; a test compiles every pattern there is.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.regex.get_or_init(|| Regex::new(&self.text).ok()).as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

/// The schema of a kind that has a CRD here, in a version that is served.
pub(crate) fn find(api_version: &str, kind: &str) -> Option<Found> {
    let (group, version) = api_version.split_once('/')?;
    let file = FILES.iter().find(|file| file.kind == kind)?;
    let crd = file.parsed.get_or_init(|| serde_json::from_str(file.text).ok()).as_ref()?;
    if crd.group != group {
        return None;
    }
    let version = crd.versions.iter().find(|known| known.names.iter().any(|name| name == version))?;
    Some(Found { namespaced: crd.scope == Scope::Namespaced, schema: &version.schema })
}

struct File {
    kind: &'static str,
    text: &'static str,
    parsed: OnceLock<Option<Crd>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Crd {
    group: String,
    #[serde(rename = "kind")]
    _kind: String,
    scope: Scope,
    versions: Vec<Version>,
}

#[derive(PartialEq, Eq, Deserialize)]
enum Scope {
    Namespaced,
    Cluster,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    names: Vec<String>,
    schema: Schema,
}

static FILES: [File; 12] = [
    file("GatewayClass", include_str!("../schemas/v1.7.0/gatewayclasses.json")),
    file("Gateway", include_str!("../schemas/v1.7.0/gateways.json")),
    file("ListenerSet", include_str!("../schemas/v1.7.0/listenersets.json")),
    file("HTTPRoute", include_str!("../schemas/v1.7.0/httproutes.json")),
    file("GRPCRoute", include_str!("../schemas/v1.7.0/grpcroutes.json")),
    file("TLSRoute", include_str!("../schemas/v1.7.0/tlsroutes.json")),
    file("TCPRoute", include_str!("../schemas/v1.7.0/tcproutes.json")),
    file("UDPRoute", include_str!("../schemas/v1.7.0/udproutes.json")),
    file("BackendTLSPolicy", include_str!("../schemas/v1.7.0/backendtlspolicies.json")),
    file("ReferenceGrant", include_str!("../schemas/v1.7.0/referencegrants.json")),
    file("XMesh", include_str!("../schemas/v1.7.0/xmeshes.json")),
    file("GatewayParameters", include_str!("../schemas/isthmus.dev/gatewayparameters.json")),
];

const fn file(kind: &'static str, text: &'static str) -> File {
    File { kind, text, parsed: OnceLock::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(schema: &Schema, what: &mut impl FnMut(&Schema)) {
        what(schema);
        let nested = [&schema.items, &schema.additional_properties, &schema.not];
        for schema in nested.into_iter().flatten() {
            each(schema, what);
        }
        for schema in schema.properties.values().chain(&schema.one_of).chain(&schema.any_of) {
            each(schema, what);
        }
    }

    #[test]
    fn every_schema_pattern_and_rule_compiles() {
        let (mut patterns, mut rules) = (0, 0);
        for file in &FILES {
            let crd: Crd = serde_json::from_str(file.text).unwrap_or_else(|error| panic!("{}: {error}", file.kind));
            assert_eq!(crd._kind, file.kind);
            for version in &crd.versions {
                each(&version.schema, &mut |schema| {
                    if let Some(pattern) = &schema.pattern {
                        Regex::new(pattern.as_str()).unwrap();
                        patterns += 1;
                    }
                    for rule in &schema.rules {
                        rule.compile().unwrap();
                        rules += 1;
                    }
                });
            }
        }
        assert!(patterns > 90 && rules > 130, "{patterns} patterns, {rules} rules");
    }

    #[test]
    fn finds_what_is_served() {
        for (api_version, kind, expected) in [
            ("gateway.networking.k8s.io/v1", "GatewayClass", Some(false)),
            ("gateway.networking.k8s.io/v1beta1", "HTTPRoute", Some(true)),
            ("gateway.networking.k8s.io/v1", "GRPCRoute", Some(true)),
            ("gateway.networking.k8s.io/v1beta1", "GRPCRoute", None),
            ("gateway.networking.k8s.io/v1", "UDPRoute", Some(true)),
            ("gateway.networking.k8s.io/v1alpha2", "UDPRoute", None),
            ("gateway.networking.k8s.io/v1", "BackendTLSPolicy", Some(true)),
            ("gateway.networking.k8s.io/v1alpha3", "BackendTLSPolicy", None),
            ("gateway.networking.x-k8s.io/v1alpha1", "XMesh", Some(false)),
            ("gateway.networking.k8s.io/v1", "XMesh", None),
            ("isthmus.dev/v1alpha1", "GatewayParameters", Some(true)),
            ("isthmus.dev/v1", "GatewayParameters", None),
            ("example.com/v1", "Gateway", None),
            ("v1", "Gateway", None),
        ] {
            assert_eq!(find(api_version, kind).map(|found| found.namespaced), expected, "{api_version} {kind}");
        }
    }
}
