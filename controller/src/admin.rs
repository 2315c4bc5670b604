//! `/readyz`, `/livez` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What pages are made from.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// Why the controller is not ready yet, in words; none: it is.
    pub(crate) readiness: watch::Receiver<Option<String>>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, sources: Sources) {
    let ready = sources.readiness.clone();
    let router = Router::new()
        .route("/readyz", get(move || async move { readyz(&ready) }))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/metrics", get(move || async move { metrics(&sources.metrics) }));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!("the admin server has ended: {error}");
    }
}

fn readyz(ready: &watch::Receiver<Option<String>>) -> Response {
    match ready.borrow().as_deref() {
        None => (StatusCode::OK, "ready\n").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

fn metrics(metrics: &Metrics) -> Response {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
