//! The scripted API server by itself, seen by a real client: what the controller's tests rely on.

mod faults;
mod watches;
mod writes;

use std::time::Duration;

use isthmus_tests::api_server::{ApiServer, Bundle, Select, Token, Verb};
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Discovery};
use serde_json::json;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// HTTPRoutes of the namespace `shop`.
fn routes(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "shop", &kind())
}

fn kind() -> ApiResource {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    ApiResource::from_gvk_with_plural(&kind, "httproutes")
}

/// An HTTPRoute in `shop`, as somebody writes it.
fn route(name: &str, path: &str) -> serde_json::Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [
            {"matches": [{"path": {"value": path}}], "backendRefs": [{"name": "front", "port": 80}]},
        ]},
    })
}

/// A server with the CRDs and some routes, and a client of it.
async fn with_routes(count: usize) -> (ApiServer, Client) {
    let server = ApiServer::new();
    server.install(Bundle::V1_7);
    for number in 0..count {
        server.apply(route(&format!("r{number:03}"), "/"));
    }
    let client = server.client("a").await;
    (server, client)
}

/// The status code of an error.
fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason),
        other => panic!("no refusal: {other:?}"),
    }
}

#[tokio::test]
async fn lists_come_in_pages_and_selections() {
    let (server, client) = with_routes(25).await;
    server.patch("HTTPRoute", "shop/r007", json!({"metadata": {"labels": {"tier": "front"}}}));
    let api = routes(&client);
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(10);
    let mut sizes = Vec::new();
    loop {
        let page = api.list(&params).await.unwrap();
        sizes.push((page.items.len(), page.metadata.remaining_item_count));
        names.extend(page.items.into_iter().filter_map(|item| item.metadata.name));
        // What is written between pages is not in them.
        server.apply(route(&format!("r{:03}-late", names.len()), "/"));
        match page.metadata.continue_ {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(sizes, [(10, Some(15)), (10, Some(5)), (5, None)]);
    assert_eq!(names, (0..25).map(|number| format!("r{number:03}")).collect::<Vec<_>>());

    for (params, expected) in [
        (ListParams::default().labels("tier=front"), 1),
        (ListParams::default().labels("tier!=front"), 27),
        (ListParams::default().fields("metadata.name=r003"), 1),
    ] {
        assert_eq!(api.list(&params).await.unwrap().items.len(), expected, "{params:?}");
        assert_eq!(api.list_metadata(&params).await.unwrap().items.len(), expected, "{params:?}");
    }
    assert_eq!(code(api.list(&ListParams::default().fields("spec.x=1")).await).0, 400);

    let first = api.list(&ListParams::default().limit(1)).await.unwrap().metadata.continue_.unwrap();
    server.apply(route("last", "/"));
    server.compact();
    let (code, reason) = code(api.list(&ListParams::default().limit(1).continue_token(&first)).await);
    assert_eq!((code, reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn kinds_are_discovered_as_they_come_and_go() {
    let server = ApiServer::new();
    let client = server.client("a").await;
    let api = routes(&client);
    assert_eq!(code(api.list(&ListParams::default()).await).0, 404);
    server.install(Bundle::V1_5);
    let groups = Discovery::new(client.clone()).run().await.unwrap();
    let group = groups.get("gateway.networking.k8s.io").unwrap();
    let names: Vec<_> = group.recommended_resources().into_iter().map(|(resource, _)| resource.kind).collect();
    for (kind, expected) in [("HTTPRoute", true), ("ListenerSet", true), ("TCPRoute", false)] {
        assert_eq!(names.contains(&kind.to_owned()), expected, "{kind}: {names:?}");
    }
    assert!(groups.has_group("apps") && groups.has_group("discovery.k8s.io"));

    server.apply(route("one", "/"));
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 1);
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let crds: Api<DynamicObject> =
        Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions"));
    let crd = crds.get_metadata("httproutes.gateway.networking.k8s.io").await.unwrap();
    assert_eq!(crd.metadata.annotations.unwrap()["gateway.networking.k8s.io/bundle-version"], "v1.5.1");
    server.uninstall("httproutes.gateway.networking.k8s.io");
    assert_eq!(code(api.get("one").await).0, 404);
    server.install(Bundle::V1_7);
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 0, "the objects went with their CRD");
}

#[tokio::test]
async fn versions_and_forms_of_one_object() {
    let (server, client) = with_routes(1).await;
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1beta1", "HTTPRoute");
    let old: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), "shop", &ApiResource::from_gvk_with_plural(&kind, "httproutes"));
    let object = old.get("r000").await.unwrap();
    assert_eq!(object.types.unwrap().api_version, "gateway.networking.k8s.io/v1beta1");
    // The pinned CRDs fill in their defaults.
    assert_eq!(object.data["spec"]["rules"][0]["matches"][0]["path"]["type"], "PathPrefix");
    assert_eq!(object.data["spec"]["parentRefs"][0]["kind"], "Gateway");
    let partial = routes(&client).get_metadata("r000").await.unwrap();
    assert_eq!((partial.metadata.generation, partial.metadata.uid.is_some()), (Some(1), true));

    server.apply_yaml("apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: shop}\nstringData: {a: b}\n---\n");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "shop");
    assert_eq!(secrets.get("s").await.unwrap().data.unwrap()["a"].0, b"b");
    let services: Api<Service> = Api::all(client);
    assert!(services.list(&ListParams::default()).await.unwrap().items.is_empty());
    let reads = server.calls(&Select::any().client("a").kind("Secret").verbs(&Verb::READS));
    assert_eq!(reads.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a: Get Secret/shop/s -> 200"]);
}

#[tokio::test]
async fn tokens_are_reviewed() {
    let server = ApiServer::new();
    let token = Token {
        audiences: vec!["isthmus.dev/push".to_owned()],
        namespace: "shop".to_owned(),
        service_account: "isthmus-edge".to_owned(),
        pod: Some(("edge-1".to_owned(), "uid-1".to_owned())),
    };
    server.set_token("right", token);
    let reviews: Api<TokenReview> = Api::all(server.client("a").await);
    for (token, expected) in [("right", true), ("wrong", false)] {
        let review = json!({"metadata": {}, "spec": {"token": token, "audiences": ["isthmus.dev/push"]}});
        let answer = reviews.create(&PostParams::default(), &serde_json::from_value(review).unwrap()).await.unwrap();
        assert_eq!(answer.status.unwrap().authenticated.unwrap_or_default(), expected);
    }
}
