//! Writes as a controller makes them.

use isthmus_tests::api_server::{ApiServer, Select, Verb};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use super::{code, route, routes, with_routes};

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn creation_replacement_and_conflicts() {
    let (server, client) = with_routes(0).await;
    let api = routes(&client);
    let new = object(route("one", "/"));
    let refused = code(api.create(&PostParams::default(), &new).await);
    assert_eq!(refused, (404, "NotFound".to_owned()), "there is no namespace yet");
    server.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    let first = api.create(&PostParams::default(), &new).await.unwrap();
    assert_eq!(first.metadata.generation, Some(1));
    assert_eq!(code(api.create(&PostParams::default(), &new).await).1, "AlreadyExists");

    let mut second = first.clone();
    second.data["spec"]["hostnames"] = json!(["a.example.com"]);
    second.data["status"] = json!({"parents": []});
    let second = api.replace("one", &PostParams::default(), &second).await.unwrap();
    assert_eq!(second.metadata.generation, Some(2));
    assert!(second.data.get("status").is_none(), "status is a sub-resource");
    assert_eq!(second.metadata.uid, first.metadata.uid);
    let mut stale = first.clone();
    stale.data["spec"]["hostnames"] = json!(["b.example.com"]);
    assert_eq!(code(api.replace("one", &PostParams::default(), &stale).await), (409, "Conflict".to_owned()));
    let mut blind = second.clone();
    blind.metadata.resource_version = None;
    assert_eq!(code(api.replace("one", &PostParams::default(), &blind).await).0, 422);

    let version = server.version();
    let same = api.replace("one", &PostParams::default(), &second).await.unwrap();
    assert_eq!(
        (same.metadata.resource_version, server.version()),
        (second.metadata.resource_version, version),
        "nothing changed"
    );

    let mut bad = route("bad", "no slash");
    bad["spec"]["rules"][0]["matches"][0]["path"]["type"] = json!("Exact");
    assert_eq!(code(api.create(&PostParams::default(), &object(bad)).await), (422, "Invalid".to_owned()));
}

#[tokio::test]
async fn status_is_written_by_three_verbs() {
    let (server, client) = with_routes(1).await;
    let api = routes(&client);
    let condition = |status: &str| {
        json!([{
            "type": "Accepted", "status": status, "reason": "Accepted", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-11-25T09:00:00Z",
        }])
    };
    let parents = |status: &str| json!({"parents": [{"controllerName": "isthmus.dev/c", "parentRef": {"name": "edge"}, "conditions": condition(status)}]});
    let merged = api
        .patch_status("r000", &PatchParams::default(), &Patch::Merge(json!({"status": parents("True"), "spec": {"rules": []}})))
        .await
        .unwrap();
    assert_eq!(merged.metadata.generation, Some(1));
    assert_eq!(merged.data["spec"]["rules"].as_array().map(Vec::len), Some(1), "only the status changes");
    let mut replaced = merged.clone();
    replaced.data["status"] = parents("False");
    let replaced = api.replace_status("r000", &PostParams::default(), &replaced).await.unwrap();
    assert_eq!(replaced.data["status"]["parents"][0]["conditions"][0]["status"], "False");
    assert_eq!(code(api.replace_status("r000", &PostParams::default(), &merged).await), (409, "Conflict".to_owned()));
    let stale = json!({"metadata": {"resourceVersion": merged.metadata.resource_version}, "status": parents("True")});
    assert_eq!(code(api.patch_status("r000", &PatchParams::default(), &Patch::Merge(stale)).await).0, 409);

    let applied = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r000"}, "status": parents("True"),
    });
    let params = PatchParams::apply("isthmus-controller").force();
    let applied = api.patch_status("r000", &params, &Patch::Apply(applied)).await.unwrap();
    assert_eq!(applied.data["status"]["parents"].as_array().map(Vec::len), Some(1));
    let bad = json!({"status": parents("Maybe")});
    assert_eq!(code(api.patch_status("r000", &PatchParams::default(), &Patch::Merge(bad)).await).0, 422);
    let ours = server.calls(&Select::writes().status().kind("HTTPRoute").name("shop/r000"));
    assert_eq!(ours.iter().map(|call| call.code).collect::<Vec<_>>(), [200, 200, 409, 409, 200, 422].map(Some));

    let steps: json_patch::Patch = serde_json::from_value(json!([
        {"op": "test", "path": "/status/parents/0/controllerName", "value": "isthmus.dev/c"},
        {"op": "remove", "path": "/status/parents/0"},
    ]))
    .unwrap();
    let body = serde_json::to_vec(&steps).unwrap();
    let request = http::Request::patch("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r000/status")
        .header("content-type", "application/json-patch+json");
    let emptied: Value = client.request(request.body(body.clone()).unwrap()).await.unwrap();
    assert_eq!(emptied["status"]["parents"], json!([]));
    let again = http::Request::patch("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r000/status")
        .header("content-type", "application/json-patch+json");
    assert_eq!(code(client.request::<Value>(again.body(body).unwrap()).await).0, 422);
}

