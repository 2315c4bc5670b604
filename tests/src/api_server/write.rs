//! Writes: a body and where it goes -> the object as stored, or a refusal. Create, replace, the three kinds of patch, and their
//! status sub-resource.

use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::Resource;
use super::refusal::Refusal;
use super::store::{Applied, Key, Store, Stored};
use super::{apply, defaults, delete, status};

/// What a request says besides its body.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) resource: Resource,
    pub(super) version: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Whether it is about the status sub-resource.
    pub(super) status: bool,
    pub(super) manager: String,
    pub(super) force: bool,
    pub(super) dry_run: bool,
    /// Whether a creation time that the body names counts, as no client may ask.
    pub(super) trusted: bool,
}

/// The format of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchKind {
    Apply,
    Json,
    Merge,
}

/// The status code, and the object as it is afterwards.
pub(super) type Written = Result<(u16, Arc<Value>), Refusal>;

impl Ask {
    fn key(&self) -> Key {
        self.resource.key(&self.namespace, &self.name)
    }

    fn not_found(&self) -> Refusal {
        Refusal::not_found(&self.resource, &self.name)
    }

    fn manager(&self) -> (String, String) {
        (self.manager.clone(), if self.status { "status".to_owned() } else { String::new() })
    }
}

/// POST.
pub(super) fn create(store: &mut Store, mut ask: Ask, body: Value) -> Written {
    let named = body["metadata"]["name"].as_str().map(str::to_owned);
    let generated = body["metadata"]["generateName"].as_str().map(|prefix| format!("{prefix}{:05}", store.version()));
    let missing = || Refusal::invalid(&ask.resource, "", "metadata.name: Required value: name or generateName is required");
    ask.name = named.or(generated).ok_or_else(missing)?;
    if store.get(&ask.key()).is_some() {
        return Err(Refusal::already_exists(&ask.resource, &ask.name));
    }
    finish(store, &ask, None, body, Applied::new()).map(|object| (201, object))
}

/// PUT.
pub(super) fn replace(store: &mut Store, ask: &Ask, body: Value) -> Written {
    let old = store.get(&ask.key()).cloned().ok_or_else(|| ask.not_found())?;
    let unconditional = !ask.resource.custom && ask.resource.kind != "Lease";
    if body["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty) && !unconditional {
        let why = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
        return Err(Refusal::invalid(&ask.resource, &ask.name, why));
    }
    check_preconditions(ask, &old.object, &body)?;
    let applied = old.applied.clone();
    finish(store, ask, Some(&old), body, applied).map(|object| (200, object))
}

/// PATCH.
pub(super) fn patch(store: &mut Store, ask: &Ask, kind: PatchKind, body: Value) -> Written {
    let old = store.get(&ask.key()).cloned();
    if kind == PatchKind::Apply {
        return apply_patch(store, ask, old.as_ref(), body);
    }
    let old = old.ok_or_else(|| ask.not_found())?;
    let mut new = seen_as(ask, &old.object);
    if kind == PatchKind::Merge {
        json_patch::merge(&mut new, &body);
    } else {
        let steps: json_patch::Patch = serde_json::from_value(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
        json_patch::patch(&mut new, &steps).map_err(|error| Refusal::invalid(&ask.resource, &ask.name, &error.to_string()))?;
    }
    check_preconditions(ask, &old.object, &new)?;
    let applied = old.applied.clone();
    finish(store, ask, Some(&old), new, applied).map(|object| (200, object))
}

fn apply_patch(store: &mut Store, ask: &Ask, old: Option<&Stored>, body: Value) -> Written {
    if ask.manager.is_empty() {
        return Err(Refusal::invalid(&ask.resource, &ask.name, "fieldManager: Required value: is required for apply patch"));
    }
    let expected = ask.resource.api_version(&ask.version);
    if body["apiVersion"] != expected.as_str() || body["kind"] != ask.resource.kind.as_str() {
        return Err(Refusal::bad_request(format!("the object provided is no {} of {expected}", ask.resource.kind)));
    }
    if let Some(old) = old {
        check_preconditions(ask, &old.object, &body)?;
    } else if ask.status {
        return Err(ask.not_found());
    } else if body["metadata"]["resourceVersion"].is_string() || body["metadata"]["uid"].is_string() {
        // A precondition on an object that is not there.
        return Err(Refusal::modified(&ask.resource, &ask.name, "StorageError: invalid object: precondition failed"));
    }
    let config = apply::owned_part(body);
    let live = old.map_or_else(|| json!({"metadata": {}}), |old| seen_as(ask, &old.object));
    let mut applied = old.map(|old| old.applied.clone()).unwrap_or_default();
    let manager = ask.manager();
    let new = apply::apply(&live, &applied, &manager, &config, ask.force).map_err(|conflicts| {
        let why = format!("Apply failed with {} conflicts: {}", conflicts.len(), conflicts.join(", "));
        Refusal::modified(&ask.resource, &ask.name, &why)
    })?;
    applied.insert(manager, config);
    let code = if old.is_some() { 200 } else { 201 };
    finish(store, ask, old, new, applied).map(|object| (code, object))
}

/// The object in the version of the request.
fn seen_as(ask: &Ask, object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = json!(ask.resource.api_version(&ask.version));
    object
}

/// Optimistic locking: a body that names a version or uid is about the object that has them.
fn check_preconditions(ask: &Ask, old: &Value, new: &Value) -> Result<(), Refusal> {
    let differs = |field: &str| {
        let asked = new["metadata"][field].as_str().filter(|text| !text.is_empty() && *text != "0");
        asked.is_some_and(|asked| old["metadata"][field] != asked)
    };
    if differs("uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            new["metadata"]["uid"], old["metadata"]["uid"]
        );
        return Err(Refusal::modified(&ask.resource, &ask.name, &why));
    }
    if differs("resourceVersion") {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Refusal::modified(&ask.resource, &ask.name, why));
    }
    Ok(())
}

