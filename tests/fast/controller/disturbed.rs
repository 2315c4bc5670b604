//! Calls that go wrong, watches that end, lists from the past: the end is that of an undisturbed run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_routing::RouteKey;
use isthmus_tests::api_server::{Action, ApiServer, Bundle, Call, Ending, Fault, Link, Refusal, Select, Verb};
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

use super::stage::{Stage, is_reading};
use super::{PATIENCE, scenario};

/// How many controllers run at the same time.
const AT_ONCE: usize = 6;

/// A run in which nothing goes wrong.
pub(super) struct Undisturbed {
    /// The end.
    pub(super) state: Value,
    /// The writes that it took.
    pub(super) writes: Vec<Call>,
}

/// The run in which nothing goes wrong. Once for all tests.
pub(super) async fn undisturbed() -> &'static Undisturbed {
    static RUN: OnceCell<Undisturbed> = OnceCell::const_new();
    RUN.get_or_init(|| async {
        let stage = Stage::new(Bundle::V1_7).await;
        scenario::start(&stage.server);
        let controller = stage.controller("a", "one").await;
        stage.at_rest().await;
        scenario::edit(&stage.server).await;
        for (kind, name, expected) in [
            ("Gateway", "shop/edge", "Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs"),
            ("Gateway", "bank/vault", "Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs"),
            (
                "HTTPRoute",
                "shop/across",
                "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted isthmus.dev/Programmed=True/Programmed",
            ),
            (
                "HTTPRoute",
                "shop/broken",
                "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound isthmus.dev/Programmed=True/Programmed",
            ),
            (
                "HTTPRoute",
                "shop/late",
                "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs isthmus.dev/Programmed=True/Programmed",
            ),
        ] {
            let look = |_: &ApiServer| (stage.conditions(kind, name) == expected).then_some(());
            stage.server.wait_for(&format!("{kind} {name}: {expected}"), PATIENCE, look).await;
        }
        let state = stage.settled(Duration::from_millis(1200), PATIENCE).await;
        assert!(controller.is_running());
        assert!(stage.server.get("Deployment", "shop/isthmus-passing").is_none(), "it went with its Gateway");
        assert!(stage.server.get("Deployment", "bank/isthmus-theirs").is_none());
        Undisturbed { state, writes: stage.server.calls(&Select::any().client("a").verbs(&Verb::WRITES)) }
    })
    .await
}

/// A run with a disturbance, up to the same end.
async fn run(name: &'static str, disturbance: Disturbance) {
    let expected = &undisturbed().await.state;
    let stage = Stage::new(Bundle::V1_7).await;
    scenario::start(&stage.server);
    let disturbing = disturbance.begin(&stage);
    let controller = stage.controller("a", "one").await;
    is_reading(&stage.server, "a").await;
    scenario::edit(&stage.server).await;
    disturbing.end(&stage).await;
    stage.expect(name, expected, PATIENCE).await;
    assert!(controller.is_running(), "{name}");
    neighbours_were_left_alone(&stage, name);
}

/// Nobody edits the routes that are looked at here, so no proxy was ever told anything else of them.
pub(super) fn neighbours_were_left_alone(stage: &Stage, name: &str) {
    for (namespace, gateway, route) in [("shop", "edge", "neighbour"), ("bank", "vault", "teller")] {
        let history = stage.history(namespace, gateway);
        let is_it = |key: &&RouteKey| key.namespace == namespace && key.name == route;
        let items: Vec<_> = history.iter().map(|snapshot| snapshot.routes.iter().find(|(key, _)| is_it(key))).collect();
        assert!(!items.is_empty(), "{name}: {namespace}/{gateway} got nothing");
        let same = items.iter().all(|item| item.is_some() && *item == items[0]);
        assert!(same, "{name}: {namespace}/{route} was touched: {items:#?}");
        let backends: BTreeMap<_, _> =
            history.iter().flat_map(|snapshot| &snapshot.backends).filter(|(key, _)| key.name == route).collect();
        assert!(backends.values().all(|backend| backend.endpoints.len() == 1), "{name}: the endpoints of {route} were touched");
    }
}

