//! An object with its status -> whether it is served. Pure.

use isthmus_translate::CONTROLLER_NAME;
use kube::api::DynamicObject;
use serde_json::Value;

/// Whether an object is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it, at its newest generation.
    Met,
    /// What is missing, in words.
    NotYet(Vec<String>),
}

/// The conditions that have to be true: those of the specification, and ours where the specification has none.
const WANTED: [&str; 5] = ["Accepted", "ResolvedRefs", "Programmed", "isthmus.dev/Programmed", "SupportedVersion"];

/// Conditions of ours that must not be true.
const UNWANTED: [&str; 1] = ["isthmus.dev/RefusedByStrictMode"];

/// Judges by what the status says of the newest generation. What other controllers say of a route or policy is of no matter.
pub(super) fn judge(object: &DynamicObject) -> Outcome {
    let generation = object.metadata.generation.unwrap_or_default();
    let status = &object.data["status"];
    let spec = &object.data["spec"];
    let list = |field: &str| status[field].as_array().map(Vec::as_slice);
    let missing = match (list("parents"), list("ancestors")) {
        (parents, _) if parents.is_some() || spec["parentRefs"].is_array() => {
            of_entries(&PARENTS, parents.unwrap_or_default(), generation)
        }
        (_, ancestors) if ancestors.is_some() || spec["targetRefs"].is_array() => {
            of_entries(&ANCESTORS, ancestors.unwrap_or_default(), generation)
        }
        _ => of_other(status, generation),
    };
    if missing.is_empty() { Outcome::Met } else { Outcome::NotYet(missing) }
}

/// Where the status of an object has an entry for each pair of a controller and what it judges.
struct Entries {
    /// What the entry is about.
    reference: &'static str,
    /// What ours has to say at least.
    needed: &'static [&'static str],
    /// What to say if none is ours.
    none: &'static str,
}

const PARENTS: Entries = Entries {
    reference: "parentRef",
    needed: &["Accepted", "isthmus.dev/Programmed"],
    none: "no parent is of this controller yet; see spec.parentRefs, and the class of the Gateway",
};

const ANCESTORS: Entries = Entries {
    reference: "ancestorRef",
    needed: &["Accepted", "ResolvedRefs"],
    none: "no Gateway of this controller sends anything to what it names yet; see spec.targetRefs, and the routes that lead there",
};

fn of_entries(of: &Entries, all: &[Value], generation: i64) -> Vec<String> {
    let ours: Vec<&Value> = all.iter().filter(|entry| entry["controllerName"] == CONTROLLER_NAME).collect();
    if ours.is_empty() {
        return vec![of.none.to_owned()];
    }
    let of_entry = |entry: &&Value| {
        let name = name(&entry[of.reference]);
        conditions(&entry["conditions"], generation, of.needed).into_iter().map(move |text| format!("{name}: {text}"))
    };
    ours.iter().flat_map(of_entry).collect()
}

fn of_other(status: &Value, generation: i64) -> Vec<String> {
    let mut missing = conditions(&status["conditions"], generation, &OTHER);
    for listener in status["listeners"].as_array().into_iter().flatten() {
        let name = listener["name"].as_str().unwrap_or_default();
        let of_listener = conditions(&listener["conditions"], generation, &OTHER);
        missing.extend(of_listener.into_iter().map(|text| format!("listener {name}: {text}")));
    }
    missing
}

/// What everything else has to say at least.
const OTHER: [&str; 1] = ["Accepted"];

/// What is wrong with these conditions.
fn conditions(conditions: &Value, generation: i64, needed: &[&str]) -> Vec<String> {
    let all: Vec<&Value> = conditions.as_array().into_iter().flatten().collect();
    let kind = |condition: &Value| condition["type"].as_str().unwrap_or_default().to_owned();
    let absent = needed.iter().filter(|needed| !all.iter().any(|condition| kind(condition) == **needed));
    let mut wrong: Vec<String> = absent.map(|needed| format!("{needed} is not there yet")).collect();
    for condition in &all {
        let unwanted = UNWANTED.contains(&kind(condition).as_str());
        if !unwanted && !WANTED.contains(&kind(condition).as_str()) {
            continue;
        }
        let observed = condition["observedGeneration"].as_i64().unwrap_or_default();
        let (kind, text) = (kind(condition), |field: &str| condition[field].as_str().unwrap_or_default().to_owned());
        if observed < generation {
            wrong.push(format!("{kind} is of generation {observed}, not yet of {generation}"));
        } else if (condition["status"] == "True") == unwanted {
            wrong.push(format!("{kind} is {}, {}: {}", text("status"), text("reason"), text("message")));
        }
    }
    wrong
}

