//! The controller runs with the roles of the chart, and a proxy with none.

use std::sync::Arc;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, LogParams, PostParams};
use serde_json::json;

use crate::fault::{Outcome, ensure};
use crate::manifests::{DEPLOYMENT, HASTY, gateway, programmed};
use crate::rollouts::CONTROLLER_PODS;
use crate::stage::{SYSTEM, Stage};

/// After those beside which others run, so that the logs tell of all that these had the controller do, and before those that restart it.
pub(crate) async fn of_the_chart_suffice_and_a_proxy_has_none(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    space.apply(&gateway(1, HASTY, "")).await?;
    programmed(&space, 80).await?;
    let proxy = (space.name.as_str(), DEPLOYMENT);
    let controller = (SYSTEM, "isthmus-controller");
    let allowed = [
        (proxy, "get", "", "secrets", space.name.as_str(), false),
        (proxy, "list", "", "pods", space.name.as_str(), false),
        (proxy, "list", "gateway.networking.k8s.io", "httproutes", space.name.as_str(), false),
        (proxy, "*", "*", "*", space.name.as_str(), false),
        (controller, "patch", "gateway.networking.k8s.io", "httproutes", space.name.as_str(), false),
        (controller, "delete", "gateway.networking.k8s.io", "gateways", space.name.as_str(), false),
        (controller, "update", "", "secrets", space.name.as_str(), false),
        (controller, "delete", "", "secrets", space.name.as_str(), false),
        (controller, "create", "", "pods", space.name.as_str(), false),
        (controller, "escalate", "rbac.authorization.k8s.io", "clusterroles", "", false),
        (controller, "get", "", "secrets", space.name.as_str(), true),
        (controller, "list", "gateway.networking.k8s.io", "httproutes", space.name.as_str(), true),
    ];
    for (account, verb, group, resource, namespace, expected) in allowed {
        let found = may(&stage, account, verb, group, resource, namespace).await?;
        ensure!(found == expected, "{account:?} may {verb} {resource}.{group}: {found}, not {expected}");
    }
    let pods = Api::<Pod>::namespaced(stage.client.clone(), SYSTEM);
    for pod in pods.list(&ListParams::default().labels(CONTROLLER_PODS)).await? {
        let log = pods.logs(&pod.name_any(), &LogParams::default()).await?;
        // What is created in a namespace that goes is refused with the same word.
        let is_refusal = |line: &&str| line.contains("is forbidden") && !line.contains("being terminated");
        let refused = log.lines().find(is_refusal);
        ensure!(refused.is_none(), "the controller was refused something: {}", refused.unwrap_or_default());
    }
    Ok(())
}

async fn may(
    stage: &Stage,
    (namespace, account): (&str, &str),
    verb: &str,
    group: &str,
    resource: &str,
    target: &str,
) -> Outcome<bool> {
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"];
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
        "spec": {
            "user": user, "groups": groups,
            "resourceAttributes": { "namespace": target, "verb": verb, "group": group, "resource": resource },
        },
    });
    let reviews = Api::<SubjectAccessReview>::all(stage.client.clone());
    let answer = reviews.create(&PostParams::default(), &serde_json::from_value(review)?).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
