use isthmus_routing::Transport;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isthmus_api::core::api::apps::v1::Deployment;
use isthmus_api::core::api::autoscaling::v2::HorizontalPodAutoscaler;
use isthmus_api::core::api::core::v1::ServiceAccount;
use isthmus_api::core::api::policy::v1::PodDisruptionBudget;
use isthmus_api::parameters::GatewayParametersSpec;
use isthmus_api::{ConfigMap, Service, decode};
use kube::core::DynamicObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::judge::{Step, judge};
use super::live::Live;
use super::*;
use crate::testing::{Answer, Call, Server, event};

mod running;

fn key() -> GatewayKey {
    GatewayKey { namespace: "shop".into(), name: "edge".into() }
}

fn settings() -> Settings {
    Settings {
        image: "docker.io/isthmus/gateway:dev".into(),
        image_pull_policy: "IfNotPresent".into(),
        image_pull_secrets: Vec::new(),
        controller: "isthmus-controller.isthmus-system:15410".into(),
    }
}

fn infrastructure(parameters: Value, ports: &[u16]) -> Infrastructure {
    Infrastructure {
        uid: "u1".into(),
        created: 0,
        labels: BTreeMap::from([("key2".into(), "value2".into())]),
        annotations: BTreeMap::from([("key1".into(), "value1".into())]),
        ports: ports.iter().map(|port| (*port, Transport::Tcp)).collect(),
        parameters: serde_json::from_value::<GatewayParametersSpec>(parameters).unwrap(),
        requested: Vec::new(),
    }
}

fn objects(parameters: Value, ports: &[u16]) -> BTreeMap<OwnKind, Value> {
    let wanted = desired(&key(), &infrastructure(parameters, ports), &settings(), "PEM");
    wanted.into_iter().map(|wanted| (wanted.kind, wanted.body)).collect()
}

/// What of a JSON value the kind's type does not know is lost.
fn through<K: DeserializeOwned + Serialize>(value: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<K>(value.clone()).unwrap()).unwrap()
}

#[test]
fn every_field_is_one_of_the_kind() {
    let everything = json!({
        "autoscaling": {"minReplicas": 3}, "hostPort": true, "resources": {"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}},
        "service": {"type": "LoadBalancer", "loadBalancerClass": "a.b/c", "externalTrafficPolicy": "Local", "sourceRanges": ["10.0.0.0/8"],
            "annotations": {"cloud": "x"}},
        "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "high",
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}},
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "probes": {"liveness": {"periodSeconds": 3}}, "podDisruptionBudget": {"minAvailable": "50%"}, "otlpEndpoint": "http://c:4318",
    });
    for parameters in [json!({}), everything] {
        let objects = objects(parameters, &[80, 443]);
        for (kind, body) in &objects {
            let read = match kind {
                OwnKind::ServiceAccount => through::<ServiceAccount>(body),
                OwnKind::ConfigMap => through::<ConfigMap>(body),
                OwnKind::Service => through::<Service>(body),
                OwnKind::Deployment => through::<Deployment>(body),
                OwnKind::HorizontalPodAutoscaler => through::<HorizontalPodAutoscaler>(body),
                OwnKind::PodDisruptionBudget => through::<PodDisruptionBudget>(body),
            };
            assert_eq!(read, *body);
        }
    }
}

#[test]
fn a_change_of_listeners_touches_only_the_service() {
    let (before, after) = (objects(json!({}), &[80]), objects(json!({}), &[80, 8443]));
    for kind in before.keys() {
        assert_eq!(before[kind] == after[kind], *kind != OwnKind::Service, "{kind:?}");
    }
    // With host ports the pods have to name them.
    let (before, after) = (objects(json!({"hostPort": true}), &[80]), objects(json!({"hostPort": true}), &[80, 8443]));
    assert_ne!(before[&OwnKind::Deployment], after[&OwnKind::Deployment]);
    let ports = |object: &Value| object.pointer("/spec/template/spec/containers/0/ports").unwrap().as_array().unwrap().len();
    assert_eq!((ports(&before[&OwnKind::Deployment]), ports(&after[&OwnKind::Deployment])), (2, 3));
}

