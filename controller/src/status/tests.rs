use isthmus_api::{Kind, NamespacedName, decode};

use super::*;
use crate::testing::{Answer, Call, Server};

const NAME: &str = isthmus_translate::CONTROLLER_NAME;

/// An API server with routes, that takes patches of their statuses as the real one does.
#[derive(Clone, Default)]
struct Store {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    routes: BTreeMap<String, Value>,
    /// Answers to the next patches; after them all is well.
    next: Vec<Answer>,
    /// A field of the status that this server does not know.
    drops: Option<&'static str>,
    /// Somebody else takes the next status away, and the watch that fills this tells it before the writer has its answer.
    undoes: Option<Arc<Seen>>,
}

impl Store {
    fn server(&self) -> Server {
        let store = self.clone();
        Server::new(move |call: &Call| store.answer(call))
    }

    fn answer(&self, call: &Call) -> Answer {
        let mut inner = self.inner.lock().unwrap();
        let path = call.path.trim_end_matches("/status");
        let name = path.rsplit('/').next().unwrap().to_owned();
        if call.method == "PATCH" && !inner.next.is_empty() {
            return inner.next.remove(0);
        }
        let version = inner.version + 1;
        let drops = inner.drops;
        let Some(route) = inner.routes.get_mut(&name) else { return Answer::status(404, "not found") };
        if call.method == "PATCH" {
            assert!(call.path.ends_with("/status"), "{call:?}");
            let expected = call.body.pointer("/metadata/resourceVersion").expect("an optimistic lock");
            if *expected != route["metadata"]["resourceVersion"] {
                return Answer::status(409, "the object has been modified");
            }
            for (field, value) in call.body["status"].as_object().unwrap() {
                if drops == Some(field) {
                    continue;
                }
                route["status"][field] = value.clone();
            }
            route["metadata"]["resourceVersion"] = version.to_string().into();
            let answer = route.clone();
            let mut undone = answer.clone();
            undone["status"]["parents"] = json!([entry("example.com/other", "True", 1)]);
            undone["metadata"]["resourceVersion"] = (version + 1).to_string().into();
            inner.version = version;
            if let Some(seen) = inner.undoes.take() {
                inner.routes.insert(name, undone.clone());
                inner.version += 1;
                seen.observe(&decode(undone.clone()).unwrap().object_ref(), &undone, &undone["status"], false);
            }
            return Answer::json(answer);
        }
        Answer::json(route.clone())
    }

    /// Makes or changes a route.
    fn put(&self, name: &str, uid: &str, generation: i64, parents: Value) -> Value {
        let mut inner = self.inner.lock().unwrap();
        inner.version += 1;
        let mut route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": "shop", "uid": uid, "generation": generation,
                "resourceVersion": inner.version.to_string()},
            "spec": {},
        });
        if parents.is_array() {
            route["status"]["parents"] = parents;
        }
        inner.routes.insert(name.to_owned(), route.clone());
        route
    }

    /// `controller condition=status@generation` for each parent.
    fn parents(&self, name: &str) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        let entries = inner.routes[name].pointer("/status/parents").and_then(Value::as_array).cloned().unwrap_or_default();
        let condition = |entry: &Value| {
            let of = &entry["conditions"][0];
            format!("{}={}@{}", of["type"].as_str().unwrap(), of["status"].as_str().unwrap(), of["observedGeneration"])
        };
        entries.iter().map(|entry| format!("{} {}", entry["controllerName"].as_str().unwrap(), condition(entry))).collect()
    }

    fn next(&self, answer: Answer) {
        self.inner.lock().unwrap().next.push(answer);
    }
}

fn entry(controller: &str, status: &str, generation: i64) -> Value {
    json!({
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
        "controllerName": controller,
        "conditions": [{"type": "Accepted", "status": status, "reason": "R", "message": "", "observedGeneration": generation,
            "lastTransitionTime": "2026-11-01T00:00:00Z"}],
    })
}

struct Bed {
    server: Server,
    seen: Arc<Seen>,
    writer: Writer,
    role: watch::Sender<Role>,
    objects: Objects,
    statuses: Statuses,
    _bundle: watch::Sender<Arc<Bundle>>,
}

impl Bed {
    fn start(store: &Store) -> Self {
        let versions = BTreeMap::from([(Kind::HttpRoute, "v1")]);
        let (bundle, bundle_receiver) = watch::channel(Arc::new(Bundle { versions, ..Bundle::default() }));
        let (role, role_receiver) = watch::channel(Role::Leader);
        let (server, seen) = (store.server(), Arc::new(Seen::default()));
        let writer = Writer::start(server.client(), Options::default(), bundle_receiver, role_receiver, Arc::clone(&seen));
        let (objects, statuses) = (Objects::default(), Statuses::default());
        Self { server, seen, writer, role, objects, statuses, _bundle: bundle }
    }

