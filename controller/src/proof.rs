//! What was published and what proxies acknowledged -> what is proven. Pure, but for its memory.

mod sidecars;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_routing::{GatewayKey, Version};
use isthmus_translate::{Edition, Editions, Proof};

pub use sidecars::{SidecarJudgement, SidecarProver, SidecarState};

/// How long a ready proxy may take to acknowledge before nobody waits for it any more.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How many configurations of one Gateway are remembered while nobody has acknowledged them: proxies of a large one may be many behind
/// while endpoints come and go.
const REMEMBERED: usize = 256;
/// How many of them that are not of the same editions, which may be large.
const EDITIONS: usize = 32;

/// A connected proxy, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyState {
    /// The configuration that it serves.
    pub acked: Option<Version>,
    /// Why it refused the newest one.
    pub nack: Option<String>,
}

/// Remembers what was published for each Gateway and how far its proxies have come.
#[derive(Debug, Default)]
pub struct Prover {
    gateways: BTreeMap<GatewayKey, Track>,
}

#[derive(Debug, Default)]
struct Track {
    /// Oldest first; the last one is what proxies are to serve.
    published: VecDeque<Published>,
    proven: Editions,
    /// Ready proxies that do not serve the newest one: what they acknowledged last, and since when they stand still there.
    behind: BTreeMap<String, (Option<Version>, Instant)>,
}

#[derive(Debug)]
struct Published {
    version: Version,
    /// Shared with the one before if they are the same.
    editions: Arc<Editions>,
    since: Instant,
}

/// What there is to say of each Gateway.
#[derive(Debug, Default)]
pub struct Judgement {
    /// By Gateway.
    pub proofs: BTreeMap<GatewayKey, Proof>,
    /// When it would be another one although nothing happened: a proxy is not waited for any more.
    pub until: Option<Instant>,
    /// Whether all that are ready serve what was published last.
    pub settled: bool,
}

impl Prover {
    /// Takes over what each Gateway's proxies are to serve from now on. Gateways that are absent are forgotten.
    pub fn publish(&mut self, wanted: BTreeMap<GatewayKey, (Version, Editions)>, now: Instant) {
        self.gateways.retain(|key, _| wanted.contains_key(key));
        for (key, (version, editions)) in wanted {
            self.gateways.entry(key).or_default().publish(version, editions, now);
        }
    }

    /// From now on proxies come to this instance: each has the usual time to acknowledge what it may have served all along.
    pub fn begin(&mut self, now: Instant) {
        for track in self.gateways.values_mut() {
            track.behind.clear();
            if let Some(newest) = track.published.back_mut() {
                newest.since = now;
            }
        }
    }

    /// Judges by what the proxies said last. `ready` names the proxies that traffic is sent to, `connected` those with a stream.
    pub fn judge(
        &mut self,
        ready: &BTreeMap<GatewayKey, BTreeSet<String>>,
        connected: &BTreeMap<GatewayKey, BTreeMap<String, ProxyState>>,
        now: Instant,
    ) -> Judgement {
        let mut judgement = Judgement { settled: true, ..Judgement::default() };
        let (nobody, nothing) = (BTreeSet::new(), BTreeMap::new());
        for (key, track) in &mut self.gateways {
            let ready = ready.get(key).unwrap_or(&nobody);
            let (proof, until) = track.judge(ready, connected.get(key).unwrap_or(&nothing), now);
            judgement.settled &= proof.waiting.is_empty();
            judgement.until = [judgement.until, until].into_iter().flatten().min();
            judgement.proofs.insert(key.clone(), proof);
        }
        judgement
    }
}

impl Track {
    fn publish(&mut self, version: Version, editions: Editions, now: Instant) {
        forget(&mut self.proven, &editions);
        let last = self.published.back().map(|last| &last.editions);
        let editions = last.filter(|last| ***last == editions).cloned().unwrap_or_else(|| Arc::new(editions));
        match self.published.back_mut() {
            // The same bytes for newer objects: whoever serves them serves the newer ones.
            Some(last) if last.version == version => last.editions = editions,
            _ => self.published.push_back(Published { version, editions, since: now }),
        }
        while self.published.len() > REMEMBERED || self.distinct() > EDITIONS {
            self.published.pop_front();
        }
    }

