//! XMesh, a kind of the experimental channel: its CRD comes and goes while the controller runs. The official suite reads an XMesh only
//! where one is there, so what the controller says in it is looked at here.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::fault::{Fault, Outcome, ensure};
use crate::space::{self, text};
use crate::stage::{LABEL, Stage, eventually};

/// Names the folder with upstream's Go modules.
const UPSTREAM: &str = "ISTHMUS_UPSTREAM";
const CRD: &str = "gateway-api@v1.7.0/config/crd/experimental/gateway.networking.x-k8s.io_xmeshes.yaml";
/// The controller looks for CRDs every ten seconds.
const NOTICED: Duration = Duration::from_secs(40);
/// How often its work is looked at: there is nothing to see for seconds.
const LOOK: Duration = Duration::from_millis(200);
/// How long the API server may take for a CRD to be served, and to be gone.
const SERVED: Duration = Duration::from_secs(30);

const FEATURES: [&str; 10] = [
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// Ours is accepted, with the features that hold; one that we cannot carry out is not, and another controller's is left alone.
pub(crate) async fn a_mesh_is_accepted_and_says_what_it_can(stage: Arc<Stage>) -> Outcome {
    let name = |which: &str| format!("t-{which}-{}", std::process::id());
    let (ours, wrong, theirs) = (name("ours"), name("wrong"), name("theirs"));
    let undo = (stage.client.clone(), vec![ours.clone(), wrong.clone(), theirs.clone()]);
    stage.afterwards(move || async move { take_away(undo.0, undo.1).await });
    install(&stage.client).await?;
    let meshes = everywhere(&stage.client, "XMesh");
    let parameters = json!({ "group": "", "kind": "ConfigMap", "namespace": "default", "name": "parameters" });
    for (name, spec) in [
        (&theirs, json!({ "controllerName": "example.com/mesh" })),
        (&wrong, json!({ "controllerName": "isthmus.dev/mesh-controller", "parametersRef": parameters })),
        (&ours, json!({ "controllerName": "isthmus.dev/mesh-controller" })),
    ] {
        let mesh: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh",
            "metadata": { "name": name, "labels": { LABEL: "cluster" } }, "spec": spec,
        }))?;
        // A replica of the API server may not serve a CRD yet that another one calls established.
        eventually(SERVED, "an XMesh can be made", || async {
            Ok(meshes.create(&PostParams::default(), &mesh).await.map(drop)?)
        })
        .await?;
    }
    for (name, expected) in [(&ours, "True/Accepted"), (&wrong, "False/InvalidParameters")] {
        eventually(NOTICED, "its status is written", || async {
            tokio::time::sleep(LOOK).await;
            let mesh = meshes.get(name).await?;
            let accepted = accepted(&mesh);
            ensure!(accepted == expected, "{name} is {accepted}, not {expected}");
            let features = mesh.data["status"]["supportedFeatures"].as_array().cloned().unwrap_or_default();
            let features: Vec<&str> = features.iter().map(|feature| text(&feature["name"])).collect();
            ensure!(features == FEATURES, "the features of {name} are {features:?}");
            Ok(())
        })
        .await?;
    }
    let other = meshes.get(&theirs).await?;
    let accepted = accepted(&other);
    ensure!(accepted != "True/Accepted", "another controller's mesh is {accepted}");
    ensure!(
        other.data["status"]["supportedFeatures"].is_null(),
        "another controller's mesh has features: {}",
        other.data["status"]
    );
    Ok(())
}

/// `True/Accepted` of the generation that is there; empty: nothing is said of that one.
fn accepted(mesh: &DynamicObject) -> String {
    let conditions = mesh.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let is_it = |condition: &&Value| {
        condition["type"] == "Accepted" && condition["observedGeneration"].as_i64() == mesh.metadata.generation
    };
    let found = conditions.iter().find(is_it);
    found.map(|condition| format!("{}/{}", text(&condition["status"]), text(&condition["reason"]))).unwrap_or_default()
}

/// Has the API server have the kind; one that it has already is taken as it is.
async fn install(client: &Client) -> Outcome {
    let crds = everywhere(client, "CustomResourceDefinition");
    if crds.get_opt(&crd_name()).await?.is_none() {
        let folder = env::var_os(UPSTREAM).filter(|folder| !folder.is_empty()).ok_or_else(|| {
            Fault::said(format!(
                "{UPSTREAM} is not set: it is the folder with upstream's Go modules, and `cargo xtask cluster test` sets it"
            ))
        })?;
        let path = PathBuf::from(folder).join(CRD);
        let read = std::fs::read_to_string(&path).map_err(|error| Fault::said(format!("{}: {error}", path.display())))?;
        let mut crd: Value =
            serde_saphyr::from_str(&read).map_err(|error| Fault::said(format!("{}: {error}", path.display())))?;
        crd["metadata"]["labels"] = json!({ LABEL: "cluster" });
        crds.create(&PostParams::default(), &serde_json::from_value(crd)?).await?;
    }
    eventually(SERVED, "the kind XMesh is there", || async {
        let crd = crds.get(&crd_name()).await?;
        let conditions = crd.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let established = conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True");
        ensure!(established, "its CRD is not established: {conditions:?}");
        Ok(())
    })
    .await
}

/// Meshes first, so that the controller sees them go, and then the CRD, if it is of these tests.
async fn take_away(client: Client, names: Vec<String>) -> Outcome {
    let (meshes, crds) = (everywhere(&client, "XMesh"), everywhere(&client, "CustomResourceDefinition"));
    for name in &names {
        absent_is_fine(meshes.delete(name, &DeleteParams::background()).await)?;
    }
    let crd = crds.get_opt(&crd_name()).await?;
    if crd.is_some_and(|crd| crd.metadata.labels.unwrap_or_default().contains_key(LABEL)) {
        absent_is_fine(crds.delete(&crd_name(), &DeleteParams::background()).await)?;
        eventually(SERVED, "the CRD of XMesh goes", || async {
            ensure!(crds.get_opt(&crd_name()).await?.is_none(), "it is still there");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn absent_is_fine<T>(deleted: kube::Result<T>) -> Outcome {
    match deleted {
        Err(error) if !space::is_absent(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

fn crd_name() -> String {
    let resource = space::resource("XMesh");
    format!("{}.{}", resource.plural, resource.group)
}

/// Objects of a kind that are in no namespace.
fn everywhere(client: &Client, kind: &str) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &space::resource(kind))
}
