mod pods;

use std::sync::{Arc, Mutex};

use isthmus_api::{Objects, decode};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::*;
use crate::testing::{Answer, Call, Server, event, failure};

/// An API server whose lists are set by path, and whose watches are handed to the test.
#[derive(Clone)]
struct Cluster {
    server: Server,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    lists: BTreeMap<String, (u64, Vec<Value>)>,
    /// Answered once, before anything else.
    next: BTreeMap<String, Vec<Answer>>,
    watches: BTreeMap<String, Vec<UnboundedSender<Value>>>,
}

use std::collections::BTreeMap;

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
const SECRETS: &str = "/api/v1/secrets";

impl Cluster {
    fn new() -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let server = Server::new({
            let script = Arc::clone(&script);
            move |call: &Call| {
                let mut script = script.lock().unwrap();
                let once = script.next.get_mut(&call.path).filter(|next| !next.is_empty()).map(|next| next.remove(0));
                if let Some(answer) = once {
                    return answer;
                }
                if call.is_watch() {
                    let (sender, answer) = Answer::watch();
                    script.watches.entry(call.path.clone()).or_default().push(sender);
                    return answer;
                }
                let (version, items) = script.lists.get(&call.path).cloned().unwrap_or((1, Vec::new()));
                Answer::list(version, &items)
            }
        });
        Self { server, script }
    }

    fn list(&self, path: &str, version: u64, items: &[Value]) {
        self.script.lock().unwrap().lists.insert(path.to_owned(), (version, items.to_vec()));
    }

    fn once(&self, path: &str, answer: Answer) {
        self.script.lock().unwrap().next.entry(path.to_owned()).or_default().push(answer);
    }

    /// Sends an event on the newest watch of a path.
    async fn event(&self, path: &str, r#type: &str, object: &Value) {
        self.watch(path).await.send(event(r#type, object)).unwrap();
    }

    async fn watch(&self, path: &str) -> UnboundedSender<Value> {
        loop {
            if let Some(sender) = self.script.lock().unwrap().watches.get(path).and_then(|list| list.last().cloned())
                && !sender.is_closed()
            {
                return sender;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends all watches of a path.
    fn close(&self, path: &str) {
        self.script.lock().unwrap().watches.remove(path);
    }
}

struct Bed {
    watch: Watch,
    objects: Objects,
    seen: Arc<Seen>,
    bundle: tokio::sync::watch::Sender<Arc<Bundle>>,
    ready: bool,
}

fn bundle(kinds: &[Kind]) -> Arc<Bundle> {
    let versions = kinds.iter().map(|kind| (*kind, "v1")).collect();
    Arc::new(Bundle { versions, ..Bundle::default() })
}

impl Bed {
    fn start(cluster: &Cluster, options: &Options) -> Self {
        let seen = Arc::new(Seen::default());
        let (bundle, receiver) = tokio::sync::watch::channel(bundle(&[Kind::HttpRoute]));
        let watch = start(&cluster.server.client(), options, &receiver, &seen);
        Self { watch, objects: Objects::default(), seen, bundle, ready: false }
    }

    /// Applies updates until nothing comes for two minutes; returns what came.
    async fn settle(&mut self) -> Vec<String> {
        self.settle_for(Duration::from_mins(2)).await
    }

    async fn settle_for(&mut self, quiet: Duration) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(Some(update)) = tokio::time::timeout(quiet, self.watch.updates.recv()).await {
            match update {
                Update::Changes(changes) => {
                    for change in changes {
                        let sign = match change {
                            Change::Applied(_) => "+",
                            Change::Unreadable(..) => "?",
                            Change::Removed(_) => "-",
                        };
                        told.push(format!("{sign}{}", change.object_ref()));
                        self.watch.wanted.apply(change, &mut self.objects);
                    }
                }
                Update::Ready => {
                    assert!(!std::mem::replace(&mut self.ready, true), "ready is said once");
                    told.push("ready".to_owned());
                }
            }
        }
        told
    }

    fn routes(&self) -> Vec<String> {
        let text = |route: &Arc<isthmus_api::HttpRoute>| {
            format!("{}@{}", route.metadata.name.clone().unwrap(), route.metadata.resource_version.clone().unwrap())
        };
        self.objects.http_routes.values().map(text).collect()
    }
}

fn options() -> Options {
    Options::new("isthmus-system")
}

fn route(name: &str, version: u64) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version.to_string(),
            "managedFields": [{"manager": "kubectl"}]},
        "spec": {},
    })
}