#[test]
fn what_parameters_lead_to() {
    let replicas = "/spec/replicas";
    let class = "/spec/loadBalancerClass";
    let node_ports = "/spec/allocateLoadBalancerNodePorts";
    let pools = json!(["192.0.2.0/28"]);
    for (parameters, kind, pointer, expected) in [
        (json!({}), OwnKind::Deployment, replicas, json!(2)),
        (json!({"replicas": 5}), OwnKind::Deployment, replicas, json!(5)),
        (json!({"autoscaling": {}}), OwnKind::Deployment, replicas, Value::Null),
        (json!({"autoscaling": {}}), OwnKind::HorizontalPodAutoscaler, "/spec/minReplicas", json!(2)),
        (json!({"autoscaling": {"maxReplicas": 1}}), OwnKind::HorizontalPodAutoscaler, "/spec/minReplicas", json!(1)),
        (json!({"autoscaling": {"minReplicas": 12}}), OwnKind::HorizontalPodAutoscaler, "/spec/maxReplicas", json!(12)),
        (json!({}), OwnKind::PodDisruptionBudget, "/spec/minAvailable", json!(1)),
        (
            json!({"podDisruptionBudget": {"minAvailable": "50%"}}),
            OwnKind::PodDisruptionBudget,
            "/spec/minAvailable",
            json!("50%"),
        ),
        (json!({}), OwnKind::Service, "/spec/type", json!("LoadBalancer")),
        (json!({}), OwnKind::Service, class, Value::Null),
        (json!({"service": {"loadBalancerClass": "a.b/c"}}), OwnKind::Service, class, json!("a.b/c")),
        (json!({"addressPools": pools}), OwnKind::Service, class, json!("isthmus.dev/pool")),
        (
            json!({"addressPools": pools, "service": {"loadBalancerClass": "a.b/c"}}),
            OwnKind::Service,
            class,
            json!("isthmus.dev/pool"),
        ),
        (json!({"addressPools": pools}), OwnKind::Service, node_ports, json!(false)),
        (json!({}), OwnKind::Service, node_ports, Value::Null),
        (json!({"addressPools": pools, "service": {"type": "NodePort"}}), OwnKind::Service, class, Value::Null),
        (json!({"hostPort": true}), OwnKind::Service, "/spec/type", json!("ClusterIP")),
        (json!({"hostPort": true, "service": {"type": "LoadBalancer"}}), OwnKind::Service, "/spec/type", json!("LoadBalancer")),
        (json!({"hostPort": true}), OwnKind::Deployment, "/spec/strategy/rollingUpdate/maxSurge", json!(0)),
        (
            json!({"service": {"type": "ClusterIP", "externalTrafficPolicy": "Local"}}),
            OwnKind::Service,
            "/spec/externalTrafficPolicy",
            Value::Null,
        ),
        (
            json!({"service": {"annotations": {"key1": "class", "a": "b"}}}),
            OwnKind::Service,
            "/metadata/annotations/key1",
            json!("value1"),
        ),
        (
            json!({"service": {"annotations": {"key1": "class", "a": "b"}}}),
            OwnKind::Service,
            "/metadata/annotations/a",
            json!("b"),
        ),
        (json!({}), OwnKind::ServiceAccount, "/metadata/labels/key2", json!("value2")),
        (json!({}), OwnKind::Deployment, "/spec/template/metadata/annotations/key1", json!("value1")),
        (json!({}), OwnKind::ConfigMap, "/data/ca.crt", json!("PEM")),
        (json!({"image": "x:1"}), OwnKind::Deployment, "/spec/template/spec/containers/0/image", json!("x:1")),
    ] {
        let objects = objects(parameters.clone(), &[80]);
        let actual = objects.get(&kind).and_then(|object| object.pointer(pointer)).cloned().unwrap_or_default();
        assert_eq!(actual, expected, "{parameters} {kind:?} {pointer}");
    }
}

#[test]
fn a_budget_only_for_more_than_one_pod() {
    for (parameters, expected) in [
        (json!({}), true),
        (json!({"replicas": 1}), false),
        (json!({"autoscaling": {"minReplicas": 1}}), false),
        (json!({"autoscaling": {"minReplicas": 2}}), true),
    ] {
        assert_eq!(objects(parameters.clone(), &[]).contains_key(&OwnKind::PodDisruptionBudget), expected, "{parameters}");
    }
}

