//! What is served, as text: one for all who read it at the same time, however slowly they do.

use std::sync::{Arc, Weak};

use isthmus_routing::{Certificate, Snapshot, Version};
use serde::Serialize;
use tokio::sync::Mutex;

use super::aside;
use crate::config::Config;

/// What stands in the place of a private key.
pub(super) const REDACTED: &str = "<redacted>";

/// The text that somebody reads now.
#[derive(Debug, Default)]
pub(super) struct Shown(Mutex<Weak<Text>>);

/// JSON of a snapshot, with its version, without private keys.
#[derive(Debug)]
struct Text {
    version: Version,
    json: String,
}

/// A reader's.
pub(super) struct Reading(Arc<Text>);

impl Shown {
    /// Makes it unless it is being read. One at a time does.
    pub(super) async fn read(&self, config: &Arc<Config>) -> Reading {
        let mut known = self.0.lock().await;
        if let Some(text) = known.upgrade().filter(|text| text.version == config.version) {
            return Reading(text);
        }
        let config = config.clone();
        let (version, json) = (config.version, aside(move || show(&config.version.to_string(), &config.snapshot)).await);
        let text = Arc::new(Text { version, json });
        *known = Arc::downgrade(&text);
        Reading(text)
    }
}

impl AsRef<[u8]> for Reading {
    fn as_ref(&self) -> &[u8] {
        self.0.json.as_bytes()
    }
}

fn show(version: &str, snapshot: &Snapshot) -> String {
    #[derive(Serialize)]
    struct Shown<'a> {
        version: &'a str,
        snapshot: &'a Snapshot,
    }
    let shown = Shown { version, snapshot: &redacted(snapshot) };
    serde_json::to_string_pretty(&shown).expect("every key of a snapshot is serialised as a string")
}

fn redacted(snapshot: &Snapshot) -> Snapshot {
    let hide = |certificate: &Certificate| Certificate { chain: certificate.chain.clone(), key: REDACTED.to_owned() };
    Snapshot {
        certificates: snapshot.certificates.iter().map(|(key, value)| (key.clone(), Arc::new(hide(value)))).collect(),
        ..snapshot.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use crate::telemetry::Telemetry;

    #[tokio::test]
    async fn readers_of_one_version_share_its_text() {
        let telemetry = Telemetry::start(&Options::default()).expect("nothing to open");
        let compile = |snapshot| Arc::new(Config::compile(&Arc::new(snapshot), &Arc::default(), None, &telemetry));
        let (one, other) = (compile(Snapshot::default()), {
            let certificate = Arc::new(Certificate { chain: String::new(), key: String::new() });
            compile(Snapshot {
                certificates: [("Secret/a/b".parse().expect("a key"), certificate)].into(),
                ..Snapshot::default()
            })
        });
        let shown = Shown::default();
        let (first, second) = (shown.read(&one).await, shown.read(&one).await);
        assert!(Arc::ptr_eq(&first.0, &second.0));
        let third = shown.read(&other).await;
        assert_eq!(third.0.version, other.version);
        assert_ne!(first.as_ref(), third.as_ref());
        drop((first, second, third));
        assert!(shown.0.lock().await.upgrade().is_none(), "kept for nobody");
    }
}
