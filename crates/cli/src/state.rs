//! What an API server would hold after every edit so far: entries of files -> objects. Pure, but for its memory.

pub mod addresses;
pub mod service_addresses;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use isthmus_api::{Kind, Object, ObjectMeta, ObjectRef, Objects};

use crate::message::{Message, Place};
use crate::source::entry::{Content, has_generation};
use crate::source::read::{File, FileFault};

/// The objects as they were last valid.
#[derive(Debug, Default)]
pub struct State {
    known: BTreeMap<ObjectRef, Object>,
}

/// What the files say now.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The objects that are in force.
    pub objects: Objects,
    /// Where each of them is written.
    pub origins: BTreeMap<ObjectRef, Origin>,
    /// What is wrong with the rest.
    pub messages: Vec<Message>,
}

/// Where an object is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The place of the object.
    pub place: Place,
    /// The line of its [`crate::source::entry::Entry::landmark`].
    pub landmark: Option<u32>,
    /// Whether an edit of it is seen.
    pub followed: bool,
}

impl State {
    /// Takes over what the files say.
    ///
    /// An object that became invalid stays as it was. Of an object that is written twice the first one counts. A changed spec increments the
    /// generation by one.
    pub fn take<'a>(&mut self, files: impl Iterator<Item = (&'a Path, &'a File)>) -> Reading {
        let mut reading = Reading::default();
        let mut before = std::mem::take(&mut self.known);
        let mut unknown: BTreeMap<(&str, &str), (Place, usize)> = BTreeMap::new();
        for (path, file) in files {
            if let Some(fault) = &file.fault {
                reading.messages.push(file_fault(path, fault, !file.entries.is_empty()));
            }
            for entry in file.entries.iter() {
                let place = Place::new(path, entry.line);
                let (name, object) = match &entry.content {
                    Content::Unknown { api_version, kind } => {
                        unknown.entry((api_version, kind)).or_insert((place, 0)).1 += 1;
                        continue;
                    }
                    Content::Object(object, warnings) => {
                        let name = object.object_ref();
                        let message = |finding: &crate::source::entry::Finding| {
                            Message::warning(Some(Place::new(path, finding.line)), format!("{name}: {}", finding.text))
                        };
                        reading.messages.extend(warnings.iter().map(message));
                        (name, Some(object))
                    }
                    Content::Rejected(name, findings) => {
                        let kept = name.as_ref().is_some_and(|name| before.contains_key(name));
                        reading.messages.extend(findings.iter().map(|finding| rejected(path, name.as_ref(), finding, kept)));
                        let Some(name) = name else { continue };
                        (name.clone(), None)
                    }
                };
                if let Some(first) = reading.origins.get(&name) {
                    let text = format!("{name} is already written at {}; this one is left out", first.place);
                    reading.messages.push(Message::fault(Some(place), text));
                    continue;
                }
                reading.origins.insert(name.clone(), Origin { place, landmark: entry.landmark, followed: !file.once });
                let old = before.remove(&name);
                let Some(object) = object.map_or_else(|| old.clone(), |object| Some(next(old.as_ref(), object))) else {
                    continue;
                };
                reading.objects.apply(object.clone());
                self.known.insert(name, object);
            }
        }
        for ((api_version, kind), (place, count)) in unknown {
            let objects = if count == 1 { "1 object".to_owned() } else { format!("{count} objects") };
            let text = format!("kind {kind} of {api_version} is not read: {objects} skipped");
            reading.messages.push(match Kind::meant(api_version, kind) {
                // A cluster would refuse it, too.
                Some(meant) => {
                    let text = format!("{text}; write `kind: {meant}` and `apiVersion: {}`", meant.api_version());
                    Message::fault(Some(place), text)
                }
                None if kind == "Kustomization" => {
                    let text = format!("{text}; `kubectl kustomize FOLDER | isthmus run -` reads what it makes");
                    Message::notice(Some(place), text)
                }
                None => Message::notice(Some(place), text),
            });
        }
        reading
    }
}

/// The object to hold after an update.
fn next(old: Option<&Object>, new: &Object) -> Object {
    let mut new = new.clone();
    let Some(old) = old.filter(|_| has_generation(new.kind())) else { return new };
    let mut generation = old.metadata().generation.unwrap_or(1);
    if !same_spec(old, &new) {
        generation += 1;
    }
    if new.metadata().generation != Some(generation)
        && let Some(metadata) = metadata_mut(&mut new)
    {
        metadata.generation = Some(generation);
    }
    new
}

