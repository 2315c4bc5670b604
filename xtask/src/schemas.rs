//! The schemas that `isthmus-admission` enforces, from upstream's CRDs and ours: without descriptions and statuses, as one line of JSON a kind.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::fault::Fault;
use crate::{go, workspace};

/// The kinds that Isthmus reads: those of the standard channel, and XMesh, which only the experimental one has.
const PLURALS: [&str; 11] = [
    "backendtlspolicies",
    "gatewayclasses",
    "gateways",
    "grpcroutes",
    "httproutes",
    "listenersets",
    "referencegrants",
    "tcproutes",
    "tlsroutes",
    "udproutes",
    "xmeshes",
];

const CRDS: &str = "gateway-api@v1.7.0/config/crd";
const COMMITTED: &str = "crates/admission/schemas";

/// Where a kind's CRD is, and where its schema.
struct Paths {
    crd: PathBuf,
    schema: PathBuf,
}

/// Writes the schemas into the project, or compares them with those that are there.
pub(crate) fn run(check_only: bool) -> Result<(), Fault> {
    for paths in all()? {
        if check_only { check(&paths) } else { write(&paths) }.map_err(Fault::said)?;
    }
    Ok(())
}

fn all() -> Result<Vec<Paths>, Fault> {
    let (crds, committed) = (go::upstream()?.join(CRDS), workspace::root().join(COMMITTED));
    let of_upstream = |plural: &str| {
        let (channel, group) = match plural {
            "xmeshes" => ("experimental", "gateway.networking.x-k8s.io"),
            _ => ("standard", "gateway.networking.k8s.io"),
        };
        let crd = crds.join(channel).join(format!("{group}_{plural}.yaml"));
        Paths { crd, schema: committed.join("v1.7.0").join(format!("{plural}.json")) }
    };
    let ours = Paths {
        crd: workspace::root().join("charts/isthmus/files/crds/gatewayparameters.yaml"),
        schema: committed.join("isthmus.dev/gatewayparameters.json"),
    };
    Ok(PLURALS.into_iter().map(of_upstream).chain([ours]).collect())
}

fn write(paths: &Paths) -> Result<(), String> {
    fs::write(&paths.schema, paths.made()?).map_err(|error| format!("writing {}: {error}", paths.schema.display()))
}

/// Says if a schema is not that of the CRD.
fn check(paths: &Paths) -> Result<(), String> {
    let path = paths.schema.display();
    let committed = fs::read_to_string(&paths.schema).map_err(|error| format!("reading {path}: {error}"))?;
    if committed == paths.made()? {
        return Ok(());
    }
    Err(format!("{path} is not what the CRD says; `cargo xtask schemas` writes it"))
}

impl Paths {
    /// The schema as the CRD says it.
    fn made(&self) -> Result<String, String> {
        let path = self.crd.display();
        let text = fs::read_to_string(&self.crd).map_err(|error| format!("reading {path}: {error}"))?;
        let crd: Value = serde_saphyr::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
        let mut schema = reduce(&crd).ok_or_else(|| format!("{path}: not a CustomResourceDefinition with schemas"))?;
        schema.sort_all_objects();
        Ok(format!("{schema}\n"))
    }
}

/// `{group, kind, scope, versions: [{names, schema}]}`; versions with the same schema share it.
fn reduce(crd: &Value) -> Option<Value> {
    let spec = crd.get("spec")?;
    let mut versions: Vec<(Vec<&Value>, Value)> = Vec::new();
    for version in spec.get("versions")?.as_array()? {
        if version.get("served")? != &Value::Bool(true) {
            continue;
        }
        let mut schema = version.pointer("/schema/openAPIV3Schema")?.clone();
        let properties = schema.get_mut("properties")?.as_object_mut()?;
        properties.remove("status");
        // An API server adds them where a CRD does not have them.
        for every in ["apiVersion", "kind"] {
            properties.entry(every).or_insert_with(|| json!({"type": "string"}));
        }
        simplify(&mut schema);
        match versions.iter_mut().find(|(_, known)| known == &schema) {
            Some((names, _)) => names.push(version.get("name")?),
            None => versions.push((vec![version.get("name")?], schema)),
        }
    }
    let versions: Vec<Value> = versions.into_iter().map(|(names, schema)| json!({"names": names, "schema": schema})).collect();
    Some(json!({
        "group": spec.get("group")?,
        "kind": spec.pointer("/names/kind")?,
        "scope": spec.get("scope")?,
        "versions": versions,
    }))
}

/// Without a schema's own `description` and `title`, which are not properties of that name; with limits as the whole numbers that they are.
fn simplify(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("description");
    schema.remove("title");
    for limit in ["minimum", "maximum"] {
        if let Some(limit) = schema.get_mut(limit)
            && let Some(whole) = limit.as_f64().filter(|number| number.fract() == 0.0)
        {
            *limit = json!(whole as i64);
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(simplify);
    }
    for nested in ["items", "additionalProperties", "not"] {
        if let Some(nested) = schema.get_mut(nested) {
            simplify(nested);
        }
    }
    for nested in ["allOf", "anyOf", "oneOf"] {
        schema.get_mut(nested).and_then(Value::as_array_mut).into_iter().flatten().for_each(simplify);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_enforced() {
        let version = |name: &str, served: bool, maximum: u32| {
            json!({"name": name, "served": served, "schema": {"openAPIV3Schema": {
            "description": "gone", "title": "gone", "type": "object", "properties": {
                "status": {"type": "object"},
                "spec": {"description": "gone", "properties": {
                    "description": {"description": "gone", "maximum": maximum},
                    "title": {"minimum": 1.0},
                }},
            }}}})
        };
        let crd = json!({"spec": {"group": "g", "names": {"kind": "K"}, "scope": "Cluster",
            "versions": [version("v1", true, 1), version("v1beta1", true, 1), version("v1beta2", true, 2), version("old", false, 3)]}});
        let schema = |maximum: u32| {
            json!({"type": "object", "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "spec": {"properties": {"description": {"maximum": maximum}, "title": {"minimum": 1}}},
            }})
        };
        assert_eq!(
            reduce(&crd),
            Some(json!({"group": "g", "kind": "K", "scope": "Cluster", "versions": [
                {"names": ["v1", "v1beta1"], "schema": schema(1)}, {"names": ["v1beta2"], "schema": schema(2)}]}))
        );
        assert_eq!(reduce(&json!({"kind": "Service"})), None);
    }
}
