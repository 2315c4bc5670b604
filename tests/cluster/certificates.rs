//! A certificate whose Secret turns bad or goes.

use std::sync::Arc;
use std::time::Duration;

use crate::fault::{Outcome, ensure};
use crate::line;
use crate::manifests::{Certificate, DEPLOYMENT, HASTY, PODS, gateway, programmed, secret};
use crate::node;
use crate::proof::within;
use crate::space::SLOW;
use crate::stage::{Stage, eventually};
use crate::status::{self, Of};

const HTTPS: Of<'_> = Of::Listener("https");
const LISTENER: &str = "  - { name: https, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: web }] } }";

pub(crate) async fn a_secret_that_turns_malformed_or_goes(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(serde_json::json!({})).await?;
    let (first, second) = (Certificate::new()?, Certificate::new()?);
    space.apply_value(&first.secret("web")).await?;
    space.apply(&gateway(1, HASTY, LISTENER)).await?;
    space.rolled_out(DEPLOYMENT, PODS).await?;
    let address = programmed(&space, 443).await?;
    let shows = async |expected: &Certificate, when: &str| -> Outcome {
        let shown = line::certificate(address).await?;
        ensure!(shown == expected.der, "{when}: another certificate is shown");
        Ok(())
    };
    shows(&first, "at first").await?;

    // Malformed: the last good one is kept, and the status says what is wrong.
    space.apply_value(&secret("web", "no certificate", "no key")).await?;
    let refused = |gateway: &_| status::is(gateway, HTTPS, "ResolvedRefs", "False", "InvalidCertificateRef");
    let took = within(&space, "Gateway", "edge", "ResolvedRefs False for a malformed Secret", refused).await?;
    stage.say(format!("malformed: {took}"));
    let edge = space.get("Gateway", "edge").await?;
    let message = status::condition(&edge, HTTPS, "ResolvedRefs").map(|condition| condition["message"].to_string());
    ensure!(message.as_ref().is_some_and(|message| message.contains("web")), "the message does not name the Secret: {message:?}");
    shows(&first, "after the Secret turned malformed").await?;
    if node::kill_gateways(&space).await? {
        space.rolled_out(DEPLOYMENT, PODS).await?;
        eventually(SLOW, "a restarted proxy", || shows(&first, "after a restart with the Secret malformed")).await?;
        stage.say("the last good certificate outlives a restart of the container");
    } else {
        stage.say("left out: a restart of the container, since the node is another machine");
    }

    // Good again.
    space.apply_value(&second.secret("web")).await?;
    let good = |gateway: &_| status::is(gateway, HTTPS, "ResolvedRefs", "True", "") && status::is_programmed(gateway);
    stage.say(format!("good again: {}", within(&space, "Gateway", "edge", "ResolvedRefs True", good).await?));
    eventually(Duration::from_secs(1), "the new certificate", || shows(&second, "after the Secret is good again")).await?;

    // Gone: it is not shown any more.
    space.delete("Secret", "web").await?;
    let start = tokio::time::Instant::now();
    eventually(crate::proof::LIMIT, "handshakes stop", || async {
        ensure!(line::certificate(address).await.is_err(), "a certificate is shown though its Secret is gone");
        Ok(())
    })
    .await?;
    stage.say(format!("deleted: no handshake after {:.0} ms", start.elapsed().as_secs_f64() * 1000.0));
    within(&space, "Gateway", "edge", "ResolvedRefs False for an absent Secret", refused).await?;
    for _ in 0..20 {
        ensure!(line::certificate(address).await.is_err(), "a certificate is shown again");
    }
    Ok(())
}