fn same_spec(a: &Object, b: &Object) -> bool {
    match (a, b) {
        (Object::GatewayClass(a), Object::GatewayClass(b)) => a.spec == b.spec,
        (Object::Gateway(a), Object::Gateway(b)) => a.spec == b.spec,
        (Object::HttpRoute(a), Object::HttpRoute(b)) => a.spec == b.spec,
        (Object::ListenerSet(a), Object::ListenerSet(b)) => a.spec == b.spec,
        (Object::GrpcRoute(a), Object::GrpcRoute(b)) => a.spec == b.spec,
        (Object::TlsRoute(a), Object::TlsRoute(b)) => a.spec == b.spec,
        (Object::TcpRoute(a), Object::TcpRoute(b)) => a.spec == b.spec,
        (Object::UdpRoute(a), Object::UdpRoute(b)) => a.spec == b.spec,
        (Object::BackendTlsPolicy(a), Object::BackendTlsPolicy(b)) => a.spec == b.spec,
        (Object::ReferenceGrant(a), Object::ReferenceGrant(b)) => a.spec == b.spec,
        (Object::GatewayParameters(a), Object::GatewayParameters(b)) => a.spec == b.spec,
        (Object::XMesh(a), Object::XMesh(b)) => a.spec == b.spec,
        _ => false,
    }
}

/// Of the kinds that have a generation.
fn metadata_mut(object: &mut Object) -> Option<&mut ObjectMeta> {
    Some(match object {
        Object::GatewayClass(object) => &mut Arc::make_mut(object).metadata,
        Object::Gateway(object) => &mut Arc::make_mut(object).metadata,
        Object::HttpRoute(object) => &mut Arc::make_mut(object).metadata,
        Object::ListenerSet(object) => &mut Arc::make_mut(object).metadata,
        Object::GrpcRoute(object) => &mut Arc::make_mut(object).metadata,
        Object::TlsRoute(object) => &mut Arc::make_mut(object).metadata,
        Object::TcpRoute(object) => &mut Arc::make_mut(object).metadata,
        Object::UdpRoute(object) => &mut Arc::make_mut(object).metadata,
        Object::BackendTlsPolicy(object) => &mut Arc::make_mut(object).metadata,
        Object::ReferenceGrant(object) => &mut Arc::make_mut(object).metadata,
        Object::GatewayParameters(object) => &mut Arc::make_mut(object).metadata,
        Object::XMesh(object) => &mut Arc::make_mut(object).metadata,
        _ => return None,
    })
}

fn file_fault(path: &Path, fault: &FileFault, has_entries: bool) -> Message {
    let kept = if has_entries { "; what the file said before stays in force" } else { "" };
    match fault {
        FileFault::Syntax(error) => {
            let text = format!("column {}: {}{kept}", error.column, error.message);
            Message::fault(Some(Place::new(path, error.line)), text)
        }
        FileFault::Missing(_) => Message::fault(None, format!("{}: {fault}", path.display())),
        FileFault::Io(_) => Message::fault(None, format!("{}: {fault}{kept}", path.display())),
    }
}

