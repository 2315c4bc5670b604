//! A provisioner that runs against an API server in this process.

use super::*;

struct Run {
    cluster: Cluster,
    server: Server,
    provisioner: Provisioner,
    role: watch::Sender<Role>,
    _material: watch::Sender<Option<Arc<Material>>>,
}

fn run(cluster: Cluster, role: Role) -> Run {
    let server = cluster.server();
    let certificate = isthmus_routing::Certificate { chain: String::new(), key: String::new() };
    let material = Material { certificate: Arc::new(certificate), bundle: "PEM".into() };
    let (material, materials) = watch::channel(Some(Arc::new(material)));
    let (role, roles) = watch::channel(role);
    let provisioner = Provisioner::start(server.client(), settings(), &BTreeSet::new(), materials, roles);
    Run { cluster, server, provisioner, role, _material: material }
}

impl Run {
    fn want(&self, parameters: Value, ports: &[u16]) {
        self.provisioner.want(BTreeMap::from([(key(), infrastructure(parameters, ports))]), BTreeSet::new());
    }

    fn writes(&self) -> usize {
        self.server.count(|call| call.method != "GET")
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap_or_else(|_| panic!("{what}: {:#?}", self.server.calls()));
    }

    /// Nothing is written any more.
    async fn quiet(&self) -> usize {
        loop {
            let before = self.writes();
            tokio::time::sleep(Duration::from_millis(300)).await;
            if self.writes() == before {
                return before;
            }
        }
    }

    fn faults(&self) -> Vec<String> {
        self.provisioner.provisioned().borrow().gateways.get(&key()).map(|state| state.faults.clone()).unwrap_or_default()
    }
}

#[tokio::test]
async fn who_leads_no_longer_drops_what_is_under_way() {
    let run = run(Cluster::default(), Role::Leader);
    run.server.set(ACCOUNT, Answer::Silence);
    run.want(json!({}), &[80]);
    let asked = |run: &Run| run.server.count(|call| call.path == ACCOUNT);
    run.until("asked", |run| asked(run) == 1).await;
    run.role.send_replace(Role::Follower { leader: None });
    tokio::time::sleep(Duration::from_millis(50)).await;
    run.role.send_replace(Role::Leader);
    run.until("asked anew", |run| asked(run) == 2).await;
}

#[tokio::test]
async fn what_is_missing_is_made_and_what_is_edited_is_mended() {
    let run = run(Cluster::default(), Role::Leader);
    run.want(json!({}), &[80]);
    run.until("made", |run| run.cluster.get(BUDGET).is_some()).await;
    assert_eq!(run.quiet().await, 5, "one write for each object");
    let accounts = run.provisioner.provisioned().borrow().accounts.clone();
    assert_eq!(accounts, BTreeMap::from([(("shop".into(), "isthmus-edge".into()), key())]));

    run.cluster.delete(ACCOUNT);
    run.until("made again", |run| run.cluster.get(ACCOUNT).is_some()).await;
    run.cluster.edit(DEPLOYMENT, "/spec/replicas", json!(9));
    run.until("mended", |run| run.cluster.get(DEPLOYMENT).unwrap()["spec"]["replicas"] == 2).await;
    assert_eq!(run.quiet().await, 7);

    // A change of listeners is one write, and one of the number of pods deletes the budget.
    run.want(json!({}), &[80, 443]);
    run.until("a port more", |run| run.cluster.get(SERVICE).unwrap()["spec"]["ports"].as_array().unwrap().len() == 2).await;
    assert_eq!(run.quiet().await, 8);
    run.want(json!({"replicas": 1}), &[80, 443]);
    run.until("no budget", |run| run.cluster.get(BUDGET).is_none()).await;
    assert_eq!(run.quiet().await, 10);
    assert_eq!(run.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn a_new_leader_writes_nothing_that_is_there() {
    let first = run(Cluster::default(), Role::Leader);
    first.want(json!({}), &[80]);
    first.until("made", |run| run.cluster.get(BUDGET).is_some()).await;
    first.quiet().await;
    let cluster = first.cluster.clone();
    drop(first);

    let second = run(cluster, Role::Follower { leader: None });
    second.want(json!({}), &[80]);
    second.until("known", |run| !run.provisioner.provisioned().borrow().accounts.is_empty()).await;
    let known = second.provisioner.provisioned().borrow().clone();
    assert!(known.synced && known.has_own_pods(&key(), Some("u1")), "who leads next knows the pods already: Programmed stays");
    second.cluster.delete(SERVICE);
    assert_eq!(second.quiet().await, 0, "a follower writes nothing");
    second.role.send_replace(Role::Leader);
    second.until("made again", |run| run.cluster.get(SERVICE).is_some()).await;
    assert_eq!(second.quiet().await, 1);
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone_and_told() {
    let cluster = Cluster::default();
    let strange =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "isthmus-edge", "namespace": "shop"}});
    cluster.put(ACCOUNT, strange);
    let run = run(cluster, Role::Leader);
    run.want(json!({}), &[80]);
    run.until("told", |run| !run.faults().is_empty()).await;
    assert!(run.faults()[0].starts_with("ServiceAccount shop/isthmus-edge exists and is not Isthmus's"), "{:?}", run.faults());
    assert!(run.cluster.get(ACCOUNT).unwrap().pointer("/metadata/labels").is_none());
    assert!(run.cluster.get(DEPLOYMENT).is_none(), "no pods with somebody else's account");
    assert!(run.provisioner.provisioned().borrow().accounts.is_empty());
    run.cluster.delete(ACCOUNT);
    run.until("made", |run| run.cluster.get(DEPLOYMENT).is_some()).await;
    run.until("no fault", |run| run.faults().is_empty()).await;
}

