//! Watches as the runtime of kube makes them.

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use isthmus_tests::api_server::{Action, ApiServer, Ending, Fault, Select, Verb};
use kube::api::{DynamicObject, WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher as watch_kind;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use serde_json::json;

use super::{PATIENCE, kind, route, routes, with_routes};

/// What a watcher says, one word each; it tries again as soon as it is asked.
fn words<K: Resource>(stream: impl Stream<Item = Result<Event<K>, watcher::Error>>) -> impl Stream<Item = String> {
    stream.map(|event| match event {
        Ok(Event::Init) => "init".to_owned(),
        Ok(Event::InitApply(object)) => format!("has {}", object.name_any()),
        Ok(Event::InitDone) => "done".to_owned(),
        Ok(Event::Apply(object)) => format!("+{}", object.name_any()),
        Ok(Event::Delete(object)) => format!("-{}", object.name_any()),
        Err(watcher::Error::WatchError(status)) => format!("error {}", status.code),
        Err(_) => "failed".to_owned(),
    })
}

async fn expect(stream: &mut (impl Stream<Item = String> + Unpin), expected: &[&str]) {
    for word in expected {
        let next = tokio::time::timeout(PATIENCE, stream.next()).await;
        assert_eq!(next.ok().flatten().as_deref(), Some(*word), "of {expected:?}");
    }
}

#[tokio::test]
async fn lists_in_pages_and_as_streams() {
    let (server, client) = with_routes(3).await;
    let all = ["init", "has r000", "has r001", "has r002", "done"];
    // A streamed list has no word for its beginning.
    for (config, expected) in
        [(watcher::Config::default().page_size(2), &all[..]), (watcher::Config::default().streaming_lists(), &all[1..])]
    {
        server.forget_calls();
        let pages = if expected == all { 2 } else { 0 };
        let stream = words(watch_kind(routes(&client), config));
        tokio::pin!(stream);
        expect(&mut stream, expected).await;
        assert_eq!(server.calls(&Select::any().kind("HTTPRoute").verbs(&[Verb::List])).len(), pages);
        server.patch("HTTPRoute", "shop/r001", json!({"metadata": {"labels": {"pages": pages.to_string()}}}));
        expect(&mut stream, &["+r001"]).await;
    }
}

#[tokio::test]
async fn every_way_in_which_a_watch_ends() {
    let (server, client) = with_routes(1).await;
    let lists = Select::any().kind("HTTPRoute").verbs(&[Verb::List]);
    let watches = Select::any().kind("HTTPRoute").verbs(&[Verb::Watch]);
    // Followed all the time, as a controller does.
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let stream = words(watch_kind(routes(&client), watcher::Config::default()));
    tokio::spawn(stream.for_each(move |word| {
        // The test may be over.
        let _ = sender.send(word);
        std::future::ready(())
    }));
    let stream = stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|word| (word, receiver)));
    tokio::pin!(stream);
    let opened = async |server: &ApiServer, count: usize| {
        let look = |server: &ApiServer| (server.calls(&watches).len() == count && server.watches(&watches) == 1).then_some(());
        server.wait_for("a watch", PATIENCE, look).await;
    };
    expect(&mut stream, &["init", "has r000", "done"]).await;

    // Closed and reset: the watch goes on where it was, and nothing is listed again.
    for (count, ending, expected) in [(1, Ending::Close, &["+a"][..]), (2, Ending::Reset, &["failed", "+a"])] {
        opened(&server, count).await;
        server.end_watches(&Select::any(), ending);
        opened(&server, count + 1).await;
        server.apply(route("a", &format!("/{ending:?}")));
        expect(&mut stream, expected).await;
    }
    assert_eq!(server.calls(&lists).len(), 1);

    // 410 as an event, and as the answer to a watch from a version that is gone.
    server.end_watches(&Select::any(), Ending::Gone);
    expect(&mut stream, &["error 410", "init", "has a", "has r000", "done"]).await;
    assert_eq!(server.calls(&lists).len(), 2);
    opened(&server, 4).await;
    let rule = server.fault(Fault::new(watches.clone(), Action::Reset));
    server.end_watches(&Select::any(), Ending::Close);
    expect(&mut stream, &["failed"]).await;
    server.delete("HTTPRoute", "shop/a");
    server.compact();
    rule.lift();
    let mut word = stream.next().await;
    while word.as_deref() == Some("failed") {
        word = stream.next().await;
    }
    assert_eq!(word.as_deref(), Some("error 410"));
    expect(&mut stream, &["init", "has r000", "done"]).await;

    // A kind that is no longer served: its objects go, and then there is nothing to watch.
    server.wait_for("a watch", PATIENCE, |server| (server.watches(&watches) == 1).then_some(())).await;
    server.uninstall("httproutes.gateway.networking.k8s.io");
    expect(&mut stream, &["-r000", "failed"]).await;
}

#[tokio::test]
async fn selections_change_while_they_are_watched() {
    let (server, client) = with_routes(2).await;
    let label =
        |name: &str, value: serde_json::Value| server.patch("HTTPRoute", name, json!({"metadata": {"labels": {"tier": value}}}));
    let stream = words(watch_kind(routes(&client), watcher::Config::default().labels("tier=front")));
    tokio::pin!(stream);
    expect(&mut stream, &["init", "done"]).await;
    label("shop/r000", json!("front"));
    expect(&mut stream, &["+r000"]).await;
    label("shop/r000", json!("back"));
    expect(&mut stream, &["-r000"]).await;
    label("shop/r001", json!("front"));
    server.delete("HTTPRoute", "shop/r001");
    expect(&mut stream, &["+r001", "-r001"]).await;
}

#[tokio::test]
async fn metadata_bookmarks_and_time() {
    let (server, client) = with_routes(1).await;
    let api = routes(&client);
    let metadata: Api<PartialObjectMeta<DynamicObject>> = Api::namespaced_with(client.clone(), "shop", &kind());
    let stream = words(watch_kind(metadata, watcher::Config::default()));
    tokio::pin!(stream);
    expect(&mut stream, &["init", "has r000", "done"]).await;

    // A bookmark tells of versions that other kinds have taken; the watch ends when its time is over.
    let params = WatchParams { bookmarks: true, timeout: Some(1), ..WatchParams::default() };
    let from = server.version();
    let events = api.watch(&params, &from.to_string()).await.unwrap();
    server.apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}));
    let events: Vec<WatchEvent<DynamicObject>> = tokio::time::timeout(PATIENCE, events.try_collect()).await.unwrap().unwrap();
    let versions: Vec<_> = events
        .iter()
        .map(|event| match event {
            WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(versions.first(), Some(&(from + 1).to_string()), "{versions:?}");
}
