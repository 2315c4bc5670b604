//! Every pair of pods, in both modes: who is reached, and as whom.

use isthmus_routing::MtlsMode;

use super::Faults;
use super::apps::HTTP;
use super::town::{Name, Town, Version};

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// In the application, by way of its sidecar, which knows the caller.
    Mesh,
    /// In the application, by way of its sidecar, which does not.
    Plain,
    /// In the application itself.
    Direct,
    /// At its sidecar.
    Refused,
}

/// From, to, and how that ends if those who are called are permissive, and strict.
const CALLS: [(Name, Name, End, End); 9] = [
    (Name::Web, Name::Cart, End::Mesh, End::Mesh),
    (Name::Cart, Name::Web, End::Mesh, End::Mesh),
    (Name::Web, Name::Plain, End::Direct, End::Direct),
    (Name::Cart, Name::Plain, End::Direct, End::Direct),
    (Name::Plain, Name::Web, End::Plain, End::Refused),
    (Name::Plain, Name::Cart, End::Plain, End::Refused),
    // What a pod says to itself does not leave it.
    (Name::Web, Name::Web, End::Direct, End::Direct),
    (Name::Cart, Name::Cart, End::Direct, End::Direct),
    (Name::Plain, Name::Plain, End::Direct, End::Direct),
];

pub(super) fn run(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    for mode in [MtlsMode::Permissive, MtlsMode::Strict] {
        town.set_mode(mode);
        for (from, to, permissive, strict) in CALLS {
            let end = if mode == MtlsMode::Permissive { permissive } else { strict };
            for version in Version::BOTH {
                for by in [to.service(version, 80), to.at(version, HTTP)] {
                    let found = call(town, (from, to), by, end, version);
                    faults.extend(found.err().map(|fault| format!("{mode:?}, {from:?} to {to:?} by {by}, not {end:?}: {fault}")));
                }
            }
        }
    }
    town.set_mode(MtlsMode::Permissive);
    faults
}

fn call(town: &Town, (from, to): (Name, Name), by: std::net::SocketAddr, end: End, version: Version) -> Result<(), String> {
    let is_meshed = Name::CAPTURED.contains(&to);
    let connections = |with: &[&str], without: &[&str]| {
        let mut labels = vec!["direction=\"inbound\""];
        labels.extend(with);
        // Open ones too: those of HTTP are kept.
        ["isthmus_stream_connections_total", "isthmus_stream_connections_active"]
            .iter()
            .map(|name| if is_meshed { town.count(to, name, &labels, without) } else { 0 })
            .sum::<u64>()
    };
    let source = format!("source_account=\"{}\"", from.as_str());
    let strangers = || connections(&[], &["source_account=\""]);
    let refused = || if is_meshed { town.faults(to, "plaintext") } else { 0 };
    let before = (strangers(), refused());
    let outcome = town.get(from, by, "/reach");
    let counted = || (strangers() - before.0, refused() - before.1);
    let expected = match end {
        End::Mesh | End::Direct => (0, 0),
        End::Plain => (1, 0),
        End::Refused => (0, 1),
    };
    let seen = outcome.answer().map(|seen| (seen.pod.as_str(), seen.peer, seen.path.as_str()));
    // Who goes by way of the sidecar is seen to come from the pod itself.
    let peer = if end == End::Direct { from } else { to };
    let is_answer = seen == Some((to.as_str(), peer.ip(version), "/reach"));
    let as_expected = if end == End::Refused { outcome.is_nothing() } else { is_answer };
    if !as_expected {
        return Err(outcome.to_string());
    }
    if !town.soon(|| counted() == expected) {
        return Err(format!("of strangers and refused: {:?}, not {expected:?}", counted()));
    }
    if end == End::Mesh && connections(&[&source, "source_namespace=\"shop\""], &[]) == 0 {
        return Err(format!("{outcome}, and there is no {source}"));
    }
    Ok(())
}
