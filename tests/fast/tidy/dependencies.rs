//! Which crate may depend on which: the design's rules against what Cargo says.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{assert_none, root};

/// Crates without files, environment, clock, tasks and randomness.
pub(super) const PURE: [&str; 5] = ["routing", "api", "admission", "translate", "inject"];

/// Who may depend on which of ours. A package that is not listed here has no rule yet, which is a fault.
const RULES: [(&str, &[&str]); 13] = [
    ("isthmus-routing", &[]),
    ("isthmus-api", &[]),
    ("isthmus-admission", &[]),
    ("isthmus-inject", &["isthmus-api"]),
    ("isthmus-translate", &["isthmus-routing", "isthmus-api"]),
    ("isthmus-push", &["isthmus-routing"]),
    ("isthmus-dataplane", &["isthmus-routing"]),
    ("isthmus-gateway", &["isthmus-dataplane", "isthmus-push", "isthmus-routing"]),
    ("isthmus-mesh-proxy", &["isthmus-dataplane", "isthmus-push", "isthmus-routing"]),
    ("isthmus-controller", &["isthmus-api", "isthmus-inject", "isthmus-push", "isthmus-routing", "isthmus-translate"]),
    (
        "isthmus-cli",
        &["isthmus-admission", "isthmus-api", "isthmus-dataplane", "isthmus-inject", "isthmus-routing", "isthmus-translate"],
    ),
    (
        "isthmus-tests",
        &[
            "isthmus-admission",
            "isthmus-api",
            "isthmus-cli",
            "isthmus-controller",
            "isthmus-dataplane",
            "isthmus-push",
            "isthmus-routing",
            "isthmus-translate",
        ],
    ),
    ("xtask", &[]),
];

/// Who alone names a family of crates.
const OWNERS: [(&str, &str); 2] = [("pingora", "isthmus-dataplane"), ("gateway-api", "isthmus-api")];

/// What would bring the outside into a pure crate.
const IMPURE: [&str; 10] = ["async-std", "axum", "getrandom", "hyper", "mio", "notify", "pingora", "rand", "socket2", "tokio"];

struct Package {
    name: String,
    /// Direct dependencies, those of its tests and build scripts too.
    dependencies: Vec<String>,
    /// Source files of its libraries and binaries.
    roots: Vec<String>,
}

fn packages() -> Vec<Package> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let output = cargo.output().expect("cargo says what is in the workspace");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    packages.iter().map(package).collect()
}

fn package(value: &Value) -> Package {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let array = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    let is_ours =
        |target: &Value| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib" || kind == "bin"));
    Package {
        name: text(&value["name"]),
        dependencies: array("dependencies").iter().map(|dependency| text(&dependency["name"])).collect(),
        roots: array("targets").iter().filter(|target| is_ours(target)).map(|target| text(&target["src_path"])).collect(),
    }
}

#[test]
fn crates_depend_as_designed() {
    let packages = packages();
    let ours: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut faults = Vec::new();
    for Package { name, dependencies, .. } in &packages {
        let Some((_, allowed)) = RULES.iter().find(|(known, _)| known == name) else {
            faults.push(format!("{name} has no rule in tests/fast/tidy/dependencies.rs"));
            continue;
        };
        let wrong = dependencies.iter().filter(|other| ours.contains(&other.as_str()) && !allowed.contains(&other.as_str()));
        faults.extend(wrong.map(|other| format!("{name} may not depend on {other}")));
        for (family, owner) in OWNERS.iter().filter(|(_, owner)| owner != name) {
            let wrong = dependencies.iter().filter(|other| belongs(other, family));
            faults.extend(wrong.map(|other| format!("{name} may not depend on {other}: only {owner} names it")));
        }
    }
    assert_none(&faults);
}

#[test]
fn pure_crates_stay_pure() {
    let mut faults = Vec::new();
    for Package { name, dependencies, .. } in packages() {
        if PURE.iter().any(|pure| name == format!("isthmus-{pure}")) {
            let wrong = dependencies.iter().filter(|other| IMPURE.iter().any(|impure| belongs(other, impure)));
            faults.extend(wrong.map(|other| format!("{name} is pure and may not depend on {other}")));
        }
    }
    assert_none(&faults);
}

#[test]
fn every_crate_forbids_unsafe_code() {
    let roots = packages().into_iter().flat_map(|package| package.roots);
    let lenient = roots
        .filter(|path| (path.contains("/crates/") || path.contains("/controller/")) && path.ends_with("lib.rs"))
        .filter(|path| !forbids_unsafe(path));
    assert_none(&lenient.map(|path| format!("{path}: no #![forbid(unsafe_code)]")).collect::<Vec<_>>());
    // The rest too: the workspace's lint says it for every package that takes it over.
    let manifests = packages().into_iter().map(|package| package.name).map(|name| match name.strip_prefix("isthmus-") {
        Some(top @ ("controller" | "gateway" | "mesh-proxy" | "tests")) => format!("{top}/Cargo.toml"),
        Some(name) => format!("crates/{name}/Cargo.toml"),
        None => format!("{name}/Cargo.toml"),
    });
    let lenient =
        manifests.filter(|path| !fs::read_to_string(root().join(path)).unwrap_or_default().contains("[lints]\nworkspace = true"));
    assert_none(&lenient.map(|path| format!("{path}: does not take over the workspace's lints")).collect::<Vec<_>>());
}

#[test]
fn the_architecture_names_every_crate() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("there is an ARCHITECTURE.md");
    let short = packages().into_iter().map(|package| package.name.trim_start_matches("isthmus-").to_owned());
    let missing: Vec<String> = short.filter(|name| !text.contains(name.as_str())).collect();
    assert_none(&missing.iter().map(|name| format!("ARCHITECTURE.md does not say what {name} is for")).collect::<Vec<_>>());
}

fn forbids_unsafe(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.contains("#![forbid(unsafe_code)]"))
}

/// `pingora-core` belongs to `pingora`, and so does `pingora`.
fn belongs(name: &str, family: &str) -> bool {
    name == family || name.strip_prefix(family).is_some_and(|rest| rest.starts_with('-'))
}
