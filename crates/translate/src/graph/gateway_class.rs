//! GatewayClasses that are ours.

use std::collections::BTreeMap;

use isthmus_api::Objects;
use isthmus_api::parameters::GatewayParametersSpec;

use super::parameters::{self, ParametersFault, ParametersRef};
use crate::CONTROLLER_NAME;

/// A GatewayClass with our controller name.
#[derive(Debug)]
pub(crate) struct GatewayClassNode<'a> {
    pub(crate) generation: i64,
    /// What its Gateways are given unless they say otherwise; an error: the class is not accepted.
    pub(crate) parameters: Result<Option<&'a GatewayParametersSpec>, ParametersFault>,
}

/// Classes by name. Another controller's are absent, and so are their Gateways in all that follows.
pub(super) fn ours(objects: &Objects) -> BTreeMap<&str, GatewayClassNode<'_>> {
    let ours = objects.gateway_classes.iter().filter(|(_, class)| class.spec.controller_name == CONTROLLER_NAME);
    ours.map(|(name, class)| {
        let parameters = class.spec.parameters_ref.as_ref().map(|reference| {
            let (group, kind, namespace) = (&reference.group, &reference.kind, reference.namespace.as_deref());
            parameters::resolve(objects, &ParametersRef { group, kind, namespace, name: &reference.name })
        });
        let generation = class.metadata.generation.unwrap_or_default();
        (name.as_str(), GatewayClassNode { generation, parameters: parameters.transpose() })
    })
    .collect()
}
