//! What was published to sidecars and what they acknowledged -> what routes on Services are proven. Pure, but for its memory.
//!
//! A publication is one for the whole mesh, and a sidecar acknowledges it when it serves its own part of it. So all there is to remember
//! of a route is the first publication that had its edition: who serves that one or a later one serves the edition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use isthmus_routing::{BackendKey, RouteKey};
use isthmus_translate::{Audience, Edition, ServiceProof};

use super::PATIENCE;

/// A pod with a sidecar: its namespace and its name.
type Pod = (String, String);

/// A connected sidecar, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SidecarState {
    /// The newest publication of which it serves its part.
    pub acked: Option<u64>,
    /// Why it refused a later one.
    pub nack: Option<String>,
    /// What its workload calls.
    pub calls: Arc<BTreeSet<BackendKey>>,
    /// Rules that it cannot run, in words, by route.
    pub lacking: BTreeMap<RouteKey, String>,
}

/// Remembers what was published first when, and how far sidecars have come.
#[derive(Debug, Default)]
pub struct SidecarProver {
    /// The newest publication.
    newest: u64,
    /// What it and those before it carry, by the Service's port, then by whose calls are meant.
    services: BTreeMap<BackendKey, BTreeMap<Option<String>, Carried>>,
    /// Ready sidecars that are or were connected.
    known: BTreeMap<Pod, Known>,
    /// Until when sidecars are expected that were connected to another instance.
    expected: Option<Instant>,
}

/// The routes of an audience.
#[derive(Debug, Default)]
struct Carried {
    /// Its number among all of them.
    number: usize,
    routes: BTreeMap<RouteKey, Since>,
}

/// Since when an edition is carried.
#[derive(Debug)]
struct Since {
    edition: Edition,
    publication: u64,
    proven: bool,
}

#[derive(Debug)]
struct Known {
    state: SidecarState,
    connected: bool,
    /// Since when it stands still behind the newest publication.
    standing: Option<Instant>,
}

/// What there is to say.
#[derive(Debug, Default)]
pub struct SidecarJudgement {
    /// Of each audience that has routes.
    pub proofs: BTreeMap<Audience, ServiceProof>,
    /// When it would be another one although nothing happened: a sidecar is not waited for any more.
    pub until: Option<Instant>,
    /// Whether nobody is waited for.
    pub settled: bool,
    /// How many ready sidecars that are connected do not serve the newest publication.
    pub behind: usize,
    /// Since when the one of them that stands still for the longest does.
    pub standing: Option<Instant>,
}

/// How many sidecars a message names.
const NAMED: usize = 5;

impl SidecarProver {
    /// Takes over what sidecars are to serve from now on. What is absent is forgotten. The same publication for newer editions: whoever serves
    /// it serves these.
    pub fn publish(&mut self, publication: u64, audiences: BTreeMap<Audience, BTreeMap<RouteKey, Edition>>) {
        self.newest = publication;
        let mut before = std::mem::take(&mut self.services);
        for (number, (Audience { service, clients }, editions)) in audiences.into_iter().enumerate() {
            let mut known = before.get_mut(&service).and_then(|of_port| of_port.remove(&clients)).unwrap_or_default();
            let since = |(key, edition): (RouteKey, Edition)| {
                let same = known.routes.remove(&key).filter(|since| since.edition == edition);
                (key, same.unwrap_or(Since { edition, publication, proven: false }))
            };
            let routes = editions.into_iter().map(since).collect();
            self.services.entry(service).or_default().insert(clients, Carried { number, routes });
        }
    }

    /// From now on sidecars come to this instance: they have some time for that.
    pub fn begin(&mut self, now: Instant) {
        self.known.clear();
        self.expected = Some(now + PATIENCE);
    }

