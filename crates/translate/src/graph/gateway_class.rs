//! GatewayClasses that are ours.

use std::collections::BTreeMap;

use isthmus_api::Objects;

use super::of_group;
use crate::CONTROLLER_NAME;

/// A GatewayClass with our controller name.
#[derive(Debug)]
pub(crate) struct GatewayClassNode {
    pub(crate) generation: i64,
    pub(crate) fault: Option<GatewayClassFault>,
}

/// Why a class is not accepted.
///
/// > If the referent cannot be found, refers to an unsupported kind, or when
/// > the data within that resource is malformed, the GatewayClass SHOULD be
/// > rejected with the "Accepted" status condition set to "False" and an
/// > "InvalidParameters" reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec.parametersRef names {kind} `{name}` {group}, but no kind of parameters is supported; remove it", group = of_group(.group))]
pub(crate) struct GatewayClassFault {
    group: String,
    kind: String,
    name: String,
}

/// Classes by name. Another controller's are absent, and so are their Gateways in all that follows.
pub(super) fn ours(objects: &Objects) -> BTreeMap<&str, GatewayClassNode> {
    let ours = objects.gateway_classes.iter().filter(|(_, class)| class.spec.controller_name == CONTROLLER_NAME);
    ours.map(|(name, class)| {
        let fault = class.spec.parameters_ref.as_ref().map(|reference| GatewayClassFault {
            group: reference.group.clone(),
            kind: reference.kind.clone(),
            name: reference.name.clone(),
        });
        (name.as_str(), GatewayClassNode { generation: class.metadata.generation.unwrap_or_default(), fault })
    })
    .collect()
}
