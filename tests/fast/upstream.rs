//! Upstream's own YAML, from the Go modules: what should be admitted is, loses no field on its way into our types, and translates; what
//! should be refused is.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use isthmus_admission::{Finding, admit};
use isthmus_api::{DecodeError, Kind, Object, Objects, decode};
use isthmus_translate::{CONTROLLER_NAME, Options, translate};
use serde_json::{Value, json};

/// What the conformance suite puts in before it applies a file; the addresses are ours to choose.
const SUBSTITUTES: [(&str, &str); 4] = [
    ("{GATEWAY_CLASS_NAME}", "isthmus"),
    ("{GATEWAY_CONTROLLER_NAME}", CONTROLLER_NAME),
    ("PLACEHOLDER_USABLE_ADDRS", "127.0.0.1"),
    ("PLACEHOLDER_UNUSABLE_ADDRS", "192.0.2.1"),
];

/// A document of a kind that Isthmus reads, and the file it is from.
struct Document {
    file: PathBuf,
    value: Value,
}

#[test]
fn conformance_manifests_are_admitted_and_lose_no_field() {
    let documents = conformance();
    assert!(documents.len() > 300, "only {} objects of our kinds: has the module moved its files?", documents.len());
    for Document { file, value } in documents {
        keeps_every_field(&file, value);
    }
}

#[test]
fn examples_are_admitted_and_lose_no_field() {
    let documents = read(&module("gateway-api@v1.7.0").join("examples/standard"));
    assert!(documents.len() > 40, "only {} objects of our kinds: has the module moved its files?", documents.len());
    for Document { file, value } in documents {
        keeps_every_field(&file, value);
    }
}

#[test]
fn conformance_manifests_translate_together() {
    let mut objects = Objects::default();
    // The suite expects the class to be there already.
    let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "isthmus"},
        "spec": {"controllerName": CONTROLLER_NAME}});
    objects.apply(typed(Path::new("our class"), class));
    for Document { file, value } in conformance() {
        objects.apply(typed(&file, value));
    }
    let translation = translate(&objects, &Options::default());
    assert_eq!(translation.statuses.gateway_classes.len(), objects.gateway_classes.len());
    assert_eq!(translation.statuses.gateways.len(), objects.gateways.len());
    let statuses = &translation.statuses;
    for (kind, judged, least, there) in [
        ("TLSRoute", statuses.tls_routes.len(), 20, objects.tls_routes.len()),
        ("TCPRoute", statuses.tcp_routes.len(), 10, objects.tcp_routes.len()),
        ("UDPRoute", statuses.udp_routes.len(), 10, objects.udp_routes.len()),
    ] {
        assert!(there >= least, "only {there} of {kind}: has the module moved its files?");
        assert_eq!(judged, there, "each {kind} has a status");
    }
    // Those that concern no traffic of ours have none.
    let policies = statuses.backend_tls_policies.len();
    assert!(policies >= 20, "only {policies} BackendTLSPolicies have a status");
    let again = translate(&objects, &Options::default());
    assert_eq!(translation.snapshot, again.snapshot);
    assert_eq!(translation.statuses, again.statuses);
}

#[test]
fn invalid_examples_are_refused() {
    // The examples of the experimental channel break rules that only its CRDs have.
    let folder = module("gateway-api@v1.7.0").join("hack/invalid-examples/standard");
    let documents = read(&folder);
    assert!(documents.len() >= 30, "only {} invalid examples of our kinds: has the module moved its files?", documents.len());
    for (file, values) in by_file(documents) {
        let refused = values.into_iter().filter(|value| admit(value.clone()).is_err()).count();
        assert!(refused > 0, "{} is admitted", file.display());
    }
}

/// One value of one object is replaced at a time: whatever of that is admitted can be decoded and translated.
#[test]
fn what_is_admitted_decodes_and_translates() {
    let strange = [
        json!(null),
        json!(""),
        json!("x"),
        json!(-1),
        json!(80.0),
        json!(u64::MAX),
        json!(true),
        json!([null]),
        json!({"a": 1}),
    ];
    let mut admitted = 0;
    for Document { file, value } in one_of_each_kind() {
        for place in places(&value) {
            for strange in &strange {
                let mut value = value.clone();
                if let Some(there) = value.pointer_mut(&place) {
                    *there = strange.clone();
                }
                let Ok(object) = admit(value) else { continue };
                match decode(object.object) {
                    Ok(object) => {
                        let mut objects = Objects::default();
                        objects.apply(object);
                        translate(&objects, &Options::default());
                        admitted += 1;
                    }
                    Err(DecodeError::UnknownKind { .. }) => {}
                    Err(error) => panic!("{}: {place} = {strange}: {error}", file.display()),
                }
            }
        }
    }
    assert!(admitted > 100, "only {admitted} of the strange objects are admitted");
}

