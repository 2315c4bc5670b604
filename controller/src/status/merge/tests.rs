use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-11-25T10:00:00Z";
const THEN: &str = "2026-11-01T00:00:00Z";
const NAME: &str = "isthmus.dev/gateway-controller";
const STALE: &str = "conformance.gateway.networking.k8s.io/StaleCondition";

/// A condition as an object has it.
fn seen(r#type: &str, status: &str, generation: i64) -> Value {
    at(r#type, status, generation, THEN)
}

fn at(r#type: &str, status: &str, generation: i64, time: &str) -> Value {
    let mut condition = ours(r#type, status, generation);
    condition["lastTransitionTime"] = time.into();
    condition
}

/// A condition as `translate` says it.
fn ours(r#type: &str, status: &str, generation: i64) -> Value {
    json!({"type": r#type, "status": status, "reason": "R", "message": "", "observedGeneration": generation})
}

fn merged(kind: Kind, generation: i64, current: &Value, wanted: &Value) -> Merged {
    merge(&Input { kind, namespace: Some("shop"), generation, current, wanted, controller_name: NAME, now: NOW })
}

/// The patch as one value; a text for the other outcomes.
fn told(kind: Kind, generation: i64, current: &Value, wanted: &Value) -> Value {
    match merged(kind, generation, current, wanted) {
        Merged::Equal => "equal".into(),
        Merged::Stale => "stale".into(),
        Merged::Patch { status, .. } => status.into(),
    }
}

fn parent(controller: &str, parent_ref: Value, conditions: Value) -> Value {
    let mut entry = json!({"controllerName": controller});
    entry["parentRef"] = parent_ref;
    entry["conditions"] = conditions;
    entry
}

fn edge() -> Value {
    json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"})
}

#[test]
fn conditions_of_an_object() {
    let conditions = |list: &[Value]| json!({"conditions": list});
    for (what, generation, current, wanted, expected) in [
        ("no status yet", 1, Value::Null, vec![ours("Accepted", "True", 1)], conditions(&[at("Accepted", "True", 1, NOW)])),
        ("equal", 1, conditions(&[seen("Accepted", "True", 1)]), vec![ours("Accepted", "True", 1)], "equal".into()),
        (
            "a new generation, the same status: the time stays",
            2,
            conditions(&[seen("Accepted", "True", 1)]),
            vec![ours("Accepted", "True", 2)],
            conditions(&[seen("Accepted", "True", 2)]),
        ),
        (
            "another status: the time is now",
            1,
            conditions(&[seen("Accepted", "Unknown", 0)]),
            vec![ours("Accepted", "False", 1)],
            conditions(&[at("Accepted", "False", 1, NOW)]),
        ),
        (
            "a condition of ours that holds no longer goes, of either kind of name",
            1,
            conditions(&[seen("Accepted", "True", 1), seen("Programmed", "True", 1), seen("isthmus.dev/Old", "True", 1)]),
            vec![ours("Accepted", "True", 1)],
            conditions(&[seen("Accepted", "True", 1)]),
        ),
        (
            "what a Gateway says of its certificates goes when they are gone",
            1,
            conditions(&[
                seen("Accepted", "True", 1),
                seen("ResolvedRefs", "True", 1),
                seen("InsecureFrontendValidationMode", "True", 1),
            ]),
            vec![ours("Accepted", "True", 1)],
            conditions(&[seen("Accepted", "True", 1)]),
        ),
        (
            "foreign ones keep their place and their content",
            2,
            conditions(&[seen(STALE, "True", 1), seen("Accepted", "True", 1), seen("Ready", "False", 1)]),
            vec![ours("Accepted", "True", 2), ours("Programmed", "True", 2)],
            conditions(&[
                seen(STALE, "True", 1),
                seen("Accepted", "True", 2),
                seen("Ready", "False", 1),
                at("Programmed", "True", 2, NOW),
            ]),
        ),
        (
            "a status of a newer generation stays",
            3,
            conditions(&[seen("Accepted", "True", 3)]),
            vec![ours("Accepted", "False", 2)],
            "stale".into(),
        ),
        (
            "but not of a generation that is not there: the object was restored from a backup",
            2,
            conditions(&[seen("Accepted", "True", 9)]),
            vec![ours("Accepted", "True", 2)],
            conditions(&[seen("Accepted", "True", 2)]),
        ),
        (
            "a foreign condition of a newer generation says nothing about ours",
            3,
            conditions(&[seen(STALE, "True", 3), seen("Accepted", "True", 1)]),
            vec![ours("Accepted", "True", 2)],
            conditions(&[seen(STALE, "True", 3), seen("Accepted", "True", 2)]),
        ),
    ] {
        assert_eq!(told(Kind::Gateway, generation, &current, &conditions(&wanted)), expected, "{what}");
    }
}

#[test]
fn fields_of_an_object() {
    let accepted = json!([seen("Accepted", "True", 1)]);
    let wanted = |more: Value| {
        let mut status = json!({"conditions": [ours("Accepted", "True", 1)]});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        status
    };
    let address = |value: &str| json!([{"type": "IPAddress", "value": value}]);
    for (kind, current, wanted, expected) in [
        (
            Kind::Gateway,
            json!({"addresses": address("a"), "conditions": accepted}),
            wanted(json!({"addresses": address("a")})),
            json!("equal"),
        ),
        (
            Kind::Gateway,
            json!({"addresses": address("a"), "conditions": accepted}),
            wanted(json!({"addresses": address("b")})),
            json!({"addresses": address("b")}),
        ),
        (
            Kind::Gateway,
            json!({"addresses": address("a"), "conditions": accepted}),
            wanted(json!({})),
            json!({"addresses": null}),
        ),
        (Kind::Gateway, json!({"conditions": accepted, "new in v1.9": 5}), wanted(json!({})), json!("equal")),
        (
            Kind::Gateway,
            json!({"conditions": accepted, "attachedListenerSets": 2}),
            wanted(json!({"attachedListenerSets": 1})),
            json!({"attachedListenerSets": 1}),
        ),
        (
            Kind::GatewayClass,
            json!({"conditions": accepted}),
            wanted(json!({"supportedFeatures": [{"name": "Gateway"}]})),
            json!({"supportedFeatures": [{"name": "Gateway"}]}),
        ),
        (Kind::Service, json!({}), wanted(json!({})), json!("equal")),
    ] {
        assert_eq!(told(kind, 1, &current, &wanted), expected, "{kind} {current}");
    }
}

#[test]
fn listeners() {
    let listener = |name: &str, attached: i32, conditions: Value| json!({"name": name, "attachedRoutes": attached, "supportedKinds": [], "conditions": conditions});
    let (accepted, stale) = (ours("Accepted", "True", 2), seen(STALE, "True", 1));
    let mut newer = listener("a", 1, json!([seen("Accepted", "True", 2)]));
    newer["new in v1.9"] = "x".into();
    for (what, current, wanted, expected) in [
        (
            "none yet",
            json!([]),
            json!([listener("a", 1, json!([accepted]))]),
            json!([listener("a", 1, json!([at("Accepted", "True", 2, NOW)]))]),
        ),
        (
            "what others wrote stays with its listener, and the spec orders",
            json!([listener("a", 1, json!([stale, seen("Accepted", "True", 1)])), listener("gone", 0, json!([stale]))]),
            json!([listener("b", 0, json!([accepted])), listener("a", 2, json!([accepted]))]),
            json!([
                listener("b", 0, json!([at("Accepted", "True", 2, NOW)])),
                listener("a", 2, json!([stale, seen("Accepted", "True", 2)])),
            ]),
        ),
        ("a field that we do not know", json!([newer]), json!([listener("a", 1, json!([accepted]))]), json!("equal")),
        (
            "a newer generation",
            json!([listener("a", 1, json!([seen("Accepted", "True", 3)]))]),
            json!([listener("a", 1, json!([accepted]))]),
            json!("stale"),
        ),
    ] {
        let (current, wanted) = (json!({"conditions": [], "listeners": current}), json!({"conditions": [], "listeners": wanted}));
        let expected = if expected.is_array() { json!({"listeners": expected}) } else { expected };
        assert_eq!(told(Kind::ListenerSet, 3, &current, &wanted), expected, "{what}");
    }
}

#[test]
fn parents_of_a_route() {
    let with = |fields: Value| {
        let mut parent_ref = edge();
        parent_ref.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        parent_ref
    };
    let accepted = |generation| json!([seen("Accepted", "True", generation)]);
    let new = json!([at("Accepted", "True", 1, NOW)]);
    let wanted = |parent_ref: Value| parent(NAME, parent_ref, json!([ours("Accepted", "True", 1)]));
    let foreign = parent("example.com/other", edge(), json!([seen("Accepted", "False", 7)]));
    let third = parent("example.com/third", json!({"name": "x"}), json!([]));
    let absent = json!({});
    for (what, current, ours, expected) in [
        ("none yet", json!([]), vec![wanted(edge())], json!([parent(NAME, edge(), new.clone())])),
        ("no status yet", Value::Null, vec![wanted(edge())], json!([parent(NAME, edge(), new.clone())])),
        ("equal", json!([parent(NAME, edge(), accepted(1))]), vec![wanted(edge())], json!("equal")),
        (
            "the same parent with defaults left out is written with them",
            json!([parent(NAME, json!({"name": "edge", "namespace": "shop"}), accepted(1))]),
            vec![wanted(edge())],
            json!([parent(NAME, edge(), accepted(1))]),
        ),
        (
            "other sections, ports and namespaces are other parents",
            json!([parent(NAME, edge(), accepted(1)), parent(NAME, with(json!({"port": 80})), accepted(1))]),
            vec![
                wanted(with(json!({"sectionName": "http"}))),
                wanted(with(json!({"namespace": "bank"}))),
                wanted(with(json!({"port": 80}))),
            ],
            json!([
                parent(NAME, with(json!({"port": 80})), accepted(1)),
                parent(NAME, with(json!({"sectionName": "http"})), new.clone()),
                parent(NAME, with(json!({"namespace": "bank"})), new.clone()),
            ]),
        ),
        (
            "those of other controllers stay, even for the same parent",
            json!([foreign, parent(NAME, json!({"name": "gone"}), accepted(1)), third]),
            vec![wanted(edge())],
            json!([foreign, third, parent(NAME, edge(), new.clone())]),
        ),
        ("nothing of ours is left", json!([foreign, parent(NAME, edge(), accepted(1)), third]), vec![], json!([foreign, third])),
        ("the last one goes", json!([parent(NAME, edge(), accepted(1))]), vec![], json!([])),
        ("a newer generation", json!([parent(NAME, edge(), accepted(2))]), vec![wanted(edge())], json!("stale")),
        (
            "conditions that are ours no longer go from our entry, those of others stay",
            json!([parent(
                NAME,
                edge(),
                json!([seen("PartiallyInvalid", "True", 1), seen(STALE, "True", 1), seen("Accepted", "True", 1)])
            )]),
            vec![wanted(edge())],
            json!([parent(NAME, edge(), json!([seen(STALE, "True", 1), seen("Accepted", "True", 1)]))]),
        ),
    ] {
        let current = if current.is_null() { absent.clone() } else { json!({"parents": current}) };
        let expected = if expected.is_array() { json!({"parents": expected}) } else { expected };
        assert_eq!(told(Kind::HttpRoute, 2, &current, &json!({"parents": ours})), expected, "{what}");
    }
}

#[test]
fn one_parent_twice_is_two_entries() {
    let twice = json!([parent(NAME, edge(), json!([])), parent(NAME, edge(), json!([]))]);
    assert_eq!(told(Kind::HttpRoute, 1, &json!({"parents": twice}), &json!({"parents": twice})), json!("equal"));
}

/// The conformance test GatewayPreserveForeignConditions: conditions of another type, seeded in the Gateway and in a listener,
/// survive a change of the spec byte for byte.
#[test]
fn gateway_preserve_foreign_conditions() {
    let conditions = |generation| json!([ours("Accepted", "True", generation), ours("Programmed", "True", generation)]);
    let wanted = |generation| {
        json!({
            "addresses": [{"type": "IPAddress", "value": "10.0.0.1"}],
            "conditions": conditions(generation),
            "listeners": [{"name": "http", "supportedKinds": [], "attachedRoutes": 0, "conditions": conditions(generation)}],
        })
    };
    let mut current = told(Kind::Gateway, 1, &Value::Null, &wanted(1));
    let seeded = at(STALE, "True", 1, "2026-11-25T09:59:59Z");
    current["conditions"].as_array_mut().unwrap().push(seeded.clone());
    current["listeners"][0]["conditions"].as_array_mut().unwrap().push(seeded.clone());
    let patch = told(Kind::Gateway, 2, &current, &wanted(2));
    let generations = |list: &Value| -> Vec<i64> {
        list.as_array().unwrap().iter().map(|condition| condition["observedGeneration"].as_i64().unwrap()).collect()
    };
    for list in [&patch["conditions"], &patch["listeners"][0]["conditions"]] {
        assert_eq!(list[2], seeded);
        assert_eq!(generations(list), [2, 2, 1]);
    }
    assert_eq!(patch.get("addresses"), None, "what does not change is not sent");
}

/// The conformance test HTTPRoutePreserveForeignStatus: the entry of another controller survives a change of the spec byte for
/// byte.
#[test]
fn http_route_preserve_foreign_status() {
    let wanted = |generation| json!({"parents": [parent(NAME, edge(), json!([ours("Accepted", "True", generation)]))]});
    let mut current = told(Kind::HttpRoute, 1, &Value::Null, &wanted(1));
    let unmanaged =
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "unmanaged-gateway", "namespace": "shop"});
    let seeded =
        parent("conformance.gateway.networking.k8s.io/stale-controller", unmanaged, json!([seen("Accepted", "True", 1)]));
    current["parents"].as_array_mut().unwrap().push(seeded.clone());
    let patch = told(Kind::HttpRoute, 2, &current, &wanted(2));
    assert_eq!(patch["parents"].as_array().unwrap().len(), 2);
    assert_eq!(patch["parents"][0]["conditions"][0]["observedGeneration"], 2);
    assert_eq!(patch["parents"][1], seeded);
}

fn ancestor(controller: &str, ancestor_ref: &Value, conditions: &Value) -> Value {
    json!({"controllerName": controller, "ancestorRef": ancestor_ref, "conditions": conditions})
}

#[test]
fn ancestors_of_a_policy() {
    let wanted = |name: &str| {
        let reference = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "infra", "name": name});
        ancestor(NAME, &reference, &json!([ours("Accepted", "True", 1), ours("ResolvedRefs", "True", 1)]))
    };
    let stored = |name: &str, time: &str| {
        let mut entry = wanted(name);
        entry["conditions"] = json!([at("Accepted", "True", 1, time), at("ResolvedRefs", "True", 1, time)]);
        entry
    };
    let foreign = |name: &str| ancestor("example.com/other", &json!({"name": name}), &json!([seen("Accepted", "False", 7)]));
    let mut without = stored("a", THEN);
    without["ancestorRef"] = json!({"namespace": "infra", "name": "a"});
    for (what, current, ours, expected) in [
        ("none yet", json!([]), vec![wanted("a")], json!([stored("a", NOW)])),
        ("equal", json!([stored("a", THEN)]), vec![wanted("a")], json!("equal")),
        ("defaults left out", json!([without]), vec![wanted("a")], json!([stored("a", THEN)])),
        (
            "those of other controllers stay, also for the same Gateway",
            json!([foreign("a"), stored("gone", THEN), foreign("b")]),
            vec![wanted("a")],
            json!([foreign("a"), foreign("b"), stored("a", NOW)]),
        ),
        ("nothing of ours is left", json!([foreign("a"), stored("a", THEN)]), vec![], json!([foreign("a")])),
    ] {
        let expected = if expected.is_array() { json!({"ancestors": expected}) } else { expected };
        let (current, wanted) = (json!({"ancestors": current}), json!({"ancestors": ours}));
        assert_eq!(told(Kind::BackendTlsPolicy, 1, &current, &wanted), expected, "{what}");
    }
    let full: Vec<Value> = (0..15).map(|at| foreign(&at.to_string())).collect();
    let both = json!({"ancestors": [wanted("a"), wanted("b")]});
    let Merged::Patch { status, left_out } = merged(Kind::BackendTlsPolicy, 1, &json!({"ancestors": full}), &both) else {
        panic!("a patch");
    };
    assert_eq!((status["ancestors"].as_array().unwrap().len(), left_out), (16, 1));
    assert!(has_entries_of(NAME, &status.into()) && !has_entries_of(NAME, &json!({"ancestors": full})));
}

