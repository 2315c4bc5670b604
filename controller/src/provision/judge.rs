//! What is to be done about one object: pure.

use isthmus_routing::GatewayKey;
use serde_json::Value;

use super::compare::{contains, project};
use super::desired::{OwnKind, Wanted};
use super::live::Live;
use super::names;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// Apply it.
    Apply,
    /// Leave the number of replicas, which we applied, to the autoscaler, then apply: a field that nobody owns any more is set to its
    /// default, and one pod would be left of many.
    HandOver(i64),
    /// Delete it, because a field that cannot be changed differs; then it is made anew.
    Replace,
    /// Something has to happen first, and will.
    Wait(&'static str),
    /// It is not ours.
    Refuse(&'static str),
}

/// Whose objects are judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'g> {
    pub(super) gateway: &'g GatewayKey,
    /// The Gateway's `metadata.uid`.
    pub(super) uid: &'g str,
    /// When it was made, in seconds since 1970.
    pub(super) created: i64,
}

/// Judges what is there under the name of an object that is wanted. `accepted` is how the API server wrote what we applied last, if this
/// is the same.
pub(super) fn judge(wanted: &Wanted, whose: Whose<'_>, live: &Live, accepted: Option<&Value>) -> Step {
    if live.is_leaving() {
        return Step::Wait("is being deleted; it is made again after that");
    }
    if let Some(step) = belongs(whose, live) {
        return step;
    }
    if wanted.kind == OwnKind::Service && class_differs(&wanted.body, &live.body) {
        return Step::Replace;
    }
    if contains(&live.body, &wanted.body) || accepted.is_some_and(|accepted| *accepted == project(&live.body, &wanted.body)) {
        return Step::Keep;
    }
    match live.own_replicas {
        Some(replicas) if wanted.body.pointer("/spec/replicas").is_none() => Step::HandOver(replicas),
        _ => Step::Apply,
    }
}

/// Whether an object that is not wanted is to be deleted: it was made for this Gateway.
pub(super) fn is_surplus(gateway: &GatewayKey, live: &Live) -> bool {
    let owned = live.owner().is_some_and(|owner| owner.kind == "Gateway" && owner.name == gateway.name);
    live.is_managed() && owned && !live.is_leaving()
}

/// None: it is this Gateway's, or was and has lost its owner.
///
/// What is older than this Gateway and belongs to one of its name is of one that is no more. The garbage collector may take its time with
/// that, and has been seen to leave an object that was made just after its owner had gone. What is as new or newer may be of a Gateway that
/// we have not heard of yet.
fn belongs(whose: Whose<'_>, live: &Live) -> Option<Step> {
    let Whose { gateway, uid, created } = whose;
    match live.owner() {
        Some(owner) if owner.uid == uid => None,
        _ if !live.is_managed() => Some(Step::Refuse(
            "exists and is not Isthmus's, since it has no label app.kubernetes.io/managed-by=isthmus-controller; delete or rename it",
        )),
        Some(owner) if owner.kind == "Gateway" && owner.name == gateway.name => Some(match live.created() {
            Some(since) if since < created => Step::Replace,
            _ => Step::Wait("belongs to another Gateway of this name, which has gone; the garbage collector deletes it first"),
        }),
        None if live.label(names::GATEWAY_NAME) == Some(names::gateway_label(gateway).as_str()) => None,
        _ => Some(Step::Refuse("belongs to something else; rename the Gateway")),
    }
}

/// `spec.loadBalancerClass` cannot change as long as the type stays LoadBalancer.
fn class_differs(wanted: &Value, live: &Value) -> bool {
    let is_balanced = |body: &Value| body.pointer("/spec/type").and_then(Value::as_str) == Some("LoadBalancer");
    let class = |body: &Value| body.pointer("/spec/loadBalancerClass").and_then(Value::as_str).map(str::to_owned);
    is_balanced(wanted) && is_balanced(live) && class(wanted) != class(live)
}