    /// Judges by what the sidecars said last. `ready` names the pods with sidecars that are ready, `connected` those with a stream.
    pub fn judge(&mut self, ready: &BTreeSet<Pod>, connected: &BTreeMap<Pod, SidecarState>, now: Instant) -> SidecarJudgement {
        self.take(ready, connected, now);
        let mut judgement = SidecarJudgement { settled: true, ..SidecarJudgement::default() };
        for known in self.known.values() {
            let patience = known.standing.map(|standing| standing + PATIENCE).filter(|patience| now < *patience);
            judgement.until = judgement.until.into_iter().chain(patience).min();
            if let Some(standing) = known.standing.filter(|_| known.connected) {
                judgement.behind += 1;
                judgement.standing = judgement.standing.into_iter().chain([standing]).min();
            }
        }
        let missing = self.missing(ready, now);
        if missing.is_some() {
            judgement.until = judgement.until.into_iter().chain(self.expected).min();
        }
        let callers = callers(&self.services, &self.known);
        for (service, of_port) in &mut self.services {
            for (clients, carried) in of_port {
                let callers = callers.get(carried.number).map(Vec::as_slice).unwrap_or_default();
                let proof = carried.judge(callers, missing.as_deref(), now);
                judgement.settled &= proof.waiting.is_empty();
                judgement.proofs.insert(Audience { service: service.clone(), clients: clients.clone() }, proof);
            }
        }
        judgement
    }

    /// Takes note of who is there and how far they are.
    fn take(&mut self, ready: &BTreeSet<Pod>, connected: &BTreeMap<Pod, SidecarState>, now: Instant) {
        self.known.retain(|pod, _| ready.contains(pod));
        for (pod, known) in &mut self.known {
            known.connected = connected.contains_key(pod);
        }
        for (pod, state) in connected.iter().filter(|(pod, _)| ready.contains(*pod)) {
            match self.known.get_mut(pod) {
                Some(known) => {
                    // It goes on, if slowly. One that comes and goes does not.
                    let goes_on = state.acked.is_some() && state.acked != known.state.acked;
                    known.standing = known.standing.filter(|_| !goes_on);
                    known.state = state.clone();
                }
                None => {
                    self.known.insert(pod.clone(), Known { state: state.clone(), connected: true, standing: None });
                }
            }
        }
        for known in self.known.values_mut() {
            let is_behind = !known.connected || known.state.acked != Some(self.newest);
            known.standing = is_behind.then(|| known.standing.unwrap_or(now));
        }
    }

    /// Sidecars that may be on their way to this instance, in words: nobody knows what they call.
    fn missing(&mut self, ready: &BTreeSet<Pod>, now: Instant) -> Option<String> {
        let missing: Vec<&Pod> = ready.iter().filter(|pod| !self.known.contains_key(*pod)).collect();
        self.expected = self.expected.filter(|until| now < *until && !missing.is_empty());
        self.expected?;
        let names = named(missing.into_iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect());
        Some(format!("sidecars that have not come to this controller yet ({})", names.join(", ")))
    }
}

type Caller<'k> = (&'k Pod, &'k Known);

/// Who calls each port that has routes, by the number of the audience that they are in.
fn callers<'k>(
    services: &BTreeMap<BackendKey, BTreeMap<Option<String>, Carried>>,
    known: &'k BTreeMap<Pod, Known>,
) -> Vec<Vec<Caller<'k>>> {
    let mut callers = vec![Vec::new(); services.values().map(BTreeMap::len).sum()];
    for (pod, known) in known {
        let own = Some(pod.0.clone());
        for service in known.state.calls.iter() {
            let Some(of_port) = services.get(service) else { continue };
            let number = of_port.get(&own).or_else(|| of_port.get(&None)).map(|carried| carried.number);
            if let Some(callers) = number.and_then(|number| callers.get_mut(number)) {
                callers.push((pod, known));
            }
        }
    }
    callers
}

