//! What was published and what proxies acknowledged -> what is proven. Pure, but for its memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use isthmus_routing::{GatewayKey, Version};
use isthmus_translate::{Edition, Editions, Proof};

/// How long a ready proxy may take to acknowledge before nobody waits for it any more.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How many configurations of one Gateway are remembered while nobody has acknowledged them.
const REMEMBERED: usize = 16;

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
}

#[derive(Debug)]
struct Published {
    version: Version,
    editions: Editions,
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
        match self.published.back_mut() {
            // The same bytes for newer objects: whoever serves them serves the newer ones.
            Some(last) if last.version == version => last.editions = editions,
            _ => self.published.push_back(Published { version, editions, since: now }),
        }
        while self.published.len() > REMEMBERED {
            self.published.pop_front();
        }
    }

    fn judge(
        &mut self,
        ready: &BTreeSet<String>,
        connected: &BTreeMap<String, ProxyState>,
        now: Instant,
    ) -> (Proof, Option<Instant>) {
        let mut proof = Proof { ready: ready.len(), ..Proof::default() };
        let Some((newest, since)) = self.published.back().map(|last| (last.version, last.since)) else { return (proof, None) };
        let patient = now < since + PATIENCE;
        // How far the slowest one that counts has come.
        let mut reached = None;
        for pod in ready {
            let state = connected.get(pod);
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
                advance(&mut self.proven, &first.editions);
            }
        }
        proof.editions = self.proven.clone();
        let until = (patient && !proof.waiting.is_empty()).then_some(since + PATIENCE);
        (proof, until)
    }

    fn position(&self, version: Version) -> Option<usize> {
        self.published.iter().rposition(|published| published.version == version)
    }
}

/// Takes over what an acknowledged configuration carries.
fn advance(proven: &mut Editions, acked: &Editions) {
    proven.gateway = acked.gateway.clone();
    proven.listener_sets = acked.listener_sets.clone();
    proven.routes = acked.routes.clone();
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