#[tokio::test]
async fn what_somebody_makes_in_the_same_moment_is_not_applied_over() {
    for (path, content) in [
        (ACCOUNT, json!({"apiVersion": "v1", "kind": "ServiceAccount", "secrets": [{"name": "theirs"}]})),
        (
            SERVICE,
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}}),
        ),
    ] {
        let cluster = Cluster::default();
        let mut theirs = content;
        theirs["metadata"] = json!({"name": "isthmus-edge", "namespace": "shop", "managedFields": [{"manager": "kubectl"}]});
        cluster.put(path, theirs);
        let before = cluster.get(path).unwrap();
        cluster.inner.lock().unwrap().unseen = vec![path.to_owned()];
        let run = run(cluster, Role::Leader);
        run.want(json!({}), &[80]);
        run.until("told", |run| !run.faults().is_empty()).await;
        assert!(run.faults()[0].contains("exists and is not Isthmus's"), "{:?}", run.faults());
        let mut after = run.cluster.get(path).unwrap();
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        assert_eq!(after, before);
    }
    let run = run(Cluster::default(), Role::Leader);
    run.want(json!({}), &[80]);
    run.until("made", |run| run.cluster.get(BUDGET).is_some()).await;
    run.want(json!({}), &[81]);
    run.until("another port", |run| run.cluster.get(SERVICE).unwrap()["spec"]["ports"][0]["port"] == 81).await;
    let forced: Vec<_> = run.server.calls().into_iter().filter(|call| call.method == "PATCH" && call.path == SERVICE).collect();
    let forced: Vec<_> = forced.iter().map(|call| call.query.get("force").map(String::as_str) == Some("true")).collect();
    assert_eq!(forced, [false, true], "only what is known to be ours is forced");
}

#[tokio::test]
async fn a_recreated_gateway_waits_for_the_garbage_collector() {
    let run = run(Cluster::default(), Role::Leader);
    run.want(json!({}), &[80]);
    run.until("made", |run| run.cluster.get(BUDGET).is_some()).await;
    let writes = run.quiet().await;
    let mut later = infrastructure(json!({}), &[80]);
    later.uid = "u2".into();
    let has_own_pods = |run: &Run, uid| run.provisioner.provisioned().borrow().has_own_pods(&key(), Some(uid));
    assert!(has_own_pods(&run, "u1") && !has_own_pods(&run, "u2"));
    run.provisioner.want(BTreeMap::from([(key(), later)]), BTreeSet::new());
    assert_eq!(run.quiet().await, writes, "the earlier Gateway's objects are not touched");
    assert!(run.provisioner.provisioned().borrow().accounts.is_empty(), "its account is not the new Gateway's");
    assert!(!has_own_pods(&run, "u2"), "ready pods are those of the earlier Gateway");
    let paths: Vec<_> = run.cluster.inner.lock().unwrap().objects.keys().cloned().collect();
    paths.iter().for_each(|path| run.cluster.delete(path));
    run.until("made for the new one", |run| run.cluster.get(BUDGET).is_some()).await;
    assert_eq!(run.cluster.get(SERVICE).unwrap()["metadata"]["ownerReferences"][0]["uid"], "u2");
    run.until("its own", |run| has_own_pods(run, "u2")).await;
}

