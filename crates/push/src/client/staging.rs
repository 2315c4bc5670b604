//! What has been sent and is not committed.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_routing::Snapshot;
use isthmus_routing::snapshot::{Item, ItemKey, UnknownItem};

use crate::message::ReadPut;

/// Reasons that a refusal names at most.
const REASONS: usize = 5;

/// The controller's idea of what this proxy holds, item by item. An item that cannot be read makes every commit fail until it is sent again
/// or taken back.
#[derive(Debug, Clone, Default)]
pub(super) struct Staging {
    snapshot: Snapshot,
    broken: BTreeMap<String, String>,
    unknown: BTreeSet<String>,
}

impl Staging {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, ..Self::default() }
    }

    pub(super) fn put(&mut self, put: ReadPut<'_>) {
        self.broken.remove(&put.key);
        let key = match put.key.parse::<ItemKey>() {
            Ok(key) => key,
            Err(UnknownItem::Kind(key)) => {
                if self.unknown.insert(key.clone()) {
                    tracing::warn!("`{key}` is of no kind that this proxy knows and is passed over: is the controller newer?");
                }
                return;
            }
            Err(UnknownItem::Name(fault)) => {
                self.broken.insert(put.key, fault.to_string());
                return;
            }
        };
        match Item::parse(key, put.value.map_or("null", |value| value.get())) {
            Ok(item) => self.snapshot.put(item),
            Err(fault) => drop(self.broken.insert(put.key, fault.to_string())),
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.broken.remove(key);
        self.unknown.remove(key);
        if let Ok(key) = key.parse() {
            self.snapshot.remove(&key);
        }
    }

    /// What is to be served.
    ///
    /// # Errors
    /// When an item could not be read: which ones, and why.
    pub(super) fn commit(&self) -> Result<Snapshot, String> {
        if self.broken.is_empty() {
            return Ok(self.snapshot.clone());
        }
        let mut reasons: Vec<_> = self.broken.iter().take(REASONS).map(|(key, fault)| format!("{key}: {fault}")).collect();
        if self.broken.len() > REASONS {
            reasons.push(format!("and {} more", self.broken.len() - REASONS));
        }
        Err(reasons.join("; "))
    }

    /// Items of no known kind, the first few by name.
    pub(super) fn unknown(&self) -> Vec<String> {
        const NAMED: usize = 20;
        self.unknown.iter().take(NAMED).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::tests::snapshot;

    const BACKEND: &str = r#"{"protocol":"HTTP","endpoints":[]}"#;

    fn put(staging: &mut Staging, key: &str, value: &str) {
        let value = RawValue::from_string(value.to_owned()).unwrap();
        staging.put(ReadPut { key: key.to_owned(), value: Some(&value) });
    }

    #[test]
    fn a_broken_item_fails_commits_until_it_is_mended_or_gone() {
        let mut staging = Staging::new(snapshot(1));
        for (key, value) in [("Service/a/b:80", "[1]"), ("Service/a/b", BACKEND), ("Gateway/a", "{}")] {
            put(&mut staging, key, value);
            let fault = staging.commit().unwrap_err();
            assert!(fault.starts_with(&format!("{key}: ")), "{fault}");
            staging.remove(key);
            assert_eq!(staging.commit(), Ok(snapshot(1)));
        }
        put(&mut staging, "Service/a/b:80", "{}");
        put(&mut staging, "Service/a/b:80", BACKEND);
        assert_eq!(staging.commit().unwrap().backends.len(), snapshot(1).backends.len() + 1);
        for n in 0..9 {
            put(&mut staging, &format!("Service/a/b:{n}"), "{}");
        }
        assert!(staging.commit().unwrap_err().ends_with("; and 4 more"));
    }

    #[test]
    fn an_item_of_a_newer_kind_is_named_and_passed_over() {
        let mut staging = Staging::new(snapshot(1));
        put(&mut staging, "FutureRoute/a/b", r#"{"anything":[]}"#);
        assert_eq!((staging.commit(), staging.unknown()), (Ok(snapshot(1)), vec!["FutureRoute/a/b".to_owned()]));
        staging.remove("FutureRoute/a/b");
        assert!(staging.unknown().is_empty());
    }

    #[test]
    fn a_kept_reference_has_no_value() {
        let mut staging = Staging::default();
        staging.put(ReadPut { key: "Kept/Secret/a/b".to_owned(), value: None });
        assert_eq!(staging.commit().unwrap().kept.len(), 1);
    }
}
