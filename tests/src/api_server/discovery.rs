//! Discovery: the parts of a path -> the groups, versions and resources that are served.

use serde_json::{Value, json};

use super::kinds::Resource;
use super::refusal::Refusal;
use super::store::Store;

/// Answers `/version`, the health checks, `/api`, `/apis`, `/api/v1`, `/apis/GROUP` and `/apis/GROUP/VERSION`.
pub(super) fn answer(store: &Store, parts: &[String]) -> Result<Value, Refusal> {
    let served = store.served();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["version"] => Ok(json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "0", "gitTreeState": "clean",
            "buildDate": "2026-04-15T00:00:00Z", "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64",
        })),
        ["livez" | "readyz" | "healthz"] => Ok(json!("ok")),
        ["api"] => Ok(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["api", version] => resources(served, "", version),
        ["apis"] => {
            let mut names: Vec<&str> = served.iter().map(|one| one.group.as_str()).filter(|group| !group.is_empty()).collect();
            names.dedup();
            names.sort_unstable();
            names.dedup();
            let groups: Vec<Value> = names.into_iter().map(|name| group(served, name)).collect();
            Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] if served.iter().any(|one| one.group == *name) => {
            let mut group = group(served, name);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            Ok(group)
        }
        ["apis", group, version] => resources(served, group, version),
        _ => Err(Refusal::not_served()),
    }
}

fn group(served: &[Resource], name: &str) -> Value {
    let mut versions: Vec<&String> = Vec::new();
    for version in served.iter().filter(|one| one.group == name).flat_map(|one| &one.versions) {
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions.sort_by_key(|version| (version.contains("alpha"), version.contains("beta")));
    let versions: Vec<Value> =
        versions.iter().map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version})).collect();
    json!({"name": name, "preferredVersion": versions[0], "versions": versions})
}

fn resources(served: &[Resource], group: &str, version: &str) -> Result<Value, Refusal> {
    let mut list = Vec::new();
    for one in served.iter().filter(|one| one.group == group && one.versions.iter().any(|served| served == version)) {
        let resource = |name: String, verbs: &[&str]| {
            json!({
                "name": name, "singularName": one.kind.to_lowercase(), "namespaced": one.namespaced, "kind": one.kind, "verbs": verbs,
            })
        };
        list.push(resource(one.plural.clone(), &["create", "delete", "get", "list", "patch", "update", "watch"]));
        if one.status {
            list.push(resource(format!("{}/status", one.plural), &["get", "patch", "update"]));
        }
    }
    if list.is_empty() {
        return Err(Refusal::not_served());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}
