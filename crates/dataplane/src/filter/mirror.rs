//! Copies of requests: sent on connections of their own, never waited for, their responses thrown away.
//!
//! A mirror that is slow, full or gone costs the request nothing: what it cannot take at once is not sent, and an incomplete
//! copy is cut off instead of being ended as if it were complete.

mod send;

use std::sync::Arc;

use bytes::Bytes;
use isthmus_routing::filter::Mirror;
use isthmus_routing::{BackendKey, Target};
use pingora_core::connectors::http::Connector;
use pingora_http::RequestHeader;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::balance::{InFlight, Interleave, Wire};
use crate::proxy::defaults;
use crate::upstream::Caller;

/// A mirror of a rule.
#[derive(Debug)]
pub(crate) struct MirrorRule {
    source: Mirror,
    shares: Interleave,
}

/// What all mirrored requests share.
pub(crate) struct Mirrors {
    /// Made when the first one is sent: it reads the system's certificates.
    connector: OnceCell<Connector>,
    permits: Arc<Semaphore>,
    /// Bytes of bodies that may still wait, over all of them.
    room: Arc<Semaphore>,
}

/// The copies of one request whose body is on its way.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    queues: Vec<Queue>,
    /// Bytes that have been copied.
    copied: usize,
    /// Where the current try is in the body: a retry sends it from the start again.
    position: usize,
}

/// The way to one mirror.
#[derive(Debug)]
struct Queue {
    parts: mpsc::Sender<Part>,
    room: Arc<Semaphore>,
}

/// What follows the header.
#[derive(Debug)]
enum Part {
    /// A piece, and the room that it takes until it is sent.
    Data(Bytes, OwnedSemaphorePermit),
    /// The body is complete. A queue that closes without it belongs to a request that was cut off.
    End,
}

impl MirrorRule {
    pub(super) fn compile(source: Mirror) -> Self {
        let shares = Interleave::new(source.denominator);
        Self { source, shares }
    }

    /// Where a copy of the next request goes, if it is one of those that are mirrored.
    pub(crate) fn draw(&self) -> Option<&BackendKey> {
        let Target::Backend(key) = &self.source.target else { return None };
        let drawn = u32::try_from(self.shares.draw()).unwrap_or(u32::MAX);
        self.source.takes(drawn).then_some(key)
    }
}

impl Mirrors {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            connector: OnceCell::new(),
            permits: Arc::new(Semaphore::new(defaults::MIRRORS)),
            room: Arc::new(Semaphore::new(defaults::MIRROR_BYTES)),
        })
    }

    /// Sends a copy to an endpoint; with a body, what [`Copies::push`] gets follows.
    pub(crate) fn send(
        self: &Arc<Self>,
        (endpoint, wire, caller): (InFlight, Wire, &Caller),
        request: RequestHeader,
        copies: Option<&mut Copies>,
    ) {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            tracing::debug!(endpoint = %endpoint.address(), "too many mirrored requests are under way, this one is not sent");
            return;
        };
        let body = copies.map(|copies| {
            let (parts, body) = mpsc::channel(defaults::MIRROR_QUEUE);
            copies.queues.push(Queue { parts, room: self.room.clone() });
            body
        });
        let (mirrors, caller) = (self.clone(), caller.clone());
        tokio::spawn(async move {
            let exchange = mirrors.exchange((&endpoint, wire, &caller), request, body);
            match tokio::time::timeout(defaults::MIRROR, exchange).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(endpoint = %endpoint.address(), %error, "a mirrored request failed"),
                Err(_) => tracing::debug!(endpoint = %endpoint.address(), "a mirrored request took too long"),
            }
            drop(permit);
        });
    }

    async fn connector(&self) -> &Connector {
        let make = || async {
            // Reading certificates blocks; nobody would answer that for a copy.
            tokio::task::spawn_blocking(|| Connector::new(None)).await.unwrap_or_else(|_| Connector::new(None))
        };
        self.connector.get_or_init(make).await
    }
}

impl std::fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirrors").field("permits", &self.permits).finish_non_exhaustive()
    }
}

impl Copies {
    /// A try begins.
    pub(crate) fn rewind(&mut self) {
        self.position = 0;
    }