#[test]
fn drains_fit_into_the_grace_period() {
    for (grace, lame_duck, drain) in [(60, "10", "50"), (40, "6", "34"), (1, "0", "0"), (12, "2", "10"), (3600, "10", "3590")] {
        let objects = objects(json!({"terminationGracePeriodSeconds": grace}), &[]);
        let variables =
            objects[&OwnKind::Deployment].pointer("/spec/template/spec/containers/0/env").unwrap().as_array().unwrap();
        let value = |name| variables.iter().find(|variable| variable["name"] == name).unwrap()["value"].clone();
        assert_eq!((value("ISTHMUS_LAME_DUCK"), value("ISTHMUS_DRAIN")), (json!(lame_duck), json!(drain)));
    }
}

#[test]
fn one_number_for_tcp_and_udp_is_two_ports() {
    let both = |parameters: Value| {
        let mut given = infrastructure(parameters, &[53]);
        given.ports.insert((53, Transport::Udp));
        let wanted = desired(&key(), &given, &settings(), "PEM");
        wanted.into_iter().map(|wanted| (wanted.kind, wanted.body)).collect::<BTreeMap<_, _>>()
    };
    let expected = json!([
        {"name": "p-53", "port": 53, "targetPort": 53, "protocol": "TCP"},
        {"name": "u-53", "port": 53, "targetPort": 53, "protocol": "UDP"},
    ]);
    for kind in ["ClusterIP", "NodePort", "LoadBalancer"] {
        let service = &both(json!({"service": {"type": kind}}))[&OwnKind::Service];
        assert_eq!(service["spec"]["ports"], expected, "{kind}");
    }
    let deployment = &both(json!({"hostPort": true}))[&OwnKind::Deployment];
    let ports = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports[1], json!({"name": "p-53", "containerPort": 53, "hostPort": 53, "protocol": "TCP"}));
    assert_eq!(ports[2], json!({"name": "u-53", "containerPort": 53, "hostPort": 53, "protocol": "UDP"}));
    let service = through::<Service>(&both(json!({}))[&OwnKind::Service]);
    assert_eq!(service["spec"]["ports"], expected);
}

#[test]
fn a_service_without_listeners_has_a_port_that_nobody_answers() {
    let objects = objects(json!({}), &[]);
    assert_eq!(
        objects[&OwnKind::Service]["spec"]["ports"],
        json!([{"name": "p-9", "port": 9, "targetPort": 9, "protocol": "TCP"}])
    );
}

fn live(body: Value) -> Live {
    Live::read(serde_json::from_value::<DynamicObject>(body).unwrap())
}

fn edited(body: &Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let field = field.replace("~1", "/");
    let mut body = body.clone();
    body["metadata"]["uid"] = json!("o1");
    body["metadata"]["resourceVersion"] = json!("5");
    body.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(field, value);
    body
}

/// When the Gateway was made.
const CREATED: i64 = 1_700_000_000;

fn whose(gateway: &GatewayKey) -> judge::Whose<'_> {
    judge::Whose { gateway, uid: "u1", created: CREATED }
}

/// As it would be if it had been made at that second.
fn made(body: &Value, second: i64) -> Value {
    edited(body, "/metadata/creationTimestamp", json!(jiff::Timestamp::from_second(second).unwrap().to_string()))
}

