//! The Secret on an API server, followed and kept.

use super::*;

/// Long enough for a slow machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn start(store: &Store, role: Role) -> (Authority, watch::Sender<Role>) {
    let (keep, role) = watch::channel(role);
    let metrics = Arc::new(Metrics::new().unwrap());
    (Authority::start(store.client(), "isthmus-system".into(), role, &Settings::default(), metrics), keep)
}

async fn authorities(authority: &Authority, expected: &str) {
    let mut mesh = authority.authorities();
    let same = mesh.wait_for(|mesh| mesh.as_ref().is_some_and(|mesh| mesh.authorities == expected));
    tokio::time::timeout(PATIENCE, same).await.unwrap().unwrap();
}

/// Waits until the metrics have this line.
async fn shown(authority: &Authority, line: &str) {
    let start = std::time::Instant::now();
    while !authority.metrics.text().unwrap().lines().any(|shown| shown == line) {
        assert!(start.elapsed() < PATIENCE, "no `{line}` in:\n{}", authority.metrics.text().unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn made(store: &Store) -> Content {
    let start = std::time::Instant::now();
    loop {
        if let Some(entries) = store.entries() {
            return Content::read(&entries).unwrap();
        }
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn sign(authority: &Authority) -> Result<String, Denied> {
    let csr = request(&KeyPair::generate().unwrap());
    authority.clone().into_sign()(cart(), csr).await
}

/// The certificate of the authority that has signed a chain made just now.
fn signed_by(chain: &str, authorities: &str) -> bool {
    let leaf = Leaf { chain: chain.to_owned(), serial: [0; 16], ends: 0 };
    takes(authorities, &leaf, UnixTime::now().as_secs()).is_ok()
}

#[tokio::test]
async fn the_leader_makes_it_and_all_sign_with_it() {
    let store = Store::default();
    let (follower, _keep) = start(&store, Role::Follower { leader: None });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(store.entries().is_none(), "a follower makes nothing");
    assert!(matches!(sign(&follower).await, Err(Denied::Unavailable(_))));
    let (leader, _keep) = start(&store, Role::Leader);
    let content = made(&store).await;
    for authority in [&leader, &follower] {
        authorities(authority, &content.authorities()).await;
        assert!(signed_by(&sign(authority).await.unwrap(), &content.authorities()));
    }
    let refused = leader.clone().into_sign()(cart(), "words".to_owned()).await;
    assert!(matches!(refused, Err(Denied::Forbidden(_))));
    let text = leader.metrics.text().unwrap();
    for line in [
        "isthmus_controller_mesh_certificates_total{result=\"issued\"} 1",
        "isthmus_controller_mesh_certificates_total{result=\"refused\"} 1",
    ] {
        assert!(text.contains(line), "no `{line}` in:\n{text}");
    }
    assert!(follower.metrics.text().unwrap().contains("certificates_total{result=\"failed\"} 1"));
}

#[tokio::test]
async fn a_malformed_one_is_left_alone_and_the_last_good_one_used() {
    let store = Store::default();
    let words = Entries::from([("tls.crt".to_owned(), b"words".to_vec())]);
    store.put_entries(SECRET, words.clone());
    let (authority, _keep) = start(&store, Role::Leader);
    shown(&authority, "isthmus_controller_mesh_authority_unusable 1").await;
    assert!(matches!(sign(&authority).await, Err(Denied::Unavailable(_))), "there is none yet");
    let content = brought(fixture!("ec.crt"), fixture!("ec.key"));
    store.put_entries(SECRET, content.entries());
    authorities(&authority, &content.authorities()).await;
    shown(&authority, "isthmus_controller_mesh_authority_unusable 0").await;
    let ends = |entry, certificate: &str| validity(entry, certificate).unwrap().to;
    let end = format!("isthmus_controller_mesh_authority_end_timestamp_seconds {}", ends("tls.crt", &content.chain[0]));
    shown(&authority, &end).await;
    let end = format!("isthmus_controller_mesh_root_end_timestamp_seconds {}", ends("ca.crt", &content.roots[0]));
    shown(&authority, &end).await;
    store.put_entries(SECRET, words.clone());
    shown(&authority, "isthmus_controller_mesh_authority_unusable 1").await;
    authorities(&authority, &content.authorities()).await;
    assert!(signed_by(&sign(&authority).await.unwrap(), &content.authorities()));
    assert_eq!(store.entries(), Some(words), "it is not written over");
}

#[tokio::test]
async fn what_was_made_here_is_put_back_and_what_was_not_is_not() {
    let store = Store::default();
    let (authority, _keep) = start(&store, Role::Leader);
    let content = made(&store).await;
    authorities(&authority, &content.authorities()).await;
    store.delete();
    assert_eq!(made(&store).await, content);
    let content = brought(fixture!("ec.crt"), fixture!("ec.key"));
    store.put_entries(SECRET, content.entries());
    authorities(&authority, &content.authorities()).await;
    shown(&authority, "isthmus_controller_mesh_authority_unusable 0").await;
    store.delete();
    shown(&authority, "isthmus_controller_mesh_authority_unusable 1").await;
    assert_eq!(store.entries(), None);
    assert!(signed_by(&sign(&authority).await.unwrap(), &content.authorities()));
}

#[tokio::test]
async fn a_new_authority_signs_when_its_root_is_known() {
    let store = Store::default();
    let (authority, _keep) = start(&store, Role::Leader);
    let first = made(&store).await;
    authorities(&authority, &first.authorities()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Both roots, and the new one signs: in one step.
    let second = brought(fixture!("ec.crt"), fixture!("ec.key"));
    let both = Content { roots: [first.roots.clone(), second.roots.clone()].concat(), ..second.clone() };
    store.put_entries(SECRET, both.entries());
    authorities(&authority, &both.authorities()).await;
    assert!(signed_by(&sign(&authority).await.unwrap(), &first.authorities()), "proxies do not have the new root yet");
    let mut mesh = authority.authorities();
    mesh.mark_unchanged();
    tokio::time::pause();
    tokio::time::advance(SETTLE + Duration::from_secs(1)).await;
    tokio::time::resume();
    let start = std::time::Instant::now();
    while !signed_by(&sign(&authority).await.unwrap(), &second.authorities()) {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The first root is the one that signs, which tells proxies to come.
    let swapped = [second.roots.concat(), first.roots.concat()].concat();
    authorities(&authority, &swapped).await;
    assert!(mesh.has_changed().unwrap());
    // The former root leaves: nothing waits.
    store.put_entries(SECRET, second.entries());
    authorities(&authority, &second.authorities()).await;
    assert!(signed_by(&sign(&authority).await.unwrap(), &second.authorities()));
    // Another intermediate of a root that is trusted signs at once.
    let third = brought(fixture!("intermediate.crt"), fixture!("intermediate.key"));
    store.put_entries(SECRET, third.entries());
    let start = std::time::Instant::now();
    while !sign(&authority).await.unwrap().contains(&third.chain[0]) {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn an_end_that_comes_is_told_in_time() {
    let workloads = Workloads { domain: TrustDomain::default(), last: None, metrics: Arc::new(Metrics::new().unwrap()) };
    let issuing = workloads.issuing(own(), at(START)).unwrap();
    let ends = issuing.issuer.ends();
    let brought = workloads.issuing(brought(fixture!("ec.crt"), fixture!("ec.key")), at(START)).unwrap();
    let soon = brought.issuer.ends();
    let hour = Duration::from_secs(HOUR);
    for (issuing, now, expected) in [
        (&brought, START, None),
        (&brought, soon - 13 * DAY, Some("the authority of the mesh ends in 13 days")),
        (&brought, soon, Some("the authority of the mesh has ended")),
        (&issuing, ends - 13 * DAY, None),
        (&issuing, ends, Some("the authority of the mesh has ended")),
    ] {
        let told = end_told(issuing, hour, at(now));
        assert_eq!(told.is_some(), expected.is_some(), "{told:?}");
        assert!(told.unwrap_or_default().starts_with(expected.unwrap_or_default()));
    }
    let root = root_ends(&brought, at(START));
    assert_eq!((root, root_ends(&issuing, at(START))), (validity("ca.crt", &fixture!("root.crt")).unwrap().to, ends));
    for (issuing, root, now, expected) in [
        (&brought, root, root - 15 * DAY, None),
        (&brought, root, root - 13 * DAY, Some("the root of the mesh ends in 13 days: put another one into ca.crt")),
        (&brought, root, root + DAY, Some("the root of the mesh ends in 0 days")),
        (&issuing, ends, ends - DAY, None),
    ] {
        let told = root_told(issuing, root, at(now));
        assert_eq!(told.is_some(), expected.is_some(), "{told:?}");
        assert!(told.unwrap_or_default().starts_with(expected.unwrap_or_default()));
    }
}
