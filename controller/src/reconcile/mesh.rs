//! The mesh's side: translation -> what sidecars are to serve, and what they prove.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_api::{ObjectRef, Objects};
use isthmus_push::server::{MeshPublication, Sidecar, Sidecars};
use isthmus_routing::{Inbound, Mesh, MtlsMode, RouteKey, Snapshot};
use isthmus_translate::{Audience, Edition, Options, Translation};
use tokio::sync::watch;

use crate::proof::{SidecarJudgement, SidecarProver, SidecarState};
use crate::ready;

/// What is remembered of the mesh.
#[derive(Debug, Default)]
pub(super) struct MeshSide {
    /// What was handed to the sidecars.
    published: Option<MeshPublication>,
    /// The number of that.
    number: u64,
    /// The pods with sidecars that are ready.
    ready: BTreeSet<(String, String)>,
    prover: SidecarProver,
    /// What was told of annotations.
    told: BTreeMap<ObjectRef, Vec<String>>,
}

impl MeshSide {
    /// From now on sidecars come to this instance.
    pub(super) fn begin(&mut self, now: Instant) {
        self.prover.begin(now);
    }

    /// What sidecars are to serve. What is the same as before is the same by pointer.
    pub(super) fn publication(&mut self, objects: &Objects, translation: &Translation) -> MeshPublication {
        self.ready = ready::sidecars(objects);
        self.tell(&translation.notes);
        let snapshot = of_mesh(&translation.snapshot);
        let before = self.published.as_ref().map(|published| &published.snapshot).filter(|before| ***before == snapshot);
        let publication = MeshPublication {
            snapshot: before.cloned().unwrap_or_else(|| Arc::new(snapshot)),
            inbound: translation.inbound.clone(),
            unseen: Arc::new(Inbound { mode: MtlsMode::Strict, ..Inbound::default() }),
        };
        self.published = Some(publication.clone());
        publication
    }

    /// Takes over the number of what was handed over, and what it carries. Whether it is a new one.
    pub(super) fn published(&mut self, number: u64, audiences: BTreeMap<Audience, BTreeMap<RouteKey, Edition>>) -> bool {
        self.prover.publish(number, audiences);
        std::mem::replace(&mut self.number, number) != number
    }

    /// Judges by what the sidecars said last.
    pub(super) fn judge(&mut self, sidecars: &Sidecars, now: Instant) -> SidecarJudgement {
        let connected = sidecars.iter().map(|(pod, sidecar)| (pod.clone(), state(sidecar))).collect();
        self.prover.judge(&self.ready, &connected, now)
    }

    /// What is wrong with annotations has no status to stand in.
    fn tell(&mut self, notes: &BTreeMap<ObjectRef, Vec<String>>) {
        for (object, notes) in notes.iter().filter(|(object, notes)| self.told.get(object) != Some(notes)) {
            tracing::warn!(%object, fault = %notes.join("; "), "an annotation cannot be carried out");
        }
        if self.told != *notes {
            self.told.clone_from(notes);
        }
    }
}

fn state(sidecar: &Sidecar) -> SidecarState {
    let lacking = sidecar.lacking.iter().map(|(route, rules)| {
        let rules: Vec<_> = rules.iter().map(|rule| format!("rules[{rule}]")).collect();
        (route.clone(), format!("{} (release {})", rules.join(", "), sidecar.package))
    });
    SidecarState {
        acked: sidecar.acked,
        nack: sidecar.nack.as_ref().map(|(_, why)| why.clone()),
        calls: Arc::clone(&sidecar.calls),
        lacking: lacking.collect(),
    }
}

/// What sidecars may get of a snapshot: an edit of a Gateway is no news for them.
fn of_mesh(snapshot: &Snapshot) -> Snapshot {
    Snapshot {
        services: snapshot.services.clone(),
        service_routes: snapshot.service_routes.clone(),
        backends: snapshot.backends.clone(),
        bundles: snapshot.bundles.clone(),
        kept_bundles: snapshot.kept_bundles.clone(),
        mesh: snapshot.mesh.clone(),
        workloads: snapshot.workloads.clone(),
        frontends: snapshot.frontends.clone(),
        ..Snapshot::default()
    }
}

/// Whose certificates workloads take from each other, if that is known.
pub(super) fn authority(source: Option<&watch::Receiver<Option<Arc<Mesh>>>>) -> Option<Arc<Mesh>> {
    source.and_then(|source| source.borrow().clone())
}

/// Waits until it is another one; for ever where there is no mesh. Cancel safe.
pub(super) async fn changed(source: &mut Option<watch::Receiver<Option<Arc<Mesh>>>>) -> Result<(), watch::error::RecvError> {
    match source {
        Some(source) => source.changed().await,
        None => pending().await,
    }
}

/// Whether there are sidecars and nobody knows whose certificates they take: calls to them fail where that was not known before.
pub(super) fn lacks_authority(translation: &Translation, options: &Options) -> bool {
    options.mesh && options.authority.is_none() && !translation.inbound.is_empty()
}

/// How long nothing is published for want of an authority: whoever starts has it in a moment.
const WAIT: Duration = Duration::from_secs(5);

/// That nothing may be published, because the authority of the mesh is not known yet: proxies go on with what they have. It is so only for
/// a while after the start. Whoever calls nobody with a sidecar needs no authority, and is not to wait for one that somebody has spoilt.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// When it was asked for first.
    since: Option<Instant>,
    /// Whether it is lacking.
    lacking: bool,
    /// Whether it is not waited for any more.
    is_over: bool,
    told: bool,
}

