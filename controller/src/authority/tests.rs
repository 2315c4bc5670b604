use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use isthmus_api::core::ByteString;
use isthmus_api::{ObjectMeta, Secret};
use rustls_pki_types::UnixTime;
use serde_json::Value;
use tokio::sync::mpsc;

use super::content::is_trusted;
use super::*;
use crate::testing::{Answer, Call, Server, event};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Some day in 2026.
const START: u64 = 1_795_600_000;

fn names() -> Vec<String> {
    vec![SERVER_NAME.to_owned(), "isthmus-controller.isthmus-system.svc".to_owned()]
}

fn plan(held: Option<&Content>, now: UnixTime) -> Result<Plan<Content>, rcgen::Error> {
    super::plan(held, &names(), now)
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// Whether a proxy with this bundle takes the leaf.
fn accepts(bundle: &str, content: &Content, now: u64) -> bool {
    let certificates = bundle.split_inclusive("-----END CERTIFICATE-----");
    certificates
        .filter(|ca| ca.contains("BEGIN"))
        .any(|ca| is_trusted(ca, &content.material().certificate.chain, &names(), at(now)))
}

#[test]
fn nothing_held_gives_a_ca_and_a_leaf_that_stay() {
    let first = plan(None, at(START)).unwrap();
    assert!(first.change.is_some());
    assert!(accepts(&first.content.material().bundle, &first.content, START));
    // A proxy whose clock goes behind takes it too.
    assert!(accepts(&first.content.material().bundle, &first.content, START - HOUR + 1));
    assert!(!accepts(&first.content.material().bundle, &first.content, START + 91 * DAY));
    for days in [0, 1, 59] {
        assert_eq!(plan(Some(&first.content), at(START + days * DAY)).unwrap(), Plan { change: None, ..first.clone() });
    }
}

#[test]
fn what_is_written_is_read_again() {
    let content = plan(None, at(START)).unwrap().content;
    assert_eq!(Content::read(&content.entries()).unwrap(), content);
    let late = plan(Some(&content), at(START + 3300 * DAY)).unwrap().content;
    assert!(late.next.is_some());
    assert_eq!(Content::read(&late.entries()).unwrap(), late);
}

#[test]
fn malformed_entries_are_told() {
    let good = plan(None, at(START)).unwrap().content.entries();
    let other = plan(None, at(START)).unwrap().content.entries();
    let with = |entry: &str, bytes: Option<&[u8]>| {
        let mut entries = good.clone();
        entries.remove(entry);
        entries.extend(bytes.map(|bytes| (entry.to_owned(), bytes.to_vec())));
        entries
    };
    for (entries, expected) in [
        (BTreeMap::new(), "ca.crt is missing or not text"),
        (with("tls.key", None), "tls.key is missing or not text"),
        (with("tls.crt", Some(b"\xff")), "tls.crt is missing or not text"),
        (with("ca.crt", Some(b"")), "ca.crt is missing or not text"),
        (with("tls.key", Some(&other["tls.key"])), "tls.key does not belong to its certificate"),
        (with("ca.key", Some(&other["ca.key"])), "ca.key does not belong to its certificate"),
        (with("next.key", Some(&other["ca.key"])), "ca.crt is missing or not text"),
        (with("tls.crt", Some(b"words")), "tls.crt cannot be read: "),
        (with("ca.key", Some(b"words")), "ca.key cannot be read: "),
    ] {
        let error = Content::read(&entries).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_leaf_of_another_ca_is_replaced() {
    let content = plan(None, at(START)).unwrap().content;
    let other = plan(None, at(START)).unwrap().content;
    let mixed = Content { leaf: other.leaf.clone(), ..content.clone() };
    let planned = plan(Some(&mixed), at(START)).unwrap();
    assert_eq!(planned.change, Some("a new leaf"));
    assert!(planned.content.signer == content.signer);
    assert!(accepts(&planned.content.material().bundle, &planned.content, START));
}

#[test]
fn a_leaf_without_one_of_the_names_is_replaced() {
    let content = super::plan(None, &names()[..1], at(START)).unwrap().content;
    assert!(!accepts(&content.material().bundle, &content, START));
    let planned = plan(Some(&content), at(START)).unwrap();
    assert_eq!(planned.change, Some("a new leaf"));
    assert!(planned.content.signer == content.signer);
    assert!(accepts(&planned.content.material().bundle, &planned.content, START));
}

/// 25 years in steps of a day: a proxy whose bundle is not older than 299 days always takes the leaf.
#[test]
fn no_rotation_is_ever_noticed() {
    let mut content = plan(None, at(START)).unwrap().content;
    let mut before = std::collections::VecDeque::from([content.material().bundle]);
    let mut changes: BTreeMap<&str, usize> = BTreeMap::new();
    for day in 1..25 * 365 {
        let now = START + day * DAY;
        let planned = plan(Some(&content), at(now)).unwrap();
        *changes.entry(planned.change.unwrap_or_default()).or_default() += 1;
        let again = plan(Some(&planned.content), at(now)).unwrap();
        assert_eq!(again.change, None, "one step at a time, day {day}");
        content = planned.content;
        assert!(accepts(&before[0], &content, now), "day {day}");
        before.push_back(content.material().bundle);
        if before.len() > 299 {
            before.pop_front();
        }
    }
    assert_eq!(changes.remove(""), Some(25 * 365 - 1 - changes.values().sum::<usize>()));
    assert_eq!(changes["the next CA is trusted"], 2);
    assert_eq!(changes["the next CA signs"], 2);
    assert!(changes["a new leaf"] > 140, "{changes:?}");
}

/// The controller does not run for long while one CA takes the place of the other: whoever trusts the next one takes the leaf. Days are those
/// before the end of the CA that signs.
#[test]
fn a_controller_that_was_away_goes_on_with_the_ca_that_proxies_trust() {
    let first = plan(None, at(START)).unwrap().content;
    let end = START + 3650 * DAY;
    let planned = |content: &Content, now: u64, change: Option<&str>, what: &str| {
        let planned = plan(Some(content), at(now)).unwrap();
        assert_eq!(planned.change, change, "{what}");
        planned.content
    };
    // From D-366 to D-200, and then again from soon after to some time.
    let trusted = planned(&first, end - 200 * DAY, Some("the next CA is trusted"), "D-200");
    let next = trusted.next.clone().unwrap();
    planned(&trusted, end - 31 * DAY, Some("a new leaf"), "D-31: not all have the next one");
    for days in [29, 1, 0, -1, -100, -500] {
        let now = end.checked_add_signed(-days * i64::try_from(DAY).unwrap()).unwrap();
        let what = format!("D-{days}");
        let content = planned(&trusted, now, Some("the next CA signs"), &what);
        assert!(content.signer == next && content.next.is_none(), "{what}");
        assert!(accepts(&trusted.material().bundle, &content, now), "{what}: whoever has the bundle of D-200 takes the leaf");
        assert!(accepts(&next.certificate, &content, now), "{what}");
        assert_eq!(content.former.len(), usize::from(days > 0), "{what}: what has ended is no more");
        planned(&content, now, None, &what);
    }
    // Nothing was prepared: the gateways get a day at least.
    let late = planned(&first, end - 10 * DAY, Some("the next CA is trusted"), "D-10");
    planned(&late, end - 10 * DAY + SETTLE - 1, None, "a moment later");
    planned(&late, end - 10 * DAY + SETTLE, Some("the next CA signs"), "D-9");
    let last = planned(&first, end - HOUR, Some("the next CA is trusted"), "an hour before the end");
    planned(&last, end, Some("the next CA signs"), "D");
    // One that is not valid takes nobody's place.
    let other = plan(None, at(START)).unwrap().content.signer;
    let both = Content { next: Some(other), ..first };
    assert_eq!(plan(Some(&both), at(end)).unwrap().change, Some("a new CA and leaf"));
}

#[test]
fn a_ca_that_has_ended_is_replaced() {
    let content = plan(None, at(START)).unwrap().content;
    let planned = plan(Some(&content), at(START + 3651 * DAY)).unwrap();
    assert_eq!(planned.change, Some("a new CA and leaf"));
    assert!(planned.content.signer != content.signer);
}

/// An API server with one Secret.
#[derive(Clone, Default)]
pub(crate) struct Store {
    inner: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    secret: Option<Value>,
    version: u64,
    watches: Vec<mpsc::UnboundedSender<Value>>,
}

impl Store {
    pub(crate) fn client(&self) -> Client {
        let store = self.clone();
        Server::new(move |call| store.answer(call)).client()
    }

    fn answer(&self, call: &Call) -> Answer {
        if call.is_watch() {
            let (sender, answer) = Answer::watch();
            self.inner.lock().unwrap().watches.push(sender);
            return answer;
        }
        let held = self.inner.lock().unwrap().secret.clone();
        let version = |value: &Value| value.pointer("/metadata/resourceVersion").cloned();
        match (call.method.as_str(), held) {
            ("GET", held) if call.path.ends_with("/secrets") => Answer::list(self.inner.lock().unwrap().version, held.as_slice()),
            ("GET", Some(held)) => Answer::json(held),
            ("GET", None) => Answer::status(404, "not found"),
            ("POST", Some(_)) => Answer::status(409, "already exists"),
            ("PUT", Some(held)) if version(&held) != version(&call.body) => Answer::status(409, "conflict"),
            ("POST", None) | ("PUT", Some(_)) => Answer::json(self.put(call.body.clone())),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Holds this Secret from now on.
    pub(crate) fn put(&self, mut secret: Value) -> Value {
        let mut inner = self.inner.lock().unwrap();
        inner.version += 1;
        secret["metadata"]["resourceVersion"] = serde_json::json!(inner.version.to_string());
        inner.watches.retain(|watch| watch.send(event("MODIFIED", &secret)).is_ok());
        inner.secret = Some(secret.clone());
        secret
    }

    /// Holds a Secret of this name with these entries from now on.
    pub(crate) fn put_entries(&self, name: &str, entries: Entries) {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let data = entries.into_iter().map(|(entry, bytes)| (entry, ByteString(bytes))).collect();
        self.put(serde_json::to_value(Secret { metadata, data: Some(data), ..Secret::default() }).unwrap());
    }

    /// Holds none from now on.
    pub(crate) fn delete(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.version += 1;
        let mut secret = inner.secret.take().unwrap();
        secret["metadata"]["resourceVersion"] = serde_json::json!(inner.version.to_string());
        inner.watches.retain(|watch| watch.send(event("DELETED", &secret)).is_ok());
    }

    /// The entries of the Secret; none: there is none.
    pub(crate) fn entries(&self) -> Option<Entries> {
        let held = self.inner.lock().unwrap().secret.clone()?;
        let secret: Secret = serde_json::from_value(held).unwrap();
        Some(secret.data.unwrap().into_iter().map(|(entry, bytes)| (entry, bytes.0)).collect())
    }

    fn content(&self) -> Content {
        Content::read(&self.entries().unwrap()).unwrap()
    }
}

async fn first(material: &mut watch::Receiver<Option<Arc<Material>>>) -> Arc<Material> {
    let wait = material.wait_for(Option::is_some);
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap().unwrap().clone().unwrap()
}

#[tokio::test]
async fn the_leader_makes_it_and_the_others_follow() {
    let store = Store::default();
    let (_keep, follows) = watch::channel(Role::Follower { leader: None });
    let mut follower = start(store.client(), "isthmus-system".into(), follows);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(follower.borrow().is_none(), "a follower makes nothing");
    let (_keep, leads) = watch::channel(Role::Leader);
    let mut leader = start(store.client(), "isthmus-system".into(), leads);
    assert_eq!(first(&mut leader).await, first(&mut follower).await);
    assert_eq!(*first(&mut leader).await, store.content().material());
}

#[tokio::test]
async fn two_leaders_for_a_moment_end_with_the_same() {
    let store = Store::default();
    let (_keep, leads) = watch::channel(Role::Leader);
    let mut leaders: Vec<_> = (0..4).map(|_| start(store.client(), "isthmus-system".into(), leads.clone())).collect();
    for leader in &mut leaders {
        let expected = store.clone();
        first(leader).await;
        let same = leader.wait_for(|material| material.as_deref() == Some(&expected.content().material()));
        tokio::time::timeout(Duration::from_secs(10), same).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_malformed_secret_is_replaced() {
    let store = Store::default();
    let data = BTreeMap::from([("tls.crt".to_owned(), ByteString(b"words".to_vec()))]);
    let labels = Some(BTreeMap::from([("team".to_owned(), "edge".to_owned())]));
    let metadata = ObjectMeta { name: Some(SECRET.into()), labels, ..ObjectMeta::default() };
    store.put(serde_json::to_value(Secret { metadata, data: Some(data), ..Secret::default() }).unwrap());
    let (_keep, leads) = watch::channel(Role::Leader);
    let mut leader = start(store.client(), "isthmus-system".into(), leads);
    first(&mut leader).await;
    store.content();
    let held = store.inner.lock().unwrap().secret.clone().unwrap();
    assert_eq!(held.pointer("/metadata/labels/team"), Some(&serde_json::json!("edge")), "what others added stays");
}

/// Sidecars have the CA of before, and get no other.
#[tokio::test]
async fn what_is_deleted_or_spoilt_holds_again_what_it_held() {
    let store = Store::default();
    let (_keep, leads) = watch::channel(Role::Leader);
    let mut leader = start(store.client(), "isthmus-system".into(), leads);
    let material = first(&mut leader).await;
    let expected = store.entries().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for spoil in [None, Some(b"words".to_vec())] {
        match spoil {
            None => store.delete(),
            Some(words) => store.put_entries(SECRET, [("tls.crt".to_owned(), words)].into()),
        }
        let back = async {
            while store.entries().as_ref() != Some(&expected) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), back).await.expect("it is put back");
    }
    assert_eq!(first(&mut leader).await, material);
}