    /// How many editions are remembered.
    fn distinct(&self) -> usize {
        let pairs = self.published.iter().zip(self.published.iter().skip(1));
        1 + pairs.filter(|(one, next)| !Arc::ptr_eq(&one.editions, &next.editions)).count()
    }

    fn judge(
        &mut self,
        ready: &BTreeSet<String>,
        connected: &BTreeMap<String, ProxyState>,
        now: Instant,
    ) -> (Proof, Option<Instant>) {
        let mut proof = Proof { ready: ready.len(), ..Proof::default() };
        let Some((newest, since)) = self.published.back().map(|last| (last.version, last.since)) else { return (proof, None) };
        self.behind.retain(|pod, _| ready.contains(pod));
        let mut until = None;
        // How far the slowest one that counts has come.
        let mut reached = None;
        for pod in ready {
            let state = connected.get(pod);
            // However often something newer is published, who stands still is waited for no longer.
            let patience = self.patience(pod, state.and_then(|state| state.acked), newest, since, now);
            let patient = patience.is_some_and(|patience| now < patience);
            until = until.into_iter().chain(patience.filter(|_| patient)).min();
            let at = state.and_then(|state| state.acked).and_then(|acked| self.position(acked));
            match state {
                Some(ProxyState { nack: Some(why), .. }) => proof.waiting.push(format!("{pod} (refused it: {why})")),
                Some(state) if state.acked == Some(newest) => {}
                _ if patient => proof.waiting.push(pod.clone()),
                Some(_) => proof.left_out.push(format!("{pod} (has not acknowledged it for {} s)", PATIENCE.as_secs())),
                None => proof.left_out.push(format!("{pod} (not connected to the controller)")),
            }
            let counts = patient || state.is_some_and(|state| state.nack.is_some() || state.acked == Some(newest));
            if counts {
                reached = Some(reached.map_or(at, |least: Option<usize>| least.min(at)));
            }
        }
        if let Some(at) = reached.flatten() {
            self.published.drain(..at);
            if let Some(first) = self.published.front() {
                self.proven = Editions::clone(&first.editions);
            }
            if let Some(newest) = self.published.back() {
                forget(&mut self.proven, &newest.editions);
            }
        }
        proof.editions = self.proven.clone();
        (proof, until)
    }

    /// Until when a ready proxy is waited for that has acknowledged `acked`; none: it serves the newest one, published `since` then.
    fn patience(&mut self, pod: &str, acked: Option<Version>, newest: Version, since: Instant, now: Instant) -> Option<Instant> {
        if acked == Some(newest) {
            self.behind.remove(pod);
            return None;
        }
        let (last, standing) = self.behind.entry(pod.to_owned()).or_insert((acked, since));
        // It goes on, if slowly. One that comes and goes does not.
        if acked.is_some() && *last != acked {
            (*last, *standing) = (acked, now);
        }
        Some(*standing + PATIENCE)
    }

    fn position(&self, version: Version) -> Option<usize> {
        self.published.iter().rposition(|published| published.version == version)
    }
}

/// What is not there any more, or is another object of the same name, has proven nothing.
fn forget(proven: &mut Editions, wanted: &Editions) {
    let same = |a: &Edition, b: Option<&Edition>| b.is_some_and(|b| a.uid == b.uid);
    if !same(&proven.gateway, Some(&wanted.gateway)) {
        *proven = Editions::default();
    }
    proven.listener_sets.retain(|name, edition| same(edition, wanted.listener_sets.get(name)));
    proven.routes.retain(|key, edition| same(edition, wanted.routes.get(key)));
}

#[cfg(test)]
mod tests {
    use isthmus_routing::{RouteKey, RouteKind, Snapshot};

    use super::*;

    fn key() -> GatewayKey {
        GatewayKey { namespace: "shop".to_owned(), name: "edge".to_owned() }
    }

    fn route() -> RouteKey {
        RouteKey { namespace: "shop".to_owned(), name: "r".to_owned(), kind: RouteKind::Http }
    }

    /// A version for each number.
    fn version(number: u8) -> Version {
        let mut snapshot = Snapshot::default();
        let key = isthmus_routing::CertificateKey { namespace: "shop".to_owned(), name: number.to_string() };
        snapshot.kept.insert(key);
        snapshot.version()
    }

