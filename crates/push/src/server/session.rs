//! One proxy's stream: what it lacks is sent, what it says is taken down.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use isthmus_routing::snapshot::{Changes, Item, ModelVersion};
use isthmus_routing::{Snapshot, Version};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::published::{Published, Sendable};
use super::registry::Entered;
use super::{Identity, Proxy, Role, Shared, count};
use crate::PACKAGE;
use crate::body::{ReadError, Reader, Unsent, send};
use crate::frame::{self, FrameError};
use crate::message::{Ack, Hello, ReadFromProxy, ToProxy, Welcome};

/// Bytes after which messages are sent on.
const CHUNK: usize = 64 << 10;

/// A proxy that was admitted.
pub(super) struct Session {
    identity: Identity,
    hello: Hello,
    model: ModelVersion,
    chunks: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    unanswered: Unanswered,
}

/// Versions that were sent and not answered, oldest first, each as the proxy knows it and as it was published.
#[derive(Debug, Default)]
struct Unanswered {
    versions: Mutex<Versions>,
    fewer: Notify,
}

#[derive(Debug, Default)]
struct Versions {
    sent: VecDeque<(Version, Version)>,
    /// The last one that was refused; it may be served later all the same.
    refused: Option<(Version, Version)>,
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the proxy ended it")]
    Proxy,
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("the proxy sent something that is no message: {0}")]
    Message(#[from] serde_json::Error),
    #[error("the proxy has not read for {} s", .0.as_secs_f32())]
    Slow(Duration),
    #[error("{0}; nothing of it was sent")]
    Frame(#[from] FrameError),
    #[error("its pod has opened another one")]
    Replaced,
    #[error("it is old, and the proxy has to prove again who it is")]
    Age,
    #[error("this controller does not lead any more")]
    Follower(Option<SocketAddr>),
    #[error("the server stops")]
    Stopped,
}

impl Session {
    pub(super) fn new(
        identity: Identity,
        hello: Hello,
        model: ModelVersion,
        chunks: mpsc::Sender<Bytes>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { identity, hello, model, chunks, shared, unanswered: Unanswered::default() }
    }

    /// Until the stream ends, for whatever reason.
    pub(super) async fn run(self, reader: Reader, peer: SocketAddr) {
        let Identity { gateway, pod } = &self.identity;
        let counts = &self.shared.counts;
        tracing::info!(%gateway, pod, %peer, model = %self.model, package = self.hello.package, "a proxy has connected");
        count(&counts.streams);
        counts.connected.fetch_add(1, Ordering::Relaxed);
        let (entered, replaced) = self.shared.registry.enter(&self.identity, self.proxy());
        // Each of these may be dropped at any time: what is sent, is sent in whole messages.
        let end = tokio::select! {
            biased;
            end = self.interrupted(replaced) => end,
            end = self.listen(reader, &entered) => end,
            end = self.feed(&entered) => end,
        };
        counts.connected.fetch_sub(1, Ordering::Relaxed);
        tracing::info!(%gateway, pod, %peer, "the stream of a proxy has ended: {end}");
        match end {
            End::Age => {
                self.farewell(&ToProxy::Renew {}).await;
                entered.leave_later();
            }
            End::Follower(address) => self.farewell(&ToProxy::Refer { address }).await,
            End::Slow(_) => count(&counts.slow),
            _ => {}
        }
    }

    /// What is known of it at the start: a proxy that opens a new stream goes on serving what it served on the old one.
    fn proxy(&self) -> Proxy {
        let served = self.hello.held.as_ref().and_then(|held| held.served.clone());
        let published = self.current(&self.shared.published).map(|target| (target.version, target.published));
        let acked = served.as_ref().and_then(|served| match published {
            Some((version, published)) if version == served.version => Some(published),
            // In the newest model both are one.
            _ => (self.model == self.shared.options.models.newest).then_some(served.version),
        });
        let (listeners, unknown) = served.map(|served| (served.faults, served.unknown)).unwrap_or_default();
        let package = self.hello.package.clone();
        Proxy { package, model: self.model, acked, nack: None, listeners, unknown, lacking: BTreeMap::new() }
    }

    fn current(&self, published: &watch::Receiver<Option<Published>>) -> Option<Arc<Sendable>> {
        let entry = published.borrow().as_ref()?.get(&self.identity.gateway)?.clone();
        Some(entry.for_model(self.model, &self.shared.options.models))
    }

    async fn interrupted(&self, replaced: oneshot::Receiver<()>) -> End {
        let mut role = self.shared.options.role.clone();
        let age = self.shared.options.limits.age;
        // Not all at once after a restart of the controller.
        let age = age.saturating_sub(age.mul_f64(fastrand::f64() / 10.0));
        let follower = async {
            match role.wait_for(|role| matches!(role, Role::Follower { .. })).await.ok().map(|role| *role) {
                Some(Role::Follower { leader }) => leader,
                // Nobody is left to change it.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = replaced => End::Replaced,
            leader = follower => End::Follower(leader),
            () = tokio::time::sleep(age) => End::Age,
        }
    }

    /// Takes down what the proxy says. Never waits for the proxy to read.
    async fn listen(&self, mut reader: Reader, entered: &Entered) -> End {
        loop {
            match self.hear(&mut reader, entered).await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    async fn hear(&self, reader: &mut Reader, entered: &Entered) -> Result<(), End> {
        let frame = reader.next().await?.ok_or(End::Proxy)?;
        let ReadFromProxy { ack, nack, .. } = serde_json::from_slice(&frame)?;
        let counts = &self.shared.counts;
        let gateway = &self.identity.gateway;
        if let Some(Ack { version, faults, unknown }) = ack {
            count(&counts.acks);
            let published = self.unanswered.acked(version);
            entered.update(|proxy| {
                // Otherwise it says something new of a version that it serves already, whatever it has refused since.
                if published.is_some() {
                    (proxy.acked, proxy.nack) = (published, None);
                }
                (proxy.listeners, proxy.unknown) = (faults, unknown);
            });
        }
        if let Some(nack) = nack {
            count(&counts.nacks);
            tracing::warn!(%gateway, pod = self.identity.pod, version = %nack.version, "a proxy refuses a version: {}", nack.reason);
            if let Some(published) = self.unanswered.nacked(nack.version) {
                entered.update(|proxy| proxy.nack = Some((published, nack.reason)));
            }
        }
        Ok(())
    }

    /// Sends every newest snapshot, as a difference to the one that was sent before.
    async fn feed(&self, entered: &Entered) -> End {
        match self.try_feed(entered).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_feed(&self, entered: &Entered) -> Result<std::convert::Infallible, End> {
        self.send(&ToProxy::Welcome(Welcome { model: self.model, package: PACKAGE.to_owned() })).await?;
        let mut published = self.shared.published.clone();
        let mut sent: Option<Arc<Sendable>> = None;
        loop {
            // First, so that what is sent then is the newest.
            self.room().await?;
            published.borrow_and_update();
            let target = self.current(&published);
            if let Some(target) = target.filter(|target| sent.as_ref().is_none_or(|sent| !Arc::ptr_eq(sent, target))) {
                self.send_version(sent.as_deref(), &target).await?;
                count(&self.shared.counts.commits);
                entered.update(|proxy| proxy.lacking.clone_from(&target.lacking));
                sent = Some(target);
            }
            published.changed().await.map_err(|_| End::Stopped)?;
        }
    }

    /// A proxy that does not answer is sent no more after a while: it could not be told apart from one that is lost.
    async fn room(&self) -> Result<(), End> {
        let limits = &self.shared.options.limits;
        let room = async {
            while self.unanswered.len() >= limits.unanswered {
                self.unanswered.fewer.notified().await;
            }
        };
        tokio::time::timeout(limits.write, room).await.map_err(|_| End::Slow(limits.write))
    }

    /// Sends what makes `target` of what was sent before, or of what the proxy holds.
    async fn send_version(&self, sent: Option<&Sendable>, target: &Sendable) -> Result<(), End> {
        let held = self.hello.held.as_ref().map(|held| held.version);
        let mut chunk = Vec::new();
        match sent {
            Some(sent) => self.send_changes(&mut chunk, target.snapshot.changes(&sent.snapshot)).await?,
            None if held == Some(target.version) => {}
            None => {
                self.append(&mut chunk, &ToProxy::Reset {})?;
                self.send_changes(&mut chunk, target.snapshot.changes(&Snapshot::default())).await?;
            }
        }
        self.append(&mut chunk, &ToProxy::Commit { version: target.version })?;
        // Before it is sent, because the answer may be quick.
        self.unanswered.sent(target.version, target.published);
        self.send_chunk(chunk).await
    }

    /// Leaves the last of them in the chunk.
    async fn send_changes(&self, chunk: &mut Vec<u8>, changes: Changes) -> Result<(), End> {
        for key in &changes.removes {
            self.append(chunk, &ToProxy::Remove { key: key.to_string() })?;
        }
        for item in &changes.puts {
            self.append(chunk, &ToProxy::Put(item)).inspect_err(|end| self.cannot_send(item, end))?;
            if chunk.len() >= CHUNK {
                self.send_chunk(std::mem::take(chunk)).await?;
            }
        }
        Ok(())
    }

    fn append(&self, chunk: &mut Vec<u8>, message: &ToProxy<'_>) -> Result<(), End> {
        Ok(frame::append(chunk, message, self.shared.options.limits.item)?)
    }

    fn cannot_send(&self, item: &Item, end: &End) {
        let gateway = &self.identity.gateway;
        tracing::error!(%gateway, "{} cannot be sent to proxies: {end}", item.key());
    }

    async fn send(&self, message: &ToProxy<'_>) -> Result<(), End> {
        let mut chunk = Vec::new();
        self.append(&mut chunk, message)?;
        self.send_chunk(chunk).await
    }

    async fn send_chunk(&self, chunk: Vec<u8>) -> Result<(), End> {
        let deadline = self.shared.options.limits.write;
        send(&self.chunks, chunk.into(), deadline).await.map_err(|unsent| match unsent {
            Unsent::Over => End::Proxy,
            Unsent::Slow => End::Slow(deadline),
        })
    }

    /// The last message; a proxy that does not take it finds out by itself.
    async fn farewell(&self, message: &ToProxy<'_>) {
        let _ = self.send(message).await;
    }
}

impl Unanswered {
    fn versions(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, version: Version, published: Version) {
        self.versions().sent.push_back((version, published));
    }

    fn len(&self) -> usize {
        self.versions().sent.len()
    }

    /// The published version that is served, if that is news.
    fn acked(&self, version: Version) -> Option<Version> {
        let mut versions = self.versions();
        let acked = versions.answered(version).or_else(|| versions.refused.filter(|(refused, _)| *refused == version))?;
        versions.refused = None;
        drop(versions);
        self.fewer.notify_one();
        Some(acked.1)
    }

    /// The published version that is not served.
    fn nacked(&self, version: Version) -> Option<Version> {
        let mut versions = self.versions();
        let nacked = versions.answered(version)?;
        versions.refused = Some(nacked);
        drop(versions);
        self.fewer.notify_one();
        Some(nacked.1)
    }
}

impl Versions {
    /// The last that was sent under this name. What was sent before it is answered, too.
    fn answered(&mut self, version: Version) -> Option<(Version, Version)> {
        let position = self.sent.iter().rposition(|(sent, _)| *sent == version)?;
        self.sent.drain(..=position).next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::snapshot;

    #[test]
    fn an_answer_is_about_the_last_version_of_that_name_and_all_before() {
        let (a, b, c) = (snapshot(1).version(), snapshot(2).version(), snapshot(3).version());
        let unanswered = Unanswered::default();
        for (version, published) in [(a, a), (b, b), (a, c), (b, a)] {
            unanswered.sent(version, published);
        }
        assert_eq!(unanswered.acked(a), Some(c));
        assert_eq!(unanswered.len(), 1);
        assert_eq!(unanswered.acked(a), None, "answered already");
        assert_eq!(unanswered.nacked(b), Some(a));
        assert_eq!(unanswered.nacked(b), None, "refused already");
        assert_eq!(unanswered.acked(c), None, "never sent");
        assert_eq!((unanswered.acked(b), unanswered.acked(b)), (Some(a), None), "served after all");
    }
}