fn rejected(path: &Path, name: Option<&ObjectRef>, finding: &crate::source::entry::Finding, kept: bool) -> Message {
    let name = name.map(|name| format!("{name}: ")).unwrap_or_default();
    let kept = if kept { "; the last valid version stays in force" } else { "" };
    Message::fault(Some(Place::new(path, finding.line)), format!("{name}{}{kept}", finding.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::document::parse;
    use crate::source::entry::Entry;

    fn file(text: &str) -> File {
        let entries = parse(text).unwrap().into_iter().map(Entry::judge).collect();
        File { entries, ..File::default() }
    }

    fn take(state: &mut State, files: &[(&str, &File)]) -> Reading {
        state.take(files.iter().map(|(path, file)| (Path::new(*path), *file)))
    }

    fn route(name: &str, weight: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {name}\nspec:\n  rules:\n  - backendRefs:\n    - name: x\n      port: 80\n      weight: {weight}\n"
        )
    }

    fn generations(reading: &Reading) -> Vec<(String, Option<i64>)> {
        reading.objects.http_routes.iter().map(|(name, route)| (name.to_string(), route.metadata.generation)).collect()
    }

    fn texts(reading: &Reading) -> Vec<String> {
        reading.messages.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_changed_spec_is_a_new_generation() {
        let mut state = State::default();
        let relabelled = route("a", "1").replace("  name: a\n", "  name: a\n  labels: {x: y}\n");
        for (text, generation) in [
            (route("a", "1"), Some(1)),
            (route("a", "1"), Some(1)),
            (relabelled, Some(1)),
            (route("a", "2"), Some(2)),
            (route("a", "1"), Some(3)),
            (String::new(), None),
            (route("a", "1"), Some(1)),
        ] {
            let reading = take(&mut state, &[("a.yaml", &file(&text))]);
            assert_eq!(
                reading.objects.http_routes.values().next().and_then(|route| route.metadata.generation),
                generation,
                "{text}"
            );
        }
    }

    #[test]
    fn every_kind_with_a_generation_counts_its_changes() {
        let backend = "{backendRefs: [{name: a, port: PORT}]}";
        for (kind, spec) in [
            ("GatewayClass", "{controllerName: a/bPORT}".to_owned()),
            ("Gateway", "{gatewayClassName: c, listeners: [{name: l, port: PORT, protocol: TCP}]}".to_owned()),
            ("ListenerSet", "{parentRef: {name: g}, listeners: [{name: l, port: PORT, protocol: UDP}]}".to_owned()),
            ("HTTPRoute", format!("{{rules: [{backend}]}}")),
            ("GRPCRoute", format!("{{rules: [{backend}]}}")),
            ("TLSRoute", format!("{{hostnames: [a.example], rules: [{backend}]}}")),
            ("TCPRoute", format!("{{rules: [{backend}]}}")),
            ("UDPRoute", format!("{{rules: [{backend}]}}")),
            (
                "BackendTLSPolicy",
                "{targetRefs: [{group: '', kind: Service, name: a}], validation: {hostname: hPORT.example, wellKnownCACertificates: System}}"
                    .to_owned(),
            ),
            ("ReferenceGrant", "{from: [{group: '', kind: Service, namespace: nPORT}], to: [{group: '', kind: Secret}]}".to_owned()),
            ("GatewayParameters", "{replicas: PORT}".to_owned()),
            ("XMesh", "{controllerName: a.example/PORT}".to_owned()),
        ] {
            let api_version = match kind {
                "GatewayParameters" => "isthmus.dev/v1alpha1",
                "XMesh" => "gateway.networking.x-k8s.io/v1alpha1",
                _ => "gateway.networking.k8s.io/v1",
            };
            let text = |port: &str| {
                let spec = spec.replace("PORT", port);
                format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n")
            };
            let mut state = State::default();
            let generations = ["80", "80", "81"].map(|port| {
                take(&mut state, &[("a.yaml", &file(&text(port)))]);
                state.known.values().next().and_then(|object| object.metadata().generation)
            });
            assert_eq!(generations, [Some(1), Some(1), Some(2)], "{kind}");
        }
    }

    #[test]
    fn an_object_that_became_invalid_stays_as_it_was() {
        let mut state = State::default();
        let (good, bad) =
            (file(&(route("a", "1") + "---\n" + &route("b", "1"))), file(&(route("a", "none") + "---\n" + &route("b", "2"))));
        let reading = take(&mut state, &[("a.yaml", &bad)]);
        assert_eq!(generations(&reading), [("default/b".to_owned(), Some(1))], "never valid: not there");
        assert!(!texts(&reading)[0].contains("stays"), "{:?}", texts(&reading));
        take(&mut state, &[("a.yaml", &good)]);
        let reading = take(&mut state, &[("a.yaml", &bad)]);
        assert_eq!(generations(&reading), [("default/a".to_owned(), Some(1)), ("default/b".to_owned(), Some(3))]);
        let texts = texts(&reading);
        assert!(texts[0].starts_with("a.yaml:10: HTTPRoute/default/a: spec.rules[0].backendRefs[0].weight: "), "{texts:?}");
        assert!(texts[0].ends_with("the last valid version stays in force"), "{texts:?}");
    }

    #[test]
    fn a_broken_file_is_named_and_keeps_its_entries() {
        let mut state = State::default();
        let mut broken = file(&route("a", "1"));
        broken.fault = Some(parse("a: [").unwrap_err().into());
        let reading = take(&mut state, &[("a.yaml", &broken)]);
        assert_eq!(generations(&reading), [("default/a".to_owned(), Some(1))]);
        assert_eq!(texts(&reading), ["a.yaml:1: column 4: unclosed bracket '['; what the file said before stays in force"]);
    }

    #[test]
    fn the_first_of_two_counts() {
        let mut state = State::default();
        let (first, second) = (file(&route("a", "1")), file(&format!("\n{}", route("a", "2"))));
        let reading = take(&mut state, &[("a.yaml", &first), ("b.yaml", &second)]);
        assert_eq!(generations(&reading), [("default/a".to_owned(), Some(1))]);
        assert_eq!(texts(&reading), ["b.yaml:2: HTTPRoute/default/a is already written at a.yaml:1; this one is left out"]);
        let reading = take(&mut state, &[("a.yaml", &first), ("b.yaml", &second)]);
        assert_eq!(generations(&reading), [("default/a".to_owned(), Some(1))], "reading again changes nothing");
    }

    #[test]
    fn unknown_kinds_are_named_once() {
        let mut state = State::default();
        let text = "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: apps/v1\nkind: Deployment\n---\napiVersion: v1\nkind: service\n";
        let reading = take(&mut state, &[("a.yaml", &file(text))]);
        assert_eq!(
            texts(&reading),
            [
                "a.yaml:1: kind Deployment of apps/v1 is not read: 2 objects skipped",
                "a.yaml:7: kind service of v1 is not read: 1 object skipped; write `kind: Service` and `apiVersion: v1`"
            ]
        );
    }
}
