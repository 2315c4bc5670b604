//! Reads a value as one of the types that Kubernetes generates, for its faults and for fields that the type does not have.

use serde::Deserialize;
use serde_ignored::Path as Ignored;
use serde_json::Value;

use crate::Finding;

/// Says what keeps `value` from being a `T`, under `prefix` (`metadata`; empty for a whole object), and warns of what `T` does not have.
pub(crate) fn check<'v, T: Deserialize<'v>>(value: &'v Value, prefix: &str, warnings: &mut Vec<Finding>) -> Result<(), Finding> {
    let mut track = serde_path_to_error::Track::new();
    let mut ignored = |path: Ignored<'_>| {
        let field = join(prefix, &ignored_path(&path));
        warnings.push(Finding { field, message: "unknown field: ignored, because this kind does not have it".to_owned() });
    };
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let read: Result<T, serde_json::Error> = serde_ignored::deserialize(tracked, &mut ignored);
    read.map(drop)
        .map_err(|error| Finding { field: join(prefix, &track.path().to_string()), message: format!("Invalid value: {error}") })
}

fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "" | ".") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

fn ignored_path(path: &Ignored<'_>) -> String {
    match path {
        Ignored::Root => String::new(),
        Ignored::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent)),
        Ignored::Map { parent, key } => join(&ignored_path(parent), key),
        Ignored::Some { parent } | Ignored::NewtypeStruct { parent } | Ignored::NewtypeVariant { parent } => ignored_path(parent),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_faults_and_strangers() {
        let mut service =
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80, "prot": "TCP"}], "x": 1}});
        let mut warnings = Vec::new();
        assert_eq!(check::<Service>(&service, "", &mut warnings), Ok(()));
        let fields: Vec<&str> = warnings.iter().map(|warning| warning.field.as_str()).collect();
        assert_eq!(fields, ["spec.ports[0].prot", "spec.x"]);

        service["spec"]["ports"][0]["port"] = json!("http");
        let fault = check::<Service>(&service, "", &mut Vec::new()).unwrap_err();
        assert_eq!(fault.field, "spec.ports[0].port");
        assert!(fault.message.starts_with("Invalid value: invalid type: string \"http\""), "{}", fault.message);
    }
}
