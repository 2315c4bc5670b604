//! A Secret of our own, followed by every replica and kept by the leader.

use std::collections::BTreeMap;
use std::future::Future;
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

use super::{Malformed, Plan};
use crate::provision::{FIELD_MANAGER, names};
use crate::watch::stream::in_time;

/// How often it is looked at whether something has to be renewed.
const LOOK: Duration = Duration::from_secs(600);
/// The first and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// The entries of a Secret.
pub(crate) type Entries = BTreeMap<String, Vec<u8>>;

/// What a Secret is for, and what should be in it.
pub(crate) trait Kept: Send + 'static {
    /// Its name, in the controller's namespace.
    const SECRET: &'static str;
    /// Its type where it is made here; empty: the API server's default.
    const TYPE: &'static str = "";
    /// What happens while it cannot be read, for the log.
    const MALFORMED: &'static str;
    /// What its entries mean.
    type Content: Send + Sync;
    /// What follows from it for everybody else.
    type Material: PartialEq + Send + Sync + 'static;

    /// Reads the entries. Whether certificates have ended is no matter of this.
    fn read(&mut self, entries: &Entries, now: UnixTime) -> Result<Self::Content, Malformed>;
    /// What should be written.
    fn entries(content: &Self::Content) -> Entries;
    /// What is published, whether it was read or written.
    fn material(&mut self, content: &Self::Content) -> Self::Material;
    /// What should be held now. None: what is held is left alone.
    fn plan(&self, held: Held<'_, Self::Content>, now: UnixTime) -> Result<Option<Plan<Self::Content>>, Malformed>;
}

/// What is there.
#[derive(Debug)]
pub(crate) enum Held<'c, C> {
    /// No Secret.
    Nothing,
    /// One that cannot be read.
    Malformed,
    /// One that can.
    Content(&'c C),
}

struct Keeper<K: Kept> {
    kept: K,
    secrets: Api<Secret>,
    /// None: not read yet. Some(None): there is none.
    held: Option<Option<Secret>>,
    failures: u32,
    sender: watch::Sender<Option<Arc<K::Material>>>,
}

/// Follows the Secret in `namespace`, and keeps it as it should be while this replica leads. Ends with the receivers.
pub(crate) fn run<K: Kept>(
    kept: K,
    client: Client,
    namespace: String,
    role: watch::Receiver<Role>,
    sender: watch::Sender<Option<Arc<K::Material>>>,
) -> impl Future<Output = ()> + Send {
    follow(Keeper { kept, secrets: Api::namespaced(client, &namespace), held: None, failures: 0, sender }, namespace, role)
}

async fn follow<K: Kept>(mut keeper: Keeper<K>, namespace: String, mut role: watch::Receiver<Role>) {
    let secret = K::SECRET;
    let config = watcher::Config::default().fields(&format!("metadata.name={secret}"));
    let events = watcher(keeper.secrets.clone(), config).default_backoff().into_stream();
    let mut events = std::pin::pin!(events);
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
                    warn!(%error, "the Secret {namespace}/{secret} cannot be watched now");
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

impl<K: Kept> Keeper<K> {
    /// Does what is to be done now; returns when to look again.
    async fn look(&mut self, leads: bool) -> Duration {
        let Some(secret) = &self.held else { return LOOK };
        let now = UnixTime::now();
        let read = secret.as_ref().map(|secret| self.kept.read(&entries(secret), now));
        let held = match &read {
            Some(Ok(content)) => {
                self.publish(content);
                Held::Content(content)
            }
            Some(Err(error)) => {
                warn!("the Secret {} cannot be used: {error}; {}", K::SECRET, K::MALFORMED);
                Held::Malformed
            }
            None => Held::Nothing,
        };
        if !leads {
            return LOOK;
        }
        match self.renew(held, now).await {
            Ok(()) => {
                self.failures = 0;
                LOOK
            }
            Err(error) => {
                warn!(%error, "the Secret {} cannot be written", K::SECRET);
                self.failures = self.failures.saturating_add(1);
                (BACKOFF.0 * 2_u32.saturating_pow(self.failures.min(16))).min(BACKOFF.1)
            }
        }
    }

    /// Writes what should be held, if that differs. Whoever writes at the same time wins, and is read: a certificate that was made but not
    /// written was never used.
    async fn renew(&mut self, held: Held<'_, K::Content>, now: UnixTime) -> Result<(), Failure> {
        let Some(Plan { content, change: Some(change) }) = self.kept.plan(held, now)? else { return Ok(()) };
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let data = K::entries(&content).into_iter().map(|(entry, bytes)| (entry, ByteString(bytes))).collect();
        let written = match self.held.clone().flatten() {
            Some(held) => {
                let secret = Secret { data: Some(data), string_data: None, ..held };
                in_time(self.secrets.replace(K::SECRET, &parameters, &secret)).await
            }
            None => {
                let labels = [(names::MANAGED_BY.0.to_owned(), names::MANAGED_BY.1.to_owned())];
                let metadata =
                    ObjectMeta { name: Some(K::SECRET.to_owned()), labels: Some(labels.into()), ..ObjectMeta::default() };
                let type_ = Some(K::TYPE.to_owned()).filter(|text| !text.is_empty());
                let secret = Secret { metadata, data: Some(data), type_, ..Secret::default() };
                in_time(self.secrets.create(&parameters, &secret)).await
            }
        };
        match written {
            Ok(secret) => {
                info!("the Secret {} was written: {change}", K::SECRET);
                self.held = Some(Some(secret));
                self.publish(&content);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                debug!("the Secret {} was written by another replica", K::SECRET);
                let secret = in_time(self.secrets.get_opt(K::SECRET)).await?;
                if let Some(Ok(content)) = secret.as_ref().map(|secret| self.kept.read(&entries(secret), now)) {
                    self.publish(&content);
                }
                self.held = Some(secret);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn publish(&mut self, content: &K::Content) {
        let material = self.kept.material(content);
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
    #[error("{0}")]
    Make(#[from] Malformed),
    #[error("{0}")]
    Api(#[from] kube::Error),
}

fn entries(secret: &Secret) -> Entries {
    secret.data.iter().flatten().map(|(entry, bytes)| (entry.clone(), bytes.0.clone())).collect()
}