#[tokio::test]
async fn failures_are_tried_again_and_lasting_ones_are_told() {
    let cluster = Cluster::default();
    cluster.inner.lock().unwrap().failures = vec![(429, "slow down"), (500, "broken"), (409, "conflict")];
    let run = run(cluster, Role::Leader);
    run.want(json!({}), &[80]);
    run.until("made", |run| run.cluster.get(BUDGET).is_some()).await;
    assert_eq!(run.faults(), Vec::<String>::new());
    run.quiet().await;
    run.cluster.inner.lock().unwrap().failures = vec![(403, "exceeded quota: services=0"); 2];
    run.want(json!({}), &[81]);
    run.until("told", |run| !run.faults().is_empty()).await;
    assert_eq!(run.faults(), ["Service shop/isthmus-edge cannot be written: exceeded quota: services=0"]);
    run.until("well again", |run| run.faults().is_empty()).await;
}

#[tokio::test]
async fn another_load_balancer_class_makes_the_service_anew() {
    let run = run(Cluster::default(), Role::Leader);
    run.want(json!({}), &[80]);
    run.until("made", |run| run.cluster.get(BUDGET).is_some()).await;
    let before = run.cluster.get(SERVICE).unwrap()["metadata"]["uid"].clone();
    run.want(json!({"addressPools": ["192.0.2.0/28"]}), &[80]);
    let class = |run: &Run| run.cluster.get(SERVICE).map(|service| service["spec"]["loadBalancerClass"].clone());
    run.until("anew", |run| class(run) == Some(json!("isthmus.dev/pool"))).await;
    assert_ne!(run.cluster.get(SERVICE).unwrap()["metadata"]["uid"], before);
}

#[tokio::test]
async fn a_released_gateway_loses_everything_and_one_that_is_unknown_nothing() {
    let run = run(Cluster::default(), Role::Leader);
    run.want(json!({}), &[80]);
    run.until("made", |run| run.cluster.get(BUDGET).is_some()).await;
    let writes = run.quiet().await;
    run.provisioner.want(BTreeMap::new(), BTreeSet::new());
    assert_eq!(run.quiet().await, writes);
    run.provisioner.want(BTreeMap::new(), BTreeSet::from([key()]));
    run.until("deleted", |run| run.cluster.inner.lock().unwrap().objects.is_empty()).await;
}

#[tokio::test]
async fn whoever_edits_again_and_again_is_answered_more_and_more_slowly() {
    let run = run(Cluster::default(), Role::Leader);
    run.want(json!({}), &[80]);
    run.until("made", |run| run.cluster.get(BUDGET).is_some()).await;
    let writes = run.quiet().await;
    let end = tokio::time::Instant::now() + Duration::from_secs(1);
    while tokio::time::Instant::now() < end {
        run.cluster.edit(SERVICE, "/spec/selector", json!({"a": "b"}));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(run.writes() - writes < 12, "{} mends in a second", run.writes() - writes);
}

#[tokio::test]
async fn pods_that_cannot_be_made_are_told() {
    let run = run(Cluster::default(), Role::Leader);
    run.want(json!({}), &[80]);
    run.until("made", |run| run.cluster.get(DEPLOYMENT).is_some()).await;
    let mut deployment = run.cluster.get(DEPLOYMENT).unwrap();
    let message = "pods are forbidden: violates PodSecurity \"restricted\"";
    deployment["status"] = json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": message}]});
    run.cluster.put(DEPLOYMENT, deployment);
    run.until("told", |run| !run.faults().is_empty()).await;
    assert_eq!(run.faults(), [format!("Deployment shop/isthmus-edge: {message}")]);
}