/// `Gateway shop/edge, listener https`
fn name(parent: &Value) -> String {
    let text = |field: &str| parent[field].as_str();
    let namespace = text("namespace").map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let section = text("sectionName").map(|section| format!(", listener {section}")).unwrap_or_default();
    format!("{} {namespace}{}{section}", text("kind").unwrap_or("Gateway"), text("name").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(spec: &Value, status: &Value) -> Vec<String> {
        let object = json!({"metadata": {"name": "x", "generation": 3}, "spec": spec, "status": status});
        match judge(&serde_json::from_value(object).unwrap()) {
            Outcome::Met => Vec::new(),
            Outcome::NotYet(reasons) => reasons,
        }
    }

    fn condition(kind: &str, status: &str, generation: i64) -> Value {
        json!({"type": kind, "status": status, "reason": "Why", "message": "because", "observedGeneration": generation})
    }

    #[test]
    fn routes_are_judged_by_our_parents() {
        let spec = json!({"parentRefs": [{"name": "edge"}]});
        let parent = |controller: &str, conditions: &Value| json!({"parentRef": {"kind": "Gateway", "name": "edge", "sectionName": "https"}, "controllerName": controller, "conditions": conditions});
        let good = json!([condition("Accepted", "True", 3), condition("isthmus.dev/Programmed", "True", 3)]);
        let older = json!([condition("Accepted", "True", 2), condition("isthmus.dev/Programmed", "True", 3)]);
        let refused = json!([condition("Accepted", "True", 3), condition("isthmus.dev/Programmed", "False", 3)]);
        let nobody = "no parent is of this controller yet; see spec.parentRefs, and the class of the Gateway";
        for (parents, expected) in [
            (json!([parent(CONTROLLER_NAME, &good)]), vec![]),
            (json!([parent("example.com/other", &refused), parent(CONTROLLER_NAME, &good)]), vec![]),
            (json!([parent("example.com/other", &good)]), vec![nobody]),
            (
                json!([parent(CONTROLLER_NAME, &older)]),
                vec!["Gateway edge, listener https: Accepted is of generation 2, not yet of 3"],
            ),
            (
                json!([parent(CONTROLLER_NAME, &refused)]),
                vec!["Gateway edge, listener https: isthmus.dev/Programmed is False, Why: because"],
            ),
            (
                json!([parent(CONTROLLER_NAME, &json!([condition("Accepted", "True", 3)]))]),
                vec!["Gateway edge, listener https: isthmus.dev/Programmed is not there yet"],
            ),
        ] {
            assert_eq!(judged(&spec, &json!({"parents": parents})), expected, "{parents}");
        }
        assert_eq!(judged(&spec, &Value::Null), [nobody]);
    }

    #[test]
    fn policies_are_judged_by_our_ancestors() {
        let spec = json!({"targetRefs": [{"kind": "Service", "name": "db"}]});
        let ancestor = |controller: &str, refs: &str| {
            json!({"ancestorRef": {"kind": "Gateway", "namespace": "infra", "name": "edge"}, "controllerName": controller,
                "conditions": [condition("Accepted", "True", 3), condition("ResolvedRefs", refs, 3)]})
        };
        let judged = |ancestors: Value| judged(&spec, &json!({"ancestors": ancestors}));
        assert_eq!(
            judged(json!([ancestor(CONTROLLER_NAME, "True"), ancestor("example.com/other", "False")])),
            Vec::<String>::new()
        );
        assert_eq!(
            judged(json!([ancestor(CONTROLLER_NAME, "False")])),
            ["Gateway infra/edge: ResolvedRefs is False, Why: because"]
        );
        let refused = |status: &str| {
            let mut ancestor = ancestor(CONTROLLER_NAME, "True");
            ancestor["conditions"].as_array_mut().unwrap().push(condition("isthmus.dev/RefusedByStrictMode", status, 3));
            judged(json!([ancestor]))
        };
        assert_eq!(refused("False"), Vec::<String>::new());
        assert_eq!(refused("True"), ["Gateway infra/edge: isthmus.dev/RefusedByStrictMode is True, Why: because"]);
        assert_eq!(judged(json!([ancestor("example.com/other", "True")])), [ANCESTORS.none]);
        assert_eq!(judged(Value::Null), [ANCESTORS.none]);
    }

    #[test]
    fn gateways_are_judged_with_their_listeners() {
        let listeners = |status: &str| json!([{"name": "http", "conditions": [condition("Accepted", "True", 3), condition("Programmed", status, 3)]}]);
        let conditions =
            json!([condition("Accepted", "True", 3), condition("Programmed", "True", 3), condition("Foreign", "False", 1)]);
        assert_eq!(judged(&json!({}), &json!({"conditions": conditions, "listeners": listeners("True")})), Vec::<String>::new());
        assert_eq!(
            judged(&json!({}), &json!({"conditions": conditions, "listeners": listeners("False")})),
            ["listener http: Programmed is False, Why: because"]
        );
        assert_eq!(judged(&json!({}), &Value::Null), ["Accepted is not there yet"]);
    }
}
