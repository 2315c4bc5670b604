//! The webhook that gives pods their sidecars.
//!
//! The API server asks for each pod that the chart's MutatingWebhookConfiguration selects; what becomes of a pod is
//! [`isthmus_inject`]'s matter. Every replica answers, with the certificate of the push port, which has the name of the Service, too. The
//! leader keeps the CA's certificates in the configuration.

mod bundle;
mod flags;
mod peers;
mod review;
mod serve;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use isthmus_inject::KubernetesVersion;
use isthmus_push::server::Role;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use flags::Flags;

use crate::authority::Material;
use crate::metrics::Metrics;

/// How often it is looked at which version the API server has; and how often until it answers.
const VERSION: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(5));

/// How sidecars are injected.
#[derive(Debug)]
pub struct Settings {
    /// Where the API server asks.
    pub listener: TcpListener,
    /// What every sidecar has in common; the CA's certificates and the version of Kubernetes are filled in while it runs.
    pub sidecar: isthmus_inject::Settings,
}

/// Of the MutatingWebhookConfiguration; it has the namespace in it because it is in none.
pub(crate) fn configuration(namespace: &str) -> String {
    format!("isthmus-injector-{namespace}")
}

/// The name by which the API server calls the webhook.
pub(crate) fn server_name(namespace: &str) -> String {
    format!("isthmus-controller.{namespace}.svc")
}

/// Serves until it is dropped.
pub(crate) async fn run(
    client: Client,
    namespace: String,
    settings: Settings,
    material: watch::Receiver<Option<Arc<Material>>>,
    role: watch::Receiver<Role>,
    metrics: Arc<Metrics>,
) {
    let (version, kubernetes) = watch::channel(None);
    let webhook = review::Webhook::new(settings.sidecar, material.clone(), kubernetes, Arc::clone(&metrics));
    tokio::join!(
        serve::run(settings.listener, material.clone(), webhook.router(), &metrics),
        bundle::keep(client.clone(), configuration(&namespace), material, role),
        follow_version(client, version),
    );
}

async fn follow_version(client: Client, version: watch::Sender<Option<KubernetesVersion>>) {
    loop {
        let answer = crate::watch::stream::in_time(client.apiserver_version()).await;
        let read = answer.map_err(|error| error.to_string()).and_then(|info| {
            format!("{}.{}", info.major, info.minor).parse::<KubernetesVersion>().map_err(|error| error.to_string())
        });
        let pause = match read {
            Ok(read) => {
                let changed = version.send_if_modified(|known| known.replace(read) != Some(read));
                if changed && read < KubernetesVersion::OLDEST {
                    tracing::error!(
                        "Kubernetes {read} has no native sidecars: pods that ask for one are refused; upgrade to {} or newer, or set \
                         mesh.enabled=false in the chart's values",
                        KubernetesVersion::OLDEST
                    );
                }
                VERSION.0
            }
            Err(error) => {
                tracing::warn!(%error, "the version of the API server cannot be read now");
                VERSION.1
            }
        };
        tokio::time::sleep(pause).await;
    }
}