    /// The watch sees a route.
    fn see(&mut self, route: &Value) {
        let object = decode(route.clone()).unwrap();
        self.seen.observe(&object.object_ref(), route, route.get("status").unwrap_or(&Value::Null), false);
        self.objects.apply(object);
    }

    fn want(&mut self, name: &str, status: &str, generation: i64) {
        let status = serde_json::from_value(json!({"parents": [entry(NAME, status, generation)]})).unwrap();
        self.statuses.http_routes.insert(NamespacedName::new("shop", name), status);
    }

    fn publish(&self) {
        self.writer.publish(self.statuses.clone(), &self.objects);
    }

    async fn idle(&self) {
        tokio::time::timeout(Duration::from_mins(5), self.writer.idle()).await.expect("idle");
    }

    fn patches(&self) -> usize {
        self.server.count(|call| call.method == "PATCH")
    }
}

fn ours(status: &str, generation: i64) -> String {
    format!("{NAME} Accepted={status}@{generation}")
}

#[tokio::test(start_paused = true)]
async fn what_differs_is_written_at_once_and_once() {
    let store = Store::default();
    let mut bed = Bed::start(&store);
    let route = store.put("r", "1", 1, json!([entry("example.com/other", "False", 1)]));
    bed.see(&route);
    bed.want("r", "True", 1);
    let started = Instant::now();
    bed.publish();
    bed.idle().await;
    assert_eq!(started.elapsed(), Duration::ZERO, "nothing waits while idle");
    assert_eq!(store.parents("r"), ["example.com/other Accepted=False@1".to_owned(), ours("True", 1)]);
    bed.publish();
    bed.idle().await;
    assert_eq!(bed.patches(), 1);
    // The watch brings our own write, and then somebody who tramples on it.
    let written = store.inner.lock().unwrap().routes["r"].clone();
    bed.see(&written);
    let trampled = store.put("r", "1", 1, json!([entry("example.com/other", "True", 1)]));
    bed.see(&trampled);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(store.parents("r"), ["example.com/other Accepted=True@1".to_owned(), ours("True", 1)]);
    assert_eq!(bed.patches(), 2);
    let call = bed.server.calls().pop().unwrap();
    assert_eq!(call.path, "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r/status");
    assert_eq!(call.query["fieldManager"], "isthmus-controller");
}

