//! A stream from its first message to its end.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use isthmus_routing::Version;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::certificate::Answer;
use super::connect::{Stream, Target};
use super::held::Held;
use super::staging::Staging;
use super::store::Store;
use super::{Asks, Limits};
use crate::body::{ReadError, Reader};
use crate::frame::frame;
use crate::message::{self, Csr, FromProxy, Nack, ReadToProxy, Subscribe};

/// Bytes of a message to the controller.
const MESSAGE: usize = 1 << 20;

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the controller ended it")]
    Controller,
    #[error("{}", referred(.0))]
    Refer(Option<SocketAddr>),
    #[error("the controller wants a new one")]
    Renew,
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("the controller sent something that is no message: {0}")]
    Message(#[from] serde_json::Error),
    #[error("the controller sent changes to something that this proxy does not hold")]
    Unsynced,
    #[error("the controller does not read what this proxy says")]
    Deaf,
}

impl End {
    /// Says why, to whoever reads the log.
    pub(super) fn tell(&self, target: &Target) {
        match self {
            // As it is whenever the controller is rolled out.
            Self::Refer(_) => tracing::info!(%target, "the stream from the controller has ended: {self}; what is served stays"),
            end => tracing::warn!(%target, "the stream from the controller has ended: {end}; what is served stays"),
        }
    }
}

fn referred(address: &Option<SocketAddr>) -> String {
    match address {
        Some(address) => format!("the controller refers to {address}"),
        None => "the controller does not lead any more".to_owned(),
    }
}

/// A stream with what it changes.
pub(super) struct Session<'c> {
    reader: Reader,
    chunks: mpsc::Sender<Bytes>,
    held: &'c mut Held,
    asks: &'c mut Asks,
    store: Option<&'c Store>,
    serve: Duration,
    staging: Staging,
    /// Whether `staging` is what the controller believes.
    synced: bool,
    /// A version that the data plane was given, and when it should serve it.
    awaited: Option<(Version, Instant)>,
    /// Whether the last commit is still to be stored.
    unsaved: bool,
    _connection: super::connect::Connection,
}

impl<'c> Session<'c> {
    pub(super) fn new(stream: Stream, held: &'c mut Held, asks: &'c mut Asks, store: Option<&'c Store>, limits: &Limits) -> Self {
        let staging = held.staging();
        let Stream { reader, chunks, connection, .. } = stream;
        let serve = limits.serve;
        Self {
            reader,
            chunks,
            held,
            asks,
            store,
            serve,
            staging,
            synced: false,
            awaited: None,
            unsaved: false,
            _connection: connection,
        }
    }

    /// Cancel safe in so far as what was committed stays, and what was not is sent again on the next stream.
    pub(super) async fn run(mut self) -> End {
        if let Err(end) = self.request() {
            return end;
        }
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        let late = self.awaited.map(|(_, deadline)| deadline);
        let Asks { wanted, requests, .. } = &mut *self.asks;
        let requested = async {
            match requests {
                Some(requests) => requests.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            frame = self.reader.next() => {
                let frame = frame?.ok_or(End::Controller)?;
                self.hear(&frame).await
            }
            () = self.held.reported() => self.answer(),
            () = wanted.changed() => self.subscribe(),
            () = requested => self.request(),
            () = tokio::time::sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => self.refuse_late(),
        }
    }

    async fn hear(&mut self, frame: &[u8]) -> Result<(), End> {
        let message: ReadToProxy<'_> = serde_json::from_slice(frame)?;
        if let Some(welcome) = message.welcome {
            tracing::info!(model = %welcome.model, package = welcome.package, "the controller has taken this proxy");
        }
        if message.reset.is_some() {
            self.staging = Staging::default();
            self.synced = true;
        }
        if let Some(remove) = message.remove {
            self.synced()?;
            self.staging.remove(&remove.key);
        }
        if let Some(put) = message.put {
            self.synced()?;
            self.staging.put(put);
        }
        if let Some(commit) = message.commit {
            self.commit(commit.version).await?;
        }
        if let Some(requests) = &self.asks.requests {
            let certificate = message.certificate.map(|certificate| Answer::Certificate(certificate.chain));
            let denied = message.denied.map(|denied| Answer::Denied(denied.reason));
            certificate.into_iter().chain(denied).for_each(|answer| requests.answer(answer));
        }
        if let Some(refer) = message.refer {
            return Err(End::Refer(refer.address));
        }
        if message.renew.is_some() {
            return Err(End::Renew);
        }
        Ok(())
    }

    /// The Hello has said what was wanted before.
    fn subscribe(&mut self) -> Result<(), End> {
        match self.asks.wanted.news() {
            Some(services) => self.say(&FromProxy::Subscribe(Subscribe { services })),
            None => Ok(()),
        }
    }

    /// Asks for a certificate, if one is due.
    fn request(&mut self) -> Result<(), End> {
        match self.asks.requests.as_mut().and_then(|requests| requests.current()) {
            Some(csr) => self.say(&FromProxy::Csr(Csr { csr: csr.to_string() })),
            None => Ok(()),
        }
    }

    fn synced(&self) -> Result<(), End> {
        if self.synced { Ok(()) } else { Err(End::Unsynced) }
    }

    async fn commit(&mut self, version: Version) -> Result<(), End> {
        self.asks.presence.is_there();
        // A commit of what is held, and nothing before it: nothing has changed.
        self.synced |= self.held.version() == Some(version);
        self.synced()?;
        match self.staging.commit() {
            Ok(sent) => {
                let has_it = self.held.commit(version, sent, self.staging.unknown()).await;
                self.awaited = Some((version, Instant::now() + self.serve));
                self.unsaved = true;
                if has_it { self.answer() } else { Ok(()) }
            }
            Err(reason) => {
                tracing::error!(%version, "the controller sent items that cannot be read; what is served stays: {reason}");
                self.refuse(version, &reason)
            }
        }
    }

    /// Says what the data plane says, if that is about the last commit.
    fn answer(&mut self) -> Result<(), End> {
        let Some(ack) = self.held.answer() else { return Ok(()) };
        self.awaited = None;
        if std::mem::take(&mut self.unsaved)
            && let (Some(store), Some(stored)) = (self.store, self.held.stored())
        {
            store.save(stored);
        }
        self.say(&FromProxy::Ack(ack))
    }

    fn refuse_late(&mut self) -> Result<(), End> {
        let Some((version, _)) = self.awaited.take() else { return Ok(()) };
        let seconds = self.serve.as_secs_f32();
        tracing::error!(%version, "the data plane has not served a version for {seconds} s; what it served before stays");
        self.refuse(version, &format!("the data plane has not served it within {seconds} s"))
    }

    fn refuse(&self, version: Version, reason: &str) -> Result<(), End> {
        let reason = message::beginning(reason, message::REASON);
        self.say(&FromProxy::Nack(Nack { version, reason }))
    }

    /// Never waits: reading must go on, or both sides could wait for each other.
    fn say(&self, message: &(impl Serialize + fmt::Debug)) -> Result<(), End> {
        match frame(message, MESSAGE) {
            Ok(frame) => self.chunks.try_send(frame).map_err(|_| End::Deaf),
            Err(error) => {
                tracing::error!("an answer to the controller cannot be sent: {error}");
                Ok(())
            }
        }
    }
}
