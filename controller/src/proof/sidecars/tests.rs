use std::time::Duration;

use isthmus_routing::{RouteKind, Transport};

use super::*;

fn port(name: &str) -> BackendKey {
    BackendKey { namespace: "shop".to_owned(), name: name.to_owned(), port: 80, transport: Transport::Tcp }
}

fn route(namespace: &str) -> RouteKey {
    RouteKey { namespace: namespace.to_owned(), name: "r".to_owned(), kind: RouteKind::Http }
}

fn audience(clients: Option<&str>) -> Audience {
    Audience { service: port("front"), clients: clients.map(str::to_owned) }
}

fn pod(name: &str) -> Pod {
    let (namespace, name) = name.split_once('/').unwrap();
    (namespace.to_owned(), name.to_owned())
}

struct World {
    prover: SidecarProver,
    ready: BTreeSet<Pod>,
    connected: BTreeMap<Pod, SidecarState>,
    now: Instant,
}

impl World {
    /// Sidecars that are ready, connected, and call Service `front`.
    fn new(sidecars: &[&str]) -> Self {
        let now = Instant::now();
        let mut world = Self { prover: SidecarProver::default(), ready: BTreeSet::new(), connected: BTreeMap::new(), now };
        for sidecar in sidecars {
            world.ready.insert(pod(sidecar));
            world.connect(sidecar, None, &["front"]);
        }
        world
    }

    fn connect(&mut self, sidecar: &str, acked: Option<u64>, calls: &[&str]) {
        let calls = Arc::new(calls.iter().map(|name| port(name)).collect());
        self.connected.insert(pod(sidecar), SidecarState { acked, calls, ..SidecarState::default() });
    }

    fn ack(&mut self, sidecar: &str, publication: u64) {
        let state = self.connected.get_mut(&pod(sidecar)).unwrap();
        (state.acked, state.nack) = (Some(publication), None);
    }

    fn nack(&mut self, sidecar: &str) {
        self.connected.get_mut(&pod(sidecar)).unwrap().nack = Some("bad".to_owned());
    }

    /// Publishes the producer's route in this generation, and maybe that of consumers in `bank`.
    fn publish(&mut self, publication: u64, generation: i64, consumer: Option<i64>) {
        let of =
            |namespace: &str, generation| BTreeMap::from([(route(namespace), Edition { uid: namespace.to_owned(), generation })]);
        let mut audiences = BTreeMap::from([(audience(None), of("shop", generation))]);
        audiences.extend(consumer.map(|generation| (audience(Some("bank")), of("bank", generation))));
        self.prover.publish(publication, audiences);
    }

    fn judge(&mut self) -> (ServiceProof, SidecarJudgement) {
        let judgement = self.prover.judge(&self.ready, &self.connected, self.now);
        (judgement.proofs[&audience(None)].clone(), judgement)
    }

    /// The proven generation of the producer's route; -1: none.
    fn proven(&mut self) -> i64 {
        self.judge().0.routes.get(&route("shop")).map_or(-1, |edition| edition.generation)
    }

    fn consumers_proven(&mut self) -> bool {
        self.judge().1.proofs[&audience(Some("bank"))].routes.contains_key(&route("bank"))
    }
}

#[test]
fn proven_is_what_every_caller_serves_or_a_later_one() {
    let mut world = World::new(&["shop/a", "shop/b"]);
    world.ready.insert(pod("shop/other"));
    world.connect("shop/other", None, &["back"]);
    world.publish(3, 1, None);
    let (proof, judgement) = world.judge();
    assert_eq!((proof.waiting, proof.is_called), (vec!["shop/a".to_owned(), "shop/b".to_owned()], true));
    assert_eq!((judgement.settled, judgement.behind, judgement.standing), (false, 3, Some(world.now)));
    world.ack("shop/a", 3);
    assert_eq!(world.proven(), -1);
    world.publish(4, 1, None);
    world.ack("shop/b", 4);
    assert_eq!(world.proven(), 1, "one serves the first that had it, the other a later one");
    let (proof, judgement) = world.judge();
    assert_eq!((proof.waiting.len(), judgement.settled, judgement.behind), (0, true, 2));
    world.publish(5, 2, None);
    world.ack("shop/a", 5);
    assert_eq!((world.proven(), world.judge().0.waiting), (-1, vec!["shop/b".to_owned()]));
    world.publish(6, 3, None);
    world.ack("shop/b", 5);
    assert_eq!(world.proven(), -1, "they serve what was before");
    world.ack("shop/a", 6);
    world.ack("shop/b", 6);
    assert_eq!(world.proven(), 3);
}

