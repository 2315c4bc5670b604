//! What proxies are sent, and what they answer.

use super::*;

#[tokio::test]
async fn a_proxy_is_given_what_is_published_and_every_edit() {
    let bed = Bed::start().await;
    let first = bed.publish(&snapshot(1));
    let proxy = bed.proxy("a").run();
    let seen = bed.acked("a", first).await;
    assert_eq!((seen.model, seen.package.as_str(), seen.nack), (ModelVersion(1), env!("CARGO_PKG_VERSION"), None));
    let mut edited = snapshot(2);
    edited.routes.clear();
    let second = bed.publish(&edited);
    bed.acked("a", second).await;
    assert_eq!(proxy.served(), [snapshot(1), edited]);
    assert_eq!(bed.count(|counts| &counts.connected), 1);
    drop(proxy);
    bed.gone("a").await;
}

#[tokio::test]
async fn an_acknowledgement_waits_for_the_data_plane_and_carries_its_faults() {
    let bed = Bed::start().await;
    let first = bed.publish(&snapshot(1));
    let proxy = bed.proxy("a").run();
    bed.acked("a", first).await;
    proxy.rests.send_replace(true);
    let second = bed.publish(&snapshot(2));
    // Long enough for the commit to arrive.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bed.seen("a").and_then(|proxy| proxy.acked), Some(first), "sent is not served");
    proxy.rests.send_replace(false);
    bed.acked("a", second).await;
    proxy.says(&[("http", "port 80 is in use")]);
    let seen = bed.until("a", |proxy| !proxy.listeners.is_empty()).await;
    assert_eq!((seen.acked, seen.listeners["http"].as_str()), (Some(second), "port 80 is in use"));
    proxy.says(&[]);
    bed.until("a", |proxy| proxy.listeners.is_empty()).await;
}

#[tokio::test]
async fn a_proxy_that_comes_back_with_nothing_changed_is_sent_nothing() {
    let bed = Bed::start().await;
    let version = bed.publish(&snapshot(1));
    let files = bed.proxy("a");
    let first = files.run();
    bed.acked("a", version).await;
    files.stores("10.0.0.1:1").await;
    drop(first);
    bed.gone("a").await;

    let again = files.run();
    again.serves(&snapshot(1)).await;
    bed.acked("a", version).await;
    assert_eq!(again.served(), [snapshot(1)], "from the store, and not once more from the controller");

    // A new leader, which makes the same snapshot from the same objects.
    let other = Bed::with(ServerLimits::default(), Models::default(), bed.authority.clone()).await;
    other.publish(&snapshot(1));
    bed.role.send_replace(Role::Follower { leader: Some(other.server.address()) });
    other.acked("a", version).await;
    assert_eq!(again.served().len(), 1, "a change of leader moves nothing");
    let edited = other.publish(&snapshot(2));
    other.acked("a", edited).await;
    assert_eq!(again.served(), [snapshot(1), snapshot(2)]);
}

#[tokio::test]
async fn a_restarted_proxy_serves_without_a_controller_and_catches_up() {
    let bed = Bed::start().await;
    let version = bed.publish(&snapshot(1));
    let mut files = bed.proxy("a");
    let first = files.run();
    bed.acked("a", version).await;
    files.stores("10.0.0.1:1").await;
    drop(first);
    let address = std::mem::replace(&mut files.options.controller, "127.0.0.1:9".to_owned());
    let alone = files.run();
    alone.serves(&snapshot(1)).await;
    drop(alone);

    files.options.controller = address;
    let missed = bed.publish(&snapshot(2));
    let back = files.run();
    bed.acked("a", missed).await;
    assert_eq!(back.served(), [snapshot(1), snapshot(2)]);
}

#[tokio::test]
async fn a_broken_store_is_passed_over() {
    let bed = Bed::start().await;
    let version = bed.publish(&snapshot(1));
    let files = bed.proxy("a");
    files.write("last-good", "isthmus-config 1 00\n{}");
    let proxy = files.run();
    bed.acked("a", version).await;
    assert_eq!(proxy.served(), [snapshot(1)]);
    files.stores("10.0.0.1:1").await;
}

#[tokio::test]
async fn kept_references_go_on_and_deleted_ones_stop() {
    let bed = Bed::start().await;
    let key: isthmus_routing::CertificateKey = "Secret/infra/edge".parse().unwrap();
    let mut good = snapshot(1);
    good.certificates.insert(key.clone(), Arc::new(Certificate { chain: "chain".to_owned(), key: "key".to_owned() }));
    let mut malformed = snapshot(1);
    malformed.kept.insert(key);
    let proxy = bed.proxy("a").run();
    for published in [&malformed, &good, &malformed, &snapshot(1)] {
        let version = bed.publish(published);
        bed.acked("a", version).await;
    }
    let certificates: Vec<_> = proxy.served().iter().map(|snapshot| snapshot.certificates.len()).collect();
    assert_eq!(certificates, [0, 1, 1, 0], "nothing was held; given; kept; deleted");
}

