//! Steady traffic of strict clients: HTTP/1.1 and HTTP/2, on kept and on new connections.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::fault::{Fault, Outcome};
use crate::line::{Http, Line};

/// Each kind of client so many times.
const EACH: usize = 2;
const KINDS: [(Http, bool); 4] = [(Http::One, true), (Http::One, false), (Http::Two, true), (Http::Two, false)];

/// What was sent and what was lost.
#[derive(Debug)]
pub(crate) struct Count {
    start: Instant,
    /// In the order of [`KINDS`].
    sent: [AtomicUsize; 4],
    lost: AtomicUsize,
    /// The first few, in words.
    examples: Mutex<Vec<String>>,
    /// The longest that a request took, in microseconds.
    slowest: AtomicUsize,
}

impl Count {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            sent: Default::default(),
            lost: AtomicUsize::new(0),
            examples: Mutex::default(),
            slowest: AtomicUsize::new(0),
        }
    }

    /// All that were sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent.iter().map(|sent| sent.load(Ordering::Relaxed)).sum()
    }

    fn lose(&self, why: &str) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if examples.len() < 12 {
            examples.push(format!("after {:.2} s: {why}", self.start.elapsed().as_secs_f32()));
        }
    }

    /// Nothing may be lost, and each kind of client must have sent something.
    pub(crate) fn verdict(&self) -> Outcome {
        let idle = self.sent.iter().any(|sent| sent.load(Ordering::Relaxed) == 0);
        if self.lost.load(Ordering::Relaxed) == 0 && !idle {
            return Ok(());
        }
        let examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        Err(Fault::said(format!("{self}\n       {}", examples.join("\n       "))))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, one_new, two, two_new] = [0, 1, 2, 3].map(|kind: usize| self.sent[kind].load(Ordering::Relaxed));
        write!(
            f,
            "{} requests (HTTP/1.1: {one} on kept connections and {one_new} on new ones; h2c: {two} and {two_new}), {} lost, the slowest took {:.0} ms",
            self.sent(),
            self.lost.load(Ordering::Relaxed),
            self.slowest.load(Ordering::Relaxed) as f64 / 1000.0
        )
    }
}

/// Running traffic; dropping it ends it.
pub(crate) struct Traffic {
    pub(crate) count: Arc<Count>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// About `rate` requests in a second in all.
    pub(crate) fn start(address: SocketAddr, path: &str, rate: usize) -> Self {
        let (count, stop) = (Arc::new(Count::new()), Arc::new(AtomicBool::new(false)));
        let pace = Duration::from_secs_f64((KINDS.len() * EACH) as f64 / rate as f64);
        let kinds = KINDS.iter().enumerate().flat_map(|kind| std::iter::repeat_n(kind, EACH));
        let workers = kinds.map(|(index, (http, keep))| {
            let worker = Worker { line: Line::new(address, *http), keep: *keep, index, path: path.to_owned(), pace };
            tokio::spawn(worker.run(Arc::clone(&count), Arc::clone(&stop)))
        });
        let workers = workers.collect();
        Self { count, stop, workers }
    }

    /// Returns when this many requests were sent.
    pub(crate) async fn until(&self, requests: usize) {
        while self.count.sent() < requests {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets the requests in flight end; fails if one was lost.
    pub(crate) async fn finish(mut self) -> Outcome<Arc<Count>> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.await?;
        }
        self.count.verdict()?;
        Ok(Arc::clone(&self.count))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.workers.iter().for_each(JoinHandle::abort);
    }
}

struct Worker {
    line: Line,
    keep: bool,
    index: usize,
    path: String,
    pace: Duration,
}

impl Worker {
    async fn run(mut self, count: Arc<Count>, stop: Arc<AtomicBool>) {
        let mut ticks = tokio::time::interval(self.pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let kind = format!("{:?}, {} connection", self.line_kind(), if self.keep { "kept" } else { "new" });
        while !stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            if !self.keep {
                self.line.close();
            }
            let start = Instant::now();
            let answer = self.line.get(&self.path).await;
            let took = start.elapsed();
            count.sent[self.index].fetch_add(1, Ordering::Relaxed);
            count.slowest.fetch_max(took.as_micros() as usize, Ordering::Relaxed);
            match answer {
                Ok(answer) if answer.status == 200 => {}
                Ok(answer) => count.lose(&format!("{kind}: status {}", answer.status)),
                Err(fault) => count.lose(&format!("{kind}, after {:.0} ms: {fault}", took.as_secs_f64() * 1000.0)),
            }
        }
    }

    fn line_kind(&self) -> Http {
        KINDS[self.index].0
    }
}
