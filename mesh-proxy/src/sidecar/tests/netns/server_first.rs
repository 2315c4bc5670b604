//! A protocol in which the server speaks first: what a pair of sidecars adds until its first word is there.

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_routing::MtlsMode;

use super::Faults;
use super::apps::GREETING;
use super::client::greeted;
use super::net::APPLICATION;
use super::town::{Name, Town, UNNAMED, Version};

/// How often each is measured. The quickest counts, since the machine may be busy, and when it is quick enough, that is enough.
const TIMES: std::ops::RangeInclusive<usize> = 5..=50;
/// Nobody waits for anything.
const NO_WAIT: Duration = Duration::from_millis(25);
/// The caller's sidecar waits for 10 ms whether it is HTTP, since nothing says what it is.
const UNNAMED_WAIT: (Duration, Duration) = (Duration::from_millis(9), Duration::from_millis(40));
/// What a permissive workload's sidecar waits for those that it does not know, before it lets the workload speak.
const STRANGER_WAIT: (Duration, Duration) = (Duration::from_millis(45), Duration::from_millis(150));

pub(super) fn run(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    let v4 = Version::V4;
    let direct = match quickest(town, Name::Rogue, Name::Plain.at(v4, GREETING), Name::Plain, NO_WAIT) {
        Ok(took) => took,
        Err(fault) => return vec![format!("direct: {fault}")],
    };
    let none = (Duration::ZERO, NO_WAIT);
    for mode in [MtlsMode::Permissive, MtlsMode::Strict] {
        town.set_mode(mode);
        let mut cases = vec![
            ("a Service's port that is known for it", Name::Web, Name::Cart.service(v4, GREETING), Name::Cart, none),
            ("the same over IPv6", Name::Cart, Name::Web.service(Version::V6, GREETING), Name::Web, none),
            ("a Service's port without a name", Name::Web, Name::Cart.service(v4, UNNAMED), Name::Cart, UNNAMED_WAIT),
            ("a pod's address", Name::Web, Name::Cart.at(v4, GREETING), Name::Cart, none),
            ("a pod without a sidecar", Name::Web, Name::Plain.at(v4, GREETING), Name::Plain, none),
        ];
        if mode == MtlsMode::Permissive {
            cases.push(("from a pod without a sidecar", Name::Plain, Name::Cart.at(v4, GREETING), Name::Cart, STRANGER_WAIT));
        }
        for (what, from, to, by, (least, most)) in cases {
            let added = quickest(town, from, to, by, direct + most).map(|took| took.saturating_sub(direct));
            eprintln!("  {mode:?}, {what}: {added:.1?} beside {direct:.1?}");
            match added {
                Ok(added) if (least..most).contains(&added) => {}
                other => faults.push(format!("{mode:?}, {what}: {other:?} added to {direct:?}, not {least:?} to {most:?}")),
            }
        }
    }
    town.set_mode(MtlsMode::Permissive);
    faults
}

fn quickest(town: &Town, from: Name, to: SocketAddr, by: Name, enough: Duration) -> Result<Duration, String> {
    let mut quickest = Duration::MAX;
    for time in 1..=*TIMES.end() {
        quickest = quickest.min(greeted(town.net(from), APPLICATION, to, by.as_str())?);
        if TIMES.contains(&time) && quickest < enough {
            break;
        }
    }
    Ok(quickest)
}
