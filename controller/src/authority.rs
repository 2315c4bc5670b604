//! The certificate that proxies know the controller by: a CA and a leaf of our own, in a Secret.
//!
//! [`plan`](plan::plan) decides what should be held; the leader writes it, and every replica follows the Secret. The CA's certificates
//! are the bundle that each Gateway's ConfigMap has.

mod content;
mod keep;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use isthmus_push::server::Role;
use isthmus_routing::Certificate;
use kube::Client;
use tokio::sync::watch;

pub use content::{Content, Malformed};
pub use plan::{Plan, plan};

/// The Secret, in the controller's namespace.
pub const SECRET: &str = "isthmus-push-tls";

/// What the push server shows, and what proxies trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// The leaf and its key.
    pub certificate: Arc<Certificate>,
    /// The certificates of the CAs, PEM.
    pub bundle: String,
}

/// Follows the Secret in `namespace`, and keeps it as it should be while this replica leads. None until it was read or made. Ends with the
/// receivers.
pub fn start(client: Client, namespace: String, role: watch::Receiver<Role>) -> watch::Receiver<Option<Arc<Material>>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(keep::run(client, namespace, role, sender));
    receiver
}

/// The certificates of the material, once there is one: what the push server wants. None: the authority ended first.
pub async fn certificates(mut material: watch::Receiver<Option<Arc<Material>>>) -> Option<watch::Receiver<Arc<Certificate>>> {
    let first = material.wait_for(Option::is_some).await.ok()?.as_ref()?.certificate.clone();
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            let changed = tokio::select! {
                changed = material.changed() => changed,
                () = sender.closed() => return,
            };
            if changed.is_err() {
                return;
            }
            if let Some(material) = material.borrow_and_update().as_ref() {
                sender.send_if_modified(|current| {
                    let differs = *current != material.certificate;
                    if differs {
                        *current = Arc::clone(&material.certificate);
                    }
                    differs
                });
            }
        }
    });
    Some(receiver)
}
