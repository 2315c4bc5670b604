//! An address that is another pod's by now: whoever still knows it as the former one's sends nothing there.

use isthmus_routing::MtlsMode;

use super::Faults;
use super::apps::{GREETING, HTTP};
use super::town::{Name, Town, Version};

pub(super) fn run(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    let v6 = Version::V6;
    for mode in [MtlsMode::Permissive, MtlsMode::Strict] {
        town.set_mode(mode);
        town.mistake(Some((Name::Cart, "former")));
        for (what, to) in [
            ("HTTP, by the Service", Name::Cart.service(v6, 80)),
            ("bytes, by the Service", Name::Cart.service(v6, GREETING)),
            ("the pod's address", Name::Cart.at(v6, HTTP)),
        ] {
            let there = || town.faults(Name::Cart, "other_identity");
            let here = || {
                let refused = town.count(Name::Web, "isthmus_refused_certificates_total", &[], &[]);
                refused + town.count(Name::Web, "isthmus_stream_connections_total", &["result=\"certificate\""], &[])
            };
            let before = (there(), here());
            let outcome = town.get(Name::Web, to, "/");
            let is_refused = outcome.is_nothing() || outcome.code() == Some(503);
            if !is_refused || !town.soon(|| there() > before.0 && here() > before.1) {
                faults.push(format!(
                    "{mode:?}, {what}: {outcome}, counted there and here: {before:?}, then {:?}",
                    (there(), here())
                ));
            }
        }
        // By its other address it is known as who it is.
        let outcome = town.get(Name::Web, Name::Cart.service(Version::V4, 80), "/");
        faults.extend((outcome.pod() != Some("cart")).then(|| format!("{mode:?}, the other address: {outcome}")));
        // The controller tells.
        town.mistake(None);
        let outcome = town.get(Name::Web, Name::Cart.service(v6, 80), "/");
        faults.extend((outcome.pod() != Some("cart")).then(|| format!("{mode:?}, when it is known: {outcome}")));
    }
    town.set_mode(MtlsMode::Permissive);
    faults
}