impl Carried {
    fn judge(&mut self, callers: &[Caller<'_>], missing: Option<&str>, now: Instant) -> ServiceProof {
        let last = self.routes.values().map(|since| since.publication).max().unwrap_or_default();
        let mut proof = ServiceProof { is_called: callers.iter().any(|(_, known)| known.connected), ..ServiceProof::default() };
        let mut waiting = Vec::new();
        // How far the slowest one that counts has come; and whether there is anybody else.
        let (mut reached, mut anybody) = (None, proof.is_called);
        for ((namespace, name), known) in callers {
            let at = known.state.acked;
            let patient = known.standing.is_none_or(|standing| now < standing + PATIENCE);
            let refused = known.state.nack.as_ref().filter(|_| known.connected);
            if patient || refused.is_some() {
                reached = Some(reached.map_or(at, |least: Option<u64>| least.min(at)));
                anybody = true;
            }
            if at.is_some_and(|at| at >= last) {
                continue;
            }
            match refused {
                Some(why) => waiting.push(format!("{namespace}/{name} (refused it: {why})")),
                None if patient => waiting.push(format!("{namespace}/{name}")),
                None if known.connected => {
                    let seconds = PATIENCE.as_secs();
                    proof.left_out.push(format!("{namespace}/{name} (has not acknowledged it for {seconds} s)"));
                }
                None => proof.left_out.push(format!("{namespace}/{name} (not connected to the controller)")),
            }
        }
        for since in self.routes.values_mut().filter(|_| missing.is_none()) {
            let reached = reached.flatten().is_some_and(|at: u64| at >= since.publication);
            // Who calls it later is given nothing older.
            since.proven |= reached || !anybody;
        }
        proof.routes = self
            .routes
            .iter()
            .filter(|(_, since)| since.proven)
            .map(|(key, since)| (key.clone(), since.edition.clone()))
            .collect();
        // Of what is proven it does not matter who is about to get it once more.
        if proof.routes.len() < self.routes.len() {
            waiting.extend(missing.map(str::to_owned));
            proof.waiting = named(waiting);
        }
        proof.left_out = named(proof.left_out);
        proof.lacking = self.routes.keys().filter_map(|key| Some((key.clone(), lacking(key, callers)?))).collect();
        proof
    }
}

/// Which rules of a route some that are connected cannot run, and who; none: all of them can.
fn lacking(key: &RouteKey, callers: &[Caller<'_>]) -> Option<String> {
    let told = callers.iter().filter(|(_, known)| known.connected).filter_map(|((namespace, name), known)| {
        let rules = known.state.lacking.get(key)?;
        Some(format!("{namespace}/{name}: {rules}"))
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| named(told).join("; "))
}

fn named(mut names: Vec<String>) -> Vec<String> {
    if names.len() > NAMED {
        let more = names.len() - NAMED;
        names.truncate(NAMED);
        names.push(format!("{more} more"));
    }
    names
}

#[cfg(test)]
mod tests {
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

        /// Publishes the producer's route in this generation, and maybe that of consumers in `bank`.
        fn publish(&mut self, publication: u64, generation: i64, consumer: Option<i64>) {
            let of = |namespace: &str, generation| {
                BTreeMap::from([(route(namespace), Edition { uid: namespace.to_owned(), generation })])
            };
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
        assert_eq!(
            (proof.waiting, judgement.until),
            (vec!["shop/b".to_owned(), "shop/c".to_owned()], Some(world.now + PATIENCE))
        );
        world.now += PATIENCE;
        let (proof, judgement) = world.judge();
        let expected = ["shop/b (has not acknowledged it for 10 s)", "shop/c (not connected to the controller)"];
        assert_eq!((&proof.left_out[..], judgement.settled), (&expected.map(str::to_owned)[..], true));
        assert_eq!((world.proven(), judgement.until), (2, None));
        world.publish(3, 3, None);
        world.ack("shop/a", 3);
        world.connected.get_mut(&pod("shop/b")).unwrap().nack = Some("bad".to_owned());
        world.now += PATIENCE;
        assert_eq!((world.proven(), world.judge().0.waiting), (-1, vec!["shop/b (refused it: bad)".to_owned()]));
        world.ack("shop/b", 3);
        assert_eq!(world.proven(), 3);
        assert_eq!(world.judge().0.left_out, ["shop/c (not connected to the controller)"]);
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
    fn rules_that_a_sidecar_cannot_run_are_told() {
        let mut world = World::new(&["shop/a", "shop/b"]);
        let lacks = BTreeMap::from([(route("shop"), "rules[1] (release 0.1.0)".to_owned())]);
        world.connected.get_mut(&pod("shop/b")).unwrap().lacking = lacks;
        world.publish(1, 1, None);
        assert_eq!(world.judge().0.lacking, BTreeMap::from([(route("shop"), "shop/b: rules[1] (release 0.1.0)".to_owned())]));
        world.connected.remove(&pod("shop/b"));
        assert!(world.judge().0.lacking.is_empty());
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
}
