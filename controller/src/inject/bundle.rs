//! `caBundle`: by whose certificates the API server knows the webhook.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use isthmus_api::core::ByteString;
use isthmus_api::core::api::admissionregistration::v1::MutatingWebhookConfiguration;
use isthmus_push::server::Role;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::authority::Material;
use crate::provision::FIELD_MANAGER;
use crate::watch::fault::Backoff;
use crate::watch::stream::in_time;

/// How often it is looked at if nothing happens.
const LOOK: Duration = Duration::from_secs(600);

/// Follows the configuration, and keeps the CA's certificates in all of its webhooks while this replica leads. The configuration itself is
/// the chart's: it is never made here. Ends when one of the other ends does.
pub(super) async fn keep(
    client: Client,
    name: String,
    mut material: watch::Receiver<Option<Arc<Material>>>,
    mut role: watch::Receiver<Role>,
) {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(watcher(configurations.clone(), config).default_backoff());
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    let mut held: Option<MutatingWebhookConfiguration> = None;
    let mut next = Instant::now() + LOOK;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Init)) => {
                    held = None;
                    continue;
                }
                Some(Ok(watcher::Event::InitApply(found) | watcher::Event::Apply(found))) => held = Some(found),
                Some(Ok(event)) => {
                    if matches!(event, watcher::Event::Delete(_)) {
                        held = None;
                    }
                    if held.is_none() {
                        tracing::warn!("there is no MutatingWebhookConfiguration {name}: no pod gets a sidecar; the chart makes it");
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "the MutatingWebhookConfiguration {name} cannot be watched now");
                    continue;
                }
                None => return,
            },
            changed = material.changed() => if changed.is_err() {
                return;
            },
            changed = role.changed() => if changed.is_err() {
                return;
            },
            () = sleep_until(next) => {}
        }
        next = Instant::now() + LOOK;
        let leads = *role.borrow_and_update() == Role::Leader;
        let bundle = material.borrow_and_update().as_ref().map(|material| material.bundle.clone());
        let Some(apply) = held.as_ref().zip(bundle).filter(|_| leads).and_then(|(held, bundle)| due(held, &bundle)) else {
            continue;
        };
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match in_time(configurations.patch(&name, &parameters, &Patch::Apply(&apply))).await {
            Ok(written) => {
                tracing::info!("the API server was told the CA of the webhook");
                held = Some(written);
                backoff.reset();
            }
            Err(error) => {
                tracing::warn!(%error, "the CA of the webhook cannot be written into the MutatingWebhookConfiguration {name}");
                next = Instant::now() + backoff.next();
            }
        }
    }
}

/// What is to be applied; none: all webhooks have it. All of them are in it, because what an apply leaves out is taken away.
fn due(held: &MutatingWebhookConfiguration, bundle: &str) -> Option<Value> {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let webhooks = held.webhooks.as_deref().unwrap_or_default();
    if webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.as_ref() == Some(&bundle)) {
        return None;
    }
    let entries = webhooks.iter().map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": bundle } }));
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": held.metadata.name },
        "webhooks": entries.collect::<Vec<_>>(),
    }))
}
