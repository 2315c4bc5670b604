//! What was published to sidecars and what they acknowledged -> what routes on Services are proven. Pure, but for its memory.
//!
//! A publication is one for the whole mesh, and a sidecar acknowledges it when it serves its own part of it. So all there is to remember
//! of a route is the first publication that had its edition: who serves that one or a later one serves the edition.
//!
//! Any pod may call any Service, and says itself what it calls, what it serves and what it can run. So a sidecar of another namespace than
//! the routes' can delay their proof, as long as anybody is waited for, and not withhold it: neither by silence or a refusal, nor by the claim
//! that it is of a release that cannot run a rule. The status names it all the same.

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
    /// The newest publication that it has ever served.
    furthest: Option<u64>,
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
                let home = clients.as_ref().unwrap_or(&service.namespace);
                let proof = carried.judge(home, callers, missing.as_deref(), now);
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
                    let goes_on = state.acked > known.furthest;
                    known.standing = known.standing.filter(|_| !goes_on);
                    known.furthest = known.furthest.max(state.acked);
                    known.state = state.clone();
                }
                None => {
                    let known = Known { state: state.clone(), furthest: state.acked, connected: true, standing: None };
                    self.known.insert(pod.clone(), known);
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
    /// `home` is the namespace that the routes are in.
    fn judge(&mut self, home: &str, callers: &[Caller<'_>], missing: Option<&str>, now: Instant) -> ServiceProof {
        let last = self.routes.values().map(|since| since.publication).max().unwrap_or_default();
        let mut proof = ServiceProof::default();
        let mut waiting = Vec::new();
        // How far the slowest one that is asked has come; and whether there is anybody who counts, even if not asked any more.
        let (mut reached, mut anybody) = (None, false);
        for ((namespace, name), known) in callers {
            let at = known.state.acked;
            let serves = at.is_some_and(|at| at >= last);
            let patient = known.standing.is_none_or(|standing| now < standing + PATIENCE);
            let refused = known.state.nack.as_ref().filter(|_| known.connected);
            let is_own = namespace == home;
            let asked = patient || if is_own { refused.is_some() } else { serves };
            if asked {
                reached = Some(reached.map_or(at, |least: Option<u64>| least.min(at)));
            }
            let counts = known.connected && (asked || is_own);
            proof.is_called |= counts;
            anybody |= asked || counts;
            if serves {
                if let Some((key, rules)) = self.cannot_run(known).next().filter(|_| known.connected && !is_own) {
                    proof.left_out.push(format!("{namespace}/{name} (answers 500 for {rules} of {key})"));
                }
                continue;
            }
            match refused {
                Some(why) if asked => waiting.push(format!("{namespace}/{name} (refused it: {why})")),
                Some(why) => proof.left_out.push(format!("{namespace}/{name} (refused it: {why})")),
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
        proof.lacking = self.lacking(home, callers);
        proof
    }

    /// Which rules some of the routes' namespace that are connected cannot run, and who; by route.
    fn lacking(&self, home: &str, callers: &[Caller<'_>]) -> BTreeMap<RouteKey, String> {
        let mut lacking = BTreeMap::<_, Vec<_>>::new();
        for ((namespace, name), known) in callers.iter().filter(|((namespace, _), known)| known.connected && namespace == home) {
            for (key, rules) in self.cannot_run(known) {
                lacking.entry(key.clone()).or_default().push(format!("{namespace}/{name}: {rules}"));
            }
        }
        lacking.into_iter().map(|(key, told)| (key, named(told).join("; "))).collect()
    }

    fn cannot_run<'k>(&self, known: &'k Known) -> impl Iterator<Item = (&'k RouteKey, &'k String)> {
        known.state.lacking.iter().filter(|(key, _)| self.routes.contains_key(*key))
    }
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
mod tests;
