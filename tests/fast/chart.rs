//! What the chart's files say of each other, of the code and of the documentation. Helm itself runs in `cargo xtask chart`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::tidy::{assert_none, root};

/// The named templates with rules, and how the documentation begins the table of each.
const SCOPES: [(&str, &str); 3] = [
    ("isthmus.rules.cluster", "**Always in a ClusterRole**"),
    ("isthmus.rules.namespaced", "**In the namespaces that are served**"),
    ("isthmus.rules.own", "**In its own namespace**"),
];

/// One rule, as far as the documentation has it, too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: BTreeSet<String>,
    resources: BTreeSet<String>,
    verbs: BTreeSet<String>,
}

fn chart() -> PathBuf {
    root().join("charts/isthmus")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of a named template.
fn template<'t>(text: &'t str, name: &str) -> &'t str {
    let (_, rest) = text.split_once(&format!("{{{{- define \"{name}\" -}}}}\n")).unwrap_or_else(|| panic!("no template {name}"));
    rest.split_once("\n{{- end }}\n\n").expect("the template ends before an empty line").0
}

/// Rules as written; lines with braces only choose between them or name objects.
fn rules(template: &str) -> BTreeSet<Rule> {
    let plain: String = template.lines().filter(|line| !line.contains("{{")).flat_map(|line| [line, "\n"]).collect();
    let rules: Vec<Rule> = serde_saphyr::from_str(&plain).expect("rules are YAML");
    rules.into_iter().collect()
}

/// The rows of the first table after a line that begins so.
fn table(page: &str, begin: &str) -> BTreeSet<Rule> {
    let lines = page.lines().skip_while(|line| !line.starts_with(begin)).skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    let words = |cell: &str| cell.split(',').map(|word| word.trim().trim_matches('`').to_owned()).collect::<BTreeSet<_>>();
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let group = words(cells[0]).into_iter().map(|group| if group == "core" { String::new() } else { group });
        Rule { api_groups: group.collect(), resources: words(cells[1]), verbs: words(cells[2]) }
    })
    .collect()
}

/// Property names at every depth, `a.b.c`; a list's items count as the list.
fn names(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    if let Some(items) = schema.get("items") {
        return names(items, at, found);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        names(property, &path, found);
        found.insert(path);
    }
}

/// Replaces `$ref` by what it refers to.
fn resolved(schema: &Value, definitions: &Value) -> Value {
    match schema {
        Value::Object(fields) => match fields.get("$ref").and_then(Value::as_str) {
            Some(reference) => {
                resolved(&definitions[reference.strip_prefix("#/definitions/").expect("a local reference")], definitions)
            }
            None => fields.iter().map(|(name, value)| (name.clone(), resolved(value, definitions))).collect(),
        },
        Value::Array(items) => items.iter().map(|item| resolved(item, definitions)).collect(),
        other => other.clone(),
    }
}

fn values_schema() -> Value {
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).expect("the schema is JSON");
    resolved(&schema, &schema["definitions"])
}

#[test]
fn the_documentation_lists_what_the_controller_may_do() {
    let (text, page) = (read(&chart().join("templates/rbac.yaml")), read(&root().join("docs/kubernetes.md")));
    let mut faults = Vec::new();
    for (name, begin) in SCOPES {
        let (written, documented) = (rules(template(&text, name)), table(&page, begin));
        assert!(!written.is_empty(), "{name} has no rule");
        faults.extend(written.difference(&documented).map(|rule| format!("{name}: not in docs/kubernetes.md: {rule:?}")));
        faults.extend(documented.difference(&written).map(|rule| format!("{name}: only in docs/kubernetes.md: {rule:?}")));
        let all = written.iter().flat_map(|rule| rule.api_groups.iter().chain(&rule.resources).chain(&rule.verbs));
        faults.extend(all.filter(|word| word.contains('*')).map(|word| format!("{name}: {word} is more than is needed")));
    }
    assert_none(&faults);
}

#[test]
fn each_rule_names_the_code_that_uses_it() {
    let text = read(&chart().join("templates/rbac.yaml"));
    let mut faults = Vec::new();
    for (name, _) in SCOPES {
        let mut modules: BTreeSet<&str> = BTreeSet::new();
        let mut last_was_comment = false;
        for line in template(&text, name).lines() {
            let Some(comment) = line.strip_prefix('#') else {
                last_was_comment = false;
                if line.starts_with("- ") && modules.is_empty() {
                    faults.push(format!("{name}: `{line}` has no comment before it that says which code uses the rule"));
                }
                continue;
            };
            if !last_was_comment {
                modules.clear();
            }
            last_was_comment = true;
            let end = |rest: &str| rest.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_').unwrap_or(rest.len());
            modules.extend(comment.split("controller::").skip(1).map(|rest| &rest[..end(rest)]));
            let source = root().join("controller/src");
            let absent = modules
                .iter()
                .filter(|module| !source.join(format!("{module}.rs")).exists() && !source.join(module).join("mod.rs").exists());
            faults.extend(absent.map(|module| format!("{name}: controller::{module} does not exist")));
        }
    }
    assert_none(&faults);
}

#[test]
fn the_schema_of_values_is_strict_and_whole() {
    fn walk(values: &Value, schema: &Value, at: &str, faults: &mut Vec<String>) {
        let Some(values) = values.as_object() else { return };
        let properties = schema.get("properties").and_then(Value::as_object);
        match (properties, &schema["additionalProperties"]) {
            (Some(_), Value::Bool(false)) => {}
            // Free text, and what another schema judges: empty here.
            (None, _) if values.is_empty() || schema["additionalProperties"].is_object() => return,
            _ => faults.push(format!("{at}: additionalProperties must be false")),
        }
        let properties = properties.cloned().unwrap_or_default();
        for (name, value) in values {
            match properties.get(name) {
                Some(property) => walk(value, property, &format!("{at}.{name}"), faults),
                None => faults.push(format!("{at}.{name}: not in values.schema.json")),
            }
        }
        let absent = properties.keys().filter(|name| !values.is_empty() && !values.contains_key(*name));
        faults.extend(absent.filter(|name| *name != "global").map(|name| format!("{at}.{name}: not in values.yaml")));
    }
    let mut faults = Vec::new();
    let mut schema = values_schema();
    // As a Kubernetes type has it, and not listed in values.yaml.
    schema["properties"]["resources"]["properties"].as_object_mut().expect("properties").remove("claims");
    walk(&yaml(&chart().join("values.yaml")), &schema, "", &mut faults);
    assert_none(&faults);
}

#[test]
fn the_value_for_parameters_has_the_fields_of_the_crd() {
    let crd = yaml(&chart().join("files/crds/gatewayparameters.yaml"));
    let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
    names(&values_schema()["properties"]["gatewayParameters"], "", &mut ours);
    names(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "", &mut theirs);
    let faults: Vec<String> = ours.symmetric_difference(&theirs).map(|name| format!("only one of them has {name}")).collect();
    assert_none(&faults);
}

#[test]
fn the_chart_has_the_version_of_the_code() {
    let chart = yaml(&chart().join("Chart.yaml"));
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
}