    /// A piece of the body, as each try sends it; copied once.
    pub(crate) fn push(&mut self, data: Option<&Bytes>, end: bool) {
        let start = self.position;
        self.position += data.map_or(0, Bytes::len);
        if let Some(data) = data
            && self.position > self.copied
        {
            let fresh = data.slice(self.copied.saturating_sub(start)..);
            self.queues.retain(|queue| queue.takes(&fresh));
            self.copied = self.position;
        }
        if end && self.position == self.copied {
            for queue in self.queues.drain(..) {
                // A queue without room belongs to a mirror that is too slow.
                let _ = queue.parts.try_send(Part::End);
            }
        }
    }

    /// Whether nobody takes more.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

impl Queue {
    /// Whether there was room.
    fn takes(&self, data: &Bytes) -> bool {
        let Ok(bytes) = u32::try_from(data.len()) else { return false };
        let Ok(taken) = self.room.clone().try_acquire_many_owned(bytes) else { return false };
        self.parts.try_send(Part::Data(data.clone(), taken)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has come; none: the end.
    fn drain(body: &mut mpsc::Receiver<Part>) -> Vec<Option<Bytes>> {
        let shown = |part| match part {
            Part::Data(data, _) => Some(data),
            Part::End => None,
        };
        std::iter::from_fn(|| body.try_recv().ok()).map(shown).collect()
    }

    fn copies(capacity: usize) -> (Copies, mpsc::Receiver<Part>) {
        let (parts, body) = mpsc::channel(capacity);
        let queue = Queue { parts, room: Arc::new(Semaphore::new(100)) };
        (Copies { queues: vec![queue], ..Copies::default() }, body)
    }

    fn data(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn what_a_retry_sends_again_is_copied_once() {
        let (mut copies, mut body) = copies(9);
        copies.push(Some(&data("abc")), false);
        copies.rewind();
        copies.push(Some(&data("ab")), false);
        copies.push(Some(&data("cdef")), false);
        copies.rewind();
        copies.push(Some(&data("abcdef")), false);
        copies.push(Some(&data("g")), true);
        assert!(copies.is_empty());
        assert_eq!(drain(&mut body), [Some(data("abc")), Some(data("def")), Some(data("g")), None]);
    }

    #[test]
    fn an_empty_end_ends() {
        let (mut copies, mut body) = copies(9);
        copies.push(Some(&data("a")), false);
        copies.push(None, true);
        assert_eq!(drain(&mut body), [Some(data("a")), None]);
    }

    #[test]
    fn a_slow_mirror_is_cut_off_and_not_ended() {
        let (mut copies, mut body) = copies(1);
        copies.push(Some(&data("a")), false);
        copies.push(Some(&data("b")), false);
        assert!(copies.is_empty());
        copies.push(Some(&data("c")), true);
        assert_eq!(drain(&mut body), [Some(data("a"))]);
        assert!(body.is_closed());
    }

    #[test]
    fn what_waits_for_all_mirrors_is_bounded_in_bytes() {
        let room = Arc::new(Semaphore::new(5));
        let queue = || {
            let (parts, body) = mpsc::channel(9);
            (Copies { queues: vec![Queue { parts, room: room.clone() }], ..Copies::default() }, body)
        };
        let ((mut one, mut first), (mut two, mut second), (mut three, _third)) = (queue(), queue(), queue());
        one.push(Some(&data("abc")), false);
        two.push(Some(&data("defg")), false);
        assert!(two.is_empty() && drain(&mut second).is_empty(), "there is no room for four");
        assert_eq!(drain(&mut first), [Some(data("abc"))]);
        one.push(Some(&data("hijkl")), false);
        assert!(!one.is_empty(), "what was sent gave its room back");
        drop(first);
        three.push(Some(&data("mnopq")), false);
        assert!(!three.is_empty(), "and so did a mirror that went away");
    }

    #[test]
    fn a_share_is_mirrored_exactly_and_an_invalid_target_gets_none() {
        let target = Target::Backend("Service/a/b:80".parse().expect("a key"));
        for (numerator, denominator, requests, copied) in
            [(20, 100, 500, 100..=100), (1, 2, 9, 4..=5), (0, 100, 200, 0..=0), (1, 1, 7, 7..=7)]
        {
            let rule = MirrorRule::compile(Mirror { target: target.clone(), numerator, denominator });
            assert!(copied.contains(&(0..requests).filter(|_| rule.draw().is_some()).count()), "{numerator}/{denominator}");
        }
        let rule = MirrorRule::compile(Mirror { target: Target::Invalid, numerator: 1, denominator: 1 });
        assert_eq!(rule.draw(), None);
    }
}
