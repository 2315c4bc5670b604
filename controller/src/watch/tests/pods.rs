//! Of many Pods few matter, and of those little.

use super::*;

const PODS: &str = "/api/v1/pods";

/// A pod as the API server has it; `rest` is merged into it.
fn pod(name: &str, version: u64, address: Option<&str>, rest: &Value) -> Value {
    let addresses: Vec<Value> = address.into_iter().map(|ip| json!({"ip": ip})).collect();
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version.to_string(), "labels": {"app": "a"}},
        "spec": {"serviceAccountName": "cart", "containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": "Running", "podIPs": addresses, "containerStatuses": [{"name": "app", "restartCount": 3}]},
    });
    for (pointer, value) in rest.as_object().into_iter().flatten() {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    pod
}

fn meshed() -> Value {
    json!({
        "/metadata/annotations": {"isthmus.dev/mtls": "strict", "example.com/note": "x"},
        "/spec/initContainers": [{"name": "isthmus-proxy", "restartPolicy": "Always"}],
    })
}

fn mesh() -> Options {
    Options { mesh: true, ..options() }
}

#[tokio::test(start_paused = true)]
async fn pods_that_have_no_address_of_their_own_are_passed_over() {
    let cluster = Cluster::new();
    cluster.list(
        PODS,
        10,
        &[
            pod("plain", 1, Some("10.0.0.1"), &json!({})),
            pod("meshed", 2, Some("10.0.0.2"), &meshed()),
            pod("meshed-and-new", 3, None, &meshed()),
            pod("new", 4, None, &json!({"/metadata/annotations": {"isthmus.dev/injected": "0.1.0"}})),
            pod("of-node", 5, Some("10.1.0.1"), &json!({"/spec/hostNetwork": true})),
            pod("done", 6, Some("10.0.0.3"), &json!({"/status/phase": "Succeeded"})),
        ],
    );
    let mut bed = Bed::start(&cluster, &mesh());
    bed.settle().await;
    let names = |bed: &Bed| bed.objects.pods.keys().map(|name| name.name.clone()).collect::<Vec<_>>().join(" ");
    assert_eq!(names(&bed), "meshed meshed-and-new plain");
    let kept = &bed.objects.pods[&isthmus_api::NamespacedName::new("shop", "meshed")];
    assert_eq!(kept.metadata.annotations.as_ref().map(BTreeMap::len), Some(1), "of the annotations ours");
    assert_eq!(kept.metadata.labels, None);
    let list = cluster.server.calls().into_iter().find(|call| call.path == PODS && !call.is_watch()).unwrap();
    assert_eq!(list.query["limit"], "100", "they are large");
    for (r#type, object, told, expected) in [
        ("MODIFIED", pod("new", 11, None, &json!({"/spec/nodeName": "n"})), "", "meshed meshed-and-new plain"),
        ("MODIFIED", pod("new", 12, Some("10.0.0.4"), &json!({})), "+Pod/shop/new", "meshed meshed-and-new new plain"),
        ("DELETED", pod("of-node", 13, Some("10.1.0.1"), &json!({})), "", "meshed meshed-and-new new plain"),
        (
            "MODIFIED",
            pod("plain", 14, Some("10.0.0.1"), &json!({"/status/phase": "Failed"})),
            "-Pod/shop/plain",
            "meshed meshed-and-new new",
        ),
        ("DELETED", pod("plain", 15, Some("10.0.0.1"), &json!({})), "", "meshed meshed-and-new new"),
        ("DELETED", pod("meshed", 16, Some("10.0.0.2"), &meshed()), "-Pod/shop/meshed", "meshed-and-new new"),
    ] {
        cluster.event(PODS, r#type, &object).await;
        assert_eq!(bed.settle_for(Duration::from_secs(1)).await.join(" "), told, "{type} {object}");
        assert_eq!(names(&bed), expected);
    }
    // What a list no longer has goes, and what nobody knew of is not told.
    cluster.list(PODS, 20, &[]);
    cluster.close(PODS);
    let mut gone = bed.settle_for(Duration::from_mins(15)).await;
    gone.sort();
    assert_eq!(gone, ["-Pod/shop/meshed-and-new", "-Pod/shop/new"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_mesh_nobody_looks_at_pods_and_meshes() {
    for (options, expected) in [(options(), false), (mesh(), true)] {
        let cluster = Cluster::new();
        let mut bed = Bed::start(&cluster, &options);
        bed.bundle.send_replace(Arc::new(Bundle { versions: BTreeMap::from([(Kind::XMesh, "v1alpha1")]), ..Bundle::default() }));
        bed.settle().await;
        assert!(bed.ready);
        for path in [PODS, "/apis/gateway.networking.x-k8s.io/v1alpha1/xmeshes"] {
            assert_eq!(cluster.server.calls().iter().any(|call| call.path == path), expected, "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pods_are_read_in_the_namespaces_that_are_served_and_meshes_everywhere() {
    let cluster = Cluster::new();
    let mut bed = Bed::start(&cluster, &Options { namespaces: BTreeSet::from(["shop".to_owned()]), ..mesh() });
    bed.bundle.send_replace(Arc::new(Bundle { versions: BTreeMap::from([(Kind::XMesh, "v1alpha1")]), ..Bundle::default() }));
    bed.settle().await;
    let calls = cluster.server.calls();
    let asked = |path: &str| calls.iter().any(|call| call.path == path);
    assert!(asked("/api/v1/namespaces/shop/pods") && !asked(PODS));
    assert!(asked("/apis/gateway.networking.x-k8s.io/v1alpha1/xmeshes"));
}