#[tokio::test]
async fn edits_that_come_faster_than_they_are_served_are_put_together() {
    let limits = ServerLimits { unanswered: 1, ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    let proxy = bed.proxy("a").run();
    bed.acked("a", version).await;
    proxy.rests.send_replace(true);
    bed.publish(&snapshot(2));
    while bed.count(|counts| &counts.commits) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for n in 3..100 {
        bed.publish(&snapshot(n));
        tokio::task::yield_now().await;
    }
    let last = bed.publish(&snapshot(100));
    proxy.rests.send_replace(false);
    bed.acked("a", last).await;
    assert_eq!(proxy.served(), [snapshot(1), snapshot(2), snapshot(100)]);
    assert_eq!(bed.count(|counts| &counts.commits), 3);
}

#[tokio::test]
async fn a_publication_that_changes_nothing_sends_nothing() {
    let bed = Bed::start().await;
    let version = bed.publish(&snapshot(1));
    let _proxy = bed.proxy("a").run();
    bed.acked("a", version).await;
    let commits = bed.count(|counts| &counts.commits);
    for _ in 0..10 {
        assert_eq!(bed.publish(&snapshot(1)), version);
    }
    let other = "Gateway/infra/other".parse().unwrap();
    bed.gateways([(edge(), Arc::new(snapshot(1))), (other, Arc::new(snapshot(9)))].into());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bed.count(|counts| &counts.commits), commits);
}

#[tokio::test]
async fn an_empty_gateway_is_a_configuration_and_a_missing_one_is_none() {
    let bed = Bed::start().await;
    let proxy = bed.proxy("a").run();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bed.seen("a").is_none(), "nothing is published yet");
    bed.gateways(BTreeMap::new());
    bed.until("a", |proxy| proxy.acked.is_none()).await;
    assert!(proxy.served().is_empty(), "its Gateway is not there");
    let version = bed.publish(&Snapshot::default());
    bed.acked("a", version).await;
    assert_eq!(proxy.served(), [Snapshot::default()]);
    let version = bed.publish(&snapshot(1));
    bed.acked("a", version).await;
    bed.gateways(BTreeMap::new());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(proxy.served().len(), 2, "what it has stays");
}

#[tokio::test]
async fn a_data_plane_that_does_not_serve_is_a_refusal_and_serves_later_all_the_same() {
    let bed = Bed::start().await;
    let first = bed.publish(&snapshot(1));
    let mut files = bed.proxy("a");
    files.options.limits.serve = Duration::from_millis(200);
    let proxy = files.run();
    bed.acked("a", first).await;
    proxy.rests.send_replace(true);
    let second = bed.publish(&snapshot(2));
    let seen = bed.until("a", |proxy| proxy.nack.is_some()).await;
    assert_eq!((seen.acked, seen.nack.map(|(version, _)| version)), (Some(first), Some(second)));
    assert!(files.stored().is_none_or(|text| !text.contains("10.0.0.1:2")), "what is not served is not stored");
    proxy.rests.send_replace(false);
    let seen = bed.acked("a", second).await;
    assert_eq!(seen.nack, None, "served after all");
    files.stores("10.0.0.1:2").await;
    let third = bed.publish(&snapshot(3));
    bed.acked("a", third).await;
    assert_eq!(bed.count(|counts| &counts.streams), 1);
}

#[tokio::test]
async fn a_pod_has_one_stream() {
    let bed = Bed::start().await;
    let version = bed.publish(&snapshot(1));
    let _first = bed.proxy("a").run();
    bed.acked("a", version).await;
    let mut files = bed.proxy("a");
    files.options.limits.longest_wait = Duration::from_secs(60);
    let _second = files.run();
    let streams = async {
        while bed.count(|counts| &counts.streams) < 2 || bed.count(|counts| &counts.connected) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, streams).await.expect("the older one is ended");
}

#[tokio::test]
async fn a_stream_that_is_old_is_renewed_without_a_gap() {
    let limits = ServerLimits { age: Duration::from_millis(300), ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    let proxy = bed.proxy("a").run();
    bed.acked("a", version).await;
    let mut proxies = bed.server.proxies();
    let watched = async {
        while bed.count(|counts| &counts.streams) < 4 {
            proxies.changed().await.unwrap();
            assert_eq!(bed.seen("a").and_then(|proxy| proxy.acked), Some(version), "always known, always serving");
        }
    };
    tokio::time::timeout(SOON, watched).await.expect("it is renewed again and again");
    assert_eq!(proxy.served(), [snapshot(1)]);
}
