//! The proxies' pods: what does not change, and what they are not allowed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fault::{Outcome, ensure};
use crate::line;
use crate::manifests::{Certificate, DEPLOYMENT, HASTY, PODS, gateway, reachable, served};
use crate::space::{SLOW, Space, text};
use crate::stage::{Stage, eventually};
use crate::status;
use crate::traffic::Traffic;

pub(crate) async fn listeners_come_and_go_without_a_restart(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({ "pod-security.kubernetes.io/enforce": "restricted" })).await?;
    let address = served(&space, 2, HASTY).await?;
    let (before, selectors) = (identities(&space).await?, selectors(&space).await?);
    may_do_nothing(&space).await?;
    let traffic = Traffic::start(address, "/", 150);
    space.apply_value(&Certificate::new()?.secret("web")).await?;
    let turns = [
        ("  - { name: more, port: 8081, protocol: HTTP }", 8081, true),
        ("  - { name: secure, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: web }] } }", 443, true),
        ("", 8081, false),
    ];
    for (listener, port, open) in turns {
        space.apply(&gateway(2, HASTY, listener)).await?;
        let address = SocketAddr::new(address.ip(), port);
        space.until("Gateway", "edge", "programmed", SLOW, status::is_programmed).await?;
        let answers = || async {
            match port {
                443 => line::certificate(address).await.map(drop),
                _ => line::get(address, "/").await.map(drop),
            }
        };
        if open {
            let took = reachable(address).await?;
            stage.say(format!("port {port}: kube-proxy led to it {:.0} ms after Programmed", took.as_secs_f64() * 1000.0));
            answers().await?;
        } else {
            eventually(Duration::from_secs(5), "a removed listener closes", || async {
                ensure!(answers().await.is_err(), "port {port} still answers");
                Ok(())
            })
            .await?;
        }
    }
    stage.say(traffic.finish().await?.to_string());
    ensure!(identities(&space).await? == before, "pods were replaced or restarted");
    ensure!(self::selectors(&space).await? == selectors, "a selector changed");
    Ok(())
}

/// Uid and restarts of each pod.
async fn identities(space: &Space) -> Outcome<Vec<(String, Value)>> {
    let pods = space.list("Pod", PODS).await?;
    let mut found: Vec<_> = pods
        .into_iter()
        .map(|pod| (pod.metadata.uid.unwrap_or_default(), pod.data["status"]["containerStatuses"][0]["restartCount"].clone()))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

async fn selectors(space: &Space) -> Outcome<[Value; 2]> {
    let deployment = space.get("Deployment", DEPLOYMENT).await?.data["spec"]["selector"].clone();
    let service = space.get("Service", DEPLOYMENT).await?.data["spec"]["selector"].clone();
    ensure!(deployment["matchLabels"] == service, "Deployment and Service select differently: {deployment} {service}");
    Ok([deployment, service])
}

/// A pod has no token but the one for the controller.
async fn may_do_nothing(space: &Space) -> Outcome {
    for pod in space.list("Pod", PODS).await? {
        let spec = &pod.data["spec"];
        ensure!(spec["automountServiceAccountToken"] == json!(false), "a token for the API server is mounted");
        let mounts = spec["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
        let forbidden = mounts.iter().any(|mount| text(&mount["mountPath"]).starts_with("/var/run/secrets"));
        ensure!(!forbidden, "something is mounted where tokens for the API server are");
        let tokens: Vec<&Value> = spec["volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten())
            .filter_map(|source| source.get("serviceAccountToken"))
            .collect();
        ensure!(tokens.len() == 1 && text(&tokens[0]["audience"]) == "isthmus.dev/push", "tokens: {tokens:?}");
    }
    Ok(())
}
