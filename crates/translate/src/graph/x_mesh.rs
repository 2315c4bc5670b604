//! XMeshes that are ours.

use std::collections::BTreeMap;

use isthmus_api::Objects;

use crate::MESH_CONTROLLER_NAME;

/// An XMesh with our controller name.
#[derive(Debug)]
pub(crate) struct XMeshNode {
    pub(crate) generation: i64,
    /// The parameters that it refers to, in words: there are none that a mesh takes.
    pub(crate) parameters: Option<String>,
}

/// XMeshes by name. Another controller's are absent.
pub(super) fn ours(objects: &Objects) -> BTreeMap<&str, XMeshNode> {
    let ours = objects.x_meshes.iter().filter(|(_, mesh)| mesh.spec.controller_name == MESH_CONTROLLER_NAME);
    ours.map(|(name, mesh)| {
        let parameters = mesh.spec.parameters_ref.as_ref().map(|reference| format!("{} `{}`", reference.kind, reference.name));
        (name.as_str(), XMeshNode { generation: mesh.metadata.generation.unwrap_or_default(), parameters })
    })
    .collect()
}
