//! The two tasks of a proxy beside its data plane: it follows the controller, and answers with what the data plane says.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use isthmus_routing::Snapshot;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::{Options, Outcome, run};

/// How long to wait before following begins anew after it broke off.
const AGAIN: Duration = Duration::from_secs(1);

/// Both tasks; they end when this is dropped.
#[derive(Debug)]
pub struct Following {
    tasks: [JoinHandle<()>; 2],
}

impl Following {
    /// Begins in the current tokio runtime, and goes on after a fault of its own, which must not end what is served. See
    /// [`run`] for what comes to `snapshots`. Each change of `reports` is answered with its `outcome`.
    pub fn start<R: Send + Sync + 'static>(
        options: Options,
        snapshots: watch::Sender<Arc<Snapshot>>,
        reports: watch::Receiver<R>,
        outcome: impl Fn(&R) -> Outcome + Send + 'static,
    ) -> Self {
        let (outcomes, seen) = watch::channel(Outcome::default());
        let answering = tokio::spawn(answer(reports, outcomes, outcome));
        let following =
            tokio::spawn(async move { match for_ever(|| run(options.clone(), snapshots.clone(), seen.clone())).await {} });
        Self { tasks: [answering, following] }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What never ends but by a fault of its own is begun anew after that.
async fn for_ever<F: Future<Output = Infallible> + Send + 'static>(begin: impl Fn() -> F) -> Infallible {
    loop {
        // A set, so that it ends with this.
        let mut following = JoinSet::new();
        following.spawn(begin());
        if let Some(Err(error)) = following.join_next().await {
            tracing::error!("following the controller broke off and begins anew; what is served stays: {error}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Ends with the data plane.
async fn answer<R>(mut reports: watch::Receiver<R>, outcomes: watch::Sender<Outcome>, outcome: impl Fn(&R) -> Outcome) {
    while reports.changed().await.is_ok() {
        let outcome = outcome(&reports.borrow_and_update());
        outcomes.send_replace(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_breaks_off_begins_anew_after_a_pause_and_ends_when_it_is_dropped() {
        static BEGUN: AtomicU32 = AtomicU32::new(0);
        static ENDED: AtomicU32 = AtomicU32::new(0);
        struct Ends;
        impl Drop for Ends {
            fn drop(&mut self) {
                ENDED.fetch_add(1, Ordering::Relaxed);
            }
        }
        let begin = || async {
            let _ends = Ends;
            assert!(BEGUN.fetch_add(1, Ordering::Relaxed) >= 2, "a fault of its own: the first and the second time");
            std::future::pending().await
        };
        let since = Instant::now();
        assert!(timeout(AGAIN * 10, for_ever(begin)).await.is_err(), "it never ends");
        assert_eq!(since.elapsed(), AGAIN * 10);
        assert_eq!(BEGUN.load(Ordering::Relaxed), 3);
        // What was aborted ends a moment later.
        tokio::time::sleep(AGAIN).await;
        assert_eq!(ENDED.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn each_report_is_answered_until_the_data_plane_ends() {
        let (reports, seen) = watch::channel("");
        let (outcomes, mut answers) = watch::channel(Outcome::default());
        let faults = |report: &&str| Outcome { faults: [("http".to_owned(), (*report).to_owned())].into(), ..Outcome::default() };
        let answering = tokio::spawn(answer(seen, outcomes, faults));
        for report in ["in use", "no certificate"] {
            reports.send_replace(report);
            answers.changed().await.expect("it answers");
            assert_eq!(answers.borrow_and_update().faults["http"], report);
        }
        drop(reports);
        answering.await.expect("it ends");
    }
}