    fn edition(uid: &str, generation: i64) -> Edition {
        Edition { uid: uid.to_owned(), generation }
    }

    fn editions(gateway: i64, route_generation: Option<i64>) -> Editions {
        let routes = route_generation.map(|generation| (route(), edition("r", generation))).into_iter().collect();
        Editions { gateway: edition("g", gateway), routes, ..Editions::default() }
    }

    struct World {
        prover: Prover,
        ready: BTreeSet<String>,
        connected: BTreeMap<String, ProxyState>,
        now: Instant,
    }

    impl World {
        fn new(ready: &[&str]) -> Self {
            let ready = ready.iter().map(|pod| (*pod).to_owned()).collect();
            Self { prover: Prover::default(), ready, connected: BTreeMap::new(), now: Instant::now() }
        }

        fn publish(&mut self, number: u8, editions: Editions) {
            self.prover.publish(BTreeMap::from([(key(), (version(number), editions))]), self.now);
        }

        fn ack(&mut self, pod: &str, number: u8) {
            self.connected.insert(pod.to_owned(), ProxyState { acked: Some(version(number)), nack: None });
        }

        fn nack(&mut self, pod: &str, number: Option<u8>) {
            let acked = number.map(version);
            self.connected.insert(pod.to_owned(), ProxyState { acked, nack: Some("bad".to_owned()) });
        }

        fn judge(&mut self) -> (Proof, Judgement) {
            let ready = BTreeMap::from([(key(), self.ready.clone())]);
            let connected = BTreeMap::from([(key(), self.connected.clone())]);
            let judgement = self.prover.judge(&ready, &connected, self.now);
            (judgement.proofs[&key()].clone(), judgement)
        }

        /// The proven generations of the Gateway and the route; -1: none.
        fn proven(&mut self) -> (i64, i64) {
            let editions = self.judge().0.editions;
            let of_route = editions.routes.get(&route()).map_or(-1, |edition| edition.generation);
            (if editions.gateway.uid.is_empty() { -1 } else { editions.gateway.generation }, of_route)
        }
    }

    #[test]
    fn proven_is_what_every_ready_proxy_has_acknowledged() {
        let mut world = World::new(&["a", "b"]);
        world.publish(1, editions(1, Some(1)));
        assert_eq!(world.proven(), (-1, -1), "nobody has acknowledged it");
        world.ack("a", 1);
        assert_eq!(world.proven(), (-1, -1), "one has not");
        assert_eq!(world.judge().0.waiting, ["b"]);
        world.ack("b", 1);
        assert_eq!(world.proven(), (1, 1));
        assert!(world.judge().1.settled);
        world.publish(2, editions(1, Some(2)));
        world.publish(3, editions(1, Some(3)));
        world.ack("a", 3);
        world.ack("b", 2);
        assert_eq!(world.proven(), (1, 2), "as far as the slower one");
        assert_eq!(world.judge().0.waiting, ["b"]);
        world.ack("b", 3);
        assert_eq!(world.proven(), (1, 3));
    }

    #[test]
    fn it_is_latched_for_a_generation() {
        let mut world = World::new(&["a"]);
        world.publish(1, editions(1, Some(1)));
        world.ack("a", 1);
        assert_eq!(world.proven(), (1, 1));
        world.publish(2, editions(1, Some(1)));
        assert_eq!(world.proven(), (1, 1), "endpoints changed, and the proxy has them not yet");
        world.ready.clear();
        assert_eq!((world.proven(), world.judge().0.ready), ((1, 1), 0), "that nobody is ready is told apart");
    }

    #[test]
    fn the_same_bytes_for_newer_objects_need_no_new_acknowledgement() {
        let mut world = World::new(&["a"]);
        world.publish(1, editions(1, Some(1)));
        world.ack("a", 1);
        assert_eq!(world.proven(), (1, 1));
        world.publish(1, editions(2, Some(5)));
        assert_eq!(world.proven(), (2, 5));
    }

    #[test]
    fn recreated_and_removed_objects_have_proven_nothing() {
        let mut world = World::new(&["a"]);
        world.publish(1, editions(4, Some(4)));
        world.ack("a", 1);
        assert_eq!(world.proven(), (4, 4));
        let other = Editions { gateway: edition("g2", 1), routes: [(route(), edition("r2", 1))].into(), ..Editions::default() };
        world.publish(2, other);
        assert_eq!(world.proven(), (-1, -1));
        world.ack("a", 2);
        assert_eq!(world.proven(), (1, 1));
        world.publish(3, Editions { routes: BTreeMap::new(), gateway: edition("g2", 1), ..Editions::default() });
        assert_eq!(world.proven(), (1, -1));
    }

