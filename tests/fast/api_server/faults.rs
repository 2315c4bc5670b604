//! What the script does to calls.

use std::time::{Duration, Instant};

use isthmus_tests::api_server::{Action, Fault, Link, Refusal, Select, Verb};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::{PATIENCE, code, route, routes, with_routes};

fn label(value: &str) -> Patch<serde_json::Value> {
    Patch::Merge(json!({"metadata": {"labels": {"step": value}}}))
}

#[tokio::test]
async fn refusals_resets_and_delays() {
    let (server, client) = with_routes(2).await;
    let api = routes(&client);
    let step = |name: &str| server.get("HTTPRoute", &format!("shop/{name}")).unwrap()["metadata"]["labels"]["step"].clone();
    let writes = Select::writes().kind("HTTPRoute").name("shop/r000");

    let rule = server.fault(Fault::new(writes.clone(), Action::Refuse(Refusal::conflict())).every(2));
    let mut codes = Vec::new();
    for number in 0..4 {
        codes.push(api.patch("r000", &PatchParams::default(), &label(&number.to_string())).await.is_ok());
        assert!(api.patch("r001", &PatchParams::default(), &label(&number.to_string())).await.is_ok());
    }
    assert_eq!((codes, rule.hits(), rule.calls()), (vec![true, false, true, false], 2, 4));
    assert_eq!(step("r000"), "2");
    rule.lift();

    // The client itself tries again after 429 and 503.
    for (refusal, least) in [(Refusal::too_many(1), Duration::from_secs(1)), (Refusal::unavailable(), Duration::ZERO)] {
        let rule = server.fault(Fault::new(writes.clone(), Action::Refuse(refusal)).first(1));
        let start = Instant::now();
        assert!(api.patch("r000", &PatchParams::default(), &label("again")).await.is_ok());
        assert!(start.elapsed() >= least && rule.hits() == 1);
    }
    for refusal in [Refusal::internal(), Refusal::forbidden()] {
        server.fault(Fault::new(writes.clone(), Action::Refuse(refusal.clone())).first(1));
        assert_eq!(code(api.patch("r000", &PatchParams::default(), &label("no")).await).0, refusal.code);
    }

    server.forget_calls();
    for (action, had_effect) in [(Action::Reset, false), (Action::ResetAfter, true)] {
        let value = format!("{action:?}");
        server.fault(Fault::new(writes.clone(), action).first(1));
        assert!(api.patch("r000", &PatchParams::default(), &label(&value)).await.is_err());
        assert_eq!(step("r000") == value, had_effect);
    }
    assert_eq!(server.calls(&writes).iter().map(|call| call.code).collect::<Vec<_>>(), [None, None]);

    server.fault(Fault::new(writes.clone(), Action::Delay(Duration::from_millis(200))).first(1));
    let start = Instant::now();
    assert!(api.patch("r000", &PatchParams::default(), &label("late")).await.is_ok());
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn each_client_has_its_own_link() {
    let (server, one) = with_routes(1).await;
    let (one, two) = (routes(&one), routes(&server.client("b").await));
    server.set_link("a", Link::Cut).await;
    assert!(one.get("r000").await.is_err());
    assert!(two.get("r000").await.is_ok());
    server.set_link("a", Link::Hanging).await;
    let (answer, ()) = tokio::join!(one.get("r000"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(server.calls(&Select::any().client("a")).is_empty(), "nothing has come through");
        server.set_link("a", Link::Up).await;
    });
    assert!(answer.is_ok());

    for (action, had_effect) in [(Action::Crash, false), (Action::CrashAfter, true)] {
        let value = format!("{action:?}");
        server.fault(Fault::new(Select::writes().client("a"), action).first(1));
        assert!(one.patch("r000", &PatchParams::default(), &label(&value)).await.is_err());
        assert!(one.get("r000").await.is_err(), "nothing comes through after a crash");
        assert_eq!(server.link("a").await, Link::Cut);
        let step = two.get("r000").await.unwrap().metadata.labels.and_then(|labels| labels.get("step").cloned());
        assert_eq!(step.as_deref() == Some(&*value), had_effect);
        server.set_link("a", Link::Up).await;
    }
}

#[tokio::test]
async fn time_travel() {
    use futures_util::StreamExt as _;
    use kube::runtime::watcher::{self, Event};

    let (server, client) = with_routes(2).await;
    let past = server.version();
    server.delete("HTTPRoute", "shop/r000");
    server.apply(route("new", "/"));
    let api = routes(&client);
    let rule = server.fault(Fault::new(Select::any().client("a").verbs(&Verb::READS), Action::Stale(past)));
    let list = api.list(&ListParams::default()).await.unwrap();
    let names: Vec<_> = list.items.iter().filter_map(|item| item.metadata.name.as_deref()).collect();
    assert_eq!((names, list.metadata.resource_version), (vec!["r000", "r001"], Some(past.to_string())));
    assert!(api.get("r000").await.is_ok());
    // Writes go to the present.
    assert_eq!(code(api.patch("r000", &PatchParams::default(), &label("x")).await).0, 404);

    let events = watcher::watcher(api.clone(), watcher::Config::default());
    tokio::pin!(events);
    let mut seen = Vec::new();
    while !seen.contains(&"done".to_owned()) {
        seen.extend(match tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap() {
            Event::InitApply(object) => object.metadata.name,
            Event::InitDone => Some("done".to_owned()),
            _ => None,
        });
    }
    assert_eq!(seen, ["r000", "r001", "done"]);
    let silence = tokio::time::timeout(Duration::from_millis(150), events.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    rule.lift();
    for expected in ["-r000", "+new"] {
        let word = match tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap() {
            Event::Apply(object) => format!("+{}", object.metadata.name.unwrap()),
            Event::Delete(object) => format!("-{}", object.metadata.name.unwrap()),
            other => panic!("{other:?}"),
        };
        assert_eq!(word, expected);
    }
}
