//! `GatewayClass.status`

use isthmus_api::status::GatewayClassStatus;

use super::Verdict;
use crate::features;
use crate::graph::gateway_class::GatewayClassNode;

/// > Implementations MUST populate status on all GatewayClass resources which
/// > specify their controller name.
pub(super) fn status(node: &GatewayClassNode) -> GatewayClassStatus {
    GatewayClassStatus {
        conditions: vec![
            accepted(node).condition("Accepted", node.generation),
            supported_version().condition("SupportedVersion", node.generation),
        ],
        supported_features: features::supported(),
    }
}

fn accepted(node: &GatewayClassNode) -> Verdict {
    match &node.fault {
        Some(fault) => Verdict::no("InvalidParameters", fault),
        None => Verdict::yes("Accepted"),
    }
}

/// > This condition MUST be set by
/// > a controller when it marks a GatewayClass "Accepted".
///
/// The objects that get here were decoded with the types of the version that is supported; whoever sees the CRDs of a cluster
/// judges theirs.
fn supported_version() -> Verdict {
    Verdict::yes("SupportedVersion")
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
