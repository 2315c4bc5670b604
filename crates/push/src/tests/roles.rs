//! Leaders and followers.

use super::*;

async fn pair() -> (Bed, Bed) {
    let authority = Arc::new(Authority::new());
    let first = Bed::with(ServerLimits::default(), Models::default(), authority.clone()).await;
    let second = Bed::with(ServerLimits::default(), Models::default(), authority).await;
    (first, second)
}

#[tokio::test]
async fn a_follower_refers_to_the_leader() {
    let (follower, leader) = pair().await;
    follower.role.send_replace(Role::Follower { leader: Some(leader.server.address()) });
    follower.publish(&snapshot(1));
    let version = leader.publish(&snapshot(2));
    let proxy = follower.proxy("a").run();
    leader.acked("a", version).await;
    assert_eq!(proxy.served(), [snapshot(2)]);
    assert_eq!((follower.count(|counts| &counts.streams), follower.count(|counts| &counts.referred)), (0, 1));
}

#[tokio::test]
async fn a_change_of_leader_moves_the_streams_back_and_forth() {
    let (first, second) = pair().await;
    second.role.send_replace(Role::Follower { leader: Some(first.server.address()) });
    let version = first.publish(&snapshot(1));
    second.publish(&snapshot(1));
    let proxy = first.proxy("a").run();
    first.acked("a", version).await;

    second.role.send_replace(Role::Leader);
    first.role.send_replace(Role::Follower { leader: Some(second.server.address()) });
    second.acked("a", version).await;
    first.gone("a").await;

    first.role.send_replace(Role::Leader);
    second.role.send_replace(Role::Follower { leader: None });
    first.acked("a", version).await;
    assert_eq!(proxy.served(), [snapshot(1)]);
}

#[tokio::test]
async fn followers_that_name_each_other_are_asked_now_and_then() {
    let (first, second) = pair().await;
    first.role.send_replace(Role::Follower { leader: Some(second.server.address()) });
    second.role.send_replace(Role::Follower { leader: Some(first.server.address()) });
    let _proxy = first.proxy("a").run();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = first.count(|counts| &counts.referred) + second.count(|counts| &counts.referred);
    // Four at a time, and 50 ms of waiting on average between.
    assert!((4..=200).contains(&asked), "{asked} requests in a second");

    second.role.send_replace(Role::Leader);
    let version = second.publish(&snapshot(1));
    second.acked("a", version).await;
}

#[tokio::test]
async fn nobody_leads_and_then_somebody_does() {
    let (first, _) = pair().await;
    first.role.send_replace(Role::Follower { leader: None });
    let version = first.publish(&snapshot(1));
    let _proxy = first.proxy("a").run();
    let asked = async {
        while first.count(|counts| &counts.refused) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, asked).await.expect("it comes again");
    first.role.send_replace(Role::Leader);
    first.acked("a", version).await;
}

#[tokio::test]
async fn it_is_said_since_when_nobody_leads() {
    let (bed, _) = pair().await;
    let (away, mut seen) = watch::channel(None);
    let mut files = bed.proxy("a");
    files.options.away = Some(away);
    let version = bed.publish(&snapshot(1));
    let _proxy = files.run();
    bed.acked("a", version).await;
    assert!(!seen.has_changed().unwrap(), "there has been one all the time");

    bed.role.send_replace(Role::Follower { leader: None });
    let since = *tokio::time::timeout(SOON, seen.wait_for(Option::is_some)).await.expect("it is noticed soon").unwrap();
    let refused = bed.count(|counts| &counts.refused);
    let tried = async {
        while bed.count(|counts| &counts.refused) < refused + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, tried).await.expect("it is tried again");
    assert_eq!(*seen.borrow(), since, "no try begins another absence");

    bed.role.send_replace(Role::Leader);
    tokio::time::timeout(SOON, seen.wait_for(Option::is_none)).await.expect("it is back soon").unwrap();
}

/// With the times that proxies have. One that doubled its waits would have come five times in 12 s on average, and again within 10 s more.
#[tokio::test]
async fn whoever_had_a_stream_is_back_within_a_second_of_a_leader() {
    let (first, _) = pair().await;
    let version = first.publish(&snapshot(1));
    let pods: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let files = pods.iter().map(|pod| {
        let mut files = first.proxy(pod);
        files.options.limits = ClientLimits::default();
        files
    });
    let start = tokio::time::Instant::now();
    let running: Vec<_> = files.map(|files| files.run()).collect();
    for pod in &pods {
        first.acked(pod, version).await;
    }
    // What 40 handshakes of a debug build take here and now.
    let work = start.elapsed();
    let start = tokio::time::Instant::now();
    first.role.send_replace(Role::Follower { leader: None });
    let asked = async {
        while first.count(|counts| &counts.refused) < 40 * 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON + work * 5, asked).await.expect("each tries about once a second");
    // At most two tries each second, and the first.
    let (asked, most) = (first.count(|counts| &counts.refused), 40.0 * (2.0 * start.elapsed().as_secs_f64() + 1.0));
    assert!(asked <= most as u64, "{asked} tries in {:?}", start.elapsed());
    let leads = tokio::time::Instant::now();
    first.role.send_replace(Role::Leader);
    for pod in &pods {
        first.acked(pod, version).await;
    }
    let most = Duration::from_secs(3) + work * 3;
    assert!(leads.elapsed() < most, "back after {:?} where {work:?} are for work", leads.elapsed());
    assert!(running.iter().all(|proxy| proxy.served() == [snapshot(1)]));
}