impl Withheld {
    /// Whether it is so.
    pub(super) fn is_so(&self) -> bool {
        self.lacking && !self.is_over
    }

    /// Whether an authority is lacking from now on; says so if it is lacking after the wait.
    pub(super) fn set(&mut self, lacking: bool, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.is_over |= now >= since + WAIT;
        self.lacking = lacking;
        let tells = lacking && self.is_over;
        match (tells, self.told) {
            (true, false) => tracing::warn!(
                "the authority of the mesh is not known, and there are pods with sidecars: nobody gets a certificate, and proxies that did \
                 not know it before can call none of these pods; see the Secret {} and what is logged of it",
                crate::ca::SECRET
            ),
            (false, true) => tracing::info!("no pod with a sidecar lacks the authority of the mesh any more"),
            _ => {}
        }
        self.told = tells;
    }

    /// When it ends, whether there is an authority or not.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.filter(|_| self.is_so()).map(|since| since + WAIT)
    }

    /// Whether it ends now.
    pub(super) fn ends(&mut self, now: Instant) -> bool {
        let ends = self.due().is_some_and(|due| now >= due);
        self.is_over |= ends;
        ends
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::decode;
    use isthmus_translate::translate;
    use serde_json::{Value, json};

    use super::*;

    /// With a sidecar.
    fn pod(annotations: &Value, ready: &str) -> Value {
        let sidecar = json!({"name": "isthmus-proxy", "restartPolicy": "Always"});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "a", "annotations": annotations},
            "spec": {"serviceAccountName": "cart", "initContainers": [sidecar]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn translated(pod: Value, authority: Option<&str>) -> (Objects, Translation, Options) {
        let mut objects = Objects::default();
        objects.apply(decode(pod).unwrap());
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "front"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]}});
        objects.apply(decode(service).unwrap());
        let authority = authority
            .map(|pem| Arc::new(Mesh { trust_domain: isthmus_routing::TrustDomain::default(), authorities: pem.to_owned() }));
        let options = Options { mesh: true, authority, ..Options::default() };
        let translation = translate(&objects, &options);
        (objects, translation, options)
    }

    #[test]
    fn sidecars_get_the_mesh_and_what_each_asks_of_its_callers() {
        let strict = json!({"isthmus.dev/mtls": "strict"});
        let (objects, translation, options) = translated(pod(&strict, "True"), Some("PEM"));
        let mut side = MeshSide::default();
        let first = side.publication(&objects, &translation);
        assert_eq!((first.snapshot.workloads.len(), first.snapshot.frontends.len(), first.snapshot.services.len()), (1, 1, 1));
        assert_eq!(first.snapshot.mesh, options.authority);
        let of_pod = &first.inbound[&("shop".to_owned(), "a".to_owned())];
        assert_eq!((of_pod.mode, first.unseen.mode), (MtlsMode::Strict, MtlsMode::Strict));
        assert_eq!(side.ready.len(), 1);
        assert!(side.published(1, BTreeMap::new()) && !side.published(1, BTreeMap::new()));
        let (objects, translation, _) = translated(pod(&strict, "False"), Some("PEM"));
        let second = side.publication(&objects, &translation);
        assert!(Arc::ptr_eq(&first.snapshot, &second.snapshot) && side.ready.is_empty());
        let (objects, translation, _) = translated(pod(&strict, "False"), Some("OTHER"));
        assert!(!Arc::ptr_eq(&first.snapshot, &side.publication(&objects, &translation).snapshot));
    }

    #[test]
    fn an_authority_is_lacking_where_there_are_sidecars_and_none_is_known() {
        let meshed = pod(&json!({}), "True");
        let mut plain = meshed.clone();
        plain["spec"]["initContainers"] = json!([]);
        for (pod, authority, expected) in [(&meshed, None, true), (&meshed, Some("PEM"), false), (&plain, None, false)] {
            let (_, translation, options) = translated(pod.clone(), authority);
            assert_eq!(lacks_authority(&translation, &options), expected, "{pod} {authority:?}");
        }
    }

    #[test]
    fn an_authority_is_waited_for_once_and_not_for_ever() {
        let start = Instant::now();
        let mut withheld = Withheld::default();
        withheld.set(true, start);
        assert_eq!((withheld.is_so(), withheld.due(), withheld.told), (true, Some(start + WAIT), false));
        withheld.set(true, start + WAIT / 2);
        assert!(
            withheld.due() == Some(start + WAIT) && !withheld.ends(start + WAIT / 2),
            "what changes meanwhile prolongs nothing"
        );
        assert!(withheld.ends(start + WAIT) && !withheld.ends(start + WAIT), "once");
        withheld.set(true, start + WAIT);
        assert_eq!((withheld.is_so(), withheld.due(), withheld.told), (false, None, true));
        withheld.set(false, start + 2 * WAIT);
        assert!(!withheld.told);
        // Somebody's pods that come and go hold nothing up.
        withheld.set(true, start + 3 * WAIT);
        assert_eq!((withheld.is_so(), withheld.told), (false, true));
        let mut in_time = Withheld::default();
        in_time.set(true, start);
        in_time.set(false, start + WAIT / 2);
        assert!(!in_time.is_so() && in_time.due().is_none() && !in_time.told);
    }

    #[test]
    fn what_gateways_are_is_no_news_for_sidecars() {
        let mut snapshot = Snapshot::default();
        let before = of_mesh(&snapshot);
        let key = isthmus_routing::GatewayKey { namespace: "shop".to_owned(), name: "edge".to_owned() };
        snapshot.gateways.insert(key, Arc::new(isthmus_routing::Gateway::default()));
        assert_eq!(of_mesh(&snapshot), before);
    }
}
