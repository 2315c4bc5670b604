//! Our status and what others wrote into the same object: one status.
//!
//! JSON of the object's status and of ours -> a JSON merge patch. Pure. What is not ours survives untouched and in its place:
//! conditions of other types, fields that we do not write, `parents` and `ancestors` of other controllers.

use isthmus_api::Kind;
use isthmus_api::shared::GATEWAY_GROUP;
use serde_json::{Map, Value, json};

/// The most conditions of one list that the CRDs take.
const CONDITIONS: usize = 8;

/// Where objects of several controllers keep an entry for each pair of a controller and what its judgement is about.
struct Entries {
    field: &'static str,
    /// What an entry is about.
    reference: &'static str,
    /// The most entries that the CRDs take.
    most: usize,
    /// The types of condition in an entry of ours that we are responsible for.
    conditions: &'static [&'static str],
}

const PARENTS: Entries =
    Entries { field: "parents", reference: "parentRef", most: 32, conditions: &["Accepted", "ResolvedRefs", "PartiallyInvalid"] };

const ANCESTORS: Entries =
    Entries { field: "ancestors", reference: "ancestorRef", most: 16, conditions: &["Accepted", "ResolvedRefs"] };

/// The most listeners of a status that the CRDs take.
const LISTENERS: usize = 64;

/// The longest message that the CRDs take, in characters.
const MESSAGE: usize = 32_768;

/// What is merged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) kind: Kind,
    /// Of the object; it stands for an absent namespace of a parentRef.
    pub(super) namespace: Option<&'a str>,
    /// The object's generation, as last seen with its status.
    pub(super) generation: i64,
    /// The object's status, as last seen.
    pub(super) current: &'a Value,
    /// Ours, without times.
    pub(super) wanted: &'a Value,
    pub(super) controller_name: &'a str,
    /// For conditions whose status changes: RFC 3339, in seconds.
    pub(super) now: &'a str,
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Merged {
    /// Nothing: the object says it all.
    Equal,
    /// Nothing: the object says what we would say of a newer generation.
    Stale,
    /// These fields of the status are to be replaced (null: removed).
    Patch {
        status: Map<String, Value>,
        /// Conditions, parents or ancestors of ours that found no room beside those of others.
        left_out: usize,
    },
}

/// Merges.
pub(super) fn merge(input: &Input<'_>) -> Merged {
    let mut merge = Merge { input: *input, stale: false, left_out: 0 };
    let mut status = Map::new();
    for field in fields(input.kind) {
        let (current, wanted) = (input.current.get(*field), input.wanted.get(*field));
        let merged = match *field {
            "conditions" => Some(merge.conditions(own_conditions(input.kind), current, wanted)),
            "listeners" => merge.listeners(current, wanted),
            "parents" => Some(merge.entries(&PARENTS, current, wanted)),
            "ancestors" => Some(merge.entries(&ANCESTORS, current, wanted)),
            _ => wanted.cloned(),
        };
        match merged {
            Some(merged) if current != Some(&merged) => status.insert((*field).to_owned(), merged),
            None if current.is_some_and(|current| !current.is_null()) => status.insert((*field).to_owned(), Value::Null),
            _ => None,
        };
    }
    match () {
        () if merge.stale => Merged::Stale,
        () if status.is_empty() => Merged::Equal,
        () => Merged::Patch { status, left_out: merge.left_out },
    }
}

/// Whether the status of a route or policy has entries of ours.
pub(super) fn has_entries_of(controller_name: &str, status: &Value) -> bool {
    let mut entries = [PARENTS, ANCESTORS].into_iter().flat_map(|entries| list(status.get(entries.field)));
    entries.any(|entry| text(entry, "controllerName") == controller_name)
}

/// The fields of a status that we write.
fn fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::GatewayClass | Kind::XMesh => &["conditions", "supportedFeatures"],
        Kind::Gateway => &["addresses", "attachedListenerSets", "conditions", "listeners"],
        Kind::ListenerSet => &["conditions", "listeners"],
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => &["parents"],
        Kind::BackendTlsPolicy => &["ancestors"],
        _ => &[],
    }
}

/// The types of condition that we are responsible for, in the object itself. All others are somebody else's.
fn own_conditions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::GatewayClass => &["Accepted", "SupportedVersion"],
        Kind::XMesh => &["Accepted"],
        Kind::Gateway => &["Accepted", "Programmed", "ResolvedRefs", "InsecureFrontendValidationMode"],
        _ => &["Accepted", "Programmed"],
    }
}

/// The same, in a listener.
const LISTENER_CONDITIONS: &[&str] = &["Accepted", "Programmed", "ResolvedRefs", "Conflicted", "OverlappingTLSConfig"];

/// Types of condition that begin so are ours everywhere.
const OWN_PREFIX: &str = "isthmus.dev/";

struct Merge<'a> {
    input: Input<'a>,
    stale: bool,
    left_out: usize,
}