fn deployment(image: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "edge", "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app": "edge"}},
            "template": {"metadata": {"labels": {"app": "edge"}}, "spec": {"containers": [
                {"name": "gateway", "image": image, "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]},
            ]}},
        },
    })
}

#[tokio::test]
async fn server_side_apply() {
    let server = ApiServer::new();
    let api: Api<Deployment> = Api::default_namespaced(server.client("a").await);
    let params = PatchParams::apply("isthmus-controller").force();
    let apply = async |config: Value| api.patch("edge", &params, &Patch::Apply(config)).await;
    let first = apply(deployment("x:1", &json!({"a": "1", "b": "2"}))).await.unwrap();
    assert_eq!(first.metadata.generation, Some(1));
    assert_eq!(first.spec.as_ref().unwrap().replicas, Some(1), "defaults are filled in");

    let version = server.version();
    apply(deployment("x:1", &json!({"a": "1", "b": "2"}))).await.unwrap();
    assert_eq!(server.version(), version, "the same again is no write");

    server.patch("Deployment", "default/edge", json!({"spec": {"replicas": 3}, "metadata": {"labels": {"c": "3"}}}));
    let second = apply(deployment("x:2", &json!({"a": "1"}))).await.unwrap();
    assert_eq!(second.metadata.generation, Some(3));
    assert_eq!(second.metadata.labels.unwrap().into_keys().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(second.spec.as_ref().unwrap().replicas, Some(3), "what somebody else set stays");
    let container = &second.spec.unwrap().template.spec.unwrap().containers[0];
    assert_eq!((container.image.as_deref(), container.env.as_ref().map(Vec::len)), (Some("x:2"), Some(1)));

    let theirs = PatchParams::apply("somebody");
    let conflict = api.patch("edge", &theirs, &Patch::Apply(deployment("y:1", &json!({})))).await;
    assert_eq!(code(conflict), (409, "Conflict".to_owned()));

    let mut other = deployment("x:2", &json!({}));
    other["spec"]["selector"]["matchLabels"]["more"] = json!("1");
    other["spec"]["template"]["metadata"]["labels"]["more"] = json!("1");
    assert_eq!(code(apply(other).await).0, 422, "a selector never changes");

    let mut precise = deployment("x:3", &json!({}));
    precise["metadata"]["uid"] = json!("00000000-0000-4000-8000-00000000ffff");
    assert_eq!(code(apply(precise).await).0, 409, "it is another object");
}

#[tokio::test]
async fn services_keep_what_they_were_given() {
    let server = ApiServer::new();
    let api: Api<Service> = Api::default_namespaced(server.client("a").await);
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "edge"}, "spec": {"type": "LoadBalancer", "ports": ports}});
    let params = PatchParams::apply("isthmus-controller").force();
    let first =
        api.patch("edge", &params, &Patch::Apply(service(json!([{"name": "a", "port": 80}])))).await.unwrap().spec.unwrap();
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    let second = api.patch("edge", &params, &Patch::Apply(service(ports))).await.unwrap().spec.unwrap();
    assert!(first.cluster_ip.as_ref().unwrap().starts_with("10.96."));
    assert_eq!(first.cluster_ip, second.cluster_ip);
    let (first, second) = (first.ports.unwrap(), second.ports.unwrap());
    assert!(first[0].node_port.unwrap() >= 30_000);
    assert_eq!(first[0], second[0]);
    assert_ne!(second[0].node_port, second[1].node_port);
}

