//! Versions of the model, so that a controller and its proxies may be one release apart.
//!
//! A version is raised when a rule can say something that a reader of the version before would misunderstand or refuse: a new filter,
//! a new kind of match value. A new field that an old reader may pass over raises nothing. Whoever writes, writes for the reader: what the
//! reader cannot run is answered with 500 there, and everything else is as it would be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Snapshot;
use crate::{Route, RouteKey, Rule, Timeouts};

/// A version of the model; a later one has a larger number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelVersion(pub u32);

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The versions that one side can read, and write for.
#[derive(Debug, Clone, Copy)]
pub struct Models {
    /// The oldest.
    pub oldest: ModelVersion,
    /// The newest.
    pub newest: ModelVersion,
    /// The oldest version that can run a rule.
    pub since: fn(&Rule) -> ModelVersion,
}

/// What this release has: version 1, which can run every rule there is.
impl Default for Models {
    fn default() -> Self {
        Self { oldest: ModelVersion(1), newest: ModelVersion(1), since: |_| ModelVersion(1) }
    }
}

impl Models {
    /// The newest version that both sides can read; `oldest` and `newest` are the other side's.
    pub fn common(&self, oldest: ModelVersion, newest: ModelVersion) -> Option<ModelVersion> {
        let common = self.newest.min(newest);
        (common >= self.oldest.max(oldest)).then_some(common)
    }
}

/// Rules that a model version cannot run, by their positions in their routes.
pub type Lacking = BTreeMap<RouteKey, Vec<usize>>;

impl Snapshot {
    /// This snapshot for a reader of `model`: a rule that needs a newer one takes the same requests and answers 500. Routes without such
    /// a rule are shared with this snapshot.
    pub fn for_model(&self, model: ModelVersion, models: &Models) -> (Self, Lacking) {
        let mut lacking = Lacking::new();
        let mut readable = self.clone();
        for (key, route) in readable.routes.iter_mut().chain(&mut readable.service_routes) {
            let is_newer = |(_, rule): &(usize, &Rule)| (models.since)(rule) > model;
            let newer: Vec<usize> = route.rules.iter().enumerate().filter(is_newer).map(|(position, _)| position).collect();
            if !newer.is_empty() {
                *route = Arc::new(without(route, &newer));
                // A rule that is in both maps may lead elsewhere in each; it is one rule of one object all the same.
                let positions = lacking.entry(key.clone()).or_default();
                positions.extend(newer);
                positions.sort_unstable();
                positions.dedup();
            }
        }
        // What only such a rule refers to is of no use to the reader.
        if !lacking.is_empty() {
            let routes = readable.routes.values().chain(readable.service_routes.values());
            let used: BTreeSet<_> = routes.flat_map(|route| route.backend_keys()).chain(readable.services.keys()).collect();
            readable.backends.retain(|key, _| used.contains(key));
        }
        (readable, lacking)
    }
}

/// The route with these rules made invalid.
fn without(route: &Route, positions: &[usize]) -> Route {
    let rule = |(position, rule): (usize, &Rule)| match positions.contains(&position) {
        false => rule.clone(),
        true => Rule {
            name: rule.name.clone(),
            matches: rule.matches.clone(),
            filters: Vec::new(),
            backends: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            invalid: true,
        },
    };
    Route { created: route.created, rules: route.rules.iter().enumerate().map(rule).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;

    /// As if URLRewrite were new in version 2.
    const FUTURE: Models = Models {
        oldest: ModelVersion(1),
        newest: ModelVersion(2),
        since: |rule| ModelVersion(1 + u32::from(rule.filters.iter().any(|filter| matches!(filter, Filter::UrlRewrite(_))))),
    };

    #[test]
    fn the_newest_common_version_is_spoken() {
        let models = |oldest, newest| Models { oldest: ModelVersion(oldest), newest: ModelVersion(newest), ..Models::default() };
        for (ours, theirs, common) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 2), (1, 1), Some(1)),
            ((1, 2), (2, 3), Some(2)),
            ((1, 2), (1, 3), Some(2)),
            ((1, 1), (2, 3), None),
            ((2, 3), (1, 1), None),
            ((1, 2), (2, 1), Some(1)),
        ] {
            let found = models(ours.0, ours.1).common(ModelVersion(theirs.0), ModelVersion(theirs.1));
            let expected = common.filter(|_| theirs.0 <= theirs.1).map(ModelVersion);
            assert_eq!(found, expected, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn a_rule_that_is_too_new_answers_500_and_the_rest_is_untouched() {
        let full: Snapshot = serde_json::from_str(include_str!("full.json")).unwrap();
        let (same, none) = full.for_model(ModelVersion(2), &FUTURE);
        assert!(same == full && none.is_empty());

        let (readable, lacking) = full.for_model(ModelVersion(1), &FUTURE);
        assert!(!lacking.is_empty(), "the full snapshot has a rewrite");
        let both =
            |snapshot: &Snapshot| snapshot.routes.clone().into_iter().chain(snapshot.service_routes.clone()).collect::<Vec<_>>();
        for ((key, before), (_, now)) in both(&full).iter().zip(&both(&readable)) {
            let Some(positions) = lacking.get(key) else {
                assert!(Arc::ptr_eq(before, now), "{key} is shared");
                continue;
            };
            for (position, (before, now)) in before.rules.iter().zip(&now.rules).enumerate() {
                let newer = positions.contains(&position);
                assert_eq!((&before.name, &before.matches), (&now.name, &now.matches), "it takes the same requests");
                assert_eq!(newer, (FUTURE.since)(before) == ModelVersion(2));
                assert!(if newer { now.invalid && now.filters.is_empty() } else { before == now }, "{key} {position}");
            }
        }
        assert_eq!((&readable.gateways, &readable.certificates), (&full.gateways, &full.certificates));
        assert_eq!(readable.services, full.services);
        assert!(readable.services.keys().all(|key| readable.backends.contains_key(key)));
    }
}
