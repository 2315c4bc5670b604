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

impl Provisioned {
    /// Whether the ready pods behind a Gateway's Service may be its own: those of an earlier Gateway of its name, which go, prove
    /// nothing of it. Before everything was seen nobody knows, and they count.
    pub fn has_own_pods(&self, gateway: &GatewayKey, uid: Option<&str>) -> bool {
        let is_own = |state: &State| state.deployed && Some(state.uid.as_str()) == uid;
        !self.synced || self.gateways.get(gateway).is_some_and(is_own)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_an_earlier_gateway_are_told_from_its_own() {
        let key = GatewayKey { namespace: "shop".to_owned(), name: "edge".to_owned() };
        let state = |uid: &str, deployed| Some(State { uid: uid.to_owned(), faults: Vec::new(), deployed });
        for (what, synced, state, uid, expected) in [
            ("its own Deployment", true, state("u1", true), Some("u1"), true),
            ("its Deployment is not there yet", true, state("u2", false), Some("u2"), false),
            ("the provisioner knows only the earlier one", true, state("u1", true), Some("u2"), false),
            ("the provisioner has not heard of it", true, None, Some("u2"), false),
            ("a Gateway without a uid", true, state("u1", true), None, false),
            ("not everything was seen: a controller that starts, or may not list", false, None, Some("u1"), true),
            ("the same, with a state", false, state("u1", false), Some("u1"), true),
        ] {
            let gateways = state.map(|state| (key.clone(), state)).into_iter().collect();
            let provisioned = Provisioned { synced, gateways, accounts: BTreeMap::new() };
            assert_eq!(provisioned.has_own_pods(&key, uid), expected, "{what}");
        }
    }
}