#[test]
fn what_is_done_about_an_object() {
    let service = |parameters| desired(&key(), &infrastructure(parameters, &[80]), &settings(), "PEM").remove(2);
    let wanted = service(json!({}));
    let pooled = service(json!({"addressPools": ["192.0.2.0/28"]}));
    let owner =
        |name: &str, uid: &str| json!([{"kind": "Gateway", "name": name, "uid": uid, "controller": true, "apiVersion": "g/v1"}]);
    let strange = edited(&edited(&wanted.body, "/metadata/ownerReferences", json!([])), "/metadata/labels", json!({}));
    for (what, body, expected) in [
        ("the same", edited(&wanted.body, "/status", json!({})), "Keep"),
        ("somebody's additions", edited(&wanted.body, "/metadata/annotations/more", json!("x")), "Keep"),
        ("edited", edited(&wanted.body, "/spec/selector", json!({"a": "b"})), "Apply"),
        ("of another version", edited(&wanted.body, "/metadata/annotations/isthmus.dev~1applied", json!("x")), "Apply"),
        ("without its label, but owned", edited(&wanted.body, "/metadata/labels", json!({})), "Apply"),
        ("without its owner", edited(&wanted.body, "/metadata/ownerReferences", json!([])), "Apply"),
        ("being deleted", edited(&wanted.body, "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")), "Wait"),
        (
            "of an earlier Gateway",
            made(&edited(&wanted.body, "/metadata/ownerReferences", owner("edge", "u0")), CREATED - 1),
            "Replace",
        ),
        (
            "perhaps of a later one",
            made(&edited(&wanted.body, "/metadata/ownerReferences", owner("edge", "u0")), CREATED),
            "Wait",
        ),
        ("of nobody knows when", edited(&wanted.body, "/metadata/ownerReferences", owner("edge", "u0")), "Wait"),
        ("of another Gateway", edited(&wanted.body, "/metadata/ownerReferences", owner("other", "u9")), "Refuse"),
        ("a stranger's", strange.clone(), "Refuse"),
        ("of another class", edited(&pooled.body, "/spec/type", json!("LoadBalancer")), "Replace"),
        ("of another class and type", edited(&pooled.body, "/spec/type", json!("ClusterIP")), "Apply"),
    ] {
        let step = judge(&wanted, whose(&key()), &live(body), None);
        assert!(format!("{step:?}").starts_with(expected), "{what}: {step:?}");
    }
    // How the API server wrote it is no edit.
    let body = edited(&wanted.body, "/spec/externalTrafficPolicy", json!("Cluster"));
    let asked = Wanted { body: edited(&body, "/spec/externalTrafficPolicy", json!("cluster")), ..wanted };
    let accepted = super::compare::project(&body, &asked.body);
    assert_eq!(judge(&asked, whose(&key()), &live(body.clone()), None), Step::Apply);
    assert_eq!(judge(&asked, whose(&key()), &live(body), Some(&accepted)), Step::Keep);
}

#[test]
fn replicas_are_handed_over_to_an_autoscaler() {
    let scaled = desired(&key(), &infrastructure(json!({"autoscaling": {}}), &[80]), &settings(), "PEM").remove(3);
    let managed = |manager: &str, operation: &str| {
        json!([{"manager": manager, "operation": operation, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:replicas": {}}}}])
    };
    for (manager, operation, expected) in [
        (FIELD_MANAGER, "Apply", Step::HandOver(7)),
        (FIELD_MANAGER, "Update", Step::Apply),
        ("kube-controller-manager", "Update", Step::Apply),
    ] {
        let body = edited(&scaled.body, "/spec/replicas", json!(7));
        let body = edited(&body, "/metadata/annotations/isthmus.dev~1applied", json!("before"));
        let body = edited(&body, "/metadata/managedFields", managed(manager, operation));
        assert_eq!(judge(&scaled, whose(&key()), &live(body), None), expected);
    }
}

#[test]
fn classes_of_others_release_their_gateways() {
    let class = |name: &str, controller: &str| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": name},
            "spec": {"controllerName": controller}})
    };
    let gateway = |name: &str, class: &str| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"gatewayClassName": class, "listeners": []}})
    };
    let mut objects = Objects::default();
    for object in [
        class("ours", CONTROLLER_NAME),
        class("other", "a.b/c"),
        gateway("one", "ours"),
        gateway("two", "other"),
        gateway("three", "gone"),
    ] {
        objects.apply(decode(object).unwrap());
    }
    let names: Vec<_> = released(&objects).into_iter().map(|key| key.name).collect();
    assert_eq!(names, ["two"]);
}

/// An API server with objects, which applies what is applied and tells the watches of it.
#[derive(Clone, Default)]
struct Cluster {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// By path of the list.
    watches: Vec<(String, mpsc::UnboundedSender<Value>)>,
    /// Answers to writes, before what would be done.
    failures: Vec<(u16, &'static str)>,
    /// Paths that are not there for the next look: somebody is about to make the object.
    unseen: Vec<String>,
    /// Objects with a manager of their own, as they were before anything was applied.
    theirs: BTreeMap<String, Value>,
}

impl Cluster {
    fn server(&self) -> Server {
        let cluster = self.clone();
        Server::new(move |call| cluster.answer(call))
    }

