//! What is there.

use std::collections::BTreeMap;

use isthmus_routing::GatewayKey;
use serde_json::Value;

use super::live::Live;

/// What is there of every Gateway that should run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provisioned {
    /// Whether everything that is ours was seen; before that, what is not in here may be there all the same.
    pub synced: bool,
    /// Each Gateway that should run.
    pub gateways: BTreeMap<GatewayKey, State>,
    /// The ServiceAccounts that proxies run as, by namespace and name; only those that are the Gateway's own.
    pub accounts: BTreeMap<(String, String), GatewayKey>,
}

/// What is there of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// `metadata.uid` of the Gateway that this is about: one of the same name may have been made since.
    pub uid: String,
    /// What could not be given to it, each with what to do about it.
    pub faults: Vec<String>,
    /// Whether its own Deployment is there: until then the ready pods, if any, are those of an earlier Gateway of its name, and go.
    pub deployed: bool,
}

impl State {
    /// Of the Gateway with this uid, whose own Deployment this is.
    pub(super) fn of(uid: String, faults: Vec<String>, deployment: Option<&Live>) -> Self {
        let failure = deployment.and_then(|live| Some(format!("Deployment {}: {}", live.name, failure(&live.body)?)));
        Self { uid, faults: faults.into_iter().chain(failure).collect(), deployed: deployment.is_some() }
    }
}

/// Why the Deployment makes no pods: a quota, Pod Security, an admission webhook.
fn failure(body: &Value) -> Option<String> {
    let conditions = body.pointer("/status/conditions")?.as_array()?;
    let text = |condition: &Value, field| condition.get(field).and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
    let failed = |condition: &&Value| text(condition, "type") == "ReplicaFailure" && text(condition, "status") == "True";
    conditions.iter().find(failed).map(|condition| text(condition, "message"))
}
