//! The sidecar's own ports, dialled by everybody who can: a page, or an end without a word, never a loop.

use std::time::Duration;

use super::Faults;
use super::client;
use super::net::APPLICATION;
use super::town::{Name, Town, Version};
use crate::redirect::{ADMIN, INBOUND, OUTBOUND};

/// Who dials.
#[derive(Debug, Clone, Copy)]
enum From {
    /// The pod's application, by the pod's address.
    Itself,
    /// The same by the loopback address.
    Localhost,
    /// Another pod.
    Neighbour(Name),
}

/// What comes of it.
#[derive(Debug, Clone, Copy)]
enum End {
    Page,
    /// Nobody listens.
    Nobody,
    /// The sidecar refuses it, and counts it so.
    Refused(&'static str),
}

const WEB: From = From::Neighbour(Name::Web);
const PLAIN: From = From::Neighbour(Name::Plain);
const PORTS: [(From, u16, End); 12] = [
    // What the kernel redirects of the application's comes to the loopback address, so there is nobody at the pod's.
    (From::Itself, OUTBOUND, End::Nobody),
    (From::Localhost, OUTBOUND, End::Refused("not_redirected")),
    (WEB, OUTBOUND, End::Refused("loop")),
    (PLAIN, OUTBOUND, End::Refused("loop")),
    (From::Itself, INBOUND, End::Refused("not_redirected")),
    (From::Localhost, INBOUND, End::Refused("not_redirected")),
    // Redirected to where it was going anyway.
    (WEB, INBOUND, End::Refused("not_redirected")),
    (PLAIN, INBOUND, End::Refused("not_redirected")),
    (From::Itself, ADMIN, End::Page),
    (From::Localhost, ADMIN, End::Page),
    (WEB, ADMIN, End::Page),
    (PLAIN, ADMIN, End::Page),
];

const QUICKLY: Duration = Duration::from_millis(1500);

pub(super) fn run(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    for (from, port, end) in PORTS {
        for version in Version::BOTH {
            let (caller, to) = match from {
                From::Itself => (Name::Cart, Name::Cart.at(version, port)),
                From::Localhost => (Name::Cart, (version.localhost(), port).into()),
                From::Neighbour(name) => (name, Name::Cart.at(version, port)),
            };
            let counted = || if let End::Refused(reason) = end { town.faults(Name::Cart, reason) } else { 0 };
            let before = counted();
            let outcome = client::get(town.net(caller), APPLICATION, to, "/livez", &[]);
            let as_expected = match end {
                End::Page => outcome.code() == Some(200),
                End::Nobody => outcome.is_nothing(),
                End::Refused(_) => outcome.is_nothing() && town.soon(|| counted() > before),
            };
            // Once: what went round would be counted again and again.
            let is_once = counted() <= before + 1;
            if !as_expected || !is_once || outcome.took > QUICKLY {
                faults.push(format!("{from:?} to {to}, not {end:?}: {outcome}, counted {} times", counted() - before));
            }
        }
    }
    for path in ["/debug/snapshot", "/metrics"] {
        if town.page(Name::Cart, path).contains("PRIVATE KEY") {
            faults.push(format!("{path} shows a private key"));
        }
    }
    faults
}
