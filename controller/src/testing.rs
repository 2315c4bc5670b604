//! An API server for unit tests: answers in process, from a function and from answers that are set by path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::stream::{self, StreamExt};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// One request that came in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) metadata_only: bool,
    pub(crate) body: Value,
}

impl Call {
    pub(crate) fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }
}

/// What is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Json(u16, Value),
    /// Events, until their sender is dropped.
    Events(mpsc::UnboundedReceiver<Value>),
    /// The connection breaks in the middle of the answer.
    Broken,
    /// Nothing, ever.
    Silence,
}

impl Answer {
    pub(crate) fn json(value: Value) -> Self {
        Self::Json(200, value)
    }

    pub(crate) fn status(code: u16, message: &str) -> Self {
        Self::Json(code, failure(code, message))
    }

    /// A list of these objects.
    pub(crate) fn list(version: u64, items: &[Value]) -> Self {
        Self::json(
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}, "items": items}),
        )
    }

    /// A watch, and where its events go in.
    pub(crate) fn watch() -> (mpsc::UnboundedSender<Value>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self::Events(receiver))
    }
}

/// The `Status` of a failure.
pub(crate) fn failure(code: u16, message: &str) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": reason})
}

/// The line of a watch.
pub(crate) fn event(r#type: &str, object: &Value) -> Value {
    json!({"type": r#type, "object": object})
}

type Handler = Box<dyn FnMut(&Call) -> Answer + Send>;

struct Inner {
    handler: Handler,
    fixed: BTreeMap<String, Answer>,
    calls: Vec<Call>,
}

/// The server.
#[derive(Clone)]
pub(crate) struct Server {
    inner: Arc<Mutex<Inner>>,
}

impl Server {
    /// Answers with `handler` where nothing else is set.
    pub(crate) fn new(handler: impl FnMut(&Call) -> Answer + Send + 'static) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { handler: Box::new(handler), fixed: BTreeMap::new(), calls: Vec::new() })) }
    }

    /// Answers requests of this path so from now on.
    pub(crate) fn set(&self, path: &str, answer: Answer) {
        self.inner.lock().unwrap().fixed.insert(path.to_owned(), answer);
    }

    /// Answers requests of this path with the function again.
    pub(crate) fn unset(&self, path: &str) {
        self.inner.lock().unwrap().fixed.remove(path);
    }

    /// How many calls came in that are so.
    pub(crate) fn count(&self, is_so: impl Fn(&Call) -> bool) -> usize {
        self.calls().iter().filter(|call| is_so(call)).count()
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.inner.lock().unwrap().calls.clone()
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let router = Router::new().fallback(move |request: Request| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        Client::new(router, "default")
    }

    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let accept = parts.headers.get("accept").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let call = Call {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().split('&').filter_map(pair).collect(),
            metadata_only: accept.contains("as=PartialObjectMetadata"),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        let answer = {
            let mut inner = self.inner.lock().unwrap();
            inner.calls.push(call.clone());
            match inner.fixed.get(&call.path) {
                Some(Answer::Json(code, value)) => Answer::Json(*code, value.clone()),
                Some(Answer::Broken) => Answer::Broken,
                Some(_) => Answer::Silence,
                None => (inner.handler)(&call),
            }
        };
        let (code, body) = match answer {
            Answer::Json(code, value) => (code, Body::from(value.to_string())),
            Answer::Events(receiver) => {
                let lines = stream::unfold(receiver, |mut receiver| async {
                    receiver.recv().await.map(|event| (Ok::<_, std::io::Error>(format!("{event}\n")), receiver))
                });
                (200, Body::from_stream(lines))
            }
            Answer::Broken => {
                let parts = stream::iter([Ok("{"), Err(std::io::Error::other("connection reset by peer"))]);
                (200, Body::from_stream(parts.boxed()))
            }
            Answer::Silence => std::future::pending().await,
        };
        Response::builder().status(code).body(body).unwrap()
    }
}
