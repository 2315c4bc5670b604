//! What sidecars are sent: their own parts of one mesh, as they ask for them.

use isthmus_routing::{Attachment, BackendKey, Frontend, Inbound, Mesh, MtlsMode, ServiceParent, Workloads};

use super::hostile::{open_as, text};
use super::*;
use crate::server::{MeshPublication, Sidecar};

fn service(name: &str) -> BackendKey {
    format!("Service/shop/{name}:80").parse().unwrap()
}

pub(crate) fn services(names: &[&str]) -> BTreeSet<BackendKey> {
    names.iter().map(|name| service(name)).collect()
}

/// Services of `shop`, each with a route and an endpoint on the port that is given with it; clients of `bank` have a route of their own.
pub(crate) fn mesh(ports: &[(&str, u16)]) -> Snapshot {
    let mesh = Mesh { trust_domain: isthmus_routing::TrustDomain::default(), authorities: "authorities".to_owned() };
    let mut all = Snapshot { mesh: Some(Arc::new(mesh)), ..Snapshot::default() };
    let route = snapshot(1).routes.pop_first().unwrap().1;
    let attached = |namespace: &str, name: &str| Attachment {
        route: format!("HTTPRoute/{namespace}/{name}").parse().unwrap(),
        hostnames: Vec::new(),
    };
    for (name, port) in ports {
        let (own, consumer) = (attached("shop", name), attached("bank", name));
        for attachment in [&own, &consumer] {
            all.service_routes.insert(attachment.route.clone(), route.clone());
        }
        let consumers = [("bank".to_owned(), vec![consumer])].into();
        let parent = ServiceParent { routes: vec![own], consumers, ..ServiceParent::default() };
        all.services.insert(service(name), Arc::new(parent));
        let endpoints = vec![Endpoint { address: ([10, 0, 0, 1], *port).into() }];
        all.backends.insert(service(name), Arc::new(Backend { endpoints, ..Backend::default() }));
        let frontend = Frontend { addresses: vec![[10, 96, 0, 1].into()], ports: vec![80] };
        all.frontends.insert(format!("shop/{name}").parse().unwrap(), Arc::new(frontend));
    }
    let pods = [([10, 0, 0, 1].into(), isthmus_routing::MeshedPod::default())].into();
    all.workloads.insert("ServiceAccount/shop/app".parse().unwrap(), Arc::new(Workloads { pods }));
    all
}

fn strict() -> Arc<Inbound> {
    Arc::new(Inbound { mode: MtlsMode::Strict, ..Inbound::default() })
}

/// What a sidecar is to serve; nobody has seen its pod.
pub(super) fn part(of: &Snapshot, namespace: &str, calls: &[&str]) -> Snapshot {
    of.of_workload(namespace, &services(calls), Arc::default())
}

pub(super) struct SidecarBed {
    pub(super) files: ProxyBed,
    calls: watch::Sender<BTreeSet<BackendKey>>,
    pod: (String, String),
}

impl SidecarBed {
    pub(super) fn call(&self, names: &[&str]) {
        self.calls.send_replace(services(names));
    }
}

impl Bed {
    pub(super) fn mesh(&self, snapshot: &Snapshot) -> u64 {
        self.meshed(MeshPublication { snapshot: Arc::new(snapshot.clone()), ..MeshPublication::default() })
    }

    fn meshed(&self, mesh: MeshPublication) -> u64 {
        self.server.publish(Publication { mesh: Some(mesh), ..Publication::default() }).mesh
    }

    /// Of a pod `namespace/name`.
    pub(super) fn sidecar(&self, pod: &str, calls: &[&str]) -> SidecarBed {
        let (namespace, name) = pod.split_once('/').unwrap();
        let mut files = ProxyBed::new(self.server.address(), &format!("workload {pod}"), &self.authority.pem);
        let (calls, seen) = watch::channel(services(calls));
        files.options.calls = Some(seen);
        SidecarBed { files, calls, pod: (namespace.to_owned(), name.to_owned()) }
    }