#[tokio::test]
async fn what_is_deleted_takes_its_own_along() {
    let (server, client) = with_routes(1).await;
    let api = routes(&client);
    let uid = server.get("HTTPRoute", "shop/r000").unwrap()["metadata"]["uid"].clone();
    let owner = json!([{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "name": "r000", "uid": uid}]);
    let owned = |name: &str, owners: &Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop", "ownerReferences": owners}});
    server.apply(owned("child", &owner));
    let child = server.get("ConfigMap", "shop/child").unwrap()["metadata"]["uid"].clone();
    server.apply(owned("grandchild", &json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "child", "uid": child}])));
    server.apply(owned("stranger", &json!([])));

    server.patch("HTTPRoute", "shop/r000", json!({"metadata": {"finalizers": ["example.com/hold"]}}));
    let wrong = DeleteParams {
        preconditions: Some(Preconditions { uid: Some("other".to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    assert_eq!(code(api.delete("r000", &wrong).await).0, 409);
    let waiting = api.delete("r000", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(waiting.metadata.deletion_timestamp.is_some());
    assert_eq!(server.list("ConfigMap").len(), 3);
    api.patch("r000", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await.unwrap();
    assert_eq!(code(api.get("r000").await).0, 404);
    let left: Vec<_> = server.list("ConfigMap").iter().map(|object| object["metadata"]["name"].clone()).collect();
    assert_eq!(left, ["stranger"]);
    // An owner that is not there any more, as after a crash between two writes.
    server.apply(owned("late", &owner));
    assert_eq!(server.get("ConfigMap", "shop/late"), None);

    let spaces: Api<Namespace> = Api::all(client.clone());
    assert!(spaces.delete("shop", &DeleteParams::default()).await.unwrap().is_right());
    assert!(server.list("ConfigMap").is_empty());
    let maps: Api<ConfigMap> = Api::namespaced(client, "shop");
    let new = serde_json::from_value(json!({"metadata": {"name": "x"}})).unwrap();
    assert_eq!(code(maps.create(&PostParams::default(), &new).await).0, 404);
}

#[tokio::test]
async fn a_lease_has_one_winner() {
    let server = ApiServer::new();
    let lease = json!({"metadata": {"name": "leader"}, "spec": {"holderIdentity": "nobody"}});
    server.apply_yaml(
        "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: leader}\nspec: {holderIdentity: nobody}\n",
    );
    let mut tries = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let api: Api<Lease> = Api::default_namespaced(server.client(name).await);
        let mut seen = api.get("leader").await.unwrap();
        assert_eq!(serde_json::to_value(&seen.spec).unwrap()["holderIdentity"], lease["spec"]["holderIdentity"]);
        seen.spec.as_mut().unwrap().holder_identity = Some(name.to_owned());
        tries.push((name, api, seen));
    }
    let won = futures_util::future::join_all(tries.into_iter().map(|(name, api, seen)| async move {
        api.replace("leader", &PostParams::default(), &seen).await.is_ok().then_some(name)
    }));
    let winners: Vec<_> = won.await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(server.get("Lease", "default/leader").unwrap()["spec"]["holderIdentity"], winners[0]);
    assert_eq!(server.calls(&Select::any().kind("Lease").verbs(&[Verb::Update])).len(), 4);
}