    #[test]
    fn laggards_are_left_out_after_a_while_and_refusals_are_not() {
        let mut world = World::new(&["a", "b", "c"]);
        world.publish(1, editions(1, None));
        world.ack("a", 1);
        world.ack("b", 9);
        let (proof, judgement) = world.judge();
        assert_eq!((proof.waiting, proof.left_out.len()), (vec!["b".to_owned(), "c".to_owned()], 0));
        assert_eq!(judgement.until, Some(world.now + PATIENCE));
        world.now += PATIENCE;
        let (proof, judgement) = world.judge();
        assert_eq!(proof.left_out, ["b (has not acknowledged it for 10 s)", "c (not connected to the controller)"]);
        assert_eq!((world.proven(), judgement.until), ((1, -1), None));
        world.publish(2, editions(2, None));
        world.ack("a", 2);
        world.nack("b", Some(1));
        world.now += PATIENCE;
        assert_eq!(world.judge().0.waiting, ["b (refused it: bad)"]);
        assert_eq!(world.proven(), (1, -1), "a refusal is never an acknowledgement");
    }

    #[test]
    fn a_laggard_is_left_out_however_often_something_is_published() {
        let mut world = World::new(&["a", "b"]);
        let step = PATIENCE / 4;
        for number in 1..=8 {
            world.publish(number, editions(1, Some(number.into())));
            world.ack("a", number);
            world.judge();
            world.now += step;
        }
        let (proof, judgement) = world.judge();
        assert_eq!((proof.left_out, judgement.settled), (vec!["b (not connected to the controller)".to_owned()], true));
        assert_eq!(world.proven(), (1, 8));
        // One that goes on, if slowly, is waited for.
        for number in 9..=16 {
            world.publish(number, editions(1, Some(number.into())));
            world.ack("a", number);
            world.ack("b", number - 1);
            assert_eq!(world.judge().0.waiting, ["b"]);
            assert_eq!(world.proven().1, i64::from(number) - 1);
            world.now += step;
        }
        world.ack("b", 16);
        assert!(world.judge().1.settled);
        assert_eq!(world.proven(), (1, 16));
    }

    #[test]
    fn a_new_leader_waits_for_proxies_to_come_over() {
        let mut world = World::new(&["a"]);
        world.publish(1, editions(1, None));
        world.now += 100 * PATIENCE;
        world.prover.begin(world.now);
        let (proof, judgement) = world.judge();
        assert!(!judgement.settled && proof.waiting == ["a"] && judgement.until == Some(world.now + PATIENCE));
        world.ack("a", 1);
        assert!(world.judge().1.settled);
        assert_eq!(world.proven(), (1, -1));
    }

    #[test]
    fn nobody_left_to_wait_for_proves_nothing() {
        let mut world = World::new(&["a"]);
        world.publish(1, editions(1, None));
        world.now += PATIENCE;
        assert_eq!(world.proven(), (-1, -1));
    }

    #[test]
    fn a_proxy_that_is_far_behind_proves_what_it_serves() {
        let mut world = World::new(&["a"]);
        for number in 0..200 {
            world.publish(number, editions(1, Some(1 + i64::from(number) / 100)));
        }
        world.ack("a", 50);
        assert_eq!(world.proven(), (1, 1));
        world.ack("a", 100);
        assert_eq!(world.proven(), (1, 2));
    }

    #[test]
    fn what_nobody_acknowledges_is_not_remembered_for_ever() {
        let mut world = World::new(&["a"]);
        for number in 0..40 {
            world.publish(number, editions(i64::from(number) + 1, None));
        }
        assert_eq!(world.prover.gateways[&key()].published.len(), EDITIONS);
        world.ack("a", 39);
        assert_eq!(world.proven(), (40, -1));
        for number in 0..600_u32 {
            world.publish(u8::try_from(number % 251).unwrap(), editions(40, None));
        }
        assert_eq!(world.prover.gateways[&key()].published.len(), REMEMBERED);
    }
}
