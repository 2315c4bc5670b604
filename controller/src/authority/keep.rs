//! The Secret, followed and kept.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use isthmus_api::core::ByteString;
use isthmus_api::{ObjectMeta, Secret};
use isthmus_push::server::Role;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use rustls_pki_types::UnixTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{Content, Material, SECRET, plan};
use crate::provision::{FIELD_MANAGER, names};
use crate::watch::stream::in_time;

/// How often it is looked at whether something has to be renewed.
const LOOK: Duration = Duration::from_secs(600);
/// The first and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

struct Keeper {
    secrets: Api<Secret>,
    /// None: not read yet. Some(None): there is none.
    held: Option<Option<Secret>>,
    failures: u32,
    sender: watch::Sender<Option<Arc<Material>>>,
}

pub(super) async fn run(
    client: Client,
    namespace: String,
    mut role: watch::Receiver<Role>,
    sender: watch::Sender<Option<Arc<Material>>>,
) {
    let secrets = Api::namespaced(client, &namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
    let events = watcher(secrets.clone(), config).default_backoff().into_stream();
    let mut events = std::pin::pin!(events);
    let mut keeper = Keeper { secrets, held: None, failures: 0, sender };
    let mut listed = None;
    let mut next = Instant::now() + LOOK;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Init)) => {
                    listed = None;
                    continue;
                }
                Some(Ok(watcher::Event::InitApply(secret))) => {
                    listed = Some(secret);
                    continue;
                }
                Some(Ok(watcher::Event::InitDone)) => keeper.held = Some(listed.take()),
                Some(Ok(watcher::Event::Apply(secret))) => keeper.held = Some(Some(secret)),
                Some(Ok(watcher::Event::Delete(_))) => keeper.held = Some(None),
                Some(Err(error)) => {
                    warn!(%error, "the Secret {namespace}/{SECRET} cannot be watched now");
                    continue;
                }
                None => return,
            },
            changed = role.changed() => if changed.is_err() {
                return;
            },
            () = sleep_until(next) => {}
            () = keeper.sender.closed() => return,
        }
        let leads = *role.borrow_and_update() == Role::Leader;
        next = Instant::now() + keeper.look(leads).await;
    }
}

impl Keeper {
    /// Does what is to be done now; returns when to look again.
    async fn look(&mut self, leads: bool) -> Duration {
        let Some(secret) = &self.held else { return LOOK };
        let read = secret.as_ref().map(|secret| Content::read(&entries(secret)));
        let content = match read {
            Some(Ok(content)) => {
                self.publish(&content);
                Some(content)
            }
            Some(Err(error)) => {
                let then = if leads { "it is made anew" } else { "the leader makes it anew" };
                warn!("the Secret {SECRET} is not what was written there: {error}; {then}");
                None
            }
            None => None,
        };
        if !leads {
            return LOOK;
        }
        match self.renew(content.as_ref()).await {
            Ok(()) => {
                self.failures = 0;
                LOOK
            }
            Err(error) => {
                warn!(%error, "the Secret {SECRET} cannot be written");
                self.failures = self.failures.saturating_add(1);
                (BACKOFF.0 * 2_u32.saturating_pow(self.failures.min(16))).min(BACKOFF.1)
            }
        }
    }

    /// Writes what should be held, if that differs. Whoever writes at the same time wins, and is read: a certificate that was made but not
    /// written was never used.
    async fn renew(&mut self, content: Option<&Content>) -> Result<(), Failure> {
        let plan = plan(content, UnixTime::now())?;
        let Some(change) = plan.change else { return Ok(()) };
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let data = plan.content.entries().into_iter().map(|(entry, bytes)| (entry, ByteString(bytes))).collect();
        let written = match self.held.clone().flatten() {
            Some(held) => {
                let secret = Secret { data: Some(data), string_data: None, ..held };
                in_time(self.secrets.replace(SECRET, &parameters, &secret)).await
            }
            None => {
                let labels = [(names::MANAGED_BY.0.to_owned(), names::MANAGED_BY.1.to_owned())];
                let metadata = ObjectMeta { name: Some(SECRET.to_owned()), labels: Some(labels.into()), ..ObjectMeta::default() };
                in_time(self.secrets.create(&parameters, &Secret { metadata, data: Some(data), ..Secret::default() })).await
            }
        };
        match written {
            Ok(secret) => {
                info!("the Secret {SECRET} was written: {change}");
                self.held = Some(Some(secret));
                self.publish(&plan.content);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                debug!("the Secret {SECRET} was written by another replica");
                self.held = Some(in_time(self.secrets.get_opt(SECRET)).await?);
                if let Some(Ok(content)) = self.held.iter().flatten().map(|secret| Content::read(&entries(secret))).next() {
                    self.publish(&content);
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn publish(&self, content: &Content) {
        let material = content.material();
        self.sender.send_if_modified(|current| {
            let differs = current.as_deref() != Some(&material);
            if differs {
                *current = Some(Arc::new(material));
            }
            differs
        });
    }
}

/// Why the Secret is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{0}")]
    Api(#[from] kube::Error),
}

fn entries(secret: &Secret) -> std::collections::BTreeMap<String, Vec<u8>> {
    secret.data.iter().flatten().map(|(entry, bytes)| (entry.clone(), bytes.0.clone())).collect()
}
