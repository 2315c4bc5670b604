//! One proxy's stream: what it lacks is sent, what it says is taken down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use isthmus_routing::BackendKey;
use isthmus_routing::snapshot::{Changes, Item, ModelVersion};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::parts::{Calls, Owner};
use super::published::{Edition, Published, Sendable};
use super::registry::{Entered, Member};
use super::sign::{self, Requests};
use super::unanswered::{Answer, Unanswered};
use super::{Peer, Proxy, Role, Shared, Sidecar, Subject, count};
use crate::PACKAGE;
use crate::body::{ReadError, Reader, Unsent, send};
use crate::frame::{self, FrameError};
use crate::message::{self, Ack, Hello, Nack, ReadFromProxy, ToProxy, Welcome};

/// How often the log says that a proxy gets no certificate, of all together; whoever signs counts each.
const COMPLAINTS: Duration = Duration::from_secs(30);
/// Bytes after which messages are sent on.
const CHUNK: usize = 64 << 10;

/// A proxy that was admitted.
pub(super) struct Session {
    peer: Peer,
    hello: Hello,
    model: ModelVersion,
    chunks: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    unanswered: Unanswered,
    /// What it subscribes to; of a sidecar only.
    calls: watch::Sender<Calls>,
    requests: Requests,
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
    #[error("the proxy subscribes to {0} Services, and may to {most}", most = message::CALLS)]
    Calls(usize),
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
        peer: Peer,
        mut hello: Hello,
        model: ModelVersion,
        chunks: mpsc::Sender<Bytes>,
        shared: Arc<Shared>,
    ) -> Self {
        let calls = Calls::new(&peer.subject.identity().namespace, std::mem::take(&mut hello.calls));
        let (unanswered, requests) = (Unanswered::default(), Requests::default());
        Self { peer, hello, model, chunks, shared, unanswered, calls: watch::Sender::new(calls), requests }
    }

    /// Until the stream ends, for whatever reason.
    pub(super) async fn run(self, reader: Reader, address: SocketAddr) {
        let (proxy, counts) = (&self.peer, &self.shared.counts);
        tracing::info!(%proxy, peer = %address, model = %self.model, package = self.hello.package, "a proxy has connected");
        count(&counts.streams);
        counts.connected.fetch_add(1, Ordering::Relaxed);
        let (entered, replaced) = self.shared.registry.enter(&self.peer, self.member());
        // Each of these may be dropped at any time: what is sent, is sent in whole messages.
        let end = tokio::select! {
            biased;
            end = self.interrupted(replaced) => end,
            end = self.listen(reader, &entered) => end,
            end = self.certify() => end,
            end = self.feed(&entered) => end,
        };
        counts.connected.fetch_sub(1, Ordering::Relaxed);
        tracing::info!(%proxy, peer = %address, "the stream of a proxy has ended: {end}");
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
    fn member(&self) -> Member {
        let served = self.hello.held.as_ref().and_then(|held| held.served.clone());
        let target = self.current(&self.shared.published);
        let edition = served.as_ref().zip(target).filter(|(served, target)| target.version() == served.version);
        let edition = edition.map(|(_, target)| target.edition);
        let (package, model) = (self.hello.package.clone(), self.model);
        let lacking = BTreeMap::new();
        match &self.peer.subject {
            Subject::Gateway { .. } => {
                let acked = match edition {
                    Some(Edition::Gateway(published)) => Some(published),
                    // In the newest model both are one.
                    _ => served.as_ref().filter(|_| model == self.shared.options.models.newest).map(|served| served.version),
                };
                let (listeners, unknown) = served.map(|served| (served.faults, served.unknown)).unwrap_or_default();
                Member::Proxy(Proxy { package, model, acked, nack: None, listeners, unknown, lacking })
            }
            Subject::Workload { .. } => {
                let acked = edition.and_then(|edition| if let Edition::Mesh(number) = edition { Some(number) } else { None });
                let calls = self.calls.borrow().services.clone();
                Member::Sidecar(Sidecar { package, model, acked, nack: None, calls, lacking })
            }
        }
    }

    fn current(&self, published: &watch::Receiver<Option<Published>>) -> Option<Sendable> {
        let published = published.borrow().as_ref()?.clone();
        let models = &self.shared.options.models;
        match &self.peer.subject {
            Subject::Gateway { gateway, .. } => Some(published.gateway(gateway)?.for_model(self.model, models)),
            Subject::Workload { identity } => {
                let calls = self.calls.borrow().clone();
                let owner = Owner { namespace: &identity.namespace, pod: &self.peer.pod, calls: &calls, model: self.model };
                Some(published.mesh()?.of(owner, models))
            }
        }
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
        let ReadFromProxy { ack, nack, subscribe, csr, .. } = serde_json::from_slice(&frame)?;
        let (proxy, counts) = (&self.peer, &self.shared.counts);
        if let Some(Ack { version, faults, unknown }) = ack {
            count(&counts.acks);
            let served = self.unanswered.acked(version);
            entered.update(|member| {
                // Otherwise it says something new of a version that it serves already, whatever it has refused since.
                if let Some(served) = served {
                    member.serves(served);
                }
                member.says(faults, unknown);
            });
        }
        if let Some(Nack { version, reason }) = nack {
            count(&counts.nacks);
            let reason = message::beginning(&reason, message::REASON);
            // What it was not sent, or has answered already, is no news.
            if let Some(refused) = self.unanswered.nacked(version) {
                tracing::warn!(%proxy, %version, "a proxy refuses a version: {reason}");
                entered.update(|member| member.refuses(refused, reason));
            }
        }
        if let Some(subscribe) = subscribe {
            self.subscribe(subscribe.services, entered)?;
        }
        if let Some(csr) = csr {
            self.requests.put(csr);
        }
        Ok(())
    }

    /// What it subscribes to is known before it is sent anything of it.
    fn subscribe(&self, services: BTreeSet<BackendKey>, entered: &Entered) -> Result<(), End> {
        if services.len() > message::CALLS {
            return Err(End::Calls(services.len()));
        }
        if *self.calls.borrow().services != services {
            let calls = Calls::new(&self.peer.subject.identity().namespace, services);
            entered.update(|member| member.calls(calls.services.clone()));
            self.calls.send_replace(calls);
        }
        Ok(())
    }

    /// Answers requests for certificates, one after the other.
    async fn certify(&self) -> End {
        loop {
            let csr = self.requests.next().await;
            let next = Instant::now() + self.shared.options.limits.sign_every;
            let answer = sign::answer(&self.peer.subject, csr, &self.shared).await;
            if let ToProxy::Denied { reason } = &answer {
                self.complain(reason);
            }
            if let Err(end) = self.send(&answer).await {
                return end;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// A thousand sidecars may ask at once, and again and again.
    fn complain(&self, reason: &str) {
        let mut complained = self.shared.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_some_and(|last| last.elapsed() < COMPLAINTS) {
            tracing::debug!(proxy = %self.peer, "a proxy gets no certificate: {reason}");
            return;
        }
        *complained = Some(Instant::now());
        tracing::warn!(proxy = %self.peer, "a proxy gets no certificate: {reason}; others are not named for {COMPLAINTS:?}");
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
        let (mut published, mut calls) = (self.shared.published.clone(), self.calls.subscribe());
        let mut sent: Option<Sendable> = None;
        loop {
            // First, so that what is sent then is the newest.
            self.room().await?;
            published.borrow_and_update();
            calls.borrow_and_update();
            let target = self.current(&published);
            if let Some(target) = target.filter(|target| sent.as_ref().is_none_or(|sent| !sent.is(target))) {
                self.bring(sent.as_ref(), &target, entered).await?;
                sent = Some(target);
            }
            tokio::select! {
                changed = published.changed() => changed.map_err(|_| End::Stopped)?,
                // Its sender is this session's own.
                _ = calls.changed() => {}
            }
        }
    }

    /// Makes the proxy hold `target`, or finds that it does.
    async fn bring(&self, sent: Option<&Sendable>, target: &Sendable, entered: &Entered) -> Result<(), End> {
        let changes = target.changes(sent);
        if sent.is_none() || !changes.is_empty() {
            self.send_version(sent.is_some(), target, changes).await?;
            count(&self.shared.counts.commits);
        } else {
            // To this proxy it is the same.
            match self.unanswered.also(target.edition) {
                Some(Answer::Served) => entered.update(|member| member.serves(target.edition)),
                Some(Answer::Refused) => entered.update(|member| member.refuses_also(target.edition)),
                None => {}
            }
        }
        entered.update(|member| member.lacks(&target.part.lacking));
        Ok(())
    }

    /// A proxy that does not answer is sent no more after a while: it could not be told apart from one that is lost.
    async fn room(&self) -> Result<(), End> {
        let limits = &self.shared.options.limits;
        let room = self.unanswered.room(limits.unanswered);
        tokio::time::timeout(limits.write, room).await.map_err(|_| End::Slow(limits.write))
    }

    /// Sends changes to what was sent before, or to what the proxy holds, or to nothing.
    async fn send_version(&self, synced: bool, target: &Sendable, changes: Changes) -> Result<(), End> {
        let held = self.hello.held.as_ref().map(|held| held.version);
        let version = target.version();
        let mut chunk = Vec::new();
        if synced {
            self.send_changes(&mut chunk, changes).await?;
        } else if held != Some(version) {
            self.append(&mut chunk, &ToProxy::Reset {})?;
            self.send_changes(&mut chunk, changes).await?;
        }
        self.append(&mut chunk, &ToProxy::Commit { version })?;
        // Before it is sent, because the answer may be quick.
        self.unanswered.sent(version, target.edition);
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
        tracing::error!(proxy = %self.peer, "{} cannot be sent to proxies: {end}", item.key());
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
