//! The certificate that proxies know the controller by: a CA and a leaf of our own, in a Secret.
//!
//! [`plan`](plan::plan) decides what should be held; the leader writes it, and every replica follows the Secret. The CA's certificates
//! are the bundle that each Gateway's ConfigMap has.

mod content;
pub(crate) mod keep;
mod plan;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use isthmus_push::SERVER_NAME;
use isthmus_push::server::Role;
use isthmus_routing::Certificate;
use kube::Client;
use rustls_pki_types::UnixTime;
use tokio::sync::watch;

pub(crate) use content::{Ca, Validity, der, parsed, split, text, validity};
pub use content::{Content, Malformed};
pub(crate) use plan::{CA_OVERLAP, DAY, SETTLE, SKEW, holding, root, unix_lines};
pub use plan::{Plan, plan};

use self::keep::{Entries, Held, Kept};

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
    let names = vec![SERVER_NAME.to_owned(), crate::inject::server_name(&namespace)];
    tokio::spawn(keep::run(Push { names, last: None }, client, namespace, role, sender));
    receiver
}

/// What is gone or malformed is written as it was, because a sidecar has the CAs that its pod was given and no others: with another CA it
/// would take no controller for one. Only what nobody remembers is made anew.
struct Push {
    /// By which proxies know us, and the API server.
    names: Vec<String>,
    last: Option<Content>,
}

impl Kept for Push {
    const SECRET: &'static str = SECRET;
    const MALFORMED: &'static str = "the leader writes what it held before, or makes it anew";
    type Content = Content;
    type Material = Material;

    fn read(&mut self, entries: &Entries, _: UnixTime) -> Result<Content, Malformed> {
        Content::read(entries)
    }

    fn entries(content: &Content) -> Entries {
        content.entries()
    }

    fn material(&mut self, content: &Content) -> Material {
        self.last = Some(content.clone());
        content.material()
    }

    fn plan(&self, held: Held<'_, Content>, now: UnixTime) -> Result<Option<Plan<Content>>, Malformed> {
        let (held, restored) = match held {
            Held::Content(content) => (Some(content), None),
            Held::Nothing => (self.last.as_ref(), Some("it was deleted, and holds again what it held")),
            Held::Malformed => (self.last.as_ref(), Some("it was malformed, and holds again what it held")),
        };
        let Plan { content, change } = plan(held, &self.names, now)?;
        Ok(Some(Plan { content, change: change.or(restored) }))
    }
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
