//! Spans -> an OTLP/HTTP endpoint, in batches, by one task.
//!
//! A request only pushes to a bounded list: a slow or absent collector costs spans, which are counted, and no request waits for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::Key;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::StartError;
use crate::telemetry::metrics::Outcomes;

/// How long spans may wait for company.
const GATHER: Duration = Duration::from_secs(1);
/// Spans in one request to the collector.
const BATCH: usize = 512;
/// Spans that may wait while the collector is slow; about 2 KiB each.
const CAPACITY: usize = 4096;
/// How long the collector may take for a batch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a fault of the collector is told.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Hands spans to the exporting task, which ends with it.
#[derive(Debug)]
pub(crate) struct Exporter {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    wake: Notify,
    outcomes: Outcomes,
}

#[derive(Debug, Default)]
struct Pending {
    spans: Vec<SpanData>,
    /// Who wants to know when what is here now is exported.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Exporter {
    /// Starts the task in the current runtime. `/v1/traces` is added to an endpoint without a path.
    ///
    /// # Errors
    /// When the endpoint is not an `http://` URL.
    pub(crate) fn start(endpoint: &str, outcomes: Outcomes) -> Result<Self, StartError> {
        let fault = |reason: String| StartError::Otlp { endpoint: endpoint.to_owned(), reason };
        let url: http::Uri = endpoint.parse().map_err(|error: http::uri::InvalidUri| fault(error.to_string()))?;
        if url.scheme_str() != Some("http") || url.host().is_none() {
            return Err(fault("it has to be like http://127.0.0.1:4318".to_owned()));
        }
        let target = match url.path() {
            "" | "/" => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
            _ => endpoint.to_owned(),
        };
        let builder = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        let mut exporter =
            builder.with_endpoint(target).with_timeout(TIMEOUT).build().map_err(|error| fault(error.to_string()))?;
        exporter.set_resource(&resource());
        let shared = Arc::new(Shared { pending: Mutex::default(), wake: Notify::new(), outcomes });
        let theirs = shared.clone();
        let task = tokio::spawn(async move { theirs.export_all(&exporter).await });
        Ok(Self { shared, task })
    }

    /// Adds a span. Never waits for the collector.
    pub(crate) fn push(&self, span: SpanData) {
        let mut pending = self.shared.lock();
        let before = pending.spans.len();
        if before >= CAPACITY {
            drop(pending);
            self.shared.outcomes.dropped.inc();
            return;
        }
        pending.spans.push(span);
        drop(pending);
        if before == 0 || before + 1 == BATCH {
            self.shared.wake.notify_one();
        }
    }

    /// Waits until what was pushed before has been exported or given up, for at most `within`.
    pub(crate) async fn flush(&self, within: Duration) {
        let (exported, wait) = oneshot::channel();
        self.shared.lock().waiting.push(exported);
        self.shared.wake.notify_one();
        _ = tokio::time::timeout(within, wait).await;
    }
}

/// What the environment says of this service; its name is ours if it says none.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&Key::from_static_str("service.name"));
    match name.is_some_and(|name| !name.as_str().starts_with("unknown_service")) {
        true => detected,
        false => Resource::builder().with_service_name("isthmus").build(),
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task. A wake-up that comes while it exports is kept by `wake`, so none is missed.
    async fn export_all(&self, exporter: &SpanExporter) {
        let mut complained: Option<Instant> = None;
        loop {
            self.wake.notified().await;
            if self.may_gather() {
                _ = tokio::time::timeout(GATHER, self.wake.notified()).await;
            }
            let Pending { mut spans, waiting } = std::mem::take(&mut *self.lock());
            while !spans.is_empty() {
                let batch: Vec<_> = spans.drain(..spans.len().min(BATCH)).collect();
                let count = batch.len() as u64;
                match exporter.export(batch).await {
                    Ok(()) => self.outcomes.delivered.inc_by(count),
                    Err(error) => {
                        self.outcomes.dropped.inc_by(count);
                        if complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                            complained = Some(Instant::now());
                            tracing::warn!("{count} spans could not be exported: {error}");
                        }
                    }
                }
            }
            // Who went away does not want to know any more.
            waiting.into_iter().for_each(|waiting| _ = waiting.send(()));
        }
    }

    fn may_gather(&self) -> bool {
        let pending = self.lock();
        pending.spans.len() < BATCH && pending.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::{Exchange, RequestRecord, TraceContext, trace};

    fn span(path: &str, code: u16) -> SpanData {
        let (request, ()) = http::Request::get(path).body(()).expect("a request").into_parts();
        let record = RequestRecord::new(TraceContext::from_headers(&request.headers, true));
        let exchange = Exchange {
            request: &request,
            code,
            bytes_received: 0,
            bytes_sent: 0,
            client: None,
            local: None,
            tls: true,
            client_certificate: None,
        };
        trace::span::of(&record, &exchange, Duration::from_millis(3))
    }

    /// Reads one request of HTTP/1.1 and answers it.
    async fn answer(listener: &TcpListener) -> (String, Vec<u8>) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut read = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).await.expect("bytes");
            assert_ne!(count, 0, "the request ended early");
            read.extend_from_slice(&chunk[..count]);
            let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(read[..end].to_vec()).expect("a header").to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            let length: usize = length.expect("a length");
            if read.len() == end + 4 + length {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("is read");
                return (head, read.split_off(end + 4));
            }
        }
    }

    fn contains(body: &[u8], text: &str) -> bool {
        body.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[tokio::test]
    async fn spans_reach_a_collector_in_one_batch() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let outcomes = Metrics::default().spans;
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let exporter = Exporter::start(&endpoint, outcomes.clone()).expect("starts");
        exporter.push(span("/cart?a=b", 200));
        exporter.push(span("/pay", 503));
        let ((head, body), ()) = tokio::join!(answer(&listener), exporter.flush(Duration::from_secs(10)));
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        for text in
            ["service.name", "isthmus", "http.request.method", "GET", "url.path", "/cart", "/pay", "https", "error.type", "503"]
        {
            assert!(contains(&body, text), "no `{text}` in the spans");
        }
        assert_eq!((outcomes.delivered.get(), outcomes.dropped.get()), (2, 0));
    }

    #[tokio::test]
    async fn a_collector_that_does_not_answer_costs_spans_and_no_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let outcomes = Metrics::default().spans;
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().expect("an address"));
        let exporter = Exporter::start(&endpoint, outcomes.clone()).expect("starts");
        let one = span("/", 200);
        (0..CAPACITY + 7).for_each(|_| exporter.push(one.clone()));
        assert_eq!(outcomes.dropped.get(), 7);
        let started = Instant::now();
        exporter.flush(Duration::from_millis(50)).await;
        assert!(started.elapsed() < TIMEOUT, "a flush is bounded by its own time");
    }

    #[tokio::test]
    async fn an_endpoint_that_cannot_be_used_is_an_error_that_says_so() {
        for endpoint in ["", "collector", "https://collector:4318", "ftp://collector", "http://", "http://a b"] {
            let error = Exporter::start(endpoint, Metrics::default().spans).expect_err(endpoint);
            assert!(error.to_string().contains(endpoint), "{error}");
        }
    }
}
