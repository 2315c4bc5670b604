//! Proxies one model version older or newer than their controller.

use super::*;

fn only(version: u32) -> Models {
    Models { oldest: ModelVersion(version), newest: ModelVersion(version), ..Models::default() }
}

#[tokio::test]
async fn an_older_proxy_answers_500_for_what_it_cannot_run_and_takes_every_edit() {
    let bed = Bed::with(ServerLimits::default(), future(), Arc::new(Authority::new())).await;
    let mut version = bed.publish(&snapshot(1));
    let (older, newer) = (bed.proxy("older").run(), {
        let mut files = bed.proxy("newer");
        files.options.models = future();
        files.run()
    });
    for n in 2..=100 {
        let seen = bed.acked("older", version).await;
        assert_eq!((seen.model, seen.lacking.len()), (ModelVersion(1), 1));
        let seen = bed.acked("newer", version).await;
        assert_eq!((seen.model, seen.lacking.len()), (ModelVersion(2), 0));
        version = bed.publish(&snapshot(n));
    }
    bed.acked("older", version).await;
    bed.acked("newer", version).await;
    for served in older.served() {
        let rules = &served.routes.values().next().unwrap().rules;
        let runs: Vec<_> = rules.iter().map(|rule| (rule.invalid, rule.filters.len(), rule.backends.len())).collect();
        assert_eq!(runs, [(false, 0, 1), (true, 0, 0)]);
    }
    assert_eq!(older.served().last().unwrap().backends, snapshot(100).backends, "endpoints above all");
    assert_eq!(newer.served().last(), Some(&snapshot(100)));
}

#[tokio::test]
async fn an_edit_that_an_older_proxy_cannot_see_is_acknowledged_all_the_same() {
    let bed = Bed::with(ServerLimits::default(), future(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    let proxy = bed.proxy("a").run();
    bed.acked("a", version).await;
    let mut edited = snapshot(1);
    let route = Arc::make_mut(edited.routes.values_mut().next().unwrap());
    route.rules[1].filters = vec![Filter::UrlRewrite(Rewrite { hostname: Some("other.internal".parse().unwrap()), path: None })];
    let version = bed.publish(&edited);
    bed.acked("a", version).await;
    assert_eq!(proxy.served().len(), 1, "it is the same to it");
}

#[tokio::test]
async fn a_newer_proxy_takes_what_an_older_controller_writes() {
    let bed = Bed::start().await;
    let mut files = bed.proxy("a");
    files.options.models = future();
    let proxy = files.run();
    for n in 1..=100 {
        let version = bed.publish(&snapshot(n));
        let seen = bed.acked("a", version).await;
        assert_eq!(seen.model, ModelVersion(1));
    }
    assert_eq!(proxy.served().last(), Some(&snapshot(100)));
}

#[tokio::test]
async fn two_releases_apart_is_refused_and_the_proxy_goes_on() {
    let authority = Arc::new(Authority::new());
    let bed = Bed::with(ServerLimits::default(), only(3), authority).await;
    bed.publish(&snapshot(1));
    let proxy = bed.proxy("a").run();
    let refused = async {
        while bed.count(|counts| &counts.refused) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("it tries again");
    assert!(bed.seen("a").is_none() && proxy.served().is_empty());
}