#[test]
fn without_callers_it_is_proven_and_the_first_one_takes_nothing_back() {
    let mut world = World::new(&[]);
    world.publish(1, 1, None);
    let (proof, judgement) = world.judge();
    assert_eq!((proof.is_called, judgement.settled, world.proven()), (false, true, 1));
    world.ready.insert(pod("shop/a"));
    world.connect("shop/a", None, &["front"]);
    assert_eq!((world.proven(), world.judge().0.is_called), (1, true));
    // One that is not ready is not asked.
    let mut world = World::new(&["shop/a"]);
    world.ready.clear();
    world.publish(1, 1, None);
    assert_eq!((world.proven(), world.judge().0.is_called), (1, false));
}

#[test]
fn it_is_latched_for_an_edition() {
    let mut world = World::new(&["shop/a"]);
    world.publish(1, 1, None);
    world.ack("shop/a", 1);
    assert_eq!(world.proven(), 1);
    world.publish(2, 1, None);
    world.ready.insert(pod("shop/b"));
    world.connect("shop/b", None, &["front"]);
    assert_eq!(world.proven(), 1, "others changed, and another one calls it");
    assert_eq!(world.judge().0.waiting.len(), 0);
    // The same bytes for a newer object.
    world.ack("shop/a", 2);
    world.ack("shop/b", 2);
    world.publish(2, 2, None);
    assert_eq!(world.proven(), 2);
    // A recreated object, and one that was detached for a while.
    world.prover.publish(3, BTreeMap::from([(audience(None), BTreeMap::new())]));
    world.publish(4, 2, None);
    assert_eq!(world.proven(), -1);
}

#[test]
fn each_namespace_is_asked_for_its_own_routes() {
    let mut world = World::new(&["shop/a", "bank/b"]);
    world.publish(1, 1, Some(1));
    world.ack("shop/a", 1);
    assert_eq!((world.proven(), world.consumers_proven()), (1, false));
    world.ack("bank/b", 1);
    assert!(world.consumers_proven());
    // Without consumer routes they are clients like all others.
    world.publish(2, 2, None);
    world.ack("shop/a", 2);
    assert_eq!((world.proven(), world.judge().0.waiting), (-1, vec!["bank/b".to_owned()]));
}

#[test]
fn laggards_are_left_out_after_a_while_and_refusals_are_not() {
    let mut world = World::new(&["shop/a", "shop/b", "shop/c"]);
    world.publish(1, 1, None);
    for sidecar in ["shop/a", "shop/b", "shop/c"] {
        world.ack(sidecar, 1);
    }
    assert_eq!(world.proven(), 1);
    world.publish(2, 2, None);
    world.ack("shop/a", 2);
    world.connected.remove(&pod("shop/c"));
    let (proof, judgement) = world.judge();
    assert_eq!((proof.waiting, judgement.until), (vec!["shop/b".to_owned(), "shop/c".to_owned()], Some(world.now + PATIENCE)));
    world.now += PATIENCE;
    let (proof, judgement) = world.judge();
    let expected = ["shop/b (has not acknowledged it for 10 s)", "shop/c (not connected to the controller)"];
    assert_eq!((&proof.left_out[..], judgement.settled), (&expected.map(str::to_owned)[..], true));
    assert_eq!((world.proven(), judgement.until), (2, None));
    world.publish(3, 3, None);
    world.ack("shop/a", 3);
    world.nack("shop/b");
    world.now += PATIENCE;
    assert_eq!((world.proven(), world.judge().0.waiting), (-1, vec!["shop/b (refused it: bad)".to_owned()]));
    world.ack("shop/b", 3);
    assert_eq!(world.proven(), 3);
    assert_eq!(world.judge().0.left_out, ["shop/c (not connected to the controller)"]);
}