/// The conformance test BackendTLSPolicyPreserveForeignStatus: the entry of another controller survives a change of the spec byte
/// for byte.
#[test]
fn backend_tls_policy_preserve_foreign_status() {
    let wanted = |generation| json!({"ancestors": [ancestor(NAME, &edge(), &json!([ours("Accepted", "True", generation)]))]});
    let mut current = told(Kind::BackendTlsPolicy, 1, &Value::Null, &wanted(1));
    let unmanaged =
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "unmanaged-gateway", "namespace": "shop"});
    let seeded =
        ancestor("conformance.gateway.networking.k8s.io/stale-controller", &unmanaged, &json!([seen("Accepted", "True", 1)]));
    current["ancestors"].as_array_mut().unwrap().push(seeded.clone());
    let patch = told(Kind::BackendTlsPolicy, 2, &current, &wanted(2));
    assert_eq!(patch["ancestors"].as_array().unwrap().len(), 2);
    assert_eq!(patch["ancestors"][0]["conditions"][0]["observedGeneration"], 2);
    assert_eq!(patch["ancestors"][1], seeded);
}

#[test]
fn what_the_crds_take_is_not_exceeded_and_nobody_is_driven_out() {
    let foreign: Vec<Value> = (0..6).map(|at| seen(&format!("example.com/{at}"), "True", 1)).collect();
    let types = ["Accepted", "Programmed", "ResolvedRefs"];
    let wanted = json!({"conditions": types.map(|name| ours(name, "True", 1))});
    let Merged::Patch { status, left_out } = merged(Kind::Gateway, 1, &json!({"conditions": foreign}), &wanted) else {
        panic!("a patch");
    };
    let list = status["conditions"].as_array().unwrap();
    assert_eq!((list.len(), left_out), (8, 1));
    assert_eq!(&list[..6], &foreign[..]);
    assert_eq!((&list[6]["type"], &list[7]["type"]), (&json!("Accepted"), &json!("Programmed")));

    let other = |at: usize| parent("example.com/other", json!({"name": format!("g{at}")}), json!([]));
    let foreign: Vec<Value> = (0..31).map(other).collect();
    let wanted: Vec<Value> = ["a", "b"].map(|name| parent(NAME, json!({"name": name}), json!([]))).to_vec();
    let Merged::Patch { status, left_out } =
        merged(Kind::HttpRoute, 1, &json!({"parents": foreign}), &json!({"parents": wanted}))
    else {
        panic!("a patch");
    };
    assert_eq!((status["parents"].as_array().unwrap().len(), left_out), (32, 1));
    let full = told(Kind::HttpRoute, 1, &json!({"parents": status["parents"]}), &json!({"parents": wanted}));
    assert_eq!(full, json!("equal"), "what found no room is not tried again");

    let mut long = ours("Accepted", "True", 1);
    long["message"] = "ä".repeat(MESSAGE + 1).into();
    let patch = told(Kind::Gateway, 1, &Value::Null, &json!({"conditions": [long]}));
    assert_eq!(patch["conditions"][0]["message"].as_str().unwrap().chars().count(), MESSAGE);

    let listeners: Vec<Value> = (0..70).map(|at| json!({"name": at.to_string(), "conditions": []})).collect();
    let patch = told(Kind::Gateway, 1, &Value::Null, &json!({"conditions": [], "listeners": listeners}));
    assert_eq!(patch["listeners"].as_array().unwrap().len(), LISTENERS);
}

#[test]
fn a_patch_that_was_applied_leaves_nothing_to_do() {
    let wanted = json!({
        "addresses": [{"type": "IPAddress", "value": "10.0.0.1"}],
        "conditions": [ours("Accepted", "True", 4), ours("Programmed", "False", 4)],
        "listeners": [{"name": "http", "supportedKinds": [], "attachedRoutes": 0, "conditions": [ours("Accepted", "True", 4)]}],
    });
    for mut current in [
        json!({}),
        json!({"conditions": [seen("Programmed", "True", 3), seen(STALE, "True", 1)], "listeners": [{"name": "old", "conditions": []}]}),
        json!({"addresses": [], "conditions": null, "listeners": null, "extra": 1}),
    ] {
        let patch = told(Kind::Gateway, 4, &current, &wanted);
        current.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        assert_eq!(told(Kind::Gateway, 4, &current, &wanted), json!("equal"), "{current}");
    }
}