/// What goes wrong.
enum Disturbance {
    /// By a rule, all the time.
    Rule(Fault),
    /// By a rule until the edits are over.
    UntilTheEnd(Fault),
    /// The watches are ended again and again.
    Endings(Ending),
    /// Reads come from the past until the edits are over.
    Past(&'static [Verb]),
    /// Nothing comes through for a while, which begins after this time.
    Link(Link, Duration),
}

/// A disturbance that goes on.
struct Disturbing {
    rule: Option<isthmus_tests::api_server::Rule>,
    task: JoinSet<()>,
}

impl Disturbance {
    fn begin(self, stage: &Stage) -> Disturbing {
        let server = Arc::clone(&stage.server);
        let mut task = JoinSet::new();
        let rule = match self {
            Self::Rule(fault) => {
                server.fault(fault);
                None
            }
            Self::UntilTheEnd(fault) => Some(server.fault(fault)),
            Self::Past(verbs) => {
                let calls = Select::any().client("a").verbs(verbs);
                Some(server.fault(Fault::new(calls, Action::Stale(server.version()))))
            }
            Self::Endings(ending) => {
                task.spawn(async move {
                    loop {
                        tokio::time::sleep(Duration::from_millis(70)).await;
                        server.end_watches(&Select::any(), ending);
                        if ending == Ending::Gone {
                            server.compact();
                        }
                    }
                });
                None
            }
            Self::Link(link, begin) => {
                task.spawn(async move {
                    tokio::time::sleep(begin).await;
                    server.set_link("a", link).await;
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                    server.set_link("a", Link::Up).await;
                });
                None
            }
        };
        Disturbing { rule, task }
    }
}

impl Disturbing {
    async fn end(mut self, stage: &Stage) {
        if let Some(rule) = self.rule {
            assert!(rule.hits() > 0, "it disturbed nothing");
            rule.lift();
        }
        if stage.server.link("a").await == Link::Up {
            self.task.abort_all();
        }
        while self.task.join_next().await.is_some() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_is_the_same() {
    let all = Select::any().client("a");
    let writes = Select::writes().client("a");
    let refused = |select: &Select, refusal: Refusal, n: u64| {
        Disturbance::Rule(Fault::new(select.clone(), Action::Refuse(refusal)).every(n))
    };
    let does = |select: &Select, action: Action, n: u64| Disturbance::Rule(Fault::new(select.clone(), action).every(n));
    let watches = all.clone().verbs(&[Verb::Watch]);
    let cases = [
        ("nothing", Disturbance::UntilTheEnd(Fault::new(all.clone(), Action::Delay(Duration::ZERO)))),
        ("409 to every third write", refused(&writes, Refusal::conflict(), 3)),
        ("429 to every 17th call", refused(&all, Refusal::too_many(1), 17)),
        ("500 to every fifth call", refused(&all, Refusal::internal(), 5)),
        ("503 to every fifth call", refused(&all, Refusal::unavailable(), 5)),
        ("a reset before every fifth call", does(&all, Action::Reset, 5)),
        ("a reset after every fifth call", does(&all, Action::ResetAfter, 5)),
        ("a reset after every second write", does(&writes, Action::ResetAfter, 2)),
        ("410 to every second watch", does(&watches, Action::GoneEvent, 2)),
        ("watches that close", Disturbance::Endings(Ending::Close)),
        ("watches that are reset", Disturbance::Endings(Ending::Reset)),
        ("watches that expire", Disturbance::Endings(Ending::Gone)),
        ("slow answers", Disturbance::UntilTheEnd(Fault::new(all.clone(), Action::Delay(Duration::from_millis(60))))),
        ("lists and watches from the past", Disturbance::Past(&[Verb::List, Verb::Watch])),
        ("all reads from the past", Disturbance::Past(&Verb::READS)),
        ("a link that hangs", Disturbance::Link(Link::Hanging, Duration::from_millis(500))),
        ("a link that is cut", Disturbance::Link(Link::Cut, Duration::from_millis(500))),
        ("no API server at the start", Disturbance::Link(Link::Cut, Duration::ZERO)),
        ("an API server that hangs at the start", Disturbance::Link(Link::Hanging, Duration::ZERO)),
    ];
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut runs = JoinSet::new();
    for (name, disturbance) in cases {
        let places = Arc::clone(&places);
        runs.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            run(name, disturbance).await;
        });
    }
    let mut failed = 0;
    while let Some(ended) = runs.join_next().await {
        // Each one that failed has said why.
        failed += usize::from(ended.is_err());
    }
    assert_eq!(failed, 0);
}