#[tokio::test(start_paused = true)]
async fn conflicts_keep_what_others_wrote_meanwhile() {
    let store = Store::default();
    let mut bed = Bed::start(&store);
    let route = store.put("r", "1", 1, Value::Null);
    bed.see(&route);
    // Somebody writes, and the watch has not told us.
    store.put("r", "1", 1, json!([entry("example.com/other", "True", 1)]));
    bed.want("r", "True", 1);
    bed.publish();
    bed.idle().await;
    assert_eq!(store.parents("r"), ["example.com/other Accepted=True@1".to_owned(), ours("True", 1)]);
    // The same, but the spec has changed and a newer one of us has judged it: nothing goes back.
    store.put("r", "1", 3, json!([entry(NAME, "True", 3)]));
    bed.want("r", "False", 2);
    bed.publish();
    bed.idle().await;
    assert_eq!(store.parents("r"), [ours("True", 3)]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_repeated_and_refusals_are_not() {
    for (what, answers, patches, written) in [
        ("500", vec![Answer::status(500, "etcd"), Answer::status(503, "")], 3, true),
        ("429", vec![Answer::status(429, "slow down")], 2, true),
        ("reset", vec![Answer::Broken, Answer::Broken], 3, true),
        ("no answer", vec![Answer::Silence], 2, true),
        ("forbidden for a while", vec![Answer::status(403, "no")], 2, true),
        ("conflicts without end", (0..6).map(|_| Answer::status(409, "modified")).collect(), 7, true),
        ("refused", vec![Answer::status(422, "invalid")], 1, false),
        ("gone", vec![Answer::status(404, "not found")], 1, false),
    ] {
        let store = Store::default();
        let mut bed = Bed::start(&store);
        answers.into_iter().for_each(|answer| store.next(answer));
        let route = store.put("r", "1", 1, Value::Null);
        bed.see(&route);
        bed.want("r", "True", 1);
        bed.publish();
        bed.idle().await;
        assert_eq!((bed.patches(), !store.parents("r").is_empty()), (patches, written), "{what}");
        if !written {
            bed.publish();
            bed.idle().await;
            assert_eq!(bed.patches(), patches, "{what}: nothing changed, so nothing is tried");
            bed.want("r", "False", 1);
            bed.publish();
            bed.idle().await;
            assert_eq!(store.parents("r"), [ours("False", 1)], "{what}: another status is");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn routes_that_are_ours_no_longer_lose_our_entries_and_no_others() {
    let store = Store::default();
    let mut bed = Bed::start(&store);
    let foreign = || json!([entry("example.com/other", "True", 1)]);
    for (name, parents) in [
        ("left", json!([entry("example.com/other", "True", 1), entry(NAME, "True", 1)])),
        ("foreign", foreign()),
        ("empty", Value::Null),
    ] {
        let route = store.put(name, name, 1, parents);
        bed.see(&route);
    }
    // One that was not translated: nobody knows whose it is.
    let route = store.put("unknown", "4", 1, json!([entry(NAME, "True", 1)]));
    bed.seen.observe(&decode(route.clone()).unwrap().object_ref(), &route, &route["status"], false);
    bed.publish();
    bed.idle().await;
    assert_eq!(store.parents("left"), ["example.com/other Accepted=True@1"]);
    assert_eq!(store.parents("unknown"), [ours("True", 1)]);
    assert_eq!(bed.patches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_never_gets_onto_a_namesake() {
    let store = Store::default();
    let mut bed = Bed::start(&store);
    let route = store.put("r", "old", 1, Value::Null);
    bed.see(&route);
    bed.want("r", "True", 1);
    bed.publish();
    bed.idle().await;
    // Deleted and made again; the watch has seen it, translation has not.
    let route = store.put("r", "new", 1, Value::Null);
    bed.seen.observe(&decode(route.clone()).unwrap().object_ref(), &route, &Value::Null, false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(store.parents("r"), Vec::<String>::new());
    bed.see(&route);
    bed.publish();
    bed.idle().await;
    assert_eq!(store.parents("r"), [ours("True", 1)]);
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_writes_and_it_stops_at_once() {
    let store = Store::default();
    let mut bed = Bed::start(&store);
    bed.role.send_replace(Role::Follower { leader: None });
    let route = store.put("r", "1", 1, Value::Null);
    bed.see(&route);
    bed.want("r", "True", 1);
    bed.publish();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bed.patches(), 0);
    store.next(Answer::Silence);
    bed.role.send_replace(Role::Leader);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bed.patches(), 1, "what was published before is written");
    bed.role.send_replace(Role::Follower { leader: None });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((bed.patches(), store.parents("r").len()), (1, 0), "neither waited for nor repeated");
    bed.role.send_replace(Role::Leader);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.parents("r"), [ours("True", 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_newest_of_many_changes_is_written() {
    let store = Store::default();
    let mut bed = Bed::start(&store);
    let route = store.put("r", "1", 100, Value::Null);
    bed.see(&route);
    store.next(Answer::Silence);
    for generation in 1..=100 {
        bed.want("r", "True", generation);
        bed.publish();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bed.idle().await;
    assert_eq!(store.parents("r"), [ours("True", 100)]);
    assert_eq!(bed.patches(), 2);
}

#[tokio::test(start_paused = true)]
async fn flapping_makes_no_storm() {
    let store = Store::default();
    let mut bed = Bed::start(&store);
    let route = store.put("r", "1", 1, Value::Null);
    bed.see(&route);
    for step in 0..6000 {
        bed.want("r", if step % 2 == 0 { "True" } else { "False" }, 1);
        bed.publish();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bed.want("r", "True", 1);
    bed.publish();
    bed.idle().await;
    assert_eq!(store.parents("r"), [ours("True", 1)]);
    assert!((100..=322).contains(&bed.patches()), "a burst of 20, then 5 each second of 60: {}", bed.patches());
}

#[tokio::test(start_paused = true)]
async fn a_field_that_the_api_server_does_not_know_is_written_once() {
    let store = Store::default();
    store.inner.lock().unwrap().drops = Some("parents");
    let mut bed = Bed::start(&store);
    let route = store.put("r", "1", 1, Value::Null);
    bed.see(&route);
    bed.want("r", "True", 1);
    bed.publish();
    bed.idle().await;
    let written = store.inner.lock().unwrap().routes["r"].clone();
    bed.see(&written);
    bed.publish();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bed.patches(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_undone_before_the_answer_comes_is_written_again() {
    let store = Store::default();
    let mut bed = Bed::start(&store);
    bed.see(&store.put("a", "u", 1, Value::Null));
    store.inner.lock().unwrap().undoes = Some(Arc::clone(&bed.seen));
    bed.want("a", "True", 1);
    bed.publish();
    bed.idle().await;
    assert_eq!((bed.patches(), store.parents("a")), (2, vec!["example.com/other Accepted=True@1".to_owned(), ours("True", 1)]));
}

#[tokio::test(start_paused = true)]
async fn writes_at_a_time_are_bounded_and_all_come_through() {
    let store = Store::default();
    let mut bed = Bed::start(&store);
    for at in 0..200 {
        let name = format!("r{at}");
        let route = store.put(&name, &name, 1, Value::Null);
        bed.see(&route);
        bed.want(&name, "True", 1);
    }
    // Eight are never answered; they are given up after ten seconds, and no other is sent meanwhile.
    (0..8).for_each(|_| store.next(Answer::Silence));
    bed.publish();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(bed.patches(), 8);
    bed.idle().await;
    assert_eq!(bed.patches(), 208);
    assert!((0..200).all(|at| store.parents(&format!("r{at}")).len() == 1));
}
