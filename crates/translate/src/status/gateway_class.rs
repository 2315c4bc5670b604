//! `GatewayClass.status`

use isthmus_api::status::GatewayClassStatus;

use super::Verdict;
use crate::features;
use crate::graph::gateway_class::GatewayClassNode;

/// > Implementations MUST populate status on all GatewayClass resources which
/// > specify their controller name.
pub(super) fn status(node: &GatewayClassNode<'_>, unsupported_version: Option<&str>) -> GatewayClassStatus {
    GatewayClassStatus {
        conditions: vec![
            accepted(node).condition("Accepted", node.generation),
            supported_version(unsupported_version).condition("SupportedVersion", node.generation),
        ],
        supported_features: features::supported(),
    }
}

fn accepted(node: &GatewayClassNode<'_>) -> Verdict {
    match &node.parameters {
        Err(fault) => Verdict::no("InvalidParameters", format_args!("spec.parametersRef {fault}")),
        Ok(_) => Verdict::yes("Accepted"),
    }
}

/// > This condition MUST be set by
/// > a controller when it marks a GatewayClass "Accepted".
///
/// Whoever sees the CRDs of a cluster judges them; with others than the supported ones it is done as well as can be.
fn supported_version(unsupported: Option<&str>) -> Verdict {
    match unsupported {
        Some(why) => Verdict::no("UnsupportedVersion", why),
        None => Verdict::yes("SupportedVersion"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{objects, shown};
    use crate::{CONTROLLER_NAME, Options, translate};

    #[test]
    fn only_our_classes_have_a_status() {
        let class = |name: &str, spec| json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": name, "generation": 2}, "spec": spec});
        let parameters = json!({"group": "example.com", "kind": "Params", "name": "p"});
        let objects = objects([
            class("ours", json!({"controllerName": CONTROLLER_NAME})),
            class("theirs", json!({"controllerName": "example.com/other"})),
            class("parameters", json!({"controllerName": CONTROLLER_NAME, "parametersRef": parameters})),
        ]);
        let statuses = translate(&objects, &Options::default()).statuses.gateway_classes;
        let found: Vec<_> =
            statuses.iter().map(|(name, status)| (name.as_str(), shown(&status.conditions, 2).join(" "))).collect();
        assert_eq!(
            found,
            [
                ("ours", "Accepted=True/Accepted SupportedVersion=True/SupportedVersion".to_owned()),
                ("parameters", "Accepted=False/InvalidParameters SupportedVersion=True/SupportedVersion".to_owned()),
            ]
        );
        assert!(statuses["ours"].supported_features.iter().any(|feature| feature.name == "HTTPRouteCORS"));
    }
}