impl Merge<'_> {
    /// Conditions stay in their order; ours that are new come last.
    fn conditions(&mut self, own: &[&str], current: Option<&Value>, wanted: Option<&Value>) -> Value {
        let (current, wanted) = (list(current), list(wanted));
        let is_own = |condition: &Value| {
            let r#type = text(condition, "type");
            own.contains(&r#type) || r#type.starts_with(OWN_PREFIX) || find(wanted, "type", r#type).is_some()
        };
        let room = CONDITIONS.saturating_sub(current.iter().filter(|condition| !is_own(condition)).count());
        self.left_out += wanted.len().saturating_sub(room);
        let wanted = &wanted[..wanted.len().min(room)];
        let mut merged = Vec::with_capacity(current.len().max(wanted.len()));
        for condition in current {
            if !is_own(condition) {
                merged.push(condition.clone());
            } else if let Some(ours) = find(wanted, "type", text(condition, "type")) {
                merged.push(self.condition(Some(condition), ours));
            }
        }
        for ours in wanted {
            if find(&merged, "type", text(ours, "type")).is_none() {
                merged.push(self.condition(None, ours));
            }
        }
        merged.into()
    }

    /// Ours, with the time at which its status became what it is.
    fn condition(&mut self, current: Option<&Value>, ours: &Value) -> Value {
        let generation = |condition: &Value| condition.get("observedGeneration").and_then(Value::as_i64).unwrap_or_default();
        if let Some(seen) = current.map(generation) {
            // A generation that the object does not have yet is no judgement of ours that could be newer.
            self.stale |= seen > generation(ours) && seen <= self.input.generation;
        }
        let since = current.filter(|current| current.get("status") == ours.get("status"));
        let since = since.and_then(|current| current.get("lastTransitionTime")).filter(|time| time.is_string());
        let mut condition = ours.clone();
        condition["lastTransitionTime"] = since.cloned().unwrap_or_else(|| self.input.now.into());
        if text(ours, "message").chars().nth(MESSAGE).is_some() {
            condition["message"] = text(ours, "message").chars().take(MESSAGE).collect::<String>().into();
        }
        condition
    }

    /// Listeners are those of the spec, in its order; what others wrote about one stays with it.
    fn listeners(&mut self, current: Option<&Value>, wanted: Option<&Value>) -> Option<Value> {
        let current = list(current);
        let merged = list(wanted?).iter().take(LISTENERS).map(|ours| {
            let seen = find(current, "name", text(ours, "name"));
            let conditions =
                self.conditions(LISTENER_CONDITIONS, seen.and_then(|seen| seen.get("conditions")), ours.get("conditions"));
            overlaid(seen, ours, conditions)
        });
        Some(merged.collect())
    }

    /// Entries stay in their order; ours that are new come last, ours that are gone go.
    fn entries(&mut self, kept: &Entries, current: Option<&Value>, wanted: Option<&Value>) -> Value {
        let (current, mut wanted): (_, Vec<Option<&Value>>) = (list(current), list(wanted).iter().map(Some).collect());
        let is_own = |entry: &Value| text(entry, "controllerName") == self.input.controller_name;
        let foreign = current.iter().filter(|entry| !is_own(entry)).count();
        let room = kept.most.saturating_sub(foreign);
        self.left_out += wanted.len().saturating_sub(room);
        wanted.truncate(room);
        let mut merged = Vec::with_capacity(foreign + wanted.len());
        for entry in current {
            if text(entry, "controllerName") != self.input.controller_name {
                merged.push(entry.clone());
                continue;
            }
            let reference = self.reference(kept, entry);
            let ours = wanted.iter_mut().find(|ours| ours.is_some_and(|ours| self.reference(kept, ours) == reference));
            if let Some(ours) = ours.and_then(Option::take) {
                let conditions = self.conditions(kept.conditions, entry.get("conditions"), ours.get("conditions"));
                merged.push(overlaid(Some(entry), ours, conditions));
            }
        }
        for ours in wanted.into_iter().flatten() {
            let conditions = self.conditions(kept.conditions, None, ours.get("conditions"));
            merged.push(overlaid(None, ours, conditions));
        }
        merged.into()
    }

    /// What a parentRef or ancestorRef means, with defaults.
    fn reference(&self, kept: &Entries, entry: &Value) -> Value {
        let reference = entry.get(kept.reference).unwrap_or(&Value::Null);
        let or = |field: &str, default: &str| reference.get(field).cloned().unwrap_or_else(|| default.into());
        json!([
            or("group", GATEWAY_GROUP),
            or("kind", "Gateway"),
            or("namespace", self.input.namespace.unwrap_or_default()),
            reference.get("name"),
            reference.get("sectionName"),
            reference.get("port"),
        ])
    }
}

/// What was there, with our fields in it.
fn overlaid(current: Option<&Value>, ours: &Value, conditions: Value) -> Value {
    let mut merged = current.and_then(Value::as_object).cloned().unwrap_or_default();
    merged.extend(ours.as_object().cloned().unwrap_or_default());
    merged.insert("conditions".to_owned(), conditions);
    merged.into()
}

fn list<'a>(value: impl Into<Option<&'a Value>>) -> &'a [Value] {
    value.into().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn find<'a>(list: &'a [Value], field: &str, value: &str) -> Option<&'a Value> {
    list.iter().find(|item| text(item, field) == value)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;