/// Gives the object what a server gives it, checks it, and stores it if that changes anything.
fn finish(store: &mut Store, ask: &Ask, old: Option<&Stored>, mut new: Value, applied: Applied) -> Result<Arc<Value>, Refusal> {
    let resource = &ask.resource;
    if !new["metadata"].is_object() {
        return Err(Refusal::bad_request("metadata: Required value"));
    }
    if let Some(old) = old
        && ask.status
    {
        let status = new.as_object_mut().and_then(|new| new.remove("status"));
        new = seen_as(ask, &old.object);
        set(&mut new, "status", status);
    } else {
        identify(store, ask, old.map(|old| &*old.object), &mut new)?;
        let status = new.as_object_mut().and_then(|new| new.remove("status"));
        let before = old.and_then(|old| old.object.get("status")).cloned();
        defaults::fill(resource, old.map(|old| &*old.object), &mut new, store.version() + 1)
            .map_err(|why| Refusal::invalid(resource, &ask.name, &why))?;
        new = admitted(ask, new)?;
        let kept = if ask.trusted && old.is_none() { status.clone() } else { before };
        set(&mut new, "status", if resource.status { kept } else { status });
        count_generation(resource, old.map(|old| &*old.object), &mut new);
    }
    if let Some(fault) = new.get("status").and_then(status::fault) {
        return Err(Refusal::invalid(resource, &ask.name, &fault));
    }
    new["apiVersion"] = json!(resource.api_version(resource.version()));
    commit(store, ask, old, new, applied)
}

fn commit(store: &mut Store, ask: &Ask, old: Option<&Stored>, mut new: Value, applied: Applied) -> Result<Arc<Value>, Refusal> {
    let key = ask.key();
    if ask.dry_run {
        return Ok(Arc::new(new));
    }
    if let Some(old) = old {
        new["metadata"]["resourceVersion"] = old.object["metadata"]["resourceVersion"].clone();
        if *old.object == new {
            store.own(&key, applied);
            return Ok(Arc::clone(&old.object));
        }
    }
    let object = store.put(key.clone(), new, applied);
    delete::settle(store, &key);
    Ok(object)
}

/// Name, namespace, uid, times: the server's business.
fn identify(store: &mut Store, ask: &Ask, old: Option<&Value>, new: &mut Value) -> Result<(), Refusal> {
    let resource = &ask.resource;
    if let Some(name) = new["metadata"]["name"].as_str()
        && name != ask.name
    {
        let why = format!("the name of the object ({name}) does not match the name on the URL ({})", ask.name);
        return Err(Refusal::bad_request(why));
    }
    if resource.namespaced && old.is_none() {
        let key =
            Key { group: String::new(), plural: "namespaces".to_owned(), namespace: String::new(), name: ask.namespace.clone() };
        if store.get(&key).is_none() {
            return Err(Refusal::no_namespace(&ask.namespace));
        }
    }
    let uid = if old.is_none() { store.new_uid() } else { String::new() };
    new["apiVersion"] = json!(resource.api_version(&ask.version));
    new["kind"] = json!(resource.kind);
    let Some(metadata) = new["metadata"].as_object_mut() else { return Ok(()) };
    metadata.remove("managedFields");
    metadata.insert("name".to_owned(), json!(ask.name));
    if resource.namespaced {
        metadata.insert("namespace".to_owned(), json!(ask.namespace));
    }
    let given = metadata.get("creationTimestamp").cloned().filter(|time| ask.trusted && time.is_string());
    let now = || json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"]
    {
        let value = match (old, field) {
            (Some(old), _) => old["metadata"].get(field).cloned(),
            (None, "uid") => Some(json!(uid)),
            (None, "creationTimestamp") => Some(given.clone().unwrap_or_else(now)),
            (None, _) => None,
        };
        match value {
            Some(value) => metadata.insert(field.to_owned(), value),
            None => metadata.remove(field),
        };
    }
    Ok(())
}

fn admitted(ask: &Ask, object: Value) -> Result<Value, Refusal> {
    // Only what Isthmus reads is checked; the rest comes back as it is.
    let generation = object["metadata"].get("generation").cloned();
    let mut admitted = isthmus_admission::admit(object)
        .map_err(|findings| {
            let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
            let why = if findings.len() == 1 { findings.concat() } else { format!("[{}]", findings.join(", ")) };
            Refusal::invalid(&ask.resource, &ask.name, &why)
        })?
        .object;
    let metadata = &mut admitted["metadata"];
    set(metadata, "generation", generation);
    Ok(admitted)
}

/// Counts changes of everything but metadata and status.
fn count_generation(resource: &Resource, old: Option<&Value>, new: &mut Value) {
    if !resource.generation {
        return;
    }
    let content = |object: &Value| {
        let mut object = object.clone();
        if let Value::Object(object) = &mut object {
            object.retain(|field, _| !["apiVersion", "kind", "metadata", "status"].contains(&field.as_str()));
        }
        object
    };
    let generation = match old {
        None => 1,
        Some(old) => old["metadata"]["generation"].as_i64().unwrap_or(1) + i64::from(content(old) != content(new)),
    };
    new["metadata"]["generation"] = json!(generation);
}

fn set(object: &mut Value, field: &str, value: Option<Value>) {
    if let Value::Object(object) = object {
        match value {
            Some(value) => object.insert(field.to_owned(), value),
            None => object.remove(field),
        };
    }
}
