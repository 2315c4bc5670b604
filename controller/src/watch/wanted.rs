//! Which Secrets and ConfigMaps somebody refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use isthmus_api::{Object, ObjectRef, Objects};
use tokio::sync::watch;

use super::meshed::MeshedAddresses;
use super::{Change, is_referred_only, is_relevant};

/// What is wanted, each with the number of the question: one that was not wanted for a while is asked for anew.
pub(super) type Questions = BTreeMap<ObjectRef, u64>;

/// The reconciler's end of an agreement: it says which Secrets and ConfigMaps it wants, and their answers come in the stream of
/// changes. It applies all changes through this, so that nothing that is not wanted gets into the store.
#[derive(Debug)]
pub struct Wanted {
    sender: watch::Sender<Questions>,
    /// With the time at which they were asked for.
    unanswered: BTreeMap<ObjectRef, Instant>,
    asked: u64,
    meshed: MeshedAddresses,
}

impl Wanted {
    pub(super) fn new(sender: watch::Sender<Questions>) -> Self {
        Self { sender, unanswered: BTreeMap::new(), asked: 0, meshed: MeshedAddresses::default() }
    }

    /// Says all that is wanted from now on, and removes from `objects` what no longer is. Each newly wanted object is
    /// answered by a change: applied, or removed if there is none.
    pub fn want(&mut self, wanted: BTreeSet<ObjectRef>, objects: &mut Objects) {
        let before = self.sender.borrow().clone();
        if before.keys().eq(&wanted) {
            return;
        }
        for object in before.keys().filter(|object| !wanted.contains(object)) {
            objects.remove(object);
            self.unanswered.remove(object);
        }
        let now = Instant::now();
        let mut question = |object: ObjectRef| {
            let number = before.get(&object).copied().unwrap_or_else(|| {
                self.asked += 1;
                self.unanswered.insert(object.clone(), now);
                self.asked
            });
            (object, number)
        };
        let questions = wanted.into_iter().map(&mut question).collect();
        self.sender.send_replace(questions);
    }

    /// Applies a change, and says whether it is relevant (see [`is_relevant`]).
    pub fn apply(&mut self, change: Change, objects: &mut Objects) -> bool {
        let object = change.object_ref();
        if is_referred_only(object.kind) {
            if !self.sender.borrow().contains_key(&object) {
                return false;
            }
            self.unanswered.remove(&object);
        }
        match change {
            Change::Applied(new) => {
                let was_unreadable = objects.unreadable.contains_key(&object);
                let old: Option<Object> = objects.apply(new.clone());
                old.iter().for_each(|old| self.meshed.remove(old));
                self.meshed.add(&new);
                let is_other = was_unreadable || old.as_ref().is_none_or(|old| is_relevant(old, &new));
                is_other && std::iter::once(&new).chain(&old).any(|object| self.meshed.concerns(object))
            }
            Change::Unreadable(part, why) => {
                let is_other = objects.unreadable.get(&object) != Some(&why);
                let old = objects.apply_unreadable(part.clone(), why);
                is_other || old.is_none_or(|old| is_relevant(&old, &part))
            }
            Change::Removed(object) => objects.remove(&object).is_some_and(|old| {
                self.meshed.remove(&old);
                self.meshed.concerns(&old)
            }),
        }
    }

