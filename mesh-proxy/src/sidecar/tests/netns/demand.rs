//! Services whose configuration comes with the first call, late, never, or no more because the controller is away.

use std::thread;
use std::time::Duration;

use isthmus_routing::MtlsMode;

use super::Faults;
use super::apps::HTTP;
use super::client::Outcome;
use super::town::{LATE, NEVER, Name, OUTSIDE, Town, Version, cluster};

const V4: Version = Version::V4;
/// When the late one comes.
const LATER: Duration = Duration::from_millis(300);
/// What a call waits at most, and what a busy machine adds.
const WAIT: Duration = Duration::from_millis(1000);
const SLOWNESS: Duration = Duration::from_millis(600);
/// Until a call fails that waits for nothing.
const AT_ONCE: Duration = Duration::from_millis(500);

pub(super) fn run(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    let late = cluster(LATE, V4, 80);
    let outcome = thread::scope(|scope| {
        let call = scope.spawn(|| town.get(Name::Web, late, "/"));
        thread::sleep(LATER);
        town.appear(LATE);
        call.join().unwrap()
    });
    if outcome.pod() != Some("cart") || !(LATER..WAIT).contains(&outcome.took) {
        faults.push(format!("one that comes after {LATER:?}: {outcome}"));
    }
    let outcome = town.get(Name::Web, late, "/");
    if outcome.pod() != Some("cart") || outcome.took > AT_ONCE {
        faults.push(format!("the same when it is there: {outcome}"));
    }
    faults.extend(never(town));
    faults
}

/// The first call waits, the next one does not: with and without a controller.
fn never(town: &Town) -> Option<String> {
    // The other pod has not called it yet.
    let [first, next] = [0, 1].map(|_| town.get(Name::Cart, cluster(NEVER, V4, 80), "/"));
    let is_503 = |outcome: &Outcome| outcome.code() == Some(503);
    let is_quick = first.took < WAIT + SLOWNESS && next.took < AT_ONCE;
    (!is_503(&first) || !is_503(&next) || !is_quick).then(|| format!("one that never comes: {first}, then {next}"))
}

/// For the first 30 s: until then, what is known counts as all that there is, to strict workloads too.
pub(super) fn alone(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    town.set_mode(MtlsMode::Strict);
    town.lose_controller();
    // What `never` has learnt is forgotten by then.
    thread::sleep(Duration::from_secs(3));
    let passed = |town: &Town| town.count(Name::Web, "isthmus_connections_accepted_total", &["parent_kind=\"Passthrough\""], &[]);
    let before = passed(town);
    for (what, to, pod) in [
        ("a Service that was called before", Name::Cart.service(V4, 80), "cart"),
        ("a workload", Name::Cart.at(Version::V6, HTTP), "cart"),
        ("a pod without a sidecar", Name::Plain.at(V4, HTTP), "plain"),
        ("an address of nobody's that is known", (OUTSIDE, HTTP).into(), "plain"),
    ] {
        let outcome = town.get(Name::Web, to, "/");
        if outcome.pod() != Some(pod) || outcome.took > AT_ONCE {
            faults.push(format!("{what}: {outcome}"));
        }
    }
    if passed(town) != before + 2 {
        faults.push(format!("{} passed through, not the two that are nobody's", passed(town) - before));
    }
    // Known by its address, and no more: never past its routes.
    faults.extend(never(town));
    let unready = Name::CAPTURED.into_iter().filter(|name| !town.is_ready(*name));
    faults.extend(unready.map(|name| format!("{name:?} is not ready any more")));
    faults
}

/// Nothing goes past a sidecar that is not there: neither in nor out, and nobody waits for it.
pub(super) fn without_sidecar(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    town.end_sidecar(Name::Cart);
    for (from, to) in [
        (Name::Cart, Name::Plain.at(V4, HTTP)),
        (Name::Cart, Name::Web.service(Version::V6, 80)),
        (Name::Plain, Name::Cart.at(Version::V6, HTTP)),
        (Name::Web, Name::Cart.at(V4, HTTP)),
        (Name::Web, Name::Cart.service(V4, 80)),
    ] {
        let outcome = town.get(from, to, "/");
        let is_refused = outcome.is_nothing() || outcome.code() == Some(503);
        if !is_refused || outcome.took > WAIT {
            faults.push(format!("{from:?} to {to}: {outcome}"));
        }
    }
    // What a pod says to itself is not the sidecar's.
    let outcome = town.get(Name::Cart, Name::Cart.at(V4, HTTP), "/");
    faults.extend((outcome.pod() != Some("cart")).then(|| format!("to itself: {outcome}")));
    faults
}
