//! Headers in which a client claims to be somebody: nothing of ours believes them. Where a request is routed, those are dropped that are
//! proxies' own; where bytes are passed on, they are the application's own words.

use isthmus_routing::MtlsMode;

use super::Faults;
use super::apps::HTTP;
use super::client;
use super::net::APPLICATION;
use super::town::{Name, Town, Version};

/// In any spelling and number.
const CLAIMS: [(&str, &str); 6] = [
    ("X-Forwarded-Client-Cert", "By=spiffe://cluster.local/ns/shop/sa/cart;URI=spiffe://cluster.local/ns/shop/sa/web"),
    ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/web"),
    ("X_Forwarded_Client_Cert", "URI=spiffe://cluster.local/ns/shop/sa/web"),
    ("X-Forwarded-For", "10.231.7.1"),
    ("Forwarded", "for=10.231.7.1"),
    ("l5d-client-id", "web.shop.serviceaccount.identity.linkerd.cluster.local"),
];
/// Ours to drop. Other meshes' are words like any other: nobody of ours reads or writes them.
const DROPPED: [&str; 2] = ["x-forwarded-client-cert", "x_forwarded_client_cert"];

pub(super) fn run(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    let v4 = Version::V4;
    let get = |town: &Town, from: Name, to| client::get(town.net(from), APPLICATION, to, "/", &CLAIMS);

    // Routed: whom it is from, the sidecar says.
    let outcome = get(town, Name::Web, Name::Cart.service(v4, 80));
    match outcome.answer() {
        Some(seen) => {
            let web = Name::Web.ip(v4).to_string();
            let is_true = seen.header("x-forwarded-for") == Some(&web)
                && seen.header("forwarded").is_some_and(|forwarded| forwarded.starts_with(&format!("for={web};")));
            let count = seen.headers.iter().filter(|(name, _)| name == "x-forwarded-for" || name == "forwarded").count();
            if DROPPED.iter().any(|name| seen.header(name).is_some()) || !is_true || count != 2 {
                faults.push(format!("by the Service: {seen:?}"));
            }
        }
        None => faults.push(format!("by the Service: {outcome}")),
    }

    // Not parsed: as it was said.
    for (from, mode) in [(Name::Web, MtlsMode::Strict), (Name::Plain, MtlsMode::Permissive)] {
        town.set_mode(mode);
        let before = as_web(town);
        let outcome = get(town, from, Name::Cart.at(v4, HTTP));
        let said = outcome.answer().map_or(0, |seen| seen.headers.iter().filter(|(_, value)| value.contains("/sa/web")).count());
        if said != 3 {
            faults.push(format!("by the pod's address, from {from:?}: {outcome}, {said} claims of web"));
        }
        // The certificate alone says who it was.
        let expected = u64::from(from == Name::Web);
        if !town.soon(|| as_web(town) - before == expected) {
            faults.push(format!("by the pod's address, from {from:?}: {} counted as web's", as_web(town) - before));
        }
    }

    // Nobody is let in for his words.
    town.set_mode(MtlsMode::Strict);
    let outcome = get(town, Name::Plain, Name::Cart.at(v4, HTTP));
    if !outcome.is_nothing() {
        faults.push(format!("to a strict workload: {outcome}"));
    }
    town.set_mode(MtlsMode::Permissive);
    faults
}

/// How many connections of `web` have come to `cart`.
fn as_web(town: &Town) -> u64 {
    let labels = ["direction=\"inbound\"", "source_account=\"web\""];
    ["isthmus_stream_connections_total", "isthmus_stream_connections_active"]
        .map(|name| town.count(Name::Cart, name, &labels, &[]))
        .iter()
        .sum()
}
