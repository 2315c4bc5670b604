//! One Gateway's objects, brought from what is to what should be.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use isthmus_api::NamespacedName;
use isthmus_routing::GatewayKey;
use kube::Client;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tracing::{debug, info};

use super::compare::project;
use super::desired::{OwnKind, Wanted, location};
use super::judge::{Step, Whose, is_surplus, judge};
use super::live::Live;
use super::watches::api;
use super::{FIELD_MANAGER, desired};
use crate::watch::stream::in_time;

/// Who applies a Deployment's `replicas` while an autoscaler has not written them yet.
const REPLICAS_MANAGER: &str = "isthmus-controller-replicas";

/// What to do for a Gateway.
pub(super) struct Job {
    pub(super) client: Client,
    pub(super) gateway: GatewayKey,
    pub(super) uid: String,
    /// When the Gateway was made, in seconds since 1970.
    pub(super) created: i64,
    /// Empty: everything goes.
    pub(super) wanted: Arc<Vec<Wanted>>,
    /// What is there.
    pub(super) live: BTreeMap<OwnKind, Arc<Live>>,
    /// How the API server wrote what was applied last, of what is still wanted.
    pub(super) accepted: BTreeMap<OwnKind, Value>,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) gateway: GatewayKey,
    /// What was applied for: the answer counts only if the same is wanted still.
    pub(super) wanted: Arc<Vec<Wanted>>,
    /// What the API server answered to what was applied.
    pub(super) applied: Vec<(OwnKind, Live)>,
    /// What was deleted, or is not ours after all, by uid. It may take its time to go.
    pub(super) deleted: Vec<(OwnKind, String)>,
    /// What has to be tried again, or waited for.
    pub(super) problems: Vec<Problem>,
}

/// What became of one object.
enum Settled {
    Kept,
    Applied(Box<Live>),
    /// This uid. It is made anew next time.
    Deleted(String),
}

/// Why an object is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// Time or somebody else solves it.
    #[error("{kind} {name} {what}", kind = .kind.as_str())]
    Wait { kind: OwnKind, name: NamespacedName, what: &'static str },
    /// Only the user can.
    #[error("{kind} {name} {what}", kind = .kind.as_str())]
    Refused { kind: OwnKind, name: NamespacedName, what: &'static str },
    /// Somebody made one between our look and our request.
    #[error("{kind} {name} was made by somebody else in the same moment; it is looked at again", kind = .kind.as_str())]
    Overtaken { kind: OwnKind, name: NamespacedName, uid: String },
    /// The API server did not do it.
    #[error("{kind} {name} cannot be written: {error}", kind = .kind.as_str(), error = words(.error))]
    Api { kind: OwnKind, name: NamespacedName, error: Box<kube::Error> },
}

impl Problem {
    /// Whether the user should hear of it at once: trying again does not help.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Wait { .. } | Self::Overtaken { .. } => false,
            Self::Refused { .. } => true,
            Self::Api { error, .. } => match &**error {
                kube::Error::Api(status) => (400..500).contains(&status.code) && ![404, 408, 409, 429].contains(&status.code),
                _ => false,
            },
        }
    }
}

/// The API server's own words, which say what to do.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Kinds that are made one after another: pods are refused as long as their ServiceAccount or ConfigMap is not there, and a Deployment
/// is not made for a ServiceAccount of somebody else.
const STAGES: [&[OwnKind]; 3] = [
    &[OwnKind::ServiceAccount, OwnKind::ConfigMap, OwnKind::Service],
    &[OwnKind::Deployment],
    &[OwnKind::HorizontalPodAutoscaler, OwnKind::PodDisruptionBudget],
];

