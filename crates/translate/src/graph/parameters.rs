//! `parametersRef` -> parameters.

use isthmus_api::parameters::GatewayParametersSpec;
use isthmus_api::{Kind, NamespacedName, Objects};

use super::of_group;

/// Why a parametersRef leads nowhere. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParametersFault {
    #[error(
        "names {kind} `{name}` {group}, which is not a kind of parameters that is supported; refer to a GatewayParameters of group `isthmus.dev`",
        group = of_group(.group)
    )]
    Kind { group: String, kind: String, name: String },
    #[error("names GatewayParameters `{0}` without a namespace; add one")]
    NoNamespace(String),
    #[error("names GatewayParameters {0}, which does not exist; create it or correct the name")]
    NotFound(NamespacedName),
}

/// A reference, whoever has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParametersRef<'r> {
    pub(super) group: &'r str,
    pub(super) kind: &'r str,
    pub(super) namespace: Option<&'r str>,
    pub(super) name: &'r str,
}

/// > If the referent cannot be found, refers to an unsupported kind, or when
/// > the data within that resource is malformed, the GatewayClass SHOULD be
/// > rejected with the "Accepted" status condition set to "False" and an
/// > "InvalidParameters" reason.
///
/// It is the same for a Gateway.
pub(super) fn resolve<'o>(
    objects: &'o Objects,
    reference: &ParametersRef<'_>,
) -> Result<&'o GatewayParametersSpec, ParametersFault> {
    let ParametersRef { group, kind, namespace, name } = *reference;
    if group != Kind::GatewayParameters.group() || kind != Kind::GatewayParameters.as_str() {
        return Err(ParametersFault::Kind { group: group.to_owned(), kind: kind.to_owned(), name: name.to_owned() });
    }
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let name = NamespacedName::new(namespace.ok_or_else(|| ParametersFault::NoNamespace(name.to_owned()))?, name);
    objects.gateway_parameters.get(&name).map(|found| &found.spec).ok_or(ParametersFault::NotFound(name))
}
