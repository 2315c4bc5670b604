//! One thread that writes the lines of all others.
//!
//! A request appends its line to a buffer under a lock that nobody holds while he writes; the thread swaps the buffer for an empty one.
//! So a slow disk or reader never delays a request: what does not fit into the buffer is dropped and counted.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{with_line, with_stream_line};
use crate::telemetry::metrics::Outcomes;
use crate::telemetry::stream::{StreamRecord, StreamSummary};
use crate::telemetry::{Exchange, RequestRecord};
use crate::{AccessLog, StartError};

/// How long lines may wait for company.
const GATHER: Duration = Duration::from_millis(50);
/// Bytes that are written without waiting for more.
const ENOUGH: usize = 256 * 1024;
/// Bytes that may wait while the writer is stuck; then lines are dropped.
const CAPACITY: usize = 4 * 1024 * 1024;
/// How often a fault of the log is told.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Hands lines to the writing thread, which ends with it.
#[derive(Debug)]
pub(crate) struct AccessLogWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
    outcomes: Outcomes,
}

#[derive(Debug, Default)]
struct Pending {
    lines: Vec<u8>,
    count: u64,
    /// Who wants to know when what is here now is written.
    waiting: Vec<oneshot::Sender<()>>,
    closed: bool,
}

impl AccessLogWriter {
    /// Opens the log; none if it is off.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub(crate) fn open(target: &AccessLog, outcomes: Outcomes) -> Result<Option<Self>, StartError> {
        let fault = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| StartError::AccessLog { path, source }
        };
        let sink = match target {
            AccessLog::Off => return Ok(None),
            // Not through `std::io::Stdout`: its lock would be held while a slow reader is waited for.
            AccessLog::Stdout => {
                File::from(std::io::stdout().as_fd().try_clone_to_owned().map_err(fault("standard output".as_ref()))?)
            }
            AccessLog::File(path) => File::options().create(true).append(true).open(path).map_err(fault(path))?,
        };
        Self::to(sink, outcomes).map(Some).map_err(|source| fault("(its thread)".as_ref())(source))
    }

    /// Starts the thread.
    fn to(sink: impl Write + Send + 'static, outcomes: Outcomes) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { pending: Mutex::default(), wake: Condvar::new(), outcomes });
        let theirs = shared.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || theirs.write_all(sink))?;
        Ok(Self { shared })
    }

    /// Adds the line of a request. Never waits for the log.
    pub(crate) fn write(&self, record: &RequestRecord, exchange: &Exchange<'_>, duration: Duration) {
        with_line(record, exchange, duration, |line| self.shared.add(line));
    }

    /// Adds the line of a connection without HTTP.
    pub(crate) fn write_stream(&self, record: &StreamRecord, summary: &StreamSummary) {
        with_stream_line(record, summary, |line| self.shared.add(line));
    }

    /// Waits until what was added before is written, for at most `within`.
    pub(crate) async fn flush(&self, within: Duration) {
        let (written, wait) = oneshot::channel();
        self.shared.lock().waiting.push(written);
        self.shared.wake.notify_one();
        _ = tokio::time::timeout(within, wait).await;
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut pending = self.lock();
        let before = pending.lines.len();
        let after = before + line.len();
        if after > CAPACITY {
            drop(pending);
            self.outcomes.dropped.inc();
            return;
        }
        pending.lines.extend_from_slice(line);
        pending.count += 1;
        drop(pending);
        // The thread sleeps until there is a first line, and then until there is enough: at most two wake-ups for a batch.
        if before == 0 || (before < ENOUGH && after >= ENOUGH) {
            self.wake.notify_one();
        }
    }

    /// The thread: ends when the log is closed and everything is written.
    fn write_all(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        let mut complained: Option<Instant> = None;
        while let Some((count, waiting)) = self.next(&mut batch) {
            match sink.write_all(&batch).and_then(|()| sink.flush()) {
                Ok(()) => self.outcomes.delivered.inc_by(count),
                Err(error) => {
                    self.outcomes.dropped.inc_by(count);
                    if complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                        complained = Some(Instant::now());
                        tracing::warn!("the access log cannot be written, {count} lines are lost: {error}");
                    }
                }
            }
            batch.clear();
            batch.shrink_to(2 * ENOUGH);
            // Who went away does not want to know any more.
            waiting.into_iter().for_each(|waiting| _ = waiting.send(()));
        }
    }

    /// Waits for lines and swaps them into `batch`; none: closed.
    fn next(&self, batch: &mut Vec<u8>) -> Option<(u64, Vec<oneshot::Sender<()>>)> {
        let idle = |pending: &mut Pending| pending.lines.is_empty() && pending.waiting.is_empty() && !pending.closed;
        let alone = |pending: &mut Pending| pending.lines.len() < ENOUGH && pending.waiting.is_empty() && !pending.closed;
        let pending = self.wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let (mut pending, _) = self.wake.wait_timeout_while(pending, GATHER, alone).unwrap_or_else(PoisonError::into_inner);
        if pending.closed && pending.lines.is_empty() && pending.waiting.is_empty() {
            return None;
        }
        std::mem::swap(&mut pending.lines, batch);
        Some((std::mem::take(&mut pending.count), std::mem::take(&mut pending.waiting)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    /// Hands each write to a test and waits for its word.
    struct Slow {
        wrote: mpsc::Sender<Vec<u8>>,
        go_on: mpsc::Receiver<std::io::Result<()>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.wrote.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            self.go_on.recv().map_err(std::io::Error::other)??;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn lines_are_written_in_order_and_flushed_when_asked() {
        let path = std::env::temp_dir().join(format!("isthmus-access-log-{}.log", std::process::id()));
        let outcomes = Metrics::default().access_log;
        let log = AccessLogWriter::open(&AccessLog::File(path.clone()), outcomes.clone()).expect("opens").expect("on");
        for line in ["one\n", "two\n", "three\n"] {
            log.shared.add(line.as_bytes());
        }
        log.flush(Duration::from_secs(10)).await;
        let text = std::fs::read_to_string(&path).expect("is there");
        _ = std::fs::remove_file(&path);
        assert_eq!((text.as_str(), outcomes.delivered.get()), ("one\ntwo\nthree\n", 3));
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_never_blocks() {
        let (wrote, writes) = mpsc::channel();
        let (go, go_on) = mpsc::channel();
        let outcomes = Metrics::default().access_log;
        let log = AccessLogWriter::to(Slow { wrote, go_on }, outcomes.clone()).expect("starts");
        log.shared.add(b"first\n");
        assert_eq!(writes.recv().as_deref(), Ok(&b"first\n"[..]), "the writer is stuck from here on");
        let line = [b'x'; 1024];
        (0..CAPACITY / line.len() + 10).for_each(|_| log.shared.add(&line));
        assert_eq!(outcomes.dropped.get(), 10);
        go.send(Ok(())).expect("the writer waits");
        assert_eq!(writes.recv().map(|batch| batch.len()), Ok(CAPACITY), "what was kept comes in one write");
        go.send(Err(std::io::Error::other("the disk is full"))).expect("the writer waits");
        log.shared.add(b"last\n");
        assert_eq!(writes.recv().as_deref(), Ok(&b"last\n"[..]), "a fault does not end the log");
        assert_eq!((outcomes.delivered.get(), outcomes.dropped.get()), (1, 10 + (CAPACITY / line.len()) as u64));
        drop(log);
        go.send(Ok(())).expect("the writer waits");
        assert!(writes.recv().is_err(), "the thread ends with its log");
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_an_error_that_names_it() {
        let path = std::path::PathBuf::from("/nonexistent/isthmus/access.log");
        let error = AccessLogWriter::open(&AccessLog::File(path), Metrics::default().access_log).expect_err("no folder");
        assert!(error.to_string().starts_with("the access log /nonexistent/isthmus/access.log cannot be opened: "), "{error}");
    }
}