impl Job {
    /// Does it. Dropped between two requests, it leaves objects that the next one goes on with.
    pub(super) async fn run(self) -> Done {
        let (mut applied, mut deleted, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for stage in STAGES {
            let objects = self.wanted.iter().filter(|wanted| stage.contains(&wanted.kind));
            let needs = |problem: &Problem| problem.kind() != OwnKind::Service;
            if stage.contains(&OwnKind::Deployment) && problems.iter().any(needs) {
                break;
            }
            let settled = join_all(objects.map(|wanted| async { (wanted.kind, self.settle(wanted).await) })).await;
            for (kind, settled) in settled {
                match settled {
                    Ok(Settled::Kept) => {}
                    Ok(Settled::Applied(live)) => applied.push((kind, *live)),
                    Ok(Settled::Deleted(uid)) => deleted.push((kind, uid)),
                    Err(problem) => {
                        // For a moment it looked like ours.
                        if let Problem::Overtaken { uid, .. } = &problem {
                            deleted.push((kind, uid.clone()));
                        }
                        problems.push(problem);
                    }
                }
            }
        }
        let surplus = self
            .live
            .iter()
            .filter(|(kind, live)| self.wanted.iter().all(|wanted| wanted.kind != **kind) && is_surplus(&self.gateway, live));
        let went = join_all(surplus.map(|(kind, live)| async { (*kind, self.delete(*kind, live).await) })).await;
        for (kind, went) in went {
            match went {
                Ok(uid) => deleted.push((kind, uid)),
                Err(problem) => problems.push(problem),
            }
        }
        Done { gateway: self.gateway, wanted: self.wanted, applied, deleted, problems }
    }

    /// One object.
    async fn settle(&self, wanted: &Wanted) -> Result<Settled, Problem> {
        let kind = wanted.kind;
        let known = self.live.get(&kind).cloned();
        // What is not ours is not watched, so an object that is not known may be there all the same.
        let live = match known {
            Some(live) => Some(live),
            None => self.look(kind).await?.map(Arc::new),
        };
        let Some(live) = live else { return self.apply(wanted, None).await };
        let whose = Whose { gateway: &self.gateway, uid: &self.uid, created: self.created };
        match judge(wanted, whose, &live, self.accepted.get(&kind)) {
            Step::Keep => Ok(Settled::Kept),
            Step::Apply => self.apply(wanted, Some(&live)).await,
            Step::HandOver(replicas) => {
                self.hand_over(kind, replicas).await?;
                self.apply(wanted, Some(&live)).await
            }
            Step::Replace => self.delete(kind, &live).await.map(Settled::Deleted),
            Step::Wait(what) => Err(Problem::Wait { kind, name: location(&self.gateway), what }),
            Step::Refuse(what) => Err(Problem::Refused { kind, name: location(&self.gateway), what }),
        }
    }

    async fn look(&self, kind: OwnKind) -> Result<Option<Live>, Problem> {
        let name = location(&self.gateway);
        let found = in_time(api(&self.client, kind, Some(&name.namespace)).get_opt(&name.name)).await;
        found.map(|found| found.map(Live::read)).map_err(|error| self.failed(kind, error))
    }

    /// The uid of what is there goes with it: an object that somebody put in its place meanwhile is a conflict. Where nothing was, nothing
    /// is forced, so that what somebody made there meanwhile keeps its fields.
    async fn apply(&self, wanted: &Wanted, live: Option<&Live>) -> Result<Settled, Problem> {
        let kind = wanted.kind;
        let name = location(&self.gateway);
        let mut body = wanted.body.clone();
        if let (Some(live), Some(Value::Object(metadata))) = (live, body.get_mut("metadata")) {
            metadata.insert("uid".to_owned(), live.uid().into());
        }
        let parameters = PatchParams { force: live.is_some(), ..PatchParams::apply(FIELD_MANAGER) };
        let api = api(&self.client, kind, Some(&name.namespace));
        let patched = in_time(api.patch(&name.name, &parameters, &Patch::Apply(&body))).await;
        let object: DynamicObject = patched.map_err(|error| self.failed(kind, error))?;
        if live.is_none() && is_of_others(&object) {
            self.give_back(kind).await?;
            return Err(Problem::Overtaken { kind, name, uid: object.metadata.uid.unwrap_or_default() });
        }
        let verb = if live.is_some() { "updated" } else { "created" };
        info!(gateway = %format_args!("{}/{}", self.gateway.namespace, self.gateway.name), "{} {name} {verb}", kind.as_str());
        Ok(Settled::Applied(Box::new(Live::read(object))))
    }

    /// Takes away again what was applied to an object that was somebody else's: nothing applied is nothing owned.
    async fn give_back(&self, kind: OwnKind) -> Result<(), Problem> {
        let name = location(&self.gateway);
        let resource = kind.resource();
        let body = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": { "name": name.name, "namespace": name.namespace },
        });
        let api = api(&self.client, kind, Some(&name.namespace));
        let patched = in_time(api.patch(&name.name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(&body))).await;
        patched.map(|_| ()).map_err(|error| self.failed(kind, error))
    }

    async fn hand_over(&self, kind: OwnKind, replicas: i64) -> Result<(), Problem> {
        let name = location(&self.gateway);
        let resource = kind.resource();
        let body = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": { "name": name.name, "namespace": name.namespace },
            "spec": { "replicas": replicas },
        });
        let parameters = PatchParams::apply(REPLICAS_MANAGER).force();
        let api = api(&self.client, kind, Some(&name.namespace));
        let patched = in_time(api.patch(&name.name, &parameters, &Patch::Apply(&body))).await;
        patched.map(|_| ()).map_err(|error| self.failed(kind, error))
    }

    /// Only the very object that was judged, whose uid it returns.
    async fn delete(&self, kind: OwnKind, live: &Live) -> Result<String, Problem> {
        let preconditions = Preconditions { uid: Some(live.uid().to_owned()), resource_version: None };
        let parameters = DeleteParams::background().preconditions(preconditions);
        let deleted = in_time(api(&self.client, kind, Some(&live.name.namespace)).delete(&live.name.name, &parameters)).await;
        match deleted {
            Ok(_) => info!("{} {} deleted", kind.as_str(), live.name),
            Err(kube::Error::Api(status)) if status.code == 404 => debug!("{} {} was gone", kind.as_str(), live.name),
            Err(error) => return Err(self.failed(kind, error)),
        }
        Ok(live.uid().to_owned())
    }

    fn failed(&self, kind: OwnKind, error: kube::Error) -> Problem {
        Problem::Api { kind, name: location(&self.gateway), error: Box::new(error) }
    }
}

impl Problem {
    fn kind(&self) -> OwnKind {
        match self {
            Self::Wait { kind, .. } | Self::Refused { kind, .. } | Self::Overtaken { kind, .. } | Self::Api { kind, .. } => *kind,
        }
    }
}

/// Whether somebody else has written into an object: one that an apply has just made has only its manager.
fn is_of_others(object: &DynamicObject) -> bool {
    let managers = object.metadata.managed_fields.iter().flatten();
    managers.filter_map(|entry| entry.manager.as_deref()).any(|manager| manager != FIELD_MANAGER)
}

/// How the API server wrote what was applied, to be remembered.
pub(super) fn accepted(wanted: &[desired::Wanted], kind: OwnKind, live: &Live) -> Option<Value> {
    wanted.iter().find(|wanted| wanted.kind == kind).map(|wanted| project(&live.body, &wanted.body))
}