#[test]
fn a_refusal_from_another_namespace_delays_and_holds_nothing_back() {
    let mut world = World::new(&["shop/a", "bank/b"]);
    world.publish(1, 1, None);
    world.ack("shop/a", 1);
    world.nack("bank/b");
    let (proof, judgement) = world.judge();
    assert_eq!((proof.waiting, proof.routes.len()), (vec!["bank/b (refused it: bad)".to_owned()], 0));
    assert_eq!((judgement.settled, judgement.until), (false, Some(world.now + PATIENCE)));
    world.now += PATIENCE;
    let (proof, judgement) = world.judge();
    assert_eq!((&proof.left_out[..], proof.is_called), (&["bank/b (refused it: bad)".to_owned()][..], true));
    assert_eq!((world.proven(), judgement.settled), (1, true));
    // It refuses each version, and may have come anew meanwhile: nobody waits for it again.
    for publication in 2..=4 {
        world.connect("bank/b", None, &["front"]);
        world.nack("bank/b");
        world.publish(publication, publication.try_into().unwrap(), None);
        assert_eq!((world.proven(), world.judge().0.waiting), (-1, vec!["shop/a".to_owned()]));
        world.ack("shop/a", publication);
        assert_eq!(world.proven(), publication.cast_signed());
    }
    // Nor is it waited for when there is nobody else. One of the route's own namespace is.
    world.connected.remove(&pod("shop/a"));
    world.ready.remove(&pod("shop/a"));
    world.publish(5, 5, None);
    let (proof, _) = world.judge();
    assert_eq!((proof.is_called, proof.left_out, proof.routes.len()), (false, vec!["bank/b (refused it: bad)".to_owned()], 1));
    world.ready.insert(pod("shop/c"));
    world.connect("shop/c", None, &["front"]);
    world.nack("shop/c");
    world.publish(6, 6, None);
    world.judge();
    world.now += PATIENCE;
    assert_eq!((world.proven(), world.judge().0.waiting), (-1, vec!["shop/c (refused it: bad)".to_owned()]));
    // For what is served it does not matter what else is refused.
    world.ready.remove(&pod("shop/c"));
    world.ack("bank/b", 6);
    world.publish(7, 6, None);
    world.nack("bank/b");
    world.judge();
    world.now += PATIENCE;
    let (proof, _) = world.judge();
    assert_eq!((proof.is_called, proof.left_out.len(), proof.routes[&route("shop")].generation), (true, 0, 6));
}

#[test]
fn consumers_hold_back_their_own_route_and_no_others() {
    let mut world = World::new(&["shop/a", "bank/b"]);
    world.publish(1, 1, Some(1));
    world.ack("shop/a", 1);
    world.nack("bank/b");
    assert_eq!(world.proven(), 1, "they are another audience");
    world.now += PATIENCE;
    assert!(!world.consumers_proven());
    let waiting = world.judge().1.proofs[&audience(Some("bank"))].waiting.clone();
    assert_eq!(waiting, ["bank/b (refused it: bad)"]);
}

#[test]
fn who_comes_and_goes_does_not_go_on() {
    let mut world = World::new(&["shop/a", "bank/b"]);
    for publication in 1..=4 {
        world.publish(publication, publication.try_into().unwrap(), None);
        world.ack("shop/a", publication);
        // It says to have served what it had before.
        world.connect("bank/b", None, &["front"]);
        world.judge();
        world.ack("bank/b", 0);
        world.judge();
        world.now += PATIENCE / 2;
    }
    assert_eq!(world.proven(), 4);
    assert_eq!(world.judge().0.left_out, ["bank/b (has not acknowledged it for 10 s)"]);
}

#[test]
fn a_laggard_is_left_out_however_often_something_is_published() {
    let mut world = World::new(&["shop/a", "shop/b"]);
    for publication in 1..=8 {
        world.publish(publication, 1 + i64::try_from(publication).unwrap(), None);
        world.ack("shop/a", publication);
        world.judge();
        world.now += PATIENCE / 4;
    }
    assert_eq!((world.proven(), world.judge().0.left_out.len()), (9, 1));
    // One that goes on, if slowly, is waited for.
    for publication in 9..=16 {
        world.publish(publication, 1 + i64::try_from(publication).unwrap(), None);
        world.ack("shop/a", publication);
        world.ack("shop/b", publication - 1);
        assert_eq!((world.proven(), world.judge().0.waiting), (-1, vec!["shop/b".to_owned()]), "{publication}");
        world.now += PATIENCE / 4;
    }
}

#[test]
fn the_only_caller_that_lags_proves_nothing_until_it_is_gone() {
    let mut world = World::new(&["shop/a"]);
    world.publish(1, 1, None);
    world.judge();
    world.now += PATIENCE;
    assert_eq!((world.proven(), world.judge().0.left_out.len()), (-1, 1));
    world.connected.clear();
    assert_eq!((world.proven(), world.judge().0.is_called), (1, false));
}

