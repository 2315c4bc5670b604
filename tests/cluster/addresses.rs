//! A Gateway has an address that answers, wherever it comes from.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;

use crate::fault::{Fault, Outcome, ensure};
use crate::line;
use crate::manifests::{DEPLOYMENT, HASTY, echo, gateway, programmed, reachable, route, served};
use crate::space::{SLOW, Space, text};
use crate::stage::{Stage, eventually};
use crate::status::{self, Of};

/// Few machines use it, and no suite here.
const HOST_PORT: u16 = 28_417;

pub(crate) async fn of_a_pool(stage: Arc<Stage>) -> Outcome {
    let (space, other) = (stage.space(json!({})).await?, stage.space(json!({})).await?);
    served(&space, 1, HASTY).await?;
    let given = status::addresses(&space.get("Gateway", "edge").await?);
    ensure!(!given.is_empty(), "no address");
    for ip in &given {
        reachable(SocketAddr::new(*ip, 80)).await?;
        let answer = line::get(SocketAddr::new(*ip, 80), "/").await?.status;
        ensure!(answer == 200, "{ip} answers {answer}");
    }
    let families = [given.iter().any(|ip| ip.is_ipv4()), given.iter().any(|ip| ip.is_ipv6())];
    let service = space.get("Service", DEPLOYMENT).await?.data["spec"]["ipFamilies"].clone();
    ensure!(
        families.iter().filter(|family| **family).count() == service.as_array().map_or(0, Vec::len),
        "{given:?}, but the Service has {service}"
    );

    // Another one asks for an address that is taken, and says so.
    let wanted = given[0];
    let asking = gateway(1, HASTY, &format!("  addresses: [{{ type: IPAddress, value: \"{wanted}\" }}]"));
    other.apply(&asking).await?;
    let refused = |gateway: &_| status::is(gateway, Of::Object, "Programmed", "False", "AddressNotUsable");
    other.until("Gateway", "edge", "AddressNotUsable", SLOW, refused).await?;
    let conditions = other.get("Gateway", "edge").await?;
    let message = status::condition(&conditions, Of::Object, "Programmed").map(|condition| condition["message"].to_string());
    let message = message.unwrap_or_default();
    ensure!(message.contains(&wanted.to_string()), "the message does not name the address: {message}");
    let answer = line::get(SocketAddr::new(wanted, 80), "/").await?.status;
    ensure!(answer == 200, "who has the address answers {answer}");

    // It gets it when it is free, and no other.
    space.delete("Gateway", "edge").await?;
    other
        .until("Gateway", "edge", "programmed with the address", SLOW, |gateway| {
            status::is_programmed(gateway) && status::addresses(gateway) == [wanted]
        })
        .await?;
    eventually(SLOW, "the new holder answers", || async {
        let answer = line::get(SocketAddr::new(wanted, 80), "/").await?.status;
        ensure!(answer == 404, "it answers {answer}, and has no route");
        Ok(())
    })
    .await?;
    stage.say(format!("{given:?} answered; {wanted} asked for in vain, then given"));
    Ok(())
}

pub(crate) async fn of_the_cluster_and_of_nodes(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(json!({})).await?;
    let address = served(&space, 1, &format!("{HASTY}, service: {{ type: ClusterIP }}")).await?;
    let ips = space.get("Service", DEPLOYMENT).await?.data["spec"]["clusterIPs"].clone();
    ensure!(ips.as_array().into_iter().flatten().any(|ip| text(ip) == address.ip().to_string()), "{address} is not among {ips}");
    answers(address, "ClusterIP").await?;

    space.apply(&gateway(1, &format!("{HASTY}, service: {{ type: NodePort }}"), "")).await?;
    let is_node_port = |service: &kube::api::DynamicObject| service.data["spec"]["ports"][0]["nodePort"].is_number();
    space.until("Service", DEPLOYMENT, "a port on nodes", SLOW, is_node_port).await?;
    let port = space.get("Service", DEPLOYMENT).await?.data["spec"]["ports"][0]["nodePort"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
    let says_so = |gateway: &kube::api::DynamicObject| {
        status::is_programmed(gateway) && gateway.data["status"].to_string().contains(&format!("80 is {port}"))
    };
    space.until("Gateway", "edge", "programmed, with the port on nodes in its message", SLOW, says_so).await?;
    let node =
        status::first_address(&space.get("Gateway", "edge").await?, port).ok_or_else(|| Fault::said("no address of a node"))?;
    reachable(node).await?;
    answers(node, "NodePort").await?;

    let hosts = stage.space(json!({ "pod-security.kubernetes.io/enforce": "privileged" })).await?;
    let listening = gateway(1, &format!("{HASTY}, hostPort: true"), "").replace("port: 80", &format!("port: {HOST_PORT}"));
    let host = on_host(&hosts, &listening).await?;
    stage.say(format!("ClusterIP {address}, NodePort {node}, hostPort {host} answered"));
    Ok(())
}

async fn on_host(space: &Space, gateway: &str) -> Outcome<SocketAddr> {
    space.apply(gateway).await?;
    space.apply(&echo("echo", 1)).await?;
    space.apply(&route("shop", "/", "echo", "")).await?;
    space.rolled_out("echo", "app=echo").await?;
    let address = programmed(space, HOST_PORT).await?;
    space.until("HTTPRoute", "shop", "served", SLOW, status::is_served).await?;
    answers(address, "hostPort").await?;
    Ok(address)
}

async fn answers(address: SocketAddr, what: &str) -> Outcome {
    let answer = line::get(address, "/").await.map_err(|fault| Fault::said(format!("{what} {address}: {fault}")))?.status;
    ensure!(answer == 200, "{what} {address} answers {answer}");
    Ok(())
}
