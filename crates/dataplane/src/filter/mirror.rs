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
use tokio::sync::{OnceCell, Semaphore, mpsc};

use crate::balance::{InFlight, Interleave, Wire};
use crate::proxy::defaults;

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
}

/// The copies of one request whose body is on its way.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    queues: Vec<mpsc::Sender<Part>>,
    /// Bytes that have been copied.
    copied: usize,
    /// Where the current try is in the body: a retry sends it from the start again.
    position: usize,
}

/// What follows the header.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Data(Bytes),
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
        Arc::new(Self { connector: OnceCell::new(), permits: Arc::new(Semaphore::new(defaults::MIRRORS)) })
    }

    /// Sends a copy to an endpoint; with a body, what [`Copies::push`] gets follows.
    pub(crate) fn send(self: &Arc<Self>, endpoint: InFlight, wire: Wire, request: RequestHeader, copies: Option<&mut Copies>) {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            tracing::debug!(endpoint = %endpoint.address(), "too many mirrored requests are under way, this one is not sent");
            return;
        };
        let body = copies.map(|copies| {
            let (queue, body) = mpsc::channel(defaults::MIRROR_QUEUE);
            copies.queues.push(queue);
            body
        });
        let mirrors = self.clone();
        tokio::spawn(async move {
            let exchange = mirrors.exchange(&endpoint, wire, request, body);
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
            self.queues.retain(|queue| queue.try_send(Part::Data(fresh.clone())).is_ok());
            self.copied = self.position;
        }
        if end && self.position == self.copied {
            for queue in self.queues.drain(..) {
                // A queue without room belongs to a mirror that is too slow.
                let _ = queue.try_send(Part::End);
            }
        }
    }

    /// Whether nobody takes more.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(body: &mut mpsc::Receiver<Part>) -> Vec<Part> {
        std::iter::from_fn(|| body.try_recv().ok()).collect()
    }

    fn copies(capacity: usize) -> (Copies, mpsc::Receiver<Part>) {
        let (queue, body) = mpsc::channel(capacity);
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
        assert_eq!(drain(&mut body), [Part::Data(data("abc")), Part::Data(data("def")), Part::Data(data("g")), Part::End]);
    }

    #[test]
    fn an_empty_end_ends() {
        let (mut copies, mut body) = copies(9);
        copies.push(Some(&data("a")), false);
        copies.push(None, true);
        assert_eq!(drain(&mut body), [Part::Data(data("a")), Part::End]);
    }

    #[test]
    fn a_slow_mirror_is_cut_off_and_not_ended() {
        let (mut copies, mut body) = copies(1);
        copies.push(Some(&data("a")), false);
        copies.push(Some(&data("b")), false);
        assert!(copies.is_empty());
        copies.push(Some(&data("c")), true);
        assert_eq!(drain(&mut body), [Part::Data(data("a"))]);
        assert!(body.is_closed());
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
