//! `XMesh.status`

use isthmus_api::status::MeshStatus;

use super::Verdict;
use crate::features;
use crate::graph::x_mesh::XMeshNode;

/// > Implementations MUST populate status on all Mesh resources which
/// > specify their controller name.
pub(super) fn status(node: &XMeshNode) -> MeshStatus {
    MeshStatus {
        conditions: vec![accepted(node).condition("Accepted", node.generation)],
        supported_features: features::of_mesh(),
    }
}

/// > If the referent cannot be found, refers to an unsupported kind, or when
/// > the data within that resource is malformed, the Mesh MUST be rejected
/// > with the "Accepted" status condition set to "False" and an
/// > "InvalidParameters" reason.
fn accepted(node: &XMeshNode) -> Verdict {
    match &node.parameters {
        Some(parameters) => Verdict::no(
            "InvalidParameters",
            format_args!("spec.parametersRef: {parameters} is of a kind that a mesh does not take, as all kinds are; remove it"),
        ),
        None => Verdict::yes("Accepted"),
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::Objects;
    use serde_json::json;

    use crate::testing::{mesh_options, objects, options, shown};
    use crate::{MESH_CONTROLLER_NAME, features, translate};

    fn meshes() -> Objects {
        let mesh = |name: &str, spec| json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh", "metadata": {"name": name, "generation": 2}, "spec": spec});
        let parameters = json!({"group": "example.com", "kind": "Params", "name": "p"});
        objects([
            mesh("ours", json!({"controllerName": MESH_CONTROLLER_NAME, "description": "the only one"})),
            mesh("theirs", json!({"controllerName": "example.com/other"})),
            mesh("parameters", json!({"controllerName": MESH_CONTROLLER_NAME, "parametersRef": parameters})),
        ])
    }

    #[test]
    fn only_our_meshes_have_a_status_and_only_where_there_is_one() {
        let statuses = translate(&meshes(), &mesh_options()).statuses.x_meshes;
        let found: Vec<_> =
            statuses.iter().map(|(name, status)| (name.as_str(), shown(&status.conditions, 2).join(" "))).collect();
        assert_eq!(
            found,
            [("ours", "Accepted=True/Accepted".to_owned()), ("parameters", "Accepted=False/InvalidParameters".to_owned())]
        );
        let features: Vec<_> = statuses["ours"].supported_features.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(features, features::MESH);
        assert!(statuses["parameters"].conditions[0].message.contains("Params `p`"));
        assert!(translate(&meshes(), &options()).statuses.x_meshes.is_empty());
    }
}