    fn known(&self, pod: &str) -> Option<Sidecar> {
        let (namespace, name) = pod.split_once('/').unwrap();
        self.server.sidecars().borrow().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Waits until the server knows this of a sidecar.
    pub(super) async fn knows(&self, pod: &(String, String), what: impl Fn(&Sidecar) -> bool) -> Sidecar {
        let mut sidecars = self.server.sidecars();
        let found = sidecars.wait_for(|sidecars| sidecars.get(pod).is_some_and(&what));
        match tokio::time::timeout(SOON, found).await {
            Ok(found) => found.unwrap()[pod].clone(),
            Err(_) => panic!("{pod:?}: {:?}", self.server.sidecars().borrow().get(pod)),
        }
    }

    async fn serves_part(&self, sidecar: &SidecarBed, number: u64) -> Sidecar {
        self.knows(&sidecar.pod, |seen| seen.acked == Some(number)).await
    }
}

#[tokio::test]
async fn a_sidecar_gets_what_it_calls_and_what_it_does_not_call_moves_nothing() {
    let bed = Bed::start().await;
    let first = mesh(&[("a", 1), ("b", 1)]);
    let number = bed.mesh(&first);
    let sidecar = bed.sidecar("shop/one", &["a"]);
    let running = sidecar.files.run();
    let seen = bed.serves_part(&sidecar, number).await;
    assert_eq!((&*seen.calls, seen.nack, seen.package.as_str()), (&services(&["a"]), None, env!("CARGO_PKG_VERSION")));

    let second = mesh(&[("a", 2), ("b", 1)]);
    bed.serves_part(&sidecar, bed.mesh(&second)).await;
    let commits = bed.count(|counts| &counts.commits);
    for port in 2..10 {
        let number = bed.mesh(&mesh(&[("a", 2), ("b", port)]));
        bed.serves_part(&sidecar, number).await;
    }
    assert_eq!(bed.count(|counts| &counts.commits), commits, "it calls only a");
    let last = bed.mesh(&mesh(&[("a", 3), ("b", 9)]));
    assert_eq!(last, bed.mesh(&mesh(&[("a", 3), ("b", 9)])), "the same mesh has the same number");
    bed.serves_part(&sidecar, last).await;
    let served = running.served();
    assert_eq!(
        served,
        [part(&first, "shop", &["a"]), part(&second, "shop", &["a"]), part(&mesh(&[("a", 3), ("b", 9)]), "shop", &["a"])]
    );
    drop(running);
    let mut sidecars = bed.server.sidecars();
    let gone = sidecars.wait_for(|sidecars| sidecars.is_empty());
    tokio::time::timeout(SOON, gone).await.expect("it is gone soon").unwrap();
}

#[tokio::test]
async fn everybody_gets_the_frontends_and_the_workloads_and_their_changes() {
    let bed = Bed::start().await;
    let (one, two) = (bed.sidecar("shop/one", &[]), bed.sidecar("shop/two", &["a"]));
    let running = (one.files.run(), two.files.run());
    let mut all = mesh(&[("a", 1)]);
    for n in 1..=5_u8 {
        let pods = [([10, 0, 0, n].into(), isthmus_routing::MeshedPod::default())].into();
        all.workloads.insert("ServiceAccount/shop/app".parse().unwrap(), Arc::new(Workloads { pods }));
        let name = format!("shop/more-{n}").parse().unwrap();
        all.frontends.insert(name, Arc::new(Frontend { addresses: vec![[10, 96, 0, n].into()], ports: vec![80] }));
        if n == 4 {
            all.workloads.clear();
        }
        let number = bed.mesh(&all);
        bed.serves_part(&one, number).await;
        bed.serves_part(&two, number).await;
        assert_eq!(running.0.served().last(), Some(&part(&all, "shop", &[])));
        assert_eq!(running.1.served().last(), Some(&part(&all, "shop", &["a"])));
    }
}

#[tokio::test]
async fn subscriptions_grow_while_commits_are_under_way() {
    let bed = Bed::start().await;
    let names: Vec<String> = (0..50).map(|n| format!("s{n}")).collect();
    let all = |port| mesh(&names.iter().map(|name| (name.as_str(), port)).collect::<Vec<_>>());
    let mut number = bed.mesh(&all(1));
    let sidecar = bed.sidecar("shop/one", &[]);
    let running = sidecar.files.run();
    bed.serves_part(&sidecar, number).await;
    let mut called = Vec::new();
    for (n, name) in names.iter().enumerate() {
        // The data plane rests now and then, so that commits are unanswered.
        running.rests.send_replace(n % 10 < 5);
        called.push(name.as_str());
        sidecar.call(&called);
        if n % 3 == 0 {
            number = bed.mesh(&all(u16::try_from(n).unwrap() + 2));
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    running.rests.send_replace(false);
    let last = all(50);
    running.serves(&part(&last, "shop", &called)).await;
    // What it calls is told a moment after that.
    bed.knows(&sidecar.pod, |seen| seen.acked == Some(number) && *seen.calls == services(&called)).await;

    // What is not called any more goes, and what nobody knows is no reason to send anything.
    sidecar.call(&["s1", "unknown"]);
    running.serves(&part(&last, "shop", &["s1"])).await;
    let commits = bed.count(|counts| &counts.commits);
    sidecar.call(&["s1", "unknown", "more"]);
    bed.knows(&sidecar.pod, |seen| *seen.calls == services(&["s1", "unknown", "more"])).await;
    assert_eq!((bed.known("shop/one").unwrap().acked, bed.count(|counts| &counts.commits)), (Some(number), commits));
    // Until it is there.
    let with_more = mesh(&[("s1", 50), ("more", 7)]);
    bed.mesh(&with_more);
    running.serves(&part(&with_more, "shop", &["s1", "more"])).await;
    assert_eq!(bed.count(|counts| &counts.streams), 1);
}

#[tokio::test]
async fn each_has_its_own_part_of_one_publication() {
    let bed = Bed::start().await;
    let all = mesh(&[("a", 1), ("b", 1)]);
    let inbound = [(("shop".to_owned(), "strict".to_owned()), strict())].into();
    let number = bed.meshed(MeshPublication { snapshot: Arc::new(all.clone()), inbound, unseen: Arc::default() });
    let mut running = Vec::new();
    for (pod, calls, inbound) in [
        ("shop/one", &["a"][..], Arc::default()),
        ("shop/two", &["a"], Arc::default()),
        ("shop/strict", &["a", "b"], strict()),
        ("bank/one", &["a"], Arc::default()),
        ("bank/strict", &["b"], Arc::default()),
    ] {
        let sidecar = bed.sidecar(pod, calls);
        let task = sidecar.files.run();
        bed.serves_part(&sidecar, number).await;
        let namespace = sidecar.pod.0.as_str();
        assert_eq!(task.served(), [all.of_workload(namespace, &services(calls), inbound)], "{pod}");
        running.push((sidecar, task));
    }
    // Only one of them becomes stricter, and only that one is sent something.
    let commits = bed.count(|counts| &counts.commits);
    let inbound =
        [(("shop".to_owned(), "one".to_owned()), strict()), (("shop".to_owned(), "strict".to_owned()), strict())].into();
    let number = bed.meshed(MeshPublication { snapshot: Arc::new(all.clone()), inbound, unseen: Arc::default() });
    for (sidecar, task) in &running {
        bed.serves_part(sidecar, number).await;
        let strict = sidecar.pod.0 == "shop" && sidecar.pod.1 != "two";
        let mode = task.served().last().unwrap().inbound.as_ref().unwrap().mode;
        assert_eq!(mode == MtlsMode::Strict, strict, "{:?}", sidecar.pod);
    }
    assert_eq!(bed.count(|counts| &counts.commits), commits + 1);
    // A Gateway's proxy is nobody's sidecar, whatever it subscribes to.
    let files = bed.sidecar("shop/none", &["a"]).files;
    files.write("token", "good a");
    let gateway = files.run();
    bed.until("a", |_| true).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(gateway.served().is_empty() && bed.server.sidecars().borrow().len() == 5);
}

#[tokio::test]
async fn a_sidecar_that_comes_back_with_nothing_changed_is_sent_nothing() {
    let bed = Bed::start().await;
    let all = mesh(&[("a", 1), ("b", 1)]);
    let number = bed.mesh(&all);
    let sidecar = bed.sidecar("shop/one", &["a"]);
    let running = sidecar.files.run();
    bed.serves_part(&sidecar, number).await;
    sidecar.call(&["a", "b"]);
    running.serves(&part(&all, "shop", &["a", "b"])).await;
    sidecar.files.stores("Service/shop/b:80").await;

    // Another leader, whose count is another one. What it has changed is not this sidecar's.
    let other = Bed::with(ServerLimits::default(), Models::default(), bed.authority.clone()).await;
    other.mesh(&mesh(&[("c", 1)]));
    let number = other.mesh(&Snapshot { gateways: snapshot(1).gateways, ..all.clone() });
    assert_eq!(number, 2);
    bed.role.send_replace(Role::Follower { leader: Some(other.server.address()) });
    other.serves_part(&sidecar, number).await;
    assert_eq!(running.served().len(), 2);
    assert_eq!(*other.known("shop/one").unwrap().calls, services(&["a", "b"]));
    drop(running);

    // A restart. Nothing is called yet, but what was stored is served.
    sidecar.call(&[]);
    let again = sidecar.files.run();
    again.serves(&part(&all, "shop", &["a", "b"])).await;
    other.serves_part(&sidecar, number).await;
    sidecar.call(&["c"]);
    other.knows(&sidecar.pod, |seen| *seen.calls == services(&["a", "b", "c"])).await;
    assert_eq!(again.served(), [part(&all, "shop", &["a", "b"])], "from the store, and not once more from the controller");
}

#[tokio::test]
async fn a_mesh_that_is_not_published_takes_nothing_away() {
    let bed = Bed::start().await;
    bed.server.publish(Publication::default());
    let sidecar = bed.sidecar("shop/one", &["a"]);
    let running = sidecar.files.run();
    bed.knows(&sidecar.pod, |seen| seen.acked.is_none()).await;
    assert!(running.served().is_empty(), "there is none yet");
    let number = bed.mesh(&mesh(&[("a", 1)]));
    bed.serves_part(&sidecar, number).await;
    assert_eq!(bed.server.publish(Publication::default()).mesh, number);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(running.served().len(), 1);
    bed.serves_part(&sidecar, bed.mesh(&mesh(&[("a", 2)]))).await;
    assert_eq!(running.served().last(), Some(&part(&mesh(&[("a", 2)]), "shop", &["a"])));
}

#[tokio::test]
async fn an_older_sidecar_answers_500_for_what_it_cannot_run() {
    let bed = Bed::with(ServerLimits::default(), future(), Arc::new(Authority::new())).await;
    let sidecar = bed.sidecar("shop/old", &["a"]);
    let running = sidecar.files.run();
    for port in 1..5 {
        let number = bed.mesh(&mesh(&[("a", port)]));
        let seen = bed.serves_part(&sidecar, number).await;
        assert_eq!((seen.model, seen.lacking.len()), (ModelVersion(1), 1));
    }
    let served = running.served();
    let rules = &served.last().unwrap().service_routes.values().next().unwrap().rules;
    assert_eq!(rules.iter().map(|rule| rule.invalid).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_refusal_is_of_every_publication_with_that_part() {
    let bed = Bed::start().await;
    let first = bed.mesh(&mesh(&[("a", 1), ("b", 1)]));
    let sidecar = bed.sidecar("shop/one", &["a"]);
    let mut files = sidecar.files.options.clone();
    files.limits.serve = Duration::from_millis(100);
    let files = ProxyBed { folder: sidecar.files.folder.clone(), options: files };
    let running = files.run();
    bed.serves_part(&sidecar, first).await;
    running.rests.send_replace(true);
    let second = bed.mesh(&mesh(&[("a", 2), ("b", 1)]));
    let refused = |number| move |seen: &Sidecar| seen.nack.as_ref().is_some_and(|(refused, _)| *refused == number);
    let seen = bed.knows(&sidecar.pod, refused(second)).await;
    assert_eq!(seen.acked, Some(first));
    let third = bed.mesh(&mesh(&[("a", 2), ("b", 2)]));
    let seen = bed.knows(&sidecar.pod, refused(third)).await;
    assert_eq!(seen.acked, Some(first), "it serves nothing newer");
    running.rests.send_replace(false);
    let seen = bed.serves_part(&sidecar, third).await;
    assert_eq!(seen.nack, None, "served after all");
}

#[tokio::test]
async fn subscriptions_have_a_limit_and_garbage_ends_a_stream() {
    let bed = Bed::start().await;
    let number = bed.mesh(&mesh(&[("a", 1)]));
    let good = bed.sidecar("shop/good", &["a"]);
    let _running = good.files.run();
    bed.serves_part(&good, number).await;
    let many: BTreeSet<BackendKey> = (0..=4096).map(|n| service(&format!("s{n}"))).collect();
    let most: BTreeSet<BackendKey> = many.iter().take(4096).cloned().collect();
    assert!(open_as(&bed, "workload shop/bad", many.clone()).await.is_err(), "a Hello with one too many");
    assert_eq!(bed.count(|counts| &counts.refused), 1);
    let json = |services: &BTreeSet<BackendKey>| {
        format!(r#"{{"subscribe":{{"services":{}}}}}"#, serde_json::to_string(services).unwrap())
    };
    for (what, message, ends) in [
        ("as many as there may be", json(&most), false),
        ("one too many", json(&many), true),
        ("no Service", r#"{"subscribe":{"services":["Pod/shop/a"]}}"#.to_owned(), true),
        ("nothing", r#"{"subscribe":{}}"#.to_owned(), true),
    ] {
        let (_files, mut stream) = open_as(&bed, "workload shop/bad", most.clone()).await.unwrap();
        stream.chunks.send(text(&message)).await.unwrap();
        let reads = async { while let Ok(Some(_)) = stream.reader.next().await {} };
        let ended = tokio::time::timeout(Duration::from_millis(if ends { 5000 } else { 200 }), reads).await.is_ok();
        assert_eq!(ended, ends, "{what}");
    }
    // A flood of them is what the last of them says.
    let (_files, mut stream) = open_as(&bed, "workload shop/flood", BTreeSet::new()).await.unwrap();
    let reads = async { while let Ok(Some(_)) = stream.reader.next().await {} };
    let floods = async {
        for n in 0..2000 {
            stream.chunks.send(text(&json(&services(&[&format!("s{n}")])))).await.unwrap();
        }
        bed.knows(&("shop".to_owned(), "flood".to_owned()), |seen| *seen.calls == services(&["s1999"])).await
    };
    tokio::select! {
        () = reads => panic!("its stream ends"),
        _ = floods => {}
    }
    assert_eq!(bed.known("shop/good").and_then(|seen| seen.acked), Some(number));
}