fn secret(name: &str, version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "shop",
        "resourceVersion": version.to_string()}, "data": {"tls.crt": "AA=="}})
}

fn secret_ref(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::Secret, namespace: Some("shop".to_owned()), name: name.to_owned() }
}

fn secret_path(name: &str) -> String {
    format!("/api/v1/namespaces/shop/secrets/{name}")
}

#[tokio::test(start_paused = true)]
async fn lists_are_applied_then_events() {
    let cluster = Cluster::new();
    cluster.list(ROUTES, 10, &[route("a", 5), route("b", 8)]);
    let mut bed = Bed::start(&cluster, &options());
    assert_eq!(bed.settle().await.pop().as_deref(), Some("ready"));
    assert_eq!(bed.routes(), ["a@5", "b@8"]);
    assert_eq!(bed.objects.http_routes.values().next().unwrap().metadata.managed_fields, None);
    for (r#type, object, expected) in [
        ("MODIFIED", route("a", 11), vec!["a@11", "b@8"]),
        ("ADDED", route("c", 12), vec!["a@11", "b@8", "c@12"]),
        ("ADDED", route("c", 12), vec!["a@11", "b@8", "c@12"]),
        ("MODIFIED", route("a", 6), vec!["a@11", "b@8", "c@12"]),
        ("DELETED", route("b", 13), vec!["a@11", "c@12"]),
        ("MODIFIED", route("b", 9), vec!["a@11", "c@12"]),
        ("ADDED", route("b", 14), vec!["a@11", "b@14", "c@12"]),
    ] {
        cluster.event(ROUTES, r#type, &object).await;
        bed.settle_for(Duration::from_secs(1)).await;
        assert_eq!(bed.routes(), expected, "{type} {object}");
    }
    let bookmark = json!({"apiVersion": "v1", "kind": "HTTPRoute", "metadata": {"resourceVersion": "99"}});
    cluster.event(ROUTES, "BOOKMARK", &bookmark).await;
    bed.settle_for(Duration::from_millis(1)).await;
    cluster.close(ROUTES);
    bed.settle_for(Duration::from_secs(1)).await;
    let last = cluster.server.calls().into_iter().rfind(|call| call.path == ROUTES).unwrap();
    assert_eq!((last.is_watch(), last.query["resourceVersion"].as_str()), (true, "99"), "it goes on where it was");
    assert_eq!(last.query["allowWatchBookmarks"], "true");
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages_and_count_when_they_are_whole() {
    let cluster = Cluster::new();
    let page = |token: &str, items: &[Value]| {
        Answer::json(json!({"metadata": {"resourceVersion": "10", "continue": token}, "items": items}))
    };
    cluster.once(ROUTES, page("more", &[route("never", 1)]));
    cluster.once(ROUTES, Answer::status(410, "The provided continue parameter is too old"));
    cluster.once(ROUTES, page("next", &[route("a", 5)]));
    cluster.once(ROUTES, Answer::Broken);
    cluster.once(ROUTES, Answer::status(500, "etcd"));
    cluster.once(ROUTES, page("", &[route("b", 6)]));
    let mut bed = Bed::start(&cluster, &options());
    bed.settle_for(Duration::from_secs(30)).await;
    assert_eq!(bed.routes(), ["a@5", "b@6"]);
    let calls = cluster.server.calls();
    let tokens: Vec<_> =
        calls.iter().filter(|call| call.path == ROUTES && !call.is_watch()).map(|call| call.query.get("continue")).collect();
    let tokens: Vec<_> = tokens.into_iter().map(|token| token.map(String::as_str).unwrap_or_default()).collect();
    assert_eq!(tokens, ["", "more", "", "next", "next", "next"]);
    assert!(calls.iter().filter(|call| call.path == ROUTES && !call.is_watch()).all(|call| call.query["limit"] == "500"));
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_the_end_state_is_right() {
    for fault in ["closed", "410 event", "410 answer", "500", "reset", "silence", "garbage"] {
        let cluster = Cluster::new();
        cluster.list(ROUTES, 10, &[route("a", 5), route("b", 8)]);
        let mut bed = Bed::start(&cluster, &options());
        bed.settle_for(Duration::from_secs(5)).await;
        let truth = [route("a", 12), route("c", 14)];
        cluster.list(ROUTES, 15, &truth);
        match fault {
            "closed" => {
                cluster.event(ROUTES, "DELETED", &route("b", 13)).await;
                cluster.event(ROUTES, "MODIFIED", &route("a", 12)).await;
                bed.settle_for(Duration::from_millis(10)).await;
                cluster.close(ROUTES);
                cluster.event(ROUTES, "ADDED", &route("c", 14)).await;
            }
            "410 event" => cluster.watch(ROUTES).await.send(event("ERROR", &failure(410, "too old"))).unwrap(),
            "410 answer" => {
                cluster.once(ROUTES, Answer::status(410, "too old"));
                cluster.close(ROUTES);
            }
            "500" => {
                (0..3).for_each(|_| cluster.once(ROUTES, Answer::status(500, "etcd")));
                cluster.once(ROUTES, Answer::status(410, "too old"));
                cluster.once(ROUTES, Answer::status(429, "later"));
                cluster.close(ROUTES);
            }
            "reset" => {
                (0..7).for_each(|_| cluster.once(ROUTES, Answer::Broken));
                cluster.close(ROUTES);
            }
            // No bookmark and no event: a dead connection is given up, and all is listed again in time.
            "silence" => {}
            _ => cluster.watch(ROUTES).await.send(json!({"type": "NONSENSE"})).unwrap(),
        }
        bed.settle_for(Duration::from_mins(15)).await;
        assert_eq!(bed.routes(), ["a@12", "c@14"], "{fault}");
        assert!(bed.watch.health.borrow().faults.is_empty(), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_list_brings_nothing_back() {
    let cluster = Cluster::new();
    cluster.list(ROUTES, 10, &[route("a", 5), route("b", 8)]);
    let mut bed = Bed::start(&cluster, &options());
    bed.settle_for(Duration::from_secs(5)).await;
    for (r#type, object) in [("MODIFIED", route("a", 12)), ("DELETED", route("b", 13)), ("ADDED", route("c", 14))] {
        cluster.event(ROUTES, r#type, &object).await;
    }
    bed.settle_for(Duration::from_secs(5)).await;
    // An API server that is at 9, where `a` was older, `b` was there and `c` was not; then it catches up.
    cluster.list(ROUTES, 9, &[route("a", 5), route("b", 8)]);
    cluster.watch(ROUTES).await.send(event("ERROR", &failure(410, "too old"))).unwrap();
    assert_eq!(bed.settle_for(Duration::from_secs(1)).await, Vec::<String>::new());
    assert_eq!(bed.routes(), ["a@12", "c@14"]);
    for (r#type, object) in
        [("MODIFIED", route("a", 12)), ("DELETED", route("b", 13)), ("ADDED", route("c", 14)), ("ADDED", route("d", 15))]
    {
        cluster.event(ROUTES, r#type, &object).await;
    }
    assert_eq!(bed.settle_for(Duration::from_secs(60)).await, ["+HTTPRoute/shop/d"]);
    assert_eq!(bed.routes(), ["a@12", "c@14", "d@15"]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_was_restored_from_a_backup_is_believed_after_a_while() {
    let cluster = Cluster::new();
    cluster.list(ROUTES, 100, &[route("a", 50), route("b", 80)]);
    let mut bed = Bed::start(&cluster, &options());
    bed.settle_for(Duration::from_secs(5)).await;
    cluster.list(ROUTES, 40, &[route("a", 30), route("old", 20)]);
    cluster.once(ROUTES, Answer::status(504, "Too large resource version: 100, current: 40"));
    cluster.close(ROUTES);
    bed.settle_for(Duration::from_secs(20)).await;
    assert_eq!(bed.routes(), ["a@50", "b@80"], "it may only lag");
    bed.settle_for(Duration::from_secs(60)).await;
    assert_eq!(bed.routes(), ["a@30", "old@20"]);
    cluster.event(ROUTES, "MODIFIED", &route("a", 41)).await;
    bed.settle_for(Duration::from_secs(60)).await;
    assert_eq!(bed.routes(), ["a@41", "old@20"]);
}

#[tokio::test(start_paused = true)]
async fn objects_that_do_not_decode_take_the_place_of_what_was_known() {
    let cluster = Cluster::new();
    let broken = |name: &str, version: u64| {
        let mut route = route(name, version);
        route["spec"] = json!({"parentRefs": [{"name": "edge"}], "rules": [{"filters": [{"type": "Teleport"}]}]});
        route
    };
    let unreadable = |bed: &Bed| bed.objects.unreadable.keys().map(|object| object.name.clone()).collect::<Vec<_>>();
    cluster.list(ROUTES, 10, &[route("a", 5), broken("b", 6), route("c", 7)]);
    let mut bed = Bed::start(&cluster, &options());
    bed.settle_for(Duration::from_secs(5)).await;
    assert_eq!(
        (bed.routes(), unreadable(&bed)),
        (vec!["a@5".to_owned(), "b@6".to_owned(), "c@7".to_owned()], vec!["b".to_owned()])
    );
    cluster.event(ROUTES, "MODIFIED", &broken("a", 11)).await;
    cluster.event(ROUTES, "MODIFIED", &route("c", 12)).await;
    let mut told = bed.settle_for(Duration::from_secs(5)).await;
    told.sort();
    assert_eq!(told, ["+HTTPRoute/shop/c", "?HTTPRoute/shop/a"], "the others go on");
    assert_eq!(unreadable(&bed), ["a", "b"]);
    let why = bed.objects.unreadable.values().next().unwrap();
    assert_eq!(why.field, "spec.rules[0].filters[0].type");
    assert!(why.message.contains("Teleport"), "{why}");
    let spec = bed.objects.http_routes.values().next().unwrap().spec.clone();
    assert_eq!((spec.parent_refs.unwrap().len(), spec.rules), (1, None));
    cluster.list(ROUTES, 13, &[broken("a", 11), route("c", 12)]);
    cluster.watch(ROUTES).await.send(event("ERROR", &failure(410, "too old"))).unwrap();
    bed.settle_for(Duration::from_secs(5)).await;
    assert_eq!((bed.routes(), unreadable(&bed)), (vec!["a@11".to_owned(), "c@12".to_owned()], vec!["a".to_owned()]));
    cluster.event(ROUTES, "MODIFIED", &route("a", 14)).await;
    cluster.event(ROUTES, "DELETED", &route("c", 15)).await;
    bed.settle_for(Duration::from_secs(5)).await;
    assert_eq!((bed.routes(), unreadable(&bed)), (vec!["a@14".to_owned()], Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn kinds_without_a_crd_start_when_they_have_one() {
    let cluster = Cluster::new();
    let mut bed = Bed::start(&cluster, &options());
    assert_eq!(bed.settle().await, ["ready"], "a kind that is absent is not waited for");
    let grpc = "/apis/gateway.networking.k8s.io/v1/grpcroutes";
    assert_eq!(cluster.server.count(|call| call.path == grpc), 0);
    let mut object = route("g", 20);
    object["kind"] = "GRPCRoute".into();
    cluster.list(grpc, 21, &[object]);
    bed.bundle.send_replace(bundle(&[Kind::HttpRoute, Kind::GrpcRoute]));
    assert_eq!(bed.settle().await, ["+GRPCRoute/shop/g"]);
    bed.bundle.send_replace(bundle(&[Kind::HttpRoute]));
    assert_eq!(bed.settle().await, ["-GRPCRoute/shop/g"]);
    // The CRDs may not be readable, so that a kind is assumed which is not there.
    cluster.server.set(grpc, Answer::status(404, "page not found"));
    bed.bundle.send_replace(bundle(&[Kind::HttpRoute, Kind::GrpcRoute]));
    bed.settle_for(Duration::from_secs(60)).await;
    let asked = cluster.server.count(|call| call.path == grpc && !call.is_watch());
    assert!((5..=9).contains(&asked), "each ten seconds: {asked}");
}

#[tokio::test(start_paused = true)]
async fn a_kind_is_gone_only_if_it_stays_away() {
    let cluster = Cluster::new();
    cluster.list(ROUTES, 10, &[route("a", 5)]);
    let mut bed = Bed::start(&cluster, &options());
    bed.settle().await;
    let missing = || cluster.server.set(ROUTES, Answer::status(404, "page not found"));
    missing();
    cluster.watch(ROUTES).await.send(event("ERROR", &failure(410, "too old"))).unwrap();
    bed.settle_for(Duration::from_secs(10)).await;
    assert_eq!(bed.routes(), ["a@5"], "an API server that starts");
    cluster.list(ROUTES, 11, &[route("a", 5)]);
    cluster.server.unset(ROUTES);
    bed.settle_for(Duration::from_secs(25)).await;
    assert_eq!(bed.routes(), ["a@5"]);
    missing();
    cluster.watch(ROUTES).await.send(event("ERROR", &failure(410, "too old"))).unwrap();
    bed.settle_for(Duration::from_secs(60)).await;
    assert_eq!(bed.routes(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_told_and_holds_back_readiness() {
    let cluster = Cluster::new();
    cluster.server.set("/api/v1/services", Answer::status(403, "services is forbidden"));
    let mut bed = Bed::start(&cluster, &options());
    assert!(!bed.settle_for(Duration::from_secs(30)).await.contains(&"ready".to_owned()));
    let health = bed.watch.health.borrow().clone();
    assert_eq!(health.waiting, BTreeSet::from([Kind::Service]));
    let fault = "forbidden: the controller's ClusterRole lacks the verb list and watch for `services`; the API server says: services is forbidden";
    assert_eq!(health.faults, BTreeMap::from([("Service".to_owned(), fault.to_owned())]));
    assert_eq!((health.failing(Kind::Service), health.failing(Kind::HttpRoute)), (1, 0));
    let asked = cluster.server.count(|call| call.path == "/api/v1/services");
    assert!(asked < 15, "{asked}");
    cluster.server.unset("/api/v1/services");
    assert_eq!(bed.settle_for(Duration::from_secs(30)).await, ["ready"]);
    assert_eq!(*bed.watch.health.borrow().clone(), Health::default());
}

#[tokio::test(start_paused = true)]
async fn secrets_are_read_only_where_something_refers_to_them() {
    let cluster = Cluster::new();
    cluster.list(SECRETS, 10, &[secret("used", 3), secret("private", 4)]);
    cluster.server.set(&secret_path("used"), Answer::json(secret("used", 3)));
    cluster.server.set(&secret_path("absent"), Answer::status(404, "not found"));
    let mut bed = Bed::start(&cluster, &options());
    assert_eq!(bed.settle().await, ["ready"]);
    bed.watch.wanted.want(BTreeSet::from([secret_ref("used"), secret_ref("absent")]), &mut bed.objects);
    assert!(!bed.watch.wanted.is_settled());
    let mut told = bed.settle().await;
    told.sort();
    assert_eq!(told, ["+Secret/shop/used", "-Secret/shop/absent"]);
    assert!(bed.watch.wanted.is_settled());
    // Another one changes: nothing is asked.
    cluster.event(SECRETS, "MODIFIED", &secret("private", 11)).await;
    assert_eq!(bed.settle().await, Vec::<String>::new());
    // The wanted one changes, is deleted and made again.
    cluster.server.set(&secret_path("used"), Answer::json(secret("used", 12)));
    cluster.event(SECRETS, "MODIFIED", &secret("used", 12)).await;
    assert_eq!(bed.settle().await, ["+Secret/shop/used"]);
    cluster.event(SECRETS, "MODIFIED", &secret("used", 12)).await;
    assert_eq!(bed.settle().await, Vec::<String>::new());
    cluster.server.set(&secret_path("used"), Answer::status(404, "not found"));
    cluster.event(SECRETS, "DELETED", &secret("used", 13)).await;
    assert_eq!(bed.settle().await, ["-Secret/shop/used"]);
    assert!(bed.objects.secrets.is_empty());
    // An event is lost; the next list tells.
    cluster.server.set(&secret_path("absent"), Answer::json(secret("absent", 14)));
    cluster.list(SECRETS, 15, &[secret("private", 11), secret("absent", 14)]);
    cluster.watch(SECRETS).await.send(event("ERROR", &failure(410, "too old"))).unwrap();
    assert_eq!(bed.settle().await, ["+Secret/shop/absent"]);
    // Wanted no longer.
    bed.watch.wanted.want(BTreeSet::from([secret_ref("used")]), &mut bed.objects);
    cluster.event(SECRETS, "MODIFIED", &secret("absent", 16)).await;
    assert_eq!(bed.settle().await, Vec::<String>::new());
    assert!(bed.objects.secrets.is_empty());
    let calls = cluster.server.calls();
    let of_secrets: Vec<_> = calls.iter().filter(|call| call.path.contains("secrets")).collect();
    assert!(!of_secrets.is_empty());
    for call in of_secrets {
        let is_wanted = call.path == secret_path("used") || call.path == secret_path("absent");
        assert!(call.metadata_only || is_wanted, "the data of an unreferenced Secret was asked for: {call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_read_stays_as_it_was() {
    let cluster = Cluster::new();
    cluster.server.set(&secret_path("used"), Answer::status(500, "etcd"));
    cluster.server.set(&secret_path("other"), Answer::json(secret("other", 1)));
    let mut bed = Bed::start(&cluster, &options());
    bed.watch.wanted.want(BTreeSet::from([secret_ref("used"), secret_ref("other")]), &mut bed.objects);
    let mut told = bed.settle_for(Duration::from_secs(30)).await;
    told.sort();
    assert_eq!(told, ["+Secret/shop/other", "ready"]);
    assert!(!bed.watch.wanted.is_settled());
    assert!(bed.watch.health.borrow().faults.values().any(|fault| fault.contains("500: etcd")));
    cluster.server.set(&secret_path("used"), Answer::json(secret("used", 7)));
    assert_eq!(bed.settle_for(Duration::from_secs(30)).await, ["+Secret/shop/used"]);
    assert!(bed.watch.wanted.is_settled());
    cluster.server.set(&secret_path("used"), Answer::Broken);
    cluster.event(SECRETS, "MODIFIED", &secret("used", 8)).await;
    assert_eq!(bed.settle_for(Duration::from_secs(30)).await, Vec::<String>::new());
    assert_eq!(bed.objects.secrets.len(), 2);
    cluster.server.set(&secret_path("used"), Answer::json(secret("used", 8)));
    assert_eq!(bed.settle_for(Duration::from_secs(30)).await, ["+Secret/shop/used"]);
    assert!(bed.watch.health.borrow().faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn with_namespaces_nothing_else_is_asked_for() {
    let cluster = Cluster::new();
    cluster.list("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes", 10, &[route("a", 5)]);
    let namespaces = ["shop", "bank"].map(str::to_owned);
    let options = Options { namespaces: BTreeSet::from(namespaces), ..options() };
    let mut bed = Bed::start(&cluster, &options);
    bed.bundle.send_replace(bundle(&[Kind::HttpRoute, Kind::GatewayClass, Kind::GatewayParameters]));
    bed.settle().await;
    assert!(bed.ready);
    assert_eq!(bed.routes(), ["a@5"]);
    bed.watch
        .wanted
        .want(BTreeSet::from([ObjectRef { namespace: Some("kube-system".to_owned()), ..secret_ref("x") }]), &mut bed.objects);
    assert_eq!(bed.settle().await, ["-Secret/kube-system/x"], "what is out of reach is not there");
    for call in cluster.server.calls() {
        let by_name =
            call.query.get("fieldSelector").is_some_and(|by| by == "metadata.name%3Dshop" || by == "metadata.name%3Dbank");
        let allowed = call.path.contains("/namespaces/shop/")
            || call.path.contains("/namespaces/bank/")
            || call.path.ends_with("/namespaces/isthmus-system/gatewayparameters")
            || call.path.ends_with("/gatewayclasses")
            || (call.path == "/api/v1/namespaces" && by_name);
        assert!(allowed, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn statuses_are_seen_and_taken_off_routes() {
    let cluster = Cluster::new();
    let mut with_status = route("a", 5);
    with_status["status"] = json!({"parents": [], "new in v1.9": 1});
    cluster.list(ROUTES, 10, &[with_status.clone()]);
    let mut bed = Bed::start(&cluster, &options());
    bed.settle_for(Duration::from_secs(5)).await;
    let reference = decode(with_status.clone()).unwrap().object_ref();
    assert!(bed.objects.http_routes.values().all(|route| route.status.is_none()));
    assert!(bed.seen.has_seen(&reference, "new in v1.9"));
    cluster.event(ROUTES, "DELETED", &route("a", 11)).await;
    bed.settle_for(Duration::from_secs(5)).await;
    assert!(!bed.seen.has_seen(&reference, ""));
}
