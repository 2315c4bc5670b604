//! A ReferenceGrant that is deleted stops at once what it permitted.

use std::sync::Arc;

use crate::fault::{Outcome, ensure};
use crate::line;
use crate::manifests::{Certificate, HASTY, echo, gateway, programmed, route};
use crate::proof::{LIMIT, within};
use crate::space::SLOW;
use crate::stage::{Stage, eventually};
use crate::status::{self, Of};

pub(crate) async fn a_grant_that_is_deleted_stops_at_once(stage: Arc<Stage>) -> Outcome {
    let (space, other) = (stage.space(serde_json::json!({})).await?, stage.space(serde_json::json!({})).await?);
    let (from, to) = (&space.name, &other.name);
    let grant = |name: &str, kind: &str, target: &str| {
        let (group, own) = ("gateway.networking.k8s.io", format!("{{ group: \"\", kind: {target} }}"));
        format!(
            "apiVersion: {group}/v1\nkind: ReferenceGrant\nmetadata: {{ name: {name} }}\n\
             spec: {{ from: [{{ group: {group}, kind: {kind}, namespace: {from} }}], to: [{own}] }}\n"
        )
    };
    let certificate = Certificate::new()?;
    other.apply(&echo("echo", 1)).await?;
    other.apply(&grant("routes", "HTTPRoute", "Service")).await?;
    other.apply(&grant("gateways", "Gateway", "Secret")).await?;
    other.apply_value(&certificate.secret("web")).await?;
    let listener = format!(
        "  - {{ name: https, port: 443, protocol: HTTPS, tls: {{ certificateRefs: [{{ name: web, namespace: {to} }}] }} }}"
    );
    space.apply(&gateway(1, HASTY, &listener)).await?;
    space.apply(&route("shop", "/", &format!("echo, namespace: {to}"), "")).await?;
    other.rolled_out("echo", "app=echo").await?;
    let (plain, secure) = (programmed(&space, 80).await?, programmed(&space, 443).await?);
    space.until("HTTPRoute", "shop", "served", SLOW, status::is_served).await?;
    let status = line::get(plain, "/").await?.status;
    ensure!(status == 200, "with the grant: {status}");
    ensure!(line::certificate(secure).await? == certificate.der, "another certificate");

    other.delete("ReferenceGrant", "routes").await?;
    let start = tokio::time::Instant::now();
    eventually(LIMIT, "500 without the grant", || async {
        let status = line::get(plain, "/").await?.status;
        ensure!(status == 500, "it is {status}");
        Ok(())
    })
    .await?;
    let traffic = start.elapsed();
    let refused = |route: &_| status::is(route, Of::Route, "ResolvedRefs", "False", "RefNotPermitted");
    let took = within(&space, "HTTPRoute", "shop", "ResolvedRefs False without the grant", refused).await?;
    stage
        .say(format!("grant for a Service deleted: 500 after {:.0} ms; condition: {took} later", traffic.as_secs_f64() * 1000.0));

    other.delete("ReferenceGrant", "gateways").await?;
    let start = tokio::time::Instant::now();
    eventually(LIMIT, "no handshake without the grant", || async {
        ensure!(line::certificate(secure).await.is_err(), "the certificate is still shown");
        Ok(())
    })
    .await?;
    stage.say(format!("grant for a Secret deleted: no handshake after {:.0} ms", start.elapsed().as_secs_f64() * 1000.0));
    let refused = |gateway: &_| status::is(gateway, Of::Listener("https"), "ResolvedRefs", "False", "RefNotPermitted");
    within(&space, "Gateway", "edge", "ResolvedRefs False without the grant", refused).await?;
    Ok(())
}