/// The longest: it has the most fields.
fn one_of_each_kind() -> Vec<Document> {
    let mut documents = conformance();
    documents.sort_by_cached_key(|Document { value, .. }| (value["kind"].to_string(), Reverse(value.to_string().len())));
    documents.dedup_by_key(|document| document.value["kind"].to_string());
    documents
}

/// JSON pointers of a value and of everything in it.
fn places(value: &Value) -> Vec<String> {
    let below =
        |step: String, value: &Value| places(value).into_iter().map(move |place| format!("/{step}{place}")).collect::<Vec<_>>();
    let mut found = vec![String::new()];
    match value {
        Value::Object(fields) => {
            found.extend(fields.iter().flat_map(|(name, value)| below(name.replace('~', "~0").replace('/', "~1"), value)));
        }
        Value::Array(items) => found.extend(items.iter().enumerate().flat_map(|(index, item)| below(index.to_string(), item))),
        _ => {}
    }
    found
}

fn keeps_every_field(file: &Path, value: Value) {
    let admitted = admit(value).unwrap_or_else(|faults| panic!("{}: {}", file.display(), lines(&faults)));
    assert!(admitted.warnings.is_empty(), "{}: {}", file.display(), lines(&admitted.warnings));
    let object = decode(admitted.object.clone()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let typed = object.to_json().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for (field, value) in admitted.object.as_object().into_iter().flatten() {
        // The types answer in their own version, and `metadata` has times and owners that Isthmus does not write.
        if field != "apiVersion" && field != "metadata" {
            is_kept(value, typed.get(field), &format!("{}: {} {field}", file.display(), object.object_ref()));
        }
    }
}

/// Everything in `before` is in `after`, except nulls.
fn is_kept(before: &Value, after: Option<&Value>, place: &str) {
    match (before, after) {
        (Value::Null, None) => {}
        (Value::Object(fields), Some(Value::Object(typed))) => {
            for (name, value) in fields {
                is_kept(value, typed.get(name), &format!("{place}.{name}"));
            }
        }
        (Value::Array(items), Some(Value::Array(typed))) if items.len() == typed.len() => {
            for (index, (item, typed)) in items.iter().zip(typed).enumerate() {
                is_kept(item, Some(typed), &format!("{place}[{index}]"));
            }
        }
        (before, after) => assert_eq!(Some(before), after, "{place}"),
    }
}

fn typed(file: &Path, value: Value) -> Object {
    let admitted = admit(value).unwrap_or_else(|faults| panic!("{}: {}", file.display(), lines(&faults)));
    decode(admitted.object).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// What the conformance suite applies, as it applies it: with the names of our class and controller.
fn conformance() -> Vec<Document> {
    let folder = module("gateway-api/conformance@v1.7.0");
    ["base", "mesh", "tests"].iter().flat_map(|part| read(&folder.join(part))).collect()
}

/// The documents in a folder and those below it that are of kinds that Isthmus reads, in the order of their files' names.
fn read(folder: &Path) -> Vec<Document> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}; `./dev test` fetches upstream's modules", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    entries.iter().flat_map(|path| if path.is_dir() { read(path) } else { documents(path) }).collect()
}

fn documents(file: &Path) -> Vec<Document> {
    if file.extension().is_none_or(|extension| extension != "yaml") {
        return Vec::new();
    }
    let text = fs::read_to_string(file).unwrap();
    let text = SUBSTITUTES.iter().fold(text, |text, (placeholder, value)| text.replace(placeholder, value));
    let values: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    values.into_iter().filter(is_ours).map(|value| Document { file: file.to_owned(), value }).collect()
}

fn is_ours(value: &Value) -> bool {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    Kind::of(text("apiVersion"), text("kind")).is_some()
}

fn by_file(documents: Vec<Document>) -> Vec<(PathBuf, Vec<Value>)> {
    let mut files: Vec<(PathBuf, Vec<Value>)> = Vec::new();
    for Document { file, value } in documents {
        match files.last_mut() {
            Some((last, values)) if *last == file => values.push(value),
            _ => files.push((file, vec![value])),
        }
    }
    files
}

fn module(name: &str) -> PathBuf {
    let folder = std::env::var_os("ISTHMUS_UPSTREAM").unwrap_or_else(|| {
        panic!("ISTHMUS_UPSTREAM is not set: it is the folder with upstream's Go modules (`gateway-api@v1.7.0`), and `./dev test` sets it")
    });
    PathBuf::from(folder).join(name)
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_kind_of_somebody_else_passes_admission_and_is_named_by_decoding() {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}});
    let admitted = admit(node.clone()).unwrap();
    assert_eq!(admitted.object, node);
    let expected = DecodeError::UnknownKind { api_version: "v1".to_owned(), kind: "Node".to_owned() };
    assert_eq!(decode(admitted.object), Err(expected));
}
