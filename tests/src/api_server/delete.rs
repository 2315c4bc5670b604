//! Deletion: finalizers, preconditions, and what goes along: the content of a namespace, the dependents of an owner.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::{CRD_GROUP, CRD_PLURAL};
use super::refusal::Refusal;
use super::store::{Key, Store};
use super::write::Ask;

/// What a DELETE left.
#[derive(Debug)]
pub(super) enum Deleted {
    /// It is gone.
    Gone,
    /// Its finalizers hold it.
    Waiting(Arc<Value>),
}

/// DELETE of one object. `options` is its body.
pub(super) fn delete(store: &mut Store, ask: &Ask, options: &Value) -> Result<Deleted, Refusal> {
    let key = ask.resource.key(&ask.namespace, &ask.name);
    let stored = store.get(&key).ok_or_else(|| Refusal::not_found(&ask.resource, &ask.name))?;
    for field in ["uid", "resourceVersion"] {
        let asked = &options["preconditions"][field];
        let found = &stored.object["metadata"][field];
        if asked.is_string() && asked != found {
            let why = format!("Precondition failed: {field} in precondition: {asked}, in object meta: {found}");
            return Err(Refusal::modified(&ask.resource, &ask.name, &why));
        }
    }
    if ask.dry_run {
        return Ok(Deleted::Gone);
    }
    remove(store, &key);
    collect(store);
    Ok(store.get(&key).map_or(Deleted::Gone, |stored| Deleted::Waiting(Arc::clone(&stored.object))))
}

/// After a write: what was only held by finalizers goes when the last is gone, and what has lost its owner goes too.
pub(super) fn settle(store: &mut Store, key: &Key) {
    if let Some(stored) = store.get(key) {
        let metadata = &stored.object["metadata"];
        if metadata["deletionTimestamp"].is_string() && !has_finalizers(&stored.object) {
            drop_it(store, key);
        }
    }
    collect(store);
}

/// Removes every object whose owners are all gone, and what that leaves without an owner.
fn collect(store: &mut Store) {
    loop {
        let uids: BTreeSet<String> =
            store.all().filter_map(|(_, one)| Some(one.object["metadata"]["uid"].as_str()?.to_owned())).collect();
        let orphan = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array().filter(|owners| !owners.is_empty());
            let gone = |owner: &Value| owner["uid"].as_str().is_none_or(|uid| !uids.contains(uid));
            owners.is_some_and(|owners| owners.iter().all(gone)) && object["metadata"]["deletionTimestamp"].is_null()
        };
        let orphans: Vec<Key> = store.all().filter(|(_, one)| orphan(&one.object)).map(|(key, _)| key.clone()).collect();
        if orphans.is_empty() {
            return;
        }
        for key in orphans {
            remove(store, &key);
        }
    }
}

fn remove(store: &mut Store, key: &Key) {
    let Some(stored) = store.get(key) else { return };
    if !has_finalizers(&stored.object) {
        drop_it(store, key);
        return;
    }
    if stored.object["metadata"]["deletionTimestamp"].is_string() {
        return;
    }
    let applied = stored.applied.clone();
    let mut object = (*stored.object).clone();
    object["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    if let Some(generation) = object["metadata"]["generation"].as_i64() {
        object["metadata"]["generation"] = json!(generation + 1);
    }
    store.put(key.clone(), object, applied);
}

/// Removes an object; the content of a namespace goes before it, and the objects of a CRD too.
fn drop_it(store: &mut Store, key: &Key) {
    let content: Vec<Key> = if key.is_of("", "namespaces") {
        store.all().map(|(key, _)| key).filter(|one| one.namespace == key.name).cloned().collect()
    } else if key.is_of(CRD_GROUP, CRD_PLURAL) {
        let is_of = |one: &&Key| format!("{}.{}", one.plural, one.group) == key.name;
        store.all().map(|(key, _)| key).filter(is_of).cloned().collect()
    } else {
        Vec::new()
    };
    for one in &content {
        remove(store, one);
    }
    store.remove(key);
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}