#[test]
fn a_new_leader_waits_for_those_who_come_over() {
    let mut world = World::new(&["shop/a"]);
    world.publish(1, 1, None);
    let before = std::mem::take(&mut world.connected);
    world.prover.begin(world.now);
    let (proof, judgement) = world.judge();
    assert_eq!(proof.waiting, ["sidecars that have not come to this controller yet (shop/a)"]);
    assert_eq!((judgement.settled, judgement.until), (false, Some(world.now + PATIENCE)));
    world.connected = before;
    world.ack("shop/a", 1);
    assert_eq!((world.proven(), world.judge().1.settled), (1, true));
    // One that does not come may call anything, but not for ever.
    world.ready.insert(pod("shop/b"));
    world.prover.begin(world.now);
    world.publish(2, 2, None);
    world.ack("shop/a", 2);
    assert_eq!(world.proven(), -1);
    world.now += PATIENCE;
    assert_eq!((world.proven(), world.judge().1.until), (2, None));
}

#[test]
fn rules_that_a_sidecar_of_the_namespace_cannot_run_are_told() {
    let mut world = World::new(&["shop/a", "shop/b"]);
    let lacks = BTreeMap::from([(route("shop"), "rules[1] (release 0.1.0)".to_owned())]);
    world.connected.get_mut(&pod("shop/b")).unwrap().lacking = lacks;
    world.publish(1, 1, None);
    assert_eq!(world.judge().0.lacking, BTreeMap::from([(route("shop"), "shop/b: rules[1] (release 0.1.0)".to_owned())]));
    world.connected.remove(&pod("shop/b"));
    assert!(world.judge().0.lacking.is_empty());
}

/// Whatever release it claims to be of: it is taken at its word for its own calls alone.
#[test]
fn a_claim_of_another_namespace_holds_nothing_back_and_is_named() {
    let mut world = World::new(&["shop/a", "bank/b"]);
    let both = BTreeMap::from([route("shop"), route("bank")].map(|key| (key, "rules[0] (release 0.0.1)".to_owned())));
    world.connected.get_mut(&pod("bank/b")).unwrap().lacking = both;
    world.publish(1, 1, None);
    for sidecar in ["shop/a", "bank/b"] {
        world.ack(sidecar, 1);
    }
    let (proof, judgement) = world.judge();
    assert_eq!((world.proven(), proof.lacking, judgement.settled), (1, BTreeMap::new(), true));
    assert_eq!(proof.left_out, [format!("bank/b (answers 500 for rules[0] (release 0.0.1) of {})", route("shop"))]);
    // A consumer's route is theirs, and the producer's not any more.
    world.publish(2, 1, Some(1));
    let (proof, judgement) = world.judge();
    assert!(proof.lacking.is_empty() && proof.left_out.is_empty());
    let own = BTreeMap::from([(route("bank"), "bank/b: rules[0] (release 0.0.1)".to_owned())]);
    assert_eq!(judgement.proofs[&audience(Some("bank"))].lacking, own);
    // One that has gone claims nothing.
    world.publish(3, 1, None);
    world.ack("bank/b", 3);
    world.connected.remove(&pod("bank/b"));
    assert_eq!(world.judge().0.left_out.len(), 0);
}

#[test]
fn a_message_names_a_few() {
    let names: Vec<String> = (0..9).map(|number| format!("shop/{number}")).collect();
    let mut world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    world.publish(1, 1, None);
    assert_eq!(world.judge().0.waiting, ["shop/0", "shop/1", "shop/2", "shop/3", "shop/4", "4 more"]);
}

#[test]
fn many_sidecars_are_judged_quickly() {
    let names: Vec<String> = (0..1000).map(|number| format!("shop/{number}")).collect();
    let mut world = World::new(&[]);
    let calls: Vec<String> = (0..50).map(|number| format!("s{number}")).collect();
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    for name in &names {
        world.ready.insert(pod(name));
        world.connect(name, Some(1), &calls);
    }
    let of = |generation| {
        let audiences = (0..1000).map(|number| {
            let routes = (0..5)
                .map(|of| (RouteKey { name: format!("r{of}"), ..route("shop") }, Edition { uid: String::new(), generation }));
            (Audience { service: port(&format!("s{number}")), clients: None }, routes.collect())
        });
        audiences.collect::<BTreeMap<_, _>>()
    };
    world.prover.publish(1, of(1));
    world.prover.publish(2, of(2));
    let start = Instant::now();
    let judgement = world.prover.judge(&world.ready, &world.connected, world.now);
    let took = start.elapsed();
    assert_eq!((judgement.proofs.len(), judgement.behind), (1000, 1000));
    // A debug build on a busy machine; a release build takes a tenth.
    assert!(took < Duration::from_secs(5), "{took:?}");
}