    /// Whether every wanted object was answered. While the API server fails, an answer may be long in coming: hold a
    /// translation back for a bounded time only.
    pub fn is_settled(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// Whether an answer is missing that was asked for less than `patience` before `now`.
    pub fn is_expecting(&self, patience: Duration, now: Instant) -> bool {
        self.unanswered.values().any(|asked| now.saturating_duration_since(*asked) < patience)
    }

    /// What was not answered yet.
    pub fn unanswered(&self) -> impl ExactSizeIterator<Item = &ObjectRef> {
        self.unanswered.keys()
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::{Kind, decode};
    use serde_json::json;

    use super::*;

    fn secret(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Secret, namespace: Some("shop".to_owned()), name: name.to_owned() }
    }

    fn applied(kind: &str, name: &str, version: &str) -> Change {
        Change::Applied(
            decode(json!({"apiVersion": "v1", "kind": kind,
                "metadata": {"name": name, "namespace": "shop", "resourceVersion": version}}))
            .unwrap(),
        )
    }

    fn wanted() -> (Wanted, watch::Receiver<Questions>, Objects) {
        let (sender, receiver) = watch::channel(Questions::new());
        (Wanted::new(sender), receiver, Objects::default())
    }

    #[test]
    fn what_is_wanted_is_settled_when_it_was_answered() {
        let (mut wanted, receiver, mut objects) = wanted();
        wanted.want(BTreeSet::new(), &mut objects);
        assert!(wanted.is_settled() && !receiver.has_changed().unwrap());
        wanted.want(BTreeSet::from([secret("a"), secret("b")]), &mut objects);
        assert!(receiver.has_changed().unwrap());
        assert!(!wanted.apply(Change::Removed(secret("a")), &mut objects), "there was none before");
        assert!(!wanted.apply(Change::Removed(secret("other")), &mut objects));
        assert!(!wanted.is_settled());
        assert!(wanted.apply(applied("Secret", "b", "1"), &mut objects));
        assert!(wanted.is_settled());
        assert_eq!(objects.secrets.len(), 1);
    }

    #[test]
    fn what_is_no_longer_wanted_is_forgotten_and_asked_anew() {
        let (mut wanted, receiver, mut objects) = wanted();
        wanted.want(BTreeSet::from([secret("a"), secret("b")]), &mut objects);
        let first = receiver.borrow()[&secret("a")];
        assert!(wanted.apply(applied("Secret", "a", "1"), &mut objects));
        wanted.want(BTreeSet::from([secret("b")]), &mut objects);
        assert!(objects.secrets.is_empty());
        assert!(!wanted.apply(applied("Secret", "a", "2"), &mut objects), "an answer that was under way");
        assert!(objects.secrets.is_empty());
        wanted.want(BTreeSet::from([secret("a")]), &mut objects);
        assert!(!wanted.is_settled());
        assert_ne!(receiver.borrow()[&secret("a")], first);
    }

    #[test]
    fn an_answer_that_does_not_come_is_expected_for_a_while_only() {
        let (mut wanted, _receiver, mut objects) = wanted();
        let (start, patience) = (Instant::now(), Duration::from_secs(1));
        assert!(!wanted.is_expecting(patience, start));
        wanted.want(BTreeSet::from([secret("a"), secret("b")]), &mut objects);
        assert!(wanted.is_expecting(patience, start));
        let later = Instant::now() + patience;
        assert!(!wanted.is_expecting(patience, later), "what was asked for long ago delays nothing");
        wanted.apply(applied("Secret", "a", "1"), &mut objects);
        assert_eq!(wanted.unanswered().collect::<Vec<_>>(), [&secret("b")]);
    }

    #[test]
    fn what_cannot_be_read_is_relevant_until_it_says_the_same() {
        let (mut wanted, _receiver, mut objects) = wanted();
        let route = |rules: serde_json::Value| {
            let metadata = json!({"name": "a", "namespace": "shop"});
            let api_version = "gateway.networking.k8s.io/v1";
            let route = json!({"apiVersion": api_version, "kind": "HTTPRoute", "metadata": metadata, "spec": {"rules": rules}});
            match isthmus_api::decode_stored(&route).unwrap() {
                isthmus_api::Stored::Whole(object) => Change::Applied(object),
                isthmus_api::Stored::Unreadable(part, why) => Change::Unreadable(part, why),
            }
        };
        for (rules, relevant) in [
            (json!([{}]), true),
            (json!([{"name": 5}]), true),
            (json!([{"name": 5}]), false),
            (json!([{"name": 6}]), true),
            (json!(null), true),
            (json!(null), false),
        ] {
            assert_eq!(wanted.apply(route(rules.clone()), &mut objects), relevant, "{rules}");
        }
    }

    #[test]
    fn a_pod_without_a_sidecar_matters_where_it_has_the_address_of_one_with() {
        let (mut wanted, _receiver, mut objects) = wanted();
        let pod = |name: &str, meshed: bool, address: &str, ready: &str| {
            let sidecar = json!({"name": "isthmus-proxy", "restartPolicy": "Always"});
            let spec = if meshed { json!({"initContainers": [sidecar]}) } else { json!({}) };
            let status = json!({"podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": ready}]});
            let metadata = json!({"name": name, "namespace": "shop"});
            Change::Applied(
                decode(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})).unwrap(),
            )
        };
        for (what, change, relevant) in [
            ("nobody's", pod("plain", false, "10.0.0.1", "True"), false),
            ("one with a sidecar", pod("meshed", true, "10.0.0.2", "False"), true),
            ("and it is ready", pod("meshed", true, "10.0.0.2", "True"), true),
            ("and nothing changes", pod("meshed", true, "10.0.0.2", "True"), false),
            ("another's readiness", pod("plain", false, "10.0.0.1", "False"), false),
            ("another with its address, written otherwise", pod("plain", false, "10.0.0.2", "False"), true),
            ("which goes", pod("plain", false, "10.0.0.3", "False"), true),
            ("and ends", Change::Removed(ObjectRef { kind: Kind::Pod, ..secret("plain") }), false),
            ("as does that with the sidecar", Change::Removed(ObjectRef { kind: Kind::Pod, ..secret("meshed") }), true),
        ] {
            assert_eq!(wanted.apply(change, &mut objects), relevant, "{what}");
        }
        assert!(objects.pods.is_empty());
    }

    #[test]
    fn other_kinds_are_applied_as_they_come() {
        let (mut wanted, _receiver, mut objects) = wanted();
        assert!(wanted.apply(applied("Service", "a", "1"), &mut objects));
        assert!(!wanted.apply(applied("Service", "a", "2"), &mut objects), "nothing but its version changed");
        let service = ObjectRef { kind: Kind::Service, ..secret("a") };
        assert!(wanted.apply(Change::Removed(service), &mut objects));
        assert_eq!(objects, Objects::default());
    }
}
