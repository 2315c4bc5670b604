//! Whether this proxy wants new connections, and how open ones are told to end.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// What `/readyz` answers. Shared by the listeners, which set it, and the admin server and every response, which read it.
#[derive(Debug, Default)]
pub(crate) struct Readiness(AtomicU8);

/// The three states, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// No snapshot is served yet.
    Starting,
    /// A snapshot is served: its listeners have been opened, or reported.
    Ready,
    /// New connections should go elsewhere; whoever comes is still served.
    Draining,
}

impl Readiness {
    /// The state now.
    pub(crate) fn state(&self) -> State {
        match self.0.load(Ordering::Relaxed) {
            0 => State::Starting,
            1 => State::Ready,
            _ => State::Draining,
        }
    }

    /// States only go forward: a snapshot that arrives in a drain makes nothing ready again.
    pub(crate) fn advance(&self, state: State) {
        self.0.fetch_max(state as u8, Ordering::Relaxed);
    }
}

/// The two signals to the connections of one address, from its owner.
#[derive(Debug)]
pub(crate) struct Closing {
    ending: watch::Sender<bool>,
    cut: watch::Sender<bool>,
}

/// What a connection holds of [`Closing`]; dropped when the connection has ended.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Finish the requests in flight, take no more: Pingora's shutdown signal. Never marked as seen, so that a clone of it notices a
    /// signal of the past.
    pub(crate) ending: watch::Receiver<bool>,
    /// Stop now.
    pub(crate) cut: watch::Receiver<bool>,
}

impl Closing {
    /// Nothing is closing yet.
    pub(crate) fn new() -> (Self, Signals) {
        let (ending, ending_seen) = watch::channel(false);
        let (cut, cut_seen) = watch::channel(false);
        (Self { ending, cut }, Signals { ending: ending_seen, cut: cut_seen })
    }

    /// Idle connections close, HTTP/2 gets GOAWAY, requests in flight go on.
    pub(crate) fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Whatever is left stops.
    pub(crate) fn cut(&self) {
        self.ending.send_replace(true);
        self.cut.send_replace(true);
    }

    /// Whether no connection is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.ending.is_closed()
    }

    /// Waits until no connection is left.
    pub(crate) async fn ended(&self) {
        self.ending.closed().await;
    }

    /// Waits until no connection is left, then cuts what is left at `deadline`.
    pub(crate) async fn finish(&self, deadline: Duration) {
        if tokio::time::timeout(deadline, self.ending.closed()).await.is_err() {
            self.cut();
        }
    }
}

impl Signals {
    /// Whether this connection should not take another request.
    pub(crate) fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }
}

/// Waits for a signal; for ever if its sender is gone without one.
pub(crate) async fn raised(signal: &mut watch::Receiver<bool>) {
    if signal.wait_for(|raised| *raised).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_only_goes_forward() {
        let readiness = Readiness::default();
        let mut seen = vec![readiness.state()];
        for state in [State::Ready, State::Starting, State::Draining, State::Ready] {
            readiness.advance(state);
            seen.push(readiness.state());
        }
        assert_eq!(seen, [State::Starting, State::Ready, State::Ready, State::Draining, State::Draining]);
    }

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_connections_and_then_cuts() {
        let (closing, signals) = Closing::new();
        closing.end();
        assert!(signals.is_ending());
        closing.finish(Duration::from_secs(5)).await;
        assert!(*signals.cut.borrow(), "a connection that is left at the deadline is cut");

        let (closing, signals) = Closing::new();
        let cut = signals.cut.clone();
        drop(signals);
        closing.finish(Duration::from_secs(5)).await;
        assert!(closing.is_empty() && !*cut.borrow(), "nothing is left to cut");
    }
}
