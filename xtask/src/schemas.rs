//! The schemas that `isthmus-admission` enforces, from upstream's CRDs: without descriptions and statuses, as one line of JSON a kind.

use std::fs;
use std::path::Path;

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
const COMMITTED: &str = "crates/admission/schemas/v1.7.0";

/// Writes the schemas into the project, or compares them with those that are there.
pub(crate) fn run(check_only: bool) -> Result<(), Fault> {
    let crds = go::upstream()?.join(CRDS);
    let committed = workspace::root().join(COMMITTED);
    if check_only { check(&crds, &committed) } else { generate(&crds, &committed) }.map_err(Fault::said)
}

/// Writes `<plural>.json` for every kind into `out_dir`.
pub(crate) fn generate(crd_dir: &Path, out_dir: &Path) -> Result<(), String> {
    for plural in PLURALS {
        let path = out_dir.join(format!("{plural}.json"));
        fs::write(&path, schema(crd_dir, plural)?).map_err(|error| format!("writing {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Says which schemas in `out_dir` are not those of the CRDs.
pub(crate) fn check(crd_dir: &Path, out_dir: &Path) -> Result<(), String> {
    for plural in PLURALS {
        let path = out_dir.join(format!("{plural}.json"));
        let committed = fs::read_to_string(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
        if committed != schema(crd_dir, plural)? {
            return Err(format!("{} is not what the CRD says; `cargo xtask schemas` writes it", path.display()));
        }
    }
    Ok(())
}

fn schema(crd_dir: &Path, plural: &str) -> Result<String, String> {
    let (channel, group) = match plural {
        "xmeshes" => ("experimental", "gateway.networking.x-k8s.io"),
        _ => ("standard", "gateway.networking.k8s.io"),
    };
    let path = crd_dir.join(channel).join(format!("{group}_{plural}.yaml"));
    let text = fs::read_to_string(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    let crd: Value = serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut schema = reduce(&crd).ok_or_else(|| format!("{}: not a CustomResourceDefinition with schemas", path.display()))?;
    schema.sort_all_objects();
    Ok(format!("{schema}\n"))
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
        schema.get_mut("properties")?.as_object_mut()?.remove("status");
        strip_descriptions(&mut schema);
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

/// A schema's own `description`, not a property of that name.
fn strip_descriptions(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("description");
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(strip_descriptions);
    }
    for nested in ["items", "additionalProperties", "not"] {
        if let Some(nested) = schema.get_mut(nested) {
            strip_descriptions(nested);
        }
    }
    for nested in ["allOf", "anyOf", "oneOf"] {
        schema.get_mut(nested).and_then(Value::as_array_mut).into_iter().flatten().for_each(strip_descriptions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_enforced() {
        let version = |name: &str, served: bool, maximum: u32| {
            json!({"name": name, "served": served, "schema": {"openAPIV3Schema": {
            "description": "gone", "type": "object", "properties": {
                "status": {"type": "object"},
                "spec": {"description": "gone", "properties": {"description": {"description": "gone", "maximum": maximum}}},
            }}}})
        };
        let crd = json!({"spec": {"group": "g", "names": {"kind": "K"}, "scope": "Cluster",
            "versions": [version("v1", true, 1), version("v1beta1", true, 1), version("v1beta2", true, 2), version("old", false, 3)]}});
        let schema = |maximum: u32| json!({"type": "object", "properties": {"spec": {"properties": {"description": {"maximum": maximum}}}}});
        assert_eq!(
            reduce(&crd),
            Some(json!({"group": "g", "kind": "K", "scope": "Cluster", "versions": [
                {"names": ["v1", "v1beta1"], "schema": schema(1)}, {"names": ["v1beta2"], "schema": schema(2)}]}))
        );
        assert_eq!(reduce(&json!({"kind": "Service"})), None);
    }
}