    fn answer(&self, call: &Call) -> Answer {
        let mut inner = self.inner.lock().unwrap();
        let plural = call.path.rsplit('/').next().unwrap().to_owned();
        if call.is_watch() {
            let (sender, answer) = Answer::watch();
            inner.watches.push((plural, sender));
            return answer;
        }
        if call.method == "GET" && !call.path.contains("/namespaces/") {
            let of_kind = |path: &String| path.rsplit('/').nth(1) == Some(&plural);
            let ours = inner.objects.iter().filter(|(path, object)| of_kind(path) && is_ours(object));
            let items: Vec<_> = ours.map(|(_, object)| object.clone()).collect();
            return Answer::list(inner.version, &items);
        }
        if call.method != "GET"
            && let Some((code, message)) = inner.failures.pop()
        {
            return Answer::status(code, message);
        }
        match call.method.as_str() {
            "GET" if let Some(at) = inner.unseen.iter().position(|path| *path == call.path) => {
                inner.unseen.remove(at);
                Answer::status(404, "not found")
            }
            "GET" => {
                inner.objects.get(&call.path).map_or(Answer::status(404, "not found"), |object| Answer::json(object.clone()))
            }
            "PATCH" => inner.apply(call),
            "DELETE" => {
                inner.remove(&call.path);
                Answer::json(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            other => panic!("unexpected {other} {}", call.path),
        }
    }

    fn edit(&self, path: &str, pointer: &str, value: Value) {
        let mut inner = self.inner.lock().unwrap();
        let mut object = inner.objects[path].clone();
        *object.pointer_mut(pointer).unwrap() = value;
        inner.put(path, object);
    }

    fn put(&self, path: &str, object: Value) {
        self.inner.lock().unwrap().put(path, object);
    }

    fn delete(&self, path: &str) {
        self.inner.lock().unwrap().remove(path);
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.inner.lock().unwrap().objects.get(path).cloned()
    }
}

impl Inner {
    /// Over an object with a manager of its own only what is forced or equal is applied, and nothing applied takes ours away again.
    fn apply(&mut self, call: &Call) -> Answer {
        let Some(before) = self.objects.get(&call.path).filter(|before| before["metadata"].get("managedFields").is_some()) else {
            return Answer::json(self.put(&call.path, call.body.clone()));
        };
        let mut object = self.theirs.entry(call.path.clone()).or_insert_with(|| before.clone()).clone();
        let fields = call.body.as_object().unwrap();
        let content = fields.iter().filter(|(field, _)| !["apiVersion", "kind", "metadata"].contains(&field.as_str()));
        if call.query.get("force").map(String::as_str) != Some("true")
            && content.clone().any(|(field, value)| object.get(field).is_some_and(|theirs| theirs != value))
        {
            return Answer::status(409, "Apply failed with 1 conflict: conflict with \"kubectl\"");
        }
        object.as_object_mut().unwrap().extend(content.map(|(field, value)| (field.clone(), value.clone())));
        if let Some(labels) = call.body["metadata"].get("labels") {
            object["metadata"]["labels"] = labels.clone();
        }
        Answer::json(self.put(&call.path, object))
    }

    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let before = self.objects.get(path);
        let uid = before.map_or(json!(format!("o{}", self.version)), |before| before["metadata"]["uid"].clone());
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let was_ours = before.is_some_and(is_ours);
        match (was_ours, is_ours(&object)) {
            (true, false) => self.tell(path, "DELETED", &self.objects[path]),
            _ => self.tell(path, if was_ours { "MODIFIED" } else { "ADDED" }, &object),
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn remove(&mut self, path: &str) {
        if let Some(mut object) = self.objects.remove(path) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.tell(path, "DELETED", &object);
        }
    }

    fn tell(&self, path: &str, what: &str, object: &Value) {
        if is_ours(object) {
            let of_kind = self.watches.iter().filter(|(plural, _)| path.rsplit('/').nth(1) == Some(plural.as_str()));
            of_kind.for_each(|(_, sender)| drop(sender.send(event(what, object))));
        }
    }
}

/// Whether the watches, which are by label, see it.
fn is_ours(object: &Value) -> bool {
    object.pointer("/metadata/labels").and_then(|labels| labels.get(names::MANAGED_BY.0)).is_some()
}

const ACCOUNT: &str = "/api/v1/namespaces/shop/serviceaccounts/isthmus-edge";
const SERVICE: &str = "/api/v1/namespaces/shop/services/isthmus-edge";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/isthmus-edge";
const BUDGET: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/isthmus-edge";
